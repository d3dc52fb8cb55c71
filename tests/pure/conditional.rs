use std::time::{Duration, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;
use rmogstored::http::conditional::{ETag, Validators, Verdict, evaluate};
use rmogstored::http::head::{Parse, parse};

fn verdict(method: &str, lines: &str, file: Option<&Validators>) -> Verdict {
    let text = format!("{method} /dev1/a HTTP/1.0\r\n{lines}\r\n");
    match parse(text.as_bytes(), &mut 0) {
        Parse::Complete(head, _) => evaluate(&head, file),
        other => panic!("{text:?}: {other:?}"),
    }
}

fn text(tag: &ETag) -> String {
    String::from_utf8(tag.as_bytes().to_vec()).expect("ASCII")
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn a_tag_names_one_file_in_one_state(a: (u64, u64, i64), b: (u64, u64, i64)) {
        let (tag, other) = (ETag::new(a.0, a.1, a.2), ETag::new(b.0, b.1, b.2));
        prop_assert_eq!(text(&tag), format!("\"{:x}-{:x}-{:x}\"", a.0, a.1, a.2));
        prop_assert_eq!(tag.as_bytes() == other.as_bytes(), a == b);
    }

    /// Wherever the tag stands in whatever list, it is found; and without it nothing is.
    #[test]
    fn lists_of_tags(
        file: (u64, u64, i32, u32),
        before in vec("(W/)?\"[a-z, *]{0,5}\"", 0..5),
        after in vec("(W/)?\"[a-z, *]{0,5}\"", 0..5),
        comma in " {0,2}, {0,2}",
        lines: bool,
    ) {
        let file = Validators::new(file.0, file.1, file.2.into(), file.3.into());
        let write = |name: &str, tags: &[String]| {
            if lines {
                tags.iter().map(|tag| format!("{name}: {tag}\r\n")).collect()
            } else {
                format!("{name}: {}\r\n", tags.join(&comma))
            }
        };
        let without = [before.clone(), after.clone(), vec!["\"\"".to_owned()]].concat();
        let with = [before.clone(), vec![text(&file.etag)], after.clone()].concat();
        let weak = [before, vec![format!("W/{}", text(&file.etag))], after].concat();
        let cases = [(without, false, false), (with, true, true), (weak, true, false)];
        for (tags, is_match, is_strong) in cases {
            let (unless, only) = (write("If-None-Match", &tags), write("If-Match", &tags));
            let pass = |passes, or| if passes { Verdict::Proceed } else { or };
            let (unread, failed) = (Verdict::NotModified, Verdict::PreconditionFailed);
            prop_assert_eq!(verdict("GET", &unless, Some(&file)), pass(!is_match, unread));
            prop_assert_eq!(verdict("PUT", &unless, Some(&file)), pass(!is_match, failed));
            prop_assert_eq!(verdict("PUT", &unless, None), Verdict::Proceed);
            prop_assert_eq!(verdict("GET", &only, Some(&file)), pass(is_strong, failed));
            prop_assert_eq!(verdict("PUT", &only, None), Verdict::PreconditionFailed);
        }
    }

    #[test]
    fn dates(
        mtime in -10..4_000_000_000i64,
        off in prop_oneof![Just(0i64), -5..5i64, any::<i32>().prop_map(i64::from)],
    ) {
        let file = Validators::new(1, 2, mtime, 3);
        let asked = (mtime + off).clamp(0, 250_000_000_000);
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(asked.unsigned_abs()));
        let of = |name: &str| {
            verdict("GET", &format!("{name}: {date}\r\nRange: bytes=0-1\r\n"), Some(&file))
        };
        prop_assert_eq!(of("If-Modified-Since") == Verdict::NotModified, mtime <= asked);
        prop_assert_eq!(of("If-Unmodified-Since") == Verdict::PreconditionFailed, mtime > asked);
        prop_assert_eq!(of("If-Range") == Verdict::Proceed, mtime == asked);
    }

    #[test]
    fn any_condition(
        name in "If-(None-)?Match|If-Range|If-(Un)?[mM]odified-Since",
        value in "[\"W/*, a-z0-9:é]{0,20}",
    ) {
        let file = Validators::new(1, 2, 3, 4);
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let lines = format!("{name}: {value}\r\nRange: bytes=0-1\r\n");
            if method == "DELETE" {
                prop_assert_eq!(verdict(method, &lines, None), Verdict::Proceed);
            }
            verdict(method, &lines, Some(&file));
        }
    }
}
