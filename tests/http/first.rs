//! The first turn of a connection is the acceptor's: what it cannot answer from memory it leaves to a consumer, and
//! no client sees the difference. Nor does one of a server that keeps nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::fresh::wait_until_old;
use crate::harness::server::own_docroot;
use crate::harness::{Conn, PATIENCE, Server, eventually, pattern, show};
use crate::process::facts;

const GET: &str = "GET /dev1/file HTTP/1.1\r\nHost: t\r\n";

/// All that comes for these bytes and an end, from the first connection's first turn on.
#[track_caller]
fn all_of(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).expect("send");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut all = Vec::new();
    stream
        .read_to_end(&mut all)
        .unwrap_or_else(|e| panic!("{e} after {} for {}", show(&all), show(bytes)));
    without_dates(&all)
}

/// Another second is no other reply.
fn without_dates(all: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"\r\nDate: ";
    let mut rest = all;
    let mut out = Vec::new();
    while let Some(at) = rest.windows(NAME.len()).position(|bytes| bytes == NAME) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + NAME.len() + "Sun, 06 Nov 1994 08:49:37 GMT".len()..];
    }
    [&out, rest].concat()
}

/// So that the next one who asks is answered from memory.
fn warm(server: &Server, target: &str) {
    for _ in 0..3 {
        server.conn().get(target).expect(200, true);
    }
}

#[test]
fn the_first_request_is_answered_as_one_of_a_server_that_keeps_nothing() {
    let root = own_docroot();
    let file = |name: &str, bytes: &[u8]| {
        let path = root.path().join("dev1").join(name);
        std::fs::write(&path, bytes).expect("write");
        path
    };
    file("longest", &pattern(64 * 1024));
    file("longer", &pattern(64 * 1024 + 1));
    file("empty", b"");
    let last = file("file", b"content");
    let builder = || Server::builder().docroot(root.path());
    let (plain, keeps) = (builder().arg("--cache=0").start(), builder().start());
    wait_until_old(&last);

    let mut messages: Vec<String> = [
        "",
        "Connection: close\r\n",
        "Range: bytes=1-2\r\n",
        "Range: bytes=9-\r\n",
        "If-Range: \"x\"\r\n",
        "If-None-Match: *\r\n",
        "If-Match: \"x\"\r\n",
        "If-Modified-Since: Fri, 01 Jan 2038 00:00:00 GMT\r\n",
        "If-Unmodified-Since: Tue, 01 Jan 1980 00:00:00 GMT\r\n",
        "Expect: 100-continue\r\n",
        "Host: again\r\n",
        "Content-Length: 0\r\n",
    ]
    .iter()
    .map(|line| format!("{GET}{line}\r\n{GET}\r\n"))
    .collect();
    messages.extend(
        [
            "GET /dev1/longest HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /dev1/longer HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /dev1/empty HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /dev1/none HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /dev1//%66ile HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /dev1/file?query HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /dev1/file/ HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /dev1/../dev1/file HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /dev1/file HTTP/1.0\r\n\r\n",
            "GET /dev1/file HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "GET /dev1/file HTTP/1.1\r\n\r\n",
            "HEAD /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n",
            "POST /dev1/file HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n",
            "MKCOL /dev1/x HTTP/1.1\r\nHost: t\r\n\r\n",
            "DELETE /dev1/none HTTP/1.1\r\nHost: t\r\n\r\n",
            "no request at all\r\n\r\n",
            "\r\n",
        ]
        .map(String::from),
    );
    messages.extend([
        format!("{GET}Content-Length: 3\r\n\r\nabc{GET}\r\n"),
        format!("{GET}Content-Length: 3\r\n\r\nab"),
        format!("{GET}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n{GET}\r\n"),
        format!("{GET}Transfer-Encoding: chunked\r\n\r\nx\r\n"),
        format!("{GET}\r\nno request at all\r\n\r\n"),
        format!("{GET}\r\n{GET}"),
        format!("{GET}\r\n").repeat(200),
        format!("{GET}X: {}\r\n\r\n", "a".repeat(60_000)),
        format!("GET /dev1/{} HTTP/1.1\r\nHost: t\r\n\r\n", "a".repeat(1100)),
    ]);
    for message in messages {
        for name in ["file", "longest"] {
            warm(&keeps, &format!("/dev1/{name}"));
        }
        let [want, got] = [&plain, &keeps].map(|server| all_of(server.addr(), message.as_bytes()));
        assert_eq!(show(&got), show(&want), "{}", show(message.as_bytes()));
        assert!(got == want, "{}", show(message.as_bytes()));
    }
    keeps.stop();
    plain.stop();
}

