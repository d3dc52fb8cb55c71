//! The first turn of a connection: the acceptor takes it where it can answer
//! from memory, which saves the way through the queue, two wake-ups of a
//! consumer. It never waits for a disk, nor for a log; for the client's first
//! words only a moment, and not where that was in vain lately: others wait in
//! the listen queue. What cannot be answered so, a consumer serves.

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

/// Waits in vain, one after the other, until connections are left out.
const IN_VAIN: u32 = 4;

/// Behind the next one in vain so many are not waited for at most: one, then
/// twice as many each time. A crowd that connects and is silent costs an
/// acceptor 1.5 ms a thousand.
const MOST_LEFT_OUT: u32 = 64;

/// An accept4 that took so long had to wait for a connection. Nanoseconds.
const WAITED: u64 = 10_000;

/// So many connections in a row that had waited before are a crowd.
const CROWD: u32 = 16;

/// See the module.
pub struct Host {
    desk: Desk,
    date: Date,
    /// There are more cores than workers: consumers have some of their own, and
    /// a crowd is served sooner by them than by one thread after the other.
    spare_cores: bool,
    /// When accept4 was called last: nanoseconds, monotonic.
    accepts: u64,
    /// Connections in a row for which accept4 did not wait.
    crowd: u32,
    patience: Patience,
}

impl Host {
    /// An acceptor's own.
    pub fn new(ledger: Arc<Ledger>, spare_cores: bool) -> Host {
        ledger.take();
        Host {
            desk: Desk::new(ledger),
            date: Date::new(),
            spare_cores,
            accepts: 0,
            crowd: 0,
            patience: Patience::default(),
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
        if self.spare_cores && self.crowd >= CROWD {
            return None;
        }
        let answered = self.desk.ledger.totals().requests;
        self.desk.ledger.begin(now);
        let mut next = self.step(crew, client);
        let is_silent =
            next == Some(Next::Rearm(Wait::Read)) && self.desk.ledger.totals().requests == answered;
        if is_silent && self.patience.waits() {
            let has_spoken = socket::await_input(client.as_fd(), MOMENT);
            self.patience.was_worth_it(has_spoken);
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

/// Whether it is worth to wait for first words.
#[derive(Default)]
struct Patience {
    /// Waits in vain since the last that was not.
    in_vain: u32,
    /// Connections that are not waited for, from now on.
    leaves_out: u32,
}

impl Patience {
    fn waits(&mut self) -> bool {
        if self.leaves_out == 0 {
            return true;
        }
        self.leaves_out -= 1;
        false
    }

    fn was_worth_it(&mut self, yes: bool) {
        self.in_vain = if yes {
            0
        } else {
            self.in_vain.saturating_add(1)
        };
        self.leaves_out = match self.in_vain.checked_sub(IN_VAIN) {
            None => 0,
            Some(more) => 1u32
                .checked_shl(more)
                .map_or(MOST_LEFT_OUT, |n| n.min(MOST_LEFT_OUT)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many connections, how many are waited for.
    fn waits(patience: &mut Patience, of: u32, worth: bool) -> u32 {
        let mut waited = 0;
        for _ in 0..of {
            if patience.waits() {
                patience.was_worth_it(worth);
                waited += 1;
            }
        }
        waited
    }

    #[test]
    fn who_speaks_is_waited_for_and_silent_crowds_are_not() {
        let mut patience = Patience::default();
        assert_eq!(waits(&mut patience, 100, true), 100);
        // three that cost nothing more, then 1, 2, 4 ... 64 are left out behind each
        assert_eq!(waits(&mut patience, 3 + 7 + 127, false), 10);
        assert_eq!(waits(&mut patience, 6500, false), 100);
        assert_eq!(waits(&mut patience, 65, true), 65);
        for _ in 0..10 {
            assert_eq!(waits(&mut patience, 3, false), 3);
            assert_eq!(
                waits(&mut patience, 1, true),
                1,
                "now and then in vain is no matter"
            );
        }
    }
}
