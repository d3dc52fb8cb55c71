//! A kernel in memory: descriptors, connections, and one epoll set, with the rules of fs/eventpoll.c that the queue
//! lives by. A system call is one step, before which other threads may run.

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};

/// What a descriptor can be ready for, and be watched for.
pub const IN: u8 = 1;
pub const OUT: u8 = 2;

/// Bytes that a connection holds on their way back to the peer: few, so that a reply meets a full socket.
const ROOM: usize = 2;

/// Descriptors of this kernel at most.
const DESCRIPTORS: usize = 64;

/// Whether a thread that takes an event wakes the next one when more are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cascade {
    Works,
    /// Linux 5.5 to 5.12.
    Lost,
}

#[derive(Clone, Copy)]
enum Open {
    /// The server's end of that connection.
    Socket(usize),
    /// An eventfd that can always be written.
    Eventfd,
}

#[derive(Default)]
struct Connection {
    to_server: VecDeque<u8>,
    to_peer: VecDeque<u8>,
    peer_closed: bool,
    server_closed: bool,
    /// The descriptor of the server's end.
    number: usize,
    /// The peer's thread, when it waits for bytes.
    peer: Option<Sender<()>>,
}

/// struct epitem.
struct Watch {
    token: u64,
    events: u8,
    one_shot: bool,
    /// It is in the list of ready ones.
    linked: bool,
}

struct State {
    cascade: Cascade,
    open: Vec<Option<Open>>,
    connections: Vec<Connection>,
    watches: Vec<Option<Watch>>,
    ready: VecDeque<usize>,
    /// Threads in epoll_wait; the last to come is the first to be woken.
    waiters: Vec<Sender<()>>,
}

/// Threads to wake when a system call is done.
type Woken = Vec<Sender<()>>;

pub struct Kernel {
    step: AtomicUsize,
    state: Mutex<State>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Kernel>>> = const { RefCell::new(None) };
}

/// A new kernel, which is this execution's.
pub fn boot(cascade: Cascade) -> Arc<Kernel> {
    let kernel = Arc::new(Kernel {
        step: AtomicUsize::new(0),
        state: Mutex::new(State {
            cascade,
            open: (0..DESCRIPTORS).map(|_| None).collect(),
            connections: Vec::new(),
            watches: (0..DESCRIPTORS).map(|_| None).collect(),
            ready: VecDeque::new(),
            waiters: Vec::new(),
        }),
    });
    CURRENT.set(Some(Arc::clone(&kernel)));
    kernel
}

pub fn current() -> Arc<Kernel> {
    CURRENT.with_borrow(|kernel| Arc::clone(kernel.as_ref().expect("booted")))
}

/// Real descriptors stand for the simulated numbers where a `BorrowedFd` is asked for: all open, all the time, and
/// never used.
fn stand_ins() -> &'static [OwnedFd] {
    static STAND_INS: OnceLock<Vec<OwnedFd>> = OnceLock::new();
    STAND_INS.get_or_init(|| {
        (0..DESCRIPTORS)
            .map(|_| File::open("/dev/null").expect("/dev/null").into())
            .collect()
    })
}

/// The number that a stand-in stands for.
pub fn number_of(fd: BorrowedFd<'_>) -> usize {
    let same = |stand_in: &OwnedFd| stand_in.as_raw_fd() == fd.as_raw_fd();
    stand_ins()
        .iter()
        .position(same)
        .expect("a descriptor of this kernel")
}

impl State {
    fn open(&mut self, file: Open) -> usize {
        let number = self.open.iter().position(Option::is_none).expect("EMFILE");
        self.open[number] = Some(file);
        number
    }

    fn readiness(&self, number: usize) -> u8 {
        match self.open[number] {
            None => 0,
            Some(Open::Eventfd) => OUT,
            Some(Open::Socket(connection)) => {
                let connection = &self.connections[connection];
                let readable = !connection.to_server.is_empty() || connection.peer_closed;
                let writable = connection.to_peer.len() < ROOM || connection.peer_closed;
                (u8::from(readable) * IN) | (u8::from(writable) * OUT)
            }
        }
    }

