//! Which consumers may be inside of which device: the real devices and the real queue, with consumers that do what
//! `worker/consumer.rs` does, under many schedules; and consumers with a fault each, which must be found.

use super::clock;
use super::kernel::{self, Cascade, Kernel, Peer, Read, Socket};
use super::scoreboard::Scoreboard;
use crate::device::{Call, Devices, Line, Refusal, Ticket};
use crate::queue::{LONGEST_WAIT, Next, Queue, Turn, Wait, Woken};
use crate::sync::Mutex;
use crate::sys::clock::Tick;
use crate::{check, explore, find_fault};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::RandomScheduler;
use shuttle::thread::{self, JoinHandle};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a line is waited in.
const WAIT: Duration = Duration::from_secs(2);

/// What a client is told in place of its device's digit.
const REFUSED: u8 = b'!';

/// A call that hangs until the scenario lets it go: in this device.
const HANGS: u8 = b'0';

/// What is wrong with the consumers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A client is in the line before it is parked.
    LinesUpFirst,
    /// Nobody is called at the end of a turn.
    CallsNobody,
    /// The client is armed with its pass in its hands.
    KeepsPass,
    /// Calls once, before the turn's own pass is back.
    CallsFirst,
    /// Goes in without asking.
    NoPass,
    /// A client that waits is parked, and stands in no line.
    ForgetsLine,
}

struct Client {
    socket: Socket,
    /// The device that it asks for, until it is answered.
    asked: Option<u8>,
    /// Its transfer has had a turn.
    line: Option<Line>,
    waits_in: Option<Line>,
    ticket: Ticket,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Who is inside of the devices, as the world sees it. Of std: to look here is no step of the program.
#[derive(Default)]
struct Census {
    inside: [AtomicUsize; 4],
    evicted: AtomicUsize,
}

#[derive(Clone)]
struct Worker {
    queue: Arc<Queue<Client>>,
    devices: Arc<Devices>,
    board: Scoreboard,
    kernel: Arc<Kernel>,
    census: Arc<Census>,
    /// Held by the scenario while calls hang.
    hang: Arc<Mutex<()>>,
    /// The most consumers that the devices are told of; 0: the rule is not looked at.
    most: usize,
    fault: Fault,
}

impl Worker {
    fn open(consumers: usize, fault: Fault) -> Worker {
        clock::reset();
        let kernel = kernel::boot(Cascade::Works);
        let board = Scoreboard::default();
        Worker {
            queue: Arc::new(Queue::new().expect("a queue")),
            devices: Devices::new(consumers, 1, board.clone()),
            board,
            kernel,
            census: Arc::default(),
            hang: Arc::new(Mutex::new(())),
            most: consumers,
            fault,
        }
    }

    fn start<T: Send + 'static>(
        &self,
        role: impl FnOnce(Worker) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let worker = self.clone();
        thread::spawn(move || role(worker))
    }

    fn consumers(&self, count: usize) -> Vec<JoinHandle<()>> {
        (0..count)
            .map(|_| self.start(|worker| worker.consume()))
            .collect()
    }

    fn consume(&self) {
        while let Woken::By(turn) = self.queue.next(LONGEST_WAIT).expect("an event") {
            self.serve(turn);
        }
    }

    /// `Work::serve`.
    fn serve(&self, mut turn: Turn<Client>) {
        let next = self.step(&mut turn);
        if self.fault == Fault::CallsFirst {
            self.deliver();
        }
        match next {
            Next::Close => self.queue.close(turn),
            Next::Rearm(wait) => {
                if self.fault != Fault::KeepsPass {
                    turn.ticket.leave();
                }
                self.queue.rearm(turn, wait).expect("armed");
            }
            Next::Detach => {
                turn.ticket.leave();
                let line = turn.waits_in.expect("a line to wait in");
                self.line_up(turn, line);
            }
        }
        if !matches!(self.fault, Fault::CallsNobody | Fault::CallsFirst) {
            self.deliver();
        }
    }

