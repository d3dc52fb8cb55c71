//! Who is alive: worker number -> process, and nothing else. Spawn, reap, back
//! off, signal.

mod logs;
mod watchdog;

use crate::channel::{Channel, Message};
use crate::scoreboard::{Scoreboard, State};
use crate::sys::clock;
use crate::sys::process::{self, End, Forked, Pid, Solo};
use crate::sys::signal::{Inbox, Mask};
use crate::sys::watch;
use logs::Logs;
use mio::{Poll, Token};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A worker that lived shorter than this has died young.
const YOUNG: Duration = Duration::from_secs(1);

/// What the second early death in a row waits for its successor; doubling.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// But where nobody serves meanwhile, no longer than this.
const DESERTED: Duration = Duration::from_secs(2);

/// A worker that runs.
struct Worker {
    pid: Pid,
    channel: Channel,
    since: Instant,
    is_ready: bool,
    /// It was sent SIGKILL then; inside a dead disk's call it lives on.
    killed: Option<Instant>,
    /// How often it was given the log anew and has not answered yet.
    logs: u32,
}

impl Worker {
    fn kill(&mut self, nr: usize, why: std::fmt::Arguments<'_>) {
        log::error!("worker {nr}, pid {}, {why}: SIGKILL", self.pid);
        self.killed = Some(Instant::now());
        // ESRCH: it has ended meanwhile.
        let _ = process::kill(self.pid);
    }
}

/// A worker's place in the table.
#[derive(Default)]
struct Place {
    worker: Option<Worker>,
    /// Deaths in a row that came early.
    early: u32,
    /// Not before this.
    due: Option<Instant>,
}

/// See the module.
pub struct Children {
    places: Vec<Place>,
    scoreboard: Scoreboard,
    looked: Instant,
    /// How long the machine had slept by then. Milliseconds.
    suspended: u64,
    /// The master has been awake since.
    awake: Instant,
    is_surveyed: bool,
    is_shut_down: bool,
    /// The elected process that was asked to resign, and when.
    asked: Option<(u32, Instant)>,
    logs: Logs,
}

/// The child's side of a fork, before it has settled.
pub struct Heir {
    channel: Channel,
}

impl Children {
    /// Places for so many workers, all empty.
    pub fn new(workers: usize, scoreboard: Scoreboard) -> Children {
        Children {
            places: (0..workers).map(|_| Place::default()).collect(),
            scoreboard,
            looked: Instant::now(),
            suspended: clock::suspended_ms(),
            awake: Instant::now(),
            is_surveyed: false,
            is_shut_down: false,
            asked: None,
            logs: Logs::default(),
        }
    }

