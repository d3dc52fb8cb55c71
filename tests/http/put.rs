//! PUT of whole files: what is made, what is refused, and that nothing is seen of an upload before its end.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::harness::server::is_root;
use crate::harness::{Conn, PATIENCE, Server, assert_same, eventually, pattern};

/// Starts an upload of `len` bytes and waits until the server has accepted it.
fn begin_put(server: &Server, target: &str, len: usize) -> Conn {
    let mut conn = server.conn();
    conn.send(format!(
        "PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\nExpect: 100-continue\r\n\r\n"
    ));
    conn.expect_continue();
    conn
}

#[test]
fn a_new_file_is_201_and_there() {
    let server = Server::start();
    let mut conn = server.conn();
    let response = conn.put("/dev1/file", b"hello");
    response.expect(201, true);
    let date = response.must("Date").to_owned();
    let want = format!(
        "HTTP/1.1 201 Created\r\nStatus: 201 Created\r\nDate: {date}\r\nContent-Length: 0\r\n\
         Content-Type: text/plain\r\nConnection: keep-alive\r\n"
    );
    assert!(
        String::from_utf8_lossy(&response.head).starts_with(&want),
        "{:?}",
        response.headers
    );
    assert_eq!(server.read("dev1/file").unwrap(), b"hello");
    assert_eq!(conn.get("/dev1/file").body, b"hello");
    assert_eq!(server.names(), ["dev1/file"]);
}

#[test]
fn an_existing_file_is_replaced() {
    let server = Server::start();
    let old = server.write("dev1/file", "a longer content than the new one");
    let inode = fs::metadata(&old).unwrap().ino();
    let kept = fs::File::open(&old).unwrap();
    let mut conn = server.conn();
    conn.put("/dev1/file", b"new").expect(201, true);
    assert_eq!(server.read("dev1/file").unwrap(), b"new");
    // never in place: whoever still reads the old file reads all of it
    assert_ne!(fs::metadata(&old).unwrap().ino(), inode);
    assert_eq!(kept.metadata().unwrap().len(), 33);
    assert_eq!(server.names(), ["dev1/file"]);
}

#[test]
fn every_size_arrives_whole() {
    let server = Server::start();
    let bytes = pattern(8 << 20);
    let mut conn = server.conn();
    for size in [
        0,
        1,
        1023,
        4096,
        16383,
        16384,
        16385,
        65535,
        65536,
        65537,
        262_145,
        1 << 20,
        8 << 20,
    ] {
        conn.put("/dev1/file", &bytes[..size]).expect(201, true);
        assert_same(
            &server.read("dev1/file").unwrap(),
            &bytes[..size],
            "the uploaded file",
        );
        let metadata = fs::metadata(server.path("dev1/file")).unwrap();
        assert!(
            metadata.blocks() * 512 <= size as u64 + (1 << 20),
            "reserved space is given back"
        );
    }
    conn.expect_open();
}

#[test]
fn without_any_length_the_file_is_empty() {
    let server = Server::start();
    server.write("dev1/full", "full");
    let mut conn = server.conn();
    for (head, path) in [
        ("PUT /dev1/empty HTTP/1.1\r\nHost: h\r\n\r\n", "dev1/empty"),
        ("PUT /dev1/full HTTP/1.1\r\nHost: h\r\n\r\n", "dev1/full"),
        (
            "PUT /dev1/zero HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
            "dev1/zero",
        ),
    ] {
        conn.send(head);
        conn.response().expect(201, true);
        assert_eq!(server.read(path).unwrap(), b"", "{path}");
    }
    conn.expect_open();
}

