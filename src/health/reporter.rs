//! The operator's own iostat: a command that runs as long as this process is
//! elected, started again when it ends.

use super::iostat::Reports;
use super::rounds::News;
use crate::sync::Mutex;
use crate::sys::shell;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// After a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// From one start to the next, at least: a command that ends at once would keep
/// a processor busy.
const BETWEEN_STARTS: Duration = Duration::from_secs(1);

/// A command that has closed its output has so long to end.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Bytes of a line; longer ones are taken in parts.
const LINE: u64 = 4096;

/// See the module. Dropped, the command is killed and nothing follows.
pub struct Reporter {
    slot: Arc<Mutex<Slot>>,
    /// Closed by its drop, which the thread notices.
    _stop: Sender<()>,
}

/// The command that runs, if one does.
#[derive(Default)]
struct Slot {
    child: Option<Child>,
    /// None shall any more.
    stopped: bool,
}

impl Reporter {
    /// Starts the thread: each report is told as [`News::Report`].
    pub fn start(command: &OsStr, tell: &Sender<News>) -> io::Result<Reporter> {
        let slot = Arc::<Mutex<Slot>>::default();
        let (stop, stopped) = channel();
        let work = Work {
            command: command.to_owned(),
            slot: Arc::clone(&slot),
            stopped,
            tell: tell.clone(),
        };
        std::thread::Builder::new()
            .name("iostat".to_owned())
            .spawn(move || {
                work.run();
            })?;
        Ok(Reporter { slot, _stop: stop })
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let mut slot = self.slot.lock();
        slot.stopped = true;
        if let Some(child) = &slot.child {
            // It may have ended already; the thread waits for it.
            let _ = shell::kill(child);
        }
    }
}

struct Work {
    command: OsString,
    slot: Arc<Mutex<Slot>>,
    stopped: Receiver<()>,
    tell: Sender<News>,
}

impl Work {
    fn run(&self) {
        loop {
            let begun = Instant::now();
            let pause = match self.once() {
                Ok(None) => return,
                Ok(Some(status)) if status.success() => {
                    BETWEEN_STARTS.saturating_sub(begun.elapsed())
                }
                Ok(Some(status)) => self.complain(&status.to_string()),
                Err(e) => self.complain(&e.to_string()),
            };
            if self.stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    fn complain(&self, what: &str) -> Duration {
        if !self.slot.lock().stopped {
            log::error!(
                "MOG_IOSTAT_CMD ({}): {what}; the next try is in {AFTER_FAILURE:?}",
                self.command.display()
            );
        }
        AFTER_FAILURE
    }

    /// Runs the command to its end. None: nothing shall run any more.
    fn once(&self) -> io::Result<Option<ExitStatus>> {
        let output = {
            let mut slot = self.slot.lock();
            if slot.stopped {
                return Ok(None);
            }
            let mut child = shell::start(&self.command)?;
            let output = child.stdout.take();
            slot.child = Some(child);
            output
        };
        if let Some(output) = output {
            self.read(BufReader::new(output));
        }
        let closed = Instant::now();
        loop {
            let mut slot = self.slot.lock();
            let Some(child) = slot.child.as_mut() else {
                return Ok(None);
            };
            if let Some(status) = child.try_wait()? {
                slot.child = None;
                return Ok(Some(status));
            }
            if closed.elapsed() >= ENDS_WITHIN {
                shell::kill(child)?;
            }
            drop(slot);
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn read(&self, mut output: impl BufRead) {
        let mut reports = Reports::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut output).take(LINE).read_until(b'\n', &mut line);
            let ended = !matches!(read, Ok(n) if n > 0);
            let report = if ended {
                reports.end()
            } else {
                reports.take(String::from_utf8_lossy(&line).trim_end())
            };
            if let Some(report) = report {
                // Nobody listens any more when the process ends.
                let _ = self.tell.send(News::Report(report));
            }
            if ended {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Util;
    use crate::sys::process;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn it_is_started_again_and_killed() {
        let (tell, told) = channel();
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let command = format!(
            "sh -c 'if test -e {0}; then echo $$ >{0}.new; mv {0}.new {0}; echo; echo sda 2.00; echo; exec sleep 1000; \
             fi; echo >{0}; echo sda 1.00'",
            pid.display()
        );
        let reporter = Reporter::start(OsStr::new(&command), &tell).unwrap();
        for text in ["1.00", "2.00"] {
            let Ok(News::Report(report)) = told.recv_timeout(PATIENCE) else {
                panic!("no report {text}");
            };
            assert_eq!(report, [("sda".to_owned(), Util::new(text).unwrap())]);
        }
        let pid: process::Pid = std::fs::read_to_string(pid)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert!(process::exists(pid));
        drop(reporter);
        let end = Instant::now() + PATIENCE;
        while process::exists(pid) {
            assert!(Instant::now() < end, "it was not killed and reaped");
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
