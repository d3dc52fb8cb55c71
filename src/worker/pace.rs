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
const RUN: u64 = 300_000;

/// Others of our kind have the core for no longer than a run and a turn, each: an
/// offer that takes more, for each worker that shares the core, was taken by a
/// program that computes, which uses it to its end, 3 to 4 ms. Nanoseconds.
const DEAR: u64 = 1_000_000;

/// Turns that begin so far apart had a pause between them. Nanoseconds.
const PAUSE: u64 = 100_000;

/// Behind such an offer, who would sleep makes none, for so
/// many times as long: who sleeps keeps its claim to the core, who yields
/// forfeits it.
const DEAR_FOR: u64 = 128;

/// No offer counts as longer: a process that was stopped offered nothing.
/// Nanoseconds.
const LONGEST: u64 = 100_000_000;

/// How long a consumer has been running, and what came of its offers. Moments
/// are nanoseconds of the monotonic clock.
pub struct Pace {
    /// An offer that takes longer is.
    dear: u64,
    /// When the last turn began.
    last: u64,
    /// Since then there was no pause, and no offer.
    since: u64,
    /// Until then it sleeps without an offer.
    dear_until: u64,
    /// Of offers of one who would sleep: clients have come meanwhile.
    before_sleep: Worth,
}

impl Pace {
    /// Of a consumer whose core so many workers share, its own among them.
    pub fn new(sharers: usize) -> Pace {
        Pace {
            dear: DEAR * sharers as u64,
            last: 0,
            since: 0,
            dear_until: 0,
            before_sleep: Worth::default(),
        }
    }

    /// Waits for a client, as the queue does. Where nobody has come, others get
    /// the core first, and then it looks again: workers that share a core serve
    /// whole rows of clients in turns so; otherwise each of them sleeps and is
    /// woken for each client, and pushes the other one off the core.
    pub fn next<T: AsFd>(&mut self, queue: &Queue<T>, at_most: Duration) -> io::Result<Woken<T>> {
        if self.last < self.dear_until || !self.before_sleep.tries() {
            return queue.next(at_most);
        }
        match queue.next(Duration::ZERO) {
            Ok(Woken::Late) => {}
            come => return come,
        }
        self.offer();
        let come = queue.next(Duration::ZERO);
        let late = matches!(come, Ok(Woken::Late));
        self.before_sleep.was_worth_it(!late);
        if late { queue.next(at_most) } else { come }
    }

    /// A turn begins: now.
    pub fn turn(&mut self) -> u64 {
        let now = clock::monotonic_ns();
        if now - self.last > PAUSE {
            self.since = now;
        }
        self.last = now;
        now
    }

    /// The turn is over: others' turn to run?
    pub fn rest(&mut self) {
        if self.last - self.since > RUN {
            self.offer();
        }
    }

    fn offer(&mut self) {
        let begun = clock::monotonic_ns();
        std::thread::yield_now();
        self.has_offered(begun, clock::monotonic_ns());
    }

    /// An offer was made from `begun` to `now`.
    fn has_offered(&mut self, begun: u64, now: u64) {
        let took = now - begun;
        if took > self.dear {
            self.dear_until = now + took.min(LONGEST) * DEAR_FOR;
        }
        (self.last, self.since) = (now, now);
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
        let mut pace = Pace::new(1);
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

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn who_computes_beside_it_gets_few_offers() {
        let mut pace = Pace::new(2);
        let now = 5 * SECOND;
        pace.has_offered(now - 2 * DEAR, now);
        assert_eq!(pace.dear_until, 0, "one like it");
        pace.has_offered(now - 3 * DEAR, now);
        assert_eq!(pace.dear_until, now + 384 * DEAR);
        pace.has_offered(0, now);
        assert!(pace.dear_until < now + 13 * SECOND, "it was stopped");
    }

    #[test]
    fn however_many_share_a_core_they_are_not_dear() {
        for sharers in 1..100 {
            // each of the others has a run in the offer, and a turn
            let took = (sharers - 1) as u64 * 2 * RUN;
            let mut pace = Pace::new(sharers);
            pace.has_offered(SECOND - took, SECOND);
            assert_eq!(pace.dear_until, 0, "{sharers}");
        }
    }

    /// Runs for so long.
    fn run(ns: u64) {
        let begun = clock::monotonic_ns();
        while clock::monotonic_ns() - begun < ns {}
    }

    #[test]
    fn who_runs_offers_and_who_sleeps_does_not() {
        let offers = |between: fn()| {
            let mut pace = Pace::new(1);
            let mut offers = 0;
            for _ in 0..1000 {
                let now = pace.turn();
                between();
                pace.rest();
                offers += usize::from(pace.since > now);
            }
            offers
        };
        assert!(offers(|| run(PAUSE / 2)) > 5);
        let nap = || std::thread::sleep(Duration::from_nanos(2 * PAUSE));
        assert_eq!(offers(nap), 0);
    }
}
