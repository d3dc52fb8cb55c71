//! Ten thousand connections that say nothing, and everybody else.

use std::time::{Duration, Instant};

use super::{alone, facts};
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};

const CROWD: usize = 10_000;

/// What this process needs besides: other tests run in it.
const OTHERS: u64 = 4000;

/// Raises this process's limit of descriptors; how many connections it can hold then.
fn descriptors_for(wanted: usize) -> usize {
    let need = wanted as u64 + OTHERS;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives across the call
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(got, 0);
    if limit.rlim_cur < need {
        limit.rlim_cur = need;
        limit.rlim_max = limit.rlim_max.max(need);
        // SAFETY: as above
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            return 0;
        }
    }
    wanted
}

#[test]
fn ten_thousand_connections_are_held_while_others_are_served() {
    let _alone = alone();
    if descriptors_for(CROWD) < CROWD {
        eprintln!("skipped: RLIMIT_NOFILE cannot be raised for {CROWD} connections");
        return;
    }
    let server = Server::builder().workers(2).arg("--maxconns=12000").start();
    let bytes = pattern(3000);
    server.write("dev1/file", &bytes);
    let workers = server.worker_pids();
    let before: u64 = workers.iter().map(|pid| facts::pss(*pid)).sum();
    let started = Instant::now();
    let mut crowd: Vec<Conn> = (0..CROWD)
        .map(|_| {
            let mut conn = server.conn();
            // each has been served once: a keep-alive connection, not one that never said a word
            assert_eq!(conn.get("/dev1/file").expect(200, true).body, bytes);
            conn
        })
        .collect();
    eprintln!(
        "{CROWD} connections opened and served once in {:?}",
        started.elapsed()
    );
    eventually("all of them at the workers", PATIENCE, || {
        workers
            .iter()
            .map(|pid| facts::sockets(*pid))
            .sum::<usize>()
            >= CROWD
    });
    let after: u64 = workers.iter().map(|pid| facts::pss(*pid)).sum();
    eprintln!(
        "memory of an idle connection: {:.0} bytes (PSS of both workers: {before} KiB, then {after} KiB)",
        (after.saturating_sub(before) * 1024) as f64 / CROWD as f64
    );
    others_are_served(&server, &bytes);
    for conn in &mut crowd {
        assert_eq!(conn.get("/dev1/file").expect(200, true).body, bytes);
    }
    assert_eq!(server.worker_pids(), workers, "no worker has died");
    drop(crowd);
    server.stop();
}

fn others_are_served(server: &Server, bytes: &[u8]) {
    let mut longest = Duration::ZERO;
    for nr in 0..300 {
        let start = Instant::now();
        let mut conn = server.conn();
        conn.put(&format!("/dev2/{nr}"), bytes).expect(201, true);
        assert_eq!(conn.get("/dev1/file").expect(200, true).body, bytes);
        longest = longest.max(start.elapsed());
    }
    eprintln!("beside them 300 connections of two requests, the slowest in {longest:?}");
    assert!(longest < Duration::from_secs(3), "{longest:?}");
}
