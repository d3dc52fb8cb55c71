//! When a connection stays, and that what comes on it is answered in order, however it is cut up.

use std::fmt::Write;

use crate::harness::{Conn, Server, assert_same, pattern};

#[test]
fn the_version_and_the_token_list_decide() {
    let server = Server::start();
    server.write("dev1/file", "x");
    let cases = [
        ("1.1", "", true),
        ("1.0", "", false),
        ("1.1", "Connection: close", false),
        ("1.1", "connection: CLOSE", false),
        ("1.1", "Connection: TE, close", false),
        ("1.1", "Connection: close, TE", false),
        ("1.1", "Connection: TE,close", false),
        ("1.1", "Connection: TE , close ,", false),
        ("1.1", "Connection: ,close", false),
        ("1.1", "Connection: TE\r\nConnection: close", false),
        ("1.1", "Connection: keep-alive", true),
        ("1.1", "Connection: TE", true),
        ("1.1", "Connection:", true),
        ("1.1", "Connection: closed", true),
        ("1.1", "Connection: x-close, not close", true),
        ("1.0", "Connection: keep-alive", true),
        ("1.0", "Connection: Keep-Alive", true),
        ("1.0", "Connection: TE, Keep-Alive", true),
        ("1.0", "Connection: keep-alive, TE", true),
        ("1.0", "Connection: keep-alives", false),
        ("1.0", "Connection: TE", false),
        ("1.0", "Connection: close", false),
        ("1.0", "Connection: keep-alive, close", false),
    ];
    for (version, header, stays) in cases {
        let line = if header.is_empty() {
            String::new()
        } else {
            format!("{header}\r\n")
        };
        for (request, status) in [
            ("GET /dev1/file", 200),
            ("GET /dev1/missing", 404),
            ("DELETE /dev1/missing", 404),
        ] {
            let mut conn = server.conn();
            conn.send(format!("{request} HTTP/{version}\r\nHost: h\r\n{line}\r\n"));
            let response = conn.response();
            assert_eq!(
                (response.status, response.keeps_alive()),
                (status, stays),
                "{request} {version} {header:?}"
            );
            if stays {
                conn.expect_open()
            } else {
                conn.expect_eof()
            }
        }
    }
}

/// The list of section 2: these statuses keep the connection.
#[test]
fn these_statuses_keep_the_connection() {
    let server = Server::builder().http_get("127.0.0.1:0").start();
    server.write("dev1/file", "0123456789");
    let mut conn = server.conn();
    conn.get("/dev1/file").expect(200, true);
    conn.put("/dev1/new", b"x").expect(201, true);
    conn.delete("/dev1/new").expect(204, true);
    conn.get_with("/dev1/file", &[("Range", "bytes=1-2")])
        .expect(206, true);
    conn.get("/dev1").expect(403, true);
    conn.get("/dev1/missing").expect(404, true);
    conn.get_with("/dev1/file", &[("Range", "bytes=10-")])
        .expect(416, true);
    conn.get("/dev1/file/").expect(500, true);
    conn.delete("/dev1/file/").expect(500, true);
    conn.request("MKCOL", "/dev1/x", &[], b"").expect(400, true);
    conn.request(
        "PUT",
        "/dev1/x",
        &[("Content-MD5", "kDPg4wXyR8DDyA0MeEjIsw==")],
        b"x",
    )
    .expect(400, true);
    conn.expect_open();
    let mut reader = Conn::connect(server.get_addr());
    reader.delete("/dev1/file").expect(405, true);
    reader
        .request("MKCOL", "/dev1/x", &[], b"")
        .expect(405, true);
    reader.expect_open();
}

/// `Connection: close` is obeyed whatever the status is.
#[test]
fn close_is_obeyed_after_every_status() {
    let server = Server::start();
    server.write("dev1/file", "0123456789");
    for (method, target, header, status) in [
        ("GET", "/dev1/file", ("X", "y"), 200),
        ("PUT", "/dev1/new", ("X", "y"), 201),
        ("DELETE", "/dev1/new", ("X", "y"), 204),
        ("GET", "/dev1/file", ("Range", "bytes=1-2"), 206),
        ("GET", "/dev1/file", ("Range", "bytes=0-0,2-2"), 206),
        ("GET", "/dev1/file", ("Range", "bytes=10-"), 416),
        ("GET", "/dev1/file", ("If-None-Match", "*"), 304),
        ("GET", "/dev1/file", ("If-Match", "\"x\""), 412),
        ("GET", "/dev1", ("X", "y"), 403),
        ("GET", "/dev1/file/", ("X", "y"), 500),
        ("MKCOL", "/dev1/x", ("X", "y"), 400),
        (
            "PUT",
            "/dev1/x",
            ("Content-MD5", "kDPg4wXyR8DDyA0MeEjIsw=="),
            400,
        ),
    ] {
        let mut conn = server.conn();
        let response = conn.request(method, target, &[header, ("Connection", "close")], b"");
        assert_eq!(response.status, status, "{method} {target} {header:?}");
        response.expect(status, false);
        conn.expect_eof();
    }
}

