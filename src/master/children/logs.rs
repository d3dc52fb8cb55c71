//! The log, opened anew: by the master first, then each worker is given the
//! descriptor, and answers.

use super::{Children, Worker};
use crate::channel::Message;
use crate::log::{self as sink, Reopened};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A worker that does not answer within this is named. It may be busy starting;
/// the descriptor waits in its channel.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);

/// How far it has come.
#[derive(Default)]
pub(super) struct Logs {
    /// A worker was asked for it by an operator.
    pub(super) are_wanted: bool,
    /// Since when answers are waited for.
    since: Option<Instant>,
    told: usize,
    pub(super) followers: usize,
}

impl Children {
    /// Opens the log anew where its path leads to another file, and gives it to
    /// all, also when it is the same: one of them may have failed the last time.
    /// The error is one line.
    pub fn reopen_logs(&mut self) -> Result<(), String> {
        match sink::reopen() {
            Ok(Reopened::NoFile) => {
                let why = "there is no log file to be opened anew: --log-file was not given";
                log::info!("{why}");
                return Err(why.to_owned());
            }
            Ok(Reopened::Same) => log::info!("log: the file is the same"),
            Ok(Reopened::Anew) => log::info!("log: opened anew"),
            Err(e) => {
                let why = format!("the log could not be opened anew, the old one is kept: {e}");
                log::error!("{why}");
                return Err(why);
            }
        }
        let stderr = io::stderr();
        let mut told = 0;
        for worker in self.slots.iter_mut().flatten() {
            match worker.channel.send_passing(Message::Reopen, stderr.as_fd()) {
                Ok(()) => {
                    worker.logs += 1;
                    told += 1;
                }
                // EPIPE: it is dead, and will be reaped.
                Err(e) => log::warn!(
                    "worker {}, pid {}, was not given the log: {e}",
                    worker.nr,
                    worker.pid
                ),
            }
        }
        if self.logs.since.is_none() {
            (self.logs.told, self.logs.followers) = (0, 0);
        }
        self.logs.told += told;
        self.logs.since = Some(Instant::now());
        Ok(())
    }

    /// Does what a worker was asked for, and says when all have answered, or who
    /// has not: the outcome, once.
    pub fn tend_logs(&mut self) -> Option<Result<String, String>> {
        if std::mem::take(&mut self.logs.are_wanted) {
            // It has said why not.
            let _ = self.reopen_logs();
        }
        let since = self.logs.since?;
        let is_late = |(_, worker): &(usize, &Worker)| worker.logs > 0;
        let late: Vec<String> = self
            .workers()
            .filter(is_late)
            .map(|(_, worker)| format!("worker {} (pid {})", worker.nr, worker.pid))
            .collect();
        let outcome = if late.is_empty() {
            let Logs {
                followers, told, ..
            } = self.logs;
            let text = format!("log: {followers} of {told} workers write to it");
            log::info!("{text}");
            Ok(text)
        } else if since.elapsed() >= FOLLOWS_WITHIN {
            let text = format!("log: not yet followed by {}", late.join(", "));
            log::warn!("{text}");
            Err(text)
        } else {
            return None;
        };
        self.logs.since = None;
        Some(outcome)
    }
}
