//! The path that a client names, made safe to walk: relative to the docroot, no `..`,
//! no NUL, bounded.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt;

/// Bytes of a path as sent, decoded, its leading slash included.
pub const MAX_PATH: usize = 1024;
/// Bytes between two slashes; what file systems take.
pub const MAX_SEGMENT: usize = 255;
/// Where uploads grow, directly below each device. It is ours: no client names it.
pub const TEMP_DIR: &[u8] = b".rmogstored-tmp";
/// Where lock files may be, directly below the docroot. It is ours as well.
pub const RUN_DIR: &[u8] = b".rmogstored-run";

/// Why a target is not a path here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `..` as a segment: 403
    Escapes,
    /// 400
    Invalid,
    /// 414
    TooLong,
}

/// A path below the docroot. Only `parse` makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct StorePath {
    /// segments with one slash between them, and one after them if the client sent it;
    /// "." is the root
    text: CString,
    /// where the first segment ends; at most `MAX_SEGMENT`
    device_len: u16,
    /// where the last segment starts
    name_at: u16,
}

impl StorePath {
    /// `target`: percent-encoded, starting with a slash, no query.
    pub fn parse(target: &[u8]) -> Result<StorePath, Refusal> {
        if target.first() != Some(&b'/') {
            return Err(Refusal::Invalid);
        }
        let decoded = decode(target)?;
        if decoded.len() > MAX_PATH {
            return Err(Refusal::TooLong);
        }
        // the leading slash's place becomes the NUL's: no reallocation unless slashes
        // were doubled
        let mut text = Vec::with_capacity(decoded.len());
        let (mut device_len, mut name_at, mut place) = (0, 0, 0);
        let mut slash_at_end = false;
        for segment in decoded.split(|&b| b == b'/') {
            // "a/." is "a/" to the kernel too
            slash_at_end = segment.is_empty() || segment == b".";
            if slash_at_end {
                continue;
            }
            check(segment, place)?;
            if place > 0 {
                text.push(b'/');
            }
            name_at = text.len();
            text.extend_from_slice(segment);
            if place == 0 {
                device_len = text.len();
            }
            place += 1;
        }
        match place {
            0 => text.push(b'.'),
            _ if slash_at_end => text.push(b'/'),
            _ => {}
        }
        // check() left no NUL, and MAX_PATH fits into 16 bits
        let text = CString::new(text).map_err(|_| Refusal::Invalid)?;
        Ok(StorePath {
            text,
            device_len: device_len as u16,
            name_at: name_at as u16,
        })
    }

    /// What a PUT needs besides: a device, a name below it, and no slash at the end.
    pub fn for_put(&self) -> Result<(), Refusal> {
        if self.name_at == 0 || self.has_trailing_slash() {
            Err(Refusal::Invalid)
        } else {
            Ok(())
        }
    }

    /// Relative to the docroot; "." for the docroot itself. A slash at the end stays,
    /// so that the kernel refuses `file/`.
    pub fn as_c_str(&self) -> &CStr {
        &self.text
    }

    pub fn is_root(&self) -> bool {
        self.device_len == 0
    }

    /// Never of the root.
    pub fn has_trailing_slash(&self) -> bool {
        self.text.as_bytes().ends_with(b"/")
    }

    /// The first segment; empty for the root.
    pub fn device(&self) -> &[u8] {
        &self.text.as_bytes()[..usize::from(self.device_len)]
    }

    /// What comes after `device/`, relative to the device.
    pub fn below(&self) -> Option<&CStr> {
        (self.name_at > 0).then(|| self.tail(usize::from(self.device_len) + 1))
    }

    /// The last segment, and the path to it relative to the docroot (empty for the
    /// docroot). The name has the slash at the end, if there is one. `None` for the
    /// root.
    pub fn parent_and_name(&self) -> Option<(&[u8], &CStr)> {
        let name_at = usize::from(self.name_at);
        (!self.is_root()).then(|| {
            (
                &self.text.as_bytes()[..name_at.saturating_sub(1)],
                self.tail(name_at),
            )
        })
    }