#[test]
fn nothing_behind_a_close_is_executed() {
    let server = Server::start();
    server.write("dev1/file", "x");
    let mut conn = server.conn();
    conn.send(
        "GET /dev1/file HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nDELETE /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    conn.response().expect(200, false);
    conn.expect_closed();
    assert!(server.path("dev1/file").exists());
}

#[test]
fn a_thousand_pipelined_gets_are_answered_in_order() {
    let server = Server::start();
    for index in 0..10 {
        server.write(&format!("dev1/f{index}"), pattern(index * 100));
    }
    let mut conn = server.conn();
    let requests = (0..1000).fold(String::new(), |mut all, index| {
        write!(all, "GET /dev1/f{} HTTP/1.1\r\nHost: h\r\n\r\n", index % 11).unwrap();
        all
    });
    conn.send(requests);
    for index in 0..1000 {
        let response = conn.response();
        if index % 11 == 10 {
            response.expect(404, true);
        } else {
            response.expect(200, true);
            assert_same(
                &response.body,
                &pattern(index % 11 * 100),
                &format!("reply {index}"),
            );
        }
    }
    conn.expect_open();
}

/// The replies are many times what sockets hold, while requests keep coming.
#[test]
fn a_pipeline_of_large_files_neither_stalls_nor_mixes() {
    let server = Server::start();
    let bytes = pattern(500_000);
    server.write("dev1/big", &bytes);
    server.write("dev1/small", "small");
    let mut conn = Conn::connect_narrow(server.addr(), 64 * 1024);
    let pair =
        "GET /dev1/big HTTP/1.1\r\nHost: h\r\n\r\nGET /dev1/small HTTP/1.1\r\nHost: h\r\n\r\n";
    conn.send(pair.repeat(40));
    for turn in 0..40 {
        assert_same(
            &conn.response().expect(200, true).body,
            &bytes,
            &format!("big file {turn}"),
        );
        assert_eq!(
            conn.response().expect(200, true).body,
            b"small",
            "small file {turn}"
        );
    }
    conn.expect_open();
}

#[test]
fn pipelined_put_get_delete_act_in_order() {
    let server = Server::start();
    let mut conn = server.conn();
    let mut wire = String::new();
    for turn in 0..50 {
        let body = format!("body of turn {turn}");
        write!(
            wire,
            "PUT /dev1/p HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}\
             GET /dev1/p HTTP/1.1\r\nHost: h\r\n\r\n\
             HEAD /dev1/p HTTP/1.1\r\nHost: h\r\n\r\n\
             DELETE /dev1/p HTTP/1.1\r\nHost: h\r\n\r\n\
             GET /dev1/p HTTP/1.1\r\nHost: h\r\n\r\n",
            body.len()
        )
        .unwrap();
    }
    conn.send(wire);
    for turn in 0..50 {
        let body = format!("body of turn {turn}");
        conn.response().expect(201, true);
        assert_eq!(conn.response().expect(200, true).body, body.as_bytes());
        assert_eq!(
            conn.response_to_head().expect(200, true).content_length(),
            body.len() as u64
        );
        conn.response().expect(204, true);
        conn.response().expect(404, true);
    }
    conn.expect_open();
    assert_eq!(server.names(), [""; 0]);
}

/// The last pipelined request ends its sending side; everything asked for still comes.
#[test]
fn requests_before_a_half_close_are_answered() {
    let server = Server::start();
    let bytes = pattern(300_000);
    server.write("dev1/file", &bytes);
    let mut conn = server.conn();
    conn.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3));
    conn.finish_sending();
    for _ in 0..3 {
        assert_same(&conn.response().expect(200, true).body, &bytes, "the file");
    }
    conn.expect_eof();
}

#[test]
fn absolute_uris_name_the_same_files() {
    let server = Server::start();
    server.write("dev1/file", "x");
    let mut conn = server.conn();
    for target in [
        "http://host/dev1/file",
        "http://host:7500/dev1/file",
        "http://127.0.0.1:1/dev1/file",
        "http://[::1]:7500/dev1/file",
        "http://a-b.example/dev1/file?q=1",
        "http://host//dev1//file",
    ] {
        let response = conn.get(target);
        assert_eq!(
            (response.status, response.body.as_slice()),
            (200, &b"x"[..]),
            "{target}"
        );
    }
    conn.put("http://host/dev1/new", b"new").expect(201, true);
    assert_eq!(server.read("dev1/new").unwrap(), b"new");
    conn.delete("http://host/dev1/new").expect(204, true);
    conn.expect_open();
}

#[test]
fn a_head_may_come_a_byte_at_a_time() {
    let server = Server::start();
    server.write("dev1/file", "hello");
    let mut conn = server.conn();
    for _ in 0..2 {
        conn.send_slowly("GET /dev1/file HTTP/1.1\r\nHost: h\r\nRange: bytes=1-3\r\nX:\r\n\r\n");
        assert_eq!(conn.response().expect(206, true).body, b"ell");
    }
    conn.expect_open();
}

