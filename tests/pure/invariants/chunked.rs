use rmogstored::http::chunked::{Decoder, MAX_EXTENSION, MAX_SIZE_DIGITS, Step};
use rmogstored::http::head::Bad;

/// The body and how many bytes it took; `None`: not all of it is there.
pub type Decoded = Result<Option<(Vec<u8>, usize)>, Bad>;

/// Any bytes, the first one of which says how the others arrive: the pieces make no
/// difference, and what is accepted is what a naive reader of the whole sees.
pub fn check(data: &[u8]) {
    let Some((step, wire)) = data.split_first() else {
        return;
    };
    let whole = decode(wire, wire.len());
    assert_eq!(decode(wire, 1), whole);
    assert_eq!(decode(wire, 1 + usize::from(*step)), whole);
    assert_eq!(whole.ok().flatten(), model(wire));
}

/// Decodes `wire` as a client that sends `step` bytes at a time would have it.
pub fn decode(wire: &[u8], step: usize) -> Decoded {
    let mut decoder = Decoder::new(true);
    let (mut body, mut at, mut arrived) = (Vec::new(), 0, 0);
    loop {
        match decoder.decode(&wire[at..arrived])? {
            Step::Data(data) => {
                assert!(!data.is_empty() && data.end <= arrived - at);
                body.extend_from_slice(&wire[at..][data.clone()]);
                at += data.end;
            }
            Step::More(n) => {
                at += n;
                assert_eq!(
                    at, arrived,
                    "bytes were left that the decoder could have used"
                );
                if arrived == wire.len() {
                    return Ok(None);
                }
                arrived = (arrived + step.max(1)).min(wire.len());
            }
            Step::Done(n) => {
                assert!(n <= arrived - at);
                assert_eq!(decoder.decode(&wire[at + n..]), Ok(Step::Done(0)));
                return Ok(Some((body, at + n)));
            }
        }
    }
}

/// Reads a whole body line by line; `None` for one that is broken or not complete.
fn model(wire: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut rest) = (Vec::new(), wire);
    loop {
        let (line, after) = line(rest)?;
        let semicolon = line.iter().position(|&b| b == b';');
        let (size, extension) = line.split_at(semicolon.unwrap_or(line.len()));
        let size = std::str::from_utf8(size)
            .ok()
            .filter(|size| size.bytes().all(|b| b.is_ascii_hexdigit()))?;
        if size.len() > MAX_SIZE_DIGITS.into() || extension.len() > MAX_EXTENSION as usize + 1 {
            return None;
        }
        // at most 15 digits and some zeros fit into any buffer of this test
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = after;
        if size == 0 {
            break;
        }
        let (data, after) = rest.split_at_checked(size)?;
        body.extend_from_slice(data);
        rest = after.strip_prefix(b"\r\n")?;
    }
    let mut sums = 0;
    loop {
        let (line, after) = line(rest)?;
        rest = after;
        if line.is_empty() {
            return Some((body, wire.len() - rest.len()));
        }
        let colon = line.iter().position(|&b| b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let in_name = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(in_name) || value.contains(&b'\t') {
            return None;
        }
        if name.eq_ignore_ascii_case(b"content-md5") {
            sums += 1;
            let digits = value.strip_suffix(b"==")?;
            let is_sum = digits.len() == 22
                && digits
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"+/".contains(b));
            if !is_sum || sums > 1 {
                return None;
            }
        }
    }
}

/// Up to CRLF; no control characters but tabs.
fn line(wire: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = wire.windows(2).position(|two| two == b"\r\n")?;
    let clean = wire[..end]
        .iter()
        .all(|b| !b.is_ascii_control() || *b == b'\t');
    clean.then(|| (&wire[..end], &wire[end + 2..]))
}
