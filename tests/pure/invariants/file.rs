use rmogstored::config::file::{Entry, parse};

/// Any bytes: entries are in the order of their lines, and each stands in its line; so does a fault. What is
/// understood is understood again when it is written plainly.
pub fn check(text: &[u8]) {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let entries = match parse(text) {
        Ok(entries) => entries,
        Err(fault) => {
            assert!((1..=lines.len()).contains(&fault.line));
            // what is wrong is that line, whatever comes before it
            let alone = parse(lines[fault.line - 1]).unwrap_err();
            assert_eq!((alone.line, &alone.what), (1, &fault.what));
            assert!(!fault.what.is_empty() && fault.what.is_ascii());
            return;
        }
    };
    let mut last = 0;
    for entry in &entries {
        assert!(entry.line > last && entry.line <= lines.len());
        last = entry.line;
        let line = lines[entry.line - 1].trim_ascii_start();
        assert!(!line.starts_with(b"#") && line.starts_with(entry.key.as_bytes()));
        assert!(!entry.key.is_empty());
        plainly(entry);
    }
}

fn plainly(entry: &Entry<'_>) {
    let mut line = entry.key.as_bytes().to_vec();
    if let Some(value) = entry.value {
        assert!(!value.is_empty());
        assert!(!value.iter().any(|b| b.is_ascii_whitespace() || *b == b'#'));
        line.extend_from_slice(b" = ");
        line.extend_from_slice(value);
    }
    let again = parse(&line).expect("a plain line");
    let wanted = Entry { line: 1, ..*entry };
    assert_eq!(again, [wanted]);
}