#[test]
fn a_head_cut_at_any_byte_is_understood() {
    let server = Server::start();
    server.write("dev1/file", "hello");
    let wire =
        "GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\nHEAD /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut conn = server.conn();
    for cut in 1..wire.len() {
        conn.send(&wire[..cut]);
        conn.settle();
        conn.send(&wire[cut..]);
        assert_eq!(
            conn.response().expect(200, true).body,
            b"hello",
            "cut at {cut}"
        );
        conn.response_to_head().expect(200, true);
    }
    conn.expect_open();
}

#[test]
fn a_head_of_60_kib_is_served() {
    let server = Server::start();
    server.write("dev1/file", "hello");
    let one = format!(
        "GET /dev1/file HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "x".repeat(60 * 1024)
    );
    let twenty = (0..20).fold(
        String::from("GET /dev1/file HTTP/1.1\r\nHost: h\r\n"),
        |mut head, index| {
            write!(head, "X-{index}: {}\r\n", "y".repeat(3000)).unwrap();
            head
        },
    ) + "\r\n";
    let mut conn = server.conn();
    for head in [&one, &twenty, &one] {
        conn.send(head);
        assert_eq!(conn.response().expect(200, true).body, b"hello");
    }
    conn.send([one.as_str(), &twenty, &one].concat());
    for _ in 0..3 {
        assert_eq!(conn.response().expect(200, true).body, b"hello");
    }
    conn.expect_open();
}

#[test]
fn a_head_beyond_64_kib_is_431_and_closes() {
    let server = Server::start();
    let long_value = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: h\r\n{}\r\n",
        "X: y\r\n".repeat(20_000)
    );
    let no_end = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(300_000));
    for head in [long_value, many, no_end] {
        let mut conn = server.conn();
        let _ = conn.try_send(&head);
        conn.response().expect(431, false);
        conn.expect_closed();
    }
    server.conn().expect_open();
}

#[test]
fn a_long_target_is_414_and_closes() {
    let server = Server::start();
    for len in [2000, 8000, 60_000, 70_000, 300_000] {
        for method in ["GET", "PUT", "DELETE"] {
            let mut conn = server.conn();
            let _ = conn.try_send(format!(
                "{method} /dev1/{} HTTP/1.1\r\nHost: h\r\n\r\n",
                "x".repeat(len)
            ));
            let response = conn.response();
            assert_eq!(response.status, 414, "{method} with {len} bytes");
            response.expect(414, false);
            conn.expect_closed();
        }
    }
    server.conn().expect_open();
}

#[test]
fn a_small_body_of_a_get_is_consumed() {
    let server = Server::start();
    server.write("dev1/file", "hello");
    let mut conn = server.conn();
    for (method, target, status) in [
        ("GET", "/dev1/file", 200),
        ("HEAD", "/dev1/file", 200),
        ("GET", "/dev1/missing", 404),
        ("DELETE", "/dev1/missing", 404),
        ("MKCOL", "/dev1/x", 400),
    ] {
        let in_one_packet = conn.request(method, target, &[], b"a small body");
        in_one_packet.expect(status, true);
        conn.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n"
        ));
        conn.settle();
        conn.send("a small body");
        let response = if method == "HEAD" {
            conn.response_to_head()
        } else {
            conn.response()
        };
        response.expect(status, true);
        conn.request(
            method,
            target,
            &[("Transfer-Encoding", "chunked")],
            b"5;x\r\nhello\r\n0\r\nX: y\r\n\r\n",
        );
        conn.expect_open();
    }
}

#[test]
fn a_large_body_of_a_get_closes_after_the_reply() {
    let server = Server::start();
    server.write("dev1/file", "hello");
    for (method, target, status) in [
        ("GET", "/dev1/file", 200),
        ("HEAD", "/dev1/file", 200),
        ("DELETE", "/dev1/missing", 404),
    ] {
        let mut conn = server.conn();
        conn.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 104857600\r\n\r\n"
        ));
        let response = if method == "HEAD" {
            conn.response_to_head()
        } else {
            conn.response()
        };
        response.expect(status, false);
        conn.expect_closed();
    }
}

/// A client may connect and think for a while; a worker's other clients are not held up.
#[test]
fn silent_connections_hold_nobody_up() {
    let server = Server::start();
    server.write("dev1/file", "hello");
    let mut silent: Vec<Conn> = (0..200).map(|_| server.conn()).collect();
    for (index, conn) in silent.iter_mut().enumerate() {
        if index % 2 == 0 {
            conn.send("GET /dev1/fi");
        }
    }
    let mut conn = server.conn();
    for _ in 0..100 {
        conn.get("/dev1/file").expect(200, true);
    }
    for (index, conn) in silent.iter_mut().enumerate() {
        conn.send(if index % 2 == 0 {
            "le HTTP/1.1\r\nHost: h\r\n\r\n"
        } else {
            "GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n"
        });
        assert_eq!(conn.response().expect(200, true).body, b"hello");
    }
}
