//! The seats (queues.txt 5): nobody stands by beside a free one for long, who hangs loses his, and who stands by hears
//! the poison, too.

use super::clock::{self, with_time};
use super::echo::{Client, Line, Service};
use super::kernel::{self, Cascade};
use crate::queue::Queue;
use crate::seats::{Seat, Seats};
use crate::{check, explore};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::RandomScheduler;
use shuttle::sync::Barrier;
use shuttle::thread::{self, JoinHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How often the watch looks.
const LOOK: Duration = Duration::from_millis(4);

/// Who has a seat, and the most that ever had one. Of std: to look here is no step of the program.
#[derive(Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Count {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

fn consumers(
    count: usize,
    seats: &Arc<Seats>,
    role: impl Fn(usize, Seat) + Send + Sync + Clone + 'static,
) -> Vec<JoinHandle<()>> {
    (0..count)
        .map(|nr| {
            let (seats, role) = (Arc::clone(seats), role.clone());
            thread::spawn(move || role(nr, Seat::new(&seats)))
        })
        .collect()
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Without time: each has some turns and leaves. Who stands by is woken by that alone.
fn turns_and_leave(seats: usize, of: usize) {
    clock::reset();
    let all = Seats::new(seats);
    let count = Arc::new(Count::default());
    let counted = Arc::clone(&count);
    join(consumers(of, &all, move |_, seat| {
        for _ in 0..2 {
            assert!(seat.take() && seat.is_held());
            counted.enter();
            seat.begin(clock::monotonic_ns());
            thread::yield_now();
            counted.leave();
            seat.end();
            assert!(seat.is_held(), "nobody takes a seat from one who comes on");
        }
    }));
    let most = count.most.load(Ordering::SeqCst);
    assert!(most <= seats, "{most} consumers on {seats} seats");
}

#[test]
fn who_leaves_calls_the_next() {
    explore(6000, || turns_and_leave(1, 3));
    explore(6000, || turns_and_leave(2, 4));
}

/// All wait for a disk that answers when everybody has asked it: each who waits must have called another.
fn all_on_the_disk(seats: usize, of: usize) {
    clock::reset();
    let all = Seats::new(seats);
    let disk = Arc::new(Barrier::new(of));
    join(consumers(of, &all, move |_, seat| {
        assert!(seat.take());
        seat.begin(clock::monotonic_ns());
        seat.will_wait();
        assert!(!seat.is_held());
        disk.wait();
        seat.end();
        // Just now it has waited: it need not stand by.
        assert!(seat.take());
    }));
}

#[test]
fn who_waits_for_a_disk_calls_another() {
    explore(6000, || all_on_the_disk(1, 4));
    explore(6000, || all_on_the_disk(2, 5));
}

/// Two seats become free at about the same time, and two stand by: neither is forgotten.
#[test]
fn each_free_seat_is_taken() {
    explore(6000, || {
        clock::reset();
        let all = Seats::new(2);
        let disk = Arc::new(Barrier::new(4));
        let first = [(); 2].map(|()| Seat::new(&all));
        assert!(first.iter().all(Seat::take));
        let answers = Arc::clone(&disk);
        let standing = consumers(2, &all, move |_, seat| {
            assert!(seat.take() && seat.is_held());
            answers.wait();
        });
        for seat in first {
            let disk = Arc::clone(&disk);
            thread::spawn(move || {
                seat.begin(clock::monotonic_ns());
                seat.will_wait();
                disk.wait();
            });
        }
        join(standing);
    });
}

/// The same where none can know that the disk will keep it: the watch finds that out, and the next watch, and so on.
fn all_hang(seats: usize, of: usize) {
    clock::reset();
    let all = Seats::new(seats);
    let disk = Arc::new(Barrier::new(of));
    with_time(move || {
        join(consumers(of, &all, move |_, seat| {
            assert!(seat.take());
            seat.begin(clock::monotonic_ns());
            disk.wait();
            seat.end();
        }));
    });
}

#[test]
fn who_hangs_loses_its_seat() {
    explore(2000, || all_hang(1, 3));
    explore(2000, || all_hang(2, 4));
}

/// A turn begins, and hangs, at about the moment when the watch goes to sleep for want of turns.
#[test]
fn a_turn_wakes_the_watch() {
    explore(6000, || {
        clock::reset();
        let all = Seats::new(1);
        let first = Seat::new(&all);
        assert!(first.take());
        let came = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&came);
        let standing = consumers(1, &all, move |_, seat| {
            assert!(seat.take());
            counted.fetch_add(1, Ordering::SeqCst);
        });
        for _ in 0..thread_rng().gen_range(3..8) {
            clock::pass(LOOK);
        }
        let hangs = thread::spawn(move || {
            first.begin(clock::monotonic_ns());
            first
        });
        let mut looks = 0;
        while came.load(Ordering::SeqCst) == 0 {
            clock::pass(LOOK);
            looks += 1;
            assert!(looks < 1000, "nobody took the seat of who hangs");
        }
        join(standing);
        let first = hangs.join().unwrap();
        first.end();
        assert!(!first.is_held());
    });
}

/// However often the watch looks while a turn is under way: each is another.
#[test]
fn who_comes_on_keeps_its_seat() {
    explore(1000, || {
        clock::reset();
        let all = Seats::new(1);
        let busy = Seat::new(&all);
        assert!(busy.take());
        let standing = consumers(1, &all, |_, seat| assert!(seat.take()));
        for _ in 0..20 {
            busy.begin(clock::monotonic_ns());
            clock::pass(LOOK / 4);
            thread::yield_now();
            busy.end();
            assert!(busy.is_held());
        }
        drop(busy);
        join(standing);
    });
}

/// Who lost its seat has none to give.
#[test]
fn a_lost_seat_is_not_given() {
    explore(1000, || {
        clock::reset();
        let all = Seats::new(1);
        let first = Seat::new(&all);
        assert!(first.take());
        first.begin(clock::monotonic_ns());
        let (came, goes_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
        let (counted, goes) = (Arc::clone(&came), Arc::clone(&goes_on));
        let second = consumers(1, &all, move |_, seat| {
            assert!(seat.take());
            counted.fetch_add(1, Ordering::SeqCst);
            goes.wait();
            seat.begin(clock::monotonic_ns());
            seat.end();
            assert!(seat.is_held());
        });
        while came.load(Ordering::SeqCst) == 0 {
            clock::pass(LOOK);
        }
        first.will_wait();
        assert!(!all.any_free());
        goes_on.wait();
        join(second);
    });
}

/// Who lost its seat has none, and stands by as all others do: two turns each, the first of one hangs.
#[test]
fn who_comes_back_stands_by() {
    explore(3000, || {
        clock::reset();
        with_time(|| {
            let all = Seats::new(1);
            let count = Arc::new(Count::default());
            let (disk, counted) = (Arc::new(Barrier::new(2)), Arc::clone(&count));
            join(consumers(2, &all, move |_, seat| {
                assert!(seat.take());
                seat.begin(clock::monotonic_ns());
                // The second to come has the first one's seat.
                disk.wait();
                seat.end();
                assert!(seat.take());
                counted.enter();
                seat.begin(clock::monotonic_ns());
                counted.leave();
                seat.end();
            }));
            let most = count.most.load(Ordering::SeqCst);
            assert_eq!(most, 1, "consumers on one seat");
        });
    });
}

#[test]
fn who_is_roused_stands_by_no_more() {
    explore(3000, || {
        clock::reset();
        let all = Seats::new(1);
        let only = Seat::new(&all);
        assert!(only.take());
        let ended = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ended);
        let waiting = consumers(3, &all, move |_, seat| {
            assert!(!seat.take() && !seat.is_held());
            counted.fetch_add(1, Ordering::SeqCst);
        });
        // Who does not stand by yet has not heard it.
        while ended.load(Ordering::SeqCst) < 3 {
            all.rouse();
            thread::yield_now();
        }
        join(waiting);
        assert!(only.is_held());
    });
}

/// Visits to a device: what nobody could know is found out, a wait that was known is none of it.
#[test]
fn a_known_wait_is_no_surprise() {
    // alone, with the clock: there is nothing to schedule
    check(RandomScheduler::new(1), || {
        clock::reset();
        let seat = Seat::new(&Seats::new(1));
        let visit = |known: bool, then: Duration| {
            assert!(seat.take());
            seat.begin(clock::monotonic_ns());
            seat.enters(false);
            seat.may_wait();
            if known {
                seat.will_wait();
                clock::pass(Duration::from_millis(10));
                // what it does with what it was given
                seat.may_wait();
            }
            clock::pass(then);
            let has_waited = seat.leaves();
            seat.end();
            has_waited
        };
        let (short, long) = (Duration::from_millis(1), Duration::from_millis(3));
        assert!(!visit(false, short) && visit(false, long));
        assert!(!visit(true, short) && visit(true, long));
    });
}

/// The poison goes from seat to seat.
#[test]
fn poison_reaches_those_who_stand_by() {
    for cascade in [Cascade::Works, Cascade::Lost] {
        explore(3000, move || {
            clock::reset();
            let service: Service<Queue<Client>> = Service::open(kernel::boot(cascade));
            let seats = Seats::new(1);
            let consumers: Vec<_> = (0..3)
                .map(|_| {
                    let seats = Arc::clone(&seats);
                    service.start(move |service| service.consume_seated(&seats))
                })
                .collect();
            service.clone().talk(b"abc");
            Line::poison(&*service.line);
            join(consumers);
            service.close();
        });
    }
}
