use rmogstored::http::head::{ContentRange, Framing, Head, MAX_HEAD, MAX_TARGET, Parse, parse};

/// Any bytes: arriving in pieces they mean the same, and what is accepted survives
/// being written anew.
pub fn check(data: &[u8]) {
    let whole = parse(data, &mut 0);
    let mut looked = 0;
    // every prefix of a short input; some of a long one, for the time that it takes
    for len in (0..=data.len()).step_by(1 + data.len() / 512) {
        match parse(&data[..len], &mut looked) {
            Parse::Partial => assert_eq!(looked, len),
            Parse::Invalid(_) => {
                assert!(
                    matches!(whole, Parse::Invalid(_)),
                    "a prefix was refused of {whole:?}"
                );
                break;
            }
            complete => {
                assert_eq!(complete, whole);
                break;
            }
        }
    }
    match whole {
        Parse::Complete(head, end) => {
            accepted(&head, &data[..end]);
        }
        Parse::Partial => assert!(data.len() < MAX_HEAD),
        Parse::Invalid(bad) => assert!(
            [400, 414, 417, 431, 507].contains(&bad.status.code()),
            "{bad:?}"
        ),
    }
}

fn accepted(head: &Head<'_>, bytes: &[u8]) {
    assert!(bytes.len() <= MAX_HEAD);
    assert_eq!(
        bytes.windows(4).position(|four| four == b"\r\n\r\n"),
        Some(bytes.len() - 4),
        "one empty line, at the end"
    );
    let lines: Vec<&[u8]> = bytes[..bytes.len() - 2]
        .split_inclusive(|&b| b == b'\n')
        .collect();
    for line in &lines {
        let text = line.strip_suffix(b"\r\n").expect("bare LF");
        assert!(!text.is_empty() && !text.contains(&b'\r') && !text.contains(&0));
        assert!(!text[0].is_ascii_whitespace(), "obs-fold");
    }
    assert!(head.target.starts_with(b"/") && head.target.len() <= MAX_TARGET);
    assert!(
        head.target
            .iter()
            .all(|b| *b > b' ' && *b != 0x7f && *b != b'?' && *b != b'#')
    );
    let with = |name: &str| {
        let starts = |line: &&&[u8]| {
            line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
        };
        lines[1..].iter().filter(starts).count()
    };
    let (lengths, codings) = (with("content-length:"), with("transfer-encoding:"));
    assert_eq!(
        (lengths, codings),
        match head.framing {
            Framing::None => (0, 0),
            Framing::Length(_) => (1, 0),
            Framing::Chunked => (0, 1),
        }
    );
    if let Some(ContentRange { first, last, total }) = head.content_range {
        assert!(first <= last && total.is_none_or(|total| last < total));
        assert_eq!(head.framing, Framing::Length(last - first + 1));
    }
    // the new text may be longer than the old one by the lines that were left out
    if lines.len() < 200 && bytes.len() < MAX_HEAD / 2 {
        let again = serialise(head);
        assert_eq!(
            parse(&again, &mut 0),
            Parse::Complete(head.clone(), again.len())
        );
    }
}

/// The plainest head that says the same.
pub fn serialise(head: &Head<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    let mut line = |name: &str, value: &[u8]| {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
    };
    let version = if head.version_1_1 {
        " HTTP/1.1"
    } else {
        " HTTP/1.0"
    };
    line(
        head.method.name(),
        &[b" ", head.target, version.as_bytes()].concat(),
    );
    line("Host: ", b"h");
    line(
        "Connection: ",
        if head.keep_alive {
            b"keep-alive"
        } else {
            b"close"
        },
    );
    match head.framing {
        Framing::None => {}
        Framing::Length(length) => line("Content-Length: ", length.to_string().as_bytes()),
        Framing::Chunked => line("Transfer-Encoding: ", b"chunked"),
    }
    if head.expect_continue {
        line("Expect: ", b"100-continue");
    }
    if head.trailer_md5 {
        line("Trailer: ", b"Content-MD5");
    }
    let once = [
        ("Range: ", head.range),
        ("If-Range: ", head.if_range),
        ("If-Modified-Since: ", head.if_modified_since),
        ("If-Unmodified-Since: ", head.if_unmodified_since),
    ];
    for (name, value) in once {
        if let Some(value) = value {
            line(name, value);
        }
    }
    head.if_match
        .iter()
        .for_each(|value| line("If-Match: ", value));
    head.if_none_match
        .iter()
        .for_each(|value| line("If-None-Match: ", value));
    if let Some(sum) = head.content_md5 {
        line("Content-MD5: ", base64(&sum).as_bytes());
    }
    if let Some(ContentRange { first, last, total }) = head.content_range {
        let total = total.map_or("*".to_owned(), |total| total.to_string());
        line(
            "Content-Range: ",
            format!("bytes {first}-{last}/{total}").as_bytes(),
        );
    }
    line("", b"");
    text
}

pub fn base64(sum: &[u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u128::from_be_bytes(*sum);
    let digit = |i: u32| {
        // 22 digits are 132 bits: the last four are zero
        let six = if i < 21 {
            bits >> (122 - 6 * i)
        } else {
            bits << 4
        };
        char::from(DIGITS[(six & 63) as usize])
    };
    (0..22).map(digit).chain("==".chars()).collect()
}
