use rmogstored::mgmt::command::{
    Algorithm, Command, MAX_LINE, MAX_THREADS, Parse, Reason, Target, parse,
};
use rmogstored::store::path::{Refusal, StorePath};

/// Any bytes: what is there is read line by line as a naive reader does, and
/// the pieces in which they come make no difference.
pub fn check(data: &[u8]) {
    let mut rest = data;
    loop {
        let (command, consumed) = match parse(rest) {
            Parse::Complete(command, consumed) => (command, consumed),
            Parse::Partial => {
                return assert!(rest.len() < MAX_LINE && !rest.contains(&b'\n'));
            }
            Parse::TooLong => {
                return assert!(rest.len() >= MAX_LINE && !rest[..MAX_LINE].contains(&b'\n'));
            }
        };
        assert!((1..=MAX_LINE).contains(&consumed) && rest[consumed - 1] == b'\n');
        for len in 0..consumed {
            assert_eq!(parse(&rest[..len]), Parse::Partial);
        }
        let line = &rest[..consumed - 1];
        assert_eq!(command, model(line.strip_suffix(b"\r").unwrap_or(line)));
        rest = &rest[consumed..];
    }
}

/// Splits at single blanks and looks at the words.
fn model(line: &[u8]) -> Command<'_> {
    let unknown = || {
        line.split(|b| b" \t".contains(b))
            .find(|word| !word.is_empty())
            .map_or(Command::Nothing, Command::Unknown)
    };
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let algorithm = |word: &[u8]| {
        [Algorithm::Md5, Algorithm::Sha1]
            .into_iter()
            .find(|algorithm| algorithm.name().as_bytes() == word)
    };
    let parsed = match words[..] {
        [b"watch"] => return Command::Watch,
        [b"shutdown"] | [b"shutdown", b"graceful"] => return Command::Shutdown,
        [b"size", sent] => path(sent).map(|target| target.map(Command::Size)),
        [verb, sent] if algorithm(verb).is_some() => path(sent).map(|target| {
            let algorithm = algorithm(verb).expect("checked");
            target.map(|target| Command::Digest(algorithm, target, Reason::Any))
        }),
        [verb, sent, reason]
            if algorithm(verb).is_some()
                && !reason.is_empty()
                && reason
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || *b == b'_') =>
        {
            let reason = if reason == b"fsck" {
                Reason::Fsck
            } else {
                Reason::Any
            };
            path(sent).map(|target| {
                let algorithm = algorithm(verb).expect("checked");
                target.map(|target| Command::Digest(algorithm, target, reason))
            })
        }
        _ => None,
    };
    match parsed {
        Some(Some(command)) => command,
        Some(None) => Command::BadPath,
        None => threads(line).map_or_else(unknown, Command::Threads),
    }
}

/// None: no path. Some(None): one that is refused.
fn path(sent: &[u8]) -> Option<Option<Target<'_>>> {
    match StorePath::parse(sent) {
        Ok(_) if sent.contains(&b'\t') => None,
        Ok(path) => Some(Some(Target { path, sent })),
        Err(Refusal::Invalid) => None,
        Err(_) => Some(None),
    }
}

fn threads(line: &[u8]) -> Option<Option<usize>> {
    let line = line.to_ascii_lowercase();
    let (left, value) = line.split_at(line.iter().position(|b| *b == b'=')?);
    // what comes before the sign is text, or not ours
    let left = std::str::from_utf8(left).ok()?;
    let is_blank = |c: char| c.is_ascii_whitespace();
    let words: Vec<&str> = left
        .split(is_blank)
        .filter(|word| !word.is_empty())
        .collect();
    if words != ["server", "aio_threads"] || left.starts_with(is_blank) {
        return None;
    }
    let number = std::str::from_utf8(value[1..].trim_ascii()).ok();
    let number = number.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number = number.and_then(|text| text.trim_start_matches('0').parse().ok());
    Some(number.filter(|number| (1..=MAX_THREADS).contains(number)))
}
