//! Digests take turns: nobody waits for a long one but who has asked for it.

use super::{ask, builder, dial, expect, sparse, sum};
use crate::harness::{Conn, Server};

/// Zeros, and their MD5, as `head -c 134217728 /dev/zero | md5sum` says.
const LONG: u64 = 128 << 20;
const MD5: &str = "fde9e0818281836e4fc0edfede2b8762";

fn digests(server: &Server, count: usize, reason: &str) -> Vec<Conn> {
    for device in ["dev1", "dev2"] {
        sparse(server, &format!("{device}/long"), LONG);
    }
    let begin = |nr| {
        let mut conn = dial(server);
        conn.send(format!("MD5 /dev{}/long{reason}\r\n", 1 + nr % 2));
        conn
    };
    (0..count).map(begin).collect()
}

#[track_caller]
fn expect_all(digests: &mut [Conn]) {
    for (nr, conn) in digests.iter_mut().enumerate() {
        expect(conn, format!("/dev{}/long MD5={MD5}\r\n", 1 + nr % 2));
    }
}

#[test]
fn others_are_served_beside_long_ones() {
    let server = builder().start();
    // ten threads, twelve digests
    let mut busy = digests(&server, 12, "");
    let mut conn = dial(&server);
    let mut http = server.conn();
    let mut beside = 0;
    while !busy.iter().any(Conn::has_input) {
        ask(
            &mut conn,
            "size /dev1/long\r\n",
            format!("/dev1/long {LONG}\r\n"),
        );
        ask(&mut conn, "MD5 /dev1/none\r\n", "/dev1/none MD5=-1\r\n");
        http.expect_open();
        beside += 1;
    }
    eprintln!("{beside} rounds of three requests beside 12 digests of {LONG} bytes");
    assert!(beside >= 5, "{beside} rounds");
    expect_all(&mut busy);
}

#[test]
fn others_are_served_beside_those_of_low_priority() {
    let server = builder().start();
    let mut busy = digests(&server, 4, " fsck");
    let mut conn = dial(&server);
    // the less this takes, the less it takes from those of low priority
    for _ in 0..100 {
        ask(&mut conn, "MD5 /dev1/none\r\n", "/dev1/none MD5=-1\r\n");
    }
    assert!(
        !busy.iter().all(Conn::has_input),
        "the digests were too fast for this test"
    );
    expect_all(&mut busy);
}

/// There is no reply that says "busy": who finds no place in its device in time waits again, and so does who comes when
/// its line is full.
#[test]
fn a_busy_device_is_waited_for() {
    const LEN: u64 = 9 << 20;
    let server = builder().arg("--device-wait=0.01").start();
    sparse(&server, "dev1/some", LEN);
    let md5 = sum("md5sum", &server.path("dev1/some"));
    let mut busy: Vec<Conn> = (0..200).map(|_| dial(&server)).collect();
    for conn in &mut busy {
        conn.send("MD5 /dev1/some\r\n");
    }
    let mut conn = dial(&server);
    let mut beside = 0;
    while !busy.iter().all(Conn::has_input) {
        ask(
            &mut conn,
            "size /dev1/some\r\n",
            format!("/dev1/some {LEN}\r\n"),
        );
        beside += 1;
    }
    assert!(beside >= 3, "{beside} replies");
    for conn in &mut busy {
        expect(conn, format!("/dev1/some MD5={md5}\r\n"));
    }
}
