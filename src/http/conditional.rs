//! Conditional requests (RFC 9110 13.2.2): is the file still, or not any more, the one
//! that the client means?

use std::time::UNIX_EPOCH;

use super::head::{Head, Method};

/// `"ino-size-mtime"`: three numbers of 64 bits in hex, two dashes, two quotes.
const ETAG_MAX: usize = 3 * 16 + 4;

/// A strong entity tag, quotes included. A new upload has a new inode, so it changes
/// with every replacement; of a file that is written in place it changes as often as
/// the kernel's clock of modification times ticks.
#[derive(Clone, Copy)]
pub struct ETag {
    text: [u8; ETAG_MAX],
    len: u8,
}

impl ETag {
    /// `mtime_ns`: nanoseconds since 1970.
    pub fn new(ino: u64, size: u64, mtime_ns: i64) -> ETag {
        let mut tag = ETag {
            text: [0; ETAG_MAX],
            len: 0,
        };
        tag.push(b'"');
        tag.push_hex(ino);
        tag.push(b'-');
        tag.push_hex(size);
        tag.push(b'-');
        tag.push_hex(mtime_ns.cast_unsigned());
        tag.push(b'"');
        tag
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }

    fn push(&mut self, byte: u8) {
        self.text[usize::from(self.len)] = byte;
        self.len += 1;
    }

    fn push_hex(&mut self, number: u64) {
        let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
        for place in (0..digits).rev() {
            let digit = (number >> (4 * place)) & 15;
            self.push(b"0123456789abcdef"[digit as usize]);
        }
    }
}

impl std::fmt::Debug for ETag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)
    }
}

/// What a file is compared by.
#[derive(Clone, Copy, Debug)]
pub struct Validators {
    pub etag: ETag,
    /// Modification time as `Last-Modified` tells it: whole seconds since 1970.
    pub mtime_secs: i64,
}

impl Validators {
    /// As `stat` gives them. A time too far out for 64 bits of nanoseconds wraps, which
    /// still tells times apart.
    pub fn new(ino: u64, size: u64, mtime_secs: i64, mtime_nsec: i64) -> Validators {
        let mtime_ns = mtime_secs
            .wrapping_mul(1_000_000_000)
            .wrapping_add(mtime_nsec);
        Validators {
            etag: ETag::new(ino, size, mtime_ns),
            mtime_secs,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Proceed,
    /// The file is not the one that If-Range means: send all of it.
    ProceedIgnoringRange,
    /// 304
    NotModified,
    /// 412
    PreconditionFailed,
}

/// Whether a request that writes has a condition at all: without one nobody needs to
/// look at the file first.
pub fn binds_writes(head: &Head<'_>) -> bool {
    !head.if_match.is_empty()
        || !head.if_none_match.is_empty()
        || head.if_unmodified_since.is_some()
}

/// Whether a request has any condition (If-Range is one of its Range alone).
pub fn has_conditions(head: &Head<'_>) -> bool {
    binds_writes(head) || head.if_modified_since.is_some()
}

/// Judges the conditions of a request; `None`: there is no such file.
///
/// A missing file is 404 for every method but PUT whatever the conditions say (RFC 9110
/// 13.2.1: they are ignored where the answer would not be 2xx without them), so this
/// says `Proceed` to it.
pub fn evaluate(head: &Head<'_>, file: Option<&Validators>) -> Verdict {
    if file.is_none() && head.method != Method::Put {
        return Verdict::Proceed;
    }
    let is_read = matches!(head.method, Method::Get | Method::Head);
    if !head.if_match.is_empty() {
        if !any_matches(&head.if_match, file, Compare::Strong) {
            return Verdict::PreconditionFailed;
        }
    } else if let (Some(date), Some(file)) = (date(head.if_unmodified_since), file)
        && file.mtime_secs > date
    {
        return Verdict::PreconditionFailed;
    }
    if !head.if_none_match.is_empty() {
        if any_matches(&head.if_none_match, file, Compare::Weak) {
            return if is_read {
                Verdict::NotModified
            } else {
                Verdict::PreconditionFailed
            };
        }
    } else if is_read
        && let (Some(date), Some(file)) = (date(head.if_modified_since), file)
        && file.mtime_secs <= date
    {
        return Verdict::NotModified;
    }
    match (head.range, head.if_range, file) {
        (Some(_), Some(condition), Some(file)) if !still_the_same(condition, file) => {
            Verdict::ProceedIgnoringRange
        }
        _ => Verdict::Proceed,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Compare {
    /// `W/"x"` matches nothing.
    Strong,
    /// `W/"x"` matches `"x"`.
    Weak,
}

/// Does any of the entity tags in these lines match? What follows a malformed one in
/// its line is not looked at.
fn any_matches(lines: &[&[u8]], file: Option<&Validators>, compare: Compare) -> bool {
    let Some(file) = file else { return false };
    lines
        .iter()
        .any(|line| *line == b"*" || Tags(line).any(|tag| tag.matches(&file.etag, compare)))
}

/// If-Range: a strong tag, or the very date of the file.
fn still_the_same(condition: &[u8], file: &Validators) -> bool {
    let mut tags = Tags(condition);
    match tags.next() {
        Some(tag) => tags.0.is_empty() && tag.matches(&file.etag, Compare::Strong),
        None => date(Some(condition)) == Some(file.mtime_secs),
    }
}

/// Seconds since 1970, if this is a date of HTTP in any of its three forms.
fn date(value: Option<&[u8]>) -> Option<i64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value?).ok()?).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

struct Tag<'a> {
    weak: bool,
    /// with its quotes
    opaque: &'a [u8],
}

impl Tag<'_> {
    fn matches(&self, etag: &ETag, compare: Compare) -> bool {
        (compare == Compare::Weak || !self.weak) && self.opaque == etag.as_bytes()
    }
}

