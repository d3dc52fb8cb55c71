//! The housekeeper: the worker's main thread. It listens to the master and to
//! signals, and keeps time: sweeps, heartbeats.

use super::{DRAIN_TICK, Stop, WORD_COMES};
use crate::channel::{Channel, Message};
use crate::config::Timeouts;
use crate::scoreboard::Scoreboard;
use crate::sys::signal::{Inbox, Signal};
use crate::sys::watch;
use mio::{Events, Poll, Token};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MASTER: Token = Token(0);
const SIGNALS: Token = Token(1);

/// Heartbeats come at least so often, and sweeps; shorter when a timeout is.
const LONGEST_TICK: Duration = Duration::from_secs(1);
const SHORTEST_TICK: Duration = Duration::from_millis(10);

/// A timeout is noticed within this part of itself.
const TICKS_PER_TIMEOUT: u32 = 4;

/// What was said meanwhile.
struct Heard {
    by_signal: Option<Stop>,
    by_master: Option<Stop>,
}

impl Heard {
    fn gravest(self) -> Option<Stop> {
        self.by_signal.max(self.by_master)
    }
}

/// See the module.
pub struct Housekeeper {
    poll: Poll,
    events: Events,
    channel: Arc<Channel>,
    signals: Inbox,
    board: Scoreboard,
    /// The master wants the lease to go to another worker.
    resign: bool,
    tick: Duration,
}

impl Housekeeper {
    pub fn new(
        channel: Arc<Channel>,
        signals: Inbox,
        board: Scoreboard,
        timeouts: &Timeouts,
    ) -> io::Result<Housekeeper> {
        let poll = Poll::new()?;
        watch::readable(poll.registry(), channel.as_fd(), MASTER)?;
        watch::readable(poll.registry(), signals.as_fd(), SIGNALS)?;
        let shortest = [
            timeouts.idle,
            timeouts.head,
            timeouts.body,
            timeouts.send,
            timeouts.device,
        ]
        .into_iter()
        .min()
        .unwrap_or(LONGEST_TICK);
        Ok(Housekeeper {
            poll,
            events: Events::with_capacity(4),
            channel,
            signals,
            board,
            resign: false,
            tick: (shortest / TICKS_PER_TIMEOUT).clamp(SHORTEST_TICK, LONGEST_TICK),
        })
    }

    /// Tells the master that this worker serves.
    pub fn report_ready(&self) -> io::Result<()> {
        match self.channel.send(Message::Ready) {
            // The master has gone meanwhile: who has been accepted is served, and
            // then it ends, as at any other time.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(e) => Err(io::Error::new(e.kind(), format!("telling the master: {e}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Whether the master has asked this worker to resign as the elected one;
    /// once for each time.
    pub fn shall_resign(&mut self) -> bool {
        std::mem::take(&mut self.resign)
    }

    /// Keeps house until the word to stop comes.
    pub fn wait_for_word(&mut self, mut keep_house: impl FnMut(&mut Self)) -> io::Result<Stop> {
        loop {
            let due = super::after(self.tick);
            loop {
                match self.listen(due)? {
                    Heard {
                        by_signal: Some(alone @ Stop::Graceful { .. }),
                        by_master: None,
                    } => return self.hear_the_master(alone),
                    heard => {
                        if let Some(stop) = heard.gravest() {
                            return Ok(stop);
                        }
                    }
                }
                if Instant::now() >= due {
                    break;
                }
            }
            keep_house(self);
        }
    }

    /// Keeps house until it says that it is done: false. Or until the word
    /// comes to stop at once: true. A second word to stop gracefully is none:
    /// who signals a process group, as service managers do, reaches us as well
    /// as the master, and that passes it on.
    pub fn wait_until(&mut self, mut done: impl FnMut() -> bool) -> io::Result<bool> {
        while !done() {
            let heard = self.listen(super::after(DRAIN_TICK))?;
            if heard.gravest() == Some(Stop::Fast) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for a word until `due`.
    fn listen(&mut self, due: Instant) -> io::Result<Heard> {
        let left = due.saturating_duration_since(Instant::now());
        match self.poll.poll(&mut self.events, Some(left)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        let (mut master, mut signals) = (false, false);
        for event in &self.events {
            match event.token() {
                MASTER => master = true,
                _ => signals = true,
            }
        }
        // Events come once, so all that has come is read.
        Ok(Heard {
            by_signal: if signals { self.read_signals() } else { None },
            by_master: if master { self.read_channel()? } else { None },
        })
    }

    /// A signal has told this worker to stop, alone as it seems. If it was sent
    /// to all, the master's word is on its way, and knows more.
    fn hear_the_master(&mut self, alone: Stop) -> io::Result<Stop> {
        let due = super::after(WORD_COMES);
        while Instant::now() < due {
            if let Some(stop) = self.listen(due)?.gravest() {
                return Ok(stop.max(alone));
            }
        }
        Ok(alone)
    }

    fn read_signals(&self) -> Option<Stop> {
        self.signals.take().find_map(|signal| match signal {
            Signal::Int => Some(Stop::Fast),
            // The operator retires this one worker; the others go on.
            Signal::Quit | Signal::Term | Signal::Winch => Some(Stop::Graceful { last: false }),
            Signal::Usr1 => {
                self.ask_for_the_log();
                None
            }
            // The rest is said to the master.
            _ => None,
        })
    }

    fn read_channel(&mut self) -> io::Result<Option<Stop>> {
        let mut gravest = None;
        loop {
            let (message, passed) = match self.channel.receive_passed() {
                Ok(Some(said)) => said,
                Ok(None) => {
                    log::error!("the master has gone: this worker drains and ends");
                    watch::forget(self.poll.registry(), self.channel.as_fd())?;
                    // Other workers drain too, but none can know who is last;
                    // unless another tree serves on.
                    let last = !self.board.is_shared();
                    return Ok(gravest.max(Some(Stop::Graceful { last })));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(gravest),
                Err(e) => return Err(e),
            };
            let stop = match message {
                Message::Quit { last } => Stop::Graceful { last },
                Message::Fast => Stop::Fast,
                Message::Resign => {
                    self.resign = true;
                    continue;
                }
                Message::Reopen => {
                    self.follow_the_log(passed);
                    continue;
                }
                // These are ours to say.
                Message::Ready
                | Message::Shutdown
                | Message::Surveyed
                | Message::Reopened { .. } => continue,
            };
            gravest = gravest.max(Some(stop));
        }
    }

    /// The master opens it, for all: this process may have no right to.
    fn ask_for_the_log(&self) {
        if let Err(e) = self.channel.send(Message::Reopen) {
            log::warn!("the log is not opened anew: the master cannot be asked: {e}");
        }
    }

    /// What the master has opened is where lines go from now on.
    fn follow_the_log(&self, opened: Option<OwnedFd>) {
        let followed = match &opened {
            Some(opened) => crate::log::follow(opened.as_fd()),
            // The kernel leaves it out where there is no number for it.
            None => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        };
        if let Err(e) = &followed {
            log::error!(
                "the log could not be opened anew, this worker goes on in the old one: {e}"
            );
        }
        // EPIPE: the master has gone, which is noticed elsewhere.
        let _ = self.channel.send(Message::Reopened {
            followed: followed.is_ok(),
        });
    }
}
