//! Who owns a client, when (queues.txt 3): the real queue under many schedules, and copies of it with one fault each,
//! which the same scenarios must find.

use super::clock;
use super::echo::{Client, Line, Service};
use super::kernel::{self, Cascade, IN, OUT};
use super::selector::{Event, Selector};
use crate::queue::{Queue, Wait};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::{explore, find_fault};
use shuttle::thread;
use slab::Slab;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::Arc;

fn service<L: Line>(cascade: Cascade) -> Service<L> {
    clock::reset();
    Service::open(kernel::boot(cascade))
}

/// Two clients and a third that comes later, two consumers, and a sweeper that evicts. Poison at the end.
fn echo<L: Line>() {
    let service: Service<L> = service(Cascade::Works);
    let consumers: Vec<_> = (0..2).map(|_| service.start(Service::consume)).collect();
    let sweeper = service.start(|service| service.sweep(2, 4));
    let one = service.start(|service| {
        service.clone().talk(b"abcd");
        service.talk(b"e");
    });
    service.clone().talk(b"12");
    one.join().unwrap();
    sweeper.join().unwrap();
    service.line.poison();
    for consumer in consumers {
        consumer.join().unwrap();
    }
    service.close();
}

/// The poison comes while clients talk, are parked, and are armed again.
fn poison_amidst<L: Line>(cascade: Cascade) {
    let service: Service<L> = service(cascade);
    // More of them than wake-ups that the talker causes: the poison itself has to wake the rest.
    let consumers: Vec<_> = (0..4).map(|_| service.start(Service::consume)).collect();
    let silent = service.connect();
    let (peer, _) = service.connect();
    let talker = thread::spawn(move || {
        for byte in *b"ab" {
            peer.send(byte);
        }
        peer
    });
    service.line.poison();
    for consumer in consumers {
        consumer.join().unwrap();
    }
    let peer = talker.join().unwrap();
    service.close();
    drop((silent, peer));
}

/// A late event for a client that has gone, while its place in the slab and its descriptor are given to the next.
fn reuse<L: Line>() {
    // The queue deals its shards out in turn: with so many others between them, two clients share one.
    const OTHERS: usize = 15;
    let service: Service<L> = service(Cascade::Works);
    let first = service.connect();
    let others: Vec<_> = (0..OTHERS).map(|_| service.connect()).collect();
    let consumers: Vec<_> = (0..2).map(|_| service.start(Service::consume)).collect();
    let evicted = Arc::clone(&first.1);
    let next = service.start(move |service| {
        // It is not seen while it is out for its turn.
        while service
            .line
            .retain(|client| !(client.is(&evicted) && client.evict(1)))
            == 0
        {
            thread::yield_now();
        }
        service.talk(b"ab");
    });
    // Its event is in a consumer's hand, or not, when it goes; and so is the client.
    first.0.send(b'x');
    next.join().unwrap();
    service.line.poison();
    for consumer in consumers {
        consumer.join().unwrap();
    }
    service.close();
    drop((first, others));
}

#[test]
fn every_byte_is_echoed_once_and_in_order() {
    explore(4000, echo::<Queue<Client>>);
}

#[test]
fn poison_reaches_every_consumer() {
    explore(3000, || poison_amidst::<Queue<Client>>(Cascade::Works));
}

#[test]
fn poison_reaches_every_consumer_where_the_kernel_does_not_cascade() {
    explore(1000, || poison_amidst::<Queue<Client>>(Cascade::Lost));
}

#[test]
fn a_late_event_reaches_nobody() {
    explore(1000, reuse::<Queue<Client>>);
}

/// What is wrong with a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Arms a client before it is parked, and not under the lock.
    ArmedFirst,
    /// Parks it, lets the lock go, and arms the descriptor by its number.
    ArmedUnlocked,
    /// The token is the place alone.
    NoGeneration,
    /// Who is poisoned leaves without passing it on.
    KeepsPoison,
    /// Registers without EPOLLONESHOT.
    NotOneShot,
}

const NONE: u8 = Fault::None as u8;
const ARMED_FIRST: u8 = Fault::ArmedFirst as u8;
const ARMED_UNLOCKED: u8 = Fault::ArmedUnlocked as u8;
const NO_GENERATION: u8 = Fault::NoGeneration as u8;
const KEEPS_POISON: u8 = Fault::KeepsPoison as u8;
const NOT_ONE_SHOT: u8 = Fault::NotOneShot as u8;

/// The protocol of `src/queue.rs` in short, with one shard.
struct Copy<const FAULT: u8> {
    selector: Selector,
    slots: Mutex<Slots>,
    len: AtomicUsize,
}