#[test]
fn missing_folders_are_made_below_the_device_with_the_umask() {
    let server = Server::builder().umask(0o027).start();
    let mut conn = server.conn();
    conn.put("/dev1/a/b/c/file", b"x").expect(201, true);
    conn.put("//dev1//d///file", b"y").expect(201, true);
    let mode = |below: &str| fs::metadata(server.path(below)).unwrap().mode() & 0o7777;
    for folder in ["dev1/a", "dev1/a/b", "dev1/a/b/c", "dev1/d"] {
        assert_eq!(mode(folder), 0o750, "{folder}");
    }
    assert_eq!(mode("dev1/a/b/c/file"), 0o640);
    assert_eq!(server.names(), ["dev1/a/b/c/file", "dev1/d/file"]);
}

#[test]
fn the_mode_is_0666_less_the_umask() {
    for (umask, mode) in [(0o000, 0o666), (0o022, 0o644), (0o077, 0o600)] {
        let server = Server::builder().umask(umask).start();
        let path = server.write("dev1/old", "old");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let mut conn = server.conn();
        for target in ["dev1/new", "dev1/old", "dev1/empty"] {
            let body: &[u8] = if target.ends_with("empty") {
                b""
            } else {
                b"body"
            };
            conn.put(&format!("/{target}"), body).expect(201, true);
            assert_eq!(
                fs::metadata(server.path(target)).unwrap().mode() & 0o7777,
                mode,
                "{target}, {umask:o}"
            );
        }
    }
}

/// Every refusal closes: what follows on the wire is a body that nobody wants.
#[test]
fn a_target_that_cannot_be_written_has_its_status_and_closes() {
    let server = Server::start();
    server.write("dev1/file", "file");
    server.write("dev1/folder/inner", "inner");
    server.write("top", "top");
    let before = server.names();
    let cases = [
        ("/foo", 400),
        ("/top", 400),
        ("/", 400),
        ("//", 400),
        ("/dev1", 400),
        ("/dev1/", 400),
        ("//dev1//", 400),
        ("/dev777", 400),
        ("/dev1/new/", 400),
        ("/dev777/x", 404),
        ("/dev777/x/y", 404),
        ("/dev1/folder", 500),
        ("/dev1/file/x", 500),
        ("/dev1/file/x/y", 500),
        ("/top/x", 500),
        ("/../x", 403),
        ("/dev1/../x", 403),
        ("/dev1/x/..", 403),
    ];
    for (target, status) in cases {
        for body in [&b"body"[..], b""] {
            let mut conn = server.conn();
            let response = conn.put(target, body);
            assert_eq!(response.status, status, "PUT {target}");
            response.expect(status, false);
            conn.expect_closed();
            assert_eq!(server.names(), before, "PUT {target}");
        }
    }
    assert_eq!(server.read("dev1/file").unwrap(), b"file");
    assert!(!server.path("dev777").exists());
}

/// `.` names a folder that is already there, never the top level as a "device".
#[test]
fn a_dot_segment_makes_nothing_at_the_top_level() {
    let server = Server::start();
    for target in ["/./x", "/%2e/x", "/.//x", "/./.", "/dev1/.", "/dev1/./"] {
        let mut conn = server.conn();
        let response = conn.put(target, b"body");
        assert!(
            (400..=500).contains(&response.status),
            "PUT {target}: {}",
            response.status
        );
        assert!(!response.keeps_alive(), "PUT {target}");
        assert_eq!(server.names(), [""; 0], "PUT {target}");
    }
}

#[test]
fn any_existing_top_level_folder_is_a_device() {
    let server = Server::start();
    fs::create_dir(server.path("photos")).unwrap();
    let mut conn = server.conn();
    conn.put("/photos/a.jpg", b"jpg").expect(201, true);
    assert_eq!(server.read("photos/a.jpg").unwrap(), b"jpg");
}

#[test]
fn a_folder_without_permission_is_403_and_closes() {
    let server = Server::builder().unprivileged().start();
    let folder = server.path("dev1/shut");
    fs::create_dir(&folder).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&folder, Some(0), Some(0)).unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let mut conn = server.conn();
    conn.put("/dev1/shut/x", b"x").expect(403, false);
    conn.expect_closed();
    assert_eq!(server.names(), [""; 0]);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Nothing of an upload has a name before it is complete, and then it is complete.
