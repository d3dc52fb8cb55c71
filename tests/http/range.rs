//! Range requests: single, multiple, those that cannot be met, and those that are none.

use crate::harness::{Response, Server, assert_same, pattern, show};

const SIZE: usize = 1000;

fn server_with_file() -> (Server, Vec<u8>) {
    let server = Server::start();
    let bytes = pattern(SIZE);
    server.write("dev1/file", &bytes);
    server.write("dev1/empty", "");
    (server, bytes)
}

#[test]
fn a_single_range_is_206_with_its_bytes() {
    let (server, bytes) = server_with_file();
    let cases = [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=999-999", 999, 999),
        ("bytes=500-", 500, 999),
        ("bytes=0-", 0, 999),
        ("bytes=900-5000", 900, 999),
        ("bytes=900-9223372036854775807", 900, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-100", 900, 999),
        ("bytes=-1000", 0, 999),
        ("bytes=007-0010", 7, 10),
        ("Bytes=1-2", 1, 2),
    ];
    let mut conn = server.conn();
    for (range, first, last) in cases {
        let response = conn.get_with("/dev1/file", &[("Range", range)]);
        assert_eq!(response.status, 206, "{range}");
        response.expect(206, true);
        assert_eq!(
            response.must("Content-Range"),
            format!("bytes {first}-{last}/{SIZE}"),
            "{range}"
        );
        assert_eq!(response.content_length(), last - first + 1, "{range}");
        assert_eq!(
            response.must("Content-Type"),
            "application/octet-stream",
            "{range}"
        );
        assert_same(
            &response.body,
            &bytes[first as usize..=last as usize],
            range,
        );
    }
    conn.expect_open();
}

#[test]
fn a_range_reply_has_the_reference_s_headers_in_its_order() {
    let (server, _) = server_with_file();
    let mut conn = server.conn();
    let response = conn.get_with("/dev1/file", &[("Range", "bytes=10-19")]);
    let (date, modified) = (response.must("Date"), response.must("Last-Modified"));
    let want = format!(
        "HTTP/1.1 206 Partial Content\r\nStatus: 206 Partial Content\r\nDate: {date}\r\n\
         Last-Modified: {modified}\r\nContent-Length: 10\r\nContent-Type: application/octet-stream\r\n\
         Content-Range: bytes 10-19/1000\r\nConnection: keep-alive\r\nETag: {}\r\n\r\n",
        response.etag()
    );
    assert_eq!(String::from_utf8_lossy(&response.head), want);
}

#[test]
fn a_range_that_cannot_be_met_is_416_and_tells_the_size() {
    let (server, _) = server_with_file();
    let cases = [
        ("/dev1/file", "bytes=1000-", 1000),
        ("/dev1/file", "bytes=1000-1000", 1000),
        ("/dev1/file", "bytes=5000-6000", 1000),
        ("/dev1/file", "bytes=5-4", 1000),
        ("/dev1/file", "bytes=-", 1000),
        ("/dev1/file", "bytes=-0", 1000),
        ("/dev1/empty", "bytes=0-", 0),
        ("/dev1/empty", "bytes=0-0", 0),
        ("/dev1/empty", "bytes=-1", 0),
        ("/dev1/empty", "bytes=-0", 0),
        ("/dev1/file", "bytes=1000-,2000-3000", 1000),
    ];
    let mut conn = server.conn();
    for (target, range, total) in cases {
        let response = conn.get_with(target, &[("Range", range)]);
        assert_eq!(response.status, 416, "{target} {range}");
        response.expect(416, true);
        assert_eq!(
            response.must("Content-Range"),
            format!("bytes */{total}"),
            "{target} {range}"
        );
    }
    conn.expect_open();
}

#[test]
fn a_suffix_longer_than_the_file_is_the_whole_file() {
    let (server, bytes) = server_with_file();
    let mut conn = server.conn();
    for range in ["bytes=-1001", "bytes=-9223372036854775807"] {
        let response = conn.get_with("/dev1/file", &[("Range", range)]);
        response.expect(200, true);
        assert_same(&response.body, &bytes, range);
    }
}

#[test]
fn an_unknown_unit_is_no_range() {
    let (server, bytes) = server_with_file();
    let mut conn = server.conn();
    for range in ["items=0-4", "lines=1-2", "x=bytes"] {
        let response = conn.get_with("/dev1/file", &[("Range", range)]);
        response.expect(200, true);
        assert_same(&response.body, &bytes, range);
    }
}

#[test]
fn a_malformed_set_is_400_and_closes() {
    let (server, _) = server_with_file();
    for range in [
        "bytes=",
        "bytes=5",
        "bytes=x-y",
        "bytes=1-2-3",
        "bytes=0x1-5",
        "bytes=+1-5",
        "bytes=1-x",
        "bytes=--5",
        "bytes=1 - 2",
        "bytes=0-1;2-3",
        "bytes=0-1,x",
    ] {
        let mut conn = server.conn();
        let response = conn.get_with("/dev1/file", &[("Range", range)]);
        assert_eq!(response.status, 400, "{range}");
        response.expect(400, false);
        conn.expect_eof();
    }
}

#[test]
fn a_number_beyond_63_bits_is_507_and_closes() {
    let (server, _) = server_with_file();
    for range in [
        "bytes=9223372036854775808-",
        "bytes=0-99999999999999999999999",
        "bytes=-18446744073709551616",
    ] {
        let mut conn = server.conn();
        let response = conn.get_with("/dev1/file", &[("Range", range)]);
        assert_eq!(response.status, 507, "{range}");
        response.expect(507, false);
        conn.expect_eof();
    }
}

#[test]
fn the_last_of_several_range_headers_wins() {
    let (server, bytes) = server_with_file();
    let mut conn = server.conn();
    let response = conn.get_with(
        "/dev1/file",
        &[("Range", "bytes=0-0"), ("range", "bytes=10-12")],
    );
    response.expect(206, true);
    assert_same(&response.body, &bytes[10..=12], "the last range");
}

/// The reference aborted on it.
#[test]
fn a_range_of_the_root_harms_nobody() {
    let server = Server::start();
    let worker = server.worker_pids();
    let mut conn = server.conn();
    for range in ["bytes=0-", "bytes=0-0", "bytes=-0", "bytes=-5", "bytes=-"] {
        let response = conn.get_with("/", &[("Range", range)]);
        assert!(
            matches!(response.status, 200 | 416),
            "{range}: {}",
            response.status
        );
        conn.expect_open();
    }
    assert_eq!(server.worker_pids(), worker);
    assert!(server.is_ours(worker[0]));
}

/// Splits a multipart/byteranges body into (first, last, total, bytes).
#[track_caller]
fn parts(response: &Response) -> Vec<(usize, usize, usize, Vec<u8>)> {
    let kind = response.must("Content-Type");
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("{kind}"));
    let boundary = boundary.trim_matches('"');
    assert!(
        !boundary.is_empty() && boundary.len() <= 70,
        "a boundary: {kind}"
    );
    let delimiter = format!("--{boundary}");
    let mut rest = response
        .body
        .strip_prefix(b"\r\n")
        .unwrap_or(&response.body);
    let mut parts = Vec::new();
    loop {
        rest = rest
            .strip_prefix(delimiter.as_bytes())
            .unwrap_or_else(|| panic!("a delimiter: {}", show(rest)));
        if let Some(end) = rest.strip_prefix(b"--") {
            assert!(
                matches!(end, b"" | b"\r\n"),
                "nothing behind the last delimiter: {}",
                show(end)
            );
            return parts;
        }
        rest = rest
            .strip_prefix(b"\r\n")
            .unwrap_or_else(|| panic!("CRLF: {}", show(rest)));
        let head_len = rest
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("the end of a part's head")
            + 4;
        let (head, behind) = rest.split_at(head_len);
        let head = std::str::from_utf8(head).unwrap();
        let lines: Vec<&str> = head.trim_end_matches("\r\n").split("\r\n").collect();
        assert!(
            lines.contains(&"Content-Type: application/octet-stream"),
            "{head}"
        );
        let range = lines
            .iter()
            .find_map(|line| line.strip_prefix("Content-Range: bytes "))
            .expect("a range");
        let (span, total) = range.split_once('/').unwrap();
        let (first, last) = span.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let (bytes, behind) = behind.split_at(last - first + 1);
        parts.push((first, last, total.parse().unwrap(), bytes.to_vec()));
        rest = behind
            .strip_prefix(b"\r\n")
            .unwrap_or_else(|| panic!("CRLF behind a part: {}", show(behind)));
    }
}

