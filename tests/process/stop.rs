//! Stopping: nobody who has begun a request is let down.

use std::time::{Duration, Instant};

use super::traffic::{Habit, Tally, Traffic};
use super::{alone, complaints, facts, signal};
use crate::harness::{Conn, PATIENCE, Server, assert_same, eventually, pattern};

const ROUNDS: usize = 30;

/// Exit code 0 and no failed request, with the clients still at it.
fn quit_under_load(round: usize) -> Tally {
    let mut server = Server::builder()
        .workers(2)
        .arg("--drain-grace=0.2")
        .start();
    let traffic = Traffic::start(
        &server,
        &[
            (Habit::Busy, 3),
            (Habit::Dawdling(Duration::from_millis(400)), 8),
            (Habit::OneShot, 3),
        ],
    );
    traffic.flow(60 + round as u64 * 5);
    traffic.expect_stop();
    server.signal(libc::SIGQUIT);
    let tally = traffic.join();
    let status = server.wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:#?}", server.log());
    assert!(
        tally.failures.is_empty(),
        "round {round}: {:#?}\n{:#?}",
        tally.failures,
        server.log()
    );
    assert_eq!(complaints(&server.log()), [""; 0]);
    tally
}

#[test]
fn quit_under_load_fails_no_request() {
    let _alone = alone();
    let mut all = Tally::default();
    for round in 0..ROUNDS {
        let tally = quit_under_load(round);
        all.served += tally.served;
        all.idle_ends += tally.idle_ends;
        all.turned_away += tally.turned_away;
    }
    eprintln!(
        "{ROUNDS} stops: {} requests served, none failed; {} idle ends, {} turned away",
        all.served, all.idle_ends, all.turned_away
    );
}

/// Retires one worker after the other; the clients do not notice.
#[test]
fn a_worker_that_is_told_to_quit_drains_and_is_replaced() {
    let _alone = alone();
    let server = Server::builder()
        .workers(2)
        .arg("--drain-grace=0.1")
        .start();
    let traffic = Traffic::start(
        &server,
        &[
            (Habit::Busy, 3),
            (Habit::Dawdling(Duration::from_millis(80)), 3),
            (Habit::OneShot, 3),
        ],
    );
    for round in 0..8 {
        let retired = server.worker_pids()[round % 2];
        traffic.flow(50);
        let skip = server.log().len();
        signal(retired, libc::SIGQUIT);
        server.wait_log_after(skip, &format!("worker {} is ready", round % 2), PATIENCE);
        assert!(!server.is_ours(retired));
    }
    traffic.flow(50);
    let tally = traffic.finish();
    assert!(
        tally.failures.is_empty(),
        "{:#?}\n{:#?}",
        tally.failures,
        server.log()
    );
    eprintln!("8 workers retired beside {} requests", tally.served);
    server.stop();
}

/// Tells the server to stop, and waits until its workers drain: the next reply is its connection's last.
fn stop_and_await_drain(server: &Server, how: i32) {
    server.signal(how);
    eventually("the workers to drain", PATIENCE, || {
        server.worker_pids().into_iter().all(facts::is_draining)
    });
}

