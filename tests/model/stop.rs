//! The stop of acceptors (queues.txt 6, PITFALLS 1): the protocol of `worker/acceptor.rs` against a listener in memory
//! that loses a kick when it comes before the system call. The protocol is a copy, since the real one starts threads
//! of the system; it is short. Whatever is left out of it must be found as a hang.

use crate::{explore, find_fault};
use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use shuttle::sync::mpsc::{Sender, channel};
use shuttle::thread;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// The open file description that processes share: what they do to it, they do to all.
#[derive(Default)]
struct Listener {
    step: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nonblocking: bool,
    /// Clients that wait to be accepted.
    clients: VecDeque<u32>,
    /// Threads in accept4, the longest waiting first.
    waiters: VecDeque<(usize, Sender<()>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Errno {
    Interrupted,
    Again,
    NotListening,
}

/// A thread, as far as signals concern it.
#[derive(Default)]
struct Signals {
    /// It is in a system call, which a signal would interrupt. Outside of one the handler runs, and that is all.
    in_call: bool,
    pending: bool,
}

/// An acceptor and its process's number for the listener.
struct Acceptor {
    nr: usize,
    listener: Arc<Listener>,
    /// dup3 has put a dead socket in the listener's place.
    dead: AtomicBool,
    signals: Mutex<Signals>,
    order: AtomicU8,
    gone: AtomicBool,
    served: Mutex<Vec<u32>>,
}

const ACCEPT: u8 = 0;
const LEAVE: u8 = 1;
const EMPTY: u8 = 2;

impl Listener {
    fn call<R>(&self, body: impl FnOnce(&mut State) -> R) -> R {
        self.step.fetch_add(1, Ordering::SeqCst);
        body(&mut self.state.lock().unwrap())
    }

    fn set_nonblocking(&self, on: bool) {
        self.call(|state| state.nonblocking = on);
    }

    fn connect(&self, client: u32) {
        let waiter = self.call(|state| {
            state.clients.push_back(client);
            state.waiters.pop_front()
        });
        wake(waiter.map(|(_, waiter)| waiter));
    }
}

fn wake(waiter: Option<Sender<()>>) {
    if let Some(waiter) = waiter {
        waiter.send(()).expect("a waiter listens");
    }
}

impl Acceptor {
    fn new(nr: usize, listener: &Arc<Listener>) -> Arc<Acceptor> {
        Arc::new(Acceptor {
            nr,
            listener: Arc::clone(listener),
            dead: AtomicBool::new(false),
            signals: Mutex::default(),
            order: AtomicU8::new(ACCEPT),
            gone: AtomicBool::new(false),
            served: Mutex::default(),
        })
    }

    fn start(self: &Arc<Acceptor>) -> thread::JoinHandle<()> {
        let acceptor = Arc::clone(self);
        thread::spawn(move || {
            acceptor.run();
            acceptor.gone.store(true, Ordering::SeqCst);
        })
    }

    /// accept4: the number is looked up and O_NONBLOCK read once, at its start.
    fn accept(&self) -> Result<u32, Errno> {
        self.listener
            .call(|_| self.signals.lock().unwrap().in_call = true);
        let result = self.wait_for_client();
        // The handler runs on the way out, whatever the result is.
        *self.signals.lock().unwrap() = Signals::default();
        result
    }

    fn wait_for_client(&self) -> Result<u32, Errno> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(Errno::NotListening);
        }
        let may_wait = self.listener.call(|state| !state.nonblocking);
        loop {
            let outcome = self.listener.call(|state| {
                if let Some(client) = state.clients.pop_front() {
                    return Ok(Ok(client));
                }
                if !may_wait {
                    return Ok(Err(Errno::Again));
                }
                if self.signals.lock().unwrap().pending {
                    return Ok(Err(Errno::Interrupted));
                }
                let (tx, rx) = channel();
                state.waiters.push_back((self.nr, tx));
                Err(rx)
            });
            match outcome {
                Ok(result) => return result,
                Err(woken) => woken
                    .recv()
                    .expect("a waiter is woken before it is forgotten"),
            }
        }
    }

    /// pthread_kill, with a handler that does nothing.
    fn kick(&self) {
        let waiter = self.listener.call(|state| {
            let mut signals = self.signals.lock().unwrap();
            if !signals.in_call {
                return None;
            }
            signals.pending = true;
            let place = state.waiters.iter().position(|(nr, _)| *nr == self.nr)?;
            state.waiters.remove(place)
        });
        wake(waiter.map(|(_, waiter)| waiter));
    }

    fn order(&self) -> u8 {
        self.order.load(Ordering::SeqCst)
    }

    /// `Work::run`, without the gate.
    fn run(&self) {
        loop {
            let order = self.order();
            match order {
                LEAVE => return,
                EMPTY => self.listener.set_nonblocking(true),
                _ => {}
            }
            match self.accept() {
                Ok(client) => self.served.lock().unwrap().push(client),
                Err(Errno::Interrupted) => {}
                Err(Errno::Again) if order == EMPTY => return,
                // `Bell`: it may ring without reason, and it is no wait that a kick could miss.
                Err(Errno::Again) => thread::yield_now(),
                Err(Errno::NotListening) => {
                    assert_ne!(
                        self.order(),
                        ACCEPT,
                        "the listener has gone: the worker aborts"
                    );
                    return;
                }
            }
        }
    }

