//! An echo service over a queue, with checks at every hand-over. The queue is the real one or a copy with a fault.

use super::clock;
use super::kernel::{Kernel, Peer, Read, Socket};
use crate::queue::{LONGEST_WAIT, Next, Queue, Turn, Wait, Woken};
use crate::seats::{Seat, Seats};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use std::collections::VecDeque;
use std::io;
use std::ops::DerefMut;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a queue can do: [`Queue`], or a copy of it.
pub trait Line: Send + Sync + 'static {
    type Turn: DerefMut<Target = Client>;

    fn make() -> Self;
    fn add(&self, client: Box<Client>);
    fn next(&self) -> Option<Self::Turn>;
    fn rearm(&self, turn: Self::Turn, wait: Wait);
    fn close(&self, turn: Self::Turn);
    fn retain(&self, keep: impl FnMut(&mut Client) -> bool) -> usize;
    fn poison(&self);
    fn len(&self) -> usize;
}

fn fine<T>(result: io::Result<T>) -> T {
    result.expect("the kernel has nothing to refuse")
}

impl Line for Queue<Client> {
    type Turn = Turn<Client>;

    fn make() -> Self {
        fine(Queue::new())
    }

    fn add(&self, client: Box<Client>) {
        fine(Queue::add(self, client, Wait::Read).map_err(|(_, e)| e));
    }

    /// As `worker/pace.rs` does: sometimes it looks, lets others run and looks again before it waits.
    fn next(&self) -> Option<Turn<Client>> {
        let looks = if thread_rng().gen_bool(0.5) { 2 } else { 0 };
        for at_most in std::iter::repeat_n(Duration::ZERO, looks).chain([LONGEST_WAIT]) {
            match fine(Queue::next(self, at_most)) {
                Woken::By(turn) => return Some(turn),
                Woken::Poisoned => return None,
                Woken::Late => thread::yield_now(),
            }
        }
        unreachable!("no timeout comes in this kernel")
    }

    fn rearm(&self, turn: Turn<Client>, wait: Wait) {
        fine(Queue::rearm(self, turn, wait));
    }

    fn close(&self, turn: Turn<Client>) {
        Queue::close(self, turn);
    }

    fn retain(&self, keep: impl FnMut(&mut Client) -> bool) -> usize {
        Queue::retain(self, keep)
    }

    fn poison(&self) {
        fine(Queue::poison(self));
    }

    fn len(&self) -> usize {
        Queue::len(self)
    }
}

/// What the scenario knows of a client, wherever that is. Of std: to look here is no step of the program.
#[derive(Default)]
pub struct File {
    /// A consumer is serving it.
    in_turn: AtomicBool,
    evicted: AtomicBool,
    freed: AtomicBool,
}

/// All clients that ever were.
#[derive(Default)]
pub struct Census(Mutex<Vec<Arc<File>>>);

impl Census {
    fn enter(&self) -> Arc<File> {
        let file = Arc::new(File::default());
        self.0.lock().unwrap().push(Arc::clone(&file));
        file
    }

    /// Clients that have not been freed.
    pub fn alive(&self) -> usize {
        let files = self.0.lock().unwrap();
        files
            .iter()
            .filter(|file| !file.freed.load(Ordering::SeqCst))
            .count()
    }
}

pub struct Client {
    socket: Socket,
    file: Arc<File>,
    /// Echoes for which the socket had no room.
    unsent: VecDeque<u8>,
    /// What it was armed for.
    waits: Wait,
}

impl Client {
    fn new(socket: Socket, file: Arc<File>) -> Box<Client> {
        Box::new(Client {
            socket,
            file,
            unsent: VecDeque::new(),
            waits: Wait::Read,
        })
    }

