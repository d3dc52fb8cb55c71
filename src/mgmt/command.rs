//! A line of the sidechannel: bytes in, a [`Command`] out.

use crate::store::path::{Refusal, StorePath};

/// Bytes of a line, its end included.
pub const MAX_LINE: usize = 496;

/// Threads that `server aio_threads` can ask for, all workers together.
pub const MAX_THREADS: usize = 100;

/// What the parser says of the bytes that it was shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Parse<'a> {
    /// The command, and how many bytes its line took.
    Complete(Command<'a>, usize),
    Partial,
    /// No line that fits into [`MAX_LINE`] begins here.
    TooLong,
}

/// What a client can ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Size(Target<'a>),
    Digest(Algorithm, Target<'a>, Reason),
    Watch,
    /// `server aio_threads`; None: a number that is none of ours, or no number.
    Threads(Option<usize>),
    Shutdown,
    /// A blank line.
    Nothing,
    /// A path that no file of ours has: `..`, or too long.
    BadPath,
    /// Anything else; its first word.
    Unknown(&'a [u8]),
}

/// A file, and how the client spelled it: replies repeat that.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub path: StorePath,
    pub sent: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    Sha1,
}

impl Algorithm {
    /// As commands and replies spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha1 => "SHA-1",
        }
    }
}

/// Why a digest is wanted, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// None was given, or one that means nothing.
    Any,
    /// A check of the whole cluster: it has time.
    Fsck,
}

/// Looks for a line at the start of `buf`.
pub fn parse(buf: &[u8]) -> Parse<'_> {
    let window = &buf[..buf.len().min(MAX_LINE)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() < MAX_LINE {
            Parse::Partial
        } else {
            Parse::TooLong
        };
    };
    let line = &window[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Parse::Complete(command(line), end + 1)
}

fn command(line: &[u8]) -> Command<'_> {
    known(line).unwrap_or_else(|| {
        let mut words = line.split(is_blank).filter(|word| !word.is_empty());
        words.next().map_or(Command::Nothing, Command::Unknown)
    })
}

/// One blank between the words and none around them, or it is not known.
fn known(line: &[u8]) -> Option<Command<'_>> {
    match line {
        b"watch" => return Some(Command::Watch),
        b"shutdown" | b"shutdown graceful" => return Some(Command::Shutdown),
        _ => {}
    }
    let space = memchr::memchr(b' ', line)?;
    let (word, rest) = (&line[..space], &line[space + 1..]);
    let algorithm = match word {
        b"size" => return aimed(rest, Command::Size),
        b"MD5" => Algorithm::Md5,
        b"SHA-1" => Algorithm::Sha1,
        _ => return threads(line).map(Command::Threads),
    };
    let (path, reason) = match memchr::memchr(b' ', rest) {
        None => (rest, Reason::Any),
        Some(space) => (&rest[..space], self::reason(&rest[space + 1..])?),
    };
    aimed(path, |target| Command::Digest(algorithm, target, reason))
}

/// A command on a path.
fn aimed<'a>(
    sent: &'a [u8],
    command: impl FnOnce(Target<'a>) -> Command<'a>,
) -> Option<Command<'a>> {
    if sent.iter().any(is_blank) {
        return None;
    }
    match StorePath::parse(sent) {
        Ok(path) => Some(command(Target { path, sent })),
        Err(Refusal::Escapes | Refusal::TooLong) => Some(Command::BadPath),
        Err(Refusal::Invalid) => None,
    }
}

/// One word of letters, digits and `_`.
fn reason(word: &[u8]) -> Option<Reason> {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    match word {
        b"fsck" => Some(Reason::Fsck),
        _ => (!word.is_empty() && word.iter().all(is_word)).then_some(Reason::Any),
    }
}

/// `server aio_threads = N` in any case; whatever stands for N is accepted, and
/// means something if it is a number from 1 to [`MAX_THREADS`].
fn threads(line: &[u8]) -> Option<Option<usize>> {
    let rest = strip_word(line, b"server")?;
    let name = rest.trim_ascii_start();
    let value = strip_word(name, b"aio_threads")?.trim_ascii_start();
    // A blank must part the two words; none need stand around the sign.
    if name.len() == rest.len() {
        return None;
    }
    let digits = value.strip_prefix(b"=")?.trim_ascii();
    let number = std::str::from_utf8(digits).ok();
    let number = number.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number = number.and_then(|text| text.parse().ok());
    Some(number.filter(|number| (1..=MAX_THREADS).contains(number)))
}

