//! Who does not come back from a disk, consumer or acceptor: what is told of them, and what becomes of a drain.

use std::time::{Duration, Instant};

use super::facts;
use crate::harness::hang::{Calls, Disk, held_consumers, held_threads};
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern};
use crate::http::fresh::wait_until_old;

/// After this a call counts as stuck.
const STUCK: Duration = Duration::from_secs(1);

fn ask(server: &Server, target: &str) -> Conn {
    let mut conn = server.conn();
    conn.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"));
    conn
}

fn lines<'a>(log: &'a [String], pattern: &str) -> Vec<&'a str> {
    let lines = log.iter().map(String::as_str);
    lines.filter(|line| line.contains(pattern)).collect()
}

#[test]
fn who_is_stuck_is_told_once_with_what_it_does_and_again_when_it_is_back() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk
        .builder()
        .mgmt("127.0.0.1:0")
        .arg("--device-wait=600")
        .arg("--probe-timeout=600")
        .start();
    server.write("dev1/file", "content");
    server.write("dev1/long", pattern(1 << 20));
    let at = Instant::now();
    let hang = disk.hang(Calls::All);
    let mut reader = ask(&server, "/dev1/f%69le");
    let mut writer = server.conn();
    writer.send("PUT /dev1/new HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nnew");
    let mut side = Conn::connect(server.mgmt_addr());
    side.send("MD5 /dev1/long\r\n");
    for about in [
        "GET /dev1/f%69le, open;",
        "PUT /dev1/new, open;",
        "MD5 /dev1/long, open;",
    ] {
        let line = server.wait_log(about, PATIENCE);
        assert!(line.contains("is stuck for "), "{line}");
        assert!(line.contains("thread "), "{line}");
        // the library's own: it looks, and sleeps, again and again
        let by = ["it is in clock_nanosleep", "it runs"];
        assert!(by.iter().any(|by| line.contains(by)), "{line}");
    }
    // further looks say nothing new
    eventually("two more looks", PATIENCE, || at.elapsed() > 4 * STUCK);
    drop(hang);
    reader.response().expect(200, true);
    writer.response().expect(201, true);
    side.read_until(b"MD5=");
    eventually("all three to be back", PATIENCE, || {
        lines(&server.log(), "has come back after").len() == 3
    });
    let log = server.log();
    assert_eq!(lines(&log, "is stuck").len(), 3, "{log:#?}");
    let back = lines(&log, "GET /dev1/f%69le, open").pop();
    assert!(
        back.is_some_and(|line| line.contains("has come back after")),
        "{log:#?}"
    );
    // of another phase
    let hang = disk.hang(Calls::Reads);
    let mut reader = ask(&server, "/dev1/file");
    server.wait_log("GET /dev1/file, read;", PATIENCE);
    let mut long = ask(&server, "/dev1/long");
    server.wait_log("GET /dev1/long, read;", PATIENCE);
    drop(hang);
    reader.response().expect(200, true);
    long.response().expect(200, true);
    server.stop();
}

/// The kernel answers an acceptor from memory or not at all. The library knows no difference: it holds both.
#[test]
fn an_acceptor_that_is_stuck_is_told_as_well() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    // who is accepted has spoken: the acceptor finds a request for what is in memory
    let server = disk
        .builder()
        .http_get("127.0.0.1:0")
        .arg("--defer-accept=1")
        .arg("--device-wait=600")
        .arg("--probe-timeout=600")
        .start();
    let path = server.write("dev1/f le", "content");
    wait_until_old(&path);
    for _ in 0..3 {
        server.conn().get("/dev1/f%20le").expect(200, true);
    }
    let worker = server.worker_pids()[0];
    let hang = disk.hang(Calls::Memory);
    let mut reader = ask(&server, "/dev1/f%20le");
    eventually("an acceptor to be held", PATIENCE, || {
        held_threads(worker)
            .iter()
            .any(|name| name.starts_with("acc:"))
    });
    let line = server.wait_log("GET /dev1/f%20le, open;", PATIENCE);
    assert!(line.contains("acceptor ") && line.contains("is stuck for "));
    // it has no client but this one, and its neighbour serves
    let mut other = Conn::connect(server.get_addr());
    other.get("/").expect(200, true);
    drop(hang);
    assert_eq!(reader.response().expect(200, true).body, b"content");
    let line = server.wait_log("has come back after", PATIENCE);
    assert!(line.contains("acceptor ") && line.contains("GET /dev1/f%20le, open"));
    let log = server.log();
    assert_eq!(lines(&log, "consumer").len(), 0, "{log:#?}");
    // a stop would wait for them to say something
    drop((reader, other));
    server.stop();
}

