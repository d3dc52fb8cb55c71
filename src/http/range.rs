//! The Range header: which bytes of a file a client asks for.

use super::head::Bad;
use super::head::field::{decimal, trim_end, trim_start};

/// Ranges in one request; one that asks for more gets the whole file, which RFC 9110
/// 14.2 always allows.
pub const MAX_RANGES: usize = 32;

/// Bytes `first..first + len`, inside the file when made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    first: u64,
    len: u64,
}

impl Span {
    /// All of a file; the only span that can be empty.
    pub const fn whole(size: u64) -> Span {
        Span {
            first: 0,
            len: size,
        }
    }

    pub const fn first(self) -> u64 {
        self.first
    }

    pub const fn len(self) -> u64 {
        self.len
    }

    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The last byte, as Content-Range counts; of an empty span there is none.
    pub const fn last(self) -> u64 {
        self.end().saturating_sub(1)
    }

    /// One beyond the last byte.
    pub const fn end(self) -> u64 {
        self.first + self.len
    }
}

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// 200
    Whole,
    /// 206
    One(Span),
    /// 206 as multipart/byteranges: 2 to `MAX_RANGES` spans, in the order asked for
    Many(Vec<Span>),
    /// 416
    Unsatisfiable,
}

/// What a `Range` header means for a file of `size` bytes.
///
/// A unit other than `bytes` is ignored, `bytes` in any case (RFC 9110 14.1); an empty
/// value is ignored as well. Anything else that is not a range is 400, as in the
/// reference.
pub fn resolve(header: Option<&[u8]>, size: u64) -> Result<Ranges, Bad> {
    const BAD: Bad = Bad::request("malformed Range");
    let Some(value) = header.filter(|value| !value.is_empty()) else {
        return Ok(Ranges::Whole);
    };
    let equals = memchr::memchr(b'=', value).ok_or(BAD)?;
    let (unit, set) = (&value[..equals], &value[equals + 1..]);
    if !unit.eq_ignore_ascii_case(b"bytes") {
        let is_unit = !unit.is_empty() && unit.iter().all(|&b| super::head::field::is_name_byte(b));
        return if is_unit { Ok(Ranges::Whole) } else { Err(BAD) };
    }
    if memchr::memchr(b',', set).is_some() {
        return several(set, size);
    }
    Ok(match element(set, size)? {
        Asked::Span(span) => Ranges::One(span),
        Asked::MoreThanAll => Ranges::Whole,
        Asked::Nothing => Ranges::Unsatisfiable,
    })
}

/// A set with commas: blanks around them and empty elements are legal (RFC 9110 5.6.1.2).
fn several(set: &[u8], size: u64) -> Result<Ranges, Bad> {
    let mut spans = Vec::new();
    let (mut asked, mut total) = (0usize, 0u64);
    let mut elements = set.split(|&b| b == b',').enumerate().peekable();
    while let Some((i, mut text)) = elements.next() {
        // no comma before the first one nor after the last: no blanks there
        if i > 0 {
            text = trim_start(text);
        }
        if elements.peek().is_some() {
            text = trim_end(text);
        }
        if text.is_empty() {
            continue;
        }
        asked += 1;
        let span = match element(text, size)? {
            Asked::Span(span) => span,
            Asked::MoreThanAll => Span::whole(size),
            Asked::Nothing => continue,
        };
        total = total.saturating_add(span.len);
        if asked <= MAX_RANGES {
            spans.push(span);
        }
    }
    if asked == 0 {
        return Err(Bad::request("malformed Range"));
    }
    // more bytes than the file has: it overlaps, and would be a lever for making us send
    if asked > MAX_RANGES || total > size {
        return Ok(Ranges::Whole);
    }
    Ok(match spans[..] {
        [] => Ranges::Unsatisfiable,
        [span] => Ranges::One(span),
        _ => Ranges::Many(spans),
    })
}

enum Asked {
    Span(Span),
    /// `-N` with N beyond the size: the reference answers 200
    MoreThanAll,
    /// nothing that is in the file
    Nothing,
}

