use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rmogstored::http::head::{Parse, parse};

use super::invariants::head::check;

const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.0",
    "GET /dev1/a%20b?c HTTP/1.1",
    "HEAD http://h:1/a HTTP/1.1",
    "PUT /dev1/a HTTP/1.1",
    "PUT /dev1/a HTTP/1.0",
    "DELETE //dev1/a HTTP/1.1",
    "MKCOL /dev1 HTTP/1.1",
];

const LINES: &[&str] = &[
    "Host: h",
    "Host:",
    "Connection: close",
    "Connection: TE, keep-alive",
    "Content-Length: 5",
    "Content-Length: 9223372036854775808",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Expect: 100-continue",
    "Range: bytes=0-4",
    "Range: bytes=-5",
    "Content-Range: bytes 0-4/*",
    "Content-Range: bytes 0-4/5",
    "If-Match: \"a\", \"b\"",
    "If-None-Match: *",
    "If-Range: \"x\"",
    "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    "If-Unmodified-Since: x",
    "Content-MD5: kDPg4wXyR8DDyA0MeEjIsw==",
    "Trailer: Content-MD5",
    "X: y",
    "X_y:",
    " fold",
    "Name : x",
    "X: a\tb",
    "X: \u{e9}",
];

/// A head of lines that mean something, and one without anything that is refused for sure.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    (select(REQUEST_LINES), vec(select(LINES), 0..8)).prop_map(|(request, lines)| {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        format!("{request}\r\nHost: x\r\n{lines}\r\n").into_bytes()
    })
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn heads_of_known_lines(head in heads(), after in vec(any::<u8>(), 0..20)) {
        check(&head);
        check(&[head, after].concat());
    }

    #[test]
    fn heads_with_a_byte_changed(
        mut head in heads(),
        at in any::<prop::sample::Index>(),
        byte in select(b"\r\n\t\0 :;,/?#%aG0\x80".as_slice()),
    ) {
        let at = at.index(head.len());
        head[at] = byte;
        check(&head);
    }

    #[test]
    fn heads_with_a_byte_more_or_less(
        mut head in heads(),
        at in any::<prop::sample::Index>(),
        byte in select(b"\r\n\t :".as_slice()),
        more: bool,
    ) {
        let at = at.index(head.len());
        if more { head.insert(at, byte) } else { head.remove(at); }
        check(&head);
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        check(&bytes);
        check(&[b"GET /", &bytes[..], b" HTTP/1.0\r\n\r\n"].concat());
        check(&[b"GET / HTTP/1.0\r\nX:", &bytes[..], b"\r\n\r\n"].concat());
    }

    #[test]
    fn any_pipeline_is_taken_apart(heads in vec(heads(), 1..5)) {
        let stream = heads.concat();
        let mut rest = &stream[..];
        for head in &heads {
            match (parse(rest, &mut 0), parse(head, &mut 0)) {
                (Parse::Complete(one, end), Parse::Complete(alone, all)) => {
                    prop_assert_eq!((one, end), (alone, all));
                    rest = &rest[end..];
                }
                (one, alone) => {
                    prop_assert_eq!(one, alone);
                    return Ok(());
                }
            }
        }
        prop_assert!(rest.is_empty());
    }
}
