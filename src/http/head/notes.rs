//! The fields of a head that mean something here: noted one by one, then judged together.

use super::field::{decimal, has_token, is_authority, md5};
use super::{Bad, ContentRange, Framing, Head, Method};
use crate::http::status::Status;

/// What was read so far, until the fields can be judged together.
pub(super) struct Notes<'a> {
    head: Head<'a>,
    host: bool,
    close: bool,
    keep_alive: bool,
    expect: bool,
    length: Option<u64>,
    chunked: bool,
}

impl<'a> Notes<'a> {
    pub(super) fn new(method: Method, target: &'a [u8], version_1_1: bool) -> Notes<'a> {
        let head = Head {
            method,
            target,
            version_1_1,
            keep_alive: false,
            framing: Framing::None,
            expect_continue: false,
            range: None,
            if_range: None,
            if_match: Vec::new(),
            if_none_match: Vec::new(),
            if_modified_since: None,
            if_unmodified_since: None,
            content_md5: None,
            content_range: None,
            trailer_md5: false,
        };
        Notes {
            head,
            host: false,
            close: false,
            keep_alive: false,
            expect: false,
            length: None,
            chunked: false,
        }
    }

    /// The length first: it rules most fields out with one comparison.
    pub(super) fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Bad> {
        let head = &mut self.head;
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        match name.len() {
            4 if is(b"host") => self.take_host(value)?,
            5 if is(b"range") => head.range = Some(value),
            6 if is(b"expect") => self.take_expect(value)?,
            7 if is(b"trailer") => head.trailer_md5 |= has_token(value, b"content-md5"),
            8 if is(b"if-match") => head.if_match.push(value),
            8 if is(b"if-range") => set_or_void(&mut head.if_range, value),
            10 if is(b"connection") => {
                self.close |= has_token(value, b"close");
                self.keep_alive |= has_token(value, b"keep-alive");
            }
            11 if is(b"content-md5") => {
                set(&mut head.content_md5, md5(value)?, "repeated Content-MD5")?
            }
            13 if is(b"if-none-match") => head.if_none_match.push(value),
            13 if head.method == Method::Put && is(b"content-range") => {
                set(
                    &mut head.content_range,
                    content_range(value)?,
                    "repeated Content-Range",
                )?;
            }
            14 if is(b"content-length") => {
                set(
                    &mut self.length,
                    decimal(value, "malformed Content-Length")?,
                    "repeated Content-Length",
                )?;
            }
            17 if is(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Bad::request("Transfer-Encoding is not one chunked"));
                }
                self.chunked = true;
            }
            17 if is(b"if-modified-since") => set_or_void(&mut head.if_modified_since, value),
            19 if is(b"if-unmodified-since") => set_or_void(&mut head.if_unmodified_since, value),
            _ => {}
        }
        Ok(())
    }

    fn take_host(&mut self, value: &[u8]) -> Result<(), Bad> {
        if self.host {
            return Err(Bad::request("repeated Host"));
        }
        if !is_authority(value) {
            return Err(Bad::request("malformed Host"));
        }
        self.host = true;
        Ok(())
    }

    /// RFC 9110 10.1.1: to be ignored in HTTP/1.0, where no client can wait for an
    /// interim answer.
    fn take_expect(&mut self, value: &[u8]) -> Result<(), Bad> {
        if !self.head.version_1_1 || value.is_empty() {
            return Ok(());
        }
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Bad {
                status: Status::ExpectationFailed,
                why: "unknown expectation",
            });
        }
        self.expect = true;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Head<'a>, Bad> {
        let head = &mut self.head;
        if head.version_1_1 && !self.host {
            return Err(Bad::request("HTTP/1.1 without Host"));
        }
        head.framing = match (self.length, self.chunked) {
            (Some(_), true) => return Err(Bad::request("Transfer-Encoding with Content-Length")),
            (None, true) => Framing::Chunked,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::None,
        };
        head.keep_alive = !self.close && (head.version_1_1 || self.keep_alive);
        if self.chunked && !head.version_1_1 {
            // RFC 9112 6.1: a 1.0 proxy in between may not know where such a body ends
            head.keep_alive = false;
        }
        head.trailer_md5 &= self.chunked;
        head.expect_continue = self.expect && !head.framing.is_empty();
        if let Some(range) = head.content_range
            && head.framing != Framing::Length(range.last - range.first + 1)
        {
            return Err(Bad::request(
                "Content-Range without the Content-Length for it",
            ));
        }
        Ok(self.head)
    }
}

/// Fields that a repetition makes ambiguous: not only different values, any.
fn set<T>(slot: &mut Option<T>, value: T, why: &'static str) -> Result<(), Bad> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Bad::request(why)),
    }
}

/// These fields hold one value. Twice there is no telling which is meant, and an empty
/// value means nothing, which is what RFC 9110 13.1 asks for: a date that is not one is
/// ignored, an If-Range that matches nothing gets the whole file.
fn set_or_void<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8]) {
    *slot = Some(if slot.is_some() { b"" } else { value });
}

fn content_range(value: &[u8]) -> Result<ContentRange, Bad> {
    const WHY: &str = "malformed Content-Range";
    const BAD: Bad = Bad::request(WHY);
    let rest = value.strip_prefix(b"bytes ").ok_or(BAD)?;
    let dash = memchr::memchr(b'-', rest).ok_or(BAD)?;
    let slash = memchr::memchr(b'/', rest)
        .filter(|slash| *slash > dash)
        .ok_or(BAD)?;
    let first = decimal(&rest[..dash], WHY)?;
    let last = decimal(&rest[dash + 1..slash], WHY)?;
    let total = match &rest[slash + 1..] {
        b"*" => None,
        digits => Some(decimal(digits, WHY)?),
    };
    if first > last || total.is_some_and(|total| last >= total) {
        return Err(BAD);
    }
    Ok(ContentRange { first, last, total })
}
