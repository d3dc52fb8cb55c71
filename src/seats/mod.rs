//! Seats: as many consumers as there are cores for them wait for clients and
//! serve them; the others stand by. An event that wakes a waiting consumer while
//! another was about to ask for it costs two switches for nothing, and with
//! twenty threads that happens all the time; with none left to wake, never.
//!
//! Who knows that it will wait for a disk gives its seat to one who stands by
//! ([`Seat::will_wait`]). Who cannot know says so ([`Seat::may_wait`]): where that
//! took long lately, it gives up its seat as well. And one of those who stand by
//! keeps watch: a turn that is still the same at its next look has lost its seat.
//! So a disk holds threads, as ever, and seats for some milliseconds at most.

mod visit;

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::sys::clock;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use visit::Visit;

/// How often the watch looks for turns that do not end.
const LOOK: Duration = Duration::from_millis(4);

/// After so many looks at seats where nobody moved the watch sleeps until
/// a client comes: a quiet server's threads do not wake.
const QUIET_LOOKS: u32 = 4;

/// After the watch has taken a seat, all who may wait give theirs up for so long:
/// others may come to the same disk. Milliseconds.
const SURPRISED_MS: u64 = 100;

/// For so long behind a wait for a disk a consumer needs no seat: where many
/// wait, to hand seats to and fro would cost more than it saves. Milliseconds.
const EXTRA_MS: u64 = 10;

/// After a wait for a disk its consumer asks before it sends from a file
/// whether it is in memory; otherwise each so manieth time. Milliseconds.
const WARY_MS: u64 = 1000;
const ASKS_EVERY: u32 = 8;

/// What a seat says: 0 when it is free, or its owner's number, above the number
/// of the owner's turns so far, above whether one is under way.
const FREE: u64 = 0;
const OWNER_SHIFT: u32 = 32;
const IN_TURN: u64 = 1;
const ONE_TURN: u64 = 2;

/// One worker's seats.
pub struct Seats {
    seats: Box<[AtomicU64]>,
    /// The next consumer's number, from 1.
    next: AtomicU32,
    /// Those who stand by, the watch among them.
    standby: AtomicUsize,
    /// The watch sleeps until it is woken.
    dozes: AtomicBool,
    /// When it last took a seat from one who hung: milliseconds, of a clock that
    /// does not wrap. 0: never.
    surprised: AtomicU64,
    room: Mutex<Room>,
    /// A seat has become free; told the watch only where nobody else stands by.
    free: Condvar,
    /// For the watch alone.
    watch: Condvar,
}

#[derive(Default)]
struct Room {
    has_watch: bool,
    /// Counts the calls of [`Seats::rouse`].
    roused: u64,
}

/// What a consumer has of the seats: one, or none.
#[derive(Default)]
pub struct Seat {
    /// None: whoever has this is no consumer, and nobody stands by for it.
    seats: Option<Arc<Seats>>,
    owner: u64,
    /// Its place, and what that says.
    held: Cell<Option<(usize, u64)>>,
    visit: Visit,
    /// When it knew last that it would wait: milliseconds, of a clock that does
    /// not wrap. 0: never.
    waited: Cell<u64>,
    asks: Cell<u32>,
}

/// Whether this says that its owner's turn is under way.
fn is_in_turn(word: u64) -> bool {
    word & IN_TURN != 0
}

