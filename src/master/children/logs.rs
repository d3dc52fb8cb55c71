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
    pub fn reopen_logs(&mut self) {
        match sink::reopen() {
            Ok(Reopened::NoFile) => {
                log::info!("there is no log file to be opened anew: --log-file was not given");
                return;
            }
            Ok(Reopened::Same) => log::info!("log: the file is the same"),
            Ok(Reopened::Anew) => log::info!("log: opened anew"),
            Err(e) => {
                log::error!("the log could not be opened anew, the old one is kept: {e}");
                return;
            }
        }
        let stderr = io::stderr();
        let mut told = 0;
        for (nr, place) in self.places.iter_mut().enumerate() {
            let Some(worker) = &mut place.worker else {
                continue;
            };
            match worker.channel.send_passing(Message::Reopen, stderr.as_fd()) {
                Ok(()) => {
                    worker.logs += 1;
                    told += 1;
                }
                // EPIPE: it is dead, and will be reaped.
                Err(e) => log::warn!(
                    "worker {nr}, pid {}, was not given the log: {e}",
                    worker.pid
                ),
            }
        }
        if self.logs.since.is_none() {
            (self.logs.told, self.logs.followers) = (0, 0);
        }
        self.logs.told += told;
        self.logs.since = Some(Instant::now());
    }

    /// Does what a worker was asked for, and says when all have answered, or who
    /// has not.
    pub fn tend_logs(&mut self) {
        if std::mem::take(&mut self.logs.are_wanted) {
            self.reopen_logs();
        }
        let Some(since) = self.logs.since else {
            return;
        };
        let is_late = |(_, worker): &(usize, &Worker)| worker.logs > 0;
        let late: Vec<String> = self
            .workers()
            .filter(is_late)
            .map(|(nr, worker)| format!("worker {nr} (pid {})", worker.pid))
            .collect();
        if late.is_empty() {
            let Logs {
                followers, told, ..
            } = self.logs;
            log::info!("log: {followers} of {told} workers write to it");
        } else if since.elapsed() >= FOLLOWS_WITHIN {
            log::warn!("log: not yet followed by {}", late.join(", "));
        } else {
            return;
        }
        self.logs.since = None;
    }
}
