//! Conditional requests as RFC 9110 section 13 has them, over strong ETags.

use std::fs::File;
use std::time::{Duration, SystemTime};

use crate::harness::{Conn, PATIENCE, Response, Server, eventually};

const HOUR: Duration = Duration::from_secs(3600);

struct World {
    server: Server,
    conn: Conn,
    etag: String,
    modified: String,
    earlier: String,
    later: String,
}

/// A file that is an hour old, and the validators around it.
fn world() -> World {
    let server = Server::start();
    let path = server.write("dev1/file", "content");
    let when = SystemTime::now() - HOUR;
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(when)
        .unwrap();
    let mut conn = server.conn();
    let first = conn.get("/dev1/file");
    let (etag, modified) = (first.etag(), first.must("Last-Modified").to_owned());
    let earlier = httpdate::fmt_http_date(when - HOUR);
    let later = httpdate::fmt_http_date(when + Duration::from_secs(60));
    World {
        server,
        conn,
        etag,
        modified,
        earlier,
        later,
    }
}

/// A 304 has no body and no length but the one that the 200 would have.
#[track_caller]
fn check_304(response: &Response, etag: &str) {
    response.expect(304, true);
    assert_eq!(response.etag(), etag);
    assert!(
        response
            .header("Content-Length")
            .is_none_or(|length| length == "7"),
        "{:?}",
        response.headers
    );
}

#[test]
fn the_combinations_of_rfc_9110_have_their_status() {
    let World {
        server: _server,
        mut conn,
        etag,
        modified,
        earlier,
        later,
    } = world();
    let weak = format!("W/{etag}");
    let list = format!("\"a\", {etag}, \"b\"");
    let tight = format!("\"a\",W/{etag},\"b\"");
    let inner = etag.trim_matches('"').to_owned();
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("If-None-Match", &etag)], 304),
        (&[("If-None-Match", &weak)], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", &list)], 304),
        (&[("If-None-Match", &tight)], 304),
        (&[("If-None-Match", "\"other\"")], 200),
        (&[("If-None-Match", "\"a\", \"b,c\"")], 200),
        (&[("If-None-Match", &inner)], 200),
        (&[("If-Modified-Since", &modified)], 304),
        (&[("If-Modified-Since", &later)], 304),
        (&[("If-Modified-Since", &earlier)], 200),
        (&[("If-Modified-Since", "not a date")], 200),
        // If-None-Match decides alone when both are there
        (
            &[
                ("If-None-Match", "\"other\""),
                ("If-Modified-Since", &later),
            ],
            200,
        ),
        (
            &[("If-Modified-Since", &earlier), ("If-None-Match", &etag)],
            304,
        ),
        (&[("If-Match", &etag)], 200),
        (&[("If-Match", "*")], 200),
        (&[("If-Match", &list)], 200),
        (&[("If-Match", "\"other\"")], 412),
        // strong comparison: a weak validator never matches here
        (&[("If-Match", &weak)], 412),
        (&[("If-Unmodified-Since", &modified)], 200),
        (&[("If-Unmodified-Since", &later)], 200),
        (&[("If-Unmodified-Since", &earlier)], 412),
        (&[("If-Unmodified-Since", "not a date")], 200),
        // If-Match decides alone when both are there
        (
            &[("If-Match", &etag), ("If-Unmodified-Since", &earlier)],
            200,
        ),
        // first If-Match, then If-None-Match
        (&[("If-None-Match", &etag), ("If-Match", "\"other\"")], 412),
        (&[("If-None-Match", &etag), ("If-Match", &etag)], 304),
        // a range counts only when the conditions let it
        (&[("Range", "bytes=0-1"), ("If-None-Match", &etag)], 304),
        (
            &[("Range", "bytes=0-1"), ("If-None-Match", "\"other\"")],
            206,
        ),
        (&[("Range", "bytes=0-1"), ("If-Match", "\"other\"")], 412),
        (&[("Range", "bytes=0-1"), ("If-Match", &etag)], 206),
    ];
    for (headers, status) in cases {
        let response = conn.get_with("/dev1/file", headers);
        assert_eq!(response.status, *status, "{headers:?}");
        match status {
            304 => check_304(&response, &etag),
            200 => assert_eq!(response.expect(200, true).body, b"content"),
            206 => assert_eq!(response.expect(206, true).body, b"co"),
            _ => assert_eq!(response.expect(412, true).body, b""),
        }
    }
    conn.expect_open();
}

