//! The means of `dead_device`: that the preloaded library holds what the server really does to a disk.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use super::facts;
use crate::harness::hang::{Calls, Disk, held_threads};
use crate::harness::{PATIENCE, Server, eventually, pattern};

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
    let server = disk.builder().arg("--durability=full").start();
    let worker = server.worker_pids()[0];
    exchange(&server);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let report = folder.path().join("strace");
    let strace = Command::new("strace")
        .args(["-f", "-y", "-qq", "-o"])
        .arg(&report)
        .args(["-e", "trace=%file,%desc,syncfs"])
        .args(["-p", &worker.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut strace = match strace {
        Ok(child) => child,
        Err(error) => {
            eprintln!("skipped: strace: {error}");
            return;
        }
    };
    eventually("strace to be attached", PATIENCE, || {
        assert!(strace.try_wait().expect("waitpid").is_none(), "strace");
        facts::is_traced(worker)
    });
    let before = disk.ever();
    let slow = disk.slow(Calls::All, 1);
    exchange(&server);
    drop(slow);
    let held = disk.ever() - before;
    // SAFETY: no pointers; the pid is our child's, not yet reaped
    unsafe { libc::kill(strace.id() as i32, libc::SIGINT) };
    strace.wait().expect("waitpid");
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
    eventually("the open to hang", PATIENCE, || disk.held() > 0);
    assert_eq!(held_threads(worker).len(), 1);
    server.conn().get("/").expect(200, true);
    hang.vanish();
    eventually("the open to come back", PATIENCE, || disk.held() == 0);
    assert_eq!(held_threads(worker), [""; 0]);
    conn.response();
}
