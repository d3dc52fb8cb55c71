//! Log lines: stderr, one write(2) a line, so that lines of several processes
//! never mix; or, detached from any terminal, the system's log.

use crate::sys::clock;
use crate::sys::process::{self, Standard};
use crate::sys::syslog::{self, Gravity};
use log::{Level, Metadata, Record};
use std::ffi::CString;
use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Lines a second that clients can cause in one worker: a flood of bad
/// requests must not fill the log's disk. The rest are counted.
const CLIENT_LINES: u64 = 20;

/// Whether lines go to the system's log.
static TO_SYSTEM: AtomicBool = AtomicBool::new(false);

/// Whether lines go to stderr.
static TO_STDERR: AtomicBool = AtomicBool::new(true);

struct Sink;

impl log::Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (level, gravity) = match record.level() {
            Level::Error => ("error", Gravity::Error),
            Level::Warn => ("warn", Gravity::Warning),
            Level::Info => ("info", Gravity::Info),
            Level::Debug | Level::Trace => ("debug", Gravity::Debug),
        };
        let text = format!("{level}: {}", record.args());
        if TO_SYSTEM.load(Ordering::Relaxed)
            && let Ok(text) = CString::new(text.replace('\0', "\\0"))
        {
            syslog::write(gravity, &text);
        }
        if TO_STDERR.load(Ordering::Relaxed) {
            let line = format!("rmogstored[{}] {text}\n", std::process::id());
            // Nobody can be told that the log is gone.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Sends the `log` facade's lines to stderr, `info` and above.
pub fn to_stderr() {
    // Fails only when it was called before, which does no harm.
    let _ = log::set_logger(&Sink);
    log::set_max_level(log::LevelFilter::Info);
}

/// From now on lines go to the system's log, and as long as somebody waits for
/// this process to be ready ([`leave_stderr`]) to stderr as well.
pub fn to_system() {
    syslog::open(c"rmogstored");
    TO_SYSTEM.store(true, Ordering::Relaxed);
}

/// This process is ready: whoever started the service, detached as it is, is
/// waited for no longer, so stderr is no longer theirs. Does nothing in
/// a service that is not detached.
pub fn leave_stderr() -> io::Result<()> {
    if !TO_SYSTEM.load(Ordering::Relaxed) || !TO_STDERR.swap(false, Ordering::Relaxed) {
        return Ok(());
    }
    let null = File::options().write(true).open("/dev/null")?;
    process::redirect(Standard::Error, null.as_fd())
}

/// A forked child calls this before it closes the descriptors that it has
/// inherited: the connection to the system's log is one of them.
pub fn after_fork() {
    if TO_SYSTEM.load(Ordering::Relaxed) {
        syslog::close();
    }
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
