//! The lease: who has the flock on the lock file is elected. The kernel elects,
//! and hands on when the holder's process ends; nobody polls.

use crate::sys::{clock, filesystem};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Owns the locked file, which this process opened itself, after the fork: a
/// description that several processes share would make each of them a winner.
/// Dropped, it is closed, which hands the lease on. (Never LOCK_UN.)
pub(super) struct Lease {
    file: File,
    path: PathBuf,
}

impl Lease {
    /// Waits for the lease, in flock(2). Interrupted when a signal comes.
    pub(super) fn wait(path: &Path) -> io::Result<Lease> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)?;
            file.lock()?;
            let lease = Lease {
                file,
                path: path.to_owned(),
            };
            // Who waited while somebody cleaned up has won a file that nobody
            // else will ever look at.
            if lease.is_valid() {
                return Ok(lease);
            }
        }
    }

    /// Whether the path still leads to the file that is held. If not, another
    /// process may be elected by the file that is there now.
    pub(super) fn is_valid(&self) -> bool {
        let (held, found) = (self.file.metadata(), std::fs::symlink_metadata(&self.path));
        matches!((held, found), (Ok(held), Ok(found))
            if (held.dev(), held.ino()) == (found.dev(), found.ino()))
    }

    /// Writes into the file who holds it, for who looks from outside.
    pub(super) fn sign(&mut self, worker: usize) -> io::Result<()> {
        self.file.set_len(0)?;
        let line = format!(
            "{} {worker} {}\n",
            std::process::id(),
            clock::monotonic_ms()
        );
        self.file.write_all(line.as_bytes())
    }

    /// A filesystem over a network, where a lock can be lost without a word.
    pub(super) fn is_remote(&self) -> bool {
        filesystem::is_remote(self.file.as_fd()).unwrap_or(false)
    }
}