#[test]
fn an_upload_is_invisible_until_complete() {
    let server = Server::start();
    server.write("dev1/old", "old");
    let bytes = pattern(3 << 20);
    for target in ["dev1/new", "dev1/old", "dev1/deep/er/new"] {
        let before = server.names();
        let mut conn = begin_put(&server, &format!("/{target}"), bytes.len());
        let was = server.read(target);
        let mut sent = 0;
        for upto in [1, 70_000, 1 << 20, bytes.len() - 1] {
            conn.send(&bytes[sent..upto]);
            sent = upto;
            conn.settle();
            assert_eq!(server.names(), before, "after {sent} bytes of {target}");
            assert_eq!(server.read(target), was, "after {sent} bytes of {target}");
            let mut other = server.conn();
            let response = other.get(&format!("/{target}"));
            match &was {
                Some(old) => assert_eq!(&response.expect(200, true).body, old),
                None => assert_eq!(response.expect(404, true).body, b""),
            }
        }
        conn.send(&bytes[sent..]);
        conn.response().expect(201, true);
        assert_same(&server.read(target).unwrap(), &bytes, target);
        conn.expect_open();
    }
    assert_eq!(server.names(), ["dev1/deep/er/new", "dev1/new", "dev1/old"]);
}

#[test]
fn a_client_that_dies_leaves_nothing_and_the_old_file_whole() {
    let server = Server::start();
    server.write("dev1/old", "old");
    let before = server.names();
    for (target, by_reset) in [
        ("dev1/old", false),
        ("dev1/old", true),
        ("dev1/new", false),
        ("dev1/new", true),
    ] {
        let mut conn = begin_put(&server, &format!("/{target}"), 1 << 20);
        conn.send(pattern(500_000));
        conn.settle();
        let skip = server.log().len();
        let peer = conn.local_addr();
        if by_reset {
            conn.reset()
        } else {
            drop(conn)
        }
        let line = server.wait_log_after(
            skip,
            &format!("PUT /{target} failed from {peer} after 500000 bytes"),
            PATIENCE,
        );
        assert!(by_reset || line.contains("premature EOF"), "{line}");
        assert_eq!(server.names(), before, "{target}");
        assert_eq!(server.read("dev1/old").unwrap(), b"old");
    }
    server.conn().expect_open();
}

/// The peer only ends its sending side: there is still no reply, since there was no whole request.
#[test]
fn an_early_end_of_the_body_gets_no_reply() {
    let server = Server::start();
    let bodies = [
        "Content-Length: 100\r\n\r\nonly this",
        "Transfer-Encoding: chunked\r\n\r\n20\r\nonly this",
    ];
    for body in bodies {
        let mut conn = server.conn();
        conn.send(format!("PUT /dev1/x HTTP/1.1\r\nHost: h\r\n{body}"));
        conn.finish_sending();
        conn.expect_eof();
        assert_eq!(server.names(), [""; 0]);
    }
}

#[test]
fn many_uploads_that_die_leave_no_descriptor_behind() {
    let server = Server::start();
    let worker = server.worker_pids()[0];
    let open = || fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
    server.conn().put("/dev1/warm", b"up").expect(201, true);
    let mut first = server.conn();
    first.expect_open();
    let before = open();
    for turn in 0..100 {
        let mut conn = server.conn();
        conn.send(format!(
            "PUT /dev1/x{turn} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf"
        ));
        conn.settle();
    }
    eventually("the worker to close what died", PATIENCE, || {
        open() <= before
    });
    assert_eq!(server.names(), ["dev1/warm"]);
    first.expect_open();
}

