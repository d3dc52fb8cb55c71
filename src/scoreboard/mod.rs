//! The shared page: atomics of each worker, of each device, of the whole process
//! tree, and nothing else. Workers write their own lines, the elected worker
//! those of the devices; all read all. No lock may live here: it would die with
//! its holder.

mod device;
mod worker;

pub use device::{Device, MAX_DEVICES, MAX_NAME, Name, Row, Util, device_id};
pub use worker::{Counts, Slot, State};

use crate::sys::clock;
use crate::sys::memory::Shared;
pub use crate::text::MAX_TEXT;
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

/// The lines: several a worker, one for the tree, one a device.
type Page = [Line; MAX_SLOTS * worker::LINES + 1 + MAX_DEVICES];
const TREE: usize = MAX_SLOTS * worker::LINES;
const DEVICES: usize = TREE + 1;

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
/// Whether another living tree of processes has our listeners too.
const SHARED: usize = 7;

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

    /// A worker's lines; `nr` is below [`MAX_SLOTS`].
    pub fn slot(&self, nr: usize) -> Slot<'_> {
        Slot(&self.0[..TREE].as_chunks().0[nr])
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

    /// Another living tree of processes serves our listeners too: a predecessor,
    /// or a successor. Said by the master; who drains then leaves the listen
    /// queues to the other.
    pub fn set_shared(&self, shared: bool) {
        self.tree()[SHARED].store(u64::from(shared), Ordering::Release);
    }

    /// See [`Scoreboard::set_shared`].
    pub fn is_shared(&self) -> bool {
        self.tree()[SHARED].load(Ordering::Acquire) != 0
    }
}
