use std::path::{Component, Path};

use rmogstored::store::path::{MAX_PATH, MAX_SEGMENT, Refusal, StorePath, TEMP_DIR};

/// Any bytes: no path that is made leaves the docroot, and it is the one that a naive
/// reader of the target walks.
pub fn check(target: &[u8]) {
    let parsed = StorePath::parse(target);
    assert_eq!(
        parsed
            .as_ref()
            .ok()
            .map(|path| path.as_c_str().to_bytes().to_vec()),
        model(target)
    );
    let path = match parsed {
        Ok(path) => path,
        Err(Refusal::Escapes) => return assert!(target.len() >= 3),
        Err(Refusal::TooLong) => return assert!(target.len() > MAX_SEGMENT),
        Err(Refusal::Invalid) => return,
    };
    let bytes = path.as_c_str().to_bytes();
    assert!(!bytes.is_empty() && bytes.len() <= MAX_PATH);
    let walk = Path::new(std::str::from_utf8(bytes).unwrap_or("ok"));
    assert!(
        walk.components()
            .all(|part| path.is_root() || matches!(part, Component::Normal(_)))
    );

    let segments: Vec<&[u8]> = path.segments().collect();
    assert!(
        segments
            .iter()
            .all(|segment| *segment != b".." && *segment != b"." && segment.len() <= MAX_SEGMENT)
    );
    assert_ne!(segments.get(1).copied(), Some(TEMP_DIR));
    assert_eq!(path.device(), segments.first().copied().unwrap_or_default());
    assert_eq!(path.is_root(), segments.is_empty());
    let slash: &[u8] = if path.has_trailing_slash() { b"/" } else { b"" };
    if !path.is_root() {
        assert_eq!([&segments.join(&b'/'), slash].concat(), bytes);
    }
    assert_eq!(
        path.below().map(|below| below.to_bytes().to_vec()),
        (segments.len() > 1).then(|| [&segments[1..].join(&b'/'), slash].concat())
    );
    for (skipped, pair) in [
        (0, path.parent_and_name()),
        (1, path.parent_and_name_below()),
    ] {
        assert_eq!(pair.is_some(), segments.len() > skipped);
        if let (Some((parent, name)), Some((last, before))) = (pair, segments.split_last()) {
            assert_eq!(parent, before[skipped..].join(&b'/'));
            assert_eq!(name.to_bytes(), [last, slash].concat());
        }
    }
    assert_eq!(
        path.for_put().is_ok(),
        segments.len() > 1 && slash.is_empty()
    );
    assert!(
        path.display()
            .to_string()
            .bytes()
            .all(|b| (b' '..=b'~').contains(&b))
    );
}

fn model(target: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut bytes = target.iter();
    while let Some(&byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(*bytes.next()?).to_digit(16);
            (digit()? * 16 + digit()?) as u8
        } else {
            byte
        });
    }
    if decoded.first() != Some(&b'/')
        || decoded[0] != target[0]
        || decoded.len() > MAX_PATH
        || decoded.iter().any(u8::is_ascii_control)
    {
        return None;
    }
    let parts: Vec<&[u8]> = decoded[1..].split(|&b| b == b'/').collect();
    let is_name = |part: &&&[u8]| !part.is_empty() && **part != b".";
    let names: Vec<&[u8]> = parts.iter().filter(is_name).copied().collect();
    if names
        .iter()
        .any(|name| *name == b".." || name.len() > MAX_SEGMENT)
        || names.get(1) == Some(&TEMP_DIR)
    {
        return None;
    }
    if names.is_empty() {
        return Some(b".".to_vec());
    }
    let slash: &[u8] = if parts.last().is_some_and(|last| is_name(&last)) {
        b""
    } else {
        b"/"
    };
    Some([&names.join(&b'/'), slash].concat())
}
