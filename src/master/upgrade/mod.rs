//! USR2: our program, executed anew with our listeners, takes over. `successor`
//! is what the old one does, `predecessor` what the new one does; here is what
//! they say to each other.
//!
//! ```text
//!   old   fork, exec ──────────────────────▶ new
//!         ◀── bound ── ready 1/2 ── ready 2/2 ──
//!         ── commit ─▶    writes the pidfile
//!         ◀── committed ──
//! ```
//!
//! By hand the commit follows at once and both serve until the operator ends
//! one; otherwise it comes after a probation, and the old one drains.

pub mod predecessor;
pub mod program;
pub mod successor;

use crate::sys::socket;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Names the version of what is said, the number of the link, and that of the
/// pidfile or "-".
pub const VARIABLE: &str = "RMOGSTORED_UPGRADE";

/// Of what is said. Another one's successor is left to the operator.
const VERSION: &str = "1";

/// Bytes of a message.
const LEN: usize = 1024;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// New, not yet executed: the program is another one, of this name.
    Foreign(String),
    /// Old: then it may have the pidfile.
    Go,
    /// New: it has its listeners.
    Bound,
    /// New: so many of its workers serve, of so many.
    Ready(usize, usize),
    /// New: one of its workers has died.
    Died(String),
    /// New: it gives up.
    Failed(String),
    /// Old: you are in charge.
    Commit,
    /// New: the pidfile says so.
    Committed,
    /// Either: the log file was rotated.
    Reopen,
    /// Either: I end now.
    Leaving,
}

impl Word {
    fn encode(&self) -> String {
        let mut text = match self {
            Word::Foreign(name) => format!("foreign {name}"),
            Word::Go => "go".to_owned(),
            Word::Bound => "bound".to_owned(),
            Word::Ready(ready, wanted) => format!("ready {ready}/{wanted}"),
            Word::Died(why) => format!("died {why}"),
            Word::Failed(why) => format!("failed {why}"),
            Word::Commit => "commit".to_owned(),
            Word::Committed => "committed".to_owned(),
            Word::Reopen => "reopen".to_owned(),
            Word::Leaving => "leaving".to_owned(),
        };
        while text.len() > LEN {
            text.pop();
        }
        text
    }

    fn decode(text: &str) -> Option<Word> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match verb {
            "foreign" => Word::Foreign(rest.to_owned()),
            "go" => Word::Go,
            "bound" => Word::Bound,
            "ready" => {
                let (ready, wanted) = rest.split_once('/')?;
                Word::Ready(ready.parse().ok()?, wanted.parse().ok()?)
            }
            "died" => Word::Died(rest.to_owned()),
            "failed" => Word::Failed(rest.to_owned()),
            "commit" => Word::Commit,
            "committed" => Word::Committed,
            "reopen" => Word::Reopen,
            "leaving" => Word::Leaving,
            _ => return None,
        })
    }
}

/// What has been heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Word(Word),
    /// Something that this version does not know.
    Noise,
    Nothing,
    /// The other one has gone.
    End,
}

/// One end of what connects them. Messages are kept apart; its end is the
/// other's death.
pub struct Link(OwnedFd);

impl Link {
    fn pair() -> io::Result<(Link, Link)> {
        let (one, other) = socket::message_pair()?;
        Ok((Link(one), Link(other)))
    }

    /// EPIPE: the other has gone.
    pub fn say(&self, word: &Word) -> io::Result<()> {
        socket::send(self.0.as_fd(), word.encode().as_bytes(), false)?;
        Ok(())
    }

    /// The next message, without waiting.
    pub fn hear(&self) -> Heard {
        let mut bytes = Vec::with_capacity(LEN);
        match socket::recv_append(self.0.as_fd(), &mut bytes, usize::MAX) {
            Ok(0) => Heard::End,
            Ok(_) => {
                let text = String::from_utf8_lossy(&bytes);
                Word::decode(&text).map_or(Heard::Noise, Heard::Word)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_as_they_were_said() {
        let (old, new) = Link::pair().unwrap();
        let words = [
            Word::Foreign("cmogstored 1.2.1".into()),
            Word::Go,
            Word::Bound,
            Word::Ready(3, 4),
            Word::Died("worker 1 exited with 1".into()),
            Word::Failed("no".into()),
            Word::Commit,
            Word::Committed,
            Word::Reopen,
            Word::Leaving,
        ];
        for word in &words {
            new.say(word).unwrap();
        }
        for word in words {
            assert_eq!(old.hear(), Heard::Word(word));
        }
        assert_eq!(old.hear(), Heard::Nothing);
        new.say(&Word::Failed("ä".repeat(LEN))).unwrap();
        assert!(matches!(old.hear(), Heard::Word(Word::Failed(_))));
        socket::send(new.as_fd(), b"sing", false).unwrap();
        assert_eq!(old.hear(), Heard::Noise);
        drop(new);
        assert_eq!(old.hear(), Heard::End);
    }
}
