//! Lanes: who is inside of each device, and who waits for it. The rule, without
//! the threads that keep it (`device.rs`).
//!
//! A device may hold one more consumer as long as it holds fewer than are left
//! for all others: of n consumers one busy device gets n/2, k of them n/(k+1)
//! each (rounded up, while there are any), and as many stay free.
//!
//! A consumer that has been inside of a device for [`HANGS_MS`] counts as lost:
//! the pool replaces it, and it weighs on its own device alone.

use crate::queue::Token;
use crate::sys::clock::{self, Tick};
use crate::sys::thread::Thread;
use std::collections::VecDeque;

/// A call that has not come back for so long hangs. Milliseconds; a turn reads
/// or writes a few MiB at most.
const HANGS_MS: u32 = 1000;

/// Clients that wait, with a request, for a device in which nothing moves; more
/// are refused at once. Where it moves, the wait alone is bounded: a crowd that
/// comes at once to a healthy disk is served.
const LINE: usize = 128;

/// A device in which consumers have waited without knowing it before is slow for
/// so long. Milliseconds.
const SLOW_MS: u64 = 200;

/// Less than so long one after the other: one may have lost its core.
/// Milliseconds.
const TWICE_MS: u64 = 26;

/// Lost consumers are replaced by this many times the number of all at most.
/// Those beyond weigh on all devices again.
const MOST_LOST: usize = 4;

#[derive(Default)]
struct Lane {
    inside: Vec<Visitor>,
    line: VecDeque<Waiter>,
    /// Of those inside, how many are lost.
    lost: usize,
    /// When that was last told.
    told: Option<Tick>,
    /// When one has left it last who had waited, and could not know it before;
    /// and when that was not the first. Milliseconds, of a clock that does not
    /// wrap; 0: never.
    waited: u64,
    slow: u64,
}

impl Lane {
    /// All who are inside are lost.
    fn hangs(&self) -> bool {
        self.lost > 0 && self.lost == self.inside.len()
    }
}

struct Visitor {
    serial: u64,
    /// None: it was called from the line, and no consumer has it yet.
    since: Option<(Tick, Thread)>,
    lost: bool,
}

struct Waiter {
    token: Token,
    since: Tick,
    begun: bool,
}

/// See the module.
pub struct Lanes {
    consumers: usize,
    /// Of all lanes: inside, of those lost, in line.
    inside: usize,
    lost: usize,
    waiting: usize,
    next_serial: u64,
    /// The lane that is asked first when there is room.
    next_lane: usize,
    lanes: Vec<Lane>,
}

/// A lane in which consumers hang: how many, and whether that is to be told.
pub struct Hanging {
    pub lane: u32,
    pub are: usize,
    pub is_news: bool,
}

/// That consumers hang in a device is told again after this at the earliest.
/// Milliseconds.
const TOLD_AGAIN_MS: u32 = 60_000;

impl Lanes {
    /// For so many consumers.
    pub fn new(consumers: usize) -> Lanes {
        Lanes {
            consumers,
            inside: 0,
            lost: 0,
            waiting: 0,
            next_serial: 0,
            next_lane: 0,
            lanes: Vec::new(),
        }
    }

    pub fn set_consumers(&mut self, consumers: usize) {
        self.consumers = consumers;
    }

