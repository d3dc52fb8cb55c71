//! Few descriptors and few connections: served one after another, never spinning, never at the cost of a
//! transfer that is under way.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::{Conn, PATIENCE, Server, assert_same, eventually, pattern};

/// User and system time of a process so far, in seconds.
fn cpu_seconds(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let fields: Vec<u64> = behind_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|n| n.parse().unwrap())
        .collect();
    // SAFETY: sysconf has no preconditions
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    (fields[0] + fields[1]) as f64 / ticks as f64
}

/// The sockets that all workers of a server have open.
fn sockets(server: &Server) -> usize {
    let is_socket = |fd: &PathBuf| {
        fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    let count = |pid: &i32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|fd| fd.unwrap().path());
        fds.filter(is_socket).count()
    };
    server.worker_pids().iter().map(count).sum()
}

#[test]
fn a_worker_starts_and_serves_with_twenty_descriptors() {
    let server = Server::builder()
        .rlimit(libc::RLIMIT_NOFILE, 20, 20)
        .start();
    for turn in 0..30 {
        let mut conn = server.conn();
        let target = format!("/dev1/some/folder/{turn}");
        conn.put(&target, b"x").expect(201, true);
        conn.put(&target, b"replaced").expect(201, true);
        assert_eq!(conn.get(&target).expect(200, true).body, b"replaced");
        conn.delete(&target).expect(204, true);
    }
    assert!(server.is_ours(server.worker_pids()[0]));
    server.stop();
}

/// More clients than descriptors: each has its turn, as the ones before it end.
#[test]
fn clients_beyond_the_descriptors_wait_for_their_turn() {
    let server = Server::builder()
        .rlimit(libc::RLIMIT_NOFILE, 30, 30)
        .start();
    server.write("dev1/file", "hello");
    let mut conns: Vec<Conn> = (0..60).map(|_| server.conn()).collect();
    for conn in &mut conns {
        conn.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    }
    for conn in &mut conns {
        assert_eq!(conn.response().expect(200, false).body, b"hello");
        conn.expect_eof();
    }
}

/// Full of transfers that stand still for a moment: who knocks waits, nobody is cut, no core burns.
#[test]
fn a_full_server_neither_spins_nor_drops_a_transfer() {
    let server = Server::builder()
        .rlimit(libc::RLIMIT_NOFILE, 30, 30)
        .start();
    let bytes = pattern(4 << 20);
    server.write("dev1/file", &bytes);
    let mut readers: Vec<Conn> = (0..20)
        .map(|_| Conn::connect_narrow(server.addr(), 16 * 1024))
        .collect();
    for reader in &mut readers {
        reader.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    }
    readers[0].head_of_response().expect(200, false);
    let worker = server.worker_pids()[0];
    let before = cpu_seconds(worker);
    // the readers' own pace: nobody reads for a while
    std::thread::sleep(Duration::from_secs(3));
    let burnt = cpu_seconds(worker) - before;
    assert!(burnt < 1.0, "{burnt} s of CPU in 3 s of waiting");
    for (nr, reader) in readers.iter_mut().enumerate() {
        if nr > 0 {
            reader.head_of_response().expect(200, false);
        }
        assert_same(
            &reader.read_exactly(bytes.len()),
            &bytes,
            "a download of a full server",
        );
        reader.expect_eof();
    }
}

/// Keep-alive connections that say nothing for five seconds make room, cleanly; younger ones need not.
#[test]
fn idle_connections_give_way_after_five_seconds() {
    let server = Server::builder().arg("--maxconns=4").start();
    let mut idle: Vec<Conn> = (0..4).map(|_| server.conn()).collect();
    for conn in &mut idle {
        conn.expect_open();
    }
    let start = Instant::now();
    let mut late = server.conn();
    late.expect_open();
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(4),
        "an idle connection of {waited:?} was closed"
    );
    assert!(
        waited < Duration::from_secs(11),
        "{waited:?} until there was room"
    );
}

/// The bound holds for all workers together.
#[test]
fn maxconns_bounds_the_connections_that_are_served() {
    let server = Server::builder().workers(2).arg("--maxconns=6").start();
    server.write("dev1/file", "hello");
    let mut conns: Vec<Conn> = (0..12).map(|_| server.conn()).collect();
    for conn in &mut conns {
        conn.send("GET /dev1/fi");
    }
    // half a request each: those that were accepted are the workers' to keep, the rest wait in the kernel
    let at_rest = Server::builder().workers(2).start();
    let want = sockets(&at_rest) + 6;
    eventually("six connections accepted", PATIENCE, || {
        sockets(&server) >= want
    });
    assert_eq!(sockets(&server), want, "sockets of both workers");
    // and each of the others has its turn
    for conn in &mut conns {
        let _ = conn.try_send("le HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    }
    for conn in &mut conns {
        assert_eq!(conn.response().expect(200, false).body, b"hello");
    }
}
