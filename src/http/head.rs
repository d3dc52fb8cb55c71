//! A request head: bytes in, a `Head` or a refusal out. httparse splits the lines; what
//! it is generous about is refused here, because two servers in a row that read one
//! request differently are how requests are smuggled.

pub mod field;
mod notes;

use std::mem::MaybeUninit;

use self::field::is_authority;
use self::notes::Notes;
use super::status::Status;

/// Bytes of a whole head, blank line included.
pub const MAX_HEAD: usize = 64 * 1024;
/// Bytes of the target as sent: host, path and query.
pub const MAX_TARGET: usize = 8 * 1024;
/// Header lines of one head.
pub const MAX_FIELDS: usize = 256;
/// A request line that is longer than this has a target that is longer than
/// `MAX_TARGET`, or is malformed.
const MAX_REQUEST_LINE: usize = "DELETE ".len() + MAX_TARGET + " HTTP/1.1\r\n".len();

/// What a parser says of the bytes that it was shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Parse<T> {
    /// The thing, and how many bytes it took.
    Complete(T, usize),
    Partial,
    Invalid(Bad),
}

/// A request that is refused as it stands: what the client is told, and what the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad {
    pub status: Status,
    pub why: &'static str,
}

impl Bad {
    /// 400
    pub const fn request(why: &'static str) -> Bad {
        Bad {
            status: Status::BadRequest,
            why,
        }
    }

    /// 507, the reference's answer to numbers that no file offset can hold
    pub const fn storage(why: &'static str) -> Bad {
        Bad {
            status: Status::InsufficientStorage,
            why,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Put,
    Delete,
    Mkcol,
}

impl Method {
    pub const ALL: [Method; 5] = [
        Method::Get,
        Method::Head,
        Method::Put,
        Method::Delete,
        Method::Mkcol,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Mkcol => "MKCOL",
        }
    }

    fn from_name(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// How the body of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The head said nothing of a body; for a PUT that is an empty file.
    None,
    Length(u64),
    Chunked,
}

impl Framing {
    /// Whether no body follows.
    pub fn is_empty(&self) -> bool {
        matches!(self, Framing::None | Framing::Length(0))
    }
}

/// `Content-Range: bytes first-last/total` of a PUT; `first <= last`, `last < total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    pub first: u64,
    pub last: u64,
    /// `None` for `*`
    pub total: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub method: Method,
    /// Starts with `/`, still percent-encoded; without host and query.
    pub target: &'a [u8],
    pub version_1_1: bool,
    pub keep_alive: bool,
    pub framing: Framing,
    /// The client waits for `100 Continue` before it sends the body; never set when
    /// there is no body.
    pub expect_continue: bool,
    pub range: Option<&'a [u8]>,
    pub if_range: Option<&'a [u8]>,
    pub if_match: Vec<&'a [u8]>,
    pub if_none_match: Vec<&'a [u8]>,
    pub if_modified_since: Option<&'a [u8]>,
    pub if_unmodified_since: Option<&'a [u8]>,
    pub content_md5: Option<[u8; 16]>,
    /// Looked at for PUT alone; `framing` is then its length.
    pub content_range: Option<ContentRange>,
    /// A Content-MD5 is announced as a trailer; never set unless the body is chunked.
    pub trailer_md5: bool,
}

/// Looks for a request head at the start of `buf`.
///
/// `looked` is the caller's memory between calls with a growing `buf`: how far the end
/// of the head was searched, so that a client that sends single bytes costs linear
/// time. It starts at 0, and is 0 again after `Complete`.
pub fn parse<'a>(buf: &'a [u8], looked: &mut usize) -> Parse<Head<'a>> {
    let verdict = match find_end(buf, *looked) {
        Ok(Some(end)) => {
            *looked = 0;
            parse_whole(&buf[..end]).map(|head| Parse::Complete(head, end))
        }
        Ok(None) => {
            *looked = buf.len();
            Ok(Parse::Partial)
        }
        Err(bad) => Err(bad),
    };
    verdict.unwrap_or_else(Parse::Invalid)
}

