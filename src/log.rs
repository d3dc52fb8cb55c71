//! Log lines: stderr, one write(2) a line, so that lines of several processes
//! never mix; or, detached from any terminal, the system's log.

use crate::sys::clock;
use crate::sys::process::{self, Standard};
use crate::sys::syslog::{self, Gravity};
use log::{Level, Metadata, Record};
use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Lines a second that clients can cause in one worker: a flood of bad
/// requests must not fill the log's disk. The rest are counted.
const CLIENT_LINES: u64 = 20;

/// How long a line waits for a syslogd that does not read. The next ones do not
/// wait at all, until it reads again.
const PATIENCE: Duration = Duration::from_millis(20);

/// Whether lines go to the system's log.
static TO_SYSTEM: AtomicBool = AtomicBool::new(false);

/// Lines that the system's log would not take, since it last took one.
static LOST: AtomicU64 = AtomicU64::new(0);

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
        let ident = format!("rmogstored[{}]", std::process::id());
        let text = format!("{level}: {}", record.args());
        if TO_SYSTEM.load(Ordering::Relaxed) {
            send(&ident, gravity, &text);
        }
        if TO_STDERR.load(Ordering::Relaxed) {
            let line = format!("{ident} {text}\n");
            // Nobody can be told that the log is gone.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// To the system's log; nobody waits long for it.
fn send(ident: &str, gravity: Gravity, text: &str) {
    let lost = LOST.load(Ordering::Relaxed);
    let patience = if lost == 0 { PATIENCE } else { Duration::ZERO };
    if syslog::send(ident, gravity, text, patience).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if lost > 0 {
        let lost = LOST.swap(0, Ordering::Relaxed);
        let text = format!("warn: the system's log did not take {lost} lines before this one");
        // It has just taken one.
        let _ = syslog::send(ident, Gravity::Warning, &text, Duration::ZERO);
    }
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
    TO_SYSTEM.store(true, Ordering::Relaxed);
}

/// Where lines go, as a number for another image of the program.
pub fn destinations() -> u8 {
    let all = [&TO_STDERR, &TO_SYSTEM];
    let bits = all.iter().enumerate();
    bits.map(|(nr, is_on)| u8::from(is_on.load(Ordering::Relaxed)) << nr)
        .sum()
}

/// As [`destinations`] said in the other image.
pub fn set_destinations(bits: u8) {
    TO_STDERR.store(bits & 1 != 0, Ordering::Relaxed);
    TO_SYSTEM.store(bits & 2 != 0, Ordering::Relaxed);
}

/// This process is ready: whoever started the service, detached as it is, is
/// waited for no longer, so stderr is no longer theirs. Does nothing in
/// a service that is not detached.
pub fn leave_stderr() -> io::Result<()> {
    if TO_SYSTEM.load(Ordering::Relaxed) && TO_STDERR.load(Ordering::Relaxed) {
        let null = File::options().write(true).open("/dev/null")?;
        process::redirect(Standard::Error, null.as_fd())?;
        // Last: what goes wrong before is still told.
        TO_STDERR.store(false, Ordering::Relaxed);
    }
    Ok(())
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
