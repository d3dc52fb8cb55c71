//! Who hears which signal, and who is not blamed for having been stopped.

use std::time::{Duration, Instant};

use super::{alone, facts, signal};
use crate::harness::{PATIENCE, Server, eventually};

/// Longer than a worker may go without a tick, and than the master's loop may take.
const LONG: Duration = Duration::from_secs(33);

fn group(pid: i32) -> i32 {
    // SAFETY: no pointers
    unsafe { libc::getpgid(pid) }
}

/// A terminal's ^C, or whoever signals a process group, reaches the master, and it alone.
#[test]
fn each_worker_leads_a_group_of_its_own() {
    let server = Server::builder().workers(2).start();
    let workers = server.worker_pids();
    for pid in &workers {
        assert_eq!(group(*pid), *pid);
    }
    assert!(!workers.contains(&group(server.pid())));
    server.stop();
}

#[test]
fn a_worker_takes_no_notice_of_what_is_for_the_master() {
    let server = Server::builder().start();
    server.write("dev1/file", "content");
    let worker = server.worker_pids()[0];
    let mut conn = server.conn();
    for number in [libc::SIGHUP, libc::SIGUSR2, libc::SIGTTIN, libc::SIGTTOU] {
        signal(worker, number);
        conn.get("/dev1/file").expect(200, true);
    }
    assert_eq!(server.worker_pids(), [worker]);
    server.stop();
}

/// Each of these retires the worker: who has begun is served, and another comes.
#[test]
fn a_worker_is_retired_by_its_own_signals() {
    let server = Server::builder().arg("--drain-grace=0.1").start();
    for number in [libc::SIGQUIT, libc::SIGTERM, libc::SIGWINCH] {
        let worker = server.worker_pids()[0];
        let mut upload = server.conn();
        upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nabc");
        upload.settle();
        let skip = server.log().len();
        signal(worker, number);
        eventually("the drain", PATIENCE, || facts::is_draining(worker));
        upload.send("def");
        upload.response().expect(201, false);
        drop(upload);
        let line = server.wait_log_after(skip, &format!("pid {worker}, "), PATIENCE);
        assert!(line.contains("exited with 0"), "{line}");
        server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    }
    server.stop();
}

/// The whole tree stands still for longer than any of its limits, as on a machine that sleeps, and the master
/// is the first to run again.
#[test]
fn nobody_is_killed_for_having_been_stopped() {
    // a probe that stands still as well is no evidence against its device
    let server = Server::builder()
        .workers(2)
        .threads(20)
        .arg("--probe-timeout=600")
        .start();
    server.write("dev1/file", "content");
    let workers = server.worker_pids();
    let mut upload = server.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nabc");
    upload.settle();
    let all: Vec<i32> = [server.pid()].into_iter().chain(workers.clone()).collect();
    let at = Instant::now();
    for pid in &all {
        signal(*pid, libc::SIGSTOP);
    }
    eventually("all to stand still", PATIENCE, || {
        all.iter().all(|pid| facts::is_stopped(*pid))
    });
    eventually("a long time to pass", 2 * LONG, || at.elapsed() > LONG);
    signal(server.pid(), libc::SIGCONT);
    let awake = Instant::now();
    eventually("the master's next looks", PATIENCE, || {
        awake.elapsed() > Duration::from_secs(2)
    });
    for pid in &workers {
        signal(*pid, libc::SIGCONT);
    }
    server.conn().get("/dev1/file").expect(200, true);
    upload.send("def");
    upload.response().expect(201, true);
    assert_eq!(server.worker_pids(), workers);
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains("SIGKILL")), "{log:#?}");
    server.stop();
}

/// A worker that stands still for good costs what it held; the others take its share, and it is replaced.
#[test]
fn a_worker_that_stands_still_is_replaced() {
    let _alone = alone();
    let server = Server::builder().workers(3).threads(30).start();
    server.write("dev1/file", "content");
    // not the elected one, which is replaced much sooner
    let elected = server.wait_log(" is elected: ", PATIENCE);
    let workers = server.worker_pids();
    let spared = |pid: &i32| !elected.contains(&format!("[{pid}]"));
    let nr = workers
        .iter()
        .position(spared)
        .expect("two are not elected");
    let stopped = workers[nr];
    let before = server.log().len();
    let at = Instant::now();
    signal(stopped, libc::SIGSTOP);
    eventually("it to stand still", PATIENCE, || facts::is_stopped(stopped));
    // its acceptor stays in the kernel's line of those who accept: it may be dealt one connection
    let mut unserved = 0;
    let mut kept = Vec::new();
    for _ in 0..60 {
        let mut conn = server.conn();
        conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        kept.push(conn);
    }
    let silent = |conns: &[crate::harness::Conn]| conns.iter().filter(|c| c.is_silent()).count();
    eventually("all but few to be served", PATIENCE, || silent(&kept) <= 1);
    unserved += silent(&kept);
    eprintln!("{unserved} of 60 connections were the stopped worker's");
    server.wait_log("did not tick for", Duration::from_secs(45));
    assert!(
        at.elapsed() >= Duration::from_secs(28),
        "{:?}",
        at.elapsed()
    );
    server.wait_log_after(before, &format!("worker {nr} is ready"), PATIENCE);
    eventually("three workers", PATIENCE, || {
        let now = server.worker_pids();
        now.len() == 3 && !now.contains(&stopped)
    });
    server.conn().get("/dev1/file").expect(200, true);
    server.stop();
}
