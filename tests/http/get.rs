//! GET and HEAD: what is served, how the reply looks, and what happens while the file changes.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::fresh::wait_until_old;
use crate::harness::server::is_root;
use crate::harness::{Conn, Server, SetOnDrop, assert_same, pattern};

#[test]
fn a_file_comes_with_the_reference_s_headers_in_its_order() {
    let server = Server::start();
    let path = server.write("dev1/a/b.fid", "hello");
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .unwrap();
    let mut conn = server.conn();
    let response = conn.get("/dev1/a/b.fid");
    response.expect(200, true);
    assert_eq!(response.body, b"hello");
    let date = response.must("Date").to_owned();
    let etag = response.etag();
    let want = format!(
        "HTTP/1.1 200 OK\r\nStatus: 200 OK\r\nDate: {date}\r\nLast-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\n\
         Content-Length: 5\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n\
         Connection: keep-alive\r\nETag: {etag}\r\n\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&response.head), want);
    assert!(
        date.ends_with(" GMT") && date.len() == 29,
        "an IMF-fixdate: {date}"
    );
}

#[test]
fn an_error_comes_with_the_reference_s_headers_in_its_order() {
    let server = Server::start();
    let mut conn = server.conn();
    let response = conn.get("/dev1/missing");
    let date = response.must("Date").to_owned();
    let want = format!(
        "HTTP/1.1 404 Not Found\r\nStatus: 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\
         Content-Type: text/plain\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&response.head), want);
    conn.expect_open();
}

#[test]
fn the_root_is_an_empty_200_of_the_epoch() {
    let server = Server::start();
    let mut conn = server.conn();
    for target in ["/", "//", "/?query", "http://host/", "http://host:7500/"] {
        let response = conn.get(target);
        response.expect(200, true);
        assert_eq!(response.content_length(), 0, "{target}");
        assert_eq!(
            response.must("Last-Modified"),
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "{target}"
        );
        conn.head(target).expect(200, true);
    }
}

/// Status and connection for everything that is not a plain file.
#[test]
fn what_cannot_be_served_has_its_status_and_keeps_the_connection() {
    let server = Server::start();
    server.write("dev1/file", "x");
    server.write("dev1/folder/inner", "x");
    symlink("nowhere", server.path("dev1/dangling")).unwrap();
    symlink("loop", server.path("dev1/loop")).unwrap();
    let cases = [
        ("/dev1", 403),
        ("/dev1/", 403),
        ("/dev1/folder", 403),
        ("/dev1/folder/", 403),
        ("/dev1/missing", 404),
        ("/dev1/missing/", 404),
        ("/dev1/missing/deeper", 404),
        ("/dev1/dangling", 404),
        ("/dev777/x", 404),
        ("/missing", 404),
        ("/dev1/file/", 500),
        ("/dev1/file/x", 500),
    ];
    let mut conn = server.conn();
    for (target, status) in cases {
        let response = conn.get(target);
        assert_eq!(response.status, status, "GET {target}");
        response.expect(status, true);
        assert_eq!(
            conn.head(target).expect(status, true).status,
            status,
            "HEAD {target}"
        );
    }
    // the kernel says of a loop what it says of a link that is not to be followed
    let looped = conn.get("/dev1/loop");
    assert!(matches!(looped.status, 403 | 500), "{}", looped.status);
    conn.expect_open();
}

/// A FIFO without a writer would hold a plain open() for ever; a device or socket is no file either.
#[test]
fn a_fifo_is_refused_at_once() {
    let server = Server::start();
    let fifo = std::ffi::CString::new(server.path("dev1/fifo").to_str().unwrap()).unwrap();
    // SAFETY: a NUL-terminated path that outlives the call
    let made = unsafe { libc::mkfifo(fifo.as_ptr(), 0o666) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    let _socket = std::os::unix::net::UnixListener::bind(server.path("dev1/socket")).unwrap();
    let mut conn = server.conn();
    conn.get("/dev1/fifo").expect(403, true);
    conn.head("/dev1/fifo").expect(403, true);
    let socket = conn.get("/dev1/socket");
    assert!(
        matches!(socket.status, 403 | 500),
        "a socket is no file: {}",
        socket.status
    );
    conn.expect_open();
}

#[test]
fn a_file_that_may_not_be_read_is_403() {
    let server = Server::builder().unprivileged().start();
    let file = server.write("dev1/closed", "secret");
    let folder = server.path("dev1/shut");
    server.write("dev1/shut/inner", "secret");
    if is_root() {
        for path in [&file, &folder] {
            std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
        }
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
    let mut conn = server.conn();
    for target in ["/dev1/closed", "/dev1/shut/inner"] {
        conn.get(target).expect(403, true);
        conn.head(target).expect(403, true);
    }
    conn.expect_open();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn files_of_the_top_level_and_hidden_ones_are_served() {
    let server = Server::start();
    server.write("top.txt", "top");
    server.write(".hidden", "h");
    server.write("other/file", "other");
    let mut conn = server.conn();
    assert_eq!(conn.get("/top.txt").expect(200, true).body, b"top");
    assert_eq!(conn.get("//top.txt").expect(200, true).body, b"top");
    assert_eq!(conn.get("/.hidden").expect(200, true).body, b"h");
    assert_eq!(conn.get("/other//file").expect(200, true).body, b"other");
}

/// The sizes round which a buffer, a turn or a segment ends.
#[test]
fn every_size_comes_whole() {
    let server = Server::start();
    let sizes = [
        0,
        1,
        1023,
        1024,
        4096,
        16383,
        16384,
        16385,
        65535,
        65536,
        65537,
        262_144,
        1 << 20,
        8 << 20,
    ];
    let bytes = pattern(8 << 20);
    let mut conn = server.conn();
    for size in sizes {
        let name = format!("dev1/size-{size}");
        server.write(&name, &bytes[..size]);
        let response = conn.get(&format!("/{name}"));
        response.expect(200, true);
        assert_same(&response.body, &bytes[..size], &name);
        let head = conn.head(&format!("/{name}"));
        head.expect(200, true);
        assert_eq!(head.content_length(), size as u64);
        assert_eq!(head.must("Last-Modified"), response.must("Last-Modified"));
        assert_eq!(head.etag(), response.etag());
    }
    conn.expect_open();
}

#[test]
fn a_reader_of_small_sips_gets_the_whole_file() {
    let server = Server::start();
    let bytes = pattern(300_000);
    server.write("dev1/file", &bytes);
    let mut conn = Conn::connect_narrow(server.addr(), 4096);
    conn.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = conn.head_of_response();
    head.expect(200, true);
    let mut body = Vec::new();
    while body.len() < bytes.len() {
        // a byte at a time where buffers end, larger sips between
        let most = if body.len() % 4096 < 64 { 1 } else { 997 };
        body.extend(conn.sip(most.min(bytes.len() - body.len())));
    }
    assert_same(&body, &bytes, "the sipped file");
    conn.expect_open();
}

/// Files that are kept in memory, small ones and such as are sent without a copy, in one pipeline, to clients that take
/// their time; and one that goes amid a reply.
#[test]
fn kept_files_come_whole_and_in_order_to_slow_readers() {
    let server = Server::builder().workers(2).start();
    let sizes = [
        60 * 1024,
        10,
        64 * 1024,
        20 * 1024,
        100 * 1024,
        0,
        8 * 1024 + 1,
    ];
    let files: Vec<(String, Vec<u8>)> = sizes
        .iter()
        .enumerate()
        .map(|(nr, size)| (format!("/dev1/{size}"), pattern(nr + size)[nr..].to_vec()))
        .collect();
    let mut last = None;
    for (name, bytes) in &files {
        last = Some(server.write(&name[1..], bytes));
    }
    wait_until_old(&last.expect("files"));
    let mut all = String::new();
    for (name, _) in files.iter().chain(&files).chain(files.iter().rev()) {
        all += &format!("GET {name} HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    let mut readers: Vec<Conn> = (0..16)
        .map(|_| Conn::connect_narrow(server.addr(), 2048))
        .collect();
    for round in 0..4 {
        for conn in &mut readers {
            conn.send(&all);
        }
        if round == 2 {
            // the server has the rest of its replies, or they are under way
            let mut goes = Conn::connect_narrow(server.addr(), 2048);
            goes.send(&all);
            goes.head_of_response().expect(200, true);
        }
        for conn in &mut readers {
            for (name, bytes) in files.iter().chain(&files).chain(files.iter().rev()) {
                let reply = conn.response();
                assert_same(&reply.expect(200, true).body, bytes, name);
            }
        }
    }
    server.stop();
}

#[test]
fn a_file_beyond_four_gib_has_its_length_and_its_far_bytes() {
    let server = Server::start();
    let path = server.write("dev1/sparse", "");
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(5 << 30).unwrap();
    let far = (4_u64 << 30) + 10;
    file.write_all_at(b"far away", far).unwrap();
    let mut conn = server.conn();
    assert_eq!(
        conn.head("/dev1/sparse").expect(200, true).content_length(),
        5 << 30
    );
    let range = format!("bytes={far}-{}", far + 7);
    let response = conn.get_with("/dev1/sparse", &[("Range", &range)]);
    response.expect(206, true);
    assert_eq!(
        response.must("Content-Range"),
        format!("bytes {far}-{}/{}", far + 7, 5_u64 << 30)
    );
    assert_eq!(response.body, b"far away");
    conn.send("GET /dev1/sparse HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(conn.head_of_response().content_length(), 5 << 30);
    assert_eq!(conn.read_exactly(1 << 20), vec![0; 1 << 20]);
    drop(conn);
    server.conn().expect_open();
}

/// The promised length can no longer be kept, and padding would be a lie.
#[test]
fn a_file_that_shrinks_while_it_is_sent_closes_the_connection() {
    let server = Server::start();
    let path = server.write("dev1/file", "");
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut conn = Conn::connect_narrow(server.addr(), 16 * 1024);
    conn.send("GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(conn.head_of_response().content_length(), 64 << 20);
    conn.read_exactly(1000);
    file.set_len(1 << 20).unwrap();
    let total = 1000 + conn.count_to_end();
    assert!(
        total < 64 << 20,
        "{total} bytes came of a file that has 1 MiB left"
    );
    let worker = server.worker_pids()[0];
    assert!(server.is_ours(worker), "the worker died of it");
    server.conn().expect_open();
}

/// Shrinking between the look at its size and the read: the reply must never promise more than comes, or the
/// client would wait for the rest.
#[test]
fn a_small_file_that_shrinks_under_its_reader_stalls_nobody() {
    let server = Server::start();
    let bytes = pattern(20_000);
    let path = server.write("dev1/file", &bytes);
    let file = fs::File::options().write(true).open(path).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                file.set_len(10_000).unwrap();
                file.write_all_at(&bytes[10_000..], 10_000).unwrap();
            }
        });
        let mut conn = server.conn();
        let _stop = SetOnDrop(&done);
        let (mut whole, mut closed) = (0, 0);
        for _ in 0..3000 {
            let _ = conn.try_send("GET /dev1/file HTTP/1.1\r\nHost: h\r\n\r\n");
            match conn.response_unless_closed() {
                Some(response) => {
                    whole += 1;
                    response.expect(200, true);
                    assert_same(
                        &response.body[..10_000],
                        &bytes[..10_000],
                        "what never changes",
                    );
                }
                None => {
                    closed += 1;
                    conn = server.conn();
                }
            }
        }
        assert!(whole > 0, "{closed} of 3000 replies were cut short");
    });
    server.conn().get("/dev1/file").expect(200, true);
}

#[test]
fn a_file_replaced_behind_our_back_is_seen_by_the_next_get() {
    let server = Server::start();
    let mut conn = server.conn();
    let mut last_etag = String::new();
    for turn in 0..50 {
        let bytes = format!("turn {turn}");
        server.write("dev1/new", &bytes);
        fs::rename(server.path("dev1/new"), server.path("dev1/file")).unwrap();
        let response = conn.get("/dev1/file");
        response.expect(200, true);
        assert_eq!(response.body, bytes.as_bytes());
        assert_ne!(response.etag(), last_etag, "another file, another ETag");
        last_etag = response.etag();
    }
    fs::remove_file(server.path("dev1/file")).unwrap();
    conn.get("/dev1/file").expect(404, true);
    fs::create_dir(server.path("dev1/file")).unwrap();
    conn.get("/dev1/file").expect(403, true);
}

#[test]
fn a_file_changed_in_place_is_seen_by_the_next_get() {
    let server = Server::start();
    let mut conn = server.conn();
    for turn in 0..50_usize {
        let bytes = pattern(turn * 37);
        server.write("dev1/file", &bytes);
        let response = conn.get("/dev1/file");
        response.expect(200, true);
        assert_same(&response.body, &bytes, "the file as it is now");
    }
}

#[test]
fn a_query_is_ignored_and_percent_escapes_are_decoded() {
    let server = Server::start();
    server.write("dev1/plain", "plain");
    server.write("dev1/with blank", "blank");
    server.write("dev1/käse_~!$&'()*+,;=:@", "utf-8");
    server.write("dev1/100%", "percent");
    server.write("dev1/a?b", "question");
    server.write("dev1/a..b", "dots");
    server.write("dev1/...", "three");
    let cases: [(&str, &[u8]); 11] = [
        ("/dev1/plain?x=y", b"plain"),
        ("/dev1/plain?x=/../y", b"plain"),
        ("/dev1/pl%61in", b"plain"),
        ("/%64ev1/plain", b"plain"),
        ("/dev1%2fplain", b"plain"),
        ("/dev1/with%20blank", b"blank"),
        ("/dev1/k%c3%A4se_~!$&'()*+,;=:@", b"utf-8"),
        ("/dev1/100%25", b"percent"),
        ("/dev1/a%3fb", b"question"),
        ("/dev1/a..b", b"dots"),
        ("/dev1/...", b"three"),
    ];
    let mut conn = server.conn();
    for (target, want) in cases {
        let response = conn.get(target);
        assert_eq!(
            (response.status, response.body.as_slice()),
            (200, want),
            "GET {target}"
        );
    }
}

#[test]
fn a_target_that_cannot_be_decoded_is_400_and_closes() {
    let server = Server::start();
    for target in [
        "/dev1/%",
        "/dev1/%4",
        "/dev1/%zz",
        "/dev1/%00",
        "/dev1/a%0ab",
        "/dev1/%0d",
        "/dev1/%1f",
        "/dev1/%7f",
    ] {
        let mut conn = server.conn();
        let response = conn.get(target);
        assert_eq!(response.status, 400, "GET {target}");
        response.expect(400, false);
        conn.expect_eof();
    }
}

#[test]
fn a_path_of_1024_bytes_is_served_and_a_longer_one_is_414() {
    let server = Server::start();
    let below = |len: usize| {
        // components of at most 100 bytes, since a name has at most 255
        let mut path = String::from("/dev1");
        while path.len() < len {
            path.push('/');
            path.push_str(&"x".repeat(100.min(len - path.len())));
        }
        path
    };
    let longest = below(1000);
    server.write(&longest[1..], "deep");
    let mut conn = server.conn();
    assert_eq!(conn.get(&longest).expect(200, true).body, b"deep");
    // escapes count once, as the byte that they mean
    let escaped: String = longest
        .bytes()
        .map(|b| {
            if b == b'x' {
                "%78".into()
            } else {
                char::from(b).to_string()
            }
        })
        .collect();
    assert_eq!(conn.get(&escaped).expect(200, true).body, b"deep");
    let too_long = server.conn().get(&below(1100));
    too_long.expect(414, false);
}

/// Replies are checked against the clock as they are read; a local time would be hours off.
#[test]
fn dates_are_gmt_in_every_time_zone() {
    let server = Server::builder()
        .env("TZ", "Asia/Tokyo")
        .env("LC_ALL", "ja_JP.UTF-8")
        .start();
    let path = server.write("dev1/file", "x");
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let response = server.conn().get("/dev1/file");
    assert_eq!(
        response.expect(200, true).must("Last-Modified"),
        httpdate::fmt_http_date(modified)
    );
}