    fn lane(&mut self, lane: u32) -> &mut Lane {
        let lane = lane as usize;
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Lane::default);
        }
        &mut self.lanes[lane]
    }

    /// Consumers that hang, and have another in their place.
    pub fn replaced(&self) -> usize {
        self.lost.min(MOST_LOST * self.consumers)
    }

    /// See the module: fewer inside than are left for all others.
    pub fn has_room(&mut self, lane: u32) -> bool {
        let own = self.lane(lane);
        let (inside, lost) = (own.inside.len(), own.lost);
        let taken = self.inside - self.replaced() + lost;
        inside < self.consumers.saturating_sub(taken)
    }

    /// One more is inside, since then, by this thread; the number by which it
    /// leaves.
    pub fn let_in(&mut self, lane: u32, since: Option<Tick>) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.inside += 1;
        self.lane(lane).inside.push(Visitor {
            serial,
            since: since.map(|since| (since, Thread::this())),
            lost: false,
        });
        serial
    }

    /// Who was called is inside from now on, by this thread.
    pub fn begin(&mut self, lane: u32, serial: u64) {
        let inside = &mut self.lane(lane).inside;
        if let Some(visitor) = inside.iter_mut().find(|v| v.serial == serial) {
            visitor.since = Some((Tick::now(), Thread::this()));
        }
    }

    /// Whether who enters now may well wait there.
    pub fn is_slow(&mut self, lane: u32) -> bool {
        clock::was_within(self.lane(lane).slow, SLOW_MS)
    }

    /// `has_waited`: see [`Lanes::is_slow`].
    pub fn let_out(&mut self, lane: u32, serial: u64, has_waited: bool) {
        let place = self.lane(lane);
        if has_waited {
            let now = clock::coarse_ms();
            if clock::was_within(place.waited, TWICE_MS) {
                place.slow = now;
            }
            place.waited = now;
        }
        let Some(at) = place.inside.iter().position(|v| v.serial == serial) else {
            return;
        };
        if place.inside.swap_remove(at).lost {
            place.lost -= 1;
            self.lost -= 1;
        }
        self.inside -= 1;
    }

    pub fn waiting_for(&mut self, lane: u32) -> usize {
        self.lane(lane).line.len()
    }

    /// Whether one more who waits there would be too many.
    pub fn is_full(&mut self, lane: u32) -> bool {
        let lane = self.lane(lane);
        lane.hangs() && lane.line.len() >= LINE
    }

    /// `begun`: with a transfer under way, not with a request.
    pub fn line_up(&mut self, lane: u32, token: Token, begun: bool) {
        let since = Tick::now();
        self.waiting += 1;
        self.lane(lane).line.push_back(Waiter {
            token,
            since,
            begun,
        });
    }

    /// Takes one out of a line for which there is room. The lines take turns:
    /// where consumers are few, none takes what all wait for.
    pub fn next(&mut self) -> Option<(u32, Token)> {
        if self.waiting == 0 {
            return None;
        }
        let lanes = self.lanes.len();
        for _ in 0..lanes {
            let nr = self.next_lane % lanes;
            self.next_lane = nr + 1;
            if self.lanes[nr].line.is_empty() || !self.has_room(nr as u32) {
                continue;
            }
            let waiter = self.lanes[nr].line.pop_front()?;
            self.waiting -= 1;
            return Some((nr as u32, waiter.token));
        }
        None
    }

    /// Takes out who waits for a dead device, or has waited for `wait`
    /// milliseconds; in the middle of a transfer that is too long only where
    /// all who are inside hang. There a line that has become too long meanwhile
    /// is cut.
    pub fn expire(&mut self, now: Tick, wait: u32, is_dead: impl Fn(u32) -> bool) -> Vec<Token> {
        let mut late = Vec::new();
        if self.waiting == 0 {
            return late;
        }
        for (nr, lane) in self.lanes.iter_mut().enumerate() {
            if lane.line.is_empty() {
                continue;
            }
            let is_dead = is_dead(nr as u32);
            let hangs = lane.hangs();
            let mut kept = 0;
            lane.line.retain(|waiter| {
                let is_late = now.since(waiter.since) >= wait && (hangs || !waiter.begun);
                let is_beyond = hangs && !waiter.begun && kept >= LINE;
                let goes = is_dead || is_late || is_beyond;
                if goes {
                    late.push(waiter.token);
                } else {
                    kept += 1;
                }
                !goes
            });
        }
        self.waiting -= late.len();
        late
    }

    /// Counts again who is lost; returns where any are.
    pub fn count_lost(&mut self, now: Tick) -> Vec<Hanging> {
        // A thread that runs, or waits for a core, is held by no disk.
        let hangs =
            |(since, thread): (Tick, Thread)| now.since(since) >= HANGS_MS && !thread.is_running();
        let mut hanging = Vec::new();
        for (nr, lane) in self.lanes.iter_mut().enumerate() {
            let were = lane.lost;
            for visitor in &mut lane.inside {
                if !visitor.lost && visitor.since.is_some_and(hangs) {
                    visitor.lost = true;
                    lane.lost += 1;
                    self.lost += 1;
                }
            }
            if lane.lost > 0 {
                let is_old = |told| now.since(told) < TOLD_AGAIN_MS;
                let is_news = were == 0 && !lane.told.is_some_and(is_old);
                if is_news {
                    lane.told = Some(now);
                }
                hanging.push(Hanging {
                    lane: nr as u32,
                    are: lane.lost,
                    is_news,
                });
            }
        }
        hanging
    }

    /// Who is inside, of those lost, who waits.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.inside, self.lost, self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(consumers: usize) -> Lanes {
        Lanes::new(consumers)
    }

    /// Lets in whom these lanes have room for, one each in turn.
    fn crowd(lanes: &mut Lanes, which: std::ops::Range<u32>) {
        while which.clone().fold(false, |any, lane| {
            let room = lanes.has_room(lane);
            if room {
                lanes.let_in(lane, Some(Tick::default()));
            }
            any | room
        }) {}
    }

    fn inside(lanes: &mut Lanes, which: std::ops::Range<u32>) -> Vec<usize> {
        which.map(|lane| lanes.lane(lane).inside.len()).collect()
    }

    fn lose(lanes: &mut Lanes, lane: usize) {
        let later = Tick::now();
        // One that has ended does not run.
        let held = std::thread::spawn(Thread::this).join().unwrap();
        for visitor in &mut lanes.lanes[lane].inside {
            visitor.since = visitor.since.map(|_| (Tick::default(), held));
        }
        assert!(later.since(Tick::default()) >= HANGS_MS, "booted just now");
        lanes.count_lost(later);
    }

    #[test]
    fn busy_devices_and_the_rest_get_the_same_share() {
        for (consumers, busy, share) in
            [(10, 1, 5), (12, 1, 6), (12, 2, 4), (12, 3, 3), (60, 5, 10)]
        {
            let mut lanes = lanes(consumers);
            crowd(&mut lanes, 0..busy);
            assert_eq!(
                inside(&mut lanes, 0..busy),
                vec![share; busy as usize],
                "{busy} of {consumers}"
            );
            assert_eq!(consumers - lanes.inside, share);
        }
    }

    #[test]
    fn a_device_is_slow_when_two_have_waited() {
        let mut lanes = lanes(4);
        let mut visit = |has_waited| {
            let serial = lanes.let_in(0, None);
            lanes.let_out(0, serial, has_waited);
            lanes.is_slow(0)
        };
        assert!(!visit(false) && !visit(true));
        assert!(visit(true), "the next one within 25 ms");
        assert!(visit(false), "for a while");
        assert!(!lanes.is_slow(1));
        lanes.lanes[0].slow -= SLOW_MS;
        assert!(!lanes.is_slow(0));
    }

    #[test]
    fn few_consumers() {
        for (consumers, busy, shares) in [
            (1, 1, vec![1]),
            (1, 2, vec![1, 0]),
            (2, 1, vec![1]),
            (2, 2, vec![1, 1]),
            (3, 1, vec![2]),
            (3, 2, vec![1, 1]),
            (3, 3, vec![1, 1, 1]),
        ] {
            let mut lanes = lanes(consumers);
            crowd(&mut lanes, 0..busy);
            assert_eq!(inside(&mut lanes, 0..busy), shares, "{busy} of {consumers}");
        }
        let mut alone = lanes(3);
        while alone.has_room(0) {
            alone.let_in(0, None);
        }
        assert!(alone.has_room(1), "another finds somebody");
    }

    #[test]
    fn who_is_lost_weighs_on_its_own_device_alone() {
        let mut lanes = lanes(10);
        crowd(&mut lanes, 0..1);
        lose(&mut lanes, 0);
        assert_eq!((lanes.lost, lanes.replaced()), (5, 5));
        assert!(!lanes.has_room(0));
        crowd(&mut lanes, 1..2);
        assert_eq!(inside(&mut lanes, 0..2), [5, 5]);
        // It comes back: its device has room for another.
        let serial = lanes.lanes[0].inside[0].serial;
        lanes.let_out(0, serial, false);
        assert_eq!((lanes.lost, lanes.inside), (4, 9));
        lanes.let_out(0, serial, false);
        assert_eq!(lanes.inside, 9, "once");
    }

    #[test]
    fn who_is_called_is_not_lost_before_its_turn() {
        let mut lanes = lanes(10);
        lanes.let_in(0, None);
        lose(&mut lanes, 0);
        assert_eq!(lanes.lost, 0);
    }

    #[test]
    fn not_more_are_replaced_than_there_can_be() {
        let mut lanes = lanes(2);
        for lane in 0..20 {
            crowd(&mut lanes, lane..lane + 1);
            lose(&mut lanes, lane as usize);
        }
        assert_eq!(lanes.replaced(), 2 * MOST_LOST);
        let hang = lanes.lost - lanes.replaced();
        assert!(
            (1..=2).contains(&hang),
            "{hang} of 2 consumers hang for good"
        );
        assert!(!lanes.has_room(20) || hang < 2);
    }
}
