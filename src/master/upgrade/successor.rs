//! The old one's side: a process of our program that shall take over.

use super::program::{Legacy, Program};
use super::{Heard, Link, Word};
use crate::control::report::Phase;
use crate::sys::process::{self, Forked, Pid, Solo};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// After the word to end: then SIGKILL. Its workers notice, and drain.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Started,
    /// Another program: it says nothing, and the operator decides.
    Foreign,
    Bound,
    /// All its workers serve.
    Ready,
    /// It was told that it is in charge.
    Committing,
    Committed,
    /// It failed, and was told to end then.
    Condemned(Instant),
    Killed,
}

impl Stage {
    /// For who asks.
    pub fn phase(self) -> Phase {
        match self {
            Stage::Started | Stage::Foreign => Phase::Starting,
            Stage::Bound => Phase::Bound,
            Stage::Ready | Stage::Committing => Phase::Ready,
            Stage::Committed => Phase::Committed,
            Stage::Condemned(_) | Stage::Killed => Phase::RollingBack,
        }
    }
}

/// What the old one has to do about it.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It is another program: shall it be executed?
    Foreign(String),
    /// It is in charge.
    Committed,
    /// It was told that the log file was rotated.
    Reopen,
    Failed(String),
}

/// See the module.
pub struct Successor {
    pub pid: Pid,
    pub stage: Stage,
    /// Whether it takes over by itself.
    pub is_auto: bool,
    /// None: it has closed its end.
    link: Option<Link>,
    /// Its last progress.
    since: Instant,
    ready: (usize, usize),
    /// It has said that it ends, or has ended.
    pub is_leaving: bool,
    /// The log file was rotated before it could be told so.
    owes_reopen: bool,
}

impl Successor {
    /// Forks and executes it.
    pub fn start(program: &Program, legacy: &Legacy<'_>, is_auto: bool) -> io::Result<Successor> {
        let solo = Solo::prove()?;
        let (ours, theirs) = Link::pair()?;
        match process::fork(solo)? {
            Forked::Child => {
                drop(ours);
                let error = program.become_it(&theirs, legacy);
                // EPIPE: nobody wants to know any more.
                let _ = theirs.say(&Word::Failed(format!("{}: {error}", program.name())));
                process::exit(127)
            }
            Forked::Parent(pid) => Ok(Successor {
                pid,
                stage: Stage::Started,
                is_auto,
                link: Some(ours),
                since: Instant::now(),
                ready: (0, 0),
                is_leaving: false,
                owes_reopen: false,
            }),
        }
    }

    /// To wait on.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// Whether it is going to be in charge, or is.
    pub fn is_wanted(&self) -> bool {
        !matches!(self.stage, Stage::Condemned(_) | Stage::Killed)
    }

    fn reach(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }

    pub fn say(&self, word: &Word) {
        if let Some(link) = &self.link {
            // EPIPE: its death comes next.
            let _ = link.say(word);
        }
    }

    /// It is another program, and may have the pidfile.
    pub fn let_go(&mut self) {
        self.reach(Stage::Foreign);
        self.say(&Word::Go);
    }

    /// The log file was rotated.
    pub fn reopen(&mut self) {
        match self.stage {
            // Not before it listens: it may be another program.
            Stage::Started => self.owes_reopen = true,
            _ => self.say(&Word::Reopen),
        }
    }

    /// It shall end: it has failed.
    pub fn condemn(&mut self) {
        if self.is_wanted() {
            self.reach(Stage::Condemned(Instant::now()));
            // ESRCH: it has ended.
            let _ = process::quit(self.pid);
        }
    }

    /// SIGKILL, to what it has started in its process group as well: not to its
    /// workers, which have their own, and drain.
    pub fn kill(&self) {
        // ESRCH: it has ended.
        let _ = process::kill_group(self.pid);
    }

