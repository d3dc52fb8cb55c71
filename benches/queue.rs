//! What the one-shot queue costs: a hand-over by itself, and a byte's way through it, as echoes over socket pairs.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::Mutex;
use rmogstored::device::{Devices, Ticket};
use rmogstored::queue::{LONGEST_WAIT, Queue, Turn, Wait, Woken};
use rmogstored::scoreboard::Scoreboard;
use slab::Slab;
use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Clients that talk at the same time.
const CLIENTS: usize = 32;

/// Clients that are parked and say nothing meanwhile.
const IDLE: usize = 1000;

/// Devices of a large node.
const DEVICES: usize = 36;

struct Client(UnixStream);

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A peer's end, and the server's in the queue.
fn connect(queue: &Queue<Client>) -> UnixStream {
    let (peer, socket) = UnixStream::pair().expect("a pair of sockets");
    socket.set_nonblocking(true).expect("non-blocking");
    queue
        .add(Box::new(Client(socket)), Wait::Read)
        .map_err(|(_, e)| e)
        .expect("added");
    peer
}

/// The next client; none comes after the poison.
fn next(queue: &Queue<Client>) -> Option<Turn<Client>> {
    match queue.next(LONGEST_WAIT).expect("an event") {
        Woken::By(turn) => Some(turn),
        Woken::Poisoned | Woken::Late => None,
    }
}

/// The lock and the slab alone, as the queue uses them: a client is taken out and put back.
fn slot(c: &mut Criterion) {
    let shard = Mutex::new(Slab::new());
    let keys: Vec<usize> = (0..IDLE as u32)
        .map(|nr| shard.lock().insert((nr, Some(Box::new(nr)))))
        .collect();
    let mut turn = 0;
    c.bench_function("slot/take_and_put", |b| {
        b.iter(|| {
            turn = (turn + 1) % IDLE;
            let (key, generation) = (keys[turn], turn as u32);
            let client = shard
                .lock()
                .get_mut(key)
                .filter(|slot| slot.0 == generation)
                .and_then(|slot| slot.1.take());
            let client = black_box(client);
            if let Some(slot) = shard
                .lock()
                .get_mut(key)
                .filter(|slot| slot.0 == generation)
            {
                slot.1 = client;
            }
        });
    });
}

/// `rearm` and `next` of a client that is always ready: two system calls, two locks.
fn hand_over(c: &mut Criterion) {
    let queue = Queue::new().expect("a queue");
    let _idle: Vec<_> = (0..IDLE).map(|_| connect(&queue)).collect();
    let mut peer = connect(&queue);
    peer.write_all(b"x").expect("room for a byte");
    let mut turn = next(&queue);
    c.bench_function("queue/rearm_and_next", |b| {
        b.iter(|| {
            if let Some(ready) = turn.take() {
                queue.rearm(ready, Wait::Read).expect("armed");
            }
            turn = next(&queue);
        });
    });
    if let Some(turn) = turn {
        queue.close(turn);
    }
}

/// A connection's whole life: `add`, its end seen by `next`, `close`.
fn life(c: &mut Criterion) {
    let queue = Queue::new().expect("a queue");
    c.bench_function("queue/add_next_close", |b| {
        b.iter(|| {
            drop(connect(&queue));
            if let Some(turn) = next(&queue) {
                queue.close(turn);
            }
        });
    });
}

/// The sweeper's look at parked clients that all stay.
fn sweep(c: &mut Criterion) {
    let queue = Queue::new().expect("a queue");
    let _idle: Vec<_> = (0..IDLE).map(|_| connect(&queue)).collect();
    let mut group = c.benchmark_group("queue");
    group.throughput(Throughput::Elements(IDLE as u64));
    group.bench_function("retain", |b| {
        b.iter(|| queue.retain(|client| black_box(client.0.as_raw_fd()) >= 0));
    });
    group.finish();
}

fn echo(queue: &Queue<Client>) {
    let mut bytes = [0; 64];
    while let Some(mut turn) = next(queue) {
        match turn.0.read(&mut bytes) {
            Ok(0) => queue.close(turn),
            Ok(len) => {
                turn.0.write_all(&bytes[..len]).expect("room for an echo");
                queue.rearm(turn, Wait::Read).expect("armed");
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                queue.rearm(turn, Wait::Read).expect("armed")
            }
            Err(e) => panic!("{e}"),
        }
    }
}

/// One thread of peers, and so many consumers: per echo, both sides' reads and writes included.
fn echoes(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue/echo");
    group.throughput(Throughput::Elements(CLIENTS as u64));
    for consumers in [1, 4, 8] {
        let queue = Arc::new(Queue::new().expect("a queue"));
        let threads: Vec<_> = (0..consumers)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || echo(&queue))
            })
            .collect();
        let idle: Vec<_> = (0..IDLE).map(|_| connect(&queue)).collect();
        let mut peers: Vec<_> = (0..CLIENTS).map(|_| connect(&queue)).collect();
        group.bench_function(format!("{consumers}_consumers"), |b| {
            b.iter(|| {
                for peer in &mut peers {
                    peer.write_all(b"x").expect("room for a byte");
                }
                for peer in &mut peers {
                    peer.read_exact(&mut [0]).expect("an echo");
                }
            });
        });
        queue.poison().expect("poisoned");
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("it has left"));
        drop((idle, peers));
    }
    group.finish();
}

/// What a turn pays for its device: the lane found by its name, entered and left.
fn device(c: &mut Criterion) {
    let board = Scoreboard::new().expect("a page");
    for nr in 1..=DEVICES {
        board
            .place(0, format!("dev{nr}").as_bytes())
            .expect("a line");
    }
    let devices = Devices::new(CLIENTS, 1, board);
    let visit = |ticket: &mut Ticket, name: &[u8]| {
        black_box(ticket.enter(&devices, 0, name)).expect("room");
        ticket.leave();
    };
    let mut ticket = Ticket::default();
    c.bench_function("device/enter_and_leave", |b| {
        b.iter(|| visit(&mut ticket, b"dev1"));
    });
    // A device each; and time for a system call or two between the visits, as in a turn.
    for (name, pause) in [("no_pause", 0), ("turns", 200)] {
        c.bench_function(&format!("device/8_threads/{name}"), |b| {
            b.iter_custom(|visits| {
                let begun = Instant::now();
                thread::scope(|scope| {
                    for nr in 1..=8 {
                        scope.spawn(move || {
                            let name = format!("dev{nr}");
                            let mut ticket = Ticket::default();
                            for _ in 0..visits.div_ceil(8) {
                                visit(&mut ticket, name.as_bytes());
                                (0..pause).for_each(|n: u32| {
                                    black_box(n);
                                });
                            }
                        });
                    }
                });
                begun.elapsed()
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = slot, hand_over, life, sweep, device, echoes
}
criterion_main!(benches);
