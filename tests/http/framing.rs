//! Every framing attack of PROTOCOL.md 0.4: refused with 400, the connection closed, nothing of it executed.
//! Behind each attack comes a DELETE as if it were the next request. It must never be one.

use crate::harness::{Server, show};

const SMUGGLED: &[u8] = b"DELETE /dev1/victim HTTP/1.1\r\nHost: h\r\n\r\n";

/// A server with the file that a smuggled request would delete.
fn server_with_victim() -> Server {
    let server = Server::start();
    server.write("dev1/victim", "alive");
    server
}

/// Sends an attack and the smuggled request, whole or byte by byte, and checks what comes of it.
#[track_caller]
fn check_refused(server: &Server, attack: &[u8], status: u16) {
    for slowly in [false, true] {
        let mut conn = server.conn();
        let bytes = [attack, SMUGGLED].concat();
        if slowly {
            // the server may close before the last byte
            let _ = bytes.iter().try_for_each(|byte| conn.try_send([*byte]));
        } else {
            conn.send(&bytes);
        }
        let response = conn.response();
        assert_eq!(response.status, status, "for {}", show(attack));
        assert!(!response.keeps_alive(), "keep-alive after {}", show(attack));
        conn.expect_closed();
        assert_eq!(
            server.names(),
            ["dev1/victim"],
            "executed: {}",
            show(attack)
        );
    }
}

#[test]
fn a_bad_request_line_is_400_and_closes() {
    let server = server_with_victim();
    for line in [
        "POST /dev1/x HTTP/1.1",
        "OPTIONS /dev1/x HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT h:80 HTTP/1.1",
        "TRACE / HTTP/1.1",
        "PATCH /dev1/x HTTP/1.1",
        "get /dev1/victim HTTP/1.1",
        "Get /dev1/victim HTTP/1.1",
        "GETX /dev1/victim HTTP/1.1",
        "GET /dev1/victim HTTP/1.2",
        "GET /dev1/victim HTTP/2.0",
        "GET /dev1/victim HTTP/1.10",
        "GET /dev1/victim HTTP/1",
        "GET /dev1/victim HTTP/1.",
        "GET /dev1/victim http/1.1",
        "GET /dev1/victim HTTPS/1.1",
        "GET /dev1/victim HTTP/1.1 ",
        "GET /dev1/victim HTTP/1.1 x",
        "GET /dev1/victim",
        "GET  /dev1/victim HTTP/1.1",
        "GET /dev1/victim  HTTP/1.1",
        "GET\t/dev1/victim HTTP/1.1",
        "GET /dev1/victim\tHTTP/1.1",
        " GET /dev1/victim HTTP/1.1",
        "GET dev1/victim HTTP/1.1",
        "GET HTTP/1.1",
        "GET * HTTP/1.1",
        "GET https://h/dev1/victim HTTP/1.1",
        "GET ftp://h/dev1/victim HTTP/1.1",
        "GET http://h HTTP/1.1",
        "GET http:///dev1/victim HTTP/1.1",
        "GET http:/dev1/victim HTTP/1.1",
        "GET /dev1/vic\x01tim HTTP/1.1",
        "GET /dev1/vic\x7ftim HTTP/1.1",
        "GET /dev1/vic\0tim HTTP/1.1",
        "GET /dev1/victim\rx HTTP/1.1",
        "\0GET /dev1/victim HTTP/1.1",
        "G\0ET /dev1/victim HTTP/1.1",
        "garbage",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03",
    ] {
        check_refused(
            &server,
            format!("{line}\r\nHost: h\r\n\r\n").as_bytes(),
            400,
        );
    }
}

#[test]
fn a_bad_header_is_400_and_closes() {
    let server = server_with_victim();
    for header in [
        "no colon",
        ": no name",
        "Name : value",
        "Name\t: value",
        "Na me: value",
        "Na\tme: value",
        " Name: value",
        "\tName: value",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\r\n ",
        "Na\0me: value",
        "Na(me: value",
        "Na\"me: value",
        "Na/me: value",
        "Na\u{e4}me: value",
        "X: a\0b",
        "X: a\x01b",
        "X: a\x1bb",
        "X: a\x7fb",
        "X: a\rb",
        "X: a\r\r",
        "X: a\nY: b",
        "X: a\n",
        "\rX: a",
        "\r",
    ] {
        check_refused(
            &server,
            format!("GET /dev1/victim HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n").as_bytes(),
            400,
        );
    }
}

