//! One turn of a conversation, step by step: what each phase does with what is
//! there, until there is nothing left to do without waiting.

use super::answer::{self, Answer, Outcome};
use super::get::Sends;
use super::head::{self, Method, Parse};
use super::put::Fed;
use super::{After, Conversation, MAX_SWALLOW, Phase, Queues, Swallowing, Visit};
use crate::buffer::{BODY_READ, MAX_INBOX, Received};
use crate::device::{Line, Refusal};
use crate::ledger::Act;
use crate::queue::{Next, Wait};
use crate::sys::clock::Tick;
use crate::sys::socket;
use std::fmt::Display;
use std::io;

/// Replies to pipelined requests before others get their turn.
const TURN_REPLIES: u32 = 64;

/// What a turn receives of an upload before others get theirs. Bytes.
const TURN_RECEIVES: usize = 1024 * 1024;

/// What one step of a turn came to.
pub(super) enum Step {
    On,
    Turn(Next),
}

/// A turn's own account.
#[derive(Default)]
pub(super) struct Account {
    replies: u32,
    received: usize,
    sent: usize,
    /// The last recv left nothing behind.
    drained: bool,
    /// The client took or sent something that counts.
    pub(super) progress: bool,
}

impl Conversation {
    /// Serves what is there; says what to wait for.
    pub(super) fn turn(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> Next {
        self.goes_on(&visit.desk.ledger);
        // What an earlier turn could not send goes first.
        match visit.desk.flush(visit.socket, &mut account.progress) {
            Ok(true) => {}
            Ok(false) => return Next::Rearm(Wait::Write),
            Err(e) => return self.gone(visit, &e),
        }
        if let Err(refused) = self.enter_again(visit) {
            return match refused {
                Refusal::Wait(line) => match self.line_up(visit, account, line) {
                    Ok(next) => next,
                    Err(e) => self.gone(visit, &e),
                },
                refused => self.give_up(visit, account, refused),
            };
        }
        loop {
            let step = match &mut self.phase {
                Phase::Head => self.head(visit, account),
                Phase::Swallowing(_) => self.swallow(visit, account),
                Phase::Receiving(_) => self.receive(visit, account),
                Phase::Sending(..) => self.send(visit, account),
                Phase::Ending(after) => {
                    let after = *after;
                    self.finish(visit, account, after)
                }
                Phase::Lingering => self.linger(visit, account),
                Phase::Over(_) => return Next::Close,
            };
            match step {
                Ok(Step::On) => {}
                Ok(Step::Turn(next)) => return next,
                // The socket is broken (ECONNRESET, EPIPE, ETIMEDOUT): that is
                // the client's affair, unless an upload was under way.
                Err(e) => return self.gone(visit, &e),
            }
        }
    }

    /// The client has gone, and this is how.
    pub(super) fn gone(&mut self, visit: &Visit<'_>, how: &dyn Display) -> Next {
        if let Phase::Receiving(receiving) = &self.phase {
            receiving.epitaph(visit.peer, how);
        }
        Next::Close
    }

    /// Gets more input: replies leave first, then one recv. On means that
    /// bytes have come; at the peer's end the turn is `at_end`.
    fn input(
        &mut self,
        visit: &mut Visit<'_>,
        account: &mut Account,
        room: usize,
    ) -> io::Result<Input> {
        if !visit.desk.flush(visit.socket, &mut account.progress)? {
            return Ok(Input::Wait(Next::Rearm(Wait::Write)));
        }
        if account.drained {
            return Ok(Input::Wait(Next::Rearm(Wait::Read)));
        }
        let before = visit.desk.inbox.bytes().len();
        match visit.desk.receive(visit.socket, room) {
            Ok(Received::End) => Ok(Input::End),
            Ok(received) => {
                account.drained = received == Received::All;
                account.received += visit.desk.inbox.bytes().len() - before;
                Ok(Input::Bytes)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Ok(Input::Wait(Next::Rearm(Wait::Read)))
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Input::Bytes),
            Err(e) => Err(e),
        }
    }

    /// The same where no upload depends on it: at the peer's end whole requests
    /// have been answered, of half a request nothing was executed, and there is
    /// nobody to tell.
    fn more(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        Ok(match self.input(visit, account, MAX_INBOX)? {
            Input::Bytes => Step::On,
            Input::Wait(next) => Step::Turn(next),
            Input::End => Step::Turn(Next::Close),
        })
    }

    /// A step of [`Phase::Head`].
    fn head(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        if visit.desk.outbox.is_full() && !visit.desk.flush(visit.socket, &mut account.progress)? {
            return Ok(Step::Turn(Next::Rearm(Wait::Write)));
        }
        if !visit.desk.inbox.is_empty() {
            let most = if visit.may_wait { TURN_REPLIES } else { 1 };
            if account.replies >= most {
                let all = visit.desk.flush(visit.socket, &mut account.progress)?;
                let wait = if all { Wait::ReadWrite } else { Wait::Write };
                return Ok(Step::Turn(Next::Rearm(wait)));
            }
            match self.request(visit) {
                Asked::Answered => {
                    visit.desk.ledger.answered();
                    account.replies += 1;
                    account.progress = true;
                    return Ok(Step::On);
                }
                Asked::Waits(line) => {
                    return Ok(Step::Turn(self.line_up(visit, account, line)?));
                }
                Asked::Later => {
                    self.queues = Queues::Consumer;
                    return Ok(Step::Turn(Next::Rearm(Wait::ReadWrite)));
                }
                Asked::Partial => {}
            }
        }
        self.more(visit, account)
    }

    /// Answers the request at the start of the inbox.
    fn request(&mut self, visit: &mut Visit<'_>) -> Asked {
        let inbox = &mut visit.desk.inbox;
        let mut looked = inbox.looked;
        let asked = match head::parse(inbox.bytes(), &mut looked) {
            Parse::Partial => Asked::Partial,
            Parse::Invalid(_) if !visit.may_wait => return Asked::Later,
            Parse::Invalid(bad) => {
                let outcome = visit.answer().refuse(bad);
                self.follow(outcome);
                return Asked::Answered;
            }
            Parse::Complete(head, consumed) => {
                if visit.may_wait
                    && let Some(swallowing) = Swallowing::of(&head, &inbox.bytes()[..consumed])
                {
                    inbox.consume(consumed);
                    self.phase = Phase::Swallowing(Box::new(swallowing));
                    return Asked::Answered;
                }
                let arrived = (inbox.bytes().len() - consumed) as u64;
                let mut to = Answer::new(
                    visit.site,
                    visit.peer,
                    visit.ticket,
                    &mut visit.desk.outbox,
                    visit.date,
                    &visit.desk.ledger,
                );
                let has_body = head.method != Method::Put && !head.framing.is_empty();
                let outcome = if visit.may_wait {
                    Some(to.request(&head, visit.read_only, arrived, has_body))
                } else {
                    to.at_once(&head)
                };
                match outcome {
                    None => Asked::Later,
                    Some(Outcome::Wait(line)) => Asked::Waits(line),
                    Some(outcome) => {
                        self.line = to.line;
                        inbox.consume(consumed);
                        self.follow(outcome);
                        return Asked::Answered;
                    }
                }
            }
        };
        // What was found of it is found again, or need not be looked for.
        inbox.looked = looked;
        asked
    }

    /// Goes where an outcome leads.
    pub(super) fn follow(&mut self, outcome: Outcome) {
        self.phase = match outcome {
            Outcome::Done(After::Request) => Phase::Head,
            Outcome::Done(after) => Phase::Ending(after),
            Outcome::Send(sending, after) => Phase::Sending(sending, after),
            Outcome::Receive(receiving) => Phase::Receiving(receiving),
            // Its caller knows better.
            Outcome::Wait(_) => return,
        };
    }

    /// A step of [`Phase::Swallowing`].
    fn swallow(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        let Phase::Swallowing(swallowing) = &mut self.phase else {
            return Ok(Step::On);
        };
        let inbox = &mut visit.desk.inbox;
        while !inbox.is_empty() && swallowing.over.is_none() {
            account.progress = true;
            let piece = match swallowing.body.take(inbox.bytes()) {
                Ok(piece) => piece,
                Err(bad) => {
                    let outcome = visit.answer().refuse(bad);
                    self.follow(outcome);
                    return Ok(Step::On);
                }
            };
            inbox.consume(piece.consumed);
            swallowing.swallowed += piece.consumed as u64;
            let too_long = swallowing.swallowed > MAX_SWALLOW;
            if piece.done || too_long {
                swallowing.over = Some(!piece.done);
            }
        }
        let Some(body_left) = swallowing.over else {
            return self.more(visit, account);
        };
        let read_only = visit.read_only;
        let mut to = visit.answer();
        let outcome = match head::parse(&swallowing.head, &mut 0) {
            Parse::Complete(head, _) => to.request(&head, read_only, 0, body_left),
            // It was complete before, and has not changed.
            Parse::Partial | Parse::Invalid(_) => Outcome::Done(After::Close),
        };
        if let Outcome::Wait(line) = outcome {
            return Ok(Step::Turn(self.line_up(visit, account, line)?));
        }
        self.line = to.line;
        self.follow(outcome);
        Ok(Step::On)
    }

    /// A step of [`Phase::Receiving`].
    fn receive(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        let Phase::Receiving(receiving) = &mut self.phase else {
            return Ok(Step::On);
        };
        if !visit.desk.inbox.is_empty() {
            receiving.heard = Tick::now();
            account.progress = true;
        }
        visit.desk.ledger.go(Act::Write);
        visit.ticket.seat().may_wait();
        // An empty body is complete before a byte has come.
        let fed = receiving.feed(visit.desk.inbox.bytes());
        if let Fed::More(n) = fed {
            visit.desk.inbox.consume(n);
            if account.received >= TURN_RECEIVES {
                return Ok(Step::Turn(Next::Rearm(Wait::Read)));
            }
            return Ok(match self.input(visit, account, BODY_READ)? {
                Input::Bytes => Step::On,
                Input::Wait(next) => Step::Turn(next),
                Input::End => Step::Turn(self.gone(visit, &"premature EOF")),
            });
        }
        let Phase::Receiving(receiving) = std::mem::replace(&mut self.phase, Phase::Head) else {
            return Ok(Step::On);
        };
        let outcome = match fed {
            Fed::Complete(n) => {
                visit.desk.inbox.consume(n);
                visit.desk.ledger.go(Act::Commit);
                receiving.finish(&mut visit.answer())
            }
            Fed::Bad(bad) => {
                receiving.epitaph(visit.peer, &bad.why);
                visit.answer().refuse_body(bad.status)
            }
            Fed::Failed(e) => {
                receiving.epitaph(visit.peer, &e);
                visit.answer().refuse_body(answer::status_of(&e))
            }
            Fed::More(_) => return Ok(Step::On),
        };
        self.follow(outcome);
        Ok(Step::On)
    }

    /// A step of [`Phase::Sending`].
    fn send(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        let Phase::Sending(sending, after) = &mut self.phase else {
            return Ok(Step::On);
        };
        let before = account.sent;
        visit.desk.ledger.go(Act::Read);
        let sends = sending.turn(
            visit.socket,
            &mut visit.desk.outbox,
            &mut account.sent,
            visit.ticket.seat(),
        );
        visit.desk.ledger.sent(account.sent - before);
        account.progress |= account.sent > before;
        Ok(match sends? {
            Sends::Done => {
                self.phase = match after {
                    After::Request => Phase::Head,
                    after => Phase::Ending(*after),
                };
                Step::On
            }
            Sends::Turn => Step::Turn(Next::Rearm(Wait::ReadWrite)),
            Sends::Blocked => Step::Turn(Next::Rearm(Wait::Write)),
            Sends::Short => {
                crate::log::client(format_args!(
                    "a file sent to {} has become shorter: closed {} bytes before its end",
                    visit.peer,
                    sending.left()
                ));
                Step::Turn(Next::Close)
            }
        })
    }

    /// A step of [`Phase::Ending`].
    fn finish(
        &mut self,
        visit: &mut Visit<'_>,
        account: &mut Account,
        after: After,
    ) -> io::Result<Step> {
        if !visit.desk.flush(visit.socket, &mut account.progress)? {
            return Ok(Step::Turn(Next::Rearm(Wait::Write)));
        }
        if after == After::Close && visit.desk.inbox.is_empty() {
            return Ok(Step::Turn(Next::Close));
        }
        socket::shutdown_write(visit.socket)?;
        self.phase = Phase::Lingering;
        account.progress = true;
        Ok(Step::On)
    }

    /// A step of [`Phase::Lingering`].
    fn linger(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        let waiting = visit.desk.inbox.bytes().len();
        visit.desk.inbox.consume(waiting);
        if account.received >= TURN_RECEIVES {
            return Ok(Step::Turn(Next::Rearm(Wait::Read)));
        }
        self.more(visit, account)
    }
}

/// What asking for an answer came to.
enum Asked {
    Answered,
    /// The head has not come to its end yet.
    Partial,
    /// Nothing was done.
    Waits(Line),
    /// Nor here: somebody with more time shall.
    Later,
}

/// What asking for input came to.
enum Input {
    Bytes,
    Wait(Next),
    End,
}
