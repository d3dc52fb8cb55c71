use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::invariants::path::check;

const PIECES: &[&str] = &[
    "/",
    "//",
    ".",
    "..",
    "%2e",
    "%2E",
    "%2f",
    "%2F",
    "%252e",
    "dev1",
    "a",
    "%00",
    "%",
    "%4",
    "\0",
    "\n",
    "%7f",
    "é",
    "%ff",
    ".rmogstored-tmp",
    "?",
];

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn dots_and_slashes_in_any_spelling(pieces in vec(select(PIECES), 0..16)) {
        check(format!("/{}", pieces.concat()).as_bytes());
        check(pieces.concat().as_bytes());
    }

    #[test]
    fn long_ones(name in 250..260usize, names in 0..6usize, percent: bool) {
        let name = if percent { "%61" } else { "a" }.repeat(name);
        check(format!("/dev1{}", format!("/{name}").repeat(names)).as_bytes());
        check(format!("/{}", "a/".repeat(name.len() + names)).as_bytes());
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..100)) {
        check(&[b"/", &bytes[..]].concat());
    }
}