#[test]
fn an_upload_may_come_first_in_any_pieces() {
    let server = Server::builder().workers(2).start();
    let body = pattern(200_000);
    let head = format!(
        "PUT /dev1/new HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let message = [head.as_bytes(), &body].concat();
    for cut in [
        1,
        head.len() - 1,
        head.len(),
        head.len() + 1,
        head.len() + 70_000,
        message.len(),
    ] {
        let mut conn = server.conn();
        conn.send(&message[..cut]);
        is_accepted(&server, &conn);
        conn.send(&message[cut..]);
        assert!([201, 204].contains(&conn.response().status), "{cut}");
        assert!(server.read("dev1/new").as_deref() == Some(&body), "{cut}");
        conn.expect_open();
    }
    let mut conn = server.conn();
    conn.send(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
    conn.expect_continue();
    conn.send(&body);
    conn.response().expect(201, true);
}

/// Its acceptor has it, and with it what had come.
#[track_caller]
fn is_accepted(server: &Server, conn: &Conn) {
    eventually("the accept", PATIENCE, || {
        facts::owner(server.pid(), conn).is_some()
    });
}

#[test]
fn a_head_may_come_in_halves() {
    let server = Server::start();
    let path = server.write("dev1/file", "content");
    wait_until_old(&path);
    warm(&server, "/dev1/file");
    let message = format!("{GET}\r\n");
    for cut in [1, 20, message.len() - 1] {
        let mut conn = server.conn();
        conn.send(&message[..cut]);
        is_accepted(&server, &conn);
        conn.send(&message[cut..]);
        assert_eq!(conn.response().expect(200, true).body, b"content", "{cut}");
        conn.expect_open();
    }
}

#[test]
fn half_a_head_first_is_timed_out() {
    let server = Server::builder().timeout("head", 0.5).start();
    let mut conn = server.conn();
    conn.send("GET /dev1/file HT");
    conn.response().expect(408, false);
    conn.expect_closed();
}

#[test]
fn other_listeners_have_their_own_rules() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("http.sock");
    let server = Server::builder()
        .http_get("127.0.0.1:0")
        .http(&format!("unix:{}", socket.display()))
        .mgmt("127.0.0.1:0")
        .start();
    let path = server.write("dev1/file", "content");
    wait_until_old(&path);
    warm(&server, "/dev1/file");
    for _ in 0..3 {
        let mut conn = Conn::connect(server.get_addr());
        assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"content");
        Conn::connect(server.get_addr())
            .delete("/dev1/file")
            .expect(405, true);
        Conn::connect(server.get_addr())
            .put("/dev1/file", b"x")
            .expect(405, false);
        let mut conn = Conn::unix(&socket);
        assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"content");
        conn.delete("/dev1/none").expect(404, true);
        let mut conn = Conn::connect(server.mgmt_addr());
        conn.send("size /dev1/file\r\n");
        assert_eq!(show(&conn.read_until(b"\r\n")), show(b"/dev1/file 7\r\n"));
    }
}

/// What the workers say that they have answered.
fn requests(pidfile: &Path) -> u64 {
    let said = Command::new(env!("CARGO_BIN_EXE_rmogstored"))
        .arg("--status")
        .arg("--json")
        .arg(format!("--pidfile={}", pidfile.display()))
        .output()
        .expect("--status");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let counts = text.split("\"requests\":").skip(1).map(|rest| {
        let digits: String = rest
            .trim()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse::<u64>().expect("a number")
    });
    counts.sum()
}

#[test]
fn each_request_is_counted_once_whoever_has_answered_it() {
    let folder = tempfile::tempdir().unwrap();
    let pidfile = folder.path().join("pid");
    let server = Server::builder()
        .workers(2)
        .arg(&format!("--pidfile={}", pidfile.display()))
        .start();
    let path = server.write("dev1/file", "content");
    wait_until_old(&path);
    for _ in 0..40 {
        let mut conn = server.conn();
        conn.get("/dev1/file").expect(200, true);
        conn.get("/dev1/none").expect(404, true);
        conn.send(format!("{GET}\r\n").repeat(3));
        for _ in 0..3 {
            conn.response().expect(200, true);
        }
    }
    eventually("the count of 200 requests", PATIENCE, || {
        requests(&pidfile) >= 200
    });
    assert_eq!(requests(&pidfile), 200);
}
