//! The stream: pipelining, half-close, the limit of a line, clients that do not read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{ask, builder, dial, expect, expect_open, sum};
use crate::harness::{Conn, PATIENCE, eventually, pattern};

const HELLO: &str = "5d41402abc4b2a76b9719d911017c592";

#[test]
fn replies_come_in_the_order_of_requests() {
    let server = builder().start();
    server.write("dev1/a", "hello");
    let big = server.write("dev1/big", pattern(20_000_000));
    let (md5, sha1) = (sum("md5sum", &big), sum("sha1sum", &big));
    let mut conn = dial(&server);
    for reason in ["", " fsck"] {
        let requests = format!(
            "size /dev1/a\r\nMD5 /dev1/big{reason}\nsize /dev1/none\n\nbogus\r\n\
             SHA-1 /dev1/big{reason}\r\nsize /../a\r\nserver aio_threads = 10\r\nsize /dev1/a\n"
        );
        let replies = format!(
            "/dev1/a 5\r\n/dev1/big MD5={md5}\r\n/dev1/none -1\r\n\r\n\
             ERROR: unknown command: bogus\r\n/dev1/big SHA-1={sha1}\r\n\
             ERROR: uri invalid (contains ..)\r\n\r\n/dev1/a 5\r\n"
        );
        ask(&mut conn, &requests, &replies);
        conn.send_slowly(&requests);
        expect(&mut conn, &replies);
    }
}

#[test]
fn thousands_in_one_go() {
    const COUNT: usize = 20_000;
    let server = builder().start();
    server.write("dev1/a", "hello");
    let mut conn = dial(&server);
    let mut other = dial(&server);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            other.send("size /dev1/a\r\n".repeat(COUNT));
            expect(&mut other, "/dev1/a 5\r\n".repeat(COUNT));
        });
        ask(
            &mut conn,
            "MD5 /dev1/a\r\n".repeat(1000),
            format!("/dev1/a MD5={HELLO}\r\n").repeat(1000),
        );
    });
}

#[test]
fn half_close() {
    let server = builder().start();
    let path = server.write("dev1/big", pattern(20_000_000));
    let md5 = sum("md5sum", &path);
    for reason in ["", " fsck"] {
        let mut conn = dial(&server);
        conn.send(format!(
            "size /dev1/none\r\nMD5 /dev1/big{reason}\r\nsize /dev1/big\nsize /dev1/b"
        ));
        conn.finish_sending();
        // what is no whole line is nothing
        expect(
            &mut conn,
            format!("/dev1/none -1\r\n/dev1/big MD5={md5}\r\n/dev1/big 20000000\r\n"),
        );
        conn.expect_eof();
    }
    let mut conn = dial(&server);
    conn.finish_sending();
    conn.expect_eof();
}

#[test]
fn the_limit_of_a_line() {
    let server = builder().start();
    server.write("dev1/a", "hello");
    // so many bytes, with their end
    let line = |len: usize, end: &str| {
        let slashes = "/".repeat(len - "size /dev1a".len() - end.len());
        let path = format!("/dev1{slashes}a");
        (format!("size {path}{end}"), format!("{path} 5\r\n"))
    };
    for end in ["\r\n", "\n"] {
        let mut conn = dial(&server);
        let (request, reply) = line(496, end);
        assert_eq!(request.len(), 496);
        ask(&mut conn, &request, &reply);
        ask(&mut conn, request.repeat(10), reply.repeat(10));
        conn.send_slowly(&request);
        expect(&mut conn, &reply);

        let skip = server.log().len();
        let _ = conn.try_send(line(497, end).0);
        conn.expect_closed();
        server.wait_log_after(skip, "mgmt request too large", PATIENCE);
    }
    // without an end
    let mut conn = dial(&server);
    conn.send([b'a'; 495]);
    conn.settle();
    assert!(!conn.has_ended());
    conn.send("a");
    conn.expect_closed();
    let mut conn = dial(&server);
    let _ = conn.try_send([b' '; 100_000]);
    conn.expect_closed();
    expect_open(&mut dial(&server));
}

/// Sends this again and again until the server takes no more of it; says how much it took.
fn stuff(conn: &mut Conn, request: &str) -> usize {
    let batch = request.repeat(100);
    let mut sent = 0;
    loop {
        let taken = conn.push(&batch, Duration::from_millis(500));
        sent += taken;
        if taken < batch.len() {
            return sent;
        }
        assert!(sent < 200_000_000, "the server takes requests without end");
    }
}