    /// Reads what it says, until there is something to do.
    pub fn hear(&mut self) -> Option<Event> {
        loop {
            let heard = self.link.as_ref().map_or(Heard::Nothing, Link::hear);
            match heard {
                Heard::Nothing => return None,
                Heard::End => {
                    self.link = None;
                    self.is_leaving |= self.stage != Stage::Foreign;
                    return None;
                }
                Heard::Noise if self.stage == Stage::Started => return Some(self.is_strange()),
                Heard::Noise => {}
                Heard::Word(word) if self.is_wanted() => {
                    if let Some(event) = self.learn(word) {
                        return Some(event);
                    }
                }
                Heard::Word(_) => {}
            }
        }
    }

    /// It is of another version, and says so by something that we do not know.
    fn is_strange(&mut self) -> Event {
        let name = "a version that we cannot talk to".to_owned();
        self.reach(Stage::Foreign);
        Event::Foreign(name)
    }

    fn learn(&mut self, word: Word) -> Option<Event> {
        match word {
            Word::Leaving => self.is_leaving = true,
            Word::Foreign(name) => return Some(Event::Foreign(name)),
            Word::Bound => {
                self.reach(Stage::Bound);
                if std::mem::take(&mut self.owes_reopen) {
                    self.say(&Word::Reopen);
                }
            }
            Word::Reopen => return Some(Event::Reopen),
            Word::Ready(ready, wanted) => {
                let is_progress = ready > self.ready.0;
                self.ready = (ready, wanted);
                match self.stage {
                    Stage::Bound if ready >= wanted && wanted > 0 => self.reach(Stage::Ready),
                    Stage::Bound if is_progress => self.reach(Stage::Bound),
                    _ => {}
                }
            }
            // Once it is in charge that is its own matter.
            Word::Died(why) if self.stage != Stage::Committed => return Some(Event::Failed(why)),
            Word::Failed(why) => return Some(Event::Failed(why)),
            Word::Committed if self.stage == Stage::Committing => {
                self.reach(Stage::Committed);
                return Some(Event::Committed);
            }
            Word::Died(_) | Word::Committed | Word::Go | Word::Commit => {}
        }
        None
    }

    /// Looks at the clock: commits, or finds that it hangs.
    pub fn tend(&mut self, timeout: Duration, probation: Duration) -> Option<Event> {
        let since = self.since.elapsed();
        match self.stage {
            Stage::Ready if !self.is_auto || since >= probation => {
                self.reach(Stage::Committing);
                self.say(&Word::Commit);
            }
            Stage::Condemned(at) if at.elapsed() >= ENDS_WITHIN => {
                log::error!("pid {} did not end: SIGKILL", self.pid);
                self.stage = Stage::Killed;
                self.kill();
            }
            Stage::Started | Stage::Bound | Stage::Committing if since >= timeout => {
                let (ready, wanted) = self.ready;
                let at = match self.stage {
                    Stage::Started => "it did not get as far as its listeners".to_owned(),
                    Stage::Bound => format!("{ready} of its {wanted} workers are ready"),
                    _ => "it did not take over when it was told to".to_owned(),
                };
                let within = timeout.as_secs_f32();
                return Some(Event::Failed(format!("{at} within {within} s")));
            }
            _ => {}
        }
        None
    }

    /// How far it is, for status.
    pub fn progress(&self) -> String {
        match self.stage {
            Stage::Bound => format!("{} of {} workers are ready", self.ready.0, self.ready.1),
            Stage::Foreign => "another program; QUIT the one that shall go".to_owned(),
            Stage::Committed if !self.is_auto => {
                "both serve: QUIT the one that shall go".to_owned()
            }
            Stage::Started => "it has been started".to_owned(),
            Stage::Ready => "all its workers are ready".to_owned(),
            Stage::Committing | Stage::Committed => "it takes over".to_owned(),
            Stage::Condemned(_) | Stage::Killed => "it has failed and ends".to_owned(),
        }
    }
}
