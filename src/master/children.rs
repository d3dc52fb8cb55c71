//! Who is alive: a table of workers by their lines on the scoreboard, and
//! nothing else. Spawn, reap, back off, renew, signal.
//!
//! A worker's number is what the operator counts. A worker that is relieved by
//! its successor keeps its line while it drains; the successor of the same
//! number has another.

mod bury;
mod logs;
mod plan;
mod watchdog;

use crate::channel::{Channel, Message};
use crate::config::Supervision;
use crate::scoreboard::{MAX_SLOTS, Scoreboard, State};
use crate::sys::clock;
use crate::sys::process::{self, Forked, Pid, Solo};
use crate::sys::signal::{self, Inbox, Mask};
use crate::sys::watch;
pub use bury::{Dead, how};
use logs::Logs;
use mio::{Poll, Token};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A worker that runs.
struct Worker {
    nr: usize,
    pid: Pid,
    /// Of the configuration that it has.
    generation: u64,
    channel: Channel,
    since: Instant,
    is_ready: bool,
    /// It was told to leave for good: a successor has its number, or nobody shall.
    is_relieved: bool,
    /// It was sent SIGABRT then.
    aborted: Option<Instant>,
    /// It was sent SIGKILL then; inside a dead disk's call it lives on.
    killed: Option<Instant>,
    /// What its channel had no room for.
    unsaid: Option<Message>,
    /// How often it was given the log anew and has not answered yet.
    logs: u32,
}

impl Worker {
    fn tell(&mut self, message: Message) {
        match self.channel.send(message) {
            Ok(()) => {}
            // It has not listened for long; the last word counts.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.unsaid = Some(message),
            // EPIPE: it is dead, and will be reaped.
            Err(e) => log::warn!("worker {}, pid {}, was not told: {e}", self.nr, self.pid),
        }
    }

    fn kill(&mut self, why: std::fmt::Arguments<'_>) {
        log::error!("worker {}, pid {}, {why}: SIGKILL", self.nr, self.pid);
        self.killed = Some(Instant::now());
        // ESRCH: it has ended meanwhile.
        let _ = process::kill(self.pid);
    }
}

/// What is known of a worker's number beyond the worker.
#[derive(Default)]
struct Place {
    /// Deaths in a row that came early, and forks that failed.
    early: u32,
    /// The latter.
    unforked: u32,
    /// Of those, the ones that came before the worker was ready.
    stillborn: u32,
    /// Not before this.
    due: Option<Instant>,
}

/// See the module.
pub struct Children {
    /// By line.
    slots: Vec<Option<Worker>>,
    /// By number.
    places: Vec<Place>,
    /// Whose configuration workers shall have.
    generation: u64,
    scoreboard: Scoreboard,
    spawn_timeout: Duration,
    hard_timeout: Duration,
    looked: Instant,
    /// How long the machine had slept by then. Milliseconds.
    suspended: u64,
    /// The master has been awake since.
    awake: Instant,
    is_surveyed: bool,
    is_shut_down: bool,
    /// The elected process that was asked to resign, and when.
    asked: Option<(u32, Instant)>,
    /// Workers that have died otherwise than they were told to.
    deaths: u64,
    logs: Logs,
}

/// The child's side of a fork, before it has settled.
pub struct Heir {
    channel: Channel,
    /// The worker's number, and its line.
    pub nr: usize,
    pub slot: usize,
}

impl Children {
    /// Places for so many workers, all empty.
    pub fn new(workers: usize, knobs: &Supervision, scoreboard: Scoreboard) -> Children {
        Children {
            slots: (0..MAX_SLOTS).map(|_| None).collect(),
            places: (0..workers).map(|_| Place::default()).collect(),
            generation: 1,
            scoreboard,
            spawn_timeout: knobs.spawn,
            hard_timeout: knobs.hard,
            looked: Instant::now(),
            suspended: clock::suspended_ms(),
            awake: Instant::now(),
            is_surveyed: false,
            is_shut_down: false,
            asked: None,
            deaths: 0,
            logs: Logs::default(),
        }
    }

