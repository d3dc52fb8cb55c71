//! What the operator reads: one line at most for one client's error, with the peer, the path and the reason.

use crate::harness::{PATIENCE, Server, pattern};

/// Provokes a line that is certain, so that every line before it has been written.
#[track_caller]
fn fence(server: &Server, skip: usize) -> Vec<String> {
    let mut conn = server.conn();
    conn.send("PUT /dev1/fence HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    conn.settle();
    drop(conn);
    server.wait_log_after(skip, "PUT /dev1/fence failed from", PATIENCE);
    let lines = server.log().split_off(skip);
    lines
        .into_iter()
        .take_while(|line| !line.contains("/dev1/fence"))
        .collect()
}

#[test]
fn every_line_has_the_pid_and_a_level() {
    let server = Server::builder().workers(2).start();
    let pids: Vec<String> = server
        .worker_pids()
        .into_iter()
        .chain([server.pid()])
        .map(|p| p.to_string())
        .collect();
    server.conn().send("BAD\r\n\r\n");
    fence(&server, 0);
    let log = server.stop();
    assert!(log.len() >= 4, "{log:?}");
    for line in log {
        let rest = line
            .strip_prefix("rmogstored[")
            .unwrap_or_else(|| panic!("{line}"));
        let (pid, rest) = rest.split_once("] ").unwrap_or_else(|| panic!("{line}"));
        assert!(pids.iter().any(|known| known == pid), "{line}");
        let (level, text) = rest.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        assert!(
            ["error", "warn", "info", "debug"].contains(&level) && !text.is_empty(),
            "{line}"
        );
    }
}

#[test]
fn good_requests_are_not_logged() {
    let server = Server::start();
    let mut conn = server.conn();
    let skip = server.log().len();
    for turn in 0..50 {
        conn.put(&format!("/dev1/f{turn}"), b"x").expect(201, true);
        conn.get(&format!("/dev1/f{turn}")).expect(200, true);
        conn.delete(&format!("/dev1/f{turn}")).expect(204, true);
    }
    drop(conn);
    assert_eq!(fence(&server, skip), [""; 0]);
}

/// Every sort of client's error is one line at most, and the line names the client.
#[test]
fn a_bad_request_is_one_line_at_most_and_names_the_peer() {
    for wire in [
        "BAD\r\n\r\n",
        "GET /dev1/file HTTP/1.1\r\n\r\n",
        "GET /dev1/\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /dev1/file HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        "GET /dev1/../x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /dev1/file/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /dev1/file HTTP/1.1\r\nHost: h\r\nRange: bytes=x\r\n\r\n",
        "PUT /dev777/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
        "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-MD5: kDPg4wXyR8DDyA0MeEjIsw==\r\n\r\n",
        "BAD\r\n\r\nBAD\r\n\r\nBAD\r\n\r\n",
    ] {
        // a server each: one that many clients err on at once may leave lines out
        let server = Server::start();
        server.write("dev1/file", "x");
        let skip = server.log().len();
        let mut conn = server.conn();
        let peer = conn.local_addr().to_string();
        conn.send(wire);
        assert!(!conn.response().keeps_alive(), "{wire:?}");
        conn.expect_closed();
        drop(conn);
        let lines = fence(&server, skip);
        assert!(
            lines.len() <= 1,
            "{wire:?} is {} lines: {lines:?}",
            lines.len()
        );
        for line in lines {
            assert!(line.contains(&peer), "{wire:?}: no {peer} in {line:?}");
        }
    }
}

/// What a client sends must not write lines of its own into the log.
#[test]
fn a_client_cannot_forge_a_line() {
    let server = Server::start();
    let skip = server.log().len();
    let mut conn = server.conn();
    conn.send("PUT /dev777/%0aforged HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    assert!(!conn.response().keeps_alive());
    let mut conn = server.conn();
    conn.send("GET /dev1/a\nforged HTTP/1.1\r\nHost: h\r\n\r\n");
    conn.response().expect(400, false);
    let mut conn = server.conn();
    conn.send("PUT /dev1/%1b[31m\u{e4}x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx");
    conn.finish_sending();
    // refused at once or cut short at the half-close: either way the connection ends
    let _ = conn.drain();
    for line in fence(&server, skip) {
        assert!(line.starts_with("rmogstored["), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn a_failed_upload_says_which_from_whom_after_how_many_bytes_and_why() {
    let server = Server::start();
    for (sent, by_reset) in [(0, false), (1, false), (100_000, false), (100_000, true)] {
        let skip = server.log().len();
        let mut conn = server.conn();
        conn.send("PUT /dev1/some/file HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
        conn.send(pattern(sent));
        conn.settle();
        let peer = conn.local_addr();
        if by_reset {
            conn.reset()
        } else {
            drop(conn)
        }
        let line = server.wait_log_after(skip, "PUT /dev1/some/file", PATIENCE);
        let (_, text) = line.split_once(": ").unwrap();
        let want = format!("PUT /dev1/some/file failed from {peer} after {sent} bytes: ");
        assert!(
            text.starts_with(&want) && text.len() > want.len(),
            "{line:?}"
        );
        assert_eq!(by_reset, !line.contains("premature EOF"), "{line:?}");
        let lines = fence(&server, skip);
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}

/// A disk's error names the path, and the errno in words or as a number.
#[test]
fn an_error_of_the_disk_names_the_path_and_the_errno() {
    let server = Server::start();
    server.write("dev1/file", "x");
    let skip = server.log().len();
    let mut conn = server.conn();
    let peer = conn.local_addr().to_string();
    conn.put("/dev1/file/below", b"x").expect(500, false);
    conn.expect_closed();
    let line = server.wait_log_after(skip, "/dev1/file/below", PATIENCE);
    assert!(
        line.contains("Not a directory") || line.contains("ENOTDIR"),
        "{line:?}"
    );
    assert!(line.contains("PUT") && line.contains(&peer), "{line:?}");
}
