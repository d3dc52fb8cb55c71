//! Few descriptors: a worker starts, serves, does not spin, and leaks none.

use std::time::{Duration, Instant};

use super::{alone, facts, signal};
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};

/// A server that cannot raise its own limit.
fn server_with(descriptors: u64) -> Server {
    Server::builder()
        .unprivileged()
        .rlimit(libc::RLIMIT_NOFILE, descriptors, descriptors)
        .start()
}

fn limit_holds(server: &Server, descriptors: u64) {
    for pid in facts::children(server.pid()) {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<_> = line.expect("the line").split_whitespace().collect();
        let wanted = descriptors.to_string();
        assert_eq!(words[3..5], [wanted.as_str(), wanted.as_str()]);
    }
}

#[test]
fn twenty_descriptors_are_enough_to_serve() {
    let server = server_with(20);
    limit_holds(&server, 20);
    let bytes = pattern(100_000);
    for round in 0..20 {
        let mut conn = server.conn();
        let target = format!("/dev1/a/b/{}", round % 3);
        conn.put(&target, &bytes).expect(201, true);
        assert_eq!(conn.get(&target).expect(200, true).body, bytes);
    }
    // several at once: they take their turns
    std::thread::scope(|scope| {
        for nr in 0..8 {
            let (server, bytes) = (&server, &bytes);
            scope.spawn(move || {
                for round in 0..5 {
                    let mut conn = server.conn();
                    let target = format!("/dev1/{nr}-{round}");
                    conn.put(&target, bytes).expect(201, true);
                    assert_eq!(conn.get(&target).expect(200, true).body, *bytes);
                }
            });
        }
    });
    server.stop();
}

/// An upload that trickles, idle connections that fill the worker, and a hundred and more behind them.
#[test]
fn when_descriptors_run_out_nothing_spins_and_the_idle_give_way() {
    let _alone = alone();
    let server = server_with(64);
    limit_holds(&server, 64);
    let worker = server.worker_pids()[0];
    let mut upload = server.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n");
    upload.settle();
    let began = Instant::now();
    let mut idle = Vec::new();
    let mut waiting = fill(&server, &mut idle);
    eprintln!(
        "64 descriptors: {} idle connections, {} wait",
        idle.len(),
        waiting.len()
    );
    assert!(idle.len() >= 10 && waiting.len() >= 150);
    does_not_spin(worker, Duration::from_secs(3), || upload.send_slowly("x"));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "too slow to tell: the idle ones may have gone"
    );
    // now five seconds have passed for some, and each that is served leaves at once
    for conn in &mut waiting {
        conn.response().expect(200, true);
        conn.response().expect(200, false);
        conn.expect_eof();
    }
    eprintln!("all who waited were served after {:?}", began.elapsed());
    assert!(
        began.elapsed() > Duration::from_secs(4),
        "who gave way was idle for 5 s"
    );
    for conn in &mut idle {
        conn.expect_eof();
    }
    upload.send(pattern(97));
    upload.response().expect(201, true);
    assert_eq!(server.worker_pids(), [worker]);
    server.stop();
}

