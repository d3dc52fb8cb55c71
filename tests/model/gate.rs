//! The gate (queues.txt 2): who waits there gets through, and no more than there is room for.

use super::clock::{self, with_time};
use crate::gate::{Gate, Place, Room};
use crate::sync::{Condvar, Mutex};
use crate::{explore, find_fault};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Connections that exist, and the most that ever did. Of std: to look here is no step of the program.
#[derive(Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A connection: its place, counted.
struct Connection {
    place: Place,
    count: Arc<Count>,
}

impl Connection {
    fn enter(gate: &Arc<Gate>, count: &Arc<Count>) -> Connection {
        let now = count.now.fetch_add(1, Ordering::SeqCst) + 1;
        count.most.fetch_max(now, Ordering::SeqCst);
        Connection {
            place: gate.enter(true),
            count: Arc::clone(count),
        }
    }

    fn leave(self) {
        // Counted out first: the gate may let the next one in before the drop is over.
        self.count.now.fetch_sub(1, Ordering::SeqCst);
        drop(self.place);
    }
}

/// An acceptor for whom a client is always there: as many as are wanted come in, one by one.
fn accept(gate: &Arc<Gate>, count: &Arc<Count>, wanted: usize, queue: &Sender<Connection>) {
    for _ in 0..wanted {
        assert_eq!(gate.wait(), Room::Yes);
        queue
            .send(Connection::enter(gate, count))
            .expect("a consumer listens");
    }
}

/// The loop of `worker/consumer.rs`, for connections whose first turn is their last.
fn consume(gate: &Arc<Gate>, queue: &Mutex<Receiver<Connection>>, turns: usize) {
    for _ in 0..turns {
        let mut connection = queue.lock().recv().expect("acceptors come first");
        gate.begin();
        connection.place.served();
        connection.leave();
        gate.end();
    }
}

/// No time passes. Acceptors and consumers, fewer of these than connections, and room for fewer still.
fn come_and_go(acceptors: usize, share: usize) {
    const EACH: usize = 3;
    clock::reset();
    let gate = Gate::new(2, share);
    let count = Arc::new(Count::default());
    let (tx, rx) = channel();
    let queue = Arc::new(Mutex::new(rx));
    let mut threads = Vec::new();
    for _ in 0..acceptors {
        let (gate, count, tx) = (Arc::clone(&gate), Arc::clone(&count), tx.clone());
        threads.push(thread::spawn(move || accept(&gate, &count, EACH, &tx)));
    }
    for nr in 0..2 {
        let (gate, queue) = (Arc::clone(&gate), Arc::clone(&queue));
        let turns = (acceptors * EACH + nr) / 2;
        threads.push(thread::spawn(move || consume(&gate, &queue, turns)));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(gate.load(), (0, 0), "the gate's count is not the truth");
    // The gate looks, then accept4 waits: each acceptor may have seen the same last place.
    let most = count.most.load(Ordering::SeqCst);
    assert!(
        most < share + acceptors,
        "{most} connections with a share of {share}"
    );
}

/// The model's own clockwork: without a word, a wait ends when its time has come.
#[test]
fn a_wait_ends_in_time() {
    explore(100, || {
        clock::reset();
        let begun = clock::monotonic_ns();
        with_time(move || {
            let (lock, condition) = (Mutex::new(()), Condvar::new());
            let end = condition.wait_for(&mut lock.lock(), Duration::from_millis(5));
            assert!(end.timed_out() && clock::monotonic_ns() - begun >= 5_000_000);
        });
    });
}

#[test]
fn room_wakes_the_acceptor_that_waits() {
    explore(3000, || come_and_go(1, 1));
    explore(3000, || come_and_go(1, 2));
}

#[test]
fn an_acceptor_that_entered_leaves_no_other_asleep() {
    explore(3000, || come_and_go(2, 2));
}

/// Two acceptors wait for the only place. Who is let through first meets no client in accept4, for long.
#[test]
fn room_wakes_every_acceptor_that_waits() {
    explore(1000, || {
        clock::reset();
        let gate = Gate::new(2, 1);
        let only = gate.enter(true);
        let acceptors: Vec<_> = (0..2)
            .map(|_| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || assert_eq!(gate.wait(), Room::Yes))
            })
            .collect();
        drop(only);
        for acceptor in acceptors {
            acceptor.join().unwrap();
        }
    });
}

#[test]
fn a_closed_gate_holds_nobody() {
    explore(1500, || {
        clock::reset();
        let gate = Gate::new(1, 1);
        // Full, and every consumer busy.
        let only = gate.enter(true);
        gate.begin();
        let waiting = [(); 2].map(|()| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || assert_eq!(gate.wait(), Room::Closed))
        });
        gate.close();
        for thread in waiting {
            thread.join().unwrap();
        }
        assert_eq!(gate.wait(), Room::Closed);
        drop(only);
    });
}

/// Who pauses for want of a descriptor goes on when one becomes free, or in time.
#[test]
fn a_pause_ends() {
    explore(500, || {
        clock::reset();
        let gate = Gate::new(1, 100);
        let connection = gate.enter(false);
        let pausing = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || with_time(move || gate.pause(Duration::from_millis(10))))
        };
        drop(connection);
        pausing.join().unwrap();
    });
}