/// A server of one consumer, and with those who take its place of five: as many as it has devices.
fn of_one_consumer(disk: &Disk, args: &[&str]) -> Server {
    for nr in 1..=5 {
        let device = disk.root().join(format!("dev{nr}"));
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("file"), "content").unwrap();
    }
    let builder = disk
        .builder()
        .mgmt("127.0.0.1:0")
        .arg("--device-wait=600")
        .arg("--probe-timeout=600");
    let server = args.iter().fold(builder, |b, arg| b.arg(arg)).start();
    let mut side = Conn::connect(server.mgmt_addr());
    side.send("server aio_threads = 1\r\n");
    assert_eq!(side.read_exactly(2), b"\r\n");
    server.wait_log("1 consumers instead of 10", PATIENCE);
    let worker = server.worker_pids()[0];
    // those who are one too many leave after their next turn
    eventually("the others to leave", PATIENCE, || {
        server.conn().get("/").expect(200, true);
        consumers(worker) == 1
    });
    server
}

/// No disk is left that answers: the replacements of the stuck ones are stuck as well. Returns who has asked: each
/// but the first waited in the queue until the consumer was replaced that the one before it holds.
fn hold_all(server: &Server) -> Vec<Conn> {
    let worker = server.worker_pids()[0];
    let mut asked = Vec::new();
    for nr in 1..=5 {
        asked.push(ask(server, &format!("/dev{nr}/file")));
        eventually("one more to be held", PATIENCE, || {
            assert!(asked.iter().all(Conn::is_silent), "an answer for {nr}");
            held_consumers(worker) == nr
        });
    }
    asked
}

#[test]
fn when_all_are_stuck_it_is_said() {
    let Some(disk) = Disk::new("") else {
        return;
    };
    let server = of_one_consumer(&disk, &[]);
    let hang = disk.hang(Calls::Opens);
    let mut asked = hold_all(&server);
    let line = server.wait_log("all 5 consumers are stuck: GET /dev", PATIENCE);
    assert!(line.contains("error"), "{line}");
    drop(hang);
    for conn in &mut asked {
        conn.response().expect(200, true);
    }
    server.conn().get("/dev1/file").expect(200, true);
    server.stop();
}

/// Its client has said all that it has to say: --head-timeout is about those who have not.
#[test]
fn a_whole_request_waits_for_a_consumer_however_long() {
    let Some(disk) = Disk::new("") else {
        return;
    };
    // who is accepted has spoken: the acceptor finds a request, and leaves it to the consumers
    let server = of_one_consumer(&disk, &["--defer-accept=1", "--head-timeout=0.3"]);
    let hang = disk.hang(Calls::Opens);
    let asked = hold_all(&server);
    let requests = [
        ("GET / HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        (
            "PUT /dev1/new HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nnew",
            201,
        ),
        (
            "GET / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc",
            200,
        ),
        ("no request at all\r\n\r\n", 400),
    ];
    let mut whole = Vec::new();
    for (request, status) in requests {
        let mut conn = server.conn();
        conn.send(request);
        // by the acceptor: there is nobody else
        conn.settle();
        whole.push((conn, status));
    }
    // the sweep that ends the second one has come after that which has looked at all others when they were late
    for _ in 0..2 {
        let mut half = server.conn();
        half.send("GET / HTTP/1.1\r\nHos");
        half.response().expect(408, false);
        half.expect_closed();
    }
    for (conn, status) in &whole {
        assert!(conn.is_silent(), "what is to become {status}");
    }
    assert!(asked.iter().all(Conn::is_silent));
    drop(hang);
    for mut conn in asked {
        conn.response().expect(200, true);
    }
    for (mut conn, status) in whole {
        assert_eq!(conn.response().status, status);
    }
    assert_eq!(server.read("dev1/new").as_deref(), Some(&b"new"[..]));
    server.stop();
}