#[test]
fn two_uploads_of_one_file_do_not_mix() {
    let server = Server::start();
    let (a, b) = (vec![b'a'; 300_000], vec![b'b'; 400_000]);
    let mut first = begin_put(&server, "/dev1/file", a.len());
    let mut second = begin_put(&server, "/dev1/file", b.len());
    first.send(&a[..150_000]);
    second.send(&b[..399_999]);
    first.send(&a[150_000..]);
    first.response().expect(201, true);
    assert_same(&server.read("dev1/file").unwrap(), &a, "the first to end");
    second.send(&b[399_999..]);
    second.response().expect(201, true);
    assert_same(&server.read("dev1/file").unwrap(), &b, "the last to end");
    assert_eq!(server.names(), ["dev1/file"]);
}

#[test]
fn a_slow_upload_a_byte_at_a_time_arrives() {
    let server = Server::start();
    let mut conn = server.conn();
    let bytes = pattern(300);
    conn.send_slowly(format!(
        "PUT /dev1/slow HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    ));
    conn.send_slowly(&bytes);
    conn.response().expect(201, true);
    assert_same(&server.read("dev1/slow").unwrap(), &bytes, "the slow file");
}

#[test]
fn chunked_bodies_arrive_whole() {
    let server = Server::start();
    let mut conn = server.conn();
    let big = pattern(200_000);
    let mut in_chunks = Vec::new();
    for chunk in big.chunks(7_777) {
        in_chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
        in_chunks.extend(chunk);
        in_chunks.extend(b"\r\n");
    }
    in_chunks.extend(b"0\r\n\r\n");
    let cases: &[(&[u8], &[u8])] = &[
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"0000000000000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (
            b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            b"01234567890123456789",
        ),
        (b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello"),
        (b"5;a=b;c=\"d;e\"\r\nhello\r\n0\r\n\r\n", b"hello"),
        (
            b"5\r\nhello\r\n0\r\nX-Trailer: y\r\nX: z\r\nempty:\r\n\r\n",
            b"hello",
        ),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (&in_chunks, &big),
    ];
    for (wire, want) in cases {
        conn.send("PUT /dev1/file HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        conn.send(wire);
        conn.response().expect(201, true);
        assert_same(&server.read("dev1/file").unwrap(), want, "a chunked file");
    }
    conn.expect_open();
}

/// The reference skips them without a limit; whoever sets one must have room for these.
#[test]
fn long_chunk_extensions_are_skipped() {
    let server = Server::start();
    let mut conn = server.conn();
    for len in [1000, 10_000, 100_000] {
        conn.send(format!(
            "PUT /dev1/file HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
             5;ext={}\r\nhello\r\n0\r\n\r\n",
            "x".repeat(len)
        ));
        let response = conn.response();
        assert_eq!(response.status, 201, "an extension of {len} bytes");
        assert_eq!(server.read("dev1/file").unwrap(), b"hello");
    }
    conn.expect_open();
}

#[test]
fn a_chunked_body_may_come_a_byte_at_a_time() {
    let server = Server::start();
    let mut conn = server.conn();
    conn.send_slowly(
        "PUT /dev1/file HTTP/1.1\r\nHost: h\r\ntransfer-encoding: Chunked\r\n\r\n\
         5;name=value\r\nhello\r\n00a;x\r\n0123456789\r\n0\r\nX-Trailer: y\r\nY: z\r\n\r\n",
    );
    conn.response().expect(201, true);
    assert_eq!(server.read("dev1/file").unwrap(), b"hello0123456789");
    conn.expect_open();
}

#[test]
fn a_chunked_body_and_the_next_requests_may_come_in_one_packet() {
    let server = Server::start();
    let mut conn = server.conn();
    conn.send(
        "PUT /dev1/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n\
         5\r\nhello\r\n0\r\nX: y\r\n\r\n\
         GET /dev1/a HTTP/1.1\r\nHost: h\r\n\r\n\
         PUT /dev1/b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /dev1/missing HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    conn.response().expect(201, true);
    assert_eq!(conn.response().expect(200, true).body, b"hello");
    conn.response().expect(201, true);
    conn.response().expect(404, true);
    conn.expect_open();
}

#[test]
fn http_1_0_may_send_chunks() {
    let server = Server::start();
    let mut conn = server.conn();
    conn.send(
        "PUT /dev1/file HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    conn.response().expect(201, false);
    assert_eq!(server.read("dev1/file").unwrap(), b"hello");
    conn.expect_eof();
}

#[test]
fn a_length_beyond_63_bits_is_507_and_closes() {
    let server = Server::start();
    for framing in [
        "Content-Length: 9223372036854775808\r\n\r\n",
        "Content-Length: 99999999999999999999999999\r\n\r\n",
        "Content-Length: 9223372036854775807\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n8000000000000000\r\n",
        "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n00ffffffffffffffff\r\n",
    ] {
        let mut conn = server.conn();
        conn.send(format!("PUT /dev1/x HTTP/1.1\r\nHost: h\r\n{framing}"));
        let response = conn.response();
        assert_eq!(response.status, 507, "{framing:?}");
        response.expect(507, false);
        conn.expect_closed();
        assert_eq!(server.names(), [""; 0], "{framing:?}");
    }
}

#[test]
fn expect_100_continue_is_answered_before_the_body_comes() {
    let server = Server::start();
    let mut conn = begin_put(&server, "/dev1/file", 5);
    conn.send("hello");
    conn.response().expect(201, true);
    // also before a chunked body, and in any case of letters
    conn.send("PUT /dev1/file HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nexpect: 100-Continue\r\n\r\n");
    conn.expect_continue();
    conn.send("2\r\nab\r\n0\r\n\r\n");
    conn.response().expect(201, true);
    assert_eq!(server.read("dev1/file").unwrap(), b"ab");
    conn.expect_open();
}

#[test]
fn a_refused_upload_gets_its_final_status_instead_of_100() {
    let server = Server::start();
    server.write("dev1/inner", "x");
    for (target, status) in [
        ("/dev777/x", 404),
        ("/foo", 400),
        ("/dev1/../x", 403),
        ("/dev1/inner/x", 500),
    ] {
        let mut conn = server.conn();
        conn.send(format!(
            "PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        ));
        let response = conn.response();
        assert_eq!(response.status, status, "PUT {target}");
        assert!(!response.keeps_alive(), "PUT {target}");
        conn.expect_closed();
    }
}

/// HTTP/1.0 knows no interim reply, and without a body there is nothing to wait for.
#[test]
fn there_is_no_100_for_those_who_do_not_wait_for_it() {
    let server = Server::start();
    server.write("dev1/file", "x");
    let mut conn = server.conn();
    conn.send("PUT /dev1/a HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n\r\n");
    conn.settle();
    conn.send("ab");
    conn.response().expect(201, true);
    conn.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n");
    conn.response().expect(200, true);
    // the body came with the head: a 100 would be late, but is allowed
    conn.send(
        "PUT /dev1/b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab",
    );
    let mut response = conn.head_of_response();
    if response.status == 100 {
        response = conn.head_of_response();
    }
    response.expect(201, true);
    conn.expect_open();
}

/// The client is still sending when the refusal comes; the reply must reach it all the same.
#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let server = Server::start();
    let body = vec![0; 16 << 20];
    for (target, status) in [("/dev777/x", 404), ("/foo", 400)] {
        let mut conn = server.conn();
        conn.send(format!(
            "PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        let _ = conn.try_send(&body);
        conn.response().expect(status, false);
    }
}

/// RFC 9112 9.6: what still comes is read and thrown away, so that no reset overtakes the reply on its way.
#[test]
fn a_refusal_ends_in_a_clean_close_while_the_client_still_sends() {
    let server = Server::start();
    let piece = vec![0; 128 * 1024];
    for wire in [
        "PUT /dev777/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n",
        "PUT /dev1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nbad\r\r\n",
        "BAD\r\n\r\n",
    ] {
        let mut conn = server.conn();
        conn.send(wire);
        conn.send(&piece);
        assert!(!conn.response().keeps_alive(), "{wire:?}");
        conn.send(&piece);
        conn.settle();
        conn.send(&piece);
        conn.finish_sending();
        conn.expect_eof();
    }
}

#[test]
fn mkcol_makes_nothing() {
    let server = Server::start();
    let mut conn = server.conn();
    for target in [
        "/dev1/folder",
        "/dev1/folder/",
        "/dev1",
        "/",
        "/foo",
        "/dev777/x",
    ] {
        conn.request("MKCOL", target, &[], b"").expect(400, true);
        conn.request("MKCOL", target, &[("Content-Length", "0")], b"")
            .expect(400, true);
    }
    conn.request("MKCOL", "/dev1/../folder", &[], b"")
        .expect(403, true);
    assert!(!server.path("dev1/folder").exists());
    assert_eq!(fs::read_dir(server.path("dev1")).unwrap().count(), 0);
    conn.expect_open();
}

#[test]
fn a_symlink_as_target_is_replaced_not_followed() {
    let server = Server::start();
    server.write("dev1/real", "real");
    symlink("real", server.path("dev1/link")).unwrap();
    let mut conn = server.conn();
    conn.put("/dev1/link", b"new").expect(201, true);
    assert_eq!(server.read("dev1/real").unwrap(), b"real");
    assert!(
        fs::symlink_metadata(server.path("dev1/link"))
            .unwrap()
            .is_file()
    );
    assert_eq!(server.read("dev1/link").unwrap(), b"new");
}

/// Not even kill -9 in the middle leaves a trace: neither a half file nor a temporary one.
#[test]
fn a_worker_killed_during_an_upload_leaves_nothing() {
    let server = Server::start();
    server.write("dev1/old", "old");
    for target in ["dev1/old", "dev1/new"] {
        let mut conn = begin_put(&server, &format!("/{target}"), 1 << 20);
        conn.send(pattern(500_000));
        conn.settle();
        let skip = server.log().len();
        let worker = server.worker_pids()[0];
        // SAFETY: the pid is a worker of this test's own server, alive since it serves our upload
        assert_eq!(unsafe { libc::kill(worker, libc::SIGKILL) }, 0);
        server.wait_log_after(skip, "worker 0 is ready", PATIENCE);
        assert_ne!(server.worker_pids()[0], worker);
        assert_eq!(server.names(), ["dev1/old"], "{target}");
        assert_eq!(server.read("dev1/old").unwrap(), b"old");
        let mut again = server.conn();
        again.put(&format!("/{target}"), b"again").expect(201, true);
        again.delete(&format!("/{target}")).expect(204, true);
        server.write("dev1/old", "old");
    }
}

/// Many clients, threads and workers, one folder: every file is whole, and each reply is about its own request.
#[test]
fn uploads_from_all_sides_do_not_get_in_each_other_s_way() {
    let server = Server::builder().workers(2).threads(40).start();
    std::thread::scope(|scope| {
        for client in 0..16_usize {
            let server = &server;
            scope.spawn(move || {
                let mut conn = server.conn();
                for turn in 0..30_usize {
                    let bytes = pattern(1 + (client * 30 + turn) * 97);
                    let target = format!("/dev1/shared/{}/{client}", turn % 3);
                    conn.put(&target, &bytes).expect(201, true);
                    assert_same(&conn.get(&target).expect(200, true).body, &bytes, &target);
                    if turn % 5 == 4 {
                        conn.delete(&target).expect(204, true);
                        conn.get(&target).expect(404, true);
                    }
                }
            });
        }
    });
    assert!(
        server
            .names()
            .iter()
            .all(|name| name.starts_with("dev1/shared/")),
        "{:?}",
        server.names()
    );
}
