//! The shared page: a line of atomics per worker, one per device, one for the
//! whole process tree, and nothing else. Workers write their own line, the
//! elected worker those of the devices; all read all. No lock may live here: it
//! would die with its holder.

mod device;

pub use device::{Device, MAX_DEVICES, MAX_NAME, Name, Row, Util, device_id};

use crate::sys::clock;
use crate::sys::memory::Shared;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// The most workers that serve at a time.
pub const MAX_WORKERS: usize = 64;

/// Lines for workers, preallocated: those that serve, and those that their
/// successors have relieved and that still drain.
pub const MAX_SLOTS: usize = 2 * MAX_WORKERS;

/// A cache line. Advisory counters are relaxed.
type Line = [AtomicU64; 8];

/// The lines: workers, the tree, devices.
type Page = [Line; MAX_SLOTS + 1 + MAX_DEVICES];
const TREE: usize = MAX_SLOTS;
const DEVICES: usize = TREE + 1;

/// What stands where in a worker's line.
const STATE: usize = 0;
/// Milliseconds of the monotonic clock, which all processes share.
const HEARTBEAT: usize = 1;
const CONNECTIONS: usize = 2;
const BUSY: usize = 3;
/// The worker's number and its configuration's generation.
const WORKER: usize = 4;
const GENERATION: usize = 5;

/// What stands where in the tree's line: the elected worker (its number plus
/// one, and its pid), and when it last made progress.
const LEADER: usize = 0;
const LEADER_TICK: usize = 1;
/// Utilization reports so far; whether there are none to be had.
const REPORTS: usize = 2;
const NO_UTILIZATION: usize = 3;
/// How often a refresh of the usage files was asked for.
const REFRESHES: usize = 4;
/// Changes with the devices that have a row.
const LAYOUT: usize = 5;
/// Consumer threads that the sidechannel has asked for; 0: as configured.
const THREADS: usize = 6;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    Empty = 0,
    /// The master is about to fork it.
    Born = 1,
    /// It runs: its first act.
    Alive = 2,
    /// It gives up the master's rights.
    Privileges = 3,
    /// It opens the docroots.
    Docroots = 4,
    /// It starts its threads.
    Threads = 5,
    /// It tries whether it can serve.
    SelfTest = 6,
    Ready = 7,
    Draining = 8,
}

impl State {
    const ALL: [State; 9] = [
        State::Empty,
        State::Born,
        State::Alive,
        State::Privileges,
        State::Docroots,
        State::Threads,
        State::SelfTest,
        State::Ready,
        State::Draining,
    ];
}

/// One worker's line.
pub struct Slot<'a>(&'a Line);

/// Who is elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    pub worker: usize,
    pub pid: u32,
    /// Milliseconds since it last made progress.
    pub silent_for: u64,
}

/// A handle on the page; clones (also those of forked children) see the same.
#[derive(Clone)]
pub struct Scoreboard(Shared<Page>);

impl Scoreboard {
    /// An empty board for this process and those that it forks.
    pub fn new() -> io::Result<Scoreboard> {
        Scoreboard::with_file().map(|(board, _)| board)
    }

    /// An empty board, and the descriptor by which another image of this program
    /// has the same.
    pub fn with_file() -> io::Result<(Scoreboard, OwnedFd)> {
        let (page, file) = Shared::new(c"rmogstored-scoreboard")?;
        Ok((Scoreboard(page), file))
    }

    /// The board of that descriptor.
    pub fn from_fd(file: BorrowedFd<'_>) -> io::Result<Scoreboard> {
        Shared::from_fd(file).map(Scoreboard)
    }