    fn workers(&self) -> impl Iterator<Item = (usize, &Worker)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(nr, place)| Some((nr, place.worker.as_ref()?)))
    }

    /// Whether none is alive.
    pub fn is_empty(&self) -> bool {
        self.workers().next().is_none()
    }

    /// Whether each place has a worker that serves.
    pub fn are_all_ready(&self) -> bool {
        self.workers().filter(|(_, worker)| worker.is_ready).count() == self.places.len()
    }

    /// The living, for a log line.
    pub fn names(&self) -> String {
        self.workers()
            .map(|(nr, worker)| format!("worker {nr} (pid {})", worker.pid))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// An empty place whose time has come.
    pub fn due(&self) -> Option<usize> {
        let now = Instant::now();
        self.places
            .iter()
            .position(|place| place.worker.is_none() && place.due.is_none_or(|due| due <= now))
    }

    /// When the next empty place is due.
    pub fn next_spawn(&self) -> Option<Instant> {
        self.places
            .iter()
            .filter(|place| place.worker.is_none())
            .filter_map(|place| place.due)
            .min()
    }

    /// Forks worker `nr`. Some is the child's side.
    pub fn spawn(&mut self, nr: usize, poll: &Poll) -> io::Result<Option<Heir>> {
        let solo = Solo::prove()?;
        let (ours, theirs) = Channel::pair()?;
        watch::readable(poll.registry(), ours.as_fd(), Token(nr))?;
        self.scoreboard.slot(nr).begin(nr, 1);
        // A signal to the child before it has its own pipe would be written
        // into ours.
        let mask = Mask::all().apply();
        let forked = process::fork(solo);
        if let Ok(Forked::Child) = forked {
            return Ok(Some(Heir { channel: theirs }));
        }
        mask.apply();
        let Forked::Parent(pid) = forked? else {
            return Ok(None);
        };
        self.places[nr].worker = Some(Worker {
            pid,
            channel: ours,
            since: Instant::now(),
            is_ready: false,
            killed: None,
            logs: 0,
        });
        Ok(None)
    }

    /// The fork failed (EAGAIN, ENOMEM): later.
    pub fn postpone(&mut self, nr: usize) {
        let place = &mut self.places[nr];
        place.early += 1;
        place.due = Some(Instant::now() + delay(place.early.max(2)));
    }

    /// Reads what worker `nr` says.
    pub fn listen(&mut self, nr: usize) {
        let Some(worker) = self.places.get_mut(nr).and_then(|p| p.worker.as_mut()) else {
            return;
        };
        // Its end, and errors, are told by its death.
        while let Ok(Some(message)) = worker.channel.receive() {
            match message {
                Message::Ready if !worker.is_ready => {
                    worker.is_ready = true;
                    log::info!("worker {nr} is ready, pid {}", worker.pid);
                }
                Message::Surveyed => self.is_surveyed = true,
                Message::Shutdown => self.is_shut_down = true,
                Message::Reopen => self.logs.are_wanted = true,
                Message::Reopened { followed } => {
                    worker.logs = worker.logs.saturating_sub(1);
                    self.logs.followers += usize::from(followed);
                }
                // These are ours to say.
                Message::Ready | Message::Quit { .. } | Message::Fast | Message::Resign => {}
            }
        }
    }

    /// Whether an elected worker has looked at every device once.
    pub fn is_surveyed(&self) -> bool {
        self.is_surveyed
    }

    /// Whether a client of the sidechannel has asked for the end.
    pub fn is_shut_down(&self) -> bool {
        self.is_shut_down
    }

    /// Takes leave of all who have died. Returns one that never got ready.
    pub fn reap(&mut self, stopping: bool) -> io::Result<Option<usize>> {
        let mut stillborn = None;
        while let Some((pid, end)) = process::reap()? {
            let Some(nr) = self
                .workers()
                .find_map(|(nr, worker)| (worker.pid == pid).then_some(nr))
            else {
                // What a worker has started, and left behind.
                log::debug!("orphan {pid} has ended: {end:?}");
                continue;
            };
            // It may have said that it is ready just before.
            self.listen(nr);
            if self.bury(nr, end, stopping) {
                stillborn = Some(nr);
            }
        }
        Ok(stillborn)
    }

    /// Says how worker `nr` died and when its successor comes; whether it had
    /// never been ready.
    fn bury(&mut self, nr: usize, end: End, stopping: bool) -> bool {
        self.scoreboard.slot(nr).set_state(State::Empty);
        let place = &mut self.places[nr];
        let Some(worker) = place.worker.take() else {
            return false;
        };
        let how = match end {
            End::Exited(code) => format!("exited with {code}"),
            End::Killed { signal, core } => format!(
                "was killed by {}{}",
                process::signal_name(signal),
                if core { ", core dumped" } else { "" }
            ),
        };
        let pid = worker.pid;
        if stopping {
            if end != End::Exited(0) {
                log::error!("worker {nr}, pid {pid}, {how} while stopping");
            }
            return false;
        }
        let is_early = worker.since.elapsed() < YOUNG;
        place.early = if is_early { place.early + 1 } else { 0 };
        let mut wait = delay(place.early);
        if self.is_empty() {
            wait = wait.min(DESERTED);
        }
        self.places[nr].due = Some(Instant::now() + wait);
        log::error!(
            "worker {nr}, pid {pid}, {how}; the next one starts in {} ms",
            wait.as_millis()
        );
        !worker.is_ready
    }

    /// Says something to all.
    pub fn tell(&self, message: Message) {
        for (nr, worker) in self.workers() {
            if let Err(e) = worker.channel.send(message) {
                // EPIPE: it is dead, and will be reaped.
                log::warn!("worker {nr}, pid {}, was not told: {e}", worker.pid);
            }
        }
    }

    /// SIGKILL to all.
    pub fn kill_all(&self) {
        for (nr, worker) in self.workers() {
            log::error!("worker {nr}, pid {}, did not obey: SIGKILL", worker.pid);
            // ESRCH: it has ended meanwhile.
            let _ = process::kill(worker.pid);
        }
    }
}

/// How long the successor waits after so many early deaths in a row: the first
/// is forgiven.
fn delay(early: u32) -> Duration {
    match early {
        0 | 1 => Duration::ZERO,
        n => (FIRST_DELAY * 2u32.saturating_pow(n - 2)).min(LONGEST_DELAY),
    }
}

impl Heir {
    /// Makes the child a process of its own: it holds what is in `keep`, its
    /// standard streams and its channel, and has its own signals.
    pub fn settle(self, keep: &[BorrowedFd<'_>]) -> io::Result<(Channel, Inbox)> {
        let channel = self.pack(keep)?;
        let signals = Inbox::open()?;
        Mask::none().apply();
        Ok((channel, signals))
    }

    /// The same for a child that executes the program anew: all signals stay
    /// blocked, and wait for the new image.
    pub fn pack(self, keep: &[BorrowedFd<'_>]) -> io::Result<Channel> {
        let stdin = io::stdin();
        let stdout = io::stdout();
        let stderr = io::stderr();
        let mut all = vec![
            stdin.as_fd(),
            stdout.as_fd(),
            stderr.as_fd(),
            self.channel.as_fd(),
        ];
        all.extend_from_slice(keep);
        let ears = crate::log::ears();
        all.extend(ears.as_ref().map(AsFd::as_fd));
        process::close_all_but(&all)?;
        Ok(self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_bound() {
        let delays: Vec<u128> = (0..13).map(|n| delay(n).as_millis()).collect();
        assert_eq!(delays[..5], [0, 0, 100, 200, 400]);
        assert_eq!(delays[12], 30_000);
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
    }
}
