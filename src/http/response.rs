//! Reply heads, appended to a buffer: the reference's headers in the
//! reference's order, ours (ETag, Retry-After) behind them. Pure.

use super::conditional::ETag;
use super::range::Span;
use super::status::Status;
use crate::store::cache::Note;
use httpdate::HttpDate;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// An IMF-fixdate, "Sun, 06 Nov 1994 08:49:37 GMT".
pub const DATE_LEN: usize = 29;

/// The current second as a `Date`; made once a second.
pub struct Date {
    second: u64,
    text: [u8; DATE_LEN],
}

impl Date {
    /// A date that the first use will set.
    pub fn new() -> Date {
        Date {
            second: u64::MAX,
            text: [0; DATE_LEN],
        }
    }

    /// The text of this second since the epoch.
    pub fn at(&mut self, second: u64) -> &[u8; DATE_LEN] {
        if self.second != second {
            self.text = date(second as i64);
            self.second = second;
        }
        &self.text
    }
}

impl Default for Date {
    fn default() -> Date {
        Date::new()
    }
}

/// Times before 1970 have no form in HTTP: they become the epoch.
fn date(second: i64) -> [u8; DATE_LEN] {
    /// 9999-12-31T23:59:59Z, the last moment with a year of four digits.
    const LAST: u64 = 253_402_300_799;
    let second = (second.max(0) as u64).min(LAST);
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    let mut place = Place {
        text: [b' '; DATE_LEN],
        len: 0,
    };
    // An HttpDate is exactly as long as its place.
    let _ = write!(place, "{}", HttpDate::from(when));
    place.text
}

/// A text of known length, written without allocating.
struct Place {
    text: [u8; DATE_LEN],
    len: usize,
}

impl Write for Place {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let to = self.text.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        to.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// What every reply needs to know.
pub struct Reply<'a> {
    pub out: &'a mut Vec<u8>,
    pub date: &'a [u8; DATE_LEN],
    pub keep_alive: bool,
}

/// What a reply says of the file that it is about.
pub struct About<'a> {
    /// Seconds since the epoch.
    pub mtime: i64,
    /// None for the docroot itself.
    pub etag: Option<&'a ETag>,
}

/// What follows a head of status 200 or 206.
pub enum Content<'a> {
    /// So many bytes: the whole file.
    Whole(u64),
    /// This part of a file of so many bytes.
    Part(Span, u64),
    /// Parts, so many bytes in all, between lines of this boundary.
    Parts(u64, &'a str),
}

impl Reply<'_> {
    fn start(&mut self, status: Status) {
        // The reference says HTTP/1.1 to HTTP/1.0 clients too.
        let line = status.line();
        for part in [
            b"HTTP/1.1 ",
            line.as_bytes(),
            b"\r\nStatus: ",
            line.as_bytes(),
        ] {
            self.out.extend_from_slice(part);
        }
        self.header(b"Date", self.date);
    }

    fn header(&mut self, name: &[u8], value: &[u8]) {
        for part in [b"\r\n", name, b": ", value] {
            self.out.extend_from_slice(part);
        }
    }

    fn number(&mut self, name: &[u8], value: u64) {
        for part in [b"\r\n", name, b": "] {
            self.out.extend_from_slice(part);
        }
        decimal(self.out, value);
    }

    fn content_range(&mut self, span: Option<Span>, total: u64) {
        self.header(b"Content-Range", b"bytes ");
        range(self.out, span, total);
    }

    fn end(&mut self, etag: Option<&ETag>) {
        self.header(b"Connection", connection(self.keep_alive));
        if let Some(etag) = etag {
            self.header(b"ETag", etag.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n\r\n");
    }

    /// A reply without content.
    pub fn bare(mut self, status: Status) {
        self.start(status);
        self.number(b"Content-Length", 0);
        self.header(b"Content-Type", b"text/plain");
        if status == Status::Unavailable {
            // Descriptors or memory ran out: a matter of moments.
            self.end_with_retry();
        } else {
            self.end(None);
        }
    }

    fn end_with_retry(mut self) {
        self.end(None);
        self.out.truncate(self.out.len() - b"\r\n".len());
        self.out.extend_from_slice(b"Retry-After: 1\r\n\r\n");
    }

    /// 416 of a file of so many bytes.
    pub fn unsatisfiable(mut self, total: u64) {
        self.start(Status::RangeNotSatisfiable);
        self.number(b"Content-Length", 0);
        self.header(b"Content-Type", b"text/plain");
        self.content_range(None, total);
        self.end(None);
    }

    /// 304: what a 200 would have said, less the content (RFC 9110 15.4.5); no
    /// Content-Length, which would be taken for the file's.
    pub fn not_modified(mut self, about: &About<'_>) {
        self.start(Status::NotModified);
        self.header(b"Last-Modified", &date(about.mtime));
        self.end(about.etag);
    }

    /// A 200 of a whole file in [the words](words) of an earlier one.
    pub fn again(self, words: &Note, content: &[u8]) {
        let (before, after) = words.text.split_at(words.place);
        for part in [
            OK_SO_FAR,
            self.date,
            before,
            connection(self.keep_alive),
            after,
            content,
        ] {
            self.out.extend_from_slice(part);
        }
    }

    /// The head of a 200 or a 206.
    pub fn content(mut self, about: &About<'_>, content: &Content<'_>) {
        let (status, len) = match content {
            Content::Whole(size) => (Status::Ok, *size),
            Content::Part(span, _) => (Status::PartialContent, span.len()),
            Content::Parts(len, _) => (Status::PartialContent, *len),
        };
        self.start(status);
        self.header(b"Last-Modified", &date(about.mtime));
        self.number(b"Content-Length", len);
        match content {
            Content::Whole(_) => {
                self.header(b"Content-Type", OCTETS);
                self.header(b"Accept-Ranges", b"bytes");
            }
            Content::Part(span, total) => {
                self.header(b"Content-Type", OCTETS);
                self.content_range(Some(*span), *total);
            }
            Content::Parts(_, boundary) => {
                self.header(b"Content-Type", b"multipart/byteranges; boundary=");
                self.out.extend_from_slice(boundary.as_bytes());
            }
        }
        self.end(about.etag);
    }
}

const OCTETS: &[u8] = b"application/octet-stream";

/// A 200 up to its date.
const OK_SO_FAR: &[u8] = b"HTTP/1.1 200 OK\r\nStatus: 200 OK\r\nDate: ";

fn connection(keep_alive: bool) -> &'static [u8] {
    if keep_alive { b"keep-alive" } else { b"close" }
}

