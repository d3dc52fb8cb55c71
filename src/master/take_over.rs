//! The master's part in an upgrade: as the old one, as the new one.

use super::children::how;
use super::stop::Stopping;
use super::upgrade::Heard;
use super::upgrade::Word;
use super::upgrade::program::{Legacy, Program};
use super::upgrade::successor::{Event, Stage, Successor};
use super::{Failure, Master, SUCCESSOR, failed};
use crate::control::{Asker, report};
use crate::listener;
use crate::pidfile::Pidfile;
use crate::sys::process::{End, Pid};
use crate::sys::watch;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The old one's side.
pub(super) struct Upgrade {
    program: Program,
    successor: Option<Successor>,
    /// Names us while there are two.
    oldbin: Option<Pidfile>,
    askers: Vec<Asker>,
    /// How the last one ended.
    outcome: String,
    /// The predecessor has gone then, and what it may have left is to be swept.
    bereaved: Option<Instant>,
}

/// A process that has ended holds nothing after this.
const CLAIM_ENDS_WITHIN: Duration = Duration::from_secs(2);

impl Upgrade {
    pub(super) fn new(program: Program) -> Upgrade {
        Upgrade {
            program,
            successor: None,
            oldbin: None,
            askers: Vec::new(),
            outcome: String::new(),
            bereaved: None,
        }
    }

    /// Whether there is a process of ours that shall take over, or has.
    pub(super) fn has_successor(&self) -> bool {
        self.successor.is_some()
    }

    /// Whether there is something to wait for.
    pub(super) fn is_under_way(&self) -> bool {
        let successor = self.successor.as_ref();
        self.bereaved.is_some()
            || successor.is_some_and(|one| !matches!(one.stage, Stage::Committed | Stage::Foreign))
    }

    /// Two are one again.
    pub(super) fn drop_oldbin(&self) {
        if let Some(Err(e)) = self.oldbin.as_ref().map(Pidfile::clear) {
            log::warn!("the pidfile's .oldbin was not emptied: {e}");
        }
    }

    /// The process id of a successor that is in charge.
    pub(super) fn heir(&self) -> Option<u32> {
        let successor = self.successor.as_ref();
        successor
            .filter(|one| matches!(one.stage, Stage::Committed | Stage::Foreign))
            .map(|one| one.pid as u32)
    }

    /// For who asks.
    pub(super) fn report(&self) -> report::Upgrade {
        match &self.successor {
            None => report::Upgrade {
                state: report::Phase::None,
                pid: None,
                text: self.outcome.clone(),
            },
            Some(successor) => report::Upgrade {
                state: successor.stage.phase(),
                pid: Some(successor.pid as u32),
                text: successor.progress(),
            },
        }
    }
}

impl Master {
    /// Starts a successor. `auto`: it takes over by itself.
    pub(super) fn upgrade(&mut self, auto: bool, asker: Option<Asker>) {
        match self.start_successor(auto) {
            Ok(pid) => {
                log::info!("upgrade: pid {pid} was started");
                if let Some(asker) = asker {
                    self.office.say(asker, format!("pid {pid} was started"));
                    self.upgrade.askers.push(asker);
                }
            }
            Err(why) => {
                log::error!("upgrade failed: {why}; this server serves on");
                self.upgrade.outcome = format!("failed: {why}");
                self.office.done_all(asker, &Err(why));
            }
        }
    }

    fn start_successor(&mut self, auto: bool) -> Result<Pid, String> {
        if let Some(successor) = &self.upgrade.successor {
            return Err(format!("pid {} is its successor already", successor.pid));
        }
        if let Some(predecessor) = self.predecessor.as_ref().filter(|one| one.is_alive()) {
            let pid = predecessor.pid();
            return Err(format!(
                "its own predecessor, pid {pid}, lives: QUIT it first"
            ));
        }
        if self.ready_since.is_none() || !self.is_in_charge {
            return Err("this server is still starting".to_owned());
        }
        if self.reload.is_running() {
            return Err("a reload is under way".to_owned());
        }
        if let Some(pidfile) = &self.pidfile {
            let oldbin = pidfile.claim_oldbin().and_then(|oldbin| {
                oldbin.write(std::process::id())?;
                Ok(oldbin)
            });
            let oldbin = oldbin.map_err(|e| format!("{}.oldbin: {e}", pidfile.path().display()))?;
            self.upgrade.oldbin = Some(oldbin);
        }
        let legacy = Legacy {
            listeners: self.listeners.iter().map(AsFd::as_fd).collect(),
            variables: listener::variables(&self.listeners),
            pidfile: self.pidfile.as_ref().map(AsFd::as_fd),
        };
        let successor = Successor::start(&self.upgrade.program, &legacy, auto);
        let watched = successor.and_then(|successor| {
            let link = successor.as_fd();
            let watched = link.map_or(Ok(()), |link| {
                watch::readable(self.poll.registry(), link, SUCCESSOR)
            });
            // Unheard it would take the end of its link for our death.
            watched.inspect_err(|_| successor.kill())?;
            Ok(successor)
        });
        match watched {
            Ok(successor) => {
                let pid = successor.pid;
                self.upgrade.successor = Some(successor);
                self.note_shared();
                Ok(pid)
            }
            Err(e) => {
                self.release_oldbin();
                Err(format!("fork: {e}"))
            }
        }
    }

