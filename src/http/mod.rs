//! The HTTP/1.1 conversation: a state that is advanced one turn at a time, and
//! says by [`Next`] what it waits for.

pub mod body;
pub mod chunked;
pub mod conditional;
pub mod delete;
pub mod get;
pub mod head;
pub mod put;
pub mod range;
pub mod response;
pub mod status;

mod answer;

pub use answer::{Answer, Outcome};
pub use status::Status;

use crate::buffer::{BODY_READ, Desk, MAX_INBOX, Received, Rest};
use crate::config::Timeouts;
use crate::queue::{Next, Wait};
use crate::store::Store;
use crate::sys::clock::{self, Tick};
use crate::sys::socket::{self, Peer};
use body::Body;
use get::{Sending, Sends};
use head::{Framing, Head, Method, Parse};
use put::{Fed, Receiving};
use response::Date;
use std::fmt::Display;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

/// The body of a GET, HEAD, DELETE or MKCOL, which means nothing, is swallowed
/// up to this length; a longer one costs the connection. Bytes.
const MAX_SWALLOW: u64 = 64 * 1024;

/// Replies to pipelined requests before others get their turn.
const TURN_REPLIES: u32 = 64;

/// What a turn receives of an upload before others get theirs. Bytes.
const TURN_RECEIVES: usize = 1024 * 1024;

/// How long the rest of what a client sends is swallowed after our last byte,
/// so that a reset does not overtake it (RFC 9112 9.6). Milliseconds.
const LINGER_MS: u32 = 5000;

/// The same while the worker stops and waits for idle clients.
const LINGER_STOP_MS: u32 = 2000;

/// What all conversations of a worker share.
pub struct Site {
    pub store: Store,
    pub timeouts: Timeouts,
    /// Since then replies say `Connection: close`: this worker is stopping.
    draining: OnceLock<Tick>,
}

impl Site {
    pub fn new(store: Store, timeouts: Timeouts) -> Site {
        Site {
            store,
            timeouts,
            draining: OnceLock::new(),
        }
    }

    /// From now on each reply is its connection's last.
    pub fn drain(&self) {
        self.draining.get_or_init(Tick::now);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }
}

/// What a consumer lends to a conversation for its turn.
pub struct Visit<'a> {
    pub socket: BorrowedFd<'a>,
    pub peer: &'a Peer,
    pub read_only: bool,
    pub site: &'a Site,
    pub desk: &'a mut Desk,
    pub date: &'a mut Date,
}

/// Where a conversation is.
enum Phase {
    /// Between requests, or inside a head.
    Head,
    /// The body of a request that needs none; its head is answered after it,
    /// so that a body with broken framing executes nothing.
    Swallowing(Box<Swallowing>),
    Receiving(Box<Receiving>),
    Sending(Box<Sending>, After),
    /// What is in the outbox is the last.
    Ending(After),
    /// Our direction is closed; the client's rest is thrown away.
    Lingering,
}

/// What follows a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The next request.
    Request,
    /// The end, which the client has asked for: nothing more will come.
    Close,
    /// The end, which may come as a surprise to the client.
    Linger,
}

struct Swallowing {
    head: Box<[u8]>,
    body: Body,
    swallowed: u64,
}

/// What a parked conversation waits for, and so how long it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    Request,
    Head,
    Body,
    Send,
    Linger,
}

/// See the module.
pub struct Conversation {
    phase: Phase,
    rest: Option<Box<Rest>>,
    /// When what it waits for began, or last made progress.
    since: Tick,
}

/// What one step of a turn came to.
enum Step {
    On,
    Turn(Next),
}

/// A turn's own account.
struct Account {
    replies: u32,
    received: usize,
    sent: usize,
    /// The last recv left nothing behind.
    drained: bool,
    progress: bool,
}

impl Default for Conversation {
    fn default() -> Conversation {
        Conversation::new()
    }
}