    /// A turn: at most two bytes.
    fn step(&mut self) -> Next {
        if self.unsent.is_empty() {
            match self.socket.read(2) {
                Read::Bytes(bytes) => self.unsent.extend(bytes),
                Read::End => return Next::Close,
                Read::Nothing => {
                    assert_ne!(
                        self.waits,
                        Wait::Read,
                        "served though there is nothing to read"
                    );
                    return Next::Rearm(Wait::Read);
                }
            }
        }
        let bytes: Vec<u8> = self.unsent.iter().copied().collect();
        let sent = self.socket.write(&bytes);
        self.unsent.drain(..sent);
        if !self.unsent.is_empty() {
            Next::Rearm(Wait::Write)
        } else if bytes.len() == 2 {
            Next::Rearm(Wait::ReadWrite)
        } else {
            Next::Rearm(Wait::Read)
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        assert!(!self.file.freed.swap(true, Ordering::SeqCst), "freed twice");
    }
}

/// A service and who takes part in it. Each of these is one thread.
pub struct Service<L> {
    pub line: Arc<L>,
    pub kernel: Arc<Kernel>,
    pub census: Arc<Census>,
}

impl<L> Clone for Service<L> {
    fn clone(&self) -> Service<L> {
        Service {
            line: Arc::clone(&self.line),
            kernel: Arc::clone(&self.kernel),
            census: Arc::clone(&self.census),
        }
    }
}

impl<L: Line> Service<L> {
    pub fn open(kernel: Arc<Kernel>) -> Service<L> {
        Service {
            line: Arc::new(L::make()),
            kernel,
            census: Arc::default(),
        }
    }

    pub fn start<T: Send + 'static>(
        &self,
        role: impl FnOnce(Self) -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let service = self.clone();
        thread::spawn(move || role(service))
    }

    /// The loop of `worker/consumer.rs`.
    pub fn consume(self) {
        while let Some(turn) = self.line.next() {
            self.serve(turn);
        }
    }

    /// The same where it needs a seat for it.
    pub fn consume_seated(self, seats: &Arc<Seats>) {
        let seat = Seat::new(seats);
        loop {
            assert!(seat.take(), "nobody rouses them here");
            let Some(turn) = self.line.next() else {
                return;
            };
            seat.begin(clock::monotonic_ns());
            self.serve(turn);
            seat.end();
        }
    }

    fn serve(&self, mut turn: L::Turn) {
        let file = Arc::clone(&turn.file);
        assert!(
            !file.in_turn.swap(true, Ordering::SeqCst),
            "served by two consumers"
        );
        assert!(
            !turn.socket.is_armed(),
            "taken by a token that is not its own: the kernel still has it armed"
        );
        let next = turn.step();
        file.in_turn.store(false, Ordering::SeqCst);
        match next {
            Next::Rearm(wait) => {
                turn.waits = wait;
                self.line.rearm(turn, wait);
            }
            Next::Close => self.line.close(turn),
            Next::Detach => unreachable!("an echo has nowhere to go"),
        }
    }

    /// A client connects and is added, as an acceptor does it.
    pub fn connect(&self) -> (Peer, Arc<File>) {
        let (peer, socket) = self.kernel.connect();
        let file = self.census.enter();
        self.line.add(Client::new(socket, Arc::clone(&file)));
        (peer, file)
    }

    /// Connects, sends these bytes and wants each of them back, in order. Only an evicted one may lose the rest.
    pub fn talk(self, bytes: &[u8]) {
        let (peer, file) = self.connect();
        for byte in bytes {
            peer.send(*byte);
        }
        for byte in bytes {
            match peer.receive() {
                Some(echo) => assert_eq!(echo, *byte, "the wrong byte came back"),
                None => {
                    assert!(
                        file.evicted.load(Ordering::SeqCst),
                        "closed without a reason"
                    );
                    return;
                }
            }
        }
    }

    /// Looks at the parked clients so many times, and evicts one in `odds` of those it sees.
    pub fn sweep(self, times: usize, odds: u32) {
        for _ in 0..times {
            self.line.retain(|client| !client.evict(odds));
        }
    }

    /// After the last consumer has left: what was not freed is in the queue; and with it all the rest goes, once.
    pub fn close(self) {
        assert_eq!(
            self.line.len(),
            self.census.alive(),
            "the queue's count is not the truth"
        );
        let seen = AtomicUsize::new(0);
        self.line.retain(|_| {
            seen.fetch_add(1, Ordering::SeqCst);
            true
        });
        assert_eq!(
            seen.into_inner(),
            self.census.alive(),
            "a client is neither parked nor freed"
        );
        let Service { line, census, .. } = self;
        drop(Arc::into_inner(line).expect("no other thread has it"));
        assert_eq!(census.alive(), 0, "a client was leaked");
    }
}

impl Client {
    pub fn is(&self, file: &Arc<File>) -> bool {
        Arc::ptr_eq(&self.file, file)
    }

    pub fn evict(&mut self, odds: u32) -> bool {
        let goes = thread_rng().gen_ratio(1, odds);
        if goes {
            assert!(
                !self.file.in_turn.load(Ordering::SeqCst),
                "evicted while it was served"
            );
            self.file.evicted.store(true, Ordering::SeqCst);
        }
        goes
    }
}
