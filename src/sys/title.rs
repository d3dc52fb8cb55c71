//! The title of a process: what `ps` shows instead of the words that it was
//! started with. Its name (comm) stays.

#[cfg(target_os = "linux")]
use std::io;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;

/// Sets it. On Linux it takes the place of the words themselves, and what is
/// longer is cut; so nobody may ask for them afterwards (`std::env::args`).
#[cfg(target_os = "linux")]
pub fn set(text: &str) {
    static WORDS: OnceLock<Option<Words>> = OnceLock::new();
    // A system without /proc shows no titles either.
    let words = WORDS.get_or_init(|| Words::find().ok());
    if let Some(words) = words {
        words.become_title(text.as_bytes());
    }
}

/// See the Linux twin.
#[cfg(target_os = "freebsd")]
pub fn set(text: &str) {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: the format takes one text; `-` says that it is the whole title.
    unsafe { libc::setproctitle(c"-%s".as_ptr(), text.as_ptr()) };
}

/// Where the words of argv lie, one behind the other; all of them are this long.
#[cfg(target_os = "linux")]
struct Words {
    start: usize,
    len: usize,
}

#[cfg(target_os = "linux")]
impl Words {
    fn find() -> io::Result<Words> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let (start, end) = bounds(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Words {
            start,
            len: end - start,
        })
    }

    /// The last byte stays NUL: for other processes that tells words from
    /// a title that goes on into the environment.
    fn become_title(&self, text: &[u8]) {
        let len = text.len().min(self.len.saturating_sub(1));
        let words = self.start as *mut u8;
        // SAFETY: the kernel laid argv there, on this process's own stack below
        // `main`, writable and as long as the process lives. `main` has copied
        // the words before the first title, and nobody refers to the originals
        // since; titles are set by the main thread alone.
        unsafe {
            words.write_bytes(0, self.len);
            words.copy_from_nonoverlapping(text.as_ptr(), len);
        }
    }
}

/// arg_start and arg_end, fields 48 and 49 of proc_pid_stat(5); the second one is
/// a name that may hold anything. None: there are none, or they are hidden.
#[cfg(target_os = "linux")]
fn bounds(stat: &str) -> Option<(usize, usize)> {
    let (_, behind) = stat.rsplit_once(") ")?;
    let mut fields = behind.split_ascii_whitespace().skip(48 - 3);
    let start = fields.next()?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (0 < start && start < end).then_some((start, end))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::bounds;

    #[test]
    fn the_words_are_where_stat_says() {
        let stat = |start: &str, end: &str| {
            let before = ["0"; 44].join(" ");
            format!("7 (a) b) S {before} {start} {end} 9 9 0")
        };
        assert_eq!(bounds(&stat("4096", "4110")), Some((4096, 4110)));
        assert_eq!(bounds(&stat("0", "0")), None);
        assert_eq!(bounds("7 (a) S 1 2"), None);
    }

    #[test]
    fn the_kernel_says_it() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (start, end) = bounds(&stat).unwrap();
        let words = std::fs::read("/proc/self/cmdline").unwrap();
        assert_eq!(end - start, words.len());
    }
}
