//! The gate: an acceptor accepts only what its process has room for, so that
//! at saturation the kernel's listen queue stays the one combined queue
//! (BALANCING: without it the tail is that of a queue per process).
//!
//! Room is: busy consumers + fresh connections < consumers, and connections
//! below the worker's share. A connection is fresh that had sent something when
//! it was accepted and waits for its first turn, but not longer than
//! [`FRESH_NS`]: one that says nothing is not work.

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::sys::clock;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection that was not served yet counts as work. Nanoseconds.
const FRESH_NS: u64 = 2_000_000;

/// Fresh connections are counted by the moment of their accept, in slices of
/// 2^19 ns (0.52 ms): four slices are the 2 ms.
const SLICE_SHIFT: u32 = 19;
const FRESH_SLICES: u32 = (FRESH_NS >> SLICE_SHIFT) as u32;

/// A power of two, for which their numbers may wrap.
const SLICES: usize = (FRESH_SLICES as usize + 2).next_power_of_two();

/// An acceptor that waits for a consumer looks again after this: freshness
/// passes without anybody saying so.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Whatever the consumers do, a connection gets in after this: its timeouts
/// must run, also when every consumer hangs on a dead disk.
const LONGEST_WAIT_NS: u64 = 50_000_000;

/// How often an acceptor of a full worker looks for the idle.
const FULL_WAIT: Duration = Duration::from_millis(100);

/// A look at all clients for those that are idle costs a lock of each shard.
const EXPIRE_EVERY_NS: u64 = 1_000_000_000;

/// What the gate says to an acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Accept one.
    Yes,
    /// No connection is left of the worker's share: make room, ask again.
    Full,
    /// The worker is stopping: ask no more.
    Closed,
}

/// See the module.
pub struct Gate {
    /// Those that are not lost in a device that hangs.
    consumers: AtomicUsize,
    /// Connections at most.
    share: usize,
    busy: AtomicUsize,
    connections: AtomicUsize,
    /// Acceptors that wait.
    waiting: AtomicUsize,
    closed: AtomicBool,
    fresh: Mutex<Fresh>,
    room: Condvar,
    /// When idle connections last had to give way: nanoseconds, monotonic.
    expired: AtomicU64,
}

/// A ring of counts, by slice of time.
#[derive(Default)]
struct Fresh {
    slices: [(u32, usize); SLICES],
}

impl Fresh {
    fn add(&mut self, slice: u32) {
        let place = &mut self.slices[slice as usize % SLICES];
        if place.0 == slice {
            place.1 += 1;
        } else {
            *place = (slice, 1);
        }
    }

    fn remove(&mut self, slice: u32) {
        let place = &mut self.slices[slice as usize % SLICES];
        if place.0 == slice {
            place.1 = place.1.saturating_sub(1);
        }
    }

    fn count(&self, now: u32) -> usize {
        self.slices
            .iter()
            .filter(|(slice, _)| now.wrapping_sub(*slice) <= FRESH_SLICES)
            .map(|(_, count)| count)
            .sum()
    }
}

/// The number of the slice that this nanosecond is in. It wraps after 26 days.
fn slice(ns: u64) -> u32 {
    (ns >> SLICE_SHIFT) as u32
}

/// One connection's place; dropped with the connection.
pub struct Place {
    gate: Arc<Gate>,
    /// The slice of its accept, until its first turn.
    fresh: Option<NonZeroU32>,
}

impl Place {
    /// It has sent something that nobody has looked at: work for a consumer.
    pub fn is_work(&mut self) {
        // Number 0, once in 26 days, is taken for none.
        let slice = NonZeroU32::new(slice(clock::monotonic_ns()));
        if let (None, Some(slice)) = (self.fresh, slice) {
            self.gate.fresh.lock().add(slice.get());
            self.fresh = Some(slice);
        }
    }

    /// Its first turn has come: it is a busy consumer's now.
    pub fn served(&mut self) {
        if let Some(slice) = self.fresh.take() {
            self.gate.fresh.lock().remove(slice.get());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.served();
        self.gate.connections.fetch_sub(1, Ordering::SeqCst);
        self.gate.tell();
    }
}

impl Gate {
    /// For a worker of so many consumers and at most so many connections.
    pub fn new(consumers: usize, share: usize) -> Arc<Gate> {
        Arc::new(Gate {
            consumers: AtomicUsize::new(consumers),
            share,
            busy: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            fresh: Mutex::new(Fresh::default()),
            room: Condvar::new(),
            expired: AtomicU64::new(0),
        })
    }