    fn wake(&mut self, woken: &mut Woken) {
        woken.extend(self.waiters.pop());
    }

    /// ep_poll_callback: something has happened to a descriptor.
    fn announce(&mut self, number: usize, woken: &mut Woken) {
        let readiness = self.readiness(number);
        let Some(watch) = self.watches[number]
            .as_mut()
            .filter(|watch| watch.events & readiness != 0)
        else {
            return;
        };
        if !std::mem::replace(&mut watch.linked, true) {
            self.ready.push_back(number);
        }
        self.wake(woken);
    }

    /// The end of ep_insert and of ep_modify. Nobody is woken for what is in the list already.
    fn link_if_ready(&mut self, number: usize, woken: &mut Woken) {
        let readiness = self.readiness(number);
        let Some(watch) = self.watches[number].as_mut() else {
            return;
        };
        if watch.events & readiness != 0 && !watch.linked {
            watch.linked = true;
            self.ready.push_back(number);
            self.wake(woken);
        }
    }

    /// ep_send_events, with room for one.
    fn take_event(&mut self, woken: &mut Woken) -> Option<u64> {
        while let Some(number) = self.ready.pop_front() {
            let readiness = self.readiness(number);
            let Some(watch) = self.watches[number].as_mut() else {
                continue;
            };
            watch.linked = false;
            if watch.events & readiness == 0 {
                continue;
            }
            if watch.one_shot {
                watch.events = 0;
            } else {
                watch.linked = true;
                self.ready.push_back(number);
            }
            let token = watch.token;
            if self.cascade == Cascade::Works && !self.ready.is_empty() {
                self.wake(woken);
            }
            return Some(token);
        }
        None
    }

    fn wake_peer(&mut self, connection: usize, woken: &mut Woken) {
        woken.extend(self.connections[connection].peer.take());
    }
}

impl Kernel {
    /// A system call.
    fn call<R>(&self, body: impl FnOnce(&mut State, &mut Woken) -> R) -> R {
        // Not while a failed execution is taken down: it has no schedule any more.
        if !std::thread::panicking() {
            self.step.fetch_add(1, Ordering::SeqCst);
        }
        let mut woken = Woken::new();
        let result = body(&mut self.state.lock().unwrap(), &mut woken);
        for thread in woken {
            // A thread that has ended needs no waking.
            let _ = thread.send(());
        }
        result
    }

    pub fn eventfd(&self) -> usize {
        self.call(|state, _| state.open(Open::Eventfd))
    }

    /// EPOLL_CTL_ADD; false is EEXIST.
    pub fn epoll_add(&self, number: usize, events: u8, one_shot: bool, token: u64) -> bool {
        self.call(|state, woken| {
            assert!(state.open[number].is_some(), "EBADF");
            if state.watches[number].is_some() {
                return false;
            }
            state.watches[number] = Some(Watch {
                token,
                events,
                one_shot,
                linked: false,
            });
            state.link_if_ready(number, woken);
            true
        })
    }

    /// EPOLL_CTL_MOD; false is ENOENT.
    pub fn epoll_modify(&self, number: usize, events: u8, token: u64) -> bool {
        self.call(|state, woken| {
            let Some(watch) = state.watches[number].as_mut() else {
                return false;
            };
            (watch.events, watch.token) = (events, token);
            state.link_if_ready(number, woken);
            true
        })
    }

    /// EPOLL_CTL_DEL; ENOENT is nobody's concern here.
    pub fn epoll_delete(&self, number: usize) {
        self.call(|state, _| {
            state.watches[number] = None;
            state.ready.retain(|ready| *ready != number);
        });
    }

    /// epoll_wait with room for one event and a timeout of zero.
    pub fn epoll_look(&self) -> Option<u64> {
        self.call(|state, woken| state.take_event(woken))
    }

