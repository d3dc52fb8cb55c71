//! Two hundred clients that take or give a byte at a time hold up nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{PROMPT, alone};
use crate::harness::{Conn, Server, assert_same, pattern};

const READERS: usize = 100;
const WRITERS: usize = 100;

/// Rounds of one byte for each: a request's head and body, and the start of a reply.
const ROUNDS: usize = 200;

/// More than the socket buffers take, so that the server has to wait for the reader.
const FILE: usize = 512 * 1024;

struct Writer {
    conn: Conn,
    request: Vec<u8>,
}

fn readers(server: &Server) -> Vec<Conn> {
    let open = |_| {
        let mut conn = Conn::connect_narrow(server.addr(), 2048);
        conn.send("GET /dev1/big HTTP/1.1\r\nHost: t\r\n\r\n");
        conn
    };
    (0..READERS).map(open).collect()
}

fn writers(server: &Server) -> Vec<Writer> {
    let open = |nr: usize| {
        let mut request =
            format!("PUT /dev2/slow-{nr} HTTP/1.1\r\nHost: t\r\nContent-Length: ").into_bytes();
        // the same number of bytes for each, so that all end in the last round
        let body = ROUNDS - request.len() - 7;
        request.extend_from_slice(format!("{body:03}\r\n\r\n").as_bytes());
        request.extend_from_slice(&pattern(body));
        assert_eq!(request.len(), ROUNDS);
        let conn = server.conn();
        Writer { conn, request }
    };
    (0..WRITERS).map(open).collect()
}

/// Fast clients, until the slow ones are through: the slowest reply and how many.
fn fast(server: &Server, small: &[u8], over: &AtomicBool) -> (Duration, usize) {
    let mut kept = server.conn();
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while !over.load(Ordering::SeqCst) || count < 100 {
        let start = Instant::now();
        assert_eq!(kept.get("/dev1/small").expect(200, true).body, small);
        longest = longest.max(start.elapsed());
        let start = Instant::now();
        server
            .conn()
            .put(&format!("/dev2/fast-{}", count % 10), small)
            .expect(201, true);
        longest = longest.max(start.elapsed());
        count += 2;
    }
    (longest, count)
}

#[test]
fn fast_clients_are_served_beside_two_hundred_slow_ones() {
    let _alone = alone();
    let server = Server::builder().workers(2).start();
    let (big, small) = (pattern(FILE), pattern(2000));
    server.write("dev1/big", &big);
    server.write("dev1/small", &small);
    let over = AtomicBool::new(false);
    let (mut readers, mut writers) = (readers(&server), writers(&server));
    let mut read: Vec<Vec<u8>> = vec![Vec::new(); READERS];
    std::thread::scope(|scope| {
        let quick = scope.spawn(|| fast(&server, &small, &over));
        for round in 0..ROUNDS {
            for (conn, bytes) in readers.iter_mut().zip(&mut read) {
                bytes.extend(conn.sip(1));
            }
            for writer in &mut writers {
                writer.conn.send(&writer.request[round..=round]);
            }
        }
        over.store(true, Ordering::SeqCst);
        let (longest, count) = quick.join().expect("the fast client");
        eprintln!("beside 200 slow clients: {count} replies, the slowest after {longest:?}");
        assert!(longest < PROMPT, "{longest:?}");
    });
    for (nr, writer) in writers.iter_mut().enumerate() {
        writer.conn.response().expect(201, true);
        let body = pattern(server.read(&format!("dev2/slow-{nr}")).unwrap().len());
        assert_eq!(server.read(&format!("dev2/slow-{nr}")).unwrap(), body);
    }
    for (conn, head) in readers.iter_mut().zip(read) {
        finish(conn, head, &big);
    }
}

/// The reader has become patient: the rest of its reply, which must join what it has.
fn finish(conn: &mut Conn, mut bytes: Vec<u8>, big: &[u8]) {
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        bytes.extend(conn.sip(1));
    }
    let head = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let rest = conn.read_exactly(big.len() - (bytes.len() - head));
    bytes.extend(rest);
    assert_same(&bytes[head..], big, "a slow reader's file");
    conn.expect_open();
}