    fn line_up(&self, turn: Turn<Client>, line: Line) {
        match self.fault {
            Fault::LinesUpFirst => {
                let token = turn.token();
                self.devices.line_up(line, token);
                self.deliver();
                self.queue.park(turn);
            }
            Fault::ForgetsLine => drop(self.queue.park(turn)),
            _ => {
                let token = self.queue.park(turn);
                self.devices.line_up(line, token);
            }
        }
    }

    fn deliver(&self) {
        self.devices.deliver(&self.queue, |client, call: Call| {
            client.ticket.receive(call)
        });
    }

    /// A transfer of two turns, both of which enter the device.
    fn step(&self, client: &mut Client) -> Next {
        client.waits_in = None;
        let name = match client.asked {
            Some(name) => name,
            None => match client.socket.read(1) {
                Read::Bytes(bytes) => *client.asked.insert(bytes[0]),
                Read::End => return Next::Close,
                Read::Nothing => return Next::Rearm(Wait::Read),
            },
        };
        let entered = match client.line {
            _ if self.fault == Fault::NoPass => Ok(()),
            Some(line) => client.ticket.enter_again(&self.devices, line),
            None => client
                .ticket
                .enter(&self.devices, 0, &[name])
                .map(|line| client.line = Some(line)),
        };
        match entered {
            Ok(()) => {
                self.visit(name);
                // Some transfers have another turn.
                if thread_rng().gen_ratio(1, 2) {
                    return Next::Rearm(Wait::ReadWrite);
                }
                client.answer(name)
            }
            Err(Refusal::Wait(line)) => {
                client.waits_in = Some(line);
                Next::Detach
            }
            Err(Refusal::Full(_)) => panic!("nobody's line is full"),
            Err(Refusal::TooLate | Refusal::Dead) => client.answer(REFUSED),
        }
    }

    /// Makes a call in the device. Whether the rule was kept is seen here, as far as it can be from outside.
    fn visit(&self, name: u8) {
        let inside = &self.census.inside;
        let here = &inside[usize::from(name - b'0')];
        let now = here.fetch_add(1, Ordering::SeqCst) + 1;
        let all: usize = inside.iter().map(|n| n.load(Ordering::SeqCst)).sum();
        assert!(
            self.most == 0 || (now <= self.most.div_ceil(2) && all <= self.most),
            "{now} of {} consumers are inside of one device, {all} in all",
            self.most
        );
        if name == HANGS {
            drop(self.hang.lock());
        } else {
            thread::yield_now();
        }
        here.fetch_sub(1, Ordering::SeqCst);
    }

    /// A client that asks for these devices, one after the other: what it was told, and its end of the connection,
    /// which says nothing more until it is dropped.
    fn ask(&self, names: &'static [u8]) -> JoinHandle<(Vec<u8>, Peer)> {
        let peer = self.connect();
        thread::spawn(move || {
            let mut told = Vec::new();
            for name in names {
                peer.send(*name);
                match peer.receive() {
                    Some(answer) => {
                        assert!(answer == *name || answer == REFUSED, "another's answer");
                        told.push(answer);
                    }
                    None => break,
                }
            }
            (told, peer)
        })
    }

    fn connect(&self) -> Peer {
        let (peer, socket) = self.kernel.connect();
        let client = Client {
            socket,
            asked: None,
            line: None,
            waits_in: None,
            ticket: Ticket::default(),
        };
        self.queue
            .add(Box::new(client), Wait::Read)
            .map_err(|(_, e)| e)
            .expect("added");
        peer
    }

    /// The sweeper, so many times, each with so much time gone by. One in `odds` of those who wait goes.
    fn sweep(&self, times: usize, span: Duration, odds: Option<u32>) {
        for _ in 0..times {
            clock::pass(span);
            let now = Tick::now();
            self.devices.survey(now);
            self.devices.expire(now, WAIT);
            let gone = self.queue.retain(|client| {
                let waits = client.waits_in.is_some();
                !(waits && odds.is_some_and(|odds| thread_rng().gen_ratio(1, odds)))
            });
            self.census.evicted.fetch_add(gone, Ordering::SeqCst);
            self.deliver();
        }
    }