#[test]
fn head_is_conditional_too() {
    let World {
        server: _server,
        mut conn,
        etag,
        earlier,
        ..
    } = world();
    check_304(
        &conn.request("HEAD", "/dev1/file", &[("If-None-Match", &etag)], b""),
        &etag,
    );
    conn.request("HEAD", "/dev1/file", &[("If-Match", "\"other\"")], b"")
        .expect(412, true);
    conn.request(
        "HEAD",
        "/dev1/file",
        &[("If-Modified-Since", &earlier)],
        b"",
    )
    .expect(200, true);
    conn.expect_open();
}

/// Conditions are about a reply that would be good.
#[test]
fn a_missing_file_is_404_whatever_the_conditions() {
    let World {
        server: _server,
        mut conn,
        etag,
        later,
        ..
    } = world();
    for header in [
        ("If-None-Match", "*"),
        ("If-None-Match", &etag),
        ("If-Modified-Since", &later),
    ] {
        conn.get_with("/dev1/missing", &[header]).expect(404, true);
    }
}

#[test]
fn the_etag_is_stable_and_changes_with_the_file() {
    let World {
        server,
        mut conn,
        etag,
        ..
    } = world();
    assert_eq!(conn.get("/dev1/file").etag(), etag);
    assert_eq!(server.conn().head("/dev1/file").etag(), etag);
    assert_eq!(
        conn.get_with("/dev1/file", &[("Range", "bytes=0-0")])
            .etag(),
        etag
    );
    // the same bytes again are another file; a cache must not mix them up with what comes next
    conn.put("/dev1/file", b"content").expect(201, true);
    let replaced = conn.get("/dev1/file").etag();
    assert_ne!(replaced, etag);
    // a change in place that a clock of whole seconds would miss, once the file system's clock has moved
    let mtime = || {
        std::fs::metadata(server.path("dev1/file"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = mtime();
    eventually("a tick of the file system's clock", PATIENCE, || {
        server.write("dev1/file", "CONTENT");
        mtime() != before
    });
    let changed = conn.get("/dev1/file");
    assert_eq!(changed.body, b"CONTENT");
    assert_ne!(changed.etag(), replaced);
    conn.get_with("/dev1/file", &[("If-None-Match", &replaced)])
        .expect(200, true);
}

/// RFC 9110 13.1: the method must not be performed. Whether the connection stays is ours to choose.
#[test]
fn a_delete_whose_condition_fails_deletes_nothing() {
    let World { server, etag, .. } = world();
    for header in [
        ("If-Match", "\"other\""),
        ("If-None-Match", "*"),
        ("If-None-Match", &etag),
    ] {
        let response = server
            .conn()
            .request("DELETE", "/dev1/file", &[header], b"");
        assert_eq!(response.status, 412, "{header:?}");
        assert!(server.path("dev1/file").exists(), "{header:?}");
    }
    server
        .conn()
        .request("DELETE", "/dev1/file", &[("If-Match", &etag)], b"")
        .expect(204, true);
    assert!(!server.path("dev1/file").exists());
}

#[test]
fn a_put_whose_condition_fails_replaces_nothing() {
    let World { server, etag, .. } = world();
    for header in [("If-Match", "\"other\""), ("If-None-Match", "*")] {
        let response = server
            .conn()
            .request("PUT", "/dev1/file", &[header], b"new");
        assert_eq!(response.status, 412, "{header:?}");
        assert_eq!(server.read("dev1/file").unwrap(), b"content", "{header:?}");
    }
    let response = server
        .conn()
        .request("PUT", "/dev1/fresh", &[("If-Match", "*")], b"new");
    assert_eq!(response.status, 412);
    assert_eq!(server.names(), ["dev1/file"]);
    server
        .conn()
        .request("PUT", "/dev1/fresh", &[("If-None-Match", "*")], b"new")
        .expect(201, true);
    assert_eq!(server.read("dev1/fresh").unwrap(), b"new");
    server
        .conn()
        .request("PUT", "/dev1/file", &[("If-Match", &etag)], b"new")
        .expect(201, true);
    assert_eq!(server.read("dev1/file").unwrap(), b"new");
}
