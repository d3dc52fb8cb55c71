//! Who was read once, lately: a mark per file in a table of fixed size. Nobody
//! locks it, and a mark that is lost costs no more than one read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Of so much room there is a place for one file that was read once, by a hash.
/// Two files with one place, read in turns, are never kept: it is what a small
/// copy takes, so that places are no fewer than copies. Bytes.
const SEEN_PER: usize = 512;

/// See the module.
pub(super) struct Seen {
    /// Made with the first file that is read.
    marks: OnceLock<Box<[AtomicU32]>>,
    /// How many: one at least.
    places: usize,
}

impl Seen {
    /// For a cache of so many bytes.
    pub(super) fn new(bytes: usize) -> Seen {
        Seen {
            marks: OnceLock::new(),
            places: bytes.div_ceil(SEEN_PER).max(1),
        }
    }

    /// The file of this hash is read. Whether it was before, lately: no other
    /// has taken its place since.
    pub(super) fn again(&self, hash: u64) -> bool {
        let marks = self.marks.get_or_init(|| {
            let marks = std::iter::repeat_with(AtomicU32::default);
            marks.take(self.places).collect()
        });
        let place = &marks[hash as usize % self.places];
        let mark = (hash >> 32) as u32;
        // Written only where it changes: other cores read it, too.
        let was_there = place.load(Ordering::Relaxed) == mark;
        if !was_there {
            place.store(mark, Ordering::Relaxed);
        }
        was_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash with this mark that comes to this place.
    fn hash(mark: u64, place: u64) -> u64 {
        mark << 32 | place
    }

    #[test]
    fn a_file_was_seen_the_second_time_unless_another_came_to_its_place() {
        let seen = Seen::new(1 << 20);
        assert_eq!(seen.places, 2048);
        let (a, other, elsewhere) = (hash(1, 7), hash(2, 7 + 2048), hash(1, 8));
        let again = |hash| seen.again(hash);
        assert_eq!([again(a), again(a), again(a)], [false, true, true]);
        assert!(!again(elsewhere));
        assert!(again(a), "its neighbour has a place of its own");
        assert!(!again(other));
        assert_eq!([again(a), again(a)], [false, true]);
    }

    #[test]
    fn the_table_is_made_with_the_first_file() {
        for (bytes, places) in [(0, 1), (1, 1), (512, 1), (513, 2), (64 << 20, 131_072)] {
            let seen = Seen::new(bytes);
            assert!(seen.marks.get().is_none());
            seen.again(u64::MAX);
            assert_eq!(seen.marks.get().map(|marks| marks.len()), Some(places));
        }
    }
}
