//! The first turn of a connection: the acceptor takes it where it can answer
//! from memory, which saves the way through the queue, two wake-ups of a
//! consumer. It never waits for a disk, nor for a log; for the client's first
//! words only a moment, and not where that was in vain lately: others wait in
//! the listen queue. What cannot be answered so, a consumer serves.

use super::worth::Worth;
use super::{Connection, consumer};
use crate::buffer::Desk;
use crate::device::Ticket;
use crate::http::response::Date;
use crate::ledger::Ledger;
use crate::queue::{Next, Wait};
use crate::sys::clock;
use crate::sys::socket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// How long a client's first words are waited for: its end of the connection is
/// there a little before it has sent them.
const MOMENT: Duration = Duration::from_micros(100);

/// An accept4 that took so long had to wait for a connection. Nanoseconds.
const WAITED: u64 = 10_000;

/// So many connections in a row that had waited before are a crowd.
const CROWD: u32 = 16;

/// See the module.
pub struct Host {
    desk: Desk,
    date: Date,
    /// When accept4 was called last: nanoseconds, monotonic.
    accepts: u64,
    /// Connections in a row for which accept4 did not wait.
    crowd: u32,
    /// Of waiting for first words: a crowd that connects and is silent costs an
    /// acceptor 1.5 ms a thousand.
    first_words: Worth,
}

impl Host {
    /// An acceptor's own.
    pub fn new(ledger: Arc<Ledger>) -> Host {
        ledger.take();
        Host {
            desk: Desk::new(ledger),
            date: Date::new(),
            accepts: 0,
            crowd: 0,
            first_words: Worth::default(),
        }
    }

    /// accept4 is called now.
    pub fn accepts(&mut self) {
        self.accepts = clock::monotonic_ns();
    }

    /// What the first turn came to; None: there was none.
    pub fn first_turn(&mut self, crew: &consumer::Work, client: &mut Connection) -> Option<Next> {
        let now = clock::monotonic_ns();
        self.crowd = match now - self.accepts < WAITED {
            true => self.crowd.saturating_add(1),
            false => 0,
        };
        // Consumers that have cores of their own serve a crowd sooner than one
        // thread after the other.
        if crew.cores.are_spare() && self.crowd >= CROWD {
            return None;
        }
        let answered = self.desk.ledger.totals().requests;
        self.desk.ledger.begin(now);
        let mut next = self.step(crew, client);
        let is_silent =
            next == Some(Next::Rearm(Wait::Read)) && self.desk.ledger.totals().requests == answered;
        if is_silent && self.first_words.tries() {
            let has_spoken = socket::await_input(client.as_fd(), MOMENT);
            self.first_words.was_worth_it(has_spoken);
            if has_spoken {
                next = self.step(crew, client);
            }
        }
        self.desk.ledger.end();
        next
    }

    fn step(&mut self, crew: &consumer::Work, client: &mut Connection) -> Option<Next> {
        let site = &crew.sites[client.site()];
        let mut ticket = Ticket::default();
        let next = client.first_step(site, &mut ticket, &mut self.desk, &mut self.date);
        ticket.leave();
        crew.deliver_calls();
        next
    }
}
