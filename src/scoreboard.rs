//! The shared page: one slot of atomics per worker, and nothing else. Workers
//! write their own slot, the master reads all. No lock may live here: it would
//! die with its holder.

use crate::sys::clock;
use crate::sys::memory::Shared;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Worker slots, preallocated for the most workers ever.
pub const MAX_WORKERS: usize = 64;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    Empty = 0,
    Starting = 1,
    Ready = 2,
    Draining = 3,
}

/// One worker's line: a cache line of its own. Advisory counters are relaxed.
pub struct Slot<'a>(&'a Line);

type Line = [AtomicU64; 8];

/// What stands where in a line.
const STATE: usize = 0;
/// Milliseconds of the monotonic clock, which all processes share.
const HEARTBEAT: usize = 1;
const CONNECTIONS: usize = 2;
const BUSY: usize = 3;

/// A handle on the page; clones (also those of forked children) see the same.
#[derive(Clone)]
pub struct Scoreboard(Shared<[Line; MAX_WORKERS]>);

impl Scoreboard {
    /// An empty board. Make it before the first fork.
    pub fn new() -> io::Result<Scoreboard> {
        Shared::new().map(Scoreboard)
    }

    /// The line of worker `nr`, below [`MAX_WORKERS`].
    pub fn slot(&self, nr: usize) -> Slot<'_> {
        Slot(&self.0[nr])
    }
}

impl Slot<'_> {
    /// A new worker takes the line.
    pub fn begin(&self) {
        self.tick(0, 0);
        self.set_state(State::Starting);
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
        match self.0[STATE].load(Ordering::Acquire) {
            1 => State::Starting,
            2 => State::Ready,
            3 => State::Draining,
            _ => State::Empty,
        }
    }

    /// Connections at the last tick, and consumers that were serving one.
    pub fn load(&self) -> (u64, u64) {
        (
            self.0[CONNECTIONS].load(Ordering::Relaxed),
            self.0[BUSY].load(Ordering::Relaxed),
        )
    }
}
