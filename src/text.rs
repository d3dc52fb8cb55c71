//! A bounded text in atomics: written by one, read by others, who see one whole
//! text and not halves of two. It may lie in memory that processes share.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Bytes of a text; a longer one is cut.
pub const MAX_TEXT: usize = 8 * (WORDS - 1);

/// A version, odd while somebody writes, and the bytes up to a NUL, or to the end.
pub const WORDS: usize = 24;

/// How often a reader looks again when it was disturbed: texts change seldom.
const LOOKS: usize = 16;

/// See the module.
pub struct Text<'a>(pub &'a [AtomicU64]);

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

    /// Writes the text, whose parts are these, unless another is being written:
    /// one of the two is as good as the other, and nobody waits.
    pub fn set(&self, parts: &[&[u8]]) {
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
        let mut bytes = [0; MAX_TEXT];
        let mut len = 0;
        for part in parts {
            let part = &part[..part.len().min(MAX_TEXT - len)];
            bytes[len..][..part.len()].copy_from_slice(part);
            len += part.len();
        }
        // Up to the first NUL: most texts are short.
        let used = bytes.as_chunks::<8>().0.iter().take(len / 8 + 1);
        for (word, bytes) in words.iter().zip(used) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        version.store(now + 2, Ordering::Release);
    }

    /// The text; None: there is none, or it is being written.
    pub fn get(&self) -> Option<Vec<u8>> {
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
                return (len > 0).then(|| bytes[..len].to_vec());
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

    fn get(words: &[AtomicU64]) -> String {
        Text(words)
            .get()
            .map_or("-".to_owned(), |text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_text_comes_back_and_a_long_one_is_cut() {
        let words = words();
        let text = Text(&words);
        assert_eq!(get(&words), "-");
        text.set(&[b"GET ", b"/dev1/file"]);
        assert_eq!(get(&words), "GET /dev1/file");
        for len in [1, 7, 8, 9, 15, 16, 0, MAX_TEXT - 1, 3] {
            let short = "b".repeat(len);
            text.set(&[short.as_bytes()]);
            assert_eq!(get(&words), if len == 0 { "-" } else { &short });
        }
        text.set(&[b"a", &[b'b'; MAX_TEXT], b"c"]);
        assert_eq!(get(&words), format!("a{}", "b".repeat(MAX_TEXT - 1)));
        text.clear();
        assert_eq!(get(&words), "-");
    }

    #[test]
    fn a_writer_that_died_is_in_nobodys_way() {
        let words = words();
        let text = Text(&words);
        text.set(&[b"before"]);
        words[0].fetch_add(1, Ordering::Relaxed);
        assert_eq!(get(&words), "-");
        text.set(&[b"while"]);
        text.clear();
        text.set(&[b"after"]);
        assert_eq!(get(&words), "after");
    }

    #[test]
    fn readers_see_no_halves() {
        let words = words();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for byte in *b"abc" {
                let (words, done) = (&words, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        Text(words).set(&[&[byte; MAX_TEXT]]);
                    }
                });
            }
            for _ in 0..20_000 {
                if let Some(text) = Text(&words).get() {
                    assert_eq!(text, [text[0]; MAX_TEXT]);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
