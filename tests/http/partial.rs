//! Content-Range PUT: a file written in place, piece by piece (the Perl client's largefile mode).

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};

use crate::harness::{PATIENCE, Server, assert_same, content_md5, pattern};

fn mode(server: &Server, below: &str) -> u32 {
    fs::metadata(server.path(below)).unwrap().mode() & 0o7777
}

#[test]
fn pieces_in_any_order_make_the_file() {
    let server = Server::start();
    let bytes = pattern(300_000);
    let mut conn = server.conn();
    for (first, last) in [(200_000, 299_999), (0, 99_999), (100_000, 199_999)] {
        for form in [
            format!("bytes {first}-{last}/*"),
            format!("bytes {first}-{last}/300000"),
        ] {
            let response = conn.request(
                "PUT",
                "/dev1/a/file",
                &[("Content-Range", &form)],
                &bytes[first..=last],
            );
            assert_eq!(response.status, 201, "{form}");
            response.expect(201, true);
        }
    }
    assert_same(
        &server.read("dev1/a/file").unwrap(),
        &bytes,
        "the pieces together",
    );
    assert_eq!(mode(&server, "dev1/a/file"), 0o644);
    assert_eq!(server.names(), ["dev1/a/file"]);
    conn.expect_open();
}

#[test]
fn what_was_not_written_is_a_hole_and_what_was_stays() {
    let server = Server::start();
    let mut conn = server.conn();
    conn.request(
        "PUT",
        "/dev1/file",
        &[("Content-Range", "bytes 10-14/*")],
        b"hello",
    )
    .expect(201, true);
    assert_eq!(
        server.read("dev1/file").unwrap(),
        b"\0\0\0\0\0\0\0\0\0\0hello"
    );
    conn.request(
        "PUT",
        "/dev1/file",
        &[("Content-Range", "bytes 2-3/*")],
        b"ab",
    )
    .expect(201, true);
    assert_eq!(
        server.read("dev1/file").unwrap(),
        b"\0\0ab\0\0\0\0\0\0hello"
    );
    let far = (5_u64 << 30) + 1;
    let range = format!("bytes {far}-{far}/*");
    conn.request("PUT", "/dev1/file", &[("Content-Range", &range)], b"x")
        .expect(201, true);
    let metadata = fs::metadata(server.path("dev1/file")).unwrap();
    assert_eq!(metadata.len(), far + 1);
    assert!(metadata.blocks() * 512 < 1 << 24, "holes take no space");
}

/// In place: whoever has the file open sees the change, and its mode stays.
#[test]
fn an_existing_file_is_changed_in_place() {
    let server = Server::start();
    let path = server.write("dev1/file", "0123456789");
    let before = fs::metadata(&path).unwrap();
    let mut conn = server.conn();
    conn.request(
        "PUT",
        "/dev1/file",
        &[("Content-Range", "bytes 3-5/10")],
        b"abc",
    )
    .expect(201, true);
    assert_eq!(server.read("dev1/file").unwrap(), b"012abc6789");
    assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
}

#[test]
fn the_largefile_sequence_of_the_perl_client_works() {
    let server = Server::start();
    let bytes = pattern(100_000);
    let mut conn = server.conn();
    conn.send("PUT /dev1/0/000/000/0000000001.fid HTTP/1.1\r\nHost: h\r\n\r\n");
    conn.response().expect(201, true);
    for (index, piece) in bytes.chunks(33_333).enumerate() {
        let first = index * 33_333;
        let range = format!("bytes {first}-{}/*", first + piece.len() - 1);
        let headers = [
            ("Content-Range", range.as_str()),
            ("Content-MD5", &content_md5(piece)),
        ];
        conn.request("PUT", "/dev1/0/000/000/0000000001.fid", &headers, piece)
            .expect(201, true);
    }
    assert_same(
        &server.read("dev1/0/000/000/0000000001.fid").unwrap(),
        &bytes,
        "the large file",
    );
    conn.get_with(
        "/dev1/0/000/000/0000000001.fid",
        &[("Range", "bytes=100000-")],
    )
    .expect(416, true);
}

/// Silently replacing the whole file is what the reference did with them.
#[test]
fn any_other_spelling_is_400_closes_and_changes_nothing() {
    let server = Server::start();
    server.write("dev1/file", "0123456789");
    for (range, length) in [
        ("bytes=0-4/*", 5),
        ("bytes 0-4", 5),
        ("bytes 0-4/", 5),
        ("bytes 0-4/x", 5),
        ("bytes 0-4/**", 5),
        ("bytes */5", 5),
        ("bytes 0-/*", 5),
        ("bytes -4/*", 5),
        ("bytes 4-0/*", 5),
        ("bytes 0-4/4", 5),
        ("bytes +0-4/*", 5),
        ("bytes 0x0-4/*", 5),
        ("bytes  0-4/*", 5),
        ("bytes 0 - 4/*", 5),
        ("items 0-4/*", 5),
        ("0-4/*", 5),
        ("", 5),
        // a length that does not fit the range
        ("bytes 0-4/*", 4),
        ("bytes 0-4/*", 6),
        ("bytes 0-4/5", 4),
    ] {
        for target in ["/dev1/file", "/dev1/new"] {
            let mut conn = server.conn();
            let body = pattern(length);
            let response = conn.request("PUT", target, &[("Content-Range", range)], &body);
            assert_eq!(response.status, 400, "{range:?} with {length} bytes");
            response.expect(400, false);
            conn.expect_closed();
            assert_eq!(server.names(), ["dev1/file"], "{range:?}");
            assert_eq!(
                server.read("dev1/file").unwrap(),
                b"0123456789",
                "{range:?}"
            );
        }
    }
}

