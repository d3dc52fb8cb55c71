//! Stopping while a device hangs.

use std::time::{Duration, Instant};

use super::dead_device::is_refused_at_once;
use super::{alone, facts};
use crate::harness::hang::{Calls, Disk, Hang, held_consumers};
use crate::harness::{Conn, PATIENCE, Server, eventually};

/// More than the master waits before it kills: 1 s.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A server in which one request for dev1 hangs.
fn hung<'a>(disk: &'a Disk, options: &[&str]) -> (Server, Hang<'a>, Conn) {
    let builder = disk.builder().arg("--drain-grace=0.1");
    let server = options.iter().fold(builder, |b, o| b.arg(o)).start();
    server.write("dev1/file", "back again");
    server.write("dev2/file", "healthy");
    let hang = disk.hang(Calls::Opens);
    let mut conn = server.conn();
    conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    let workers = server.worker_pids();
    eventually("the request to hang", PATIENCE, || {
        workers.iter().any(|pid| held_consumers(*pid) > 0)
    });
    (server, hang, conn)
}

#[test]
fn a_graceful_stop_waits_for_the_disk_and_serves_who_has_begun() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let (mut server, hang, mut conn) = hung(&disk, &["--probe-timeout=600"]);
    let worker = server.worker_pids()[0];
    server.signal(libc::SIGTERM);
    eventually("the worker to drain", PATIENCE, || {
        facts::is_draining(worker)
    });
    assert!(conn.is_silent() && server.is_ours(worker));
    drop(hang);
    // whether it says `close` was settled before the stop
    let reply = conn.response();
    assert_eq!((reply.status, &*reply.body), (200, &b"back again"[..]));
    conn.expect_eof();
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn int_or_a_second_term_ends_at_once_whatever_hangs() {
    let _alone = alone();
    for (first, second) in [
        (None, libc::SIGINT),
        (Some(libc::SIGTERM), libc::SIGTERM),
        (Some(libc::SIGQUIT), libc::SIGINT),
    ] {
        let Some(disk) = Disk::new("dev1") else {
            return;
        };
        let (mut server, _hang, _conn) = hung(&disk, &["--probe-timeout=600"]);
        let workers = server.worker_pids();
        if let Some(first) = first {
            server.signal(first);
            eventually("the workers to drain", PATIENCE, || {
                workers.iter().all(|pid| facts::is_draining(*pid))
            });
        }
        let began = Instant::now();
        server.signal(second);
        server.wait_exit(AT_ONCE);
        eprintln!(
            "{first:?} and {second} beside a hung disk: {:?}",
            began.elapsed()
        );
        for pid in workers {
            assert!(!server.is_ours(pid));
        }
    }
}

/// A dead worker's successor starts although the device hangs, and serves the others.
#[test]
fn a_worker_that_dies_is_replaced_while_a_device_hangs() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let (server, hang, conn) = hung(&disk, &["--probe-timeout=600"]);
    let worker = server.worker_pids()[0];
    let skip = server.log().len();
    super::signal(worker, libc::SIGKILL);
    server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    assert_ne!(server.worker_pids()[0], worker);
    conn.wait_abandoned();
    assert_eq!(
        server.conn().get("/dev2/file").expect(200, true).body,
        b"healthy"
    );
    drop(hang);
    server.conn().get("/dev1/file").expect(200, true);
    server.stop();
}

/// And the whole server: a disk that is dead at boot keeps nobody from the others.
#[test]
fn a_server_starts_beside_a_device_that_hangs() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    std::fs::write(disk.root().join("dev2/file"), "healthy").expect("write");
    let hang = disk.hang(Calls::All);
    let began = Instant::now();
    let server = disk
        .builder()
        .mgmt("127.0.0.1:0")
        .arg("--probe-timeout=0.5")
        .arg("--device-wait=600")
        .start();
    eprintln!("started beside a dead device after {:?}", began.elapsed());
    let mut conn = server.conn();
    assert_eq!(conn.get("/dev2/file").expect(200, true).body, b"healthy");
    eventually("the other device's usage file", PATIENCE, || {
        server.read("dev2/usage").is_some()
    });
    eventually("the device to be known as dead", PATIENCE, || {
        is_refused_at_once(&server)
    });
    drop(hang);
    eventually("the device to come back by itself", PATIENCE, || {
        server.conn().get("/dev1/usage").status == 200
    });
    server.stop();
}
