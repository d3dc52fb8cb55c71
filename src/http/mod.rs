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
mod line;
mod tell;
mod turn;

pub use answer::{Answer, Outcome};
pub use status::Status;

use crate::buffer::{Desk, Outbox, Rest};
use crate::device::{Call, Line, Ticket};
use crate::ledger::Ledger;
use crate::queue::Next;
use crate::site::Site;
use crate::sys::clock::Tick;
use crate::sys::socket::{self, Peer};
use body::Body;
use get::Sending;
use head::{Framing, Head, Method};
use put::Receiving;
use response::Date;
use std::os::fd::BorrowedFd;
use turn::Account;

/// The body of a GET, HEAD, DELETE or MKCOL, which means nothing, is swallowed
/// up to this length; a longer one costs the connection. Bytes.
const MAX_SWALLOW: u64 = 64 * 1024;

/// How long the rest of what a client sends is swallowed after our last byte,
/// so that a reset does not overtake it (RFC 9112 9.6). Milliseconds.
const LINGER_MS: u32 = 5000;

/// The same while the worker stops and waits for idle clients.
const LINGER_STOP_MS: u32 = 2000;

/// What a consumer lends to a conversation for its turn.
pub struct Visit<'a> {
    pub socket: BorrowedFd<'a>,
    pub peer: &'a Peer,
    pub read_only: bool,
    pub site: &'a Site,
    /// What the client holds of the devices.
    pub ticket: &'a mut Ticket,
    pub desk: &'a mut Desk,
    pub date: &'a mut Date,
    /// Whether a disk may be waited for. If not, what needs one is not begun:
    /// one request is answered at most, from memory, and the rest is left to
    /// `Wait::ReadWrite`, that is to a turn at once in which it may.
    pub may_wait: bool,
}

impl Visit<'_> {
    /// An answer in the making, behind what the outbox holds. (Not where a head
    /// is at hand that lies in the inbox.)
    fn answer(&mut self) -> Answer<'_> {
        let Desk { outbox, ledger, .. } = self.desk;
        Answer::new(self.site, self.peer, self.ticket, outbox, self.date, ledger)
    }
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
    /// It has waited too long with a file in its hands. The sweeper does not
    /// close those (a disk may hang, and the heartbeat with it): a consumer,
    /// woken by the socket's end, does.
    Over(Box<Phase>),
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
    /// No more of it will be swallowed; whether some is left.
    over: Option<bool>,
}

/// What a parked conversation waits for, and so how long it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    Request,
    Head,
    Body,
    Send,
    Linger,
    /// For a place in its device; the line has a deadline of its own.
    Device,
    /// For a consumer to close it.
    Consumer,
}

/// What a parked conversation waits for where its client has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queues {
    Not,
    /// In the line that it knows.
    Device,
    /// With its next request, for a consumer.
    Consumer,
}

/// What a parked conversation has with it, most of them nothing.
#[derive(Default)]
struct Carried {
    rest: Option<Rest>,
    /// From the line that it was in.
    call: Option<Call>,
}

/// See the module. Small: ten thousand of them may be idle.
pub struct Conversation {
    phase: Phase,
    carried: Option<Box<Carried>>,
    /// The device of the transfer that is under way, or of the request that
    /// waits for one.
    line: Option<Line>,
    queues: Queues,
    /// When what it waits for began, or last made progress.
    since: Tick,
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
            carried: None,
            line: None,
            queues: Queues::Not,
            since: Tick::now(),
        }
    }

    /// What it waits for while it is parked.
    pub fn waits(&self) -> Waits {
        match &self.phase {
            _ if self.queues == Queues::Device => Waits::Device,
            _ if self.queues == Queues::Consumer => Waits::Consumer,
            Phase::Lingering => Waits::Linger,
            Phase::Over(_) => Waits::Consumer,
            Phase::Sending(..) | Phase::Ending(_) => Waits::Send,
            _ if self.rest().is_some_and(Rest::has_output) => Waits::Send,
            Phase::Receiving(_) | Phase::Swallowing(_) => Waits::Body,
            Phase::Head if self.rest().is_some() => Waits::Head,
            Phase::Head => Waits::Request,
        }
    }

    /// One turn: serve what is there, say what to wait for.
    pub fn step(&mut self, visit: &mut Visit<'_>) -> Next {
        self.queues = Queues::Not;
        let before = self.waits();
        if let Some(carried) = self.carried.take() {
            let Carried { rest, call } = *carried;
            rest.into_iter().for_each(|rest| visit.desk.lay(rest));
            call.into_iter().for_each(|call| visit.ticket.receive(call));
        }
        let mut account = Account::default();
        let next = self.turn(visit, &mut account);
        let rest = visit.desk.clear();
        self.carried = rest.map(|rest| {
            Box::new(Carried {
                rest: Some(rest),
                call: None,
            })
        });
        if next == Next::Close {
            return next;
        }
        if next == Next::Detach {
            self.queues = Queues::Device;
        }
        if let Phase::Receiving(receiving) = &mut self.phase {
            receiving.upload.park();
        }
        if account.progress || self.waits() != before {
            self.since = Tick::now();
        }
        next
    }

    /// The line that it waits in, after [`Next::Detach`].
    pub fn line(&self) -> Option<Line> {
        self.line.filter(|_| self.queues == Queues::Device)
    }

    /// It is called from that line, and hears it in its next turn.
    pub fn hear(&mut self, call: Call) {
        self.carried.get_or_insert_default().call = Some(call);
    }

    fn rest(&self) -> Option<&Rest> {
        self.carried.as_ref()?.rest.as_ref()
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
                let stopping = site.draining_for(now);
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
                let mut outbox = Outbox::default();
                let mut date = Date::new();
                let mut ticket = Ticket::default();
                let ledger = Ledger::default();
                let _ = Answer::new(site, peer, &mut ticket, &mut outbox, &mut date, &ledger)
                    .time_out();
                let _ = outbox.flush(socket, false);
                false
            }
            Waits::Body if waited >= limit(site.timeouts.body) => {
                if let Phase::Receiving(receiving) = &self.phase {
                    receiving.epitaph(peer, &"nothing came within --body-timeout");
                }
                self.is_over(socket)
            }
            Waits::Send if waited >= limit(site.timeouts.send) => {
                crate::log::client(format_args!(
                    "{peer} took nothing of its reply within --send-timeout: closed"
                ));
                self.is_over(socket)
            }
            Waits::Linger if site.is_draining() => waited < LINGER_STOP_MS,
            Waits::Linger => waited < LINGER_MS,
            Waits::Head | Waits::Body | Waits::Send => true,
            Waits::Device | Waits::Consumer => true,
        }
    }

    /// Whether it is between requests, and for how many milliseconds.
    pub fn idle_for(&self, now: Tick) -> Option<u32> {
        (self.waits() == Waits::Request).then(|| now.since(self.since))
    }

    /// Its time is over: one that holds a file stays, for a consumer to close.
    fn is_over(&mut self, socket: BorrowedFd<'_>) -> bool {
        if !matches!(self.phase, Phase::Receiving(_) | Phase::Sending(..)) {
            return false;
        }
        let held = std::mem::replace(&mut self.phase, Phase::Lingering);
        self.phase = Phase::Over(Box::new(held));
        // ENOTCONN: it has gone, and the queue's event is on its way.
        let _ = socket::shutdown_both(socket);
        true
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
            over: None,
        })
    }
}
