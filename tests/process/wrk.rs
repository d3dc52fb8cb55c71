//! QUIT under wrk, which knows nothing of us.
//!
//! wrk counts a refused connection as a failed write, and connects again as fast as it can. So the stop is held
//! open by an upload until wrk has ended: nobody is refused (the SYN is dropped), and every error that wrk
//! still counts is a request that failed.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{alone, facts};
use crate::harness::{PATIENCE, Server, eventually, pattern};

const CONNECTIONS: usize = 24;

/// wrk against `dev1/file` for so many seconds.
pub fn wrk(addr: SocketAddr, seconds: u32) -> Option<Child> {
    let child = Command::new("wrk")
        .args(["-t2", &format!("-d{seconds}s"), &format!("-c{CONNECTIONS}")])
        .arg(format!("http://{addr}/dev1/file"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    match child {
        Ok(child) => Some(child),
        Err(error) => {
            eprintln!("skipped: wrk: {error}");
            None
        }
    }
}

/// `connect`, `read`, `write`, `timeout` of its `Socket errors:` line; zeros without one.
pub fn socket_errors(report: &str) -> [u64; 4] {
    let Some((_, line)) = report.split_once("Socket errors: ") else {
        return [0; 4];
    };
    let line = line.lines().next().unwrap_or_default();
    ["connect ", "read ", "write ", "timeout "].map(|name| {
        let (_, rest) = line.split_once(name).expect("all four are named");
        let digits = rest.split(',').next().expect("a number");
        digits.trim().parse().expect("a number")
    })
}

#[test]
fn quit_under_wrk_fails_no_request() {
    let _alone = alone();
    let mut server = Server::builder().workers(2).start();
    server.write("dev1/file", pattern(1024));
    let workers = server.worker_pids();
    let idle: usize = workers.iter().map(|pid| facts::sockets(*pid)).sum();
    let mut upload = server.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
    upload.settle();
    let Some(wrk) = wrk(server.addr(), 3) else {
        return;
    };
    let before: Duration = workers.iter().map(|pid| facts::cpu(*pid)).sum();
    eventually("wrk at full speed", PATIENCE, || {
        let sockets: usize = workers.iter().map(|pid| facts::sockets(*pid)).sum();
        let now: Duration = workers.iter().map(|pid| facts::cpu(*pid)).sum();
        sockets > idle + CONNECTIONS && now - before > Duration::from_millis(400)
    });
    let dealt: Vec<_> = workers.iter().map(|pid| facts::sockets(*pid)).collect();
    eprintln!("sockets of the workers under wrk: {dealt:?}");
    server.signal(libc::SIGQUIT);
    let output = wrk.wait_with_output().expect("wrk's report");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(socket_errors(&report), [0; 4], "{report}");
    assert!(!report.contains("Non-2xx"), "{report}");
    let served = report.lines().find(|line| line.contains("requests in"));
    eprintln!(
        "QUIT under wrk: {}, no failed request",
        served.unwrap_or_default().trim()
    );
    // the stop has not ended meanwhile, and does now
    assert!(workers.iter().any(|pid| server.is_ours(*pid)));
    upload.send("y");
    upload.response().expect(201, false);
    upload.expect_eof();
    let status = server.wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:#?}", server.log());
}