/// The entity tags of a list that is not read yet. A comma within the quotes belongs to the tag.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        while let [b' ' | b'\t' | b',', rest @ ..] = self.0 {
            self.0 = rest;
        }
        let (weak, quoted) = match self.0.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, self.0),
        };
        let [b'"', inside @ ..] = quoted else {
            return None;
        };
        let len = memchr::memchr(b'"', inside)? + 2;
        let (opaque, rest) = quoted.split_at(len);
        self.0 = rest;
        Some(Tag { weak, opaque })
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::*;
    use super::*;
    use crate::http::head::{Parse, parse};

    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    /// of the file below
    const TAG: &str = "\"1f-400-ae1b981bc490a15\"";

    fn file() -> Validators {
        Validators::new(0x1f, 1024, 784_111_777, 21)
    }

    fn verdict(method: &str, lines: &str, file: Option<&Validators>) -> Verdict {
        let lines = lines
            .replace("TAG", TAG)
            .replace("SAME", SAME)
            .replace("BEFORE", BEFORE)
            .replace("AFTER", AFTER);
        let text = format!("{method} /dev1/a HTTP/1.0\r\n{lines}\r\n\r\n");
        match parse(text.as_bytes(), &mut 0) {
            Parse::Complete(head, _) => evaluate(&head, file),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn etags() {
        let tag = ETag::new(0x1f, 1024, 784_111_777_000_000_021);
        assert_eq!(std::str::from_utf8(tag.as_bytes()), Ok(TAG));
        assert_eq!(file().etag.as_bytes(), TAG.as_bytes());
        assert_eq!(ETag::new(0, 0, 0).as_bytes(), b"\"0-0-0\"");
        assert_eq!(
            ETag::new(u64::MAX, u64::MAX, -1).as_bytes(),
            format!("\"{0}-{0}-{0}\"", "f".repeat(16)).as_bytes()
        );
        // far out
        Validators::new(1, 1, i64::MAX, 999_999_999);
        Validators::new(1, 1, i64::MIN, 0);
    }

    #[test]
    fn reads() {
        for (lines, expected) in [
            ("X: y", Proceed),
            ("If-Match: TAG", Proceed),
            ("If-Match: *", Proceed),
            ("If-Match: \"a\", TAG", Proceed),
            ("If-Match: \"a\"\r\nIf-Match: TAG", Proceed),
            ("If-Match: \"a\"", PreconditionFailed),
            ("If-Match: W/TAG", PreconditionFailed),
            ("If-Match:", PreconditionFailed),
            ("If-Match: a, TAG", PreconditionFailed),
            ("If-Match: \"a,TAG", PreconditionFailed),
            ("If-None-Match: TAG", NotModified),
            ("If-None-Match: W/TAG", NotModified),
            ("If-None-Match: *", NotModified),
            ("If-None-Match: \"a,b\" ,  TAG", NotModified),
            ("If-None-Match: \"a\"\r\nIf-None-Match: TAG", NotModified),
            ("If-None-Match: \"a\"", Proceed),
            ("If-None-Match: w/TAG", Proceed),
            ("If-None-Match:", Proceed),
            ("If-None-Match: a", Proceed),
            ("If-Modified-Since: SAME", NotModified),
            ("If-Modified-Since: AFTER", NotModified),
            ("If-Modified-Since: BEFORE", Proceed),
            (
                "If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT",
                NotModified,
            ),
            ("If-Modified-Since: Sun Nov  6 08:49:37 1994", NotModified),
            ("If-Modified-Since: yesterday", Proceed),
            (
                "If-Modified-Since: SAME\r\nIf-Modified-Since: SAME",
                Proceed,
            ),
            ("If-Modified-Since: SAME\r\nIf-None-Match: \"a\"", Proceed),
            (
                "If-Modified-Since: BEFORE\r\nIf-None-Match: TAG",
                NotModified,
            ),
            ("If-Unmodified-Since: SAME", Proceed),
            ("If-Unmodified-Since: AFTER", Proceed),
            ("If-Unmodified-Since: BEFORE", PreconditionFailed),
            ("If-Unmodified-Since: x", Proceed),
            ("If-Unmodified-Since: BEFORE\r\nIf-Match: TAG", Proceed),
            ("If-Match: TAG\r\nIf-None-Match: TAG", NotModified),
            ("If-Match: \"a\"\r\nIf-None-Match: TAG", PreconditionFailed),
        ] {
            for method in ["GET", "HEAD"] {
                assert_eq!(verdict(method, lines, Some(&file())), expected, "{lines}");
                assert_eq!(verdict(method, lines, None), Proceed, "{lines}");
            }
        }
    }

    #[test]
    fn writes() {
        for (lines, with, without) in [
            ("If-Match: *", Proceed, PreconditionFailed),
            ("If-Match: TAG", Proceed, PreconditionFailed),
            ("If-Match: \"a\"", PreconditionFailed, PreconditionFailed),
            ("If-None-Match: *", PreconditionFailed, Proceed),
            ("If-None-Match: TAG", PreconditionFailed, Proceed),
            ("If-None-Match: \"a\"", Proceed, Proceed),
            ("If-Modified-Since: SAME", Proceed, Proceed),
            ("If-Unmodified-Since: BEFORE", PreconditionFailed, Proceed),
            ("If-Unmodified-Since: SAME", Proceed, Proceed),
        ] {
            assert_eq!(verdict("PUT", lines, Some(&file())), with, "{lines}");
            assert_eq!(verdict("PUT", lines, None), without, "{lines}");
            assert_eq!(verdict("DELETE", lines, Some(&file())), with, "{lines}");
            assert_eq!(verdict("DELETE", lines, None), Proceed, "{lines}");
        }
    }

    #[test]
    fn if_range() {
        for (lines, expected) in [
            ("If-Range: TAG", Proceed),
            ("If-Range: SAME", Proceed),
            ("If-Range: \"a\"", ProceedIgnoringRange),
            ("If-Range: W/TAG", ProceedIgnoringRange),
            ("If-Range: BEFORE", ProceedIgnoringRange),
            ("If-Range: AFTER", ProceedIgnoringRange),
            ("If-Range:", ProceedIgnoringRange),
            ("If-Range: TAG, \"a\"", ProceedIgnoringRange),
            ("If-Range: x", ProceedIgnoringRange),
            ("If-Range: TAG\r\nIf-Range: TAG", ProceedIgnoringRange),
            ("If-Range: *", ProceedIgnoringRange),
            ("If-Range: \"a\"\r\nIf-None-Match: TAG", NotModified),
        ] {
            assert_eq!(
                verdict(
                    "GET",
                    &format!("Range: bytes=0-1\r\n{lines}"),
                    Some(&file())
                ),
                expected,
                "{lines}"
            );
        }
        assert_eq!(verdict("GET", "If-Range: \"a\"", Some(&file())), Proceed);
    }
}
