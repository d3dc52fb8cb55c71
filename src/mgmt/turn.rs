//! One turn of a conversation: commands are answered until there is nothing
//! left to do without waiting.

use super::answer::{Answer, Did};
use super::command::{self, Parse};
use super::digest::{SLICE, Slice};
use super::{Conversation, Phase, Visit};
use crate::buffer::{MAX_INBOX, OUTBOX_FULL, Received};
use crate::device::{Line, Refusal};
use crate::queue::{Next, Wait};
use std::io;

/// Replies to pipelined commands before others get their turn.
const TURN_REPLIES: u32 = 64;

/// What one step of a turn came to.
enum Step {
    On,
    Turn(Next),
}

/// A turn's own account.
pub(super) struct Account {
    replies: u32,
    /// What the turn may still read of files. Bytes.
    reads: u64,
    /// The last recv left nothing behind.
    drained: bool,
    /// The client took or sent something that counts, or its digest went on.
    pub(super) progress: bool,
}

impl Default for Account {
    fn default() -> Account {
        Account {
            replies: 0,
            reads: SLICE,
            drained: false,
            progress: false,
        }
    }
}

impl Conversation {
    /// Serves what is there; says what to wait for.
    pub(super) fn turn(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> Next {
        loop {
            let step = match &mut self.phase {
                Phase::Command => self.command(visit, account),
                Phase::Digesting(_) => self.slice(visit, account),
                Phase::Answered(reply) => {
                    visit.desk.outbox.buf().append(reply);
                    self.phase = Phase::Command;
                    Ok(Step::On)
                }
                // Whoever has it does not bring it here.
                Phase::Queueing(_) | Phase::Watching => return Next::Close,
            };
            match step {
                Ok(Step::On) => {}
                Ok(Step::Turn(next)) => return next,
                // The socket is broken (ECONNRESET, EPIPE, ETIMEDOUT): that is
                // the client's affair.
                Err(_) => return Next::Close,
            }
        }
    }

    /// A step of [`Phase::Command`].
    fn command(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        if visit.desk.outbox.len() >= OUTBOX_FULL
            && !visit.desk.flush(visit.socket, &mut account.progress)?
        {
            return Ok(Step::Turn(Next::Rearm(Wait::Write)));
        }
        if account.replies >= TURN_REPLIES || account.reads == 0 {
            let all = visit.desk.flush(visit.socket, &mut account.progress)?;
            let wait = if all { Wait::ReadWrite } else { Wait::Write };
            return Ok(Step::Turn(Next::Rearm(wait)));
        }
        let is_behind = !visit.desk.outbox.is_empty();
        let (did, consumed) = match command::parse(visit.desk.inbox.bytes()) {
            Parse::Partial => return input(visit, account),
            Parse::TooLong => {
                if !visit.desk.flush(visit.socket, &mut account.progress)? {
                    return Ok(Step::Turn(Next::Rearm(Wait::Write)));
                }
                crate::log::client(format_args!("{} mgmt request too large", visit.peer));
                return Ok(Step::Turn(Next::Close));
            }
            Parse::Complete(command, consumed) => {
                let mut answer = Answer {
                    site: visit.site,
                    peer: visit.peer,
                    ticket: visit.ticket,
                    out: visit.desk.outbox.buf(),
                    is_behind,
                    reads: &mut account.reads,
                    ledger: &visit.desk.ledger,
                };
                (answer.command(command), consumed)
            }
        };
        let done = |visit: &mut Visit<'_>, account: &mut Account| {
            visit.desk.inbox.consume(consumed);
            visit.desk.ledger.answered();
            account.replies += 1;
            account.progress = true;
        };
        match did {
            Did::Line(line) => return self.line_up(visit, account, line),
            Did::Flush if visit.desk.flush(visit.socket, &mut account.progress)? => {}
            Did::Flush => return Ok(Step::Turn(Next::Rearm(Wait::Write))),
            Did::Answered => done(visit, account),
            Did::Digest(job) => {
                done(visit, account);
                self.phase = Phase::Digesting(job);
            }
            Did::Queue(job) => {
                done(visit, account);
                self.phase = Phase::Queueing(job);
                return Ok(Step::Turn(Next::Detach));
            }
            Did::Watch => {
                // What else it has said, nobody reads.
                let said = visit.desk.inbox.bytes().len();
                visit.desk.inbox.consume(said);
                self.phase = Phase::Watching;
                return Ok(Step::Turn(Next::Detach));
            }
        }
        Ok(Step::On)
    }

    /// Waits for a place in a device with the command that needs it, which
    /// stays as it is and is done again then.
    fn line_up(
        &mut self,
        visit: &mut Visit<'_>,
        account: &mut Account,
        line: Line,
    ) -> io::Result<Step> {
        let progress = &mut account.progress;
        if !visit.desk.can_be_called(visit.socket, progress)? {
            return Ok(Step::Turn(Next::Rearm(Wait::Write)));
        }
        self.line = Some(line);
        Ok(Step::Turn(Next::Detach))
    }

    /// A step of [`Phase::Digesting`].
    fn slice(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        if account.reads == 0 {
            // Replies that the socket does not take now wait for this one.
            visit.desk.flush(visit.socket, &mut account.progress)?;
            return Ok(Step::Turn(Next::Rearm(Wait::ReadWrite)));
        }
        let Phase::Digesting(mut job) = std::mem::replace(&mut self.phase, Phase::Command) else {
            return Ok(Step::On);
        };
        account.progress = true;
        let out = visit.desk.outbox.buf();
        Ok(
            match visit.ticket.enter_again(&visit.site.devices, job.line()) {
                Ok(()) => {
                    let ledger = &visit.desk.ledger;
                    job.enters(ledger);
                    let seat = visit.ticket.seat();
                    if job.slice(&mut account.reads, out, ledger, seat) == Slice::More {
                        self.phase = Phase::Digesting(job);
                    }
                    Step::On
                }
                Err(Refusal::Wait(line) | Refusal::Full(line)) => {
                    self.phase = Phase::Digesting(job);
                    return self.line_up(visit, account, line);
                }
                Err(refused @ Refusal::Dead) => {
                    job.fail(&refused.why(), out);
                    visit.site.devices.close_later(job.line(), job);
                    Step::On
                }
                // No place for it among the consumers: nothing but its worker's
                // death ends it, so it goes where each has its own thread.
                Err(Refusal::TooLate) => {
                    self.phase = Phase::Queueing(job);
                    Step::Turn(Next::Detach)
                }
            },
        )
    }
}

/// Gets more input: replies leave first, then one recv. At the peer's end all
/// whole commands have been answered, and half a one is none.
fn input(visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
    if !visit.desk.flush(visit.socket, &mut account.progress)? {
        return Ok(Step::Turn(Next::Rearm(Wait::Write)));
    }
    if account.drained {
        return Ok(Step::Turn(Next::Rearm(Wait::Read)));
    }
    match visit.desk.receive(visit.socket, MAX_INBOX) {
        Ok(Received::End) => Ok(Step::Turn(Next::Close)),
        Ok(received) => {
            account.drained = received == Received::All;
            Ok(Step::On)
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Step::Turn(Next::Rearm(Wait::Read))),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Step::On),
        Err(e) => Err(e),
    }
}