    /// The line of a worker: below [`MAX_SLOTS`].
    pub fn slot(&self, nr: usize) -> Slot<'_> {
        Slot(&self.0[..TREE][nr])
    }

    /// The line of device `nr`, below [`MAX_DEVICES`].
    pub fn row(&self, nr: usize) -> Row<'_> {
        Row(&self.0[DEVICES..][nr])
    }

    /// The devices that have a line, and its number.
    pub fn rows(&self) -> impl Iterator<Item = (usize, Row<'_>)> {
        (0..MAX_DEVICES)
            .map(|nr| (nr, self.row(nr)))
            .filter(|(_, row)| row.is_taken())
    }

    /// Finds the line of a device, or takes one: for the elected worker, and
    /// the master before it forks. None: all are taken, or the name is longer
    /// than [`MAX_NAME`].
    pub fn place(&self, site: usize, name: &[u8]) -> Option<usize> {
        let name = Name::new(name)?;
        let found = self
            .rows()
            .find(|(_, row)| row.device().is_some_and(|device| device == (site, name)));
        if let Some((nr, _)) = found {
            return Some(nr);
        }
        let nr = (0..MAX_DEVICES).find(|nr| !self.row(*nr).is_taken())?;
        self.row(nr).take(site, name);
        self.tree()[LAYOUT].fetch_add(1, Ordering::Release);
        Some(nr)
    }

    /// The device is gone: its line is free again.
    pub fn free(&self, row: usize) {
        self.row(row).free();
        self.tree()[LAYOUT].fetch_add(1, Ordering::Release);
    }

    /// A number that changes with the devices that have a line.
    pub fn layout(&self) -> u64 {
        self.tree()[LAYOUT].load(Ordering::Acquire)
    }

    fn tree(&self) -> &Line {
        &self.0[TREE]
    }

    /// This worker is elected from now on.
    pub fn lead(&self, worker: usize, pid: u32) {
        // The tick first: nobody may judge the new one by the old one's.
        self.leader_tick();
        let leader = (worker as u64 + 1) << 32 | u64::from(pid);
        self.tree()[LEADER].store(leader, Ordering::Release);
    }

    /// The elected worker makes progress.
    pub fn leader_tick(&self) {
        self.tree()[LEADER_TICK].store(clock::monotonic_ms(), Ordering::Release);
    }

    /// This process is elected no more; nothing happens when another is already.
    pub fn resign(&self, worker: usize, pid: u32) {
        let leader = (worker as u64 + 1) << 32 | u64::from(pid);
        let _ =
            self.tree()[LEADER].compare_exchange(leader, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Who is elected, if anybody has said so.
    pub fn leader(&self) -> Option<Leader> {
        let leader = self.tree()[LEADER].load(Ordering::Acquire);
        let tick = self.tree()[LEADER_TICK].load(Ordering::Acquire);
        Some(Leader {
            worker: (leader >> 32).checked_sub(1)? as usize,
            pid: leader as u32,
            silent_for: clock::monotonic_ms().saturating_sub(tick),
        })
    }

    /// The number of the newest utilization report; 0: there was none.
    pub fn reports(&self) -> u64 {
        self.tree()[REPORTS].load(Ordering::Acquire)
    }

    /// The devices' lines hold a new report.
    pub fn announce_report(&self) {
        self.tree()[REPORTS].fetch_add(1, Ordering::AcqRel);
    }

    /// Whether utilization is to be had; until somebody knows better, it is.
    pub fn set_utilization(&self, available: bool) {
        self.tree()[NO_UTILIZATION].store(u64::from(!available), Ordering::Release);
    }

    /// See [`Scoreboard::set_utilization`].
    pub fn has_utilization(&self) -> bool {
        self.tree()[NO_UTILIZATION].load(Ordering::Acquire) == 0
    }

    /// Somebody wants devices and usage files looked at now.
    pub fn want_refresh(&self) {
        self.tree()[REFRESHES].fetch_add(1, Ordering::AcqRel);
    }

    /// How often that was wanted.
    pub fn refreshes_wanted(&self) -> u64 {
        self.tree()[REFRESHES].load(Ordering::Acquire)
    }

    /// A worker sees calls on this device hang: it should be probed now.
    pub fn suspect(&self, row: usize) {
        self.row(row).suspect();
    }

    /// The sidechannel's `server aio_threads`: consumers of all workers.
    pub fn set_threads(&self, threads: usize) {
        self.tree()[THREADS].store(threads as u64, Ordering::Release);
    }

    /// See [`Scoreboard::set_threads`]; 0: as configured.
    pub fn threads(&self) -> usize {
        self.tree()[THREADS].load(Ordering::Acquire) as usize
    }
}

impl Slot<'_> {
    /// A new worker takes the line: said by the master, before it forks it.
    pub fn begin(&self, worker: usize, generation: u64) {
        self.tick(0, 0);
        self.0[WORKER].store(worker as u64, Ordering::Relaxed);
        self.0[GENERATION].store(generation, Ordering::Relaxed);
        self.set_state(State::Born);
    }

    /// The number of the worker that has the line, and its configuration's
    /// generation.
    pub fn worker(&self) -> (usize, u64) {
        (
            self.0[WORKER].load(Ordering::Relaxed) as usize,
            self.0[GENERATION].load(Ordering::Relaxed),
        )
    }

    /// The worker says where it is.
    pub fn set_state(&self, state: State) {
        self.0[STATE].store(state as u64, Ordering::Release);
    }

    /// The housekeeper is alive, and this is what it sees.
    pub fn tick(&self, connections: usize, busy: usize) {
        self.0[CONNECTIONS].store(connections as u64, Ordering::Relaxed);
        self.0[BUSY].store(busy as u64, Ordering::Relaxed);
        self.0[HEARTBEAT].store(clock::monotonic_ms(), Ordering::Release);
    }

    /// Milliseconds since the last tick.
    pub fn silent_for(&self) -> u64 {
        clock::monotonic_ms().saturating_sub(self.0[HEARTBEAT].load(Ordering::Acquire))
    }

    /// Where the worker last said it was.
    pub fn state(&self) -> State {
        let state = self.0[STATE].load(Ordering::Acquire) as usize;
        State::ALL.get(state).copied().unwrap_or(State::Empty)
    }

    /// Connections at the last tick, and consumers that were serving one.
    pub fn load(&self) -> (u64, u64) {
        (
            self.0[CONNECTIONS].load(Ordering::Relaxed),
            self.0[BUSY].load(Ordering::Relaxed),
        )
    }
}