/// Connections that were served once and stay, until no more is accepted; then those that wait with a request.
fn fill(server: &Server, idle: &mut Vec<Conn>) -> Vec<Conn> {
    let mut all: Vec<Conn> = (0..200).map(|_| server.conn()).collect();
    for conn in &mut all {
        conn.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    let master = server.pid();
    let accepted = || {
        all.iter()
            .filter(|conn| facts::owner(master, conn).is_some())
            .count()
    };
    // full when the count does not grow for as long as a consumer may be waited for, many times over
    let (mut count, mut since) = (0, Instant::now());
    eventually("a full worker", PATIENCE, || {
        let now = accepted();
        if now != count {
            (count, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(400)
    });
    let (mut waiting, mut served): (Vec<Conn>, Vec<Conn>) = (Vec::new(), Vec::new());
    for conn in all {
        match facts::owner(master, &conn) {
            Some(_) => served.push(conn),
            None => waiting.push(conn),
        }
    }
    for conn in &mut served {
        conn.response().expect(200, true);
    }
    idle.append(&mut served);
    // their first request asks to keep the connection; a second one behind it ends it
    for conn in &mut waiting {
        conn.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    }
    waiting
}

/// Less than 5 % of the wall clock, with something to do every second.
fn does_not_spin(pid: i32, window: Duration, mut work: impl FnMut()) {
    let (start, before) = (Instant::now(), facts::cpu(pid));
    for second in 1..=window.as_secs() {
        work();
        eventually("a second to pass", PATIENCE, || {
            start.elapsed() >= Duration::from_secs(second)
        });
    }
    let used = facts::cpu(pid) - before;
    eprintln!("{used:?} of CPU time in {:?}", start.elapsed());
    assert!(used < start.elapsed() / 20, "{used:?} of CPU time");
}

/// What a descriptor is, without the numbers that differ from run to run.
fn kinds(pid: i32) -> Vec<String> {
    let kind = |(_, place): (i32, String)| match place.split_once(':') {
        Some((kind, _)) if kind != "anon_inode" => kind.to_owned(),
        _ => place,
    };
    let mut kinds: Vec<_> = facts::descriptors(pid).into_iter().map(kind).collect();
    kinds.sort();
    kinds
}

/// 0, 1, 2; listener and channel; the self-pipe; the housekeeper's epoll, the queue's with its poison; the docroot.
/// (The lock file of the election is in its thread's own table.)
fn expected(server: &Server) -> Vec<String> {
    let docroot = server.root().canonicalize().unwrap();
    let mut kinds: Vec<String> = ["/dev/null", "/dev/null", "pipe"]
        .into_iter()
        .chain(["socket", "socket"])
        .chain(["pipe", "pipe"])
        .chain([
            "anon_inode:[eventpoll]",
            "anon_inode:[eventpoll]",
            "anon_inode:[eventfd]",
        ])
        .chain([docroot.to_str().unwrap()])
        .map(str::to_owned)
        .collect();
    kinds.sort();
    kinds
}

/// Waits until a worker holds nothing else: its sweep of the temporary directories reads folders at first, and
/// connections that clients have left are closed in their turn.
#[track_caller]
fn holds_its_own(pid: i32, server: &Server) {
    let (mut held, wanted) = (Vec::new(), expected(server));
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        held = kinds(pid);
        if held == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    assert_eq!(held, wanted);
}

#[test]
fn a_fresh_worker_holds_what_is_on_its_list_and_nothing_else() {
    let server = Server::builder().workers(3).start();
    for pid in server.worker_pids() {
        holds_its_own(pid, &server);
    }
    // a successor is forked from a master that knows more: other channels, other clients' files
    let mut conn = server.conn();
    conn.get("/").expect(200, true);
    for slot in 0..3 {
        let skip = server.log().len();
        signal(server.worker_pids()[slot], libc::SIGKILL);
        server.wait_log_after(skip, &format!("worker {slot} is ready"), PATIENCE);
        holds_its_own(server.worker_pids()[slot], &server);
    }
    // but for what whoever runs the tests has left open to all
    let ours = facts::descriptors(std::process::id() as i32);
    let mut master = facts::descriptors(server.pid());
    master.retain(|one| one.0 <= 2 || !ours.contains(one));
    assert!(master.len() <= 14, "the master's own: {master:?}");
    server.stop();
}

#[test]
fn a_thousand_requests_leak_no_descriptor() {
    let server = Server::builder().workers(2).start();
    server.write("dev1/file", pattern(100_000));
    let masters = kinds(server.pid());
    let mut conn = server.conn();
    for round in 0..120 {
        mixed(&server, &mut conn, round);
    }
    drop(conn);
    for pid in server.worker_pids() {
        holds_its_own(pid, &server);
    }
    assert_eq!(kinds(server.pid()), masters);
    server.stop();
}

/// Nine requests: good, refused, failing, cut off.
fn mixed(server: &Server, conn: &mut Conn, round: usize) {
    conn.get("/dev1/file").expect(200, true);
    conn.get("/dev1/missing").expect(404, true);
    conn.get("/dev1").expect(403, true);
    conn.put(&format!("/dev1/{}", round % 5), b"x")
        .expect(201, true);
    conn.get_with("/dev1/file", &[("Range", "bytes=1-2,5-6,9-")])
        .expect(206, true);
    let mut refused = server.conn();
    refused.put("/dev1/file/below", b"x");
    let mut dying = server.conn();
    dying.send("PUT /dev1/dying HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nx");
    let mut leaving = Conn::connect_narrow(server.addr(), 2048);
    leaving.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    leaving.sip(1);
    if round.is_multiple_of(2) {
        dying.reset();
        leaving.reset();
    }
    let mut broken = server.conn();
    broken.send("GARBAGE\r\n\r\n");
    broken.response().expect(400, false);
}
