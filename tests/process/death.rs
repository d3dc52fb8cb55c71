//! Workers and masters that are killed, and workers that cannot start.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::traffic::{Failure, Habit, Tally, Traffic};
use super::{alone, facts, signal};
use crate::harness::server::{is_root, own_docroot};
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern, wait_for};

const KILLS: usize = 20;

/// The promise: after a kill -9 the next worker serves within this.
const REPLACED: Duration = Duration::from_secs(1);

/// A worker that has lived longer than this has not died young: its successor starts at once.
const GROWN_UP: Duration = Duration::from_millis(1100);

#[test]
fn a_killed_worker_takes_only_its_own_connections_along() {
    let _alone = alone();
    let server = Server::builder().workers(4).threads(20).start();
    let traffic = Traffic::start(
        &server,
        &[
            (Habit::Busy, 5),
            (Habit::Dawdling(Duration::from_millis(20)), 3),
            (Habit::OneShot, 2),
        ],
    );
    let mut born: BTreeMap<i32, Instant> = server
        .worker_pids()
        .into_iter()
        .map(|pid| (pid, Instant::now()))
        .collect();
    let (mut killed, mut ready, mut serving) = (BTreeMap::new(), Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let slot = kill % 4;
        let victim = server.worker_pids()[slot];
        traffic.flow(20);
        eventually("the worker to grow up", PATIENCE, || {
            born[&victim].elapsed() > GROWN_UP
        });
        let skip = server.log().len();
        let at = Instant::now();
        signal(victim, libc::SIGKILL);
        server.wait_log_after(skip, &format!("worker {slot} is ready"), PATIENCE);
        ready.push(at.elapsed());
        killed.insert(victim, (at, Instant::now()));
        let heir = server.worker_pids()[slot];
        born.insert(heir, Instant::now());
        assert_ne!(heir, victim);
        await_service(&server, heir);
        serving.push(at.elapsed());
    }
    print_times("kill -9 until ready", &mut ready);
    print_times(
        "kill -9 until the first reply of the next one",
        &mut serving,
    );
    only_the_dead_failed(traffic.finish(), &killed);
    let slowest = serving.last().expect("some");
    assert!(*slowest < REPLACED, "{slowest:?}");
    server.stop();
}

/// Connects until a connection is this worker's.
fn await_service(server: &Server, worker: i32) {
    eventually("a reply of the new worker", PATIENCE, || {
        let mut conn = server.conn();
        conn.get("/dev1/shared").expect(200, true);
        facts::owner(server.pid(), &conn) == Some(worker)
    });
}