    /// The pool has another size.
    pub fn set_consumers(&self, consumers: usize) {
        self.consumers.store(consumers, Ordering::Relaxed);
        self.tell();
    }

    /// Waits until there is room for one more connection.
    pub fn wait(&self) -> Room {
        let mut fresh = self.fresh.lock();
        let since = clock::monotonic_ns();
        if let Some(room) = self.look(&fresh, since, since) {
            return room;
        }
        // Counted before the next look: whoever makes room after it sees that
        // somebody waits.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut full_since = None;
        let room = loop {
            let now = clock::monotonic_ns();
            if let Some(room) = self.look(&fresh, since, now) {
                break room;
            }
            let pause = if self.is_full() {
                // From the first look: each turn that ends wakes us, and of most
                // of them no room comes.
                let waited = now - *full_since.get_or_insert(now);
                match FULL_WAIT.checked_sub(Duration::from_nanos(waited)) {
                    Some(left) if !left.is_zero() => left,
                    _ => break Room::Full,
                }
            } else {
                full_since = None;
                LOOK_AGAIN
            };
            self.room.wait_for(&mut fresh, pause);
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        // One acceptor was woken. No client may come to its listener for long,
        // so it passes the word on: there may be room for the next one too.
        self.room.notify_one();
        room
    }

    /// Whether the worker's share of connections is used up.
    pub fn is_full(&self) -> bool {
        self.connections.load(Ordering::SeqCst) >= self.share
    }

    fn look(&self, fresh: &Fresh, since: u64, now: u64) -> Option<Room> {
        if self.closed.load(Ordering::SeqCst) {
            return Some(Room::Closed);
        }
        let work = self.busy.load(Ordering::SeqCst) + fresh.count(slice(now));
        // `--cfg ungated` is what scripts/bench shows the gate's worth with.
        let in_time = cfg!(ungated)
            || work < self.consumers.load(Ordering::Relaxed)
            || now - since >= LONGEST_WAIT_NS;
        (in_time && !self.is_full()).then_some(Room::Yes)
    }

    /// A connection was accepted. `is_work`: it has sent something already.
    pub fn enter(self: &Arc<Gate>, is_work: bool) -> Place {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let mut place = Place {
            gate: Arc::clone(self),
            fresh: None,
        };
        if is_work {
            place.is_work();
        }
        place
    }

    /// A consumer begins a turn.
    pub fn begin(&self) {
        self.busy.fetch_add(1, Ordering::SeqCst);
    }

    /// A consumer has ended its turn.
    pub fn end(&self) {
        self.busy.fetch_sub(1, Ordering::SeqCst);
        self.tell();
    }

    /// Wakes an acceptor, if one waits: there may be room now.
    fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.fresh.lock());
            self.room.notify_one();
        }
    }

    /// Pauses an acceptor that has no descriptor for a connection, until one may
    /// have become free; also when the gate is closed, or it would spin.
    pub fn pause(&self, at_most: Duration) {
        let mut fresh = self.fresh.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.room.wait_for(&mut fresh, at_most);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        // The word may have been for an acceptor that waits for room.
        self.room.notify_one();
    }

    /// Whether idle connections may have to give way once more: at most once in
    /// [`EXPIRE_EVERY_NS`], whoever asks.
    pub fn expiry_is_due(&self) -> bool {
        let now = clock::monotonic_ns();
        let last = self.expired.load(Ordering::SeqCst);
        (last == 0 || now - last >= EXPIRE_EVERY_NS)
            && self
                .expired
                .compare_exchange(last, now, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    /// From now on nobody waits here.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        drop(self.fresh.lock());
        self.room.notify_all();
    }

    /// Connections now, and busy consumers.
    pub fn load(&self) -> (usize, usize) {
        (
            self.connections.load(Ordering::SeqCst),
            self.busy.load(Ordering::SeqCst),
        )
    }
}
