use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::invariants::command::check;

const PIECES: &[&str] = &[
    "size",
    "MD5",
    "SHA-1",
    "watch",
    "shutdown",
    "graceful",
    "server",
    "AIO_threads",
    "=",
    "5",
    "100",
    "0",
    "fsck",
    "re_ason",
    "-",
    " ",
    " ",
    " ",
    "\t",
    "/",
    "/dev1/a",
    "..",
    "%2e",
    "%",
    "\u{1}",
    "é",
    "\r",
    "\n",
    "\r\n",
    "\r\n",
];

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn nearly_commands(pieces in vec(select(PIECES), 0..24)) {
        check(pieces.concat().as_bytes());
    }

    #[test]
    fn lines_around_the_limit(len in 480..500usize, end in select(&["\n", "\r\n"][..])) {
        check(format!("size /{}{end}", "/a".repeat(len / 2)).as_bytes());
        check(format!("{}{end}watch\n", " ".repeat(len)).as_bytes());
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..100)) {
        check(&[&bytes[..], b"\n"].concat());
        check(&[b"size /", &bytes[..], b"\r\n"].concat());
    }
}