    /// The drain: when all peers have gone so do their clients; and then the consumers.
    fn close(self, consumers: Vec<JoinHandle<()>>) {
        while !self.queue.is_empty() {
            thread::yield_now();
        }
        self.queue.poison().expect("poisoned");
        consumers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        // Of clients that have gone from their line.
        self.sweep(1, WAIT, None);
        assert_eq!(
            self.devices.counts(),
            (0, 0, 0, false),
            "inside, lost, waiting, due"
        );
    }
}

impl Client {
    fn answer(&mut self, byte: u8) -> Next {
        assert!(self.asked.take().is_some(), "answered twice");
        self.line = None;
        assert_eq!(self.socket.write(&[byte]), 1, "it reads each answer");
        Next::Rearm(Wait::Read)
    }
}

/// No time passes and nobody sweeps: all are answered by the consumers' own calls alone.
fn crowd(consumers: usize, clients: &[&'static [u8]], fault: Fault) {
    let worker = Worker::open(consumers, fault);
    let threads = worker.consumers(consumers);
    let peers: Vec<_> = clients
        .iter()
        .map(|names| (worker.ask(names), names.len()))
        .collect();
    worker.board.change();
    let told: Vec<_> = peers
        .into_iter()
        .map(|(peer, asked)| (peer.join().unwrap(), asked))
        .collect();
    for ((told, _), asked) in &told {
        assert_eq!(told.len(), *asked, "closed without a reason");
        assert!(
            !told.contains(&REFUSED),
            "refused though no time has passed"
        );
    }
    drop(told);
    worker.close(threads);
}

fn two_devices(fault: Fault) {
    crowd(2, &[b"11", b"1", b"12", b"2"], fault);
}

#[test]
fn everybody_gets_in() {
    explore(500, || two_devices(Fault::None));
    explore(300, || {
        crowd(3, &[b"1", b"1", b"1", b"23", b"2"], Fault::None)
    });
}

#[test]
fn one_consumer_serves_all_devices() {
    explore(300, || crowd(1, &[b"11", b"2", b"13"], Fault::None));
}

/// Clients go while they wait in line, or between the call and their turn: their passes go on to the next.
#[test]
fn who_goes_passes_its_place_on() {
    explore(600, || {
        let worker = Worker::open(2, Fault::None);
        let threads = worker.consumers(2);
        let peers: Vec<_> = [b"11", b"11", b"12"].map(|names| worker.ask(names)).into();
        let sweeper = worker.start(|worker| worker.sweep(4, Duration::ZERO, Some(2)));
        let told: Vec<_> = peers.into_iter().map(|peer| peer.join().unwrap()).collect();
        let told: usize = told.into_iter().map(|(told, _)| told.len()).sum();
        sweeper.join().unwrap();
        let evicted = worker.census.evicted.load(Ordering::SeqCst);
        assert!(told >= 6 - 2 * evicted, "closed without a reason");
        worker.close(threads);
    });
}

/// A device hangs. Who waits for it is told so in time, others are served, and who hangs comes back.
fn hang(dies: bool) {
    let mut worker = Worker::open(2, Fault::None);
    worker.most = 0;
    // As many as the pool would have by then.
    let threads = worker.consumers(3);
    let hang = Arc::clone(&worker.hang);
    let held = hang.lock();
    let stuck = worker.ask(b"0");
    while worker.census.inside[0].load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    let late = worker.ask(b"0");
    let others = [worker.ask(b"1"), worker.ask(b"21")];
    let sweeper = worker.start(move |worker| {
        worker.board.set_dead(0, dies);
        // The late one may line up after any of them.
        while !worker.is_answered() {
            worker.sweep(1, Duration::from_secs(1), None);
        }
        worker.board.set_dead(0, false);
    });
    assert_eq!(late.join().unwrap().0, [REFUSED]);
    worker.census.evicted.store(1, Ordering::SeqCst);
    for other in others {
        assert!(!other.join().unwrap().0.is_empty());
    }
    sweeper.join().unwrap();
    assert!(dies || worker.board.suspected() > 0, "it should be probed");
    drop(held);
    drop(stuck.join().unwrap());
    worker.close(threads);
}

impl Worker {
    /// The scenario has seen what it waited for.
    fn is_answered(&self) -> bool {
        self.census.evicted.load(Ordering::SeqCst) > 0
    }
}

#[test]
fn who_waits_for_a_device_that_hangs_is_told() {
    explore(200, || hang(false));
}

#[test]
fn who_waits_for_a_device_that_is_dead_is_told() {
    explore(200, || hang(true));
}

/// One consumer, and it hangs: another device's client has to wait until that one counts as lost.
#[test]
fn who_is_lost_makes_room_for_others() {
    explore(200, || {
        let mut worker = Worker::open(1, Fault::None);
        worker.most = 0;
        let threads = worker.consumers(2);
        let hang = Arc::clone(&worker.hang);
        let held = hang.lock();
        let stuck = worker.ask(b"0");
        while worker.census.inside[0].load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        let other = worker.ask(b"1");
        worker.sweep(1, Duration::from_secs(1), None);
        assert_eq!(other.join().unwrap().0, b"1");
        drop(held);
        drop(stuck.join().unwrap());
        worker.close(threads);
    });
}

/// The pool becomes smaller, and has no room for those who wait until it grows again.
#[test]
fn the_size_of_the_pool_changes() {
    explore(300, || {
        let worker = Worker::open(3, Fault::None);
        let threads = worker.consumers(3);
        let peers: Vec<_> = [&b"11"[..], b"1", b"21"]
            .map(|names| worker.ask(names))
            .into();
        let sizes = worker.start(|worker| {
            for size in [0, 2, 0, 3] {
                worker.devices.set_consumers(size);
                worker.deliver();
                thread::yield_now();
            }
        });
        let told: Vec<_> = peers.into_iter().map(|peer| peer.join().unwrap()).collect();
        let told: usize = told.into_iter().map(|(told, _)| told.len()).sum();
        sizes.join().unwrap();
        assert_eq!(told, 5);
        worker.close(threads);
    });
}

/// Who came first is called first.
#[test]
fn a_line_is_a_line() {
    check(RandomScheduler::new(1), || {
        let worker = Worker::open(1, Fault::None);
        let peers: Vec<_> = (0..4).map(|_| worker.connect()).collect();
        peers.iter().for_each(|peer| peer.send(b'1'));
        let turn = || match worker.queue.next(LONGEST_WAIT) {
            Ok(Woken::By(turn)) => turn,
            _ => panic!("nobody is ready"),
        };
        let mut first = turn();
        let line = first.ticket.enter(&worker.devices, 0, b"1").expect("room");
        let mut numbers = Vec::new();
        for _ in 1..peers.len() {
            let mut next = turn();
            next.asked = Some(b'1');
            assert_eq!(
                next.ticket.enter(&worker.devices, 0, b"1"),
                Err(Refusal::Wait(line))
            );
            numbers.push(kernel::number_of(next.as_fd()));
            worker.line_up(next, line);
        }
        worker.queue.close(first);
        for number in numbers {
            worker.deliver();
            let called = turn();
            assert_eq!(kernel::number_of(called.as_fd()), number);
            worker.queue.close(called);
        }
        assert_eq!(worker.devices.counts(), (0, 0, 0, false));
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn lining_up_before_parking_is_found() {
    find_fault(2000, || two_devices(Fault::LinesUpFirst));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_call_that_nobody_makes_is_found() {
    find_fault(2000, || two_devices(Fault::CallsNobody));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_call_before_the_pass_is_back_is_found() {
    find_fault(2000, || two_devices(Fault::CallsFirst));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_pass_that_is_kept_is_found() {
    find_fault(2000, || two_devices(Fault::KeepsPass));
}

#[test]
#[should_panic(expected = "are inside of one device")]
fn a_visit_without_a_pass_is_found() {
    find_fault(2000, || {
        crowd(3, &[b"1", b"1", b"1", b"23", b"2"], Fault::NoPass)
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_line_that_is_forgotten_is_found() {
    find_fault(2000, || two_devices(Fault::ForgetsLine));
}
