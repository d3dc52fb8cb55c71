//! Stopping: the sidechannel's clients are served to the end, or were idle.

use super::{ask, builder, dial, expect, expect_open, sparse};
use crate::harness::{Conn, PATIENCE, Server};

/// Zeros, and their MD5, as `head -c 134217728 /dev/zero | md5sum` says.
const LONG: u64 = 128 << 20;
const MD5: &str = "fde9e0818281836e4fc0edfede2b8762";

/// The master ends by itself, and well.
#[track_caller]
fn expect_end(mut server: Server) {
    let status = server.wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{:#?}", server.log());
}

#[test]
fn shutdown() {
    for spelling in ["shutdown\r\n", "shutdown graceful\n"] {
        let server = builder().workers(2).start();
        let mut idle = dial(&server);
        expect_open(&mut idle);
        let mut conn = dial(&server);
        // no reply of its own
        ask(
            &mut conn,
            format!("size /none\r\n{spelling}size /none\r\n"),
            "/none -1\r\n/none -1\r\n",
        );
        conn.expect_eof();
        idle.expect_eof();
        expect_end(server);
    }
}

#[test]
fn idle_ones_are_closed_at_once() {
    let server = builder().start();
    let mut all: Vec<Conn> = (0..20).map(|_| dial(&server)).collect();
    all.iter_mut().take(10).for_each(expect_open);
    server.signal(libc::SIGQUIT);
    for conn in &mut all {
        conn.expect_eof();
    }
    expect_end(server);
}

/// Half a line is a request that has begun; the rest of it may come late, and more behind it.
#[test]
fn half_a_line_is_served() {
    let server = builder().workers(2).start();
    let mut half: Vec<Conn> = (0..8).map(|_| dial(&server)).collect();
    for conn in &mut half {
        conn.send("size /no");
        conn.settle();
    }
    let mut idle = dial(&server);
    server.signal(libc::SIGQUIT);
    idle.expect_eof();
    for conn in &mut half {
        ask(
            conn,
            "ne\r\nsize /none\r\nbogus\n",
            "/none -1\r\n/none -1\r\nERROR: unknown command: bogus\r\n",
        );
        conn.expect_eof();
    }
    expect_end(server);
}

/// But not for ever.
#[test]
fn half_a_line_that_stays_one_is_dropped() {
    let server = builder().timeout("head", 0.5).start();
    let mut half = dial(&server);
    half.send("size /no");
    half.settle();
    server.signal(libc::SIGQUIT);
    half.expect_closed();
    expect_end(server);
}

/// Digests that run, digests that wait for their turn, and what is pipelined behind them.
#[cfg(target_os = "linux")]
#[test]
fn digests_are_made_to_the_end() {
    for reason in ["", " fsck"] {
        let server = builder().workers(2).start();
        sparse(&server, "dev1/long", LONG);
        let mut all: Vec<Conn> = (0..6).map(|_| dial(&server)).collect();
        for conn in &mut all {
            conn.send(format!("MD5 /dev1/long{reason}\r\nsize /dev1/long\r\n"));
            conn.settle();
        }
        let mut idle = dial(&server);
        server.signal(libc::SIGQUIT);
        idle.expect_eof();
        assert!(
            !all.iter().all(Conn::has_input),
            "the digests were too fast for this test"
        );
        for conn in &mut all {
            expect(
                conn,
                format!("/dev1/long MD5={MD5}\r\n/dev1/long {LONG}\r\n"),
            );
            conn.expect_eof();
        }
        expect_end(server);
    }
}