#[test]
fn several_ranges_are_multipart_in_the_order_asked() {
    let (server, bytes) = server_with_file();
    let cases: [(&str, &[(usize, usize)]); 5] = [
        ("bytes=0-0,999-999", &[(0, 0), (999, 999)]),
        ("bytes=0-99,200-299,-50", &[(0, 99), (200, 299), (950, 999)]),
        ("bytes=500-509, 0-9", &[(500, 509), (0, 9)]),
        ("bytes=10-19 , 30-39", &[(10, 19), (30, 39)]),
        ("bytes=0-9,990-5000,2000-3000", &[(0, 9), (990, 999)]),
    ];
    let mut conn = server.conn();
    for (range, spans) in cases {
        let response = conn.get_with("/dev1/file", &[("Range", range)]);
        assert_eq!(response.status, 206, "{range}");
        response.expect(206, true);
        let parts = parts(&response);
        assert_eq!(parts.len(), spans.len(), "{range}");
        for ((first, last, total, body), span) in parts.iter().zip(spans) {
            assert_eq!(((*first, *last), *total), (*span, SIZE), "{range}");
            assert_same(body, &bytes[*first..=*last], range);
        }
    }
    conn.expect_open();
}

#[test]
fn large_parts_come_whole_and_the_connection_stays_in_step() {
    let server = Server::start();
    let bytes = pattern(6 << 20);
    server.write("dev1/file", &bytes);
    let mut conn = server.conn();
    let response = conn.get_with(
        "/dev1/file",
        &[("Range", "bytes=0-2097151,4000000-4999999,-1000000")],
    );
    response.expect(206, true);
    let spans: Vec<_> = parts(&response)
        .into_iter()
        .map(|(first, last, _, body)| (first, last, body))
        .collect();
    assert_eq!(spans.len(), 3);
    for (first, last, body) in &spans {
        assert_same(body, &bytes[*first..=*last], "a large part");
    }
    conn.expect_open();
}

