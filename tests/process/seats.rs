//! Seats: how many consumers wait for clients, and that no disk keeps one for long. (What the protocol promises is in
//! the model check; `dead_device` has the disks that say that they will keep who asks.)

use std::fs;
use std::time::{Duration, Instant};

use super::{PROMPT, alone};
use crate::harness::hang::{Calls, Disk, held_consumers};
use crate::harness::{Conn, PATIENCE, Server, eventually, hex_md5, pattern};
use crate::http::fresh::wait_until_old;

/// Consumers of each server here.
const CONSUMERS: usize = 20;

/// Those of each of so many workers who wait for clients.
fn seats(workers: usize) -> usize {
    let cores = std::thread::available_parallelism().expect("cores").get();
    cores.div_ceil(workers).min(CONSUMERS / workers)
}

/// Of each consumer: its folder in /proc.
fn consumers(worker: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{worker}/task")).expect("its threads");
    tasks
        .flatten()
        .map(|task| task.path().to_str().expect("a number").to_owned())
        .filter(|task| {
            fs::read_to_string(format!("{task}/comm")).is_ok_and(|name| name.starts_with("con:"))
        })
        .collect()
}

/// Consumers that wait for clients; `None`: one is doing something else, or nobody may know.
fn waiting(worker: i32) -> Option<usize> {
    let mut count = 0;
    for task in consumers(worker) {
        let call = fs::read_to_string(format!("{task}/syscall")).ok()?;
        let number: i64 = call.split_whitespace().next()?.parse().ok()?;
        if number == libc::SYS_epoll_pwait || is_epoll_wait(number) {
            count += 1;
        } else if number != libc::SYS_futex {
            return None;
        }
    }
    Some(count)
}

#[cfg(target_arch = "x86_64")]
fn is_epoll_wait(number: i64) -> bool {
    number == libc::SYS_epoll_wait
}

/// Newer machines have epoll_pwait alone.
#[cfg(not(target_arch = "x86_64"))]
fn is_epoll_wait(_number: i64) -> bool {
    false
}

/// So many of each worker's wait for clients, and the others for a seat.
fn are_seated(server: &Server, wanted: usize) -> bool {
    let seated = |pid| waiting(pid) == Some(wanted);
    server.worker_pids().into_iter().all(seated)
}

/// Eight connections at once, each of which does so many rounds.
fn crowd(server: &Server, rounds: usize, round: impl Fn(&mut Conn, usize, usize) + Sync) {
    std::thread::scope(|scope| {
        for nr in 0..8 {
            let round = &round;
            scope.spawn(move || {
                let mut conn = server.conn();
                (0..rounds).for_each(|at| round(&mut conn, nr, at));
            });
        }
    });
}