impl Conversation {
    /// A connection that has said nothing yet.
    pub fn new() -> Conversation {
        Conversation {
            phase: Phase::Head,
            rest: None,
            since: Tick::now(),
        }
    }

    /// What it waits for while it is parked.
    pub fn waits(&self) -> Waits {
        match &self.phase {
            Phase::Lingering => Waits::Linger,
            Phase::Sending(..) | Phase::Ending(_) => Waits::Send,
            _ if self.rest.as_ref().is_some_and(|rest| rest.has_output()) => Waits::Send,
            Phase::Receiving(_) | Phase::Swallowing(_) => Waits::Body,
            Phase::Head if self.rest.is_some() => Waits::Head,
            Phase::Head => Waits::Request,
        }
    }

    /// One turn: serve what is there, say what to wait for.
    pub fn step(&mut self, visit: &mut Visit<'_>) -> Next {
        let before = self.waits();
        if let Some(rest) = self.rest.take() {
            visit.desk.lay(*rest);
        }
        let mut account = Account {
            replies: 0,
            received: 0,
            sent: 0,
            drained: false,
            progress: false,
        };
        let next = self.turn(visit, &mut account);
        self.rest = visit.desk.clear();
        if next == Next::Close {
            return next;
        }
        if let Phase::Receiving(receiving) = &mut self.phase {
            receiving.upload.park();
        }
        if account.progress || self.waits() != before {
            self.since = Tick::now();
        }
        next
    }

