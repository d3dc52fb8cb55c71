//! Timeouts: each ends what stands still, none ends what moves. The waits in here are the clients' own pace.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::{Conn, PATIENCE, Server, assert_same, pattern};

/// One timeout under test; the others keep their generous defaults.
const SHORT: f64 = 1.0;

/// A timeout may be late by the sweep's turn, never early.
#[track_caller]
fn check_not_early(start: Instant) {
    let after = start.elapsed().as_secs_f64();
    assert!(
        after >= SHORT * 0.9,
        "cut after {after} s, with a timeout of {SHORT} s"
    );
}

#[test]
fn an_idle_connection_is_closed_cleanly() {
    let server = Server::builder().timeout("idle", SHORT).start();
    let start = Instant::now();
    let mut fresh = server.conn();
    let mut used = server.conn();
    used.expect_open();
    fresh.expect_eof();
    check_not_early(start);
    used.expect_eof();
    server.conn().expect_open();
}

#[test]
fn a_connection_in_use_is_not_idle() {
    let server = Server::builder().timeout("idle", SHORT).start();
    let mut conn = server.conn();
    for _ in 0..10 {
        conn.expect_open();
        sleep(Duration::from_secs_f64(SHORT * 0.3));
    }
    conn.expect_open();
}

#[test]
fn a_head_that_stops_is_cut() {
    let server = Server::builder().timeout("head", SHORT).start();
    let mut conn = server.conn();
    let start = Instant::now();
    conn.send("GET /dev1/file HTTP/1.1\r\nHos");
    check_cut_head(&mut conn);
    check_not_early(start);
    // also behind a request that was answered
    let mut conn = server.conn();
    conn.send("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HT");
    conn.response().expect(200, true);
    check_cut_head(&mut conn);
}

/// Either nothing at all or a 408 may be the last word.
#[track_caller]
fn check_cut_head(conn: &mut Conn) {
    let rest = conn.drain().expect("a clean end");
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 "),
        "{}",
        rest.escape_ascii()
    );
}

/// A byte now and then must not hold a connection for ever.
#[test]
fn a_head_that_trickles_without_end_is_cut() {
    let server = Server::builder().timeout("head", SHORT).start();
    let mut conn = server.conn();
    conn.send("GET / HTTP/1.1\r\nHost: h\r\nX: ");
    let start = Instant::now();
    while conn.try_send("x").is_ok() {
        assert!(
            start.elapsed() < PATIENCE,
            "still served after {PATIENCE:?}"
        );
        sleep(Duration::from_secs_f64(SHORT * 0.2));
    }
    check_not_early(start);
}

#[test]
fn a_body_that_stops_is_cut_and_leaves_nothing() {
    let server = Server::builder().timeout("body", SHORT).start();
    for framing in [
        "Content-Length: 1000\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3e8\r\n",
    ] {
        let mut conn = server.conn();
        conn.send(format!("PUT /dev1/file HTTP/1.1\r\nHost: h\r\n{framing}"));
        conn.send(pattern(500));
        let start = Instant::now();
        let skip = server.log().len();
        let peer = conn.local_addr();
        let rest = conn.drain().unwrap_or_default();
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 "),
            "{}",
            rest.escape_ascii()
        );
        check_not_early(start);
        server.wait_log_after(
            skip,
            &format!("PUT /dev1/file failed from {peer} after 500 bytes"),
            PATIENCE,
        );
        assert_eq!(server.names(), [""; 0]);
    }
}

#[test]
fn a_reader_that_stops_is_cut() {
    let server = Server::builder().timeout("send", SHORT).start();
    let file = std::fs::File::create(server.path("dev1/file")).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut conn = Conn::connect_narrow(server.addr(), 16 * 1024);
    let start = Instant::now();
    conn.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(conn.head_of_response().content_length(), 64 << 20);
    conn.wait_abandoned();
    check_not_early(start);
    let got = conn.count_to_end();
    assert!(got < 64 << 20, "the whole file came");
    server.conn().expect_open();
}

#[test]
fn an_upload_that_makes_progress_is_never_cut() {
    let server = Server::builder()
        .timeout("body", SHORT)
        .timeout("idle", SHORT)
        .timeout("head", SHORT)
        .timeout("send", SHORT)
        .start();
    let bytes = pattern(12);
    let mut whole = server.conn();
    let mut chunked = server.conn();
    whole.send("PUT /dev1/whole HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n");
    chunked.send("PUT /dev1/chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for byte in &bytes {
        sleep(Duration::from_secs_f64(SHORT * 0.3));
        whole.send([*byte]);
        chunked.send([b"1\r\n", &[*byte][..], b"\r\n"].concat());
    }
    chunked.send("0\r\n\r\n");
    whole.response().expect(201, true);
    chunked.response().expect(201, true);
    assert_eq!(server.read("dev1/whole").unwrap(), bytes);
    assert_eq!(server.read("dev1/chunked").unwrap(), bytes);
}

#[test]
fn a_download_that_makes_progress_is_never_cut() {
    let server = Server::builder()
        .timeout("send", SHORT)
        .timeout("idle", SHORT)
        .timeout("head", SHORT)
        .timeout("body", SHORT)
        .start();
    let bytes = pattern(16 << 20);
    server.write("dev1/file", &bytes);
    let mut conn = Conn::connect_narrow(server.addr(), 64 * 1024);
    conn.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n");
    conn.head_of_response().expect(200, true);
    let mut body = Vec::new();
    let start = Instant::now();
    // each pause is shorter than the timeout, all of them together are longer; each step is more than both
    // ends' buffers hold, so that the server sees the progress
    while start.elapsed().as_secs_f64() < SHORT * 4.0 {
        body.extend(conn.read_exactly(1 << 20));
        sleep(Duration::from_secs_f64(SHORT * 0.3));
    }
    let left = bytes.len() - body.len();
    assert!(left > 0, "the pauses were in the middle of the transfer");
    body.extend(conn.read_exactly(left));
    assert_same(&body, &bytes, "the slowly read file");
}
