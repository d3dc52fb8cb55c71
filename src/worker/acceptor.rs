//! One thread per listener: blocking accept4, then into the queue; nothing
//! else, but what takes no time (`host.rs`), and the wait where the listener
//! does not block (`bell.rs`). And how to stop it, which is the hard part
//! (PITFALLS 1).

use super::Connection;
use super::bell::Bell;
use super::consumer;
use super::gate::Room;
use super::host::Host;
use crate::client::Client;
use crate::ledger::Ledger;
use crate::listener::Serves;
use crate::queue::{Next, Wait};
use crate::sys::clock::Tick;
use crate::sys::signal::{self, Mask};
use crate::sys::socket::{self, Peer};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

/// Keep-alive connections that were idle for so long give way when descriptors
/// run out. Milliseconds.
const GIVES_WAY_MS: u32 = 5000;

/// Pauses after accept4 has found no descriptor: doubling between these.
const PAUSE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_millis(500);

/// A kick that was lost is repeated after 1 ms, then doubling up to this.
const LONGEST_KICK: Duration = Duration::from_millis(50);

/// While the listen queue is emptied: connections in it at the start came
/// before the stop, so that many (the kernel's longest queue) are enough.
const LAST_ACCEPTS: usize = 65_536;

/// How an acceptor goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    Accept = 0,
    /// Others serve this listener: leave at once.
    Leave = 1,
    /// Nobody will: leave when the listen queue is empty.
    Empty = 2,
}

/// What the acceptor and who stops it share.
struct Shared {
    order: AtomicU8,
    /// The thread has left its loop. A flag of ours: pthread_kill of a thread
    /// that has ended does not say so on every libc.
    gone: AtomicBool,
}

/// A running acceptor.
pub struct Acceptor {
    /// This process's own number for the shared listener: since it was forked,
    /// what happens to the number happens here alone.
    listener: Arc<OwnedFd>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    is_lent: bool,
}

/// A listener of this process.
pub struct Door {
    pub listener: OwnedFd,
    /// The number of its site.
    pub site: usize,
    pub serves: Serves,
    /// Somebody goes on with it when the whole server ends.
    pub is_lent: bool,
}

/// What an acceptor works with.
struct Work {
    listener: Arc<OwnedFd>,
    shared: Arc<Shared>,
    site: usize,
    serves: Serves,
    crew: consumer::Work,
}

impl Acceptor {
    /// Starts the thread. The listener is nobody else's in this process. All
    /// wait at `ready` before they accept: a worker that says so takes its part
    /// from then on.
    pub fn start(
        nr: usize,
        door: Door,
        crew: &consumer::Work,
        ledger: Arc<Ledger>,
        ready: &Arc<Barrier>,
    ) -> io::Result<Acceptor> {
        let Door {
            listener,
            site,
            serves,
            is_lent,
        } = door;
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared {
            order: AtomicU8::new(Order::Accept as u8),
            gone: AtomicBool::new(false),
        });
        let work = Work {
            listener: Arc::clone(&listener),
            shared: Arc::clone(&shared),
            site,
            serves,
            crew: crew.clone(),
        };
        let ready = Arc::clone(ready);
        let thread = std::thread::Builder::new()
            .name(format!("acc:{nr}"))
            .spawn(move || {
                Mask::all_but_kick().apply();
                ready.wait();
                work.run(Host::new(ledger));
                work.shared.gone.store(true, Ordering::Release);
            })?;
        Ok(Acceptor {
            listener,
            shared,
            thread,
            is_lent,
        })
    }

    /// Whether others go on with its listener, whoever else stops.
    pub fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// Tells it to leave at once; the listener goes on in other processes.
    /// `dead` takes the listener's place in this one: a thread about to enter
    /// accept4 finds no listener, one inside gets EINTR by the kick.
    pub fn leave(&self, dead: BorrowedFd<'_>) -> io::Result<()> {
        self.shared
            .order
            .store(Order::Leave as u8, Ordering::Release);
        socket::replace_by_dead(self.listener.as_fd(), dead)
    }

    /// Tells it to empty the listen queue and leave: nobody else will. The
    /// listener stops blocking, for all processes; a thread about to enter
    /// accept4 finds EAGAIN, one inside gets EINTR by the kick.
    pub fn empty(&self) -> io::Result<()> {
        self.shared
            .order
            .store(Order::Empty as u8, Ordering::Release);
        // The master has done so before it told us, unless it is dead: who came
        // after the last accept would be lost (and is, where there is no such filter).
        let _ = socket::refuse_new(self.listener.as_fd());
        // Who has something to say now is not to wait for a second first.
        let _ = socket::set_defer_accept(self.listener.as_fd(), false);
        socket::set_nonblocking(self.listener.as_fd(), true)
    }

    /// Whether the thread has left its loop.
    pub fn is_gone(&self) -> bool {
        self.shared.gone.load(Ordering::Acquire)
    }

    /// Interrupts its accept4, once.
    pub fn kick(&self) {
        signal::kick(&self.thread);
    }

    /// Kicks it until it has gone, and joins it. Tell it to leave first.
    pub fn join(self) {
        let mut pause = Duration::from_millis(1);
        while !self.is_gone() {
            self.kick();
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(LONGEST_KICK);
        }
        // It ends by returning; a panic aborts the process.
        let _ = self.thread.join();
    }
}