/// The end of the head, if it is there. Refuses early what more bytes cannot mend.
fn find_end(buf: &[u8], looked: usize) -> Result<Option<usize>, Bad> {
    let window = &buf[..buf.len().min(MAX_HEAD)];
    let looked = looked.min(window.len());
    for at in memchr::memchr_iter(b'\n', &window[looked..]) {
        let end = looked + at + 1;
        // httparse would take a bare LF, and an empty line before the request
        match window[..end] {
            [.., b'\r', b'\n', b'\r', b'\n'] => return Ok(Some(end)),
            [b'\r', b'\n'] => return Err(Bad::request("empty line before the request")),
            [.., b'\r', b'\n'] => {}
            _ => return Err(Bad::request("bare LF in the head")),
        }
    }
    if !Method::ALL.into_iter().any(|method| may_start(buf, method)) {
        return Err(Bad::request("unknown method"));
    }
    // asked once, when the limit is passed: a slow client must not pay for this search
    // with every byte
    let passed = looked <= MAX_REQUEST_LINE && buf.len() > MAX_REQUEST_LINE;
    if passed && memchr::memchr(b'\n', &buf[..MAX_REQUEST_LINE]).is_none() {
        return Err(Bad {
            status: Status::UriTooLong,
            why: "request line too long",
        });
    }
    if buf.len() >= MAX_HEAD {
        return Err(Bad {
            status: Status::HeadTooLarge,
            why: "head too large",
        });
    }
    Ok(None)
}

fn may_start(buf: &[u8], method: Method) -> bool {
    let name = method.name().as_bytes();
    match buf.get(name.len()) {
        Some(after) => *after == b' ' && buf.starts_with(name),
        None => name.starts_with(buf),
    }
}

/// `bytes` ends with the only empty line that is in it, and has no bare LF.
fn parse_whole(bytes: &[u8]) -> Result<Head<'_>, Bad> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
        Ok(_) => return Err(Bad::request("malformed head")),
        Err(error) => return Err(refusal(error)),
    }
    // httparse fills all three in before it says Complete
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Bad::request("malformed request line"));
    };
    let method = Method::from_name(method).ok_or(Bad::request("unknown method"))?;
    let target = path_of(target.as_bytes())?;
    let no_tabs = memchr::memchr(b'\t', bytes).is_none();
    let mut notes = Notes::new(method, target, version == 1);
    for field in &*request.headers {
        // RFC 9110 would let a tab pass within a value; the reference does not
        if !no_tabs && field.value.contains(&b'\t') {
            return Err(Bad::request("tab in a header value"));
        }
        notes.take(field.name.as_bytes(), field.value)?;
    }
    notes.finish()
}

fn refusal(error: httparse::Error) -> Bad {
    match error {
        httparse::Error::TooManyHeaders => Bad {
            status: Status::HeadTooLarge,
            why: "too many header lines",
        },
        httparse::Error::HeaderName => Bad::request("malformed header name"),
        httparse::Error::HeaderValue => Bad::request("malformed header value"),
        httparse::Error::Version => Bad::request("unknown HTTP version"),
        _ => Bad::request("malformed request line"),
    }
}