#[derive(Default)]
struct Slots {
    slab: Slab<(u64, Option<Box<Client>>)>,
    generation: u64,
}

struct CopyTurn {
    token: u64,
    client: Box<Client>,
}

impl Deref for CopyTurn {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for CopyTurn {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Slots {
    fn client(&mut self, token: u64) -> Option<&mut Option<Box<Client>>> {
        let (generation, client) = self.slab.get_mut(token as u32 as usize)?;
        (*generation == token >> 32).then_some(client)
    }
}

impl<const FAULT: u8> Line for Copy<FAULT> {
    type Turn = CopyTurn;

    fn make() -> Self {
        let selector = Selector::new().expect("an epoll set");
        Copy {
            selector,
            slots: Mutex::new(Slots::default()),
            len: AtomicUsize::new(0),
        }
    }

    fn add(&self, client: Box<Client>) {
        let mut slots = self.slots.lock();
        let generation = slots.generation;
        if FAULT != NO_GENERATION {
            slots.generation += 1;
        }
        let key = slots.slab.insert((generation, None));
        let token = (generation << 32) | key as u64;
        if FAULT == NOT_ONE_SHOT {
            kernel::current().epoll_add(kernel::number_of(client.as_fd()), IN, false, token);
        } else {
            self.selector
                .add(client.as_fd(), token, Wait::Read)
                .expect("added");
        }
        slots.slab[key].1 = Some(client);
        self.len.fetch_add(1, Ordering::AcqRel);
    }

    fn next(&self) -> Option<CopyTurn> {
        loop {
            match self
                .selector
                .wait(std::time::Duration::MAX)
                .expect("an event")
            {
                Event::Ready(token) => {
                    if let Some(client) = self.slots.lock().client(token).and_then(Option::take) {
                        return Some(CopyTurn { token, client });
                    }
                }
                _ => {
                    if FAULT != KEEPS_POISON {
                        self.selector.pass_poison().expect("passed");
                    }
                    return None;
                }
            }
        }
    }

    fn rearm(&self, turn: CopyTurn, wait: Wait) {
        let CopyTurn { token, client } = turn;
        match FAULT {
            ARMED_FIRST => {
                self.selector
                    .rearm(client.as_fd(), token, wait)
                    .expect("armed");
                *self.slots.lock().client(token).expect("its slot") = Some(client);
            }
            ARMED_UNLOCKED => {
                let number = kernel::number_of(client.as_fd());
                *self.slots.lock().client(token).expect("its slot") = Some(client);
                let events = if wait == Wait::Read { IN } else { OUT };
                kernel::current().epoll_modify(number, events, token);
            }
            _ => {
                let mut slots = self.slots.lock();
                self.selector
                    .rearm(client.as_fd(), token, wait)
                    .expect("armed");
                *slots.client(token).expect("its slot") = Some(client);
            }
        }
    }

    fn close(&self, turn: CopyTurn) {
        self.slots.lock().slab.remove(turn.token as u32 as usize);
        drop(turn.client);
        self.len.fetch_sub(1, Ordering::AcqRel);
    }

    fn retain(&self, mut keep: impl FnMut(&mut Client) -> bool) -> usize {
        let mut leaving = Vec::new();
        self.slots.lock().slab.retain(|_, (_, client)| {
            let stays = client.as_deref_mut().is_none_or(&mut keep);
            if !stays {
                leaving.extend(client.take());
            }
            stays
        });
        self.len.fetch_sub(leaving.len(), Ordering::AcqRel);
        leaving.len()
    }

    fn poison(&self) {
        self.selector.poison().expect("poisoned");
    }

    fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }
}

#[test]
fn the_copy_without_a_fault_passes() {
    find_fault(500, echo::<Copy<NONE>>);
    find_fault(500, || poison_amidst::<Copy<NONE>>(Cascade::Works));
    find_fault(500, reuse::<Copy<NONE>>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn arming_before_parking_is_found() {
    find_fault(2000, echo::<Copy<ARMED_FIRST>>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn arming_outside_the_lock_is_found() {
    find_fault(5000, reuse::<Copy<ARMED_UNLOCKED>>);
}

#[test]
#[should_panic(expected = "taken by a token that is not its own")]
fn a_token_without_a_generation_is_found() {
    find_fault(5000, reuse::<Copy<NO_GENERATION>>);
}

#[test]
#[should_panic(expected = "taken by a token that is not its own")]
fn a_watch_that_is_not_one_shot_is_found() {
    find_fault(1000, echo::<Copy<NOT_ONE_SHOT>>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn poison_that_is_not_passed_on_is_found() {
    find_fault(1000, || poison_amidst::<Copy<KEEPS_POISON>>(Cascade::Lost));
}