    /// Listens to the successor, and looks at the clock.
    pub(super) fn tend_upgrade(&mut self) {
        let knobs = &self.config.supervision;
        let (timeout, probation) = (knobs.upgrade, knobs.probation);
        let Some(successor) = &mut self.upgrade.successor else {
            return;
        };
        let event = successor.hear();
        let event = event.or_else(|| successor.tend(timeout, probation));
        let (pid, is_auto) = (successor.pid, successor.is_auto);
        match event {
            None => {}
            Some(Event::Foreign(name)) if is_auto => self.fail_upgrade(&format!(
                "the program is {name}: signal USR2, and QUIT the one that shall go"
            )),
            Some(Event::Foreign(name)) => {
                log::warn!(
                    "upgrade: pid {pid} is {name}; both may serve: QUIT the one that shall go"
                );
                // It would refuse to start beside one that the pidfile names.
                if let Some(Err(e)) = self.pidfile.as_ref().map(Pidfile::clear) {
                    log::error!("the pidfile could not be emptied: {e}");
                }
                if let Some(successor) = &mut self.upgrade.successor {
                    successor.let_go();
                }
            }
            Some(Event::Committed) if is_auto => {
                log::info!("upgrade: committed: pid {pid} serves");
                let here = std::process::id();
                self.answer_upgrade(Ok(format!("pid {pid} serves; pid {here} drains")));
                self.hand_over();
            }
            Some(Event::Committed) => {
                log::info!("upgrade: pid {pid} is ready; both serve: QUIT the one that shall go");
            }
            Some(Event::Reopen) => self.follow_log(),
            Some(Event::Failed(why)) => self.fail_upgrade(&why),
        }
    }

    /// The log file was rotated, which one of two is told: so is the other one.
    pub(super) fn tell_of_rotation(&mut self) {
        if let Some(successor) = &mut self.upgrade.successor {
            successor.reopen();
        }
        if let Some(predecessor) = &self.predecessor {
            predecessor.say(&Word::Reopen);
        }
    }

    fn follow_log(&mut self) {
        // It has said why not.
        let _ = self.children.reopen_logs();
    }

    /// There is nobody any more who could say how it ends.
    pub(super) fn leave_upgrade(&mut self) {
        if let Some(successor) = &self.upgrade.successor {
            let pid = successor.pid;
            self.answer_upgrade(Err(format!(
                "this server was stopped meanwhile; pid {pid} goes on by itself"
            )));
        }
        self.upgrade.drop_oldbin();
    }

    fn answer_upgrade(&mut self, outcome: Result<String, String>) {
        self.upgrade.outcome = match &outcome {
            Ok(text) => text.clone(),
            Err(why) => format!("failed: {why}"),
        };
        self.office
            .done_all(self.upgrade.askers.drain(..), &outcome);
    }

    /// The successor has failed: everything is as it was before.
    fn fail_upgrade(&mut self, why: &str) {
        let Some(successor) = &mut self.upgrade.successor else {
            return;
        };
        successor.condemn();
        self.take_back();
        log::error!("upgrade failed: {why}; this server serves on");
        if matches!(self.stopping, Stopping::HandedOver(_)) {
            self.resume();
        }
        self.answer_upgrade(Err(why.to_owned()));
    }

    /// The pidfile names us again.
    fn take_back(&mut self) {
        self.name_us();
        self.service.main_pid(std::process::id());
        self.release_oldbin();
        self.set_listeners();
        self.come_back();
    }

    fn name_us(&mut self) {
        if let Some(pidfile) = &mut self.pidfile
            && let Err(e) = pidfile
                .reclaim()
                .and_then(|()| pidfile.write(std::process::id()))
        {
            log::error!("the pidfile does not name this server again: {e}");
        }
    }

    fn release_oldbin(&mut self) {
        self.upgrade.drop_oldbin();
        self.upgrade.oldbin = None;
    }

