//! A bounded text in atomics: written now and then by any process of the tree,
//! read by all. A reader sees one whole text, not halves of two.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Bytes of a text; a longer one is cut.
pub const MAX_TEXT: usize = 8 * (WORDS - 1);

/// A version, odd while somebody writes, and the bytes, padded by NUL.
pub(super) const WORDS: usize = 24;

/// How often a reader looks again when it was disturbed: texts change seldom.
const LOOKS: usize = 16;

/// See the module.
pub(super) struct Text<'a>(pub &'a [AtomicU64]);

impl Text<'_> {
    fn split(&self) -> (&AtomicU64, &[AtomicU64]) {
        (&self.0[0], &self.0[1..WORDS])
    }

    /// Forgets the text, also one whose writer has died over it: for whom nobody
    /// disturbs.
    pub fn clear(&self) {
        let (version, words) = self.split();
        words.iter().for_each(|w| w.store(0, Ordering::Relaxed));
        version.store(0, Ordering::Release);
    }

    /// Writes the text, unless another is being written: one of the two is as
    /// good as the other, and nobody waits.
    pub fn set(&self, text: &str) {
        let (version, words) = self.split();
        let now = version.load(Ordering::Relaxed);
        if now % 2 == 1
            || version
                .compare_exchange(now, now + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        // Readers that see a new byte see the odd version as well.
        fence(Ordering::Release);
        let text = &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)];
        let mut bytes = [0; MAX_TEXT];
        bytes[..text.len()].copy_from_slice(text);
        for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        version.store(now + 2, Ordering::Release);
    }

    /// The text; None: there is none, or it is being written.
    pub fn get(&self) -> Option<String> {
        let (version, words) = self.split();
        let mut bytes = [0; MAX_TEXT];
        for _ in 0..LOOKS {
            let before = version.load(Ordering::Acquire);
            for (word, bytes) in words.iter().zip(bytes.as_chunks_mut::<8>().0) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            fence(Ordering::Acquire);
            if before % 2 == 0 && version.load(Ordering::Relaxed) == before {
                let len = bytes.iter().position(|&b| b == 0).unwrap_or(MAX_TEXT);
                let text = String::from_utf8_lossy(&bytes[..len]);
                return (len > 0).then(|| text.into_owned());
            }
            std::hint::spin_loop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_text_comes_back_and_a_long_one_is_cut() {
        let words = words();
        let text = Text(&words);
        assert_eq!(text.get(), None);
        text.set("device dev1: hangs");
        assert_eq!(text.get().as_deref(), Some("device dev1: hangs"));
        text.set("a");
        assert_eq!(text.get().as_deref(), Some("a"));
        text.set(&"ä".repeat(MAX_TEXT));
        assert_eq!(text.get(), Some("ä".repeat(MAX_TEXT / 2)));
        text.clear();
        assert_eq!(text.get(), None);
    }

    #[test]
    fn a_writer_that_died_is_in_nobodys_way() {
        let words = words();
        let text = Text(&words);
        text.set("before");
        words[0].fetch_add(1, Ordering::Relaxed);
        assert_eq!(text.get(), None);
        text.set("while");
        text.clear();
        text.set("after");
        assert_eq!(text.get().as_deref(), Some("after"));
    }

    #[test]
    fn readers_see_no_halves() {
        let words = words();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for byte in ["a", "b", "c"] {
                let (words, done) = (&words, &done);
                scope.spawn(move || {
                    let text = byte.repeat(MAX_TEXT);
                    while !done.load(Ordering::Relaxed) {
                        Text(words).set(&text);
                    }
                });
            }
            for _ in 0..20_000 {
                if let Some(text) = Text(&words).get() {
                    let first = &text[..1];
                    assert_eq!(text, first.repeat(MAX_TEXT));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