#[test]
fn a_bare_line_feed_is_400_and_closes() {
    let server = server_with_victim();
    for head in [
        "GET /dev1/victim HTTP/1.1\nHost: h\r\n\r\n",
        "GET /dev1/victim HTTP/1.1\r\nHost: h\n\r\n",
        "GET /dev1/victim HTTP/1.1\r\nHost: h\r\n\n",
        "GET /dev1/victim HTTP/1.1\nHost: h\n\n",
        "GET /dev1/victim HTTP/1.0\n\n",
        "GET /dev1/victim HTTP/1.0\r\n\n",
    ] {
        check_refused(&server, head.as_bytes(), 400);
    }
}

#[test]
fn a_missing_or_doubled_host_is_400_and_closes() {
    let server = server_with_victim();
    for head in [
        "GET /dev1/victim HTTP/1.1\r\n\r\n",
        "GET /dev1/victim HTTP/1.1\r\nX: y\r\n\r\n",
        "GET http://h/dev1/victim HTTP/1.1\r\n\r\n",
        "PUT /dev1/x HTTP/1.1\r\nContent-Length: 2\r\n\r\nab",
        "GET /dev1/victim HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /dev1/victim HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
    ] {
        check_refused(&server, head.as_bytes(), 400);
    }
}

/// On every method: what frames the body decides where the next request begins.
#[test]
fn ambiguous_framing_is_400_and_closes() {
    let server = server_with_victim();
    let chunked_body = "5\r\nhello\r\n0\r\n\r\n";
    let cases = [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        (
            "Content-Length: 5\r\nX: y\r\ncontent-length: 0\r\n",
            "hello",
        ),
        ("Content-Length: 0\r\nContent-Length: 44\r\n", ""),
        ("Content-Length: 5, 5\r\n", "hello"),
        ("Content-Length: 5,6\r\n", "hello"),
        ("Content-Length: +5\r\n", "hello"),
        ("Content-Length: -5\r\n", "hello"),
        ("Content-Length: -0\r\n", ""),
        ("Content-Length: 5x\r\n", "hello"),
        ("Content-Length: 0x5\r\n", "hello"),
        ("Content-Length: 5.0\r\n", "hello"),
        ("Content-Length: 5 5\r\n", "hello"),
        ("Content-Length: 1_0\r\n", "hello"),
        ("Content-Length: \"5\"\r\n", "hello"),
        ("Content-Length: x\r\n", ""),
        ("Content-Length:\r\n", ""),
        ("Content-Length : 5\r\n", "hello"),
        (
            "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
            chunked_body,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
            chunked_body,
        ),
        (
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            chunked_body,
        ),
        ("Transfer-Encoding: gzip\r\n", ""),
        ("Transfer-Encoding: identity\r\n", ""),
        ("Transfer-Encoding: gzip, chunked\r\n", chunked_body),
        ("Transfer-Encoding: chunked, gzip\r\n", chunked_body),
        ("Transfer-Encoding: chunked, chunked\r\n", chunked_body),
        ("Transfer-Encoding: chunked, identity\r\n", chunked_body),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            chunked_body,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            chunked_body,
        ),
        (
            "Transfer-Encoding: gzip\r\ntransfer-encoding: chunked\r\n",
            chunked_body,
        ),
        ("Transfer-Encoding: xchunked\r\n", chunked_body),
        ("Transfer-Encoding: chunkedx\r\n", chunked_body),
        ("Transfer-Encoding: chunked;q=1\r\n", chunked_body),
        ("Transfer-Encoding: \"chunked\"\r\n", chunked_body),
        ("Transfer-Encoding: chun ked\r\n", chunked_body),
        ("Transfer-Encoding: \x0bchunked\r\n", chunked_body),
        ("Transfer-Encoding : chunked\r\n", chunked_body),
        ("Transfer-Encoding:\r\n chunked\r\n", chunked_body),
        ("Transfer-Encoding\r\n: chunked\r\n", chunked_body),
    ];
    for method in ["PUT", "GET", "DELETE"] {
        let target = if method == "PUT" {
            "/dev1/x"
        } else {
            "/dev1/victim"
        };
        for (headers, body) in cases {
            check_refused(
                &server,
                format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}").as_bytes(),
                400,
            );
        }
    }
}

#[test]
fn a_bad_chunk_is_400_closes_and_makes_no_file() {
    let server = server_with_victim();
    for body in [
        "5x\r\nhello\r\n0\r\n\r\n",
        "x\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";ext\r\nhello\r\n0\r\n\r\n",
        "\u{ff15}\r\nhello\r\n0\r\n\r\n",
        // bare line ends, in every place of one
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        // more or less data than the size says
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        // trailers are headers
        "0\r\nno colon\r\n\r\n",
        "0\r\nName : value\r\n\r\n",
        "0\r\n: value\r\n\r\n",
        "0\r\nX: a\r\n b\r\n\r\n",
        "0\r\nX: a\nY: b\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
        "0\r\n X: a\r\n\r\n",
    ] {
        let head = "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        check_refused(&server, format!("{head}{body}").as_bytes(), 400);
    }
}

