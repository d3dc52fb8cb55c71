//! What trackers and their clients send, word for word, and what they make of the replies.

use crate::harness::Server;

/// The monitor's round, which decides whether a device takes files and whether a bad digest is refused.
#[test]
fn the_monitor_s_round_finds_a_writable_device_that_checks_digests() {
    let server = Server::start();
    server.write("dev1/usage", "available: 1\ntotal: 2\nused: 1\n");
    let agent =
        "Connection: keep-alive\r\nHost: h:7500\r\nUser-Agent: MogileFS::Connection::HTTP/2.73\r\n";
    let mut conn = server.conn();
    conn.send(format!("GET /dev1/usage HTTP/1.0\r\n{agent}\r\n"));
    assert!(
        conn.response()
            .expect(200, true)
            .body
            .starts_with(b"available: 1\n")
    );
    conn.send(format!(
        "MKCOL /dev1/test-write/ HTTP/1.1\r\nContent-Length: 0\r\n{agent}\r\n"
    ));
    conn.response().expect(400, true);
    let body = "time=1700000000 rand=42";
    let length = body.len();
    conn.send(format!(
        "PUT /dev1/test-write/test-write-42 HTTP/1.1\r\nContent-Length: {length}\r\n{agent}\r\n{body}"
    ));
    conn.response().expect(201, true);
    conn.send(format!(
        "GET /dev1/test-write/test-write-42 HTTP/1.0\r\n{agent}\r\n"
    ));
    assert_eq!(conn.response().expect(200, true).body, body.as_bytes());
    conn.send(format!(
        "PUT /dev1/test-write/test-md5 HTTP/1.1\r\nContent-MD5: kDPg4wXyR8DDyA0MeEjIsw==\r\nContent-Length: 1\r\n{agent}\r\n."
    ));
    conn.response().expect(400, true);
    assert_eq!(
        server.names(),
        ["dev1/test-write/test-write-42", "dev1/usage"]
    );
    conn.expect_open();
}

/// Replication speaks HTTP/1.0 without Host, in lower-case names.
#[test]
fn replication_copies_a_file() {
    let server = Server::start();
    server.write("dev1/0/000/000/0000000007.fid", "replica");
    let mut conn = server.conn();
    conn.send("HEAD /dev1/0/000/000/0000000007.fid HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(
        conn.response_to_head().expect(200, true).content_length(),
        7
    );
    conn.send("GET /dev1/0/000/000/0000000007.fid HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(conn.response().expect(200, true).body, b"replica");
    let digest = crate::harness::content_md5(b"replica");
    conn.send(format!(
        "PUT /dev2/0/000/000/0000000007.fid HTTP/1.0\r\nConnection: keep-alive\r\nContent-length: 7\r\nContent-MD5: {digest}\r\n\r\nreplica"
    ));
    conn.response().expect(201, true);
    assert_eq!(
        server.read("dev2/0/000/000/0000000007.fid").unwrap(),
        b"replica"
    );
}

#[test]
fn the_perl_client_s_upload_is_answered_and_closed() {
    let server = Server::start();
    let mut conn = server.conn();
    conn.send("PUT http://127.0.0.1:7500/dev1/0/000/000/0000000008.fid HTTP/1.0\r\nContent-length: 5\r\n\r\nhello");
    conn.response().expect(201, false);
    conn.expect_eof();
    assert_eq!(
        server.read("dev1/0/000/000/0000000008.fid").unwrap(),
        b"hello"
    );
}

#[test]
fn mogadm_check_gets_its_two_pages() {
    let server = Server::start();
    server.write("dev1/usage", "usage");
    for (target, body) in [("/", &b""[..]), ("//dev1/usage", b"usage")] {
        let mut conn = server.conn();
        let headers = [
            ("TE", "deflate,gzip;q=0.3"),
            ("Connection", "TE, close"),
            ("User-Agent", "libwww-perl/6"),
        ];
        assert_eq!(
            conn.get_with(target, &headers).expect(200, false).body,
            body,
            "{target}"
        );
        conn.expect_eof();
    }
}

#[test]
fn eleven_digit_fids_and_long_device_ids_have_paths_too() {
    let server = Server::start();
    std::fs::create_dir(server.path("dev16777215")).unwrap();
    let mut conn = server.conn();
    let target = "/dev16777215/9/999/999/99999999999.fid";
    conn.put(target, b"far").expect(201, true);
    assert_eq!(conn.get(target).expect(200, true).body, b"far");
    conn.delete(target).expect(204, true);
    conn.delete(target).expect(404, true);
}
