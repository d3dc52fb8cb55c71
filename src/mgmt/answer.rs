//! One command's answer.

use super::command::{Algorithm, Command, Reason, Target};
use super::digest::{self, Job, SLICE, Slice};
use crate::channel::Message;
use crate::device::{Line, Refusal, Ticket};
use crate::ledger::{Act, Ledger};
use crate::site::Site;
use crate::sys::socket::Peer;
use std::fmt::Display;
use std::io;

/// What a command came to.
pub(super) enum Did {
    /// Its reply is written, or it has none.
    Answered,
    /// Nothing: its device is busy.
    Line(Line),
    /// Nothing: earlier replies must leave first.
    Flush,
    /// A digest has begun that others must get their turns beside.
    Digest(Box<Job>),
    /// A digest of low priority, which has not begun.
    Queue(Box<Job>),
    Watch,
}

/// An answer in the making.
pub(super) struct Answer<'a> {
    pub site: &'a Site,
    pub peer: &'a Peer,
    pub ticket: &'a mut Ticket,
    pub out: &'a mut Vec<u8>,
    /// Earlier replies have not left yet.
    pub is_behind: bool,
    /// What this turn may still read of files. Bytes.
    pub reads: &'a mut u64,
    /// The consumer's: what it does in the device.
    pub ledger: &'a Ledger,
}

impl Answer<'_> {
    pub fn command(&mut self, command: Command<'_>) -> Did {
        match command {
            Command::Size(target) => return self.size(&target),
            Command::Digest(algorithm, target, reason) => {
                return self.digest(algorithm, &target, reason);
            }
            Command::Watch => return self.watch(),
            Command::Shutdown => {
                // EAGAIN: the master has not listened for a long time.
                if let Err(e) = self.site.master.send(Message::Shutdown) {
                    log::error!("shutdown, for {}: telling the master: {e}", self.peer);
                }
                return Did::Answered;
            }
            Command::Threads(number) => {
                if let Some(number) = number {
                    self.site.board.set_threads(number);
                }
            }
            Command::Nothing => {}
            Command::BadPath => self
                .out
                .extend_from_slice(b"ERROR: uri invalid (contains ..)"),
            Command::Unknown(word) => {
                self.out.extend_from_slice(b"ERROR: unknown command: ");
                self.out.extend_from_slice(word);
            }
        }
        self.out.extend_from_slice(b"\r\n");
        Did::Answered
    }

    /// Enters the device of a path. There is no reply that says "busy", and "-1"
    /// would be a lie: who was not let in in time waits again, and behind a line
    /// that is full, until the device is known to hang.
    fn enter(&mut self, verb: &str, target: &Target<'_>) -> Result<Line, Refusal> {
        let name = target.path.device();
        let mut enter = || self.ticket.enter(&self.site.devices, self.site.nr, name);
        let line = match enter() {
            Err(Refusal::TooLate) => enter(),
            other => other,
        }?;
        self.ledger
            .about(&[verb.as_bytes(), b" ", target.sent], Act::Open);
        Ok(line)
    }

    fn size(&mut self, target: &Target<'_>) -> Did {
        let facts = match self.enter("size", target) {
            Err(Refusal::Wait(line) | Refusal::Full(line)) => return Did::Line(line),
            Err(refused) => {
                self.note("size", target, refused.why());
                None
            }
            Ok(_) => match self.site.store.facts(&target.path, self.ticket.seat()) {
                Ok(facts) => Some(facts),
                Err(e) => {
                    self.note_failure("size", target, &e);
                    None
                }
            },
        };
        self.out.extend_from_slice(target.sent);
        let text = facts.map_or("-1".to_owned(), |facts| facts.size.to_string());
        self.out
            .extend_from_slice(format!(" {text}\r\n").as_bytes());
        Did::Answered
    }

    fn digest(&mut self, algorithm: Algorithm, target: &Target<'_>, reason: Reason) -> Did {
        let line = match self.enter(algorithm.name(), target) {
            Err(Refusal::Wait(line) | Refusal::Full(line)) => return Did::Line(line),
            Err(refused) => {
                self.note(algorithm.name(), target, refused.why());
                return self.no_digest(algorithm, target);
            }
            Ok(line) => line,
        };
        let (file, facts) = match self.site.store.read(&target.path, self.ticket.seat()) {
            Ok(opened) => (opened.file, opened.facts),
            Err(e) => {
                self.note_failure(algorithm.name(), target, &e);
                return self.no_digest(algorithm, target);
            }
        };
        // Who stops has no time for priorities.
        let waits = reason == Reason::Fsck && !self.site.is_draining();
        if self.is_behind && (waits || facts.size >= SLICE) {
            return Did::Flush;
        }
        let mut job = Job::new(algorithm, target.sent, file, &facts, line);
        if waits {
            return Did::Queue(Box::new(job));
        }
        match job.slice(self.reads, self.out, self.ledger, self.ticket.seat()) {
            Slice::Done => Did::Answered,
            Slice::More => Did::Digest(Box::new(job)),
        }
    }

    fn no_digest(&mut self, algorithm: Algorithm, target: &Target<'_>) -> Did {
        digest::reply(algorithm, target.sent, "-1", self.out);
        Did::Answered
    }

    fn watch(&mut self) -> Did {
        if !self.site.board.has_utilization() {
            self.out.extend_from_slice(b"ERR iostat unavailable\r\n");
            return Did::Answered;
        }
        if self.is_behind {
            return Did::Flush;
        }
        self.site.board.want_refresh();
        Did::Watch
    }

    /// A line in the log about a call that failed, unless it is only that the
    /// file is not there.
    fn note_failure(&self, verb: &str, target: &Target<'_>, e: &io::Error) {
        if e.kind() != io::ErrorKind::NotFound {
            self.note(verb, target, e);
        }
    }

    fn note(&self, verb: &str, target: &Target<'_>, why: impl Display) {
        crate::log::client(format_args!(
            "{} {verb} {} failed: {why}",
            self.peer,
            target.path.display()
        ));
    }
}
