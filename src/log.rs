//! Log lines: stderr, one write(2) a line, so that lines of several processes
//! never mix; or, detached from any terminal, the system's log; or a file, which
//! takes stderr's place, so that what others say there (a panic, the loader) is
//! in it too.
//!
//! A file is opened again by the master alone (its folder need not be open to
//! workers), and put over stderr by dup2, which is atomic: a line that is being
//! written ends in the old file, the next one begins in the new.

use crate::sys::process::{self, Standard};
use crate::sys::signal::whatever_the_terminal_says;
use crate::sys::syslog::{self, Gravity};
use crate::sys::{clock, file, socket};
use log::{Level, Metadata, Record};
use parking_lot::{Mutex, MutexGuard};
use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
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

/// The file that is stderr, if one is.
static FILE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// What was stderr before, as long as whoever started us waits for us there.
static EARS: Mutex<Option<File>> = Mutex::new(None);

/// Readers of a log are in its group; the umask may say less.
const MODE: u32 = 0o640;

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
            whatever_the_terminal_says(|| {
                // Nobody can be told that the log is gone.
                let _ = io::stderr().lock().write_all(line.as_bytes());
                if let Some(mut ears) = EARS.lock().as_ref() {
                    let _ = ears.write_all(line.as_bytes());
                }
            });
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

/// From now on lines go to this file, and as long as somebody waits for this
/// process to be ready ([`leave_stderr`]) to the old stderr as well.
pub fn to_file(path: &Path) -> io::Result<()> {
    let opened = open(path)?;
    let mut place = FILE.lock();
    // A successor in an upgrade has its predecessor's file as stderr.
    if place.is_none() && !is_stderr(file::facts(opened.as_fd())?) {
        // Without one there is nobody to hear it.
        let before = io::stderr().as_fd().try_clone_to_owned().ok();
        *EARS.lock() = before.map(File::from);
    }
    follow(opened.as_fd())?;
    *place = Some(std::path::absolute(path)?);
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let opened = File::options()
        .append(true)
        .create(true)
        .mode(MODE)
        // A FIFO that nobody reads must not stop the server.
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)?;
    socket::set_nonblocking(opened.as_fd(), false)?;
    Ok(opened)
}

fn is_stderr(facts: file::Facts) -> bool {
    file::facts(io::stderr().as_fd())
        .is_ok_and(|now| (now.device, now.inode) == (facts.device, facts.inode))
}

/// What [`reopen`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopened {
    /// Lines do not go to a file.
    NoFile,
    /// The path still leads to the file that is open.
    Same,
    Anew,
}

/// Opens the log file again when its path leads to another one, or to none. The
/// old one is kept when that fails.
pub fn reopen() -> io::Result<Reopened> {
    let place = FILE.lock();
    let Some(path) = place.as_deref() else {
        return Ok(Reopened::NoFile);
    };
    let named =
        |e: io::Error| io::Error::new(e.kind(), format!("log-file={}: {e}", path.display()));
    let now = file::facts(io::stderr().as_fd()).map_err(named)?;
    match std::fs::metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (now.device, now.inode) => {
            return Ok(Reopened::Same);
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named(e)),
        _ => {}
    }
    open(path)
        .and_then(|opened| follow(opened.as_fd()))
        .map_err(named)?;
    Ok(Reopened::Anew)
}

/// Lines go to this file, which the master has opened.
pub fn follow(opened: BorrowedFd<'_>) -> io::Result<()> {
    process::redirect(Standard::Error, opened)
}

/// Another image of the program was given these.
pub fn set_ears(before: OwnedFd) {
    *EARS.lock() = Some(before.into());
}

/// What a forked child must keep beside stderr. Nothing may be logged while
/// this is held.
pub fn ears() -> MutexGuard<'static, Option<File>> {
    EARS.lock()
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

/// This process is ready: whoever started the service is waited for no longer,
/// so the stderr of a detached one, or that of one with a log file, is no
/// longer theirs. Does nothing in other services.
pub fn leave_stderr() -> io::Result<()> {
    EARS.lock().take();
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
