//! Connections are dealt out evenly, and idle ones do not close the gate.

use std::time::{Duration, Instant};

use super::{alone, facts};
use crate::harness::{Conn, PATIENCE, Server, eventually};

const WORKERS: u32 = 4;
const CONNECTIONS: usize = 1000;

/// How a thousand connections, each opened and served before the next, are dealt out.
fn deal(before_each: impl Fn(&[i32])) -> f64 {
    let server = Server::builder().workers(WORKERS).threads(40).start();
    let workers = server.worker_pids();
    let sockets = || -> Vec<usize> { workers.iter().map(|pid| facts::sockets(*pid)).collect() };
    let before = sockets();
    let mut conns = Vec::new();
    for _ in 0..CONNECTIONS {
        before_each(&workers);
        let mut conn = server.conn();
        conn.get("/").expect(200, true);
        conns.push(conn);
    }
    let counts = || -> Vec<usize> {
        let now = sockets();
        now.iter()
            .zip(&before)
            .map(|(now, then)| now - then)
            .collect()
    };
    eventually("all connections at the workers", PATIENCE, || {
        counts().iter().sum::<usize>() == CONNECTIONS
    });
    let counts = counts();
    let mean = CONNECTIONS as f64 / f64::from(WORKERS);
    let spread = *counts.iter().max().expect("some") as f64 / mean;
    eprintln!("{CONNECTIONS} persistent connections: {counts:?}, max/mean {spread:.3}");
    spread
}

#[test]
fn persistent_connections_are_dealt_out_evenly() {
    let _alone = alone();
    // the kernel can deal out only to acceptors that wait in accept4; where other tests load the machine, they
    // may be waiting for a core instead
    let spread = deal(|workers| {
        eventually("all acceptors to wait", PATIENCE, || {
            workers.iter().all(|pid| facts::accepts(*pid))
        });
    });
    assert!(spread <= 1.05, "{spread}");
}

/// As fast as one client can: whoever of the acceptors has a core takes it. A worker that stands still for
/// milliseconds while it grows (its table of descriptors, for one) shows here.
#[test]
fn connections_in_a_hurry_are_dealt_out_to_all() {
    let _alone = alone();
    let spread = deal(|_| {});
    assert!(spread <= 1.5, "{spread}");
}

/// Connections that say nothing are not work: they age, and the gate opens again.
#[test]
fn four_hundred_silent_connections_keep_nobody_out() {
    let _alone = alone();
    let server = Server::start();
    let opened = Instant::now();
    let silent: Vec<Conn> = (0..400).map(|_| server.conn()).collect();
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let start = Instant::now();
            server.conn().get("/").expect(200, true);
            start.elapsed()
        })
        .collect();
    eprintln!(
        "400 silent and 100 talking connections in {:?}",
        opened.elapsed()
    );
    times.sort();
    eprintln!(
        "behind them a new connection is served in {:?} (median), {:?} (worst)",
        times[50], times[99]
    );
    assert!(times[50] < Duration::from_millis(100), "{times:?}");
    assert!(times[99] < Duration::from_secs(2), "{times:?}");
    drop(silent);
}