#[test]
fn a_range_needs_a_content_length() {
    let server = Server::start();
    for rest in [
        "\r\n",
        "Content-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut conn = server.conn();
        conn.send(format!(
            "PUT /dev1/file HTTP/1.1\r\nHost: h\r\nContent-Range: bytes 0-4/*\r\n{rest}"
        ));
        conn.response().expect(400, false);
        conn.expect_closed();
        assert_eq!(server.names(), [""; 0], "{rest:?}");
    }
}

#[test]
fn numbers_that_no_file_can_hold_are_507_and_close() {
    let server = Server::start();
    let mut ranges = vec![
        "bytes 9223372036854775808-9223372036854775812/*",
        "bytes 0-99999999999999999999999/*",
    ];
    // tmpfs holds a file of this size, most others say EFBIG
    let probe = fs::File::create(server.path("dev2/probe")).unwrap();
    if probe.write_at(b"hello", 9_223_372_036_854_775_800).is_err() {
        ranges.push("bytes 9223372036854775800-9223372036854775804/*");
    }
    for range in ranges {
        let mut conn = server.conn();
        conn.send(format!(
            "PUT /dev1/file HTTP/1.1\r\nHost: h\r\nContent-Range: {range}\r\nContent-Length: 5\r\n\r\nhello"
        ));
        let response = conn.response();
        assert_eq!(response.status, 507, "{range}");
        response.expect(507, false);
        conn.expect_closed();
    }
}

/// The bytes are in place already; only the mode tells that the file is not complete.
#[test]
fn a_piece_that_fails_leaves_its_bytes_and_mode_0600() {
    let server = Server::start();
    let wrong = ("Content-MD5", "kDPg4wXyR8DDyA0MeEjIsw==");
    let mut conn = server.conn();
    conn.request(
        "PUT",
        "/dev1/file",
        &[("Content-Range", "bytes 0-4/*"), wrong],
        b"hello",
    )
    .expect(400, true);
    assert_eq!(server.read("dev1/file").unwrap(), b"hello");
    assert_eq!(mode(&server, "dev1/file"), 0o600);
    conn.send("PUT /dev1/file HTTP/1.1\r\nHost: h\r\nContent-Range: bytes 5-14/*\r\nContent-Length: 10\r\n\r\nhalf");
    conn.settle();
    let peer = conn.local_addr();
    drop(conn);
    server.wait_log(
        &format!("PUT /dev1/file failed from {peer} after 4 bytes"),
        PATIENCE,
    );
    assert_eq!(&server.read("dev1/file").unwrap()[..9], b"hellohalf");
    assert_eq!(mode(&server, "dev1/file"), 0o600);
    let mut conn = server.conn();
    conn.request(
        "PUT",
        "/dev1/file",
        &[("Content-Range", "bytes 5-9/*")],
        b"world",
    )
    .expect(201, true);
    assert_eq!(&server.read("dev1/file").unwrap()[..10], b"helloworld");
    assert_eq!(mode(&server, "dev1/file"), 0o644);
}

/// A bad piece of a complete file must not take away the mode by which others read it.
#[test]
fn a_piece_that_fails_leaves_the_mode_of_a_complete_file() {
    let server = Server::start();
    server.write("dev1/file", "0123456789");
    let wrong = ("Content-MD5", "kDPg4wXyR8DDyA0MeEjIsw==");
    let mut conn = server.conn();
    conn.request(
        "PUT",
        "/dev1/file",
        &[("Content-Range", "bytes 0-4/*"), wrong],
        b"hello",
    )
    .expect(400, true);
    assert_eq!(mode(&server, "dev1/file"), 0o644);
}

#[test]
fn the_targets_are_those_of_a_whole_put() {
    let server = Server::start();
    server.write("dev1/folder/inner", "x");
    server.write("top", "top");
    let before = server.names();
    for (target, status) in [
        ("/foo", 400),
        ("/top", 400),
        ("/dev1", 400),
        ("/dev1/new/", 400),
        ("/dev777/x", 404),
        ("/dev1/folder", 500),
        ("/top/x", 500),
        ("/dev1/../x", 403),
    ] {
        let mut conn = server.conn();
        let response = conn.request("PUT", target, &[("Content-Range", "bytes 0-4/*")], b"hello");
        assert_eq!(response.status, status, "{target}");
        response.expect(status, false);
        assert_eq!(server.names(), before, "{target}");
    }
}

/// Writing in place follows the last link, so here it must not lead outside.
#[test]
fn a_symlink_to_the_outside_is_not_written_through() {
    let server = Server::start();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "victim").unwrap();
    symlink(&victim, server.path("dev1/link")).unwrap();
    symlink(outside.path().join("fresh"), server.path("dev1/dangling")).unwrap();
    symlink(outside.path(), server.path("dev1/folder")).unwrap();
    for target in [
        "/dev1/link",
        "/dev1/dangling",
        "/dev1/folder/victim",
        "/dev1/folder/fresh",
    ] {
        let mut conn = server.conn();
        let response = conn.request("PUT", target, &[("Content-Range", "bytes 0-4/*")], b"HELLO");
        assert!(response.status >= 400, "{target}: {}", response.status);
        assert_eq!(fs::read(&victim).unwrap(), b"victim", "{target}");
        assert!(!outside.path().join("fresh").exists(), "{target}");
    }
}