#[test]
fn one_range_left_of_several_is_its_bytes() {
    let (server, bytes) = server_with_file();
    let mut conn = server.conn();
    let response = conn.get_with("/dev1/file", &[("Range", "bytes=5-9,4000-")]);
    response.expect(206, true);
    if response.header("Content-Range").is_some() {
        assert_eq!(response.must("Content-Range"), "bytes 5-9/1000");
        assert_same(&response.body, &bytes[5..=9], "the one range");
    } else {
        assert_eq!(parts(&response), [(5, 9, SIZE, bytes[5..=9].to_vec())]);
    }
}

#[test]
fn too_many_ranges_are_the_whole_file() {
    let (server, bytes) = server_with_file();
    let many: Vec<String> = (0..400).map(|i| format!("{0}-{0}", i * 2)).collect();
    let twice: Vec<String> = many.iter().cycle().take(5000).cloned().collect();
    let mut conn = server.conn();
    let range = format!("bytes={}", twice.join(","));
    let response = conn.get_with("/dev1/file", &[("Range", &range)]);
    response.expect(200, true);
    assert_same(&response.body, &bytes, "the whole file");
    conn.expect_open();
}

/// A few ranges over everything would make the reply many times the file.
#[test]
fn overlapping_ranges_never_cost_more_than_a_few_files() {
    let (server, _) = server_with_file();
    let mut conn = server.conn();
    let range = format!("bytes={}", vec!["0-"; 1000].join(","));
    let response = conn.get_with("/dev1/file", &[("Range", &range)]);
    assert!(matches!(response.status, 200 | 206), "{}", response.status);
    assert!(
        response.body.len() < 200 * SIZE,
        "{} bytes for a file of {SIZE}",
        response.body.len()
    );
    conn.expect_open();
}

#[test]
fn if_range_gives_the_range_only_while_the_file_is_the_same() {
    let (server, bytes) = server_with_file();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::options()
        .write(true)
        .open(server.path("dev1/file"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    let mut conn = server.conn();
    let first = conn.get("/dev1/file");
    let (etag, modified) = (first.etag(), first.must("Last-Modified").to_owned());
    let earlier = httpdate::fmt_http_date(old - std::time::Duration::from_secs(60));
    let later = httpdate::fmt_http_date(old + std::time::Duration::from_secs(60));
    let weak = format!("W/{etag}");
    let cases: [(&str, u16); 6] = [
        (&etag, 206),
        (&modified, 206),
        ("\"another\"", 200),
        (&weak, 200),
        (&earlier, 200),
        (&later, 200),
    ];
    for (validator, status) in cases {
        let response = conn.get_with(
            "/dev1/file",
            &[("Range", "bytes=10-19"), ("If-Range", validator)],
        );
        assert_eq!(response.status, status, "If-Range: {validator}");
        let want = if status == 206 {
            &bytes[10..=19]
        } else {
            &bytes[..]
        };
        assert_same(&response.body, want, validator);
    }
    // a range that cannot be met is not even looked at when the file has changed
    let response = conn.get_with(
        "/dev1/file",
        &[("Range", "bytes=5000-"), ("If-Range", "\"another\"")],
    );
    response.expect(200, true);
}

#[test]
fn a_range_after_a_put_is_of_the_new_file() {
    let (server, _) = server_with_file();
    let mut conn = server.conn();
    let old = conn.get("/dev1/file").etag();
    conn.put("/dev1/file", b"something new").expect(201, true);
    let response = conn.get_with("/dev1/file", &[("Range", "bytes=0-8"), ("If-Range", &old)]);
    assert_eq!(response.expect(200, true).body, b"something new");
    let response = conn.get_with("/dev1/file", &[("Range", "bytes=0-8")]);
    assert_eq!(response.expect(206, true).body, b"something");
}