fn consumers(pid: i32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
    let names = tasks.flatten().filter_map(|task| name(task).ok());
    names.filter(|name| name.contains("con:")).count()
}

/// A worker that starts beside a disk that hangs says so, and serves the others.
#[test]
fn a_disk_that_hangs_stops_no_new_worker() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let server = disk.builder().arg("--probe-timeout=600").start();
    server.write("dev2/file", "healthy");
    let old = server.worker_pids()[0];
    let hang = disk.hang(Calls::Opens);
    let skip = server.log().len();
    super::signal(old, libc::SIGKILL);
    let line = server.wait_log_after(skip, "does not answer within", PATIENCE);
    assert!(
        line.contains("self-test") && line.contains("dev1"),
        "{line}"
    );
    server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
    server.conn().get("/dev2/file").expect(200, true);
    drop(hang);
    server.stop();
}

/// Nothing moves: the drain ends, and says who was waited for.
#[test]
fn a_drain_in_which_nothing_moves_ends() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let mut server = disk
        .builder()
        .arg("--graceful-timeout=1.5")
        .arg("--probe-timeout=600")
        .start();
    server.write("dev1/file", "content");
    let mut upload = server.conn();
    upload.send("PUT /dev2/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nhalf");
    let mut half = server.conn();
    half.send("GET /dev2/half HTT");
    let _hang = disk.hang(Calls::Opens);
    let _held = ask(&server, "/dev1/file");
    upload.settle();
    let worker = server.worker_pids()[0];
    eventually("a consumer to be held", PATIENCE, || {
        held_consumers(worker) > 0
    });
    let at = Instant::now();
    server.signal(libc::SIGQUIT);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert!(
        at.elapsed() >= Duration::from_millis(1400),
        "{:?}",
        at.elapsed()
    );
    assert!(at.elapsed() < Duration::from_secs(6), "{:?}", at.elapsed());
    upload.expect_closed();
    let log = server.log();
    assert_eq!(
        lines(&log, "nothing has moved for 1.5s: 3 clients are left").len(),
        1,
        "{log:#?}"
    );
    let left = lines(&log, "left: ").join("\n");
    assert!(left.contains("PUT /dev2/upload, 4 bytes so far"), "{left}");
    assert!(
        left.contains("the rest of \"GET /dev2/half HTT\""),
        "{left}"
    );
    assert!(left.contains("GET /dev1/file, open"), "{left}");
}

/// Whatever moves is waited for: an upload in crumbs, a digest that only reads.
#[test]
fn a_drain_goes_on_while_anything_moves() {
    let Some(disk) = Disk::new("dev1") else {
        return;
    };
    let limit = Duration::from_secs(1);
    let mut server = disk
        .builder()
        .mgmt("127.0.0.1:0")
        .arg("--graceful-timeout=1")
        .arg("--probe-timeout=600")
        .start();
    server.write("dev1/long", pattern(4 << 20));
    let worker = server.worker_pids()[0];
    let mut upload = server.conn();
    upload.send("PUT /dev2/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 30\r\n\r\n");
    upload.settle();
    server.signal(libc::SIGQUIT);
    eventually("the drain", PATIENCE, || facts::is_draining(worker));
    let at = Instant::now();
    for nr in 0..30 {
        eventually("a while", PATIENCE, || at.elapsed() > nr * limit / 10);
        upload.send("x");
    }
    upload.response().expect(201, false);
    assert!(at.elapsed() > 2 * limit);
    drop(upload);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(lines(&server.log(), "left: "), [""; 0]);

    let mut server = disk
        .builder()
        .mgmt("127.0.0.1:0")
        .arg("--graceful-timeout=1")
        .arg("--probe-timeout=600")
        .start();
    // of low priority: a thread of its own makes it, 32 reads
    let slow = disk.slow(Calls::Reads, 100);
    let mut side = Conn::connect(server.mgmt_addr());
    side.send("MD5 /dev1/long fsck\r\n");
    eventually("the digest to begin", PATIENCE, || disk.held() > 0);
    let at = Instant::now();
    server.signal(libc::SIGQUIT);
    side.read_until(b"MD5=");
    assert!(at.elapsed() > 2 * limit, "{:?}", at.elapsed());
    drop(side);
    drop(slow);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(lines(&server.log(), "left: "), [""; 0]);
}