    /// The same within the device: the path to the name is relative to the device, and
    /// empty directly below it. `None` for the root and for a device itself.
    pub fn parent_and_name_below(&self) -> Option<(&[u8], &CStr)> {
        let (name_at, below_at) = (usize::from(self.name_at), usize::from(self.device_len) + 1);
        // directly below the device the slash before the name is the one after the device
        let parent_end = name_at.saturating_sub(1).max(below_at);
        (name_at > 0).then(|| {
            (
                &self.text.as_bytes()[below_at..parent_end],
                self.tail(name_at),
            )
        })
    }

    /// From the device to the name; none for the root.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let text = if self.is_root() {
            &[]
        } else {
            self.text.as_bytes()
        };
        text.split(|&b| b == b'/')
            .filter(|segment| !segment.is_empty())
    }

    /// For log lines: one line whatever the client sent, with a leading slash.
    pub fn display(&self) -> impl fmt::Display {
        let text = if self.is_root() {
            &[]
        } else {
            self.text.as_bytes()
        };
        Escaped(text)
    }

    fn tail(&self, at: usize) -> &CStr {
        // the only NUL is the last byte, and `at` is no further than that
        CStr::from_bytes_with_nul(&self.text.as_bytes_with_nul()[at..]).unwrap_or_default()
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePath({})", self.display())
    }
}

struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.escape_ascii())
    }
}

fn decode(target: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if memchr::memchr(b'%', target).is_none() {
        return Ok(Cow::Borrowed(target));
    }
    let mut decoded = Vec::with_capacity(target.len());
    let mut rest = target;
    while let Some(at) = memchr::memchr(b'%', rest) {
        let digits = rest.get(at + 1..at + 3).ok_or(Refusal::Invalid)?;
        let (high, low) = (hex(digits[0])?, hex(digits[1])?);
        decoded.extend_from_slice(&rest[..at]);
        decoded.push(high << 4 | low);
        rest = &rest[at + 3..];
    }
    decoded.extend_from_slice(rest);
    Ok(Cow::Owned(decoded))
}

fn hex(digit: u8) -> Result<u8, Refusal> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Refusal::Invalid),
    }
}

