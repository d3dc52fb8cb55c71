//! Who has died, and when the next one comes.

use super::{Children, Place, Worker};
use crate::scoreboard::State;
use crate::sys::clock;
use crate::sys::process::{self, End, Pid};
use std::io;
use std::time::{Duration, Instant};

/// A worker that lived shorter than this has died young.
const YOUNG: Duration = Duration::from_secs(1);

/// What the second early death in a row waits for its successor; doubling.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// But where nobody serves meanwhile, no longer than this.
const DESERTED: Duration = Duration::from_secs(2);

/// So many copies of the master that never got ready, in a row, and the next
/// is a fresh image of the program.
const CORRUPT: u32 = 3;

/// A child that was reaped.
pub enum Dead {
    /// A worker that was to serve. `stillborn`: it had never been ready.
    Worker {
        nr: usize,
        generation: u64,
        stillborn: bool,
        how: String,
    },
    /// A worker that was told to leave.
    Relieved,
    /// None of ours by this table.
    Other(Pid, End),
}

impl Children {
    /// Takes leave of all who have died.
    pub fn reap(&mut self, stopping: bool) -> io::Result<Vec<Dead>> {
        let mut dead = Vec::new();
        while let Some((pid, end)) = process::reap()? {
            let found = self.workers().find(|(_, worker)| worker.pid == pid);
            let Some((slot, _)) = found else {
                dead.push(Dead::Other(pid, end));
                continue;
            };
            // It may have said that it is ready just before.
            self.listen(slot);
            if let Some(worker) = self.slots[slot].take() {
                let last_words = self.scoreboard.slot(slot).last_error();
                self.scoreboard.slot(slot).set_state(State::Empty);
                dead.push(self.bury(worker, end, last_words, stopping));
            }
        }
        Ok(dead)
    }

    /// Says how a worker died and when its successor comes.
    fn bury(
        &mut self,
        worker: Worker,
        end: End,
        last_words: Option<String>,
        stopping: bool,
    ) -> Dead {
        let Worker { nr, pid, .. } = worker;
        let how = how(end);
        if stopping || worker.is_relieved {
            if end != End::Exited(0) {
                log::error!("worker {nr}, pid {pid}, {how} while stopping");
            }
            return Dead::Relieved;
        }
        self.deaths += 1;
        let is_empty = self.is_empty();
        let dead = Dead::Worker {
            nr,
            generation: worker.generation,
            stillborn: !worker.is_ready,
            how: match last_words {
                Some(words) => format!("{how}: {words}"),
                None => how.clone(),
            },
        };
        let Some(place) = self.places.get_mut(nr) else {
            log::error!("worker {nr}, pid {pid}, {how}");
            return dead;
        };
        place.note_death(&worker);
        let mut wait = delay(place.early, clock::monotonic_ns());
        if is_empty {
            wait = wait.min(DESERTED);
        }
        place.due = Some(Instant::now() + wait);
        log::error!(
            "worker {nr}, pid {pid}, {how}; the next one starts in {} ms",
            wait.as_millis()
        );
        dead
    }

    /// The fork failed (EAGAIN, ENOMEM): later.
    pub fn postpone(&mut self, nr: usize) {
        if let Some(place) = self.places.get_mut(nr) {
            place.early += 1;
            place.unforked += 1;
            place.due = Some(Instant::now() + delay(place.early.max(2), clock::monotonic_ns()));
        }
    }

    /// Whether copies of the master fail there again and again.
    pub fn looks_corrupt(&self, nr: usize) -> bool {
        self.places
            .get(nr)
            .is_some_and(|place| place.stillborn >= CORRUPT)
    }

    /// The most early deaths in a row of any number.
    pub fn early_deaths(&self) -> u32 {
        let early = self.places.iter().map(|place| place.early - place.unforked);
        early.max().unwrap_or_default()
    }
}

impl Place {
    fn note_death(&mut self, worker: &Worker) {
        let is_early = worker.since.elapsed() < YOUNG || !worker.is_ready;
        if !is_early {
            (self.early, self.unforked) = (0, 0);
        } else {
            self.early += 1;
        }
        if !worker.is_ready {
            self.stillborn += 1;
        }
    }
}

/// For a log line.
pub fn how(end: End) -> String {
    match end {
        End::Exited(code) => format!("exited with {code}"),
        End::Killed { signal, core } => format!(
            "was killed by {}{}",
            process::signal_name(signal),
            if core { ", core dumped" } else { "" }
        ),
    }
}

/// How long the successor waits after so many early deaths in a row: the first
/// is forgiven. `dice`: up to a quarter less, so that places that fail for one
/// reason do not all come back at once.
fn delay(early: u32, dice: u64) -> Duration {
    let longest = match early {
        0 | 1 => return Duration::ZERO,
        n => (FIRST_DELAY * 2u32.saturating_pow(n - 2)).min(LONGEST_DELAY),
    };
    // The last bits of a clock of nanoseconds.
    longest - longest / 4 * (dice % 256) as u32 / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_bound() {
        let delays: Vec<u128> = (0..13).map(|n| delay(n, 0).as_millis()).collect();
        assert_eq!(delays[..5], [0, 0, 100, 200, 400]);
        assert_eq!(delays[12], 30_000);
        assert_eq!(delay(u32::MAX, 0), LONGEST_DELAY);
        let least = delay(3, 255).as_millis();
        assert!((150..=151).contains(&least), "{least}");
    }
}