fn strip_word<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(word.len())?;
    start.eq_ignore_ascii_case(word).then_some(rest)
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(line: &str) -> Command<'_> {
        let crlf = line.ends_with('\n');
        match parse(line.as_bytes()) {
            Parse::Complete(command, consumed) if crlf && consumed == line.len() => command,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn target(sent: &str) -> Target<'_> {
        Target {
            path: StorePath::parse(sent.as_bytes()).expect(sent),
            sent: sent.as_bytes(),
        }
    }

    #[test]
    fn commands() {
        for end in ["\n", "\r\n"] {
            for (line, wanted) in [
                ("size /", Command::Size(target("/"))),
                (
                    "size /dev1/a_b~%20c?d",
                    Command::Size(target("/dev1/a_b~%20c?d")),
                ),
                (
                    "size //etc/hostname",
                    Command::Size(target("//etc/hostname")),
                ),
                ("size /dev1/é", Command::Size(target("/dev1/é"))),
                (
                    "MD5 /a",
                    Command::Digest(Algorithm::Md5, target("/a"), Reason::Any),
                ),
                (
                    "MD5 /a fsck",
                    Command::Digest(Algorithm::Md5, target("/a"), Reason::Fsck),
                ),
                (
                    "SHA-1 /a FSCK",
                    Command::Digest(Algorithm::Sha1, target("/a"), Reason::Any),
                ),
                (
                    "SHA-1 /a re_1",
                    Command::Digest(Algorithm::Sha1, target("/a"), Reason::Any),
                ),
                ("watch", Command::Watch),
                ("shutdown", Command::Shutdown),
                ("shutdown graceful", Command::Shutdown),
                ("", Command::Nothing),
                (" \t ", Command::Nothing),
                ("size /a/../b", Command::BadPath),
                ("MD5 /%2e%2e fsck", Command::BadPath),
                ("size /a..b", Command::Size(target("/a..b"))),
            ] {
                let line = format!("{line}{end}");
                assert_eq!(whole(&line), wanted, "{line:?}");
            }
        }
        let long = format!("size /{}\n", "a".repeat(256));
        assert_eq!(whole(&long), Command::BadPath);
    }

    #[test]
    fn malformed_ones_are_unknown() {
        for (line, word) in [
            ("size", "size"),
            ("size ", "size"),
            ("size bad", "size"),
            ("size /a b", "size"),
            ("size  /a", "size"),
            (" size /a", "size"),
            ("size /a ", "size"),
            ("size\t/a", "size\t/a"),
            ("size /a\tb", "size"),
            ("size /a\u{1}", "size"),
            ("size /%zz", "size"),
            ("size /%00", "size"),
            ("size /dev1/.rmogstored-tmp/a", "size"),
            ("Size /a", "Size"),
            ("md5 /a", "md5"),
            ("SHA1 /a", "SHA1"),
            ("sha-1 /a", "sha-1"),
            ("MD5", "MD5"),
            ("MD5 /a ", "MD5"),
            ("MD5 /a  fsck", "MD5"),
            ("MD5 /a fsck ", "MD5"),
            ("MD5 /a fsck x", "MD5"),
            ("MD5 /a fs-ck", "MD5"),
            ("MD5 ../a", "MD5"),
            ("WATCH", "WATCH"),
            ("watch ", "watch"),
            ("watch x", "watch"),
            (" watch", "watch"),
            ("Shutdown", "Shutdown"),
            ("shutdown  graceful", "shutdown"),
            ("shutdown now", "shutdown"),
            ("server", "server"),
            ("server aio_threads", "server"),
            ("server aio_threads 5", "server"),
            ("server threads = 5", "server"),
            ("serveraio_threads = 5", "serveraio_threads"),
            ("GET / HTTP/1.0", "GET"),
            ("a\rb c", "a\rb"),
            ("\r", "\r"),
        ] {
            // Here a tab parts words too.
            let word = word.split('\t').next().unwrap_or_default();
            let line = format!("{line}\r\n");
            assert_eq!(whole(&line), Command::Unknown(word.as_bytes()), "{line:?}");
        }
    }

    #[test]
    fn thread_numbers() {
        for (line, number) in [
            ("server aio_threads = 5", Some(5)),
            ("server aio_threads=5", Some(5)),
            ("server aio_threads =5", Some(5)),
            ("SERVER AIO_Threads = 007", Some(7)),
            ("server  aio_threads  =  100 ", Some(100)),
            ("server aio_threads = 0", None),
            ("server aio_threads = 101", None),
            ("server aio_threads = -1", None),
            ("server aio_threads = 5x", None),
            ("server aio_threads = 5 6", None),
            ("server aio_threads =", None),
            ("server aio_threads = 99999999999999999999999999", None),
        ] {
            let line = format!("{line}\n");
            assert_eq!(whole(&line), Command::Threads(number), "{line:?}");
        }
    }

    #[test]
    fn the_limit() {
        let line = |len: usize| format!("size /{}\r\n", "/".repeat(len - "size /\r\n".len()));
        assert_eq!(line(MAX_LINE).len(), MAX_LINE);
        assert!(matches!(whole(&line(MAX_LINE)), Command::Size(_)));
        assert_eq!(parse(line(MAX_LINE + 1).as_bytes()), Parse::TooLong);
        assert_eq!(parse(&[b'a'; MAX_LINE]), Parse::TooLong);
        assert_eq!(parse(&[b'a'; MAX_LINE - 1]), Parse::Partial);
        assert_eq!(parse(b""), Parse::Partial);
        assert_eq!(
            parse(b"watch\nwatch\r\n"),
            Parse::Complete(Command::Watch, 6)
        );
    }
}
