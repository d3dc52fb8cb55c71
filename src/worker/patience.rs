//! How long a drain may go on in which nothing moves.

use crate::ledger::Totals;
use std::time::{Duration, Instant};

/// The drain is looked at every few milliseconds. Looks that are so far apart
/// had a pause of the process between them (SIGSTOP, a suspended machine), which
/// is nobody's fault.
const PAUSED: Duration = Duration::from_secs(1);

/// What counts as progress: a byte, a request, a connection that goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub totals: Totals,
    pub connections: usize,
}

/// See the module.
pub struct Patience {
    /// None: for ever.
    limit: Option<Duration>,
    last: Progress,
    since: Instant,
    looked: Instant,
}

impl Patience {
    /// A drain begins.
    pub fn new(limit: Option<Duration>, now: Progress) -> Patience {
        Patience {
            limit,
            last: now,
            since: Instant::now(),
            looked: Instant::now(),
        }
    }

    /// Whether nothing has moved for too long.
    pub fn is_over(&mut self, now: Progress) -> bool {
        let paused = self.looked.elapsed() >= PAUSED;
        self.looked = Instant::now();
        if now != self.last || paused {
            self.last = now;
            self.since = self.looked;
        }
        self.limit
            .is_some_and(|limit| self.since.elapsed() >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_waited_for() {
        let limit = Duration::from_millis(100);
        let mut now = Progress {
            connections: 3,
            ..Progress::default()
        };
        let mut patience = Patience::new(Some(limit), now);
        let begun = Instant::now();
        while begun.elapsed() < 3 * limit {
            now.totals.digested += 1;
            assert!(!patience.is_over(now));
            std::thread::sleep(limit / 50);
        }
        now.connections = 2;
        assert!(!patience.is_over(now));
        let begun = Instant::now();
        while !patience.is_over(now) {
            std::thread::sleep(limit / 50);
        }
        assert!(begun.elapsed() >= limit * 9 / 10);
    }

    #[test]
    fn without_a_limit_it_never_ends() {
        let mut patience = Patience::new(None, Progress::default());
        patience.since -= Duration::from_secs(5);
        assert!(!patience.is_over(Progress::default()));
    }

    #[test]
    fn a_pause_of_the_process_does_not_count() {
        let long = Duration::from_secs(5);
        let mut patience = Patience::new(Some(long), Progress::default());
        patience.since -= 2 * long;
        patience.looked -= 2 * long;
        assert!(!patience.is_over(Progress::default()));
    }
}
