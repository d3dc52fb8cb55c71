//! Who makes no progress: a worker that hangs, an elected one that does nothing,
//! a process that no signal ends.

use super::{Children, Worker};
use crate::channel::Message;
use crate::scoreboard::State;
use crate::sys::clock;
use crate::sys::process;
use std::time::{Duration, Instant};

/// A worker whose housekeeper did not tick for so long hangs. Milliseconds.
const SILENT_MS: u64 = 30_000;

/// An elected worker that made no progress for so long shall be replaced; its
/// rounds take 100 ms, and none of them waits for a disk. Milliseconds.
const LEADER_SILENT_MS: u64 = 5_000;

/// And if it does not resign within this, its process is killed.
const RESIGNS_WITHIN: Duration = Duration::from_secs(2);

/// After so long without a tick the process itself is looked at. Milliseconds.
const DYING_MS: u64 = 3_000;

/// A process that SIGKILL has not ended within this is inside of a dead disk's
/// call. Its threads serve nobody any more; another takes its place.
const BURIED_ALIVE: Duration = Duration::from_secs(2);

/// A forked child that has not run its first line within this hangs in fork's
/// own work.
const BORN_WITHIN: Duration = Duration::from_secs(1);

/// SIGABRT leaves a core, and SIGKILL follows after this.
const DUMPS_WITHIN: Duration = Duration::from_secs(1);

/// A round of the master's loop that took longer than this was a pause of the
/// master itself (SIGSTOP, a suspended machine): nobody is judged by it.
const PAUSED: Duration = Duration::from_secs(10);

/// A suspension of the machine that took longer than this is one, too: the
/// clocks that tell it are not read at the same moment. Milliseconds.
const SLEPT_MS: u64 = 100;

impl Worker {
    /// It is starting: if it has not got on for too long it is made to dump its
    /// core, and then killed. `awake`: for so long the master has been.
    fn press_on(&mut self, phase: State, awake: Duration, timeout: Duration) {
        let age = self.since.elapsed().min(awake);
        if let Some(since) = self.aborted {
            if since.elapsed() >= DUMPS_WITHIN {
                self.kill(format_args!("did not end by SIGABRT"));
            }
            return;
        }
        // One that only waits for a core to run on does not hang.
        let is_unborn =
            phase == State::Born && age >= BORN_WITHIN && !process::is_runnable(self.pid);
        if !is_unborn && age < timeout {
            return;
        }
        log::error!(
            "worker {}, pid {}, has been starting for {} ms and is stuck: {}; SIGABRT",
            self.nr,
            self.pid,
            age.as_millis(),
            phase.name()
        );
        self.aborted = Some(Instant::now());
        // ESRCH: it has ended meanwhile.
        let _ = process::abort(self.pid);
    }
}

impl Children {
    /// SIGKILL to those whose housekeeper hangs.
    pub fn kill_silent(&mut self) {
        let round = self.looked.elapsed();
        self.looked = Instant::now();
        let suspended = clock::suspended_ms();
        let slept = suspended.saturating_sub(self.suspended);
        self.suspended = suspended;
        // The monotonic clock stands still while the machine sleeps.
        if round > PAUSED || slept > SLEPT_MS {
            // The workers may have been stopped as well, and may get their
            // processor later than we do.
            self.awake = self.looked;
        }
        let awake = self.awake.elapsed().as_millis() as u64;
        for (slot, worker) in self.slots.iter_mut().enumerate() {
            let Some(worker) = worker.as_mut().filter(|worker| worker.killed.is_none()) else {
                continue;
            };
            let line = self.scoreboard.slot(slot);
            let silent = line.silent_for().min(awake);
            // Somebody else's SIGKILL, and one of its threads does not hear it.
            let is_undead = silent >= DYING_MS && process::is_dying(worker.pid);
            let stuck = line.stuck_for().unwrap_or_default().min(awake);
            if is_undead || worker.is_ready && silent >= SILENT_MS {
                worker.kill(format_args!("did not tick for {silent} ms"));
            } else if !worker.is_ready {
                let phase = line.state();
                worker.press_on(phase, Duration::from_millis(awake), self.spawn_timeout);
            } else if stuck >= self.hard_timeout.as_millis() as u64 {
                worker.kill(format_args!(
                    "has had all its consumers stuck for {stuck} ms"
                ));
            }
        }
        self.replace_silent_leader(awake);
    }

    /// Whom SIGKILL does not end is waited for no longer: its place is free.
    /// It is reaped when its disk lets it go. How many that are now.
    pub fn abandon_undead(&mut self) -> usize {
        let mut abandoned = 0;
        for worker in &mut self.slots {
            let is_undead = |worker: &mut Worker| {
                worker
                    .killed
                    .is_some_and(|since| since.elapsed() >= BURIED_ALIVE)
            };
            if let Some(worker) = worker.take_if(is_undead) {
                log::error!(
                    "worker {}, pid {}, does not end by SIGKILL: it is inside of a disk that \
                     hangs (see /proc/{}/task/*/stack), and is waited for no longer",
                    worker.nr,
                    worker.pid,
                    worker.pid
                );
                if let Some(place) = self.places.get_mut(worker.nr) {
                    place.due = Some(Instant::now());
                }
                abandoned += 1;
            }
        }
        abandoned
    }

    /// An elected worker that makes no progress is asked to leave that to
    /// another; one that does not hear has its process killed, since the kernel
    /// gives the lease to the next one then.
    fn replace_silent_leader(&mut self, awake: u64) {
        let leader = self
            .scoreboard
            .leader()
            .filter(|leader| leader.silent_for.min(awake) >= LEADER_SILENT_MS);
        let Some(leader) = leader else {
            self.asked = None;
            return;
        };
        let pid = leader.pid;
        let worker = self.slots.get_mut(leader.worker).and_then(Option::as_mut);
        let Some(worker) =
            worker.filter(|worker| worker.pid as u32 == pid && worker.killed.is_none())
        else {
            return;
        };
        let nr = worker.nr;
        match self.asked {
            Some((asked, since)) if asked == pid => {
                if since.elapsed() >= RESIGNS_WITHIN {
                    worker.kill(format_args!(
                        "is elected, makes no progress, and did not resign"
                    ));
                }
            }
            _ => {
                log::error!(
                    "worker {nr}, pid {pid}, is elected and has made no progress for {} ms: \
                     another shall be",
                    leader.silent_for
                );
                // EPIPE, EAGAIN: then it will not resign, and be killed.
                let _ = worker.channel.send(Message::Resign);
                self.asked = Some((pid, Instant::now()));
            }
        }
    }
}
