use proptest::prelude::*;

use super::invariants::range::check;

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn sets_that_are_nearly_right(
        size in prop_oneof![0..20u64, any::<u64>()],
        header in "(bytes|Bytes|lines)=[0-9]{0,2}-[0-9]{0,2}( ?, ?[0-9]{0,2}-[0-9]{0,2}){0,40}",
    ) {
        check(&[&size.to_le_bytes()[..], header.as_bytes()].concat());
    }

    #[test]
    fn large_numbers(size: u64, first: u64, last: u64) {
        check(&[&size.to_le_bytes()[..], format!("bytes={first}-{last}").as_bytes()].concat());
        let set = format!("bytes={}-{},-{}", first >> 1, last >> 1, first >> 32);
        check(&[&size.to_le_bytes()[..], set.as_bytes()].concat());
    }

    #[test]
    fn any_text(size in 0..20u64, header in "(bytes=)?[bytes=0-9 ,\t+x-]{0,30}") {
        check(&[&size.to_le_bytes()[..], header.as_bytes()].concat());
    }
}