    fn workers(&self) -> impl Iterator<Item = (usize, &Worker)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, worker)| Some((slot, worker.as_ref()?)))
    }

    /// Whether none is alive.
    pub fn is_empty(&self) -> bool {
        self.workers().next().is_none()
    }

    /// Workers that serve and are to stay, of the current generation; and how
    /// many there shall be.
    pub fn ready(&self) -> (usize, usize) {
        let ready = self.workers().filter(|(_, worker)| {
            worker.is_ready && !worker.is_relieved && worker.generation == self.generation
        });
        (ready.count(), self.places.len())
    }

    /// Whether each place has a worker that serves.
    pub fn are_all_ready(&self) -> bool {
        let (ready, wanted) = self.ready();
        ready >= wanted
    }

    /// Workers that have died otherwise than they were told to.
    pub fn deaths(&self) -> u64 {
        self.deaths
    }

    /// Whose configuration workers have, or are getting.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The living, for a log line.
    pub fn names(&self) -> String {
        self.workers()
            .map(|(_, worker)| format!("worker {} (pid {})", worker.nr, worker.pid))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The living: line and pid. The rest is on the scoreboard.
    pub fn list(&self) -> impl Iterator<Item = (usize, u32)> {
        let workers = self.workers();
        workers.map(|(slot, worker)| (slot, worker.pid as u32))
    }

    /// Forks worker `nr`. Some is the child's side.
    pub fn spawn(&mut self, nr: usize, poll: &Poll) -> io::Result<Option<Heir>> {
        let solo = Solo::prove()?;
        let slot = self.slots.iter().position(Option::is_none);
        let slot = slot.ok_or_else(|| io::Error::other("too many workers still drain"))?;
        let (ours, theirs) = Channel::pair()?;
        watch::readable(poll.registry(), ours.as_fd(), Token(slot))?;
        self.scoreboard.slot(slot).begin(nr, self.generation);
        // A signal to the child before it has its own pipe would be written
        // into ours.
        let mask = Mask::all().apply();
        let forked = process::fork(solo);
        if let Ok(Forked::Child) = forked {
            // Its first act: the master waits for it.
            self.scoreboard.slot(slot).enter(std::process::id());
            return Ok(Some(Heir {
                channel: theirs,
                nr,
                slot,
            }));
        }
        mask.apply();
        if forked.is_err() {
            self.scoreboard.slot(slot).set_state(State::Empty);
        }
        let Forked::Parent(pid) = forked? else {
            return Ok(None);
        };
        self.slots[slot] = Some(Worker {
            nr,
            pid,
            generation: self.generation,
            channel: ours,
            since: Instant::now(),
            is_ready: false,
            is_relieved: false,
            aborted: None,
            killed: None,
            unsaid: None,
            logs: 0,
        });
        Ok(None)
    }

    /// Reads what the worker of this line says.
    pub fn listen(&mut self, slot: usize) {
        let Some(worker) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        // Its end, and errors, are told by its death.
        while let Ok(Some(message)) = worker.channel.receive() {
            match message {
                Message::Ready if !worker.is_ready => {
                    worker.is_ready = true;
                    log::info!("worker {} is ready, pid {}", worker.nr, worker.pid);
                    if let Some(place) = self.places.get_mut(worker.nr) {
                        place.stillborn = 0;
                    }
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

    /// Says something to all.
    pub fn tell(&mut self, message: Message) {
        for worker in self.slots.iter_mut().flatten() {
            worker.tell(message);
        }
    }

    /// Says again what could not be said before.
    pub fn tell_again(&mut self) {
        for worker in self.slots.iter_mut().flatten() {
            if let Some(message) = worker.unsaid.take() {
                worker.tell(message);
            }
        }
    }

    /// SIGKILL to all, and to what they have started: each has a process group.
    pub fn kill_all(&self) {
        for (_, worker) in self.workers() {
            log::error!(
                "worker {}, pid {}, did not obey: SIGKILL",
                worker.nr,
                worker.pid
            );
            // ESRCH: it has ended meanwhile.
            let _ = process::kill_group(worker.pid);
        }
    }
}

impl Heir {
    /// Makes the child a process of its own: it holds what is in `keep`, its
    /// standard streams and its channel, and has its own signals.
    pub fn settle(self, keep: &[BorrowedFd<'_>]) -> io::Result<(Channel, Inbox)> {
        let channel = self.pack(keep)?;
        let signals = Inbox::open()?;
        signal::ignore_but_stops()?;
        Mask::none().apply();
        Ok((channel, signals))
    }

    /// The same for a child that executes the program anew: all signals stay
    /// blocked, and wait for the new image.
    pub fn pack(self, keep: &[BorrowedFd<'_>]) -> io::Result<Channel> {
        // A terminal's signals are the master's, who passes them on.
        process::lead_group()?;
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