    /// A process that is no worker of ours has died.
    pub(super) fn bury_successor(&mut self, pid: Pid, end: End) {
        let is_it = |successor: &mut Successor| successor.pid == pid;
        // Its last words.
        self.tend_upgrade();
        let Some(successor) = self.upgrade.successor.take_if(is_it) else {
            return;
        };
        let how = how(end);
        match successor.stage {
            // A script that hung may have left behind what it waited for.
            Stage::Condemned(_) | Stage::Killed => {
                successor.kill();
                // It may have written its own pid once more, before it heard.
                self.name_us();
            }
            Stage::Committed | Stage::Foreign if self.stopping == Stopping::No => {
                log::warn!("upgrade: pid {pid} {how}; this server is in charge again");
                self.upgrade.outcome = format!("pid {pid} {how}");
                self.take_back();
            }
            Stage::Committed if matches!(self.stopping, Stopping::HandedOver(_)) => {
                log::error!(
                    "upgrade: pid {pid} {how} while this server was draining: it serves again"
                );
                self.upgrade.outcome = format!("pid {pid} {how}");
                self.take_back();
                self.resume();
            }
            _ if self.stopping != Stopping::No => {
                log::warn!("upgrade: pid {pid} {how}; this server is stopping");
                self.answer_upgrade(Err(format!("pid {pid} {how}")));
            }
            _ => {
                successor.kill();
                self.take_back();
                let why = format!("pid {pid} {how}");
                log::error!("upgrade failed: {why}; this server serves on");
                self.answer_upgrade(Err(why));
            }
        }
        self.note_shared();
    }

    /// Workers whose master dies must know whether they are the last.
    pub(super) fn note_shared(&self) {
        self.scoreboard.set_shared(self.is_shared());
    }

    /// Whether nobody else goes on with what is ours. Two that end at the same
    /// moment must not leave it to each other: each says so first.
    pub(super) fn is_last_to_leave(&mut self) -> bool {
        let successor_stays = match &mut self.upgrade.successor {
            Some(successor) if successor.is_wanted() => {
                successor.say(&Word::Leaving);
                // What it had to say besides comes too late.
                while successor.hear().is_some() {}
                !successor.is_leaving
            }
            _ => false,
        };
        let predecessor_stays = match &mut self.predecessor {
            Some(predecessor) => {
                predecessor.say(&Word::Leaving);
                predecessor.stays()
            }
            None => false,
        };
        !successor_stays && !predecessor_stays
    }

    /// The new one's side: says how far we are, and takes over when told to.
    pub(super) fn tend_predecessor(&mut self) -> Result<(), Failure> {
        let ready = self.children.ready();
        let is_ready = self.children.are_all_ready() && self.stopping == Stopping::No;
        self.sweep_oldbin();
        let Some(predecessor) = &mut self.predecessor else {
            return if is_ready && !self.is_in_charge {
                self.take_charge()
            } else {
                Ok(())
            };
        };
        if !self.is_in_charge {
            predecessor.say_ready(ready);
        }
        let heard = predecessor.hear();
        let is_alive = predecessor.is_alive();
        let is_told = heard == Heard::Word(Word::Commit);
        let is_rotated = heard == Heard::Word(Word::Reopen);
        // Who is told to end has failed, whatever it was told before.
        let is_told = is_told && self.stopping == Stopping::No;
        if !self.is_in_charge && (is_told || is_ready && !predecessor.decides()) {
            self.take_charge()?;
        }
        if is_rotated {
            self.follow_log();
        }
        if !is_alive && let Some(gone) = self.predecessor.take() {
            log::info!("the predecessor, pid {}, has gone", gone.pid());
            if gone.is_ours() {
                self.upgrade.bereaved = Some(Instant::now());
            }
            self.note_shared();
        }
        Ok(())
    }

    /// A predecessor that was killed has left its pid in PIDFILE.oldbin. Its
    /// link may end a moment before its claim does.
    fn sweep_oldbin(&mut self) {
        let Some(since) = self.upgrade.bereaved else {
            return;
        };
        let oldbin = self.pidfile.as_ref().map(Pidfile::claim_oldbin);
        let swept = oldbin.is_none_or(|oldbin| oldbin.is_ok_and(|oldbin| oldbin.clear().is_ok()));
        if swept || since.elapsed() >= CLAIM_ENDS_WITHIN {
            self.upgrade.bereaved = None;
        }
    }

    /// The pidfile names us from now on.
    fn take_charge(&mut self) -> Result<(), Failure> {
        if let Some(pidfile) = &self.pidfile {
            let what = format!("pidfile={}", pidfile.path().display());
            pidfile.write(std::process::id()).map_err(failed(what))?;
        }
        self.is_in_charge = true;
        self.set_listeners();
        log::info!("this server is in charge");
        if let Some(predecessor) = &self.predecessor {
            predecessor.say(&Word::Committed);
        }
        Ok(())
    }
}
