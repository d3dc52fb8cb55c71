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
const SHORT_RUN: u64 = 300_000;

/// The same beside a program that computes, which uses what it is offered to its
/// end, 3 to 4 ms: with short runs half as many clients would be served. With
/// longer ones it would be interrupted in its turns: of small GETs the p99 is
/// 17 ms with runs of 1.5 ms. Nanoseconds.
const LONG_RUN: u64 = 700_000;

/// Others of our kind have their core for no longer than a long run and a turn,
/// each: an offer that takes more, for each worker that shares the core, was
/// taken by such a program. Nanoseconds.
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
    /// Since then there was no pause, no offer, and no look at how long it had
    /// run.
    since: u64,
    /// What that look has found; None: there was none.
    ran: Option<u64>,
    /// The run until the next offer.
    run: u64,
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
            ran: None,
            run: SHORT_RUN,
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
            (self.since, self.ran) = (now, None);
        }
        self.last = now;
        now
    }

    /// The turn is over: others' turn to run?
    pub fn rest(&mut self) {
        let time = self.last - self.since;
        if time > self.run && self.has_run_for(time) {
            self.offer();
        }
    }

    /// Whether it has been on the core in that time, since the last look. Asked
    /// where offers are dear alone: one who slept in between, or has had its core
    /// taken away, makes none.
    fn has_run_for(&mut self, time: u64) -> bool {
        if self.run == SHORT_RUN {
            return true;
        }
        let ran = clock::thread_ns();
        let before = self.ran.replace(ran);
        self.since = self.last;
        before.is_some_and(|before| ran.saturating_sub(before) > time / 2)
    }

    fn offer(&mut self) {
        let begun = clock::monotonic_ns();
        std::thread::yield_now();
        self.has_offered(begun, clock::monotonic_ns());
    }

    /// An offer was made from `begun` to `now`.
    fn has_offered(&mut self, begun: u64, now: u64) {
        let took = now - begun;
        let is_dear = took > self.dear;
        self.run = if is_dear { LONG_RUN } else { SHORT_RUN };
        if is_dear {
            self.dear_until = now + took.min(LONGEST) * DEAR_FOR;
        }
        let ran = is_dear.then(clock::thread_ns);
        (self.last, self.since, self.ran) = (now, now, ran);
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
        assert_eq!((pace.run, pace.dear_until), (SHORT_RUN, 0), "one like it");
        pace.has_offered(now - 3 * DEAR, now);
        assert_eq!(pace.run, LONG_RUN);
        assert_eq!(pace.dear_until, now + 384 * DEAR);
        pace.has_offered(now - SHORT_RUN, now);
        assert_eq!(pace.run, SHORT_RUN, "it has gone");
        pace.has_offered(0, now);
        assert!(pace.dear_until < now + 13 * SECOND, "it was stopped");
    }

    #[test]
    fn however_many_share_a_core_their_runs_do_not_grow() {
        for sharers in 1..100 {
            // each of the others has a long run in the offer, and a turn
            let took = (sharers - 1) as u64 * (LONG_RUN + 300_000);
            let mut pace = Pace::new(sharers);
            pace.run = LONG_RUN;
            pace.has_offered(SECOND - took, SECOND);
            assert_eq!(pace.run, SHORT_RUN, "{sharers}");
        }
    }

    /// Runs for so long, by its own clock.
    fn run(ns: u64) {
        let begun = clock::thread_ns();
        while clock::thread_ns() - begun < ns {}
    }

    #[test]
    fn who_runs_offers_and_who_sleeps_does_not() {
        let offers = |first_run: u64, between: fn()| {
            let mut pace = Pace::new(1);
            pace.run = first_run;
            let mut offers = 0;
            for _ in 0..1000 {
                let now = pace.turn();
                between();
                pace.rest();
                // behind a look it is the turn's begin
                offers += usize::from(pace.since > now);
            }
            offers
        };
        for first_run in [SHORT_RUN, LONG_RUN] {
            assert!(offers(first_run, || run(PAUSE / 2)) > 5);
        }
        let nap = || std::thread::sleep(Duration::from_nanos(2 * PAUSE));
        assert_eq!(offers(SHORT_RUN, nap), 0);
        // too short for a pause, or hardly
        let doze = || std::thread::sleep(Duration::from_nanos(PAUSE / 4));
        assert_eq!(offers(LONG_RUN, doze), 0);
    }
}