    /// epoll_wait with room for one event; the timeout never comes.
    pub fn epoll_wait(&self) -> u64 {
        loop {
            let outcome: Result<u64, Receiver<()>> = self.call(|state, woken| {
                state.take_event(woken).ok_or_else(|| {
                    let (tx, rx) = channel();
                    state.waiters.push(tx);
                    rx
                })
            });
            match outcome {
                Ok(token) => return token,
                Err(woken) => woken
                    .recv()
                    .expect("a waiter is woken before it is forgotten"),
            }
        }
    }

    /// Whether an event of this descriptor can be delivered, now or later.
    fn is_armed(&self, number: usize) -> bool {
        let state = self.state.lock().unwrap();
        state.watches[number]
            .as_ref()
            .is_some_and(|watch| watch.events != 0)
    }

    /// A client connects: its end, and the server's.
    pub fn connect(self: &Arc<Kernel>) -> (Peer, Socket) {
        let (connection, number) = self.call(|state, _| {
            let connection = state.connections.len();
            let number = state.open(Open::Socket(connection));
            state.connections.push(Connection {
                number,
                ..Connection::default()
            });
            (connection, number)
        });
        (
            Peer {
                kernel: Arc::clone(self),
                connection,
            },
            Socket {
                kernel: Arc::clone(self),
                connection,
                number,
            },
        )
    }
}

/// The client's end of a connection; closed when dropped.
pub struct Peer {
    kernel: Arc<Kernel>,
    connection: usize,
}

impl Peer {
    pub fn send(&self, byte: u8) {
        self.kernel.call(|state, woken| {
            let connection = &mut state.connections[self.connection];
            if !connection.server_closed {
                connection.to_server.push_back(byte);
                let number = connection.number;
                state.announce(number, woken);
            }
        });
    }

    /// The next byte, for which it waits; None when the server has closed.
    pub fn receive(&self) -> Option<u8> {
        loop {
            let outcome: Result<Option<u8>, Receiver<()>> = self.kernel.call(|state, woken| {
                let connection = &mut state.connections[self.connection];
                let (closed, number) = (connection.server_closed, connection.number);
                match connection.to_peer.pop_front() {
                    Some(byte) => {
                        if !closed {
                            state.announce(number, woken);
                        }
                        Ok(Some(byte))
                    }
                    None if closed => Ok(None),
                    None => {
                        let (tx, rx) = channel();
                        connection.peer = Some(tx);
                        Err(rx)
                    }
                }
            });
            match outcome {
                Ok(byte) => return byte,
                Err(woken) => woken
                    .recv()
                    .expect("a peer is woken before it is forgotten"),
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kernel.call(|state, woken| {
            let connection = &mut state.connections[self.connection];
            connection.peer_closed = true;
            if !connection.server_closed {
                let number = connection.number;
                state.announce(number, woken);
            }
        });
    }
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(Vec<u8>),
    /// EAGAIN.
    Nothing,
    End,
}

/// The server's end of a connection; closed when dropped, and then its number is free for the next one.
pub struct Socket {
    kernel: Arc<Kernel>,
    connection: usize,
    number: usize,
}

impl Socket {
    pub fn read(&self, at_most: usize) -> Read {
        self.kernel.call(|state, _| {
            let connection = &mut state.connections[self.connection];
            let len = at_most.min(connection.to_server.len());
            if len > 0 {
                Read::Bytes(connection.to_server.drain(..len).collect())
            } else if connection.peer_closed {
                Read::End
            } else {
                Read::Nothing
            }
        })
    }

    /// Takes what it has room for.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.kernel.call(|state, woken| {
            let connection = &mut state.connections[self.connection];
            if connection.peer_closed {
                return bytes.len();
            }
            let len = bytes.len().min(ROOM - connection.to_peer.len());
            connection.to_peer.extend(&bytes[..len]);
            state.wake_peer(self.connection, woken);
            len
        })
    }

    pub fn is_armed(&self) -> bool {
        self.kernel.is_armed(self.number)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        stand_ins()[self.number].as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.kernel.call(|state, woken| {
            state.open[self.number] = None;
            state.watches[self.number] = None;
            state.ready.retain(|number| *number != self.number);
            state.connections[self.connection].server_closed = true;
            state.wake_peer(self.connection, woken);
        });
    }
}