#[test]
fn an_idle_connection_has_the_grace_to_send_one_more_request() {
    let mut server = Server::builder()
        .workers(2)
        .arg("--drain-grace=1.5")
        .start();
    server.write("dev1/file", "content");
    let mut conns: Vec<Conn> = (0..6).map(|_| server.conn()).collect();
    for conn in &mut conns[..4] {
        conn.get("/dev1/file").expect(200, true);
    }
    let at = Instant::now();
    stop_and_await_drain(&server, libc::SIGTERM);
    // two that were served before, and one that never said a word
    for nr in [0, 1, 4] {
        let conn = &mut conns[nr];
        assert_eq!(conn.get("/dev1/file").expect(200, false).body, b"content");
        conn.expect_eof();
    }
    assert!(
        at.elapsed() < Duration::from_millis(1500),
        "too slow to tell"
    );
    for nr in [2, 3, 5] {
        conns[nr].expect_eof();
        let after = at.elapsed();
        assert!(after >= Duration::from_millis(1400), "{after:?}");
        assert!(after < Duration::from_millis(3000), "{after:?}");
    }
    drop(conns);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

/// The grace begins with the stop, not with the last request.
#[test]
fn a_connection_that_was_idle_for_long_has_the_grace_too() {
    let mut server = Server::builder().arg("--drain-grace=0.6").start();
    server.write("dev1/file", "content");
    let mut conn = server.conn();
    conn.get("/dev1/file").expect(200, true);
    let idle = Instant::now();
    eventually("a long idle time", PATIENCE, || {
        idle.elapsed() > Duration::from_millis(900)
    });
    let at = Instant::now();
    stop_and_await_drain(&server, libc::SIGQUIT);
    eventually("some sweeps of the drain", PATIENCE, || {
        at.elapsed() > Duration::from_millis(200)
    });
    assert_eq!(conn.get("/dev1/file").expect(200, false).body, b"content");
    conn.expect_eof();
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

/// The grace ends while requests are in the sockets, and nobody has looked at them yet: they are answered.
#[test]
fn a_request_that_is_there_before_the_goodbye_is_answered() {
    let grace = Duration::from_millis(700);
    let mut server = Server::builder().arg("--drain-grace=0.7").start();
    server.write("dev1/file", "content");
    let mut conns: Vec<Conn> = (0..600).map(|_| server.conn()).collect();
    for conn in &mut conns {
        conn.get("/dev1/file").expect(200, true);
    }
    let (at, worker) = (Instant::now(), server.worker_pids()[0]);
    stop_and_await_drain(&server, libc::SIGQUIT);
    signal(worker, libc::SIGSTOP);
    eventually("the worker to stand still", PATIENCE, || {
        facts::is_stopped(worker)
    });
    assert!(at.elapsed() < grace, "too slow to tell");
    for conn in &mut conns {
        conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    eventually("the grace to pass", PATIENCE, || {
        at.elapsed() > grace + Duration::from_millis(200)
    });
    signal(worker, libc::SIGCONT);
    for mut conn in conns {
        assert_eq!(conn.response().expect(200, false).body, b"content");
        conn.expect_eof();
    }
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

/// A client that does not take the hint holds up the stop for a bounded time.
#[test]
fn a_client_that_ignores_the_end_is_waited_for_two_seconds() {
    let mut server = Server::builder().arg("--drain-grace=0.1").start();
    let mut deaf = server.conn();
    deaf.get("/").expect(200, true);
    server.signal(libc::SIGQUIT);
    let at = Instant::now();
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert!(at.elapsed() < Duration::from_secs(6), "{:?}", at.elapsed());
    deaf.expect_eof();
}

/// An upload and a download that are under way when the server is told to stop.
struct Transfers {
    upload: Conn,
    download: Conn,
    file: Vec<u8>,
}

impl Transfers {
    fn begin(server: &Server) -> Transfers {
        let file = pattern(6 << 20);
        server.write("dev1/big", &file);
        let mut upload = server.conn();
        upload.send(format!(
            "PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n",
            file.len()
        ));
        upload.send(&file[..100_000]);
        upload.settle();
        let mut download = Conn::connect_narrow(server.addr(), 4096);
        download.send("GET /dev1/big HTTP/1.1\r\nHost: t\r\n\r\n");
        let head = download.head_of_response();
        assert_eq!(head.content_length(), file.len() as u64);
        Transfers {
            upload,
            download,
            file,
        }
    }

    fn finish(mut self, server: &Server) {
        // slowly: in many pieces, each of which the server has read before the next is sent
        for piece in self.file[100_000..].chunks(1 << 20) {
            self.upload.send(piece);
            self.upload.settle();
        }
        self.upload.response().expect(201, false);
        self.upload.expect_eof();
        let got = self.download.read_exactly(self.file.len());
        assert_same(&got, &self.file, "the download");
        self.download.expect_eof();
        assert_same(
            &server.read("dev1/upload").unwrap(),
            &self.file,
            "the upload",
        );
    }
}

#[test]
fn transfers_under_way_are_served_to_their_end() {
    for how in [libc::SIGQUIT, libc::SIGTERM] {
        let mut server = Server::builder()
            .workers(2)
            .arg("--drain-grace=0.2")
            .start();
        let transfers = Transfers::begin(&server);
        stop_and_await_drain(&server, how);
        transfers.finish(&server);
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    }
}

/// Half a head counts as a request that has begun.
#[test]
fn half_a_request_is_served_to_the_end() {
    let mut server = Server::builder().arg("--drain-grace=0.1").start();
    server.write("dev1/file", "content");
    let mut conn = server.conn();
    conn.send("GET /dev1/file HT");
    conn.settle();
    let mut pipelined = server.conn();
    pipelined.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\nGET /dev1/file HT");
    pipelined.response().expect(200, true);
    let at = Instant::now();
    stop_and_await_drain(&server, libc::SIGQUIT);
    eventually("the grace to pass", PATIENCE, || {
        at.elapsed() > Duration::from_millis(400)
    });
    for conn in [&mut conn, &mut pipelined] {
        conn.send("TP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(conn.response().expect(200, false).body, b"content");
        conn.expect_eof();
    }
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_second_signal_or_int_stops_at_once() {
    use libc::{SIGINT, SIGQUIT, SIGTERM};
    for signals in [
        &[SIGQUIT, SIGQUIT][..],
        &[SIGTERM, SIGINT],
        &[SIGTERM, SIGQUIT],
        &[SIGINT],
    ] {
        let mut server = Server::builder().workers(2).start();
        let workers = server.worker_pids();
        let mut transfers = Transfers::begin(&server);
        for (nr, signal) in signals.iter().enumerate() {
            server.signal(*signal);
            let last = nr + 1 == signals.len();
            let said = if last { "at once" } else { "stopping: " };
            server.wait_log(said, PATIENCE);
        }
        let at = Instant::now();
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0), "{signals:?}");
        assert!(at.elapsed() < Duration::from_secs(3), "{:?}", at.elapsed());
        transfers.upload.expect_closed();
        assert!(transfers.download.count_to_end() < transfers.file.len() as u64);
        assert_eq!(server.names(), ["dev1/big"], "{signals:?}");
        for pid in workers {
            assert!(!server.is_ours(pid));
        }
    }
}

/// Log rotation sends HUP or USR1, a terminal HUP, and all of these mean something to the master: a worker serves
/// on, and a master that has nothing to reopen or to reload does.
#[test]
fn signals_without_a_meaning_change_nothing() {
    let mut server = Server::builder().workers(1).start();
    let worker = server.worker_pids();
    for number in [libc::SIGHUP, libc::SIGUSR1, libc::SIGPIPE] {
        server.signal(number);
        signal(worker[0], number);
    }
    for number in [libc::SIGUSR2, libc::SIGTTIN, libc::SIGTTOU] {
        signal(worker[0], number);
    }
    server.write("dev1/file", "content");
    for _ in 0..20 {
        assert_eq!(server.conn().get("/dev1/file").status, 200);
    }
    assert_eq!(server.worker_pids(), worker);
    server.signal(libc::SIGQUIT);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

/// A stop with the listen queue full of requests: each is answered.
#[test]
fn the_listen_queue_is_emptied_before_the_end() {
    let mut server = Server::builder().arg("--drain-grace=0.5").start();
    server.write("dev1/file", "content");
    let worker = server.worker_pids()[0];
    // a stopped worker accepts nobody
    signal(worker, libc::SIGSTOP);
    eventually("the worker to stand still", PATIENCE, || {
        facts::is_stopped(worker)
    });
    let mut queued: Vec<Conn> = (0..300).map(|_| server.conn()).collect();
    for conn in &mut queued {
        conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(facts::owner(server.pid(), conn), None);
    }
    server.signal(libc::SIGQUIT);
    server.wait_log("stopping", PATIENCE);
    signal(worker, libc::SIGCONT);
    for conn in &mut queued {
        // the first may be accepted before the worker has read the word to stop
        let response = conn.response();
        assert_eq!(
            (response.status, &response.body[..]),
            (200, &b"content"[..])
        );
        conn.expect_eof();
    }
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

/// A stop while the worker is full: the idle give way after their grace, and whoever waits behind them in the
/// listen queue is served.
#[test]
fn a_full_worker_stops_too() {
    let mut server = Server::builder()
        .arg("--maxconns=20")
        .arg("--drain-grace=0.3")
        .start();
    server.write("dev1/file", "content");
    let mut idle: Vec<Conn> = (0..20).map(|_| server.conn()).collect();
    for conn in &mut idle {
        conn.get("/dev1/file").expect(200, true);
    }
    let mut queued: Vec<Conn> = (0..50).map(|_| server.conn()).collect();
    for conn in &mut queued {
        conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(facts::owner(server.pid(), conn), None);
    }
    server.signal(libc::SIGQUIT);
    // each leaves as soon as it is told the end, as clients do
    for mut conn in idle {
        conn.expect_eof();
    }
    for conn in &mut queued {
        assert_eq!(conn.response().expect(200, false).body, b"content");
        conn.expect_eof();
    }
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(complaints(&server.log()), [""; 0]);
}
