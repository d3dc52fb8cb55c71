//! A worker's threads, started and stopped thousands of times inside one process: both ways of stopping an
//! acceptor, and the poison. `RMOG_CYCLES` asks for more than the few thousand that end in seconds. A crate of
//! its own, since the signal of the kick is the whole process's.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rmogstored::channel::Channel;
use rmogstored::config::Timeouts;
use rmogstored::device::Devices;
use rmogstored::listener::Serves;
use rmogstored::scoreboard::Scoreboard;
use rmogstored::site::Site;
use rmogstored::store::{Durability, Store};
use rmogstored::sys::signal::Inbox;
use rmogstored::worker::cores::Cores;
use rmogstored::worker::{Crew, Door};

/// A cycle that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(5);

fn cycles() -> usize {
    let asked = std::env::var("RMOG_CYCLES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(1500)
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// What all cycles share.
struct Stage {
    docroot: tempfile::TempDir,
    listener: TcpListener,
    addr: SocketAddr,
    board: Scoreboard,
    master: Arc<Channel>,
}

impl Stage {
    fn new() -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        Stage {
            docroot: tempfile::tempdir().expect("a docroot"),
            addr: listener.local_addr().expect("its address"),
            listener,
            board: Scoreboard::new().expect("shared memory"),
            master: Arc::new(Channel::pair().expect("a channel").0),
        }
    }

    /// A crew on its own descriptor of the shared listener, as after a fork.
    fn crew(&self) -> Crew {
        let store = Store::open(self.docroot.path(), Durability::None, 0o022, 0).expect("docroot");
        let second = Duration::from_secs(1);
        let timeouts = Timeouts {
            idle: second,
            head: second,
            body: second,
            send: second,
            device: second,
            drain_grace: second,
        };
        let listener: OwnedFd = self.listener.try_clone().expect("dup").into();
        let door = Door {
            listener,
            site: 0,
            serves: Serves::Http,
            is_lent: false,
        };
        let devices = Devices::new(3, 1, self.board.clone());
        let run = self.docroot.path().to_owned();
        let (master, board) = (Arc::clone(&self.master), self.board.clone());
        let site = Site::new(0, store, timeouts, Arc::clone(&devices), board, master);
        // one seat, wherever this runs
        let cores = Cores::shared_by(1000);
        let mut crew = Crew::start(vec![site], devices, run, 3, cores, 100).expect("threads");
        crew.open(vec![door]).expect("acceptors");
        crew
    }

    /// Clients of one cycle: none, silent ones, or ones that are served.
    fn visit(&self, cycle: usize) -> Vec<TcpStream> {
        let mut clients = Vec::new();
        for nr in 0..cycle % 4 {
            let mut client = TcpStream::connect(self.addr).expect("connect");
            client
                .set_read_timeout(Some(WATCHDOG))
                .expect("SO_RCVTIMEO");
            if nr == 1 {
                client
                    .write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
                    .expect("send");
                let mut reply = [0; 12];
                client.read_exact(&mut reply).expect("a reply");
                assert_eq!(&reply, b"HTTP/1.1 200");
            }
            clients.push(client);
        }
        clients
    }

    /// Others serve the listener: it must be as it was.
    fn stop_private(&self, cycle: usize) {
        let mut crew = self.crew();
        let clients = self.visit(cycle);
        if cycle.is_multiple_of(3) {
            crew.begin_drain(false).expect("begin_drain");
        }
        crew.stop(false).expect("stop");
        drop(clients);
        if cycle.is_multiple_of(16) {
            self.still_listens();
        }
    }

    /// Nobody serves it after this.
    fn stop_last(&self, cycle: usize) {
        let crew = self.crew();
        let clients = self.visit(cycle);
        crew.stop(true).expect("stop");
        drop(clients);
        self.reopen();
    }

    /// Undoes what the last one has done to the listener for good: nobody blocks in it, nobody new comes.
    fn reopen(&self) {
        self.listener.set_nonblocking(false).expect("O_NONBLOCK");
        let nothing: libc::c_int = 0;
        // SAFETY: the value lives across the call; this option has none, but the kernel reads an int
        let detached = unsafe {
            libc::setsockopt(
                self.listener.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_DETACH_FILTER,
                (&raw const nothing).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(detached, 0, "SO_DETACH_FILTER");
    }

    /// A connection from the listen queue, which may still hold those that a stopped crew did not accept.
    fn still_listens(&self) {
        let client = TcpStream::connect(self.addr).expect("connect");
        let ours = client.local_addr().expect("its address");
        loop {
            let (_accepted, peer) = self.listener.accept().expect("accept after the stop");
            if peer == ours {
                return;
            }
        }
    }
}

impl Stage {
    /// The listener does not block, by a stranger's doing: acceptors poll it, and leave as others do.
    fn stop_polling(&self, cycle: usize) {
        self.listener.set_nonblocking(true).expect("O_NONBLOCK");
        let mut crew = self.crew();
        let clients = self.visit(cycle);
        if cycle.is_multiple_of(3) {
            crew.begin_drain(false).expect("begin_drain");
        }
        crew.stop(false).expect("stop");
        drop(clients);
        self.listener.set_nonblocking(false).expect("O_NONBLOCK");
    }

    /// It changes all the time, at moments that have nothing to do with the crew's.
    fn stop_flipping(&self, cycle: usize) {
        let is_last = cycle.is_multiple_of(2);
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flipper = scope.spawn(|| {
                let mut on = cycle.is_multiple_of(2);
                while !enough.load(Ordering::Relaxed) {
                    on = !on;
                    self.listener.set_nonblocking(on).expect("O_NONBLOCK");
                    std::thread::sleep(Duration::from_micros(20 + (cycle % 50) as u64 * 7));
                }
            });
            let crew = self.crew();
            let clients = self.visit(cycle);
            crew.stop(is_last).expect("stop");
            drop(clients);
            enough.store(true, Ordering::Relaxed);
            flipper.join().expect("the flipper");
        });
        if is_last {
            self.reopen();
        }
    }
}

/// Runs `cycle` so many times under the watchdog, and counts what is left.
fn run(name: &str, count: usize, cycle: fn(&Stage, usize)) {
    let (say, hear) = channel();
    let before = (threads(), descriptors());
    let start = Instant::now();
    let actor = std::thread::spawn(move || act(count, cycle, &say));
    let mut longest = Duration::ZERO;
    loop {
        let begun = Instant::now();
        match hear.recv_timeout(WATCHDOG) {
            Ok(_) => longest = longest.max(begun.elapsed()),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("{name}: a cycle hangs"),
        }
    }
    actor.join().expect("the cycles");
    eprintln!(
        "{name}: {count} cycles in {:?}, the longest {longest:?}",
        start.elapsed()
    );
    // joined threads leave /proc a moment later
    let deadline = Instant::now() + WATCHDOG;
    while (threads(), descriptors()) != before {
        assert!(
            Instant::now() < deadline,
            "threads and descriptors: {before:?}, now {:?}",
            (threads(), descriptors())
        );
        std::thread::yield_now();
    }
}

fn act(count: usize, cycle: fn(&Stage, usize), say: &Sender<usize>) {
    let stage = Stage::new();
    for nr in 0..count {
        cycle(&stage, nr);
        say.send(nr).expect("the watchdog");
    }
}

/// One test, so that nothing else runs in this process while threads are counted.
#[test]
fn thousands_of_starts_and_stops() {
    let _signals = Inbox::open().expect("signal handlers");
    run("others go on (dup3)", cycles(), Stage::stop_private);
    run("the last one (O_NONBLOCK)", cycles(), Stage::stop_last);
    run("polling", cycles(), Stage::stop_polling);
    run("flipping", cycles(), Stage::stop_flipping);
}
