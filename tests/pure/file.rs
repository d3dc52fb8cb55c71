use proptest::prelude::*;

use super::invariants::file::check;

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn files_that_are_nearly_right(
        lines in prop::collection::vec("[ \t]{0,2}(#|[a-z-]{0,6})[ \t]{0,2}=?[ \t]{0,2}[a-z/#=]{0,6}[ \t]{0,2}(#.{0,4})?\r?", 0..8),
    ) {
        check(lines.join("\n").as_bytes());
    }

    #[test]
    fn any_bytes(text in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&text);
    }
}
