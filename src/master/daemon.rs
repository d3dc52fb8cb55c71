//! Detaching: the service leaves the terminal, and whoever started it waits
//! until it is ready, or is told why it is not.

use crate::config::Config;
use crate::sys::process::{self, Forked, Solo, Standard};
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;

/// See the module.
pub struct Daemon {
    /// To the process that waits. It is closed by our end and by nothing else, so
    /// that the reason is written before that is noticed. None: nobody waits, or
    /// the word has been said.
    waiting: Option<ManuallyDrop<PipeWriter>>,
}

impl Daemon {
    /// Without `daemonize` it does nothing. With it, what returns from here is
    /// a process of a session of its own, in `/`, without stdin and stdout. Its
    /// stderr stays the caller's until it is ready, so the caller reads why it
    /// does not get there. Relative paths mean nothing afterwards.
    /// Neither does it where that was done by a predecessor in an upgrade.
    pub fn detach(config: &Config, is_successor: bool) -> io::Result<Daemon> {
        if !config.daemonize {
            return Ok(Daemon { waiting: None });
        }
        if is_successor {
            std::env::set_current_dir("/")?;
            if config.log_file.is_none() {
                crate::log::to_system();
            }
            return Ok(Daemon { waiting: None });
        }
        let (mut word, waiting) = io::pipe()?;
        if let Forked::Parent(_) = process::fork(Solo::prove()?)? {
            drop(waiting);
            process::exit(wait(&mut word))
        }
        drop(word);
        process::new_session()?;
        // The leader of a session could be given a terminal again; its child
        // cannot.
        if let Forked::Parent(_) = process::fork(Solo::prove()?)? {
            process::exit(0);
        }
        std::env::set_current_dir("/")?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        process::redirect(Standard::Input, null.as_fd())?;
        process::redirect(Standard::Output, null.as_fd())?;
        if config.log_file.is_none() {
            crate::log::to_system();
        }
        Ok(Daemon {
            waiting: Some(ManuallyDrop::new(waiting)),
        })
    }

    /// The service is ready: stderr is let go, and who waits may leave.
    pub fn ready(&mut self) -> io::Result<()> {
        let left = crate::log::leave_stderr();
        if let Some(waiting) = self.waiting.take() {
            // EPIPE: who started us did not want to wait so long.
            let _ = ManuallyDrop::into_inner(waiting).write_all(b"!");
        }
        left
    }
}

/// Waits for the daemon's word: the exit code.
fn wait(word: &mut impl Read) -> i32 {
    match word.read_exact(&mut [0]) {
        Ok(()) => 0,
        Err(_) => {
            log::error!("the daemon has ended before it was ready");
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_success_and_an_end_without_one_is_not() {
        assert_eq!(wait(&mut &b"!"[..]), 0);
        assert_eq!(wait(&mut &b""[..]), 1);
    }
}
