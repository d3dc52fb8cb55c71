//! O_NONBLOCK belongs to the socket: whoever shares a listener sets it for all. The test shares it, by taking its
//! own copy from the server's table.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::traffic::{Habit, Traffic};
use super::{alone, complaints, facts, signal};
use crate::harness::{Conn, PATIENCE, Server, SetOnDrop, eventually};

/// A server on a listener that the test has made, and keeps.
fn start(workers: u32) -> (Server, TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("its address");
    let server = Server::builder()
        .without_default_listener()
        .http(&addr.to_string())
        .inherit(&listener, 41)
        .env("CMOGSTORED_FD", "41")
        .arg("--drain-grace=0.1")
        .workers(workers)
        .start();
    (server, listener, addr)
}

fn flags(socket: &impl AsRawFd) -> i32 {
    // SAFETY: no pointers
    unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFL) }
}

/// How often the acceptors were switched: one that polls in vain is switched ten times a second, one that spins
/// a thousand times.
fn switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
        .filter(|status| status.starts_with("Name:\tacc:"))
        .flat_map(|status| {
            let lines = status.lines();
            let counts = lines.filter(|line| line.contains("ctxt_switches"));
            let counts = counts.filter_map(|line| line.rsplit('\t').next()?.parse::<u64>().ok());
            counts.collect::<Vec<_>>()
        })
        .sum()
}

#[test]
fn a_listener_that_stops_blocking_is_polled() {
    let _alone = alone();
    let (server, listener, _) = start(2);
    server.conn().get("/dev1/missing").expect(404, true);
    listener.set_nonblocking(true).unwrap();
    for _ in 0..200 {
        server.conn().get("/dev1/missing").expect(404, true);
    }
    for pid in server.worker_pids() {
        let before = switches(pid);
        let cpu = facts::cpu(pid);
        std::thread::sleep(Duration::from_secs(1));
        let after = switches(pid) - before;
        assert!(after < 60, "{after} switches in a second of silence");
        assert!(facts::cpu(pid) - cpu < Duration::from_millis(200));
    }
    server.wait_log("a listener is O_NONBLOCK", PATIENCE);
    assert_ne!(
        flags(&listener) & libc::O_NONBLOCK,
        0,
        "it was not ours to clear"
    );
    // and said once by each worker, however long it lasts
    for _ in 0..200 {
        server.conn().get("/dev1/missing").expect(404, true);
    }
    let log = server.stop();
    let said = complaints(&log);
    assert!((1..=2).contains(&said.len()), "{said:?}");
}

/// A worker that polls leaves as one that blocks does, and the others go on.
#[test]
fn a_worker_that_polls_is_retired() {
    let _alone = alone();
    let (server, listener, _) = start(2);
    listener.set_nonblocking(true).unwrap();
    let traffic = Traffic::start(
        &server,
        &[
            (Habit::Busy, 2),
            (Habit::Dawdling(Duration::from_millis(60)), 2),
            (Habit::OneShot, 3),
        ],
    );
    for round in 0..8 {
        let retired = server.worker_pids()[round % 2];
        traffic.flow(50);
        let skip = server.log().len();
        let since = Instant::now();
        signal(retired, libc::SIGQUIT);
        server.wait_log_after(skip, &format!("worker {} is ready", round % 2), PATIENCE);
        eprintln!(
            "retired while polling: replaced after {:?}",
            since.elapsed()
        );
    }
    traffic.flow(50);
    let tally = traffic.finish();
    assert!(
        tally.failures.is_empty(),
        "{:#?}\n{:#?}",
        tally.failures,
        server.log()
    );
    server.stop();
}

/// Somebody changes his mind all the time, while workers accept, retire and stop.
#[test]
fn a_neighbour_that_keeps_flipping_it_does_no_harm() {
    let _alone = alone();
    for round in 0..10 {
        let (server, listener, addr) = start(2);
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _end = SetOnDrop(&enough);
            scope.spawn(|| {
                let mut on = false;
                while !enough.load(Ordering::Relaxed) {
                    on = !on;
                    listener.set_nonblocking(on).expect("O_NONBLOCK");
                    std::thread::sleep(Duration::from_micros(300 * (round + 1)));
                }
            });
            let traffic = Traffic::start(&server, &[(Habit::Busy, 2), (Habit::OneShot, 4)]);
            traffic.flow(60);
            let skip = server.log().len();
            signal(server.worker_pids()[0], libc::SIGQUIT);
            server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
            traffic.flow(60);
            // nobody waits longer than a moment for a worker to notice
            for _ in 0..30 {
                let since = Instant::now();
                Conn::connect(addr).get("/dev1/missing").expect(404, true);
                assert!(since.elapsed() < Duration::from_secs(1));
            }
            let tally = traffic.finish();
            assert!(
                tally.failures.is_empty(),
                "{:#?}\n{:#?}",
                tally.failures,
                server.log()
            );
            let log = server.stop();
            let said = complaints(&log);
            assert!(said.len() <= 3, "said once by each worker: {said:?}");
        });
    }
}

/// A copy of a socket of another process's: what a neighbour by inheritance would have.
fn borrow(pid: i32, number: i32) -> OwnedFd {
    // SAFETY: no pointers; both calls return new descriptors or -1
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
        assert!(
            process >= 0,
            "pidfd_open: {}",
            std::io::Error::last_os_error()
        );
        let process = OwnedFd::from_raw_fd(process);
        let fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) as i32;
        assert!(fd >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

/// The same for one that the server has bound itself; by its own doing it never gets so.
#[test]
fn a_listener_of_our_own_is_polled_too() {
    let server = Server::start();
    let mut listeners = facts::descriptors(server.pid())
        .into_iter()
        .filter(|(nr, place)| {
            place.starts_with("socket:") && {
                let socket = socket2::Socket::from(borrow(server.pid(), *nr));
                socket.is_listener().unwrap_or(false)
            }
        });
    let (number, _) = listeners.next().expect("its listener");
    let socket = socket2::Socket::from(borrow(server.pid(), number));
    socket.set_nonblocking(true).unwrap();
    for _ in 0..50 {
        server.conn().get("/dev1/missing").expect(404, true);
    }
    server.wait_log("a listener is O_NONBLOCK", PATIENCE);
    socket.set_nonblocking(false).unwrap();
    // sixteen clients later it blocks again, and nobody is woken in vain
    for _ in 0..50 {
        server.conn().get("/dev1/missing").expect(404, true);
    }
    let pid = server.worker_pids()[0];
    eventually("the acceptor to block", PATIENCE, || {
        let before = switches(pid);
        std::thread::sleep(Duration::from_millis(500));
        switches(pid) - before < 2
    });
    drop(socket);
    server.stop();
}
