//! A chunked request body, decoded piece by piece as it arrives. The decoder copies
//! nothing: it says which bytes of the caller's buffer are body, and never takes a byte
//! that follows the body (it is the next request's).

use std::ops::Range;

use super::head::Bad;
use super::head::field::{is_name_byte, is_value_byte, md5};
use super::status::Status;

/// Digits of one chunk size; 16 are enough for any number that is accepted, the rest
/// can only be leading zeros.
pub const MAX_SIZE_DIGITS: u8 = 64;
/// Bytes of extensions after one chunk size. They are skipped without being held, so the bound is only
/// against a client that never comes to its data (RFC 9112 7.1.1).
pub const MAX_EXTENSION: u32 = 1024 * 1024;
/// Bytes of all trailer lines together.
pub const MAX_TRAILERS: u32 = 64 * 1024;

const MD5_NAME: &[u8] = b"content-md5";

/// What the start of the buffer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes are body. Everything up to `end` is consumed: drop it, and call
    /// again with what follows.
    Data(Range<usize>),
    /// So many bytes (all of the buffer) are consumed, and the body goes on.
    More(usize),
    /// So many bytes are consumed, and the body is over.
    Done(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Name,
    ValueStart,
    Value,
    ValueLf,
    LastLf,
    Done,
}

#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// of the chunk: its size while that is read, then what is still to come
    left: u64,
    digits: u8,
    extension: u32,
    trailers: u32,
    line: TrailerLine,
    wanted: bool,
    md5: Option<[u8; 16]>,
}

/// As much of a trailer line as is worth keeping: whether it is Content-MD5, and the value then.
#[derive(Debug, Default)]
struct TrailerLine {
    name_len: usize,
    is_md5: bool,
    /// as long as a sum is; what does not fit is none
    value: [u8; 24],
    value_len: usize,
    /// blanks, a tab among them, were seen in the value; fine if they are at its end
    blank: bool,
    tab: bool,
}

impl Decoder {
    /// `want_md5_trailer`: the request announced a Content-MD5 trailer, or had the
    /// header. An unannounced one is ignored.
    pub fn new(want_md5_trailer: bool) -> Decoder {
        Decoder {
            state: State::Size,
            left: 0,
            digits: 0,
            extension: 0,
            trailers: 0,
            line: TrailerLine::default(),
            wanted: want_md5_trailer,
            md5: None,
        }
    }

    /// The sum that the trailer gave, once the body is over.
    pub fn trailer_md5(&self) -> Option<[u8; 16]> {
        self.md5.filter(|_| self.wanted)
    }

    /// Decodes up to the end of the next piece of data, of the body, or of `buf`. After
    /// an error the connection cannot be used further.
    pub fn decode(&mut self, buf: &[u8]) -> Result<Step, Bad> {
        let mut at = 0;
        while at < buf.len() && self.state != State::Done {
            if self.state == State::Data {
                let here = (buf.len() - at) as u64;
                let take = self.left.min(here);
                self.left -= take;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                // `take` is no larger than the buffer
                return Ok(Step::Data(at..at + take as usize));
            }
            self.state = self.framing(buf[at])?;
            at += 1;
        }
        Ok(if self.state == State::Done {
            Step::Done(at)
        } else {
            Step::More(at)
        })
    }