fn check(segment: &[u8], place: usize) -> Result<(), Refusal> {
    if segment == b".." {
        return Err(Refusal::Escapes);
    }
    if segment.len() > MAX_SEGMENT {
        return Err(Refusal::TooLong);
    }
    let is_ours = matches!((place, segment), (0, RUN_DIR) | (1, TEMP_DIR));
    if segment.iter().any(u8::is_ascii_control) || is_ours {
        return Err(Refusal::Invalid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> StorePath {
        StorePath::parse(target.as_bytes())
            .unwrap_or_else(|refusal| panic!("{target}: {refusal:?}"))
    }

    fn refused(target: &str) -> Refusal {
        StorePath::parse(target.as_bytes()).expect_err(target)
    }

    #[test]
    fn targets() {
        for (target, text) in [
            ("/", "."),
            ("//", "."),
            ("/.", "."),
            ("/././/", "."),
            ("/a", "a"),
            ("///a", "a"),
            ("/a/", "a/"),
            ("/a//", "a/"),
            ("/a/.", "a/"),
            ("/a/./", "a/"),
            ("/dev1//0/./1", "dev1/0/1"),
            ("/a%20b", "a b"),
            ("/%61%2fb", "a/b"),
            ("/%2e/a", "a"),
            ("/a%2F", "a/"),
            ("/a..b", "a..b"),
            ("/...", "..."),
            ("/..a/a..", "..a/a.."),
            ("/%2525", "%25"),
            ("/a+b?", "a+b?"),
            ("/é%C3%A9", "éé"),
            ("/.rmogstored-tmp", ".rmogstored-tmp"),
            ("/dev1/a/.rmogstored-tmp", "dev1/a/.rmogstored-tmp"),
            ("/dev1/.rmogstored-tmpx", "dev1/.rmogstored-tmpx"),
        ] {
            assert_eq!(path(target).as_c_str().to_str(), Ok(text), "{target}");
        }
        assert_eq!(
            StorePath::parse(b"/%ff\xfe").unwrap().as_c_str().to_bytes(),
            b"\xff\xfe"
        );
    }

    #[test]
    fn refusals() {
        for target in [
            "/..",
            "/../a",
            "/a/..",
            "/a/../b",
            "/%2e%2e",
            "/%2E./a",
            "/..%2f",
            "/a%2f..%2fb",
            "//..",
            "/./..",
            "/dev1/.rmogstored-tmp/..",
        ] {
            // a temporary name before the `..` is refused first
            let expected = if target.contains("-tmp") {
                Refusal::Invalid
            } else {
                Refusal::Escapes
            };
            assert_eq!(refused(target), expected, "{target}");
        }
        for target in [
            "",
            "a",
            "*",
            "/%",
            "/%4",
            "/%4g",
            "/%g4",
            "/a%",
            "/%00",
            "/a\0",
            "/%0a",
            "/a%1f",
            "/%7f",
            "/\t",
            "/dev1/.rmogstored-tmp",
            "/dev1/.rmogstored-tmp/",
            "/dev1/.rmogstored-tmp/x",
            "//dev1/.//%2ermogstored-tmp/x",
        ] {
            assert_eq!(refused(target), Refusal::Invalid, "{target}");
        }
    }

    #[test]
    fn limits() {
        let segments = format!("/dev1/{}", "a/".repeat(MAX_PATH / 2));
        assert_eq!(
            path(&segments[..MAX_PATH]).as_c_str().to_bytes().len(),
            MAX_PATH - 1
        );
        assert_eq!(refused(&segments[..MAX_PATH + 1]), Refusal::TooLong);
        // what counts is the decoded length
        path(&segments[..MAX_PATH].replace('a', "%61"));
        assert_eq!(
            path(&format!("/dev1/{}", "%61".repeat(MAX_SEGMENT)))
                .segments()
                .count(),
            2
        );
        assert_eq!(
            refused(&format!("/dev1/{}", "a".repeat(MAX_SEGMENT + 1))),
            Refusal::TooLong
        );
    }

    #[test]
    fn parts() {
        type Below = Option<(&'static str, &'static str)>;
        let cases: [(&str, &str, Option<&str>, Below, Below); 7] = [
            ("/", "", None, None, None),
            ("/dev1", "dev1", None, Some(("", "dev1")), None),
            ("/dev1/", "dev1", None, Some(("", "dev1/")), None),
            (
                "/dev1/a",
                "dev1",
                Some("a"),
                Some(("dev1", "a")),
                Some(("", "a")),
            ),
            (
                "/dev1/a/",
                "dev1",
                Some("a/"),
                Some(("dev1", "a/")),
                Some(("", "a/")),
            ),
            (
                "/dev1/a/b",
                "dev1",
                Some("a/b"),
                Some(("dev1/a", "b")),
                Some(("a", "b")),
            ),
            (
                "/d/a/b/c/",
                "d",
                Some("a/b/c/"),
                Some(("d/a/b", "c/")),
                Some(("a/b", "c/")),
            ),
        ];
        let owned =
            |pair: Option<(&[u8], &CStr)>| pair.map(|(a, b)| (a.to_vec(), b.to_bytes().to_vec()));
        let wanted =
            |pair: Below| pair.map(|(a, b)| (a.as_bytes().to_vec(), b.as_bytes().to_vec()));
        for (target, device, below, pair, pair_below) in cases {
            let path = path(target);
            assert_eq!(path.device(), device.as_bytes());
            assert_eq!(path.below().map(CStr::to_bytes), below.map(str::as_bytes));
            assert_eq!(owned(path.parent_and_name()), wanted(pair));
            assert_eq!(owned(path.parent_and_name_below()), wanted(pair_below));
            assert_eq!(path.is_root(), target == "/");
            assert_eq!(
                path.has_trailing_slash(),
                target != "/" && target.ends_with('/')
            );
            let names: Vec<_> = target
                .split('/')
                .filter(|name| !name.is_empty())
                .map(str::as_bytes)
                .collect();
            assert_eq!(path.segments().collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn puts() {
        for target in ["/dev1/a", "/x/a/b", "//dev1//a"] {
            assert_eq!(path(target).for_put(), Ok(()), "{target}");
        }
        for target in [
            "/",
            "/a",
            "/dev1/",
            "/dev1/a/",
            "/dev1/a/.",
            "/dev1/.",
            "/dev777",
        ] {
            assert_eq!(path(target).for_put(), Err(Refusal::Invalid), "{target}");
        }
    }

    #[test]
    fn display_is_one_clean_line() {
        assert_eq!(path("/").display().to_string(), "/");
        assert_eq!(
            path("/a b/%22%5c%C3/").display().to_string(),
            "/a b/\\\"\\\\\\xc3/"
        );
    }
}