/// `B-E`, `B-` or `-N`. The reference takes a lone `-` for a range that cannot be had.
fn element(text: &[u8], size: u64) -> Result<Asked, Bad> {
    const WHY: &str = "malformed Range";
    let dash = memchr::memchr(b'-', text).ok_or(Bad::request(WHY))?;
    let number = |digits: &[u8]| {
        if digits.is_empty() {
            Ok(None)
        } else {
            decimal(digits, WHY).map(Some)
        }
    };
    let (first, last) = (number(&text[..dash])?, number(&text[dash + 1..])?);
    Ok(match (first, last) {
        (None, None) => Asked::Nothing,
        (None, Some(len)) if len == 0 || size == 0 => Asked::Nothing,
        (None, Some(len)) if len > size => Asked::MoreThanAll,
        (None, Some(len)) => Asked::Span(Span {
            first: size - len,
            len,
        }),
        (Some(first), last) => {
            // an empty file has no last byte, and then `first >= size` holds
            let last = last.unwrap_or(u64::MAX).min(size.saturating_sub(1));
            if first >= size || first > last {
                Asked::Nothing
            } else {
                Asked::Span(Span {
                    first,
                    len: last - first + 1,
                })
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::status::Status;

    fn of(header: &str, size: u64) -> Result<Ranges, u16> {
        resolve(Some(header.as_bytes()), size).map_err(|bad| bad.status.code())
    }

    const fn span(first: u64, len: u64) -> Span {
        Span { first, len }
    }

    #[test]
    fn single_ranges() {
        for (header, size, first, len) in [
            ("bytes=0-0", 10, 0, 1),
            ("bytes=0-9", 10, 0, 10),
            ("bytes=0-", 10, 0, 10),
            ("bytes=9-", 10, 9, 1),
            ("bytes=3-5", 10, 3, 3),
            ("bytes=3-100", 10, 3, 7),
            ("bytes=-1", 10, 9, 1),
            ("bytes=-10", 10, 0, 10),
            ("Bytes=0-4", 10, 0, 5),
            ("bytes=00-04", 10, 0, 5),
            ("bytes=0-9223372036854775807", 10, 0, 10),
        ] {
            assert_eq!(
                of(header, size),
                Ok(Ranges::One(span(first, len))),
                "{header}"
            );
        }
        for (header, size) in [
            ("bytes=10-", 10),
            ("bytes=10-20", 10),
            ("bytes=5-3", 10),
            ("bytes=-", 10),
            ("bytes=-0", 10),
            ("bytes=0-", 0),
            ("bytes=0-0", 0),
            ("bytes=-1", 0),
            ("bytes=-0", 0),
            ("bytes=-", 0),
        ] {
            assert_eq!(of(header, size), Ok(Ranges::Unsatisfiable), "{header}");
        }
        assert_eq!(of("bytes=-11", 10), Ok(Ranges::Whole));
        assert_eq!(resolve(None, 10), Ok(Ranges::Whole));
    }

    #[test]
    fn what_is_no_range() {
        for header in ["", "lines=0-4", "x=", "none=a b c"] {
            assert_eq!(of(header, 10), Ok(Ranges::Whole), "{header}");
        }
        for header in [
            "bytes",
            "bytes=",
            "bytes=a",
            "bytes=0",
            "bytes= 0-4",
            "bytes=0-4 ",
            "bytes=0 -4",
            "bytes =0-4",
            "=0-4",
            "0-4",
            "bytes 0-4",
            "bytes=0-4-5",
            "bytes=--5",
            "bytes=+1-2",
            "bytes=0-4;",
            "a b=0-4",
            "bytes=,",
            "bytes=, ,",
            "bytes=0-4,x",
            "bytes=0-4,5",
            "bytes= 0-1,2-3",
            "bytes=0-1,2-3 ",
            "bytes=0-1,2 -3",
        ] {
            assert_eq!(of(header, 10), Err(400), "{header}");
        }
        for header in [
            "bytes=9223372036854775808-",
            "bytes=0-9223372036854775808",
            "bytes=-99999999999999999999",
            "bytes=0-1,9223372036854775808-",
        ] {
            assert_eq!(
                of(header, 10),
                Err(Status::InsufficientStorage.code()),
                "{header}"
            );
        }
    }

    #[test]
    fn several_ranges() {
        for (header, spans) in [
            ("bytes=0-1,4-5", vec![span(0, 2), span(4, 2)]),
            ("bytes=4-5 ,\t0-1", vec![span(4, 2), span(0, 2)]),
            ("bytes=0-1,20-,-2", vec![span(0, 2), span(8, 2)]),
            ("bytes=,0-1,,2-3,", vec![span(0, 2), span(2, 2)]),
            ("bytes=0-1,-,5-", vec![span(0, 2), span(5, 5)]),
            ("bytes=0-4,5-9", vec![span(0, 5), span(5, 5)]),
        ] {
            assert_eq!(of(header, 10), Ok(Ranges::Many(spans)), "{header}");
        }
        assert_eq!(of("bytes=0-1,20-", 10), Ok(Ranges::One(span(0, 2))));
        assert_eq!(of("bytes=0-1,", 10), Ok(Ranges::One(span(0, 2))));
        assert_eq!(of("bytes=10-,20-", 10), Ok(Ranges::Unsatisfiable));
        assert_eq!(of("bytes=0-,0-", 0), Ok(Ranges::Unsatisfiable));
        assert_eq!(of("bytes=0-,0-", 10), Ok(Ranges::Whole));
        assert_eq!(of("bytes=0-5,5-9", 10), Ok(Ranges::Whole));
        assert_eq!(of("bytes=-20,0-0", 10), Ok(Ranges::Whole));

        let many = |n: usize| format!("bytes=0-0{}", ",1-1".repeat(n - 1));
        assert!(
            matches!(of(&many(MAX_RANGES), 1000), Ok(Ranges::Many(all)) if all.len() == MAX_RANGES)
        );
        assert_eq!(of(&many(MAX_RANGES + 1), 1000), Ok(Ranges::Whole));
        assert_eq!(of(&(many(MAX_RANGES + 1) + ",x"), 1000), Err(400));
    }

    #[test]
    fn spans() {
        let some = span(3, 4);
        assert_eq!(
            (
                some.first(),
                some.last(),
                some.end(),
                some.len(),
                some.is_empty()
            ),
            (3, 6, 7, 4, false)
        );
        let none = Span::whole(0);
        assert_eq!(
            (
                none.first(),
                none.last(),
                none.end(),
                none.len(),
                none.is_empty()
            ),
            (0, 0, 0, 0, true)
        );
    }
}