    /// One byte that is not data.
    fn framing(&mut self, byte: u8) -> Result<State, Bad> {
        Ok(match (self.state, byte) {
            (State::Size, _) => self.size(byte)?,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, _) => self.extension(byte)?,
            (State::SizeLf, b'\n') => self.start_chunk(),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::LineStart, b'\r') => State::LastLf,
            (State::LineStart | State::Name | State::ValueStart | State::Value, _) => {
                self.trailer(byte)?
            }
            (State::ValueLf, b'\n') => self.end_trailer()?,
            (State::LastLf, b'\n') => State::Done,
            (State::DataCr | State::DataLf, _) => {
                return Err(Bad::request("chunk longer than its size"));
            }
            (State::SizeLf | State::ValueLf | State::LastLf, _) => {
                return Err(Bad::request("bare CR in chunked framing"));
            }
            (State::Data | State::Done, _) => unreachable!("decode() handles data and the end"),
        })
    }

    fn size(&mut self, byte: u8) -> Result<State, Bad> {
        const BAD: Bad = Bad::request("malformed chunk size");
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.digits > 0 => return Ok(State::SizeLf),
            b';' if self.digits > 0 => return Ok(State::Extension),
            _ => return Err(BAD),
        };
        if self.digits == MAX_SIZE_DIGITS {
            return Err(BAD);
        }
        if self.left >> 59 != 0 {
            return Err(Bad::storage("chunk size beyond 63 bits"));
        }
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn extension(&mut self, byte: u8) -> Result<State, Bad> {
        self.extension += 1;
        if self.extension > MAX_EXTENSION {
            return Err(Bad::request("chunk extensions too long"));
        }
        if !is_value_byte(byte) && byte != b'\t' {
            return Err(Bad::request("control character in a chunk extension"));
        }
        Ok(State::Extension)
    }

    fn start_chunk(&mut self) -> State {
        self.digits = 0;
        self.extension = 0;
        if self.left > 0 {
            State::Data
        } else {
            State::LineStart
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, Bad> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(Bad {
                status: Status::HeadTooLarge,
                why: "trailers too large",
            });
        }
        let line = &mut self.line;
        match (self.state, byte) {
            (State::LineStart, _) if is_name_byte(byte) => {
                *line = TrailerLine {
                    is_md5: true,
                    ..TrailerLine::default()
                };
                line.name(byte);
                Ok(State::Name)
            }
            (State::Name, b':') => {
                line.is_md5 &= line.name_len == MD5_NAME.len();
                Ok(State::ValueStart)
            }
            (State::Name, _) if is_name_byte(byte) => {
                line.name(byte);
                Ok(State::Name)
            }
            (State::ValueStart, b' ' | b'\t') => Ok(State::ValueStart),
            (State::ValueStart | State::Value, b'\r') => Ok(State::ValueLf),
            (State::ValueStart | State::Value, _) if is_value_byte(byte) || byte == b'\t' => {
                line.value(byte)?;
                Ok(State::Value)
            }
            _ => Err(Bad::request("malformed trailer")),
        }
    }

    fn end_trailer(&mut self) -> Result<State, Bad> {
        let line = &self.line;
        if line.is_md5 {
            let sum = md5(&line.value[..line.value_len])?;
            if self.md5.replace(sum).is_some() {
                return Err(Bad::request("repeated Content-MD5"));
            }
        }
        Ok(State::LineStart)
    }
}

impl TrailerLine {
    fn name(&mut self, byte: u8) {
        self.is_md5 &= MD5_NAME.get(self.name_len) == Some(&byte.to_ascii_lowercase());
        self.name_len += 1;
    }

