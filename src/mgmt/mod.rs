//! The sidechannel's conversation: a line asks, a line answers, in order. Like
//! that of HTTP it is advanced one turn at a time, and says by [`Next`] what it
//! waits for.

pub mod command;
pub mod digest;
pub mod watch;

mod answer;
mod turn;

use crate::buffer::{Desk, Rest};
use crate::device::{Call, Line, Ticket};
use crate::ledger::Ledger;
use crate::queue::Next;
use crate::site::Site;
use crate::sys::clock::Tick;
use crate::sys::socket::{self, Peer};
use digest::Job;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use turn::Account;

/// What a consumer lends to a conversation for its turn.
pub struct Visit<'a> {
    pub socket: BorrowedFd<'a>,
    pub peer: &'a Peer,
    pub site: &'a Site,
    /// What the client holds of the devices.
    pub ticket: &'a mut Ticket,
    pub desk: &'a mut Desk,
}

/// Who takes a client that has left its consumer.
pub enum Detached {
    /// The line before a device.
    Line(Line),
    /// The watchers of utilization.
    Watch,
    /// The digests of low priority, of this filesystem (st_dev).
    Fsck(u64),
}

/// Where a conversation is.
enum Phase {
    /// Between commands, or inside of one.
    Command,
    /// A digest is made in slices, one a turn.
    Digesting(Box<Job>),
    /// A digest waits for its place among those of low priority.
    Queueing(Box<Job>),
    /// A digest was made elsewhere: its reply.
    Answered(Vec<u8>),
    /// It gets reports from now on, and says nothing.
    Watching,
}

/// What a parked conversation waits for, and so how long it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Command,
    /// The rest of a line, or its next turn with whole ones.
    Line,
    /// Its next turn; a place in a device.
    Turn,
    Send,
}

/// See the module.
pub struct Conversation {
    phase: Phase,
    rest: Option<Rest>,
    /// From the line that it was in.
    call: Option<Call>,
    /// The line before a device that it goes to.
    line: Option<Line>,
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
            phase: Phase::Command,
            rest: None,
            call: None,
            line: None,
            since: Tick::now(),
        }
    }

    fn waits(&self) -> Waits {
        match &self.phase {
            _ if self.line.is_some() => Waits::Turn,
            Phase::Digesting(_) | Phase::Queueing(_) | Phase::Watching => Waits::Turn,
            Phase::Answered(_) => Waits::Send,
            _ if self.rest.as_ref().is_some_and(|rest| rest.has_output()) => Waits::Send,
            Phase::Command if self.rest.is_some() => Waits::Line,
            Phase::Command => Waits::Command,
        }
    }

    /// One turn: serve what is there, say what to wait for.
    pub fn step(&mut self, visit: &mut Visit<'_>) -> Next {
        let before = self.waits();
        self.line = None;
        if let Some(rest) = self.rest.take() {
            visit.desk.lay(rest);
        }
        if let Some(call) = self.call.take() {
            visit.ticket.receive(call);
        }
        let mut account = Account::default();
        let next = self.turn(visit, &mut account);
        self.rest = visit.desk.clear();
        if account.progress || self.waits() != before {
            self.since = Tick::now();
        }
        next
    }

    /// It is called from its line, and hears it in its next turn.
    pub fn hear(&mut self, call: Call) {
        self.call = Some(call);
    }

    /// After [`Next::Detach`]: to whom it goes.
    pub fn detached(&mut self) -> Option<Detached> {
        match &self.phase {
            _ if self.line.is_some() => self.line.map(Detached::Line),
            Phase::Queueing(job) => Some(Detached::Fsck(job.filesystem())),
            Phase::Watching => Some(Detached::Watch),
            Phase::Command | Phase::Digesting(_) | Phase::Answered(_) => None,
        }
    }

    /// The digest that waits for its place, to its end. Its reply leaves in the
    /// next turn.
    pub fn digest(&mut self, ledger: &Ledger) {
        if let Phase::Queueing(job) = &mut self.phase {
            let mut reply = Vec::new();
            job.run(&mut reply, ledger);
            self.phase = Phase::Answered(reply);
        }
    }

    /// The digest that waits for its place shall wait no more: it is made in
    /// turns, like any other.
    pub fn digest_in_turns(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Queueing(job) => Phase::Digesting(job),
            other => other,
        };
    }

    /// The sweeper's question about a parked conversation: may it stay? A
    /// silent one may, for days, unless the worker stops.
    pub fn may_stay(
        &mut self,
        now: Tick,
        site: &Site,
        socket: BorrowedFd<'_>,
        peer: &Peer,
    ) -> bool {
        let waited = now.since(self.since);
        let over = |limit: Duration| waited >= ms(limit);
        match self.waits() {
            // A command may have come just now, its event on its way.
            Waits::Command => !site.is_draining() || socket::has_input(socket),
            // Whole ones wait for their turn, which comes when there is room.
            Waits::Line if over(site.timeouts.send) && !socket::has_room(socket) => {
                say_unread(peer);
                false
            }
            // Half a line holds up a stop, and nothing else.
            Waits::Line => site
                .draining_for(now)
                .is_none_or(|stopping| waited.min(stopping) < ms(site.timeouts.head)),
            Waits::Send if over(site.timeouts.send) => {
                say_unread(peer);
                false
            }
            Waits::Turn if over(site.timeouts.send) && self.is_stuck(socket) => {
                say_unread(peer);
                // ENOTCONN: it has gone, and the queue's event is on its way.
                let _ = socket::shutdown_both(socket);
                true
            }
            Waits::Send | Waits::Turn => true,
        }
    }

    /// What it waits for, and for how many milliseconds, for a log line.
    pub fn tell(&self, now: Tick) -> (String, u32) {
        let what = match (&self.phase, self.waits()) {
            (Phase::Digesting(job) | Phase::Queueing(job), _) => format!("{job}"),
            (_, Waits::Command) => "its next command".to_owned(),
            (_, Waits::Line) => "the rest of a command, or its turn".to_owned(),
            (_, Waits::Turn) => "a place in a device".to_owned(),
            (_, Waits::Send) => "room in its socket".to_owned(),
        };
        (what, now.since(self.since))
    }

    /// A digest has its turns while its socket is writable. It holds a file, so
    /// the sweeper does not close it: a consumer does.
    fn is_stuck(&self, socket: BorrowedFd<'_>) -> bool {
        matches!(self.phase, Phase::Digesting(_))
            && self.line.is_none()
            && !socket::has_room(socket)
    }
}

fn ms(limit: Duration) -> u32 {
    limit.as_millis() as u32
}

fn say_unread(peer: &Peer) {
    crate::log::client(format_args!(
        "{peer} took nothing of its replies within --send-timeout: closed"
    ));
}
