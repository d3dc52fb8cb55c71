//! A disk that is full: 507, nothing left behind, and everything else goes on.

use std::fs;

use crate::harness::server::{is_root, names_below};
use crate::harness::{Server, pattern};

/// A server whose dev1 has one MiB, or `None` where nobody may mount one.
fn server_with_small_disk() -> Option<Server> {
    if !is_root() || !cfg!(target_os = "linux") {
        eprintln!("skipped: mounting a small disk wants root on Linux");
        return None;
    }
    let server = Server::builder().tmpfs("dev1", "1m").start();
    assert_eq!(names_below(&server.seen("dev1")), [""; 0]);
    Some(server)
}

#[test]
fn an_upload_that_does_not_fit_is_507_and_leaves_nothing() {
    let Some(server) = server_with_small_disk() else {
        return;
    };
    let big = pattern(4 << 20);
    let mut kept = server.conn();
    kept.put("/dev1/kept", &pattern(100_000)).expect(201, true);
    let chunked = [b"400000\r\n", &big[..], b"\r\n0\r\n\r\n"].concat();
    let cases: [(&str, &[u8]); 3] = [
        ("Content-Length: 4194304", &big),
        ("Transfer-Encoding: chunked", &chunked),
        (
            "Content-Length: 4194304\r\nContent-MD5: kDPg4wXyR8DDyA0MeEjIsw==",
            &big,
        ),
    ];
    for (framing, body) in cases {
        for target in ["/dev1/new", "/dev1/kept", "/dev1/deep/er/new"] {
            let mut conn = server.conn();
            conn.send(format!(
                "PUT {target} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
            ));
            let _ = conn.try_send(body);
            let response = conn.response();
            assert_eq!(response.status, 507, "{target} with {framing}");
            response.expect(507, false);
            conn.expect_closed();
            assert_eq!(
                names_below(&server.seen("dev1")),
                ["kept"],
                "{target} with {framing}"
            );
        }
    }
    // the space is free again, the old file whole, the connection that did nothing wrong open
    assert_eq!(
        kept.get("/dev1/kept").expect(200, true).body,
        pattern(100_000)
    );
    kept.put("/dev1/fits", &big[..700_000]).expect(201, true);
    kept.put("/dev1/does-not", &big[..700_000])
        .expect(507, false);
    assert_eq!(names_below(&server.seen("dev1")), ["fits", "kept"]);
    assert_eq!(fs::read(server.seen("dev1/fits")).unwrap(), &big[..700_000]);
    server.conn().put("/dev2/elsewhere", &big).expect(201, true);
}

/// The length is known, so the answer is, before a byte of the body has to travel.
#[test]
fn space_is_reserved_when_the_length_is_known() {
    let Some(server) = server_with_small_disk() else {
        return;
    };
    let mut conn = server.conn();
    conn.send("PUT /dev1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 4194304\r\nExpect: 100-continue\r\n\r\n");
    conn.response().expect(507, false);
    conn.expect_closed();
    // two uploads that fit alone but not together: the second is told so at its start
    let mut first = server.conn();
    first.send(
        "PUT /dev1/a HTTP/1.1\r\nHost: h\r\nContent-Length: 700000\r\nExpect: 100-continue\r\n\r\n",
    );
    first.expect_continue();
    let mut second = server.conn();
    second.send(
        "PUT /dev1/b HTTP/1.1\r\nHost: h\r\nContent-Length: 700000\r\nExpect: 100-continue\r\n\r\n",
    );
    second.response().expect(507, false);
    first.send(pattern(700_000));
    first.response().expect(201, true);
    assert_eq!(names_below(&server.seen("dev1")), ["a"]);
}

#[test]
fn a_piece_that_does_not_fit_is_507() {
    let Some(server) = server_with_small_disk() else {
        return;
    };
    let mut conn = server.conn();
    conn.send("PUT /dev1/x HTTP/1.1\r\nHost: h\r\nContent-Range: bytes 0-4194303/*\r\nContent-Length: 4194304\r\n\r\n");
    let _ = conn.try_send(pattern(4 << 20));
    conn.response().expect(507, false);
    conn.expect_closed();
    server.conn().expect_open();
}

#[test]
fn downloads_and_deletes_go_on_while_the_disk_is_full() {
    let Some(server) = server_with_small_disk() else {
        return;
    };
    let mut conn = server.conn();
    let bytes = pattern(900_000);
    conn.put("/dev1/full", &bytes).expect(201, true);
    server.conn().put("/dev1/more", &bytes).expect(507, false);
    assert_eq!(conn.get("/dev1/full").expect(200, true).body, bytes);
    conn.delete("/dev1/full").expect(204, true);
    conn.put("/dev1/more", &bytes).expect(201, true);
}

/// The kernel's answer to a file that grows beyond the process's limit is a signal, unless it is ignored.
#[test]
fn a_file_beyond_the_process_s_limit_is_507_and_kills_nobody() {
    let server = Server::builder()
        .rlimit(libc::RLIMIT_FSIZE, 1 << 20, 1 << 20)
        .start();
    let worker = server.worker_pids();
    let big = pattern(4 << 20);
    let chunked = [b"400000\r\n", &big[..], b"\r\n0\r\n\r\n"].concat();
    for (framing, body) in [
        ("Content-Length: 4194304", &big),
        ("Transfer-Encoding: chunked", &chunked),
    ] {
        let mut conn = server.conn();
        conn.send(format!(
            "PUT /dev1/x HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
        ));
        let _ = conn.try_send(body);
        conn.response().expect(507, false);
        conn.expect_closed();
        assert_eq!(server.names(), [""; 0], "{framing}");
    }
    server
        .conn()
        .put("/dev1/fits", &big[..1 << 20])
        .expect(201, true);
    assert_eq!(server.worker_pids(), worker);
    assert!(server.is_ours(worker[0]));
}
