//! When a consumer offers its core to others: after a long run, and before it
//! would sleep.

use super::worth::Worth;
use crate::queue::{Queue, Woken};
use crate::sys::clock;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// A consumer that has run for so long without a pause offers its core to
/// others: between two turns, where no client waits for it. Otherwise the
/// kernel takes it away at a tick, most likely inside of a turn, and that client
/// waits until all other consumers have had theirs. Nanoseconds.
const YIELD_AFTER: u64 = 300_000;

/// Others who compute use what they are given to the end, and a consumer that
/// offered its core as often as to its like would be left with a tenth of it. So
/// it runs for this part of the time that its last offer took. With a half it
/// gets twice as much, but is then interrupted in its turns: of small GETs beside
/// such a program the p99 is 17 ms, and 4 ms with a quarter.
const PART: u64 = 4;

/// An offer that took so long was taken by such a program. Nanoseconds.
const DEAR: u64 = 1_000_000;

/// Behind a dear offer nobody offers who would sleep, for so many times as long
/// as it took: who sleeps keeps his claim to the core, who yields forfeits it.
const AS_LONG_AGAIN: u64 = 128;

/// No offer counts as longer: a process that was stopped offered nothing.
const LONGEST: u64 = 10_000_000;

/// How long a consumer has been running, and whether its offers are worth it.
#[derive(Default)]
pub struct Pace {
    /// When the last turn began.
    last: u64,
    /// When it was looked at last how long the consumer had run, and that.
    since: u64,
    ran: u64,
    /// What the last offer took.
    took: u64,
    /// Until then it sleeps without an offer.
    dear_until: u64,
    /// Clients come while others have the core.
    worth: Worth,
}

impl Pace {
    /// Waits for a client, as the queue does. Where nobody has come, others get
    /// the core first, and then it looks again: workers that share a core serve
    /// whole rows of clients in turns so; otherwise each of them sleeps and is
    /// woken for each client, and pushes the other one off the core.
    pub fn next<T: AsFd>(&mut self, queue: &Queue<T>, at_most: Duration) -> io::Result<Woken<T>> {
        if self.last < self.dear_until || !self.worth.tries() {
            return queue.next(at_most);
        }
        match queue.next(Duration::ZERO) {
            Ok(Woken::Late) => {}
            come => return come,
        }
        self.offer();
        let come = queue.next(Duration::ZERO);
        let late = matches!(come, Ok(Woken::Late));
        self.worth.was(!late);
        if late { queue.next(at_most) } else { come }
    }

    /// A turn begins: now, in nanoseconds.
    pub fn turn(&mut self) -> u64 {
        self.last = clock::monotonic_ns();
        self.last
    }

    /// The turn is over: others' turn to run?
    pub fn rest(&mut self) {
        let time = self.last - self.since;
        if time > YIELD_AFTER.max(self.took / PART) {
            let ran = clock::thread_ns();
            // Otherwise others have had the core as long as this one.
            if (ran - self.ran) > time / 2 {
                self.offer();
            }
            self.since = self.last;
            self.ran = ran;
        }
    }

    fn offer(&mut self) {
        let begun = clock::monotonic_ns();
        std::thread::yield_now();
        self.took(clock::monotonic_ns(), begun);
    }

    /// An offer is over, that was made then.
    fn took(&mut self, now: u64, begun: u64) {
        self.took = (now - begun).min(LONGEST);
        if self.took > DEAR {
            self.dear_until = now + self.took * AS_LONG_AGAIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Wait;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn it_waits_as_the_queue_does() {
        let queue = Queue::new().unwrap();
        let mut pace = Pace::default();
        let short = Duration::from_millis(1);
        // more often than offers in vain are made
        for _ in 0..10 {
            pace.turn();
            assert!(matches!(pace.next(&queue, short), Ok(Woken::Late)));
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        queue
            .add(Box::new(ours), Wait::Read)
            .unwrap_or_else(|_| panic!("epoll_ctl"));
        let long = Duration::from_secs(60);
        for _ in 0..10 {
            theirs.write_all(b"x").unwrap();
            let Ok(Woken::By(turn)) = pace.next(&queue, long) else {
                panic!("nobody came");
            };
            pace.turn();
            queue.rearm(turn, Wait::Read).unwrap();
            pace.rest();
        }
        let Ok(Woken::By(turn)) = pace.next(&queue, long) else {
            panic!("it is readable still");
        };
        queue.close(turn);
        queue.poison().unwrap();
        for _ in 0..10 {
            assert!(matches!(pace.next(&queue, long), Ok(Woken::Poisoned)));
        }
    }

    #[test]
    fn who_computes_beside_it_gets_few_offers() {
        let second = 1_000_000_000;
        let mut pace = Pace::default();
        pace.took(5 * second, 5 * second - DEAR);
        assert_eq!(pace.dear_until, 0, "others like us");
        pace.took(5 * second, 5 * second - 3 * DEAR);
        assert_eq!(pace.dear_until, 5 * second + 384 * DEAR);
        pace.took(5 * second, 0);
        assert!(pace.dear_until < 7 * second, "it was stopped");
        assert!(pace.took / PART < second);
    }
}