/// Trailers have a bound as the head has one.
#[test]
fn endless_trailers_are_refused() {
    let server = server_with_victim();
    let mut conn = server.conn();
    conn.send(
        "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    );
    let line = format!("X-Trailer: {}\r\n", "x".repeat(1000));
    // the server may close long before the last of these ten megabytes
    let _ = (0..10_000).try_for_each(|_| conn.try_send(&line));
    let response = conn.response();
    assert!(matches!(response.status, 400 | 431), "{}", response.status);
    assert!(!response.keeps_alive());
    conn.expect_closed();
    assert_eq!(server.names(), ["dev1/victim"]);
    server.conn().expect_open();
}

/// A body that belongs to a request without one is skipped or ends the connection; it is never a request.
#[test]
fn a_body_that_looks_like_a_request_is_none() {
    let server = server_with_victim();
    let smuggled = String::from_utf8(SMUGGLED.to_vec()).unwrap();
    let length = format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    let chunks = format!(
        "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
        smuggled.len()
    );
    for (request, status) in [
        ("GET /dev1/victim", 200),
        ("HEAD /dev1/victim", 200),
        ("GET /dev1/missing", 404),
        ("DELETE /dev1/missing", 404),
        ("MKCOL /dev1/x", 400),
        ("GET /", 200),
    ] {
        for framing in [&length, &chunks] {
            let mut conn = server.conn();
            conn.send(format!("{request} HTTP/1.1\r\nHost: h\r\n{framing}"));
            let response = if request.starts_with("HEAD") {
                conn.response_to_head()
            } else {
                conn.response()
            };
            assert_eq!(response.status, status, "{request} with {framing:?}");
            if response.keeps_alive() {
                conn.expect_open();
            } else {
                conn.expect_closed();
            }
            assert!(
                server.path("dev1/victim").exists(),
                "{request} with {framing:?}"
            );
        }
    }
}

/// After a good request, too: the good one is answered, the bad one refused, the third is not looked at.
#[test]
fn a_bad_request_behind_a_good_one_stops_the_line() {
    let server = server_with_victim();
    let mut conn = server.conn();
    let good = "GET /dev1/victim HTTP/1.1\r\nHost: h\r\n\r\n";
    conn.send(
        [
            good.as_bytes(),
            good.as_bytes(),
            b"BAD\r\n\r\n",
            SMUGGLED,
            good.as_bytes(),
        ]
        .concat(),
    );
    conn.response().expect(200, true);
    conn.response().expect(200, true);
    conn.response().expect(400, false);
    conn.expect_closed();
    assert!(server.path("dev1/victim").exists());
}

/// A refused upload's body must not become requests either.
#[test]
fn the_body_of_a_refused_upload_is_no_request() {
    let server = server_with_victim();
    for target in ["/foo", "/dev777/x", "/dev1/../x", "/dev1/victim/x"] {
        let mut conn = server.conn();
        conn.send(format!(
            "PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            SMUGGLED.len()
        ));
        let _ = conn.try_send(SMUGGLED);
        let _ = conn.try_send(SMUGGLED);
        assert!(!conn.response().keeps_alive(), "PUT {target}");
        conn.expect_closed();
        assert_eq!(server.names(), ["dev1/victim"], "PUT {target}");
    }
}

/// Unusual, but legal: none of it may be refused.
#[test]
fn what_only_looks_odd_is_served() {
    let server = server_with_victim();
    let mut conn = server.conn();
    let all_token_bytes = "!#$%&'*+-.^_`|~09azAZ: y";
    for header in [
        "X:",
        "X: ",
        "X:\t",
        "X:y",
        "X: \t y \t ",
        "a: b",
        "with_underscore: y",
        all_token_bytes,
        "X: \u{e4}\u{f6}",
        "X: a:b:c",
        "X: \"quoted\"",
        "X: a b  c",
        "Content-Length: 0",
        "content-length:0",
        "Content-Length: 000",
        "Content-Length:   0  ",
        "Transfer-EncodinG2: gzip",
        "Trailer:",
        "Upgrade: h2c",
    ] {
        conn.send(format!(
            "GET /dev1/victim HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n"
        ));
        let response = conn.response();
        assert_eq!(response.status, 200, "{header:?}");
        response.expect(200, true);
    }
    for host in ["Host: h", "Host:", "host: [::1]:7500", "HOST:h:1"] {
        conn.send(format!("GET /dev1/victim HTTP/1.1\r\n{host}\r\n\r\n"));
        assert_eq!(conn.response().status, 200, "{host:?}");
    }
    let mut conn = server.conn();
    conn.send("GET /dev1/victim HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    conn.response().expect(200, true);
    conn.expect_open();
}
