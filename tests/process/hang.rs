//! The means of `dead_device`: that the preloaded library holds what the server really does to a disk.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{alone, facts};
use crate::harness::hang::{Calls, Disk, held_consumers};
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};

/// One of each: what a client can do to a file.
fn exchange(server: &Server) {
    let mut conn = server.conn();
    let bytes = pattern(100_000);
    conn.put("/dev1/a/b", &bytes).expect(201, true);
    conn.put("/dev1/a/b", &bytes).expect(201, true);
    conn.put("/dev1/a/b", &bytes).expect(201, true);
    let range = [("Content-Range", "bytes 5-9/*")];
    conn.request("PUT", "/dev1/a/c", &range, b"range")
        .expect(201, true);
    conn.get("/dev1/a/c").expect(200, true);
    conn.get("/dev1/a/b").expect(200, true);
    conn.head("/dev1/a/b").expect(200, true);
    conn.delete("/dev1/a/b").expect(204, true);
}

/// strace of an exchange: what the kernel was asked to do on dev1, each call with the thread's name at
/// its beginning.
#[test]
fn every_call_on_the_device_is_held() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    // no probe comes in between
    let server = disk
        .builder()
        .arg("--durability=full")
        .env("MOG_DISK_USAGE_INTERVAL", "3600")
        .start();
    let worker = server.worker_pids()[0];
    exchange(&server);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let report = folder.path().join("strace");
    let file = report.to_str().expect("a plain path");
    let calls = "trace=%file,%desc,syncfs";
    let Some(strace) = strace(worker, &["-y", "-o", file, "-e", calls]) else {
        return;
    };
    let before = disk.ever();
    let slow = disk.slow(Calls::All, 1);
    exchange(&server);
    drop(slow);
    let held = disk.ever() - before;
    detach(strace);
    let report = std::fs::read_to_string(report).expect("strace's report");
    let device = disk.root().join("dev1");
    let on_device = calls_on(&report, device.to_str().expect("a plain path"));
    let kinds: BTreeSet<_> = on_device.iter().map(String::as_str).collect();
    eprintln!(
        "{held} calls held, {} made on dev1: {kinds:?}",
        on_device.len()
    );
    assert!(
        kinds.contains("openat2") && kinds.contains("linkat"),
        "{kinds:?}"
    );
    assert_eq!(held as usize, on_device.len(), "{report}");
    server.stop();
}

/// strace, attached to each thread of a process; `None`, with a line that says why, where there is none.
fn strace(pid: i32, options: &[&str]) -> Option<Child> {
    let child = Command::new("strace")
        .args(["-f", "-qq", "-p", &pid.to_string()])
        .args(options)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!("skipped: strace: {error}");
            return None;
        }
    };
    eventually("strace to be attached", PATIENCE, || {
        assert!(child.try_wait().expect("waitpid").is_none(), "strace");
        facts::is_traced(pid)
    });
    Some(child)
}

fn detach(mut strace: Child) {
    // SAFETY: no pointers; the pid is our child's, not yet reaped
    unsafe { libc::kill(strace.id() as i32, libc::SIGINT) };
    strace.wait().expect("waitpid");
}

/// The names of the calls that touch this folder; not those that only look at an open file or give advice,
/// and not readlinkat, by which the library itself finds out where a descriptor leads.
fn calls_on(report: &str, folder: &str) -> Vec<String> {
    const FREE: [&str; 7] = [
        "fstat",
        "close",
        "fadvise64",
        "newfstatat",
        "fcntl",
        "readlinkat",
        "<...",
    ];
    let mut found = Vec::new();
    for line in report.lines() {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let Some((call, rest)) = line.split_once(['(', ' ']) else {
            continue;
        };
        // what a call returns is not what it touches
        let asked = rest.rsplit_once(" = ").map_or(rest, |(asked, _)| asked);
        let docroot = folder.trim_end_matches("/dev1");
        let relative = format!("<{docroot}>, \"dev1");
        if (asked.contains(folder) || asked.contains(&relative)) && !FREE.contains(&call) {
            found.push(call.to_owned());
        }
    }
    found
}

#[test]
fn a_held_call_ends_when_the_control_file_vanishes() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk.builder().start();
    server.write("dev1/file", "content");
    let worker = server.worker_pids()[0];
    let hang = disk.hang(Calls::Opens);
    let mut conn = server.conn();
    conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    let consumers = || held_consumers(worker);
    eventually("the open to hang", PATIENCE, || consumers() == 1);
    server.conn().get("/").expect(200, true);
    hang.vanish();
    eventually("the open to come back", PATIENCE, || disk.held() == 0);
    assert_eq!(consumers(), 0);
    conn.response();
}

/// The same disk by other means: a tracer delays the server's own openat2, and only where it names one file.
#[test]
fn a_delay_by_strace_holds_its_share_too() {
    let _alone = alone();
    const DELAY: Duration = Duration::from_secs(4);
    let server = Server::builder()
        .threads(10)
        .arg("--device-wait=0.5")
        .arg("--probe-timeout=600")
        .start();
    server.write("dev1/file", "slow");
    server.write("dev2/file", "healthy");
    let worker = server.worker_pids()[0];
    let delay = format!("inject=openat2:delay_enter={}", DELAY.as_micros());
    let calls = "trace=openat2";
    let options = ["-P", "dev1/file", "-e", calls, "-e", &delay];
    let options = [&options[..], &["-o", "/dev/null"]].concat();
    let Some(strace) = strace(worker, &options) else {
        return;
    };
    let began = Instant::now();
    let ask = |_| {
        let mut conn = server.conn();
        conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        conn
    };
    let mut dead: Vec<Conn> = (0..20).map(ask).collect();
    let mut kept = server.conn();
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let start = Instant::now();
        assert_eq!(kept.get("/dev2/file").expect(200, true).body, b"healthy");
        slowest = slowest.max(start.elapsed());
    }
    eprintln!(
        "200 healthy GETs under strace in {:?}, the slowest {slowest:?}",
        began.elapsed()
    );
    assert!(slowest < DELAY / 2, "{slowest:?}");
    let mut served = 0;
    for conn in &mut dead {
        match conn.response().status {
            200 => served += 1,
            other => assert_eq!(other, 503),
        }
    }
    assert!(began.elapsed() >= DELAY);
    // half of the consumers were held, and nobody joined them until the delay was over
    assert_eq!(served, 5);
    detach(strace);
    server.stop();
}