impl Work {
    fn order(&self) -> Order {
        match self.shared.order.load(Ordering::Acquire) {
            0 => Order::Accept,
            1 => Order::Leave,
            _ => Order::Empty,
        }
    }

    fn run(&self, mut host: Host) {
        let gate = &self.crew.gate;
        let mut pause = *PAUSE.start();
        let mut last_accepts = LAST_ACCEPTS;
        // Who waits without accept4: for a listener that does not block.
        let mut bell = Bell::default();
        loop {
            let order = self.order();
            match order {
                Order::Accept => match gate.wait() {
                    Room::Yes => {}
                    Room::Full => {
                        self.make_room("--maxconns is reached");
                        continue;
                    }
                    // The order has changed before the gate was closed.
                    Room::Closed => continue,
                },
                Order::Leave => return,
                Order::Empty if last_accepts == 0 => return,
                Order::Empty if gate.is_full() => {
                    gate.pause(*PAUSE.start());
                    continue;
                }
                Order::Empty => {
                    last_accepts -= 1;
                    // Each time: somebody who shares it may make it block again.
                    if let Err(e) = socket::set_nonblocking(self.listener.as_fd(), true) {
                        log::error!("fcntl: {e}: a listen queue is left as it is");
                        return;
                    }
                }
            }
            if order == Order::Accept {
                // Behind the gate: who is woken accepts, or the client would wait.
                bell.wait(self.listener.as_fd());
            }
            host.accepts();
            match socket::accept(self.listener.as_fd()) {
                Ok((socket, peer)) => {
                    pause = *PAUSE.start();
                    self.welcome(socket, peer, &mut host);
                }
                Err(e) => match Refusal::of(&e) {
                    Refusal::Look => {}
                    // Only what was found under the order to empty it counts: a
                    // client may have come between a look before it and now.
                    Refusal::Empty if order == Order::Empty => return,
                    Refusal::Empty if self.order() != order => {}
                    Refusal::Empty => {
                        if let Err(e) = bell.hang(self.listener.as_fd()) {
                            self.make_room(&format!("epoll_create: {e}"));
                            gate.pause(*PAUSE.start());
                        }
                    }
                    Refusal::Pause => {
                        self.make_room(&format!("accept4: {e}"));
                        gate.pause(pause);
                        pause = (pause * 2).min(*PAUSE.end());
                    }
                    Refusal::NoListener if self.order() == Order::Accept => {
                        log::error!("accept4: {e}: the listener has gone; this worker ends");
                        std::process::abort();
                    }
                    Refusal::NoListener => return,
                },
            }
        }
    }

    fn welcome(&self, socket: OwnedFd, peer: Peer, host: &mut Host) {
        let crew = &self.crew;
        let place = crew.gate.enter(false);
        let mut client: Box<Connection> =
            Box::new(Client::new(socket, peer, self.site, self.serves, place));
        let wait = match host.first_turn(crew, &mut client) {
            Some(Next::Rearm(wait)) => {
                if wait == Wait::ReadWrite {
                    client.place().is_work();
                }
                wait
            }
            // Detach: it never enters a line here.
            Some(Next::Close | Next::Detach) => return,
            None => {
                // At saturation a connection has waited in the listen queue, and
                // its request with it; who is silent now may stay so.
                if socket::has_input(client.as_fd()) {
                    client.place().is_work();
                }
                Wait::Read
            }
        };
        if let Err((client, e)) = crew.queue.add(client, wait) {
            crate::log::client(format_args!(
                "{} was closed: epoll_ctl: {e}; see fs.epoll.max_user_watches",
                client.peer()
            ));
        }
    }

    /// Idle keep-alive connections give way.
    fn make_room(&self, why: &str) {
        if !self.crew.gate.expiry_is_due() {
            return;
        }
        let now = Tick::now();
        // Whose next request has come just now is idle no longer.
        let closed = self.crew.queue.retain(|client| {
            let idle = client
                .idle_for(now)
                .is_some_and(|idle| idle >= GIVES_WAY_MS);
            !idle || socket::has_input(client.as_fd())
        });
        log::warn!("{why}: expired {closed} connections idle for 5 s or more");
    }
}

/// What to do about an errno of accept4.
enum Refusal {
    /// That connection has gone, or we were kicked: look at the order.
    Look,
    /// The queue is empty (the listener is non-blocking).
    Empty,
    /// No descriptor, or no memory.
    Pause,
    /// The descriptor is no listener.
    NoListener,
}

impl Refusal {
    fn of(e: &io::Error) -> Refusal {
        match e.raw_os_error().unwrap_or_default() {
            libc::EAGAIN => Refusal::Empty,
            // accept4 takes the descriptor before it waits: with a full table
            // it returns at once, and a bare loop would spin.
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Refusal::Pause,
            libc::EBADF | libc::ENOTSOCK | libc::EINVAL => Refusal::NoListener,
            // EINTR, ECONNABORTED, and the errors of the new connection itself,
            // which accept(2) says to treat like EAGAIN.
            _ => Refusal::Look,
        }
    }
}