/// Cuts `http://host` and the query off.
fn path_of(target: &[u8]) -> Result<&[u8], Bad> {
    const BAD: Bad = Bad::request("malformed request target");
    if target.len() > MAX_TARGET {
        return Err(Bad {
            status: Status::UriTooLong,
            why: "request target too long",
        });
    }
    let mut path = target;
    if target.first() != Some(&b'/') {
        const SCHEME: &[u8] = b"http://";
        let (scheme, rest) = target.split_at_checked(SCHEME.len()).ok_or(BAD)?;
        let slash = memchr::memchr(b'/', rest).ok_or(BAD)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) || slash == 0 || !is_authority(&rest[..slash]) {
            return Err(BAD);
        }
        path = &rest[slash..];
    }
    match memchr::memchr2(b'?', b'#', path) {
        None => Ok(path),
        // a fragment is never sent (RFC 9112 3.2)
        Some(at) if path[at] == b'#' || memchr::memchr(b'#', &path[at..]).is_some() => Err(BAD),
        Some(at) => Ok(&path[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Parse<Head<'_>> {
        parse(text.as_bytes(), &mut 0)
    }

    fn accepted(text: &str) -> Head<'_> {
        match whole(text) {
            Parse::Complete(head, end) if end == text.len() => head,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn refused(text: &str) -> u16 {
        match whole(text) {
            Parse::Invalid(bad) => bad.status.code(),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    /// A head with these lines besides the request line and Host.
    fn with(method: &str, lines: &str) -> String {
        format!("{method} /dev1/a HTTP/1.1\r\nHost: h\r\n{lines}\r\n")
    }

    #[test]
    fn request_lines() {
        for (line, target) in [
            ("GET / HTTP/1.0", "/"),
            ("HEAD //dev1/usage HTTP/1.0", "//dev1/usage"),
            ("PUT /dev1/a%20b HTTP/1.0", "/dev1/a%20b"),
            ("DELETE /a..b?x=/../y HTTP/1.0", "/a..b"),
            ("MKCOL /? HTTP/1.0", "/"),
            ("GET http://h/ HTTP/1.0", "/"),
            ("GET HTTP://127.0.0.1:7500/a?b HTTP/1.0", "/a"),
            ("GET http://[::1]:7500//a HTTP/1.0", "//a"),
            (
                "GET /_~!$&'()*+,;=:@[]^`{|}\"\\<> HTTP/1.0",
                "/_~!$&'()*+,;=:@[]^`{|}\"\\<>",
            ),
            ("GET /grün HTTP/1.0", "/grün"),
        ] {
            let text = format!("{line}\r\n\r\n");
            let head = accepted(&text);
            assert_eq!(head.target, target.as_bytes());
            assert!(line.starts_with(head.method.name()));
            assert!(!head.version_1_1 && !head.keep_alive);
        }
        for line in [
            "POST / HTTP/1.0",
            "OPTIONS * HTTP/1.0",
            "get / HTTP/1.0",
            "GETS / HTTP/1.0",
            "PATCH / HTTP/1.0",
            "CONNECT h:1 HTTP/1.0",
            "GET / HTTP/1.2",
            "GET / HTTP/2.0",
            "GET / HTTP/0.9",
            "GET / http/1.0",
            "GET /",
            "GET",
            "GET / ",
            "GET / HTTP/1.0 ",
            "GET  / HTTP/1.0",
            "GET /  HTTP/1.0",
            " GET / HTTP/1.0",
            "GET\t/ HTTP/1.0",
            "GET /\tHTTP/1.0",
            "GET /a b HTTP/1.0",
            "GET a HTTP/1.0",
            "GET * HTTP/1.0",
            "GET ?a HTTP/1.0",
            "GET https://h/ HTTP/1.0",
            "GET http://h HTTP/1.0",
            "GET http://h?a HTTP/1.0",
            "GET http:///a HTTP/1.0",
            "GET http://u@h/a HTTP/1.0",
            "GET http:/a HTTP/1.0",
            "GET /a#b HTTP/1.0",
            "GET /a?b#c HTTP/1.0",
            "GET /a\0 HTTP/1.0",
            "GET /a\x7f HTTP/1.0",
            "GET /a\rb HTTP/1.0",
            "",
            "\r\nGET / HTTP/1.0",
            "\nGET / HTTP/1.0",
            "\rGET / HTTP/1.0",
            "\x16\x03\x01",
        ] {
            assert_eq!(refused(&format!("{line}\r\n\r\n")), 400, "{line:?}");
        }
        assert_eq!(
            parse(b"GET /\xff HTTP/1.0\r\n\r\n", &mut 0),
            Parse::Invalid(Bad::request("malformed request line"))
        );
    }

    #[test]
    fn header_lines() {
        for line in [
            "X: y",
            "X:",
            "X: ",
            "X:y",
            "X_Y: z",
            "x!#$%&'*+-.^_`|~: y",
            "X:  y \t ",
            "X:\t\ty",
            "X: é",
            "X: a:b",
        ] {
            accepted(&with("GET", &format!("{line}\r\n")));
        }
        for line in [
            "X : y",
            "X\t: y",
            " X: y",
            ": y",
            "X",
            "X y",
            "(X): y",
            "X: a\r\n b",
            "X: a\r\n\tb",
            "X: a\rb",
            "X: a\0",
            "X: a\x7f",
            "X: a\tb",
            "é: y",
            "X: a\nY: b",
            "X: a\n",
            "X: a\r",
        ] {
            assert_eq!(
                refused(&with("GET", &format!("{line}\r\n"))),
                400,
                "{line:?}"
            );
        }
        assert_eq!(refused("GET / HTTP/1.0\n\n"), 400);
        assert_eq!(refused("GET / HTTP/1.0\r\n\n"), 400);
    }

    #[test]
    fn hosts() {
        for lines in [
            "Host: h",
            "Host:",
            "hOST: [::1]:7500",
            "Host: my_store.example:80",
        ] {
            for version in ["1.0", "1.1"] {
                accepted(&format!("GET / HTTP/{version}\r\n{lines}\r\n\r\n"));
            }
        }
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
        for lines in [
            "Host: h\r\nHost: h",
            "Host: a b",
            "Host: a/b",
            "Host: u@h",
            "Host: a, é",
        ] {
            for version in ["1.0", "1.1"] {
                assert_eq!(
                    refused(&format!("GET / HTTP/{version}\r\n{lines}\r\n\r\n")),
                    400,
                    "{lines}"
                );
            }
        }
    }

    #[test]
    fn framings() {
        for (lines, framing) in [
            ("", Framing::None),
            ("Content-Length: 0\r\n", Framing::Length(0)),
            ("content-length:0005 \r\n", Framing::Length(5)),
            (
                "Content-Length: 9223372036854775807\r\n",
                Framing::Length(i64::MAX as u64),
            ),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("TRANSFER-ENCODING: CHUNKED\r\n", Framing::Chunked),
        ] {
            for method in ["PUT", "GET", "DELETE"] {
                assert_eq!(accepted(&with(method, lines)).framing, framing, "{lines}");
            }
        }
        for (lines, status) in [
            ("Content-Length:", 400),
            ("Content-Length: 5x", 400),
            ("Content-Length: +5", 400),
            ("Content-Length: -1", 400),
            ("Content-Length: 0x5", 400),
            ("Content-Length: 5 5", 400),
            ("Content-Length: 5, 5", 400),
            ("Content-Length: 5\r\nContent-Length: 5", 400),
            ("Content-Length: 5\r\ncontent-length: 6", 400),
            ("Content-Length: 9223372036854775808", 507),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
            ("Transfer-Encoding:", 400),
            ("Transfer-Encoding: identity", 400),
            ("Transfer-Encoding: gzip, chunked", 400),
            ("Transfer-Encoding: chunked, chunked", 400),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                400,
            ),
            ("Transfer-Encoding: chunked,", 400),
            ("Transfer-Encoding: \"chunked\"", 400),
            ("Transfer-Encoding: chunked;q=1", 400),
            ("Transfer-Encoding: xchunked", 400),
        ] {
            assert_eq!(
                refused(&with("PUT", &format!("{lines}\r\n"))),
                status,
                "{lines}"
            );
        }
    }

    #[test]
    fn keep_alive() {
        for (version, lines, kept) in [
            ("1.1", "", true),
            ("1.0", "", false),
            ("1.1", "Connection: close\r\n", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.1", "Connection: TE, close\r\n", false),
            ("1.1", "Connection: TE\r\n", true),
            ("1.1", "Connection: closed\r\n", true),
            ("1.1", "Connection:\r\n", true),
            ("1.0", "Connection: TE,Keep-alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
            (
                "1.1",
                "Connection: keep-alive\r\nConnection: CLOSE\r\n",
                false,
            ),
            (
                "1.1",
                "Connection: close\r\nConnection: keep-alive\r\n",
                false,
            ),
            ("1.0", "Connection: x\r\nConnection: keep-alive\r\n", true),
            (
                "1.0",
                "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
                false,
            ),
            ("1.1", "Transfer-Encoding: chunked\r\n", true),
        ] {
            let text = format!("PUT / HTTP/{version}\r\nHost: h\r\n{lines}\r\n");
            assert_eq!(accepted(&text).keep_alive, kept, "{text}");
        }
    }

    #[test]
    fn expectations() {
        for (lines, awaited) in [
            ("Expect: 100-continue\r\nContent-Length: 1\r\n", true),
            (
                "expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n",
                true,
            ),
            ("Expect: 100-continue\r\n", false),
            ("Expect: 100-continue\r\nContent-Length: 0\r\n", false),
            ("Expect:\r\nContent-Length: 1\r\n", false),
        ] {
            assert_eq!(
                accepted(&with("PUT", lines)).expect_continue,
                awaited,
                "{lines}"
            );
        }
        assert_eq!(refused(&with("PUT", "Expect: 200-ok\r\n")), 417);
        assert_eq!(refused(&with("PUT", "Expect: 100-continue, x\r\n")), 417);
        for value in ["100-continue", "x"] {
            let text = format!("PUT / HTTP/1.0\r\nExpect: {value}\r\nContent-Length: 1\r\n\r\n");
            assert!(!accepted(&text).expect_continue);
        }
    }

    #[test]
    fn content_ranges() {
        for (value, length, first, last, total) in [
            ("bytes 0-4/*", 5, 0, 4, None),
            ("bytes 0-4/5", 5, 0, 4, Some(5)),
            ("bytes 5-5/100", 1, 5, 5, Some(100)),
            ("bytes 007-010/0011", 4, 7, 10, Some(11)),
        ] {
            let text = with(
                "PUT",
                &format!("Content-Range: {value}\r\nContent-Length: {length}\r\n"),
            );
            assert_eq!(
                accepted(&text).content_range,
                Some(ContentRange { first, last, total })
            );
        }
        for (lines, status) in [
            ("bytes 0-4/*", 400),
            ("bytes 0-4/*\r\nContent-Length: 0", 400),
            ("bytes 0-4/*\r\nContent-Length: 4", 400),
            ("bytes 0-4/*\r\nTransfer-Encoding: chunked", 400),
            ("bytes=0-4/*\r\nContent-Length: 5", 400),
            ("bytes 0-4\r\nContent-Length: 5", 400),
            ("bytes 0-4/\r\nContent-Length: 5", 400),
            ("bytes */5\r\nContent-Length: 5", 400),
            ("bytes 0-4/4\r\nContent-Length: 5", 400),
            ("bytes 4-3/*\r\nContent-Length: 0", 400),
            ("bytes  0-4/*\r\nContent-Length: 5", 400),
            ("Bytes 0-4/*\r\nContent-Length: 5", 400),
            ("\r\nContent-Length: 5", 400),
            ("bytes -4/*\r\nContent-Length: 5", 400),
            ("bytes 0-/*\r\nContent-Length: 5", 400),
            ("bytes /-/*\r\nContent-Length: 5", 400),
            ("bytes 0/4-4\r\nContent-Length: 5", 400),
            ("bytes 0-4/**\r\nContent-Length: 5", 400),
            ("bytes 0-9223372036854775807/*\r\nContent-Length: 5", 400),
            ("bytes 0-9223372036854775808/*\r\nContent-Length: 5", 507),
            ("bytes 0-4/99999999999999999999\r\nContent-Length: 5", 507),
            (
                "bytes 0-4/*\r\nContent-Range: bytes 0-4/*\r\nContent-Length: 5",
                400,
            ),
        ] {
            let text = with("PUT", &format!("Content-Range: {lines}\r\n"));
            assert_eq!(refused(&text), status, "{lines}");
        }
        assert_eq!(
            accepted(&with("GET", "Content-Range: what is this\r\n")).content_range,
            None
        );
    }

    #[test]
    fn the_rest() {
        let text = with(
            "GET",
            concat!(
                "Range: bytes=0-1\r\nRange: bytes=2-3\r\nIf-Range: \"a\"\r\n",
                "If-Match: \"a\"\r\nIf-Match: \"b\"\r\nIf-None-Match: *\r\n",
                "If-Modified-Since: x\r\nIf-Unmodified-Since: y\r\n",
                "Content-MD5: kDPg4wXyR8DDyA0MeEjIsw==\r\nTrailer: Content-MD5\r\n",
            ),
        );
        let head = accepted(&text);
        assert_eq!(head.range, Some(&b"bytes=2-3"[..]));
        assert_eq!(head.if_range, Some(&b"\"a\""[..]));
        assert_eq!(head.if_match, [b"\"a\"", b"\"b\""]);
        assert_eq!(head.if_none_match, [b"*"]);
        assert_eq!(head.if_modified_since, Some(&b"x"[..]));
        assert_eq!(head.if_unmodified_since, Some(&b"y"[..]));
        assert!(head.content_md5.is_some());
        assert!(!head.trailer_md5);
        assert!(
            accepted(&with(
                "PUT",
                "Trailer: X, content-md5\r\nTrailer: Y\r\nTransfer-Encoding: chunked\r\n"
            ))
            .trailer_md5
        );
        assert_eq!(
            accepted(&with("GET", "If-Range: a\r\nIf-Range: a\r\n")).if_range,
            Some(&b""[..])
        );
        for lines in [
            "Content-MD5:\r\n",
            "Content-MD5: x\r\n",
            "Content-MD5: kDPg4wXyR8DDyA0MeEjIsw==\r\nContent-MD5: kDPg4wXyR8DDyA0MeEjIsw==\r\n",
        ] {
            assert_eq!(refused(&with("PUT", lines)), 400, "{lines}");
        }
    }

    #[test]
    fn limits() {
        let get = |target: usize| format!("GET /{} HTTP/1.0\r\n\r\n", "a".repeat(target - 1));
        accepted(&get(MAX_TARGET));
        assert_eq!(refused(&get(MAX_TARGET + 1)), 414);
        assert_eq!(refused(&get(MAX_HEAD)), 414);
        assert_eq!(
            refused(&format!("GET /{}", "a".repeat(MAX_REQUEST_LINE))),
            414
        );

        // in pieces, it is refused as soon as the limit is passed
        let (text, mut looked) = (get(MAX_HEAD), 0);
        let refused_at = (0..text.len()).step_by(100).find(|len| {
            let part = parse(&text.as_bytes()[..*len], &mut looked);
            matches!(part, Parse::Invalid(bad) if bad.status == Status::UriTooLong)
        });
        assert_eq!(refused_at, Some(MAX_REQUEST_LINE.next_multiple_of(100)));

        let lines = |n: usize| with("GET", &"X: y\r\n".repeat(n));
        accepted(&lines(MAX_FIELDS - 1));
        assert_eq!(refused(&lines(MAX_FIELDS)), 431);

        let bare = with("GET", "X: \r\n").len();
        let sized = |n: usize| with("GET", &format!("X: {}\r\n", "y".repeat(n - bare)));
        accepted(&sized(MAX_HEAD));
        assert_eq!(refused(&sized(MAX_HEAD + 1)), 431);
        assert_eq!(whole(&sized(MAX_HEAD)[..MAX_HEAD - 1]), Parse::Partial);
        assert_eq!(refused(&sized(MAX_HEAD + 1)[..MAX_HEAD]), 431);
    }

    #[test]
    fn a_byte_at_a_time() {
        let text = with("PUT", "Content-Length: 5\r\n") + "hello";
        let end = text.len() - 5;
        let mut looked = 0;
        for len in 0..end {
            assert_eq!(parse(&text.as_bytes()[..len], &mut looked), Parse::Partial);
            assert_eq!(looked, len);
        }
        assert!(matches!(parse(text.as_bytes(), &mut looked), Parse::Complete(_, at) if at == end));
        assert_eq!(looked, 0);
    }

    #[test]
    fn early_refusals() {
        for text in [
            "P ",
            "G\r\n",
            "GET/",
            "\r\n",
            "\n",
            "POS",
            "GET / HTTP/1.0\n",
            "GET / HTTP/1.0\r\nX: a\n",
            "\x16",
        ] {
            assert_eq!(refused(text), 400, "{text:?}");
        }
        for text in [
            "",
            "G",
            "P",
            "PU",
            "PUT",
            "PUT ",
            "MKCOL /",
            "GET / HTTP/1.0\r",
            "GET / HTTP/1.0\r\n",
            "GET / HTTP/1.0\r\n\r",
        ] {
            assert_eq!(whole(text), Parse::Partial, "{text:?}");
        }
    }
}
