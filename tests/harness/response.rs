//! A reply, parsed strictly: whatever a test is about, every reply that it reads is held to the shape that
//! PROTOCOL.md section 2 gives it (header order, `Status`, lengths, `Connection`).

use std::time::{Duration, SystemTime};

use super::show;

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub reason: String,
    /// In the order and spelling of the wire.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The head's bytes, with the empty line.
    pub head: Vec<u8>,
}

impl Response {
    /// Parses a head that ends with its empty line.
    #[track_caller]
    pub fn parse(head: &[u8]) -> Response {
        let text =
            std::str::from_utf8(head).unwrap_or_else(|_| panic!("a head in ASCII: {}", show(head)));
        let lines: Vec<&str> = text
            .strip_suffix("\r\n\r\n")
            .expect("an empty line")
            .split("\r\n")
            .collect();
        for line in &lines {
            assert!(
                !line.contains(['\r', '\n']),
                "a bare CR or LF in {}",
                show(head)
            );
        }
        let rest = lines[0]
            .strip_prefix("HTTP/1.1 ")
            .unwrap_or_else(|| panic!("a status line: {}", show(head)));
        let (code, reason) = rest
            .split_once(' ')
            .unwrap_or_else(|| panic!("a reason phrase: {}", show(head)));
        assert!(
            code.len() == 3 && !reason.is_empty(),
            "a status line: {}",
            show(head)
        );
        let header = |line: &&str| {
            let (name, value) = line
                .split_once(": ")
                .unwrap_or_else(|| panic!("a header: {}", show(head)));
            assert!(
                value == value.trim(),
                "one blank after the colon, none at the end: {}",
                show(head)
            );
            (name.to_owned(), value.to_owned())
        };
        Response {
            status: code
                .parse()
                .unwrap_or_else(|_| panic!("a status: {}", show(head))),
            reason: reason.to_owned(),
            headers: lines[1..].iter().map(header).collect(),
            body: Vec::new(),
            head: head.to_vec(),
        }
    }

    /// The value of a header in its exact spelling; fails if it is there twice.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(theirs, _)| theirs == name);
        let first = found.next();
        assert!(found.next().is_none(), "{name} twice: {}", show(&self.head));
        first.map(|(_, value)| value.as_str())
    }

    /// The header's value, which must be there.
    #[track_caller]
    pub fn must(&self, name: &str) -> &str {
        match self.header(name) {
            Some(value) => value,
            None => panic!("no {name} in {}", show(&self.head)),
        }
    }

    pub fn names(&self) -> Vec<&str> {
        self.headers.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[track_caller]
    pub fn content_length(&self) -> u64 {
        let text = self.must("Content-Length");
        assert!(
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()),
            "a length: {text}"
        );
        text.parse().expect("a length")
    }

    /// What the reply says of the connection.
    #[track_caller]
    pub fn keeps_alive(&self) -> bool {
        match self.must("Connection") {
            "keep-alive" => true,
            "close" => false,
            other => panic!("Connection: {other}"),
        }
    }

    #[track_caller]
    pub fn etag(&self) -> String {
        let etag = self.must("ETag");
        let strong = etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"');
        assert!(strong, "a strong ETag, not {etag}");
        etag.to_owned()
    }

    /// Asserts status and what becomes of the connection.
    #[track_caller]
    pub fn expect(&self, status: u16, keeps_alive: bool) -> &Self {
        assert_eq!(self.status, status, "{}", show(&self.head));
        assert_eq!(
            self.keeps_alive(),
            keeps_alive,
            "Connection: in {}",
            show(&self.head)
        );
        self
    }

    /// Holds the head to PROTOCOL.md section 2, "Replies".
    #[track_caller]
    pub fn check_shape(&self) {
        let shown = show(&self.head);
        self.check_order(&shown);
        assert_eq!(
            self.must("Status"),
            format!("{} {}", self.status, self.reason),
            "{shown}"
        );
        let date = httpdate::parse_http_date(self.must("Date"))
            .unwrap_or_else(|_| panic!("a date: {shown}"));
        let now = SystemTime::now();
        let off = now
            .duration_since(date)
            .or_else(|_| date.duration_since(now))
            .unwrap_or_default();
        assert!(
            off < Duration::from_secs(5),
            "the clock is off by {off:?}: {shown}"
        );
        if let Some(reason) = fixed_reason(self.status) {
            assert_eq!(self.reason, reason, "{shown}");
        }
        self.keeps_alive();
        match self.status {
            200 => assert_eq!(self.must("Accept-Ranges"), "bytes", "{shown}"),
            206 | 304 => {}
            _ => {
                assert_eq!(self.must("Content-Length"), "0", "{shown}");
                assert_eq!(self.must("Content-Type"), "text/plain", "{shown}");
            }
        }
        if let Some(modified) = self.header("Last-Modified") {
            assert!(httpdate::parse_http_date(modified).is_ok(), "{shown}");
        }
    }

    fn check_order(&self, shown: &str) {
        let multipart =
            self.must("Status").starts_with("206") && self.header("Content-Range").is_none();
        let order: &[&str] = match self.status {
            200 => &[
                "Status",
                "Date",
                "Last-Modified",
                "Content-Length",
                "Content-Type",
                "Accept-Ranges",
                "Connection",
            ],
            206 if multipart => &[
                "Status",
                "Date",
                "Last-Modified",
                "Content-Length",
                "Content-Type",
                "Connection",
            ],
            206 => &[
                "Status",
                "Date",
                "Last-Modified",
                "Content-Length",
                "Content-Type",
                "Content-Range",
                "Connection",
            ],
            416 => &[
                "Status",
                "Date",
                "Content-Length",
                "Content-Type",
                "Content-Range",
                "Connection",
            ],
            // the reference knows no 304; RFC 9110 wants the length of the 200, or none
            304 => &["Status", "Date"],
            _ => &[
                "Status",
                "Date",
                "Content-Length",
                "Content-Type",
                "Connection",
            ],
        };
        let names = self.names();
        assert!(names.starts_with(order), "the order {order:?}, not {shown}");
        let extras: &[&str] = match self.status {
            200 | 201 | 206 | 412 | 416 => &["ETag"],
            304 => &["Last-Modified", "Content-Length", "Connection", "ETag"],
            405 => &["Allow"],
            503 => &["Retry-After"],
            _ => &[],
        };
        let extra = &names[order.len()..];
        assert!(
            extra.iter().all(|name| extras.contains(name)),
            "an unexpected header in {shown}"
        );
    }
}

/// The phrases that the reference's peers may have seen.
fn fixed_reason(status: u16) -> Option<&'static str> {
    Some(match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        416 => "Requested Range Not Satisfiable",
        500 => "Internal Server Error",
        507 => "Insufficient Storage",
        _ => return None,
    })
}
