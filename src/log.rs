//! Log lines: stderr, one write(2) a line, so that lines of several processes
//! never mix.

use crate::sys::clock;
use log::{Level, Metadata, Record};
use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines a second that clients can cause in one worker: a flood of bad
/// requests must not fill the log's disk. The rest are counted.
const CLIENT_LINES: u64 = 20;

struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        let line = format!(
            "rmogstored[{}] {level}: {}\n",
            std::process::id(),
            record.args()
        );
        // Nobody can be told that the log is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Sends the `log` facade's lines to stderr, `info` and above.
pub fn to_stderr() {
    // Fails only when it was called before, which does no harm.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(log::LevelFilter::Info);
}

/// A line that a client caused: bounded in number, see [`CLIENT_LINES`].
pub fn client(text: Arguments<'_>) {
    /// The second (upper 32 bits) and the lines in it (lower 32 bits).
    static WINDOW: AtomicU64 = AtomicU64::new(0);
    let second = clock::unix_seconds() << 32;
    let before = WINDOW
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
            Some(if window >> 32 == second >> 32 {
                window + 1
            } else {
                second + 1
            })
        })
        .unwrap_or_default();
    let (same_second, lines) = (before >> 32 == second >> 32, before & 0xffff_ffff);
    if !same_second && lines > CLIENT_LINES {
        log::warn!("{} lines about clients were left out", lines - CLIENT_LINES);
    }
    if !same_second || lines < CLIENT_LINES {
        log::warn!("{text}");
    }
}