/// The server stops reading from who does not read, and goes on when he does.
#[test]
fn replies_that_are_not_taken() {
    let server = builder().start();
    server.write("dev1/a", "hello");
    let mut conn = Conn::connect_narrow(server.mgmt_addr(), 4096);
    let name = format!("/{}dev1/a", "/".repeat(400));
    let request = format!("size {name}\r\n");
    let sent = stuff(&mut conn, &request);
    expect_open(&mut dial(&server));
    let reply = format!("{name} 5\r\n");
    for _ in 0..sent / request.len() {
        expect(&mut conn, &reply);
    }
    if !sent.is_multiple_of(request.len()) {
        conn.send(&request[sent % request.len()..]);
        expect(&mut conn, &reply);
    }
    expect_open(&mut conn);
}

#[test]
fn a_reply_that_is_never_taken_ends_the_connection() {
    let server = builder().timeout("send", 1.5).start();
    server.write("dev1/a", "hello");
    let mut conn = Conn::connect_narrow(server.mgmt_addr(), 4096);
    let request = format!("size /{}dev1/a\r\n", "/".repeat(400));
    stuff(&mut conn, &request);
    server.wait_log(
        "took nothing of its replies within --send-timeout",
        PATIENCE,
    );
    // what was in the kernel's hands by then
    conn.count_to_end();
    expect_open(&mut dial(&server));
}

/// A digest has its turns while its socket has room: one for who does not read comes to a halt, and is ended as
/// any other reply that is not taken. It gives its file back.
#[cfg(target_os = "linux")]
#[test]
fn a_digest_for_who_does_not_read() {
    check_halt(50, true);
}

/// So does a turn's worth of commands, with the next ones read already.
#[cfg(target_os = "linux")]
#[test]
fn a_turn_for_who_does_not_read() {
    check_halt(500, false);
}

/// Sends so many commands and a digest at a time.
#[cfg(target_os = "linux")]
fn check_halt(commands: usize, in_digest: bool) {
    use crate::process::facts;
    let server = builder().timeout("send", 1.5).start();
    super::sparse(&server, "dev1/big", 9 << 20);
    let pid = server.worker_pids()[0];
    let is_open = || {
        let files = facts::descriptors(pid);
        files.iter().any(|(_, place)| place.ends_with("/big"))
    };
    let was_cut = || {
        let log = server.log();
        log.iter()
            .any(|line| line.contains("took nothing of its replies within --send-timeout"))
    };
    let name = format!("/{}dev1/none", "/".repeat(400));
    let requests = format!("size {name}\r\n").repeat(commands) + "MD5 /dev1/big\r\n";
    let reply = "/dev1/big MD5=\r\n".len() + 32;
    let replies = format!("{name} -1\r\n").len() * commands + reply;
    let mut conn = Conn::connect_narrow(server.mgmt_addr(), 4096);
    // A socket has no room for more long before it is full, so some digest comes to its halt with all replies
    // before it under way.
    let (over, mut due) = (AtomicBool::new(false), 0);
    let was_open = std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = Vec::new();
            while !over.load(Ordering::SeqCst) {
                looks.push((Instant::now(), is_open()));
                std::thread::sleep(Duration::from_millis(20));
            }
            looks
        });
        while !was_cut() {
            assert!(due < 100_000_000, "the kernel takes replies without end");
            conn.send(&requests);
            due += replies as u64;
            eventually("the replies, or the end", PATIENCE, || {
                conn.undelivered() >= due || was_cut()
            });
        }
        // it stands still for 1.5 s before it is cut, and the log says so a moment after the file is closed
        let halted = Instant::now() - Duration::from_millis(700);
        over.store(true, Ordering::SeqCst);
        let looks = looks.join().expect("looks");
        let look = looks.iter().rfind(|(when, _)| *when < halted);
        look.expect("a look at it").1
    });
    // between so many commands it may come to its halt, too
    assert!(was_open || !in_digest, "no digest was under way");
    eventually("the file to be closed", PATIENCE, || !is_open());
    server.stop();
}

#[test]
fn many_connections() {
    let server = builder().workers(2).start();
    server.write("dev1/a", "hello");
    let mut all: Vec<Conn> = (0..500).map(|_| dial(&server)).collect();
    for round in 0..3 {
        for (nr, conn) in all.iter_mut().enumerate() {
            conn.send(format!("size /dev1/{round}{nr}\r\nMD5 /dev1/a fsck\r\n"));
        }
        for (nr, conn) in all.iter_mut().enumerate() {
            expect(
                conn,
                format!("/dev1/{round}{nr} -1\r\n/dev1/a MD5={HELLO}\r\n"),
            );
        }
    }
}

/// Trackers keep one connection for days.
#[test]
fn no_idle_timeout() {
    let server = builder().timeout("idle", 0.3).timeout("head", 0.3).start();
    let mut conn = dial(&server);
    let mut half = dial(&server);
    half.send("size /no");
    // each time that a silent client of HTTP is closed, the sweep has been here
    for _ in 0..3 {
        server.conn().expect_eof();
    }
    expect_open(&mut conn);
    ask(&mut half, "ne\r\n", "/none -1\r\n");
}