    /// `Acceptor::leave`.
    fn leave(&self) {
        self.order.store(LEAVE, Ordering::SeqCst);
        self.dead.store(true, Ordering::SeqCst);
    }

    /// `Acceptor::empty`.
    fn empty(&self) {
        self.order.store(EMPTY, Ordering::SeqCst);
        self.listener.set_nonblocking(true);
    }

    /// `Acceptor::join`, without the join.
    fn kick_until_gone(&self) {
        while !self.gone.load(Ordering::SeqCst) {
            self.kick();
            thread::yield_now();
        }
    }

    fn served(&self) -> usize {
        self.served.lock().unwrap().len()
    }
}

/// One process stops, another goes on with the same listener: no client is lost, and none is in the way.
#[test]
fn a_worker_leaves_and_another_goes_on() {
    explore(3000, || {
        let listener = Arc::new(Listener::default());
        let (leaving, staying) = (Acceptor::new(0, &listener), Acceptor::new(1, &listener));
        let threads = [leaving.start(), staying.start()];
        let clients = {
            let listener = Arc::clone(&listener);
            thread::spawn(move || (0..3).for_each(|client| listener.connect(client)))
        };
        leaving.leave();
        leaving.kick_until_gone();
        clients.join().unwrap();
        staying.empty();
        staying.kick_until_gone();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(leaving.served() + staying.served(), 3);
    });
}

/// The same while somebody who shares the listener changes his mind about O_NONBLOCK.
#[test]
fn a_stranger_flips_the_listener() {
    explore(3000, || {
        let listener = Arc::new(Listener::default());
        let (leaving, staying) = (Acceptor::new(0, &listener), Acceptor::new(1, &listener));
        let mut threads = vec![leaving.start(), staying.start()];
        for part in 0..2 {
            let listener = Arc::clone(&listener);
            threads.push(thread::spawn(move || {
                for nr in 0..3 {
                    match part {
                        0 => listener.connect(nr),
                        _ => listener.set_nonblocking(nr != 1),
                    }
                }
            }));
        }
        leaving.leave();
        leaving.kick_until_gone();
        threads.drain(2..).for_each(|part| part.join().unwrap());
        staying.empty();
        staying.kick_until_gone();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(leaving.served() + staying.served(), 3);
    });
}

/// The last one stops: who is in the listen queue by then is served.
#[test]
fn the_last_worker_empties_the_listen_queue() {
    explore(3000, || {
        let listener = Arc::new(Listener::default());
        let last = Acceptor::new(0, &listener);
        let thread = last.start();
        (0..3).for_each(|client| listener.connect(client));
        last.empty();
        last.kick_until_gone();
        thread.join().unwrap();
        assert_eq!(last.served(), 3);
    });
}

/// All workers stop, each at its own moment: O_NONBLOCK is of the listener, so who was not told yet sees it first.
#[test]
fn all_workers_stop_at_once() {
    explore(3000, || {
        let listener = Arc::new(Listener::default());
        let workers = [0, 1].map(|nr| Acceptor::new(nr, &listener));
        let threads = workers.each_ref().map(Acceptor::start);
        (0..2).for_each(|client| listener.connect(client));
        let masters = workers.each_ref().map(|worker| {
            let worker = Arc::clone(worker);
            thread::spawn(move || {
                worker.empty();
                worker.kick_until_gone();
            })
        });
        masters
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(
            workers.iter().map(|worker| worker.served()).sum::<usize>(),
            2
        );
    });
}

/// One signal is enough where the listener's place is taken first: no schedule loses it.
#[test]
fn one_kick_is_enough_behind_a_dead_listener() {
    explore(3000, || {
        let acceptor = Acceptor::new(0, &Arc::default());
        let thread = acceptor.start();
        acceptor.leave();
        acceptor.kick();
        thread.join().unwrap();
    });
}

/// And repeated ones are, where it cannot be taken (macOS waits in dup2).
#[test]
fn repeated_kicks_are_enough_alone() {
    explore(3000, || {
        let acceptor = Acceptor::new(0, &Arc::default());
        let thread = acceptor.start();
        acceptor.order.store(LEAVE, Ordering::SeqCst);
        acceptor.kick_until_gone();
        thread.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn one_kick_alone_is_found() {
    find_fault(1000, || {
        let acceptor = Acceptor::new(0, &Arc::default());
        let thread = acceptor.start();
        acceptor.order.store(LEAVE, Ordering::SeqCst);
        acceptor.kick();
        thread.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_kick_before_the_dead_listener_is_found() {
    find_fault(1000, || {
        let acceptor = Acceptor::new(0, &Arc::default());
        let thread = acceptor.start();
        acceptor.order.store(LEAVE, Ordering::SeqCst);
        acceptor.kick();
        acceptor.dead.store(true, Ordering::SeqCst);
        thread.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "the listener has gone")]
fn a_dead_listener_before_the_order_is_found() {
    find_fault(1000, || {
        let acceptor = Acceptor::new(0, &Arc::default());
        let thread = acceptor.start();
        acceptor.dead.store(true, Ordering::SeqCst);
        acceptor.order.store(LEAVE, Ordering::SeqCst);
        acceptor.kick();
        thread.join().unwrap();
    });
}