    fn turn(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> Next {
        // What an earlier turn could not send goes first.
        match self.flush(visit, account) {
            Ok(true) => {}
            Ok(false) => return Next::Rearm(Wait::Write),
            Err(e) => return self.gone(visit, &e),
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
    fn gone(&mut self, visit: &Visit<'_>, how: &dyn Display) -> Next {
        if let Phase::Receiving(receiving) = &self.phase {
            receiving.epitaph(visit.peer, how);
        }
        Next::Close
    }

    fn flush(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<bool> {
        let outbox = &mut visit.desk.outbox;
        let waiting = outbox.len();
        if waiting == 0 {
            return Ok(true);
        }
        let all = outbox.flush(visit.socket, false)?;
        account.progress |= outbox.len() < waiting;
        Ok(all)
    }

    /// Gets more input: replies leave first, then one recv. On means that
    /// bytes have come; at the peer's end the turn is `at_end`.
    fn input(
        &mut self,
        visit: &mut Visit<'_>,
        account: &mut Account,
        room: usize,
    ) -> io::Result<Input> {
        if !self.flush(visit, account)? {
            return Ok(Input::Wait(Next::Rearm(Wait::Write)));
        }
        if account.drained {
            return Ok(Input::Wait(Next::Rearm(Wait::Read)));
        }
        let before = visit.desk.inbox.bytes().len();
        match visit.desk.inbox.receive(visit.socket, room) {
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

    /// A step of [`Phase::Head`].
    fn head(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        if visit.desk.outbox.len() >= crate::buffer::OUTBOX_FULL && !self.flush(visit, account)? {
            return Ok(Step::Turn(Next::Rearm(Wait::Write)));
        }
        if !visit.desk.inbox.is_empty() {
            if account.replies >= TURN_REPLIES {
                let all = self.flush(visit, account)?;
                let wait = if all { Wait::ReadWrite } else { Wait::Write };
                return Ok(Step::Turn(Next::Rearm(wait)));
            }
            if self.request(visit) {
                account.replies += 1;
                account.progress = true;
                return Ok(Step::On);
            }
        }
        Ok(match self.input(visit, account, MAX_INBOX)? {
            Input::Bytes => Step::On,
            Input::Wait(next) => Step::Turn(next),
            // Whole requests have been answered by now; of half a request
            // nothing was executed, and there is nobody to tell.
            Input::End => Step::Turn(Next::Close),
        })
    }

    /// Answers the request at the start of the inbox; false when its head has
    /// not come to its end yet.
    fn request(&mut self, visit: &mut Visit<'_>) -> bool {
        let inbox = &mut visit.desk.inbox;
        let mut looked = inbox.looked;
        let parsed = head::parse(inbox.bytes(), &mut looked);
        let (consumed, outcome) = match parsed {
            Parse::Partial => {
                inbox.looked = looked;
                return false;
            }
            Parse::Invalid(bad) => {
                let mut to = Answer::new(
                    visit.site,
                    visit.peer,
                    visit.desk.outbox.buf(),
                    visit.date.at(clock::unix_seconds()),
                );
                (0, to.refuse(bad))
            }
            Parse::Complete(head, consumed) => {
                if let Some(swallowing) = Swallowing::of(&head, &inbox.bytes()[..consumed]) {
                    inbox.consume(consumed);
                    self.phase = Phase::Swallowing(Box::new(swallowing));
                    return true;
                }
                let arrived = (inbox.bytes().len() - consumed) as u64;
                let mut to = Answer::new(
                    visit.site,
                    visit.peer,
                    visit.desk.outbox.buf(),
                    visit.date.at(clock::unix_seconds()),
                );
                let has_body = head.method != Method::Put
                    && !matches!(head.framing, Framing::None | Framing::Length(0));
                (
                    consumed,
                    to.request(&head, visit.read_only, arrived, has_body),
                )
            }
        };
        inbox.consume(consumed);
        self.follow(outcome);
        true
    }

    /// Goes where an outcome leads.
    fn follow(&mut self, outcome: Outcome) {
        self.phase = match outcome {
            Outcome::Done(After::Request) => Phase::Head,
            Outcome::Done(after) => Phase::Ending(after),
            Outcome::Send(sending, after) => Phase::Sending(sending, after),
            Outcome::Receive(receiving) => Phase::Receiving(receiving),
        };
    }

    /// A step of [`Phase::Swallowing`].
    fn swallow(&mut self, visit: &mut Visit<'_>, account: &mut Account) -> io::Result<Step> {
        let Phase::Swallowing(swallowing) = &mut self.phase else {
            return Ok(Step::On);
        };
        let inbox = &mut visit.desk.inbox;
        while !inbox.is_empty() {
            account.progress = true;
            let mut to = Answer::new(
                visit.site,
                visit.peer,
                visit.desk.outbox.buf(),
                visit.date.at(clock::unix_seconds()),
            );
            let piece = match swallowing.body.take(inbox.bytes()) {
                Ok(piece) => piece,
                Err(bad) => {
                    let outcome = to.refuse(bad);
                    self.follow(outcome);
                    return Ok(Step::On);
                }
            };
            inbox.consume(piece.consumed);
            swallowing.swallowed += piece.consumed as u64;
            let too_long = swallowing.swallowed > MAX_SWALLOW;
            if piece.done || too_long {
                let outcome = match head::parse(&swallowing.head, &mut 0) {
                    Parse::Complete(head, _) => {
                        to.request(&head, visit.read_only, 0, too_long && !piece.done)
                    }
                    // It was complete before, and has not changed.
                    Parse::Partial | Parse::Invalid(_) => Outcome::Done(After::Close),
                };
                self.follow(outcome);
                return Ok(Step::On);
            }
        }
        Ok(match self.input(visit, account, MAX_INBOX)? {
            Input::Bytes => Step::On,
            Input::Wait(next) => Step::Turn(next),
            Input::End => Step::Turn(Next::Close),
        })
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
        let mut to = Answer::new(
            visit.site,
            visit.peer,
            visit.desk.outbox.buf(),
            visit.date.at(clock::unix_seconds()),
        );
        let outcome = match fed {
            Fed::Complete(n) => {
                visit.desk.inbox.consume(n);
                receiving.finish(&mut to)
            }
            Fed::Bad(bad) => {
                receiving.epitaph(visit.peer, &bad.why);
                to.refuse_body(bad.status)
            }
            Fed::Failed(e) => {
                receiving.epitaph(visit.peer, &e);
                to.refuse_body(answer::status_of(&e))
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
        let sends = sending.turn(visit.socket, &mut visit.desk.outbox, &mut account.sent);
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
        if !self.flush(visit, account)? {
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
        Ok(match self.input(visit, account, MAX_INBOX)? {
            Input::Bytes => Step::On,
            Input::Wait(next) => Step::Turn(next),
            Input::End => Step::Turn(Next::Close),
        })
    }

    /// The sweeper's question about a parked conversation: may it stay? Says
    /// why not in the log where that is not the client's own business.
    pub fn may_stay(
        &mut self,
        now: Tick,
        site: &Site,
        socket: BorrowedFd<'_>,
        peer: &Peer,
    ) -> bool {
        let waited = now.since(self.since);
        let limit = |limit: std::time::Duration| limit.as_millis() as u32;
        match self.waits() {
            Waits::Request => {
                let stopping = site.draining.get().map(|begun| now.since(*begun));
                let over = match stopping {
                    None => waited >= limit(site.timeouts.idle),
                    // The grace begins with the stop, for who was idle before.
                    Some(stopping) => waited.min(stopping) >= limit(site.timeouts.drain_grace),
                };
                // A request may have come just now, its event on its way.
                if !over || socket::has_input(socket) {
                    return true;
                }
                if stopping.is_some() {
                    self.say_goodbye(socket);
                }
                stopping.is_some()
            }
            Waits::Head if waited >= limit(site.timeouts.head) => {
                // Best effort: the socket has room for it, or nobody reads.
                let mut out = Vec::new();
                let mut date = Date::new();
                let date = date.at(clock::unix_seconds());
                let _ = Answer::new(site, peer, &mut out, date).time_out();
                let _ = socket::send(socket, &out, false);
                false
            }
            Waits::Body if waited >= limit(site.timeouts.body) => {
                if let Phase::Receiving(receiving) = &self.phase {
                    receiving.epitaph(peer, &"nothing came within --body-timeout");
                }
                false
            }
            Waits::Send if waited >= limit(site.timeouts.send) => {
                crate::log::client(format_args!(
                    "{peer} took nothing of its reply within --send-timeout: closed"
                ));
                false
            }
            Waits::Linger if site.is_draining() => waited < LINGER_STOP_MS,
            Waits::Linger => waited < LINGER_MS,
            Waits::Head | Waits::Body | Waits::Send => true,
        }
    }

    /// Whether it is between requests, and for how many milliseconds.
    pub fn idle_for(&self, now: Tick) -> Option<u32> {
        (self.waits() == Waits::Request).then(|| now.since(self.since))
    }

    /// Tells an idle client that no further request will be answered. It stays
    /// parked until its FIN comes.
    fn say_goodbye(&mut self, socket: BorrowedFd<'_>) {
        self.phase = Phase::Lingering;
        self.since = Tick::now();
        // ENOTCONN: it has gone, and the queue's event is on its way.
        let _ = socket::shutdown_write(socket);
    }
}

/// What asking for input came to.
enum Input {
    Bytes,
    Wait(Next),
    End,
}

impl Swallowing {
    /// The body that must go by before this head is answered, if there is one
    /// and it is small enough.
    fn of(head: &Head<'_>, bytes: &[u8]) -> Option<Swallowing> {
        let small = match head.framing {
            Framing::None | Framing::Length(0) => false,
            Framing::Length(len) => len <= MAX_SWALLOW,
            Framing::Chunked => true,
        };
        (small && head.method != Method::Put).then(|| Swallowing {
            head: bytes.into(),
            body: Body::new(&head.framing, false),
            swallowed: 0,
        })
    }
}
