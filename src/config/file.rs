//! `mogstored.conf`: bytes in, entries with their line numbers out. It knows
//! the form of a line; which keys there are, the options' table says.

/// A line that says something.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Counted from 1.
    pub line: usize,
    pub key: &'a str,
    /// None: the key stands alone, as `daemonize` may.
    pub value: Option<&'a [u8]>,
}

/// A line that says nothing that can be understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    pub what: String,
    /// The line's first word, when what is wrong may be that it is no key.
    pub word: Option<String>,
}

/// Bytes of a line that a message repeats, and of a word that may be meant to be
/// a key: a file that is none of ours may be one line of a megabyte, and the
/// distance from that to a key takes many seconds.
const QUOTED: usize = 64;

/// All entries in their order, or the first fault.
pub fn parse(text: &[u8]) -> Result<Vec<Entry<'_>>, Fault> {
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .filter_map(|(before, line)| entry(before + 1, line).transpose())
        .collect()
}

/// `key = value # comment`, `key # comment`, or nothing but a comment.
fn entry(line: usize, text: &[u8]) -> Result<Option<Entry<'_>>, Fault> {
    let fault = |what: String, word| Fault { line, what, word };
    let text = text.trim_ascii();
    if is_nothing(text) {
        return Ok(None);
    }
    let is_key = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let end = text.iter().position(|b| !is_key(b)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let rest = rest.trim_ascii_start();
    let no_entry = || {
        let first = text.split(u8::is_ascii_whitespace).next();
        fault(
            format!("{} is not `key = value`", quoted(text)),
            first.map(|word| word.escape_ascii().to_string()),
        )
    };
    let key = match std::str::from_utf8(word) {
        Ok(key) if !key.is_empty() => key,
        _ => return Err(no_entry()),
    };
    let value = match rest.strip_prefix(b"=") {
        Some(value) => value.trim_ascii_start(),
        None if is_nothing(rest) => {
            return Ok(Some(Entry {
                line,
                key,
                value: None,
            }));
        }
        None => return Err(no_entry()),
    };
    let end = value.iter().position(u8::is_ascii_whitespace);
    let (value, behind) = value.split_at(end.unwrap_or(value.len()));
    let behind = behind.trim_ascii_start();
    if is_nothing(value) {
        return Err(fault(format!("{key} has no value"), None));
    }
    if !is_nothing(behind) {
        let behind = quoted(behind);
        let what = format!("{key}: a value ends at white space, and {behind} comes after it");
        return Err(fault(what, None));
    }
    // One of the two readers that this file was written for takes the rest of
    // the word for a comment, the other for a part of the value.
    if value.contains(&b'#') {
        let what = format!("{key}: a comment behind a value begins with white space and #");
        return Err(fault(what, None));
    }
    Ok(Some(Entry {
        line,
        key,
        value: Some(value),
    }))
}

fn is_nothing(text: &[u8]) -> bool {
    text.is_empty() || text.starts_with(b"#")
}

/// As messages repeat it: as much as an operator needs to find it.
pub fn quoted(text: &[u8]) -> String {
    let start = &text[..text.len().min(QUOTED)];
    let more = if start.len() < text.len() { "..." } else { "" };
    format!("\"{}{more}\"", start.escape_ascii())
}

/// The key that was probably meant, in whatever case it was written.
pub fn nearest<'a>(word: &str, keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > QUOTED {
        return None;
    }
    let word = word.to_ascii_lowercase();
    keys.min_by_key(|key| strsim::damerau_levenshtein(&word, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(usize, String, Option<String>)> {
        parse(text.as_bytes())
            .unwrap_or_else(|fault| panic!("{text:?}: {fault:?}"))
            .into_iter()
            .map(|entry| {
                let value = entry.value.map(|v| String::from_utf8(v.to_vec()).unwrap());
                (entry.line, entry.key.to_owned(), value)
            })
            .collect()
    }

    #[test]
    fn every_spelling_of_an_entry() {
        for text in [
            "docroot=/a",
            "docroot = /a",
            "\t docroot\t=\t/a \t",
            "docroot = /a # where the disks are",
            "docroot =/a\t#",
            "docroot= /a\r",
        ] {
            let wanted = vec![(1, "docroot".to_owned(), Some("/a".to_owned()))];
            assert_eq!(values(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn lines_are_counted_and_the_last_needs_no_end() {
        let text = "# a comment\n\n  # another = one\nhttplisten = 7500\r\ndaemonize\nmaxconns=9";
        let wanted = vec![
            (4, "httplisten".to_owned(), Some("7500".to_owned())),
            (5, "daemonize".to_owned(), None),
            (6, "maxconns".to_owned(), Some("9".to_owned())),
        ];
        assert_eq!(values(text), wanted);
        assert_eq!(values(&format!("{text}\n")), wanted);
        assert_eq!(values("daemonize # now")[0].2, None);
        assert_eq!(values(""), []);
        assert_eq!(values("#"), []);
    }

    #[test]
    fn values_and_comments_may_hold_any_byte() {
        let text = b"# caf\xe9\ndocroot = /caf\xe9=\xff,;'\"";
        let entries = parse(text).unwrap();
        assert_eq!(entries[0].value, Some(&b"/caf\xe9=\xff,;'\""[..]));
    }

    #[test]
    fn what_is_no_entry_is_a_fault_of_its_line() {
        for (text, named) in [
            ("docroot", None),
            ("docroot /a", Some("docroot")),
            ("docroot: /a", Some("docroot:")),
            ("= /a", Some("=")),
            ("docroot = /a /b", Some("docroot")),
            ("docroot =", Some("docroot")),
            ("docroot = # none", Some("docroot")),
            ("docroot = /a#b", Some("docroot")),
            ("[section]", Some("[section]")),
            ("caf\u{e9} = 1", Some("caf\\xc3\\xa9")),
        ] {
            let whole = format!("\n{text}\nmaxconns = 1");
            match (parse(whole.as_bytes()), named) {
                (Ok(entries), None) => assert_eq!(entries[0].value, None),
                (Err(fault), Some(named)) => {
                    assert_eq!(fault.line, 2, "{text:?}");
                    assert!(fault.what.contains(named), "{text:?}: {}", fault.what);
                }
                (other, _) => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_nearest_key() {
        let keys = ["docroot", "httplisten", "mgmtlisten", "maxconns", "pidfile"];
        for (word, key) in [
            ("docrot", "docroot"),
            ("http_listen", "httplisten"),
            ("mgtmlisten", "mgmtlisten"),
            ("max-conns", "maxconns"),
            ("pid", "pidfile"),
            ("MAXCONNS", "maxconns"),
        ] {
            assert_eq!(nearest(word, keys.into_iter()), Some(key));
        }
        assert_eq!(nearest(&"p".repeat(QUOTED + 1), keys.into_iter()), None);
    }
}