fn print_times(what: &str, times: &mut [Duration]) {
    times.sort();
    eprintln!(
        "{what}, {} times: median {:?}, worst {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

/// Each failure is on a connection of a worker that was killed while the connection lived.
fn only_the_dead_failed(tally: Tally, killed: &BTreeMap<i32, (Instant, Instant)>) {
    let unknown = tally.failures.iter().filter(|f| f.owner.is_none()).count();
    eprintln!(
        "{} requests were served, {} failed on connections of killed workers, {unknown} of them on their first",
        tally.served,
        tally.failures.len(),
    );
    // a connection that was made while the worker was dying may have been its last
    let died_in = |failure: &Failure, (from, to): &(Instant, Instant)| {
        failure.from <= *to && *from <= failure.to
    };
    for failure in &tally.failures {
        let excused = match failure.owner {
            Some(pid) => killed.get(&pid).is_some_and(|at| died_in(failure, at)),
            None => failure.first && killed.values().any(|at| died_in(failure, at)),
        };
        assert!(excused, "{failure:?}");
    }
    assert!(tally.served > 100, "{tally:?}");
}

/// Without a master the workers serve who is there, and end.
#[test]
fn workers_drain_and_end_when_the_master_is_killed() {
    let _alone = alone();
    let mut server = Server::builder()
        .workers(3)
        .arg("--drain-grace=0.3")
        .start();
    let (addr, workers) = (server.addr(), server.worker_pids());
    let traffic = Traffic::start(&server, &[(Habit::Busy, 4), (Habit::OneShot, 3)]);
    let bytes = pattern(1000);
    let mut upload = server.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n");
    upload.send(&bytes[..500]);
    upload.settle();
    traffic.flow(50);
    traffic.expect_stop();
    server.signal(libc::SIGKILL);
    assert_eq!(server.wait_exit(PATIENCE).code(), None);
    server.wait_log("the master has gone", PATIENCE);
    eventually("the workers to drain", PATIENCE, || {
        workers.iter().all(|pid| facts::is_draining(*pid))
    });
    // whoever comes now is told so at once, and not when the upload has ended
    eventually("a new connection to be refused", PATIENCE, || {
        let refused = Conn::try_connect(addr, Duration::from_millis(200)).err();
        refused.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    upload.send(&bytes[500..]);
    upload.response().expect(201, false);
    upload.expect_eof();
    drop(upload);
    for pid in workers {
        eventually("a worker's end after its master's", PATIENCE, || {
            !server.is_ours(pid)
        });
    }
    let tally = traffic.join();
    eprintln!("master killed: {} served, none failed", tally.served);
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    assert_eq!(server.read("dev1/upload").unwrap(), bytes);
}

/// A worker that is still starting when its master dies serves who waits, and ends.
#[test]
fn who_waits_for_a_worker_whose_master_has_died_is_served() {
    let mut server = Server::builder().workers(1).start();
    let addr = server.addr();
    let first = server.worker_pids()[0];
    signal(first, libc::SIGKILL);
    // caught as young as can be
    let heir = wait_for("the next worker", PATIENCE, || {
        let mut all = facts::children(server.pid()).into_iter();
        all.find(|pid| *pid != first)
    });
    signal(heir, libc::SIGSTOP);
    let mut waiting: Vec<Conn> = (0..5).map(|_| Conn::connect(addr)).collect();
    for (nr, conn) in waiting.iter_mut().enumerate() {
        conn.send(format!(
            "PUT /dev1/{nr} HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx"
        ));
    }
    server.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE);
    signal(heir, libc::SIGCONT);
    for conn in &mut waiting {
        assert_eq!(conn.response().status, 201);
    }
    eventually("its end", PATIENCE, || !server.is_ours(heir));
}

/// Waits for the line that says that the next worker comes after `delay` milliseconds, less up to a quarter; the
/// number of lines up to it.
#[track_caller]
fn wait_delay(server: &Server, skip: usize, delay: u64) -> usize {
    wait_for(&format!("a delay of {delay} ms"), PATIENCE, || {
        let log = server.log();
        let is_it = |line: &String| {
            let said = line
                .split_once("starts in ")
                .and_then(|(_, rest)| rest.split_once(" ms"));
            said.and_then(|(ms, _)| ms.parse().ok())
                .is_some_and(|ms: u64| (delay - delay / 4..=delay).contains(&ms))
        };
        let at = log.iter().skip(skip).position(is_it)?;
        Some(skip + at + 1)
    })
}

/// Replaced again and again, ever more slowly; the others serve on; and all is well when the reason has gone.
#[test]
fn a_worker_that_cannot_start_is_tried_again_with_growing_delays() {
    let docroot = own_docroot();
    let aside = docroot.path().with_extension("aside");
    let server = Server::builder().workers(2).docroot(docroot.path()).start();
    server.write("dev1/file", "content");
    let [victim, survivor] = server.worker_pids()[..] else {
        panic!("two workers");
    };
    // others still find it by the descriptor that they hold
    fs::rename(docroot.path(), &aside).unwrap();
    signal(victim, libc::SIGKILL);
    let mut skip = 0;
    for delay in [100, 200, 400] {
        skip = wait_delay(&server, skip, delay);
        for _ in 0..20 {
            let mut conn = server.conn();
            assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"content");
            conn.put("/dev1/other", b"x").expect(201, true);
        }
    }
    let skip = server.log().len();
    fs::rename(&aside, docroot.path()).unwrap();
    server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    assert_eq!(server.worker_pids()[1], survivor);
    let named = |line: &&String| line.contains("docroot") && line.contains("error");
    let said = server.log().iter().filter(named).count();
    assert!(
        (3..=8).contains(&said),
        "one line a death: {:#?}",
        server.log()
    );
    server.stop();
}

/// Whoever kills them all, young and again and again, does not turn the service off for half a minute.
#[test]
fn where_nobody_is_left_the_next_worker_does_not_wait_long() {
    let mut server = Server::builder().workers(1).start();
    server.write("dev1/file", "content");
    for delay in [0, 100, 200, 400, 800, 1600, 2000, 2000] {
        let skip = server.log().len();
        // the first one may have grown up while the others of its tree were awaited
        let victim = server.worker_pids()[0];
        signal(victim, libc::SIGKILL);
        wait_delay(&server, skip, delay);
        server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    }
    assert_eq!(server.conn().get("/dev1/file").status, 200);
    server.signal(libc::SIGQUIT);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_docroot_that_cannot_be_opened_is_exit_code_1() {
    let docroot = own_docroot();
    let missing = docroot.path().join("missing");
    let (status, log) = Server::builder().docroot(&missing).run_to_exit();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("docroot") && log.contains("missing"), "{log}");
    if !is_root() {
        return;
    }
    let closed = docroot.path().join("dev1");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let (status, log) = Server::builder()
        .unprivileged()
        .docroot(&closed)
        .run_to_exit();
    // handed to another user, it still has no mode bits for anybody
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("docroot") && log.contains("denied"), "{log}");
}
