//! Utilization from a command's output: MOG_IOSTAT_CMD.

use super::Mounts;
use crate::scoreboard::{Scoreboard, Util};
use crate::sync::Mutex;
use crate::sys::process;
use crate::sys::signal::Mask;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After an end that was a failure, the next try waits this long.
const RETRY: Duration = Duration::from_secs(10);

/// A command that ends well is started again, but not more often than this.
const AGAIN: Duration = Duration::from_secs(1);

/// A line longer than this belongs to no report. Bytes.
const LINE: u64 = 4096;

/// The command, its reader thread, and what the two share.
pub(in crate::health) struct Runner {
    shared: Arc<Shared>,
}

struct Shared {
    board: Scoreboard,
    mounts: Mutex<Mounts>,
    run: Mutex<Run>,
}

/// None once it has ended for good.
#[derive(Default)]
struct Run {
    child: Option<Child>,
    ended: bool,
}

impl Runner {
    /// Starts the thread that starts the command.
    pub(in crate::health) fn start(command: &OsStr, board: &Scoreboard) -> io::Result<Runner> {
        let shared = Arc::new(Shared {
            board: board.clone(),
            mounts: Mutex::default(),
            run: Mutex::default(),
        });
        let (theirs, command) = (Arc::clone(&shared), command.to_owned());
        std::thread::Builder::new().spawn(move || {
            process::name_thread(c"iostat");
            theirs.keep_running(&command);
        })?;
        Ok(Runner { shared })
    }

    /// What is mounted where, as far as it is known now.
    pub(in crate::health) fn know(&self, mounts: &Mounts) {
        self.shared.mounts.lock().clone_from(mounts);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let mut run = self.shared.run.lock();
        run.ended = true;
        if let Some(child) = &mut run.child {
            // Its reader reaps it.
            let _ = child.kill();
        }
    }
}

impl Shared {
    fn keep_running(&self, command: &OsStr) {
        loop {
            let started = Instant::now();
            let pause = match self.run_once(command) {
                Ok(None) => return,
                Ok(Some(end)) if end.success() => AGAIN.saturating_sub(started.elapsed()),
                Ok(Some(end)) => {
                    log::error!("MOG_IOSTAT_CMD ended with {end}; next try in {RETRY:?}");
                    RETRY
                }
                Err(e) => {
                    log::error!("MOG_IOSTAT_CMD cannot be run: {e}; next try in {RETRY:?}");
                    RETRY
                }
            };
            // Nobody interrupts it: who resigns need not wait for it.
            std::thread::sleep(pause);
        }
    }

    /// None: it shall not run any more.
    fn run_once(&self, command: &OsStr) -> io::Result<Option<ExitStatus>> {
        let mut line = OsStr::new("exec ").to_owned();
        line.push(command);
        let output = {
            let mut run = self.run.lock();
            if run.ended {
                return Ok(None);
            }
            // Children inherit what is blocked here, and would not end by TERM.
            let ours = Mask::none().apply();
            let spawned = Command::new("/bin/sh")
                .arg("-c")
                .arg(line)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn();
            ours.apply();
            let mut child = spawned?;
            let output = child.stdout.take();
            run.child = Some(child);
            output
        };
        if let Some(output) = output {
            self.read(output)?;
        }
        let child = self.run.lock().child.take();
        child.map(|mut child| child.wait()).transpose()
    }

    fn read(&self, output: impl Read) -> io::Result<()> {
        let mut output = BufReader::new(output);
        let mut report = Report::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut output).take(LINE).read_until(b'\n', &mut line) {
                Ok(0) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if report.take(&line) {
                self.publish(&report.finish());
            }
        }
        if !report.is_empty() {
            self.publish(&report.finish());
        }
        Ok(())
    }

    fn publish(&self, disks: &HashMap<Vec<u8>, Util>) {
        let mounts = self.mounts.lock();
        for (nr, row) in self.board.rows() {
            let source = mounts.get(&nr).map(|mount| mount.source.as_bytes());
            row.set_util(source.and_then(|source| util_of(source, disks)));
        }
        drop(mounts);
        self.board.announce_report();
    }
}

/// The disk whose `/dev/NAME` the source begins with; the longest such name.
fn util_of(source: &[u8], disks: &HashMap<Vec<u8>, Util>) -> Option<Util> {
    let name = source.strip_prefix(b"/dev/")?;
    disks
        .iter()
        .filter(|(disk, _)| name.starts_with(disk))
        .max_by_key(|(disk, _)| disk.len())
        .map(|(_, util)| *util)
}

/// One report, line by line. Pure.
#[derive(Default)]
struct Report {
    disks: HashMap<Vec<u8>, Util>,
}

impl Report {
    /// Takes a line. True: a report was complete before it.
    fn take(&mut self, line: &[u8]) -> bool {
        match device_line(line) {
            Some((name, util)) => {
                self.disks.insert(name.to_vec(), util);
                false
            }
            None => !self.disks.is_empty(),
        }
    }

    fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    fn finish(&mut self) -> HashMap<Vec<u8>, Util> {
        std::mem::take(&mut self.disks)
    }
}

/// "word blanks ... number": a disk, and what its last column says. Old iostats
/// have a colon behind the word.
fn device_line(line: &[u8]) -> Option<(&[u8], Util)> {
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let name = words.next()?;
    let last = std::str::from_utf8(words.next_back()?).ok()?;
    let is_number = last.bytes().any(|b| b.is_ascii_digit())
        && last
            .bytes()
            .all(|b| b.is_ascii_digit() || b == b'.' || b == b',');
    if line[0].is_ascii_whitespace() || !is_number {
        return None;
    }
    Some((name.strip_suffix(b":").unwrap_or(name), Util::new(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
Linux 6.1.0 (host) \t11/21/26 \t_x86_64_\t(2 CPU)

Device            r/s     rkB/s   rrqm/s  %rrqm r_await  %util
sda              1.00      2.00     0.00   0.00    0.30   0.40
sda1             1.00      2.00     0.00   0.00    0.30   0.10
vdb              1.00      2.00     0.00   0.00    0.30 100.00


Device            r/s     rkB/s   rrqm/s  %rrqm r_await  %util
sda              1.00      2.00     0.00   0.00    0.30   1.5
";

    #[test]
    fn reports_end_where_devices_do() {
        let mut report = Report::default();
        let mut reports = Vec::new();
        for line in OUTPUT.lines() {
            if report.take(line.as_bytes()) {
                reports.push(report.finish());
            }
        }
        reports.push(report.finish());
        assert_eq!(reports.len(), 2);
        let util = |source: &[u8], nr: usize| {
            util_of(source, &reports[nr]).map(|util| String::from_utf8(util.to_vec()).unwrap())
        };
        assert_eq!(util(b"/dev/sda2", 0).as_deref(), Some("0.40"));
        assert_eq!(util(b"/dev/sda1", 0).as_deref(), Some("0.10"));
        assert_eq!(util(b"/dev/vdb", 0).as_deref(), Some("100.00"));
        assert_eq!(util(b"/dev/vdb", 1), None);
        assert_eq!(util(b"/dev/sda1", 1).as_deref(), Some("1.5"));
        assert_eq!(util(b"tmpfs", 1), None);
    }

    #[test]
    fn other_lines_are_none_of_a_device() {
        for line in [
            "",
            "\n",
            "Device %util",
            " sda 1.0",
            "sda",
            "sda x",
            "sda 12345678",
        ] {
            assert_eq!(device_line(line.as_bytes()), None, "{line}");
        }
        assert!(device_line(b"dm-0: 3.0\n").is_some_and(|(name, _)| name == b"dm-0"));
    }
}
