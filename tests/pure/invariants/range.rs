use rmogstored::http::range::{MAX_RANGES, Ranges, Span, resolve};

/// Any bytes, the first eight of which are the size of the file: what is sent is in the
/// file, and not more than it.
pub fn check(data: &[u8]) {
    let Some((size, header)) = data.split_first_chunk::<8>() else {
        return;
    };
    // no file is larger than an offset can tell
    let size = u64::from_le_bytes(*size) >> 1;
    let ranges = resolve(Some(header), size);
    match &ranges {
        Ok(Ranges::One(span)) => inside(*span, size),
        Ok(Ranges::Many(spans)) => {
            assert!((2..=MAX_RANGES).contains(&spans.len()));
            spans.iter().for_each(|span| inside(*span, size));
            assert!(
                spans
                    .iter()
                    .map(|span| u128::from(span.len()))
                    .sum::<u128>()
                    <= u128::from(size)
            );
        }
        Ok(Ranges::Whole | Ranges::Unsatisfiable) => {}
        Err(bad) => assert!([400, 507].contains(&bad.status.code())),
    }
    if let Some(model) = model(header, size) {
        let got = ranges.map(|ranges| match ranges {
            Ranges::One(span) => Some((span.first(), span.last())),
            Ranges::Unsatisfiable => None,
            other => panic!("{other:?}"),
        });
        assert_eq!(got, Ok(model));
    }
}

fn inside(span: Span, size: u64) {
    assert!(!span.is_empty() && span.first() <= span.last() && span.last() < size);
    assert_eq!(span.end(), span.last() + 1);
    assert_eq!(span.len(), span.end() - span.first());
}

/// First and last byte of a plain `bytes=B-E` or `bytes=B-`, `Some(None)` for 416,
/// `None` for everything else.
fn model(header: &[u8], size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = std::str::from_utf8(header)
        .ok()?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<i64>().ok())?
    };
    let first = number(first)? as u64;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        number(last)? as u64
    };
    Some((first < size && first <= last).then(|| (first, last.min(size - 1))))
}
