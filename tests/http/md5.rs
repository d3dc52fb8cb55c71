//! Content-MD5, as a header and as a trailer. Trackers try it with a wrong one and then trust every upload.

use crate::harness::{Server, content_md5, pattern};

const WRONG: &str = "kDPg4wXyR8DDyA0MeEjIsw==";

#[test]
fn a_right_digest_is_201() {
    let server = Server::start();
    let mut conn = server.conn();
    for size in [0, 1, 63, 64, 65, 5000, 300_000] {
        let bytes = pattern(size);
        conn.request(
            "PUT",
            "/dev1/file",
            &[("Content-MD5", &content_md5(&bytes))],
            &bytes,
        )
        .expect(201, true);
        assert_eq!(server.read("dev1/file").unwrap(), bytes);
    }
    conn.request(
        "PUT",
        "/dev1/file",
        &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")],
        b"hello",
    )
    .expect(201, true);
}

#[test]
fn a_wrong_digest_is_400_keeps_the_connection_and_the_old_file() {
    let server = Server::start();
    server.write("dev1/old", "old");
    let mut conn = server.conn();
    for target in ["/dev1/old", "/dev1/new"] {
        for size in [0, 1, 300_000] {
            let response = conn.request("PUT", target, &[("Content-MD5", WRONG)], &pattern(size));
            response.expect(400, true);
            assert_eq!(server.names(), ["dev1/old"]);
            assert_eq!(server.read("dev1/old").unwrap(), b"old");
        }
    }
    conn.expect_open();
}

#[test]
fn a_wrong_digest_of_chunks_is_400_and_keeps_the_connection() {
    let server = Server::start();
    let mut conn = server.conn();
    conn.send(format!(
        "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-MD5: {WRONG}\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"
    ));
    conn.response().expect(400, true);
    conn.response().expect(200, true);
    assert_eq!(server.names(), [""; 0]);
}

#[test]
fn a_malformed_digest_is_400_and_closes() {
    let server = Server::start();
    for value in [
        "",
        "x",
        "kDPg4wXyR8DDyA0MeEjIsw",
        "kDPg4wXyR8DDyA0MeEjIsw=",
        "kDPg4wXyR8DDyA0MeEjIsw===",
        "kDPg4wXyR8DDyA0MeEjIs===",
        "kDPg4wXyR8DDyA0MeEjIs*==",
        "kDPg4wXyR8DDyA0MeEjI-_==",
        "kDPg4wXyR8DDyA0MeEjIsw== x",
        "5d41402abc4b2a76b9719d911017c592",
    ] {
        let mut conn = server.conn();
        let response = conn.request("PUT", "/dev1/x", &[("Content-MD5", value)], b"hello");
        assert_eq!(response.status, 400, "{value:?}");
        response.expect(400, false);
        conn.expect_closed();
        assert_eq!(server.names(), [""; 0], "{value:?}");
    }
}

/// What the request's head says, what the trailers say, and what becomes of it. `None`: the file is made.
#[test]
fn a_trailer_counts_when_it_was_announced() {
    let server = Server::start();
    let right = content_md5(b"hello");
    let announced = "Trailer: Content-MD5\r\n";
    let in_a_list = "Trailer: X-Other, content-md5 , Y\r\n";
    let header_right = &format!("Content-MD5: {right}\r\n");
    let good = &format!("Content-MD5: {right}\r\n");
    let spelled = &format!("X-Other: y\r\ncontent-md5:{right}\r\nY: \r\n");
    let bad = &format!("Content-MD5: {WRONG}\r\n");
    let kept = Some(true);
    let cases: [(&str, &str, Option<bool>); 12] = [
        (announced, good, None),
        (in_a_list, good, None),
        (in_a_list, spelled, None),
        (announced, bad, kept),
        (in_a_list, bad, kept),
        (announced, "", kept),
        (announced, "X-Other: y\r\n", kept),
        ("", good, None),
        ("", bad, None),
        ("Trailer: X-Other\r\n", bad, None),
        (header_right, bad, kept),
        (announced, "Content-MD5: nonsense\r\n", Some(false)),
    ];
    for (head, trailers, refused) in cases {
        let mut conn = server.conn();
        conn.send(format!(
            "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n{head}\r\n\
             5\r\nhello\r\n0\r\n{trailers}\r\n"
        ));
        let response = conn.response();
        let want = if refused.is_none() { 201 } else { 400 };
        assert_eq!(response.status, want, "{head:?} with trailers {trailers:?}");
        response.expect(want, refused.unwrap_or(true));
        assert_eq!(
            server.path("dev1/x").exists(),
            refused.is_none(),
            "{head:?} with trailers {trailers:?}"
        );
        if response.keeps_alive() {
            conn.expect_open();
        } else {
            conn.expect_closed();
        }
        let _ = std::fs::remove_file(server.path("dev1/x"));
    }
    assert_eq!(server.names(), [""; 0]);
}

#[test]
fn a_digest_in_the_trailer_may_come_a_byte_at_a_time() {
    let server = Server::start();
    let mut conn = server.conn();
    for (digest, status) in [(content_md5(b"hello"), 201), (WRONG.to_owned(), 400)] {
        conn.send_slowly(format!(
            "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: Content-MD5\r\n\r\n\
             5\r\nhello\r\n0\r\nContent-MD5: {digest}\r\n\r\n"
        ));
        conn.response().expect(status, true);
    }
    conn.expect_open();
}