/// What each 200 of a whole file says behind its date; the place in it is that
/// of the connection's fate.
pub fn words(about: &About<'_>, size: u64) -> Note {
    let mut out = Vec::with_capacity(384);
    let reply = Reply {
        out: &mut out,
        date: &[b' '; DATE_LEN],
        keep_alive: false,
    };
    reply.content(about, &Content::Whole(size));
    let text = out.split_off(OK_SO_FAR.len() + DATE_LEN);
    let fate = memchr::memmem::find(&text, b"\r\nConnection: close");
    // It is there: `end` has just written it.
    let place = fate.map_or(text.len(), |at| at + b"\r\nConnection: ".len());
    let text = [&text[..place], &text[place + b"close".len()..]].concat();
    Note {
        text: text.into(),
        place,
    }
}

/// What stands before a part of a multipart/byteranges content (RFC 9110 14.6).
pub fn part_head(boundary: &str, span: Span, total: u64, is_first: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    if !is_first {
        out.extend_from_slice(b"\r\n");
    }
    for part in [b"--", boundary.as_bytes(), b"\r\nContent-Type: ", OCTETS] {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\nContent-Range: bytes ");
    range(&mut out, Some(span), total);
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// What stands behind the last part.
pub fn parts_end(boundary: &str) -> Vec<u8> {
    format!("\r\n--{boundary}--\r\n").into_bytes()
}

/// "FIRST-LAST/TOTAL", or "*/TOTAL".
fn range(out: &mut Vec<u8>, span: Option<Span>, total: u64) {
    match span {
        Some(span) => {
            decimal(out, span.first());
            out.push(b'-');
            decimal(out, span.last());
        }
        None => out.push(b'*'),
    }
    out.push(b'/');
    decimal(out, total);
}

fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(Reply<'_>)) -> String {
        let mut out = Vec::new();
        write(Reply {
            out: &mut out,
            date: Date::new().at(784_111_777),
            keep_alive: true,
        });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_bare_reply_is_the_references() {
        assert_eq!(
            text(|reply| reply.bare(Status::NotFound)),
            "HTTP/1.1 404 Not Found\r\nStatus: 404 Not Found\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\
             Content-Type: text/plain\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn a_503_says_when_to_come_back() {
        assert!(
            text(|reply| reply.bare(Status::Unavailable))
                .ends_with("Connection: keep-alive\r\nRetry-After: 1\r\n\r\n")
        );
    }

    #[test]
    fn the_same_again() {
        let etag = ETag::new(7, 5, 3);
        let about = About {
            mtime: 784_111_777,
            etag: Some(&etag),
        };
        let words = words(&about, 5);
        for keep_alive in [true, false] {
            let say = |again: bool| {
                let (mut out, mut date) = (Vec::new(), Date::new());
                let reply = Reply {
                    out: &mut out,
                    date: date.at(784_111_778),
                    keep_alive,
                };
                if again {
                    reply.again(&words, b"bytes");
                } else {
                    reply.content(&about, &Content::Whole(5));
                    out.extend_from_slice(b"bytes");
                }
                out
            };
            assert_eq!(
                say(true).escape_ascii().to_string(),
                say(false).escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn dates_stay_dates() {
        assert_eq!(&date(-5), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&date(i64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
