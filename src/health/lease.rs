//! The lease: who holds the lock on its file is elected. The kernel elects, by
//! flock(2), and hands on when the holder closes the file or dies; who waits is
//! asleep in it.
//!
//! Each process opens the file itself, after the fork: a lock belongs to the
//! open file, and a forked child would share its parent's. It is given back by
//! closing, never by LOCK_UN, and the file is never removed; should a cleaner
//! do so, the holder notices within a round, stops leading, and queues again at
//! the new one. Whoever won that one meanwhile waits for it (`mod.rs`).

use crate::sys::{clock, disk};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// See the module. Dropped, it goes to the next.
pub struct Lease {
    file: File,
    identity: Identity,
}

/// Which file it is: st_dev and st_ino. Nobody else can have it while the file
/// is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(u64, u64);

impl Identity {
    /// Of what has this path now.
    pub fn of(path: &Path) -> io::Result<Identity> {
        let facts = std::fs::symlink_metadata(path)?;
        Ok(Identity(facts.dev(), facts.ino()))
    }
}

impl Lease {
    /// Waits for it, asleep in the kernel. None: `leaving` says so, which is
    /// asked when a signal has interrupted, and once more when it was won.
    pub fn wait(path: &Path, leaving: impl Fn() -> bool) -> io::Result<Option<Lease>> {
        loop {
            let file = open(path)?;
            while let Err(e) = file.lock() {
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
                if leaving() {
                    return Ok(None);
                }
            }
            if leaving() {
                return Ok(None);
            }
            let facts = file.metadata()?;
            let identity = Identity(facts.dev(), facts.ino());
            // Otherwise it was unlinked while we slept: queue where all do.
            if Identity::of(path)? == identity {
                return Ok(Some(Lease { file, identity }));
            }
        }
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The process that has signed before: the one that held this very file.
    pub fn predecessor(&self) -> Option<u32> {
        /// More than three numbers have.
        const LONGEST: u64 = 64;
        let mut text = String::new();
        (&self.file).take(LONGEST).read_to_string(&mut text).ok()?;
        text.split(' ').next()?.parse().ok()
    }

    /// Writes who holds it, for people: process, worker, and since when
    /// (milliseconds of the monotonic clock).
    pub fn sign(&self, pid: u32, worker: usize) -> io::Result<()> {
        let text = format!("{pid} {worker} {}\n", clock::monotonic_ms());
        self.file.set_len(0)?;
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

/// Opens or makes the file; its folder too, should somebody have removed it.
fn open(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
    };
    match (open(), path.parent()) {
        (Err(e), Some(folder)) if e.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o700).create(folder)?;
            open()
        }
        (opened, _) => opened,
    }
}

/// Whether this error of [`Lease::wait`] says that there are no such locks.
pub fn is_unsupported(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS)
    )
}

/// The kind of the filesystem, when its locks are not this kernel's alone.
pub fn remote_kind(path: &Path) -> io::Result<Option<&'static str>> {
    disk::remote_kind(open(path)?.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{TryRecvError, channel};

    fn won(path: &Path) -> Lease {
        Lease::wait(path, || false).unwrap().unwrap()
    }

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/health.lock");
        let first = won(&path);
        assert_eq!(first.predecessor(), None);
        first.sign(123, 4).unwrap();
        let (tell, told) = channel();
        let theirs = path.clone();
        let next = std::thread::spawn(move || {
            let next = won(&theirs);
            tell.send(()).unwrap();
            next
        });
        assert_eq!(told.try_recv(), Err(TryRecvError::Empty));
        drop(first);
        let next = next.join().unwrap();
        assert_eq!(next.predecessor(), Some(123));
        next.sign(5, 6).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("5 6 ") && text.ends_with('\n'), "{text:?}");
    }

    #[test]
    fn who_wins_an_unlinked_file_queues_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health.lock");
        let first = won(&path);
        let theirs = path.clone();
        let next = std::thread::spawn(move || won(&theirs));
        std::fs::remove_file(&path).unwrap();
        assert_ne!(Identity::of(&path).ok(), Some(first.identity()));
        let other = won(&path);
        assert_eq!(other.predecessor(), None);
        drop(first);
        assert_eq!(Identity::of(&path).unwrap(), other.identity());
        drop(other);
        assert_eq!(
            next.join().unwrap().identity(),
            Identity::of(&path).unwrap()
        );
    }

    #[test]
    fn who_leaves_wins_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health.lock");
        assert!(Lease::wait(&path, || true).unwrap().is_none());
        won(&path);
    }
}
