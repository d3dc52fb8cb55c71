//! A disk of one MiB that fills up: what `http::disk` does not see, the blocks.

use std::ffi::CString;

use crate::harness::server::{is_root, names_below};
use crate::harness::{PATIENCE, Server, eventually, pattern};

/// Free blocks and inodes of the server's dev1.
fn free(server: &Server) -> (u64, u64) {
    let path = CString::new(server.seen("dev1").to_str().expect("a plain path")).expect("no NUL");
    // SAFETY: a struct of integers; zero is a value of it
    let mut facts: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and room for the answer
    let got = unsafe { libc::statvfs(path.as_ptr(), &mut facts) };
    assert_eq!(got, 0, "statvfs: {}", std::io::Error::last_os_error());
    (facts.f_bfree, facts.f_ffree)
}

#[test]
fn a_refused_upload_gives_back_every_block() {
    if !is_root() {
        eprintln!("skipped: mounting a small disk wants root");
        return;
    }
    let server = Server::builder().tmpfs("dev1", "1m").start();
    server
        .conn()
        .put("/dev1/old", &pattern(300_000))
        .expect(201, true);
    // the temporary directory comes into being with the first replacement, and stays
    server
        .conn()
        .put("/dev1/old", &pattern(300_000))
        .expect(201, true);
    let before = free(&server);
    let big = pattern(2 << 20);
    let chunked = [b"200000\r\n", &big[..], b"\r\n0\r\n\r\n"].concat();
    for (framing, body) in [
        ("Content-Length: 2097152", &big),
        ("Transfer-Encoding: chunked", &chunked),
    ] {
        for target in ["/dev1/old", "/dev1/new"] {
            let mut conn = server.conn();
            conn.send(format!(
                "PUT {target} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
            ));
            let _ = conn.try_send(body);
            conn.response().expect(507, false);
            conn.expect_closed();
            eventually("every block to be free again", PATIENCE, || {
                free(&server) == before
            });
        }
    }
    // a client that dies holding a reservation gives it back too
    let mut dying = server.conn();
    dying.send("PUT /dev1/new HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\nabc");
    eventually("the reservation", PATIENCE, || free(&server).0 < before.0);
    dying.reset();
    eventually("every block to be free again", PATIENCE, || {
        free(&server) == before
    });
    assert_eq!(names_below(&server.seen("dev1")), ["old"]);
    assert_eq!(
        server.conn().get("/dev1/old").expect(200, true).body,
        pattern(300_000)
    );
}

#[test]
fn a_length_beyond_the_disk_is_refused_before_its_body_is_sent() {
    if !is_root() {
        eprintln!("skipped: mounting a small disk wants root");
        return;
    }
    let server = Server::builder().tmpfs("dev1", "1m").start();
    let mut conn = server.conn();
    // nobody asked for 100 Continue, and not a byte of the body is sent
    conn.send("PUT /dev1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2097152\r\n\r\n");
    conn.response().expect(507, false);
    conn.expect_eof();
    server
        .conn()
        .put("/dev2/x", &pattern(2 << 20))
        .expect(201, true);
}
