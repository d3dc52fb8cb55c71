//! The new one's side: who executed us, and waits for us to be ready.

use super::{Heard, Link, VARIABLE, VERSION, Word};
use crate::sys::inherit::adopt;
use crate::sys::{process, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the module.
pub struct Predecessor {
    /// None: an older daemon, which says nothing, or one that has gone.
    link: Option<Link>,
    /// Its claim, which is ours by inheritance.
    pidfile: Option<OwnedFd>,
    pid: u32,
    /// What was last said of being ready.
    said: Option<(usize, usize)>,
    is_speaking: bool,
    is_ours: bool,
}

impl Predecessor {
    /// Another daemon, which has executed us with its listeners.
    pub fn silent() -> Predecessor {
        Predecessor {
            link: None,
            pidfile: None,
            pid: process::parent(),
            said: None,
            is_speaking: false,
            is_ours: false,
        }
    }

    /// One of ours, by its variable.
    pub fn speaking(variable: &str) -> io::Result<Predecessor> {
        let wrong = || io::Error::other(format!("{VARIABLE}={variable}: not what we would say"));
        let mut fields = variable.split(':');
        let version = fields.next().unwrap_or_default();
        let mut descriptor = || match fields.next().ok_or_else(wrong)? {
            "-" => Ok(None),
            text => {
                let number = text.parse().map_err(|_| wrong())?;
                adopt(number).map(Some)
            }
        };
        let link = descriptor()?.ok_or_else(wrong)?;
        let pidfile = descriptor()?;
        // Of another version: it cannot understand us, and waits for nothing.
        let is_speaking = version == VERSION;
        if !is_speaking {
            // EPIPE: nobody wants to know.
            let _ = socket::send(link.as_fd(), b"version", false);
        }
        Ok(Predecessor {
            link: is_speaking.then_some(Link(link)),
            pidfile,
            pid: process::parent(),
            said: None,
            is_speaking,
            is_ours: true,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it is one of our kind, of whatever version.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Its claim of the pidfile.
    pub fn take_pidfile(&mut self) -> Option<OwnedFd> {
        self.pidfile.take()
    }

    /// Whether it tells us when we are in charge. Otherwise we are as soon as
    /// we are ready.
    pub fn decides(&self) -> bool {
        self.link.is_some()
    }

    /// Whether it lives, or its parent's death is not noticed yet.
    pub fn is_alive(&self) -> bool {
        self.link.is_some() || !self.is_speaking && process::parent() == self.pid
    }

    /// Says something, if there is anybody to hear it.
    pub fn say(&self, word: &Word) {
        if let Some(link) = &self.link {
            // EPIPE: it has gone, which its end tells.
            let _ = link.say(word);
        }
    }

    /// So many workers serve, of so many; said when it changes.
    pub fn say_ready(&mut self, ready: (usize, usize)) {
        if self.said != Some(ready) {
            self.said = Some(ready);
            self.say(&Word::Ready(ready.0, ready.1));
        }
    }

    /// What it says; its end is told once.
    pub fn hear(&mut self) -> Heard {
        let heard = self.link.as_ref().map_or(Heard::Nothing, Link::hear);
        if heard == Heard::End {
            self.link = None;
        }
        heard
    }

    /// Whether it goes on when we end: it lives, and has not said otherwise.
    pub fn stays(&mut self) -> bool {
        while self.link.is_some() {
            match self.hear() {
                Heard::Word(Word::Leaving) => return false,
                Heard::Nothing => break,
                _ => {}
            }
        }
        self.is_alive()
    }

    /// To wait on.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }
}