    /// The blanks after the value are not part of it, however many there are.
    fn value(&mut self, byte: u8) -> Result<(), Bad> {
        const BAD: Bad = Bad::request("malformed Content-MD5");
        if byte == b' ' || byte == b'\t' {
            self.blank = true;
            self.tab |= byte == b'\t';
            return Ok(());
        }
        if self.tab {
            return Err(Bad::request("tab in a trailer value"));
        }
        if self.is_md5 {
            if self.blank {
                return Err(BAD);
            }
            *self.value.get_mut(self.value_len).ok_or(BAD)? = byte;
            self.value_len += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "kDPg4wXyR8DDyA0MeEjIsw==";

    /// Body, how many bytes it took, and the trailer's sum; `None`: more bytes are needed.
    fn decode(text: &str, want: bool) -> Result<Option<(String, usize, bool)>, u16> {
        let mut decoder = Decoder::new(want);
        let (mut body, mut at) = (String::new(), 0);
        loop {
            match decoder
                .decode(&text.as_bytes()[at..])
                .map_err(|bad| bad.status.code())?
            {
                Step::Data(data) => {
                    body.push_str(&text[at..][data.clone()]);
                    at += data.end;
                }
                Step::More(n) => {
                    assert_eq!(at + n, text.len());
                    return Ok(None);
                }
                Step::Done(n) => return Ok(Some((body, at + n, decoder.trailer_md5().is_some()))),
            }
        }
    }

    #[test]
    fn bodies() {
        for (text, body) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("2\r\nhe\r\n0003\r\nllo\r\n000\r\n\r\n", "hello"),
            (
                "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
                "01234567890123456789",
            ),
            ("2;a=b;c=\"d e\"\r\n\r\n\r\n0;\tx\r\n\r\n", "\r\n"),
            ("1\r\nx\r\n0\r\nX: y\r\nY:\r\nz_:\té \t \r\n\r\n", "x"),
        ] {
            let text = format!("{text}GET / HTTP/1.1\r\n");
            let (decoded, took, md5) = decode(&text, true).unwrap().unwrap();
            assert_eq!(
                (decoded.as_str(), took, md5),
                (body, text.len() - "GET / HTTP/1.1\r\n".len(), false)
            );
        }
    }

    #[test]
    fn refusals() {
        for text in [
            "\r\n",
            ";x\r\n",
            "g\r\n",
            "5 \r\n",
            " 5\r\n",
            "5 ;x\r\n",
            "0x5\r\n",
            "-5\r\n",
            "+5\r\n",
            "5\n",
            "5\r5",
            "5\r\nhello\n",
            "5\r\nhello\r\n\r\n",
            "5\r\nhello0\r\n",
            "5\r\nhello\rX",
            "5;a\n",
            "5;\0",
            "5;a\rb",
            "0\r\n\n",
            "0\r\n\rX",
            "0\r\nX : y\r\n",
            "0\r\n: y\r\n",
            "0\r\nX\r\n",
            "0\r\nX: a\n",
            "0\r\nX: a\rb",
            "0\r\nX: \0",
            "0\r\nX: a\tb\r\n",
            "0\r\n X: y\r\n",
            "0\r\nX: a\r\n b\r\n",
            "0\r\né: b\r\n",
            "0\r\nContent-MD5: x\r\n",
            "0\r\nContent-MD5:\r\n",
        ] {
            assert_eq!(decode(text, false), Err(400), "{text:?}");
        }
        assert_eq!(decode("7fffffffffffffff\r\n", false), Ok(None));
        assert_eq!(decode("8000000000000000", false), Err(507));
        assert_eq!(decode("00000ffffffffffffffff", false), Err(507));
    }

    #[test]
    fn trailer_sums() {
        for line in [
            format!("Content-MD5: {SUM}"),
            format!("content-md5:{SUM}  "),
            // found by fuzzing: more blanks than were kept
            format!("Content-MD5: {SUM}{}", " \t".repeat(99)),
            format!("X: y\r\nCONTENT-MD5: {SUM}\r\nY: z"),
        ] {
            let text = format!("0\r\n{line}\r\n\r\n");
            assert!(decode(&text, true).unwrap().unwrap().2, "{line}");
            assert!(!decode(&text, false).unwrap().unwrap().2, "{line}");
        }
        for name in ["Content-MD", "Content-MD55", "XContent-MD5"] {
            assert!(
                !decode(&format!("0\r\n{name}: {SUM}\r\n\r\n"), true)
                    .unwrap()
                    .unwrap()
                    .2
            );
        }
        for lines in [
            format!("Content-MD5: {SUM}x"),
            format!("Content-MD5: {SUM} x"),
            format!("Content-MD5: {SUM}{SUM}"),
            format!("Content-MD5: {SUM}\r\nContent-MD5: {SUM}"),
        ] {
            assert_eq!(
                decode(&format!("0\r\n{lines}\r\n\r\n"), true),
                Err(400),
                "{lines}"
            );
        }
    }

    #[test]
    fn limits() {
        let zeros = |n: u8| "0".repeat(n.into());
        assert!(decode(&format!("{}\r\n\r\n", zeros(MAX_SIZE_DIGITS)), false).is_ok());
        assert_eq!(decode(&zeros(MAX_SIZE_DIGITS + 1), false), Err(400));
        let extension = |n: u32| format!("1;{}\r\nx\r\n", "e".repeat(n as usize));
        let fits = extension(MAX_EXTENSION);
        assert_eq!(
            decode(&format!("{fits}{fits}0\r\n\r\n"), false)
                .unwrap()
                .unwrap()
                .0,
            "xx"
        );
        assert_eq!(decode(&extension(MAX_EXTENSION + 1), false), Err(400));
        assert_eq!(
            decode(
                &format!("0\r\n{}", "X: y\r\n".repeat(MAX_TRAILERS as usize / 4)),
                false
            ),
            Err(431)
        );
        assert_eq!(
            decode(
                &format!("0\r\nX:{}", " ".repeat(MAX_TRAILERS as usize)),
                false
            ),
            Err(431)
        );
    }

    #[test]
    fn nothing_is_taken_after_the_end() {
        let mut decoder = Decoder::new(false);
        assert_eq!(decoder.decode(b"0\r\n\r\n0"), Ok(Step::Done(5)));
        assert_eq!(decoder.decode(b"0\r\n\r\n"), Ok(Step::Done(0)));
        assert_eq!(Decoder::new(false).decode(b""), Ok(Step::More(0)));
    }
}