/// How often its consumers have been woken.
fn wakes(worker: i32) -> u64 {
    let of = |task: String| -> Option<u64> {
        let status = fs::read_to_string(format!("{task}/status")).ok()?;
        let line = status.lines().find(|l| l.starts_with("voluntary_ctxt"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    consumers(worker).into_iter().filter_map(of).sum()
}

#[test]
fn as_many_wait_as_there_are_cores_for() {
    for workers in [1, 2] {
        let server = Server::builder()
            .workers(workers)
            .threads(CONSUMERS as u32)
            .start();
        server.write("dev1/file", "content");
        let wanted = seats(workers as usize);
        eventually("as many to wait as there are seats", PATIENCE, || {
            are_seated(&server, wanted)
        });
        // a disk that keeps them makes more of them wait for clients, for a moment
        crowd(&server, 50, |conn, nr, round| {
            let name = format!("/dev1/{nr}.{round}");
            conn.put(&name, b"new").expect(201, true);
            conn.get(&name).expect(200, true);
            conn.delete(&name).expect(204, true);
            conn.get(&name).expect(404, true);
        });
        eventually("the others to stand by", PATIENCE, || {
            are_seated(&server, wanted)
        });
        server.stop();
    }
}

#[test]
fn a_quiet_servers_consumers_sleep() {
    let server = Server::builder().threads(CONSUMERS as u32).start();
    server.conn().get("/").expect(200, true);
    let worker = server.worker_pids()[0];
    // one of them looks on for a while
    eventually("half a second without a wake", PATIENCE, || {
        let before = wakes(worker);
        std::thread::sleep(Duration::from_millis(500));
        wakes(worker) == before
    });
    server.conn().get("/").expect(200, true);
    server.stop();
}

/// A file that is kept in memory: its disk is asked one question, which does not come back, and of which nobody can
/// know before that it will not.
#[test]
fn who_hangs_without_a_warning_holds_up_nobody() {
    let _alone = alone();
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    // each has one seat on the machines that we test on
    let server = disk
        .builder()
        .workers(2)
        .threads(CONSUMERS as u32)
        .arg("--device-wait=600")
        .arg("--probe-timeout=600")
        .start();
    let kept = server.write("dev1/kept", "kept");
    server.write("dev2/file", "healthy");
    wait_until_old(&kept);
    let mut askers: Vec<Conn> = (0..16).map(|_| server.conn()).collect();
    for _ in 0..3 {
        for conn in &mut askers {
            conn.get("/dev1/kept").expect(200, true);
        }
    }
    let mut others: Vec<Conn> = (0..8).map(|_| server.conn()).collect();
    for conn in &mut others {
        conn.get("/dev2/file").expect(200, true);
    }
    let hang = disk.hang(Calls::Opens);
    for conn in &mut askers {
        conn.send("GET /dev1/kept HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    let held = || -> Vec<usize> {
        let pids = server.worker_pids().into_iter();
        pids.map(held_consumers).collect()
    };
    // more of each worker's than it has seats; who is accepted by which worker, the kernel decides
    eventually("half of the consumers to be held", PATIENCE, || {
        let are = held().iter().all(|count| *count == CONSUMERS / 4);
        if !are {
            let mut conn = server.conn();
            conn.send("GET /dev1/kept HTTP/1.1\r\nHost: t\r\n\r\n");
            askers.push(conn);
        }
        are
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        for conn in &mut others {
            let start = Instant::now();
            assert_eq!(conn.get("/dev2/file").expect(200, true).body, b"healthy");
            slowest = slowest.max(start.elapsed());
        }
    }
    eprintln!("beside {:?} held consumers: slowest {slowest:?}", held());
    assert!(slowest < PROMPT, "{slowest:?}");
    drop(hang);
    for conn in &mut askers {
        assert_eq!(conn.response().expect(200, true).body, b"kept");
    }
    eventually("the others to stand by", PATIENCE, || {
        are_seated(&server, seats(2))
    });
    server.stop();
}

/// What a kernel says of its memory is not what the file is: nothing may be the end, or it may not know the question.
#[test]
fn what_reads_from_memory_come_to_is_never_the_content() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk.builder().mgmt("127.0.0.1:0").arg("--cache=0").start();
    let bytes = pattern(700_000);
    server.write("dev1/short", &bytes[..50_000]);
    server.write("dev1/long", &bytes);
    let sum = hex_md5(&bytes);
    for kind in [Calls::Nothing, Calls::Unknown, Calls::Reads] {
        // each call is held for a moment at most
        let odd = disk.slow(kind, 1);
        let mut conn = server.conn();
        for _ in 0..3 {
            assert_eq!(
                conn.get("/dev1/short").expect(200, true).body,
                bytes[..50_000]
            );
            assert_eq!(conn.get("/dev1/long").expect(200, true).body, bytes);
            let range = [("Range", "bytes=1000-9999")];
            let reply = conn.request("GET", "/dev1/long", &range, b"");
            assert_eq!(reply.expect(206, true).body, bytes[1000..10_000]);
        }
        let mut asker = Conn::connect(server.mgmt_addr());
        asker.send("MD5 /dev1/long\r\nMD5 /dev1/long fsck\r\n");
        let wanted = format!("/dev1/long MD5={sum}\r\n").repeat(2);
        assert_eq!(
            asker.read_exactly(wanted.len()),
            wanted.as_bytes(),
            "{kind:?}"
        );
        drop(odd);
    }
    server.stop();
}