/// Connections that nobody serves: they count as work for 2 ms, and no longer.
#[test]
fn fresh_connections_age() {
    explore(500, || {
        clock::reset();
        let (first, last, fresh) = with_time(|| {
            let gate = Gate::new(2, 100);
            let begun = clock::monotonic_ns();
            let mut fresh = Vec::new();
            for _ in 0..4 {
                assert_eq!(gate.wait(), Room::Yes);
                fresh.push(gate.enter(true));
                if fresh.len() == 2 {
                    assert_eq!(gate.load(), (2, 0));
                }
            }
            (begun, clock::monotonic_ns(), fresh)
        });
        let waited = Duration::from_nanos(last - first);
        assert!(
            waited >= Duration::from_micros(1500),
            "the third came in while two were fresh: {waited:?}"
        );
        // Time may pass while the acceptor could run but is not scheduled, so
        // this is generous; it is less than what stuck consumers cost.
        assert!(waited < Duration::from_millis(40), "{waited:?}");
        drop(fresh);
    });
}

/// Who has sent nothing when it is accepted is no work: no time passes, and all are let in.
#[test]
fn silent_connections_stop_nobody() {
    explore(500, || {
        clock::reset();
        let gate = Gate::new(1, 100);
        let silent: Vec<_> = (0..4)
            .map(|_| {
                assert_eq!(gate.wait(), Room::Yes);
                gate.enter(false)
            })
            .collect();
        let working = thread::spawn(move || {
            gate.begin();
            gate.end();
            assert_eq!(gate.wait(), Room::Yes);
        });
        drop(silent);
        working.join().unwrap();
    });
}

/// Every consumer hangs: a connection comes in after 50 ms nevertheless.
#[test]
fn stuck_consumers_do_not_stop_a_worker() {
    explore(100, || {
        clock::reset();
        let waited = with_time(|| {
            let gate = Gate::new(1, 100);
            gate.begin();
            let begun = clock::monotonic_ns();
            assert_eq!(gate.wait(), Room::Yes);
            Duration::from_nanos(clock::monotonic_ns() - begun)
        });
        assert!(waited >= Duration::from_millis(50), "{waited:?}");
    });
}

/// A full worker asks for room within 100 ms, though its consumers go from turn to turn meanwhile.
fn full_while_others_are_served() {
    clock::reset();
    with_time(|| {
        let gate = Gate::new(2, 1);
        let only = gate.enter(true);
        let done = Arc::new(AtomicBool::new(false));
        let consumer = {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    gate.begin();
                    gate.end();
                    thread::yield_now();
                }
            })
        };
        let begun = clock::monotonic_ns();
        assert_eq!(gate.wait(), Room::Full);
        let waited = Duration::from_nanos(clock::monotonic_ns() - begun);
        done.store(true, Ordering::SeqCst);
        consumer.join().unwrap();
        drop(only);
        assert!(
            waited < Duration::from_millis(200),
            "asked to make room after {waited:?}"
        );
    });
}

#[test]
fn a_full_worker_makes_room_while_others_are_served() {
    explore(100, full_while_others_are_served);
}

/// The gate's wake-up in short, as it has to be and with one fault each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Who makes room does not pass through the lock: the waiter has looked, and does not sleep yet.
    NoLock,
    /// The waiter is counted after its last look.
    CountedLate,
}

struct Short {
    busy: shuttle::sync::atomic::AtomicUsize,
    waiting: shuttle::sync::atomic::AtomicUsize,
    lock: Mutex<()>,
    room: Condvar,
}

impl Short {
    fn wait(&self, fault: Fault) {
        let mut lock = self.lock.lock();
        if fault != Fault::CountedLate {
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        while self.busy.load(Ordering::SeqCst) > 0 {
            if fault == Fault::CountedLate {
                self.waiting.store(1, Ordering::SeqCst);
            }
            self.room.wait_for(&mut lock, Duration::from_millis(1));
        }
    }

    fn end(&self, fault: Fault) {
        self.busy.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            if fault != Fault::NoLock {
                drop(self.lock.lock());
            }
            self.room.notify_one();
        }
    }
}

fn short(fault: Fault) {
    clock::reset();
    let gate = Arc::new(Short {
        busy: 1.into(),
        waiting: 0.into(),
        lock: Mutex::new(()),
        room: Condvar::new(),
    });
    let acceptor = {
        let gate = Arc::clone(&gate);
        thread::spawn(move || gate.wait(fault))
    };
    gate.end(fault);
    acceptor.join().unwrap();
}

#[test]
fn the_short_gate_without_a_fault_passes() {
    find_fault(1000, || short(Fault::None));
}

#[test]
#[should_panic(expected = "deadlock")]
fn waking_without_the_lock_is_found() {
    find_fault(1000, || short(Fault::NoLock));
}

#[test]
#[should_panic(expected = "deadlock")]
fn counting_the_waiter_late_is_found() {
    find_fault(1000, || short(Fault::CountedLate));
}