/// Makes a seat say another thing, if it says this still.
fn replace(seat: &AtomicU64, word: u64, by: u64) -> bool {
    seat.compare_exchange(word, by, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

impl Seats {
    /// So many, one at least.
    pub fn new(seats: usize) -> Arc<Seats> {
        Arc::new(Seats {
            seats: (0..seats.max(1)).map(|_| AtomicU64::new(FREE)).collect(),
            next: AtomicU32::new(1),
            standby: AtomicUsize::new(0),
            dozes: AtomicBool::new(false),
            surprised: AtomicU64::new(0),
            room: Mutex::new(Room::default()),
            free: Condvar::new(),
            watch: Condvar::new(),
        })
    }

    /// All who stand by return without a seat, to look whether they shall.
    pub fn rouse(&self) {
        self.room.lock().roused += 1;
        self.free.notify_all();
        self.watch.notify_all();
    }

    /// Takes a free one.
    fn grab(&self, owner: u64) -> Option<(usize, u64)> {
        let word = owner << OWNER_SHIFT;
        self.seats.iter().enumerate().find_map(|(place, seat)| {
            let is_free = seat.load(Ordering::SeqCst) == FREE;
            (is_free && replace(seat, FREE, word)).then_some((place, word))
        })
    }

    /// Waits for a seat. None: somebody has roused those who stand by.
    fn stand_by(&self, owner: u64) -> Option<(usize, u64)> {
        let mut room = self.room.lock();
        // Counted before the look: whoever frees a seat after it sees that
        // somebody stands by.
        self.standby.fetch_add(1, Ordering::SeqCst);
        let roused = room.roused;
        let found = loop {
            if let Some(found) = self.grab(owner) {
                break Some(found);
            }
            if room.roused != roused {
                break None;
            }
            if room.has_watch {
                self.free.wait(&mut room);
                continue;
            }
            room.has_watch = true;
            let found = self.keep_watch(owner, &mut room, roused);
            room.has_watch = false;
            break found;
        };
        let others = self.standby.fetch_sub(1, Ordering::SeqCst) > 1;
        // The watch has left; or a second seat became free while its word was on
        // its way to us.
        if others && (!room.has_watch || self.has_free()) {
            self.call(&room);
        }
        found
    }

    fn has_free(&self) -> bool {
        self.seats
            .iter()
            .any(|seat| seat.load(Ordering::SeqCst) == FREE)
    }

    /// Wakes one who stands by; the watch only where nobody else does.
    fn call(&self, room: &MutexGuard<'_, Room>) {
        if self.standby.load(Ordering::SeqCst) > usize::from(room.has_watch) {
            self.free.notify_one();
        } else {
            self.watch.notify_one();
        }
    }

    /// Looks after the seats until one is free, or is taken from a turn that does
    /// not end. None: it was roused.
    fn keep_watch(
        &self,
        owner: u64,
        room: &mut MutexGuard<'_, Room>,
        roused: u64,
    ) -> Option<(usize, u64)> {
        let word = owner << OWNER_SHIFT;
        let mut seen = vec![FREE; self.seats.len()];
        let mut quiet = 0;
        loop {
            let mut is_time = false;
            if quiet < QUIET_LOOKS {
                is_time = self.watch.wait_for(room, LOOK).timed_out();
            } else {
                self.doze(room);
                quiet = 0;
            }
            if let Some(found) = self.grab(owner) {
                return Some(found);
            }
            if room.roused != roused {
                return None;
            }
            let mut moves = false;
            for (place, (seat, before)) in self.seats.iter().zip(&mut seen).enumerate() {
                let now = seat.load(Ordering::SeqCst);
                let is_stuck = is_time && is_in_turn(now) && now == *before;
                if is_stuck && replace(seat, now, word) {
                    self.surprised.store(clock::coarse_ms(), Ordering::Relaxed);
                    return Some((place, word));
                }
                moves |= is_in_turn(now) || now != *before;
                *before = now;
            }
            quiet = if moves { 0 } else { quiet + 1 };
        }
    }

    /// Until a turn begins, a seat is free for it, or all are roused.
    fn doze(&self, room: &mut MutexGuard<'_, Room>) {
        self.dozes.store(true, Ordering::SeqCst);
        // Whose turn began before may not have seen that it must wake us.
        let in_turn = |seat: &AtomicU64| is_in_turn(seat.load(Ordering::SeqCst));
        if !self.seats.iter().any(in_turn) {
            self.watch.wait(room);
        }
        self.dozes.store(false, Ordering::SeqCst);
    }

    /// A turn has begun.
    fn wake_watch(&self) {
        if self.dozes.load(Ordering::SeqCst) && self.dozes.swap(false, Ordering::SeqCst) {
            drop(self.room.lock());
            self.watch.notify_one();
        }
    }

    /// A seat says this no more: it is free, unless it was another's already.
    fn free(&self, (place, word): (usize, u64)) {
        let was_ours = replace(&self.seats[place], word, FREE);
        if was_ours && self.standby.load(Ordering::SeqCst) > 0 {
            let room = self.room.lock();
            self.call(&room);
        }
    }
}

impl Seat {
    /// A new consumer's: it has none yet.
    pub fn new(seats: &Arc<Seats>) -> Seat {
        let mut seat = Seat::default();
        seat.owner = u64::from(seats.next.fetch_add(1, Ordering::Relaxed));
        seat.seats = Some(Arc::clone(seats));
        seat
    }

    /// Sits down, to wait for clients; where all seats are taken it stands by
    /// before, unless it has waited for a disk just now: then there is work for
    /// more than those. False: it was roused, and shall not wait for clients.
    pub fn take(&self) -> bool {
        let (Some(seats), None) = (&self.seats, self.held.get()) else {
            return true;
        };
        self.held.set(seats.grab(self.owner));
        if self.held.get().is_some() || self.has_waited_within(EXTRA_MS) {
            return true;
        }
        self.held.set(seats.stand_by(self.owner));
        self.held.get().is_some()
    }

    /// How long it may wait for clients; who has no seat not for long.
    pub fn waits_at_most(&self, longest: Duration) -> Duration {
        if self.seats.is_some() && self.held.get().is_none() {
            return Duration::from_millis(EXTRA_MS);
        }
        longest
    }

    fn has_waited_within(&self, ms: u64) -> bool {
        clock::was_within(self.waited.get(), ms)
    }

    /// A turn begins, at this nanosecond of the monotonic clock. It has a seat.
    pub fn begin(&self, now: u64) {
        self.visit.turn_begins(now);
        if let (Some(seats), Some((place, word))) = (&self.seats, self.held.get()) {
            let owner = word >> OWNER_SHIFT << OWNER_SHIFT;
            let turns = u64::from((word as u32).wrapping_add(ONE_TURN as u32));
            let word = owner | turns | IN_TURN;
            // Between turns nobody else writes it.
            seats.seats[place].store(word, Ordering::SeqCst);
            self.held.set(Some((place, word)));
            seats.wake_watch();
        }
    }

    /// The turn is over. The seat may have gone.
    pub fn end(&self) {
        if let (Some(seats), Some((place, word))) = (&self.seats, self.held.get()) {
            let at_rest = word & !IN_TURN;
            let is_ours = replace(&seats.seats[place], word, at_rest);
            self.held.set(is_ours.then_some((place, at_rest)));
        }
    }

    /// From here on it waits for a disk, or for a core for long: another takes
    /// its seat.
    pub fn will_wait(&self) {
        self.visit.stop_timing();
        if let Some(seats) = &self.seats {
            self.waited.set(clock::coarse_ms());
            if let Some(held) = self.held.take() {
                seats.free(held);
            }
        }
    }

    /// From here on it may wait for a disk, nobody can say.
    pub fn may_wait(&self) {
        self.may_hang();
        if self.held.get().is_some() && self.visit.is_slow() {
            self.will_wait();
        }
        self.visit.start_timing();
    }

    /// It will not wait, but for a disk that hangs.
    pub fn may_hang(&self) {
        if self.held.get().is_some() && self.is_surprised() {
            self.will_wait();
        }
    }

    fn is_surprised(&self) -> bool {
        self.seats.as_ref().is_some_and(|seats| {
            clock::was_within(seats.surprised.load(Ordering::Relaxed), SURPRISED_MS)
        })
    }

    /// It will not wait, as far as anybody knows; should it, that is noticed.
    pub fn should_not_wait(&self) {
        self.visit.start_timing();
    }

    /// It enters a device, which may have made threads wait lately.
    pub fn enters(&self, is_slow: bool) {
        self.visit.begin(is_slow);
    }

    /// It leaves the device. Whether that has made it wait without its knowing
    /// before.
    pub fn leaves(&self) -> bool {
        self.visit.end()
    }

    /// Whether it is a consumer's.
    pub fn is_one(&self) -> bool {
        self.seats.is_some()
    }

    /// Whether a question to the kernel whether it would wait is worth its price,
    /// where no answer comes without one.
    pub fn asks(&self) -> bool {
        if self.seats.is_none() {
            return false;
        }
        self.asks.set(self.asks.get().wrapping_add(1));
        self.visit.is_slow()
            || self.asks.get().is_multiple_of(ASKS_EVERY)
            || self.has_waited_within(WARY_MS)
    }
}

#[cfg(test)]
impl Seats {
    /// Whether a seat is nobody's.
    pub fn any_free(&self) -> bool {
        self.has_free()
    }
}

#[cfg(test)]
impl Seat {
    /// Whether it is one, as far as it knows.
    pub fn is_held(&self) -> bool {
        self.held.get().is_some()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let (Some(seats), Some(held)) = (&self.seats, self.held.take()) {
            seats.free(held);
        }
    }
}
