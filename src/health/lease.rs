//! The lease: who holds the lock on its file is elected. The kernel elects, by
//! flock(2), and hands on when the holder closes the file or dies; who waits is
//! asleep in it.
//!
//! Each process opens the file itself, after the fork: a lock belongs to the
//! open file, and a forked child would share its parent's. It is given back by
//! closing, never by LOCK_UN, and the file is never removed; should a cleaner
//! do so, the holder notices within a round, stops leading, and queues again at
//! the new one. Whoever won that one meanwhile waits for it (`mod.rs`).
//!
//! A thread of its own waits and holds, with a table of descriptors of its own
//! where the system has such: a process that is killed lives on as long as one
//! of its threads is inside of a dead disk, and so does what is in the table
//! that they share. With it the lock would stay, and nobody could be elected.

use crate::sys::signal::Mask;
use crate::sys::{clock, disk, process, thread};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

/// See the module. Dropped, it goes to the next.
pub struct Lease {
    identity: Identity,
    /// The thread closes the file when this is gone.
    _held: Sender<()>,
}

impl Lease {
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

/// Who asks the thread for the lease.
pub struct Bidder {
    bids: Sender<()>,
    won: Receiver<io::Result<Option<Lease>>>,
}

impl Bidder {
    /// Waits for the lease. None: this process is leaving.
    pub fn wait(&self) -> io::Result<Option<Lease>> {
        // The thread lives as long as we can speak to it.
        let _ = self.bids.send(());
        self.won.recv().unwrap_or(Ok(None))
    }
}

/// What the thread does beside waiting.
pub struct Terms {
    pub path: PathBuf,
    /// The number of this worker.
    pub worker: usize,
    /// Whether this process is leaving.
    pub leaving: Box<dyn Fn() -> bool + Send>,
    /// Called with who has signed before, when it was won: returns when that
    /// one leads no more.
    pub settle: Box<dyn Fn(Option<u32>) + Send>,
}

/// Starts the thread; it is kicked when the process is leaving.
pub fn start(terms: Terms) -> io::Result<(Bidder, JoinHandle<()>)> {
    let (bids, asked) = channel();
    let (tell, won) = channel();
    let thread = Builder::new().name("lease".to_owned()).spawn(move || {
        Mask::all_but_kick().apply();
        process::leave_descriptors();
        // It sleeps but for the moment of a hand-over, which waits for a core
        // twice: its end in the process that dies, its wake-up in the next.
        thread::raise_priority();
        for () in asked {
            let (held, release) = channel();
            let (lease, lock) = match hold(&terms, held) {
                Ok(Some((lease, lock))) => (Ok(Some(lease)), Some(lock)),
                Ok(None) => (Ok(None), None),
                Err(e) => (Err(e), None),
            };
            if tell.send(lease).is_err() {
                return;
            }
            // Nothing is ever sent: it ends with the lease.
            let _: Result<(), _> = release.recv();
            drop(lock);
        }
    })?;
    Ok((Bidder { bids, won }, thread))
}

fn hold(terms: &Terms, held: Sender<()>) -> io::Result<Option<(Lease, Lock)>> {
    let Some(lock) = Lock::wait(&terms.path, &terms.leaving)? else {
        return Ok(None);
    };
    (terms.settle)(lock.predecessor());
    if let Err(e) = lock.sign(std::process::id(), terms.worker) {
        log::warn!("{}: {e}: it names no holder", terms.path.display());
    }
    let lease = Lease {
        identity: lock.identity,
        _held: held,
    };
    Ok(Some((lease, lock)))
}

/// The locked file.
struct Lock {
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

impl Lock {
    /// Waits for it, asleep in the kernel. None: `leaving` says so, which is
    /// asked when a signal has interrupted, and once more when it was won.
    fn wait(path: &Path, leaving: impl Fn() -> bool) -> io::Result<Option<Lock>> {
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
            match Identity::of(path) {
                Ok(there) if there == identity => return Ok(Some(Lock { file, identity })),
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                // It was unlinked while we slept: queue where all do.
                _ => {}
            }
        }
    }

    /// The process that has signed before: the one that held this very file.
    fn predecessor(&self) -> Option<u32> {
        /// More than three numbers have.
        const LONGEST: u64 = 64;
        let mut text = String::new();
        (&self.file).take(LONGEST).read_to_string(&mut text).ok()?;
        text.split(' ').next()?.parse().ok()
    }

    /// Writes who holds it, for people: process, worker, and since when
    /// (milliseconds of the monotonic clock).
    fn sign(&self, pid: u32, worker: usize) -> io::Result<()> {
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

/// Whether this error of [`Bidder::wait`] says that there are no such locks.
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

    fn won(path: &Path) -> Lock {
        Lock::wait(path, || false).unwrap().unwrap()
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
        // It waits for the file that will be gone: it has it open.
        let leads_there =
            |fd: &std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|leads| leads == path);
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        while descriptors().filter(leads_there).count() < 2 {
            std::thread::yield_now();
        }
        std::fs::remove_file(&path).unwrap();
        assert_ne!(Identity::of(&path).ok(), Some(first.identity));
        let other = won(&path);
        assert_eq!(other.predecessor(), None);
        drop(first);
        assert_eq!(Identity::of(&path).unwrap(), other.identity);
        drop(other);
        assert_eq!(next.join().unwrap().identity, Identity::of(&path).unwrap());
    }

    #[test]
    fn who_leaves_wins_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health.lock");
        assert!(Lock::wait(&path, || true).unwrap().is_none());
        won(&path);
    }

    #[test]
    fn a_thread_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health.lock");
        let terms = || Terms {
            path: path.clone(),
            worker: 7,
            leaving: Box::new(|| false),
            settle: Box::new(|_| {}),
        };
        let (one, _) = start(terms()).unwrap();
        let (other, _) = start(terms()).unwrap();
        for _ in 0..3 {
            let lease = one.wait().unwrap().unwrap();
            assert_eq!(lease.identity(), Identity::of(&path).unwrap());
            // In the shared table there is none of it (on Linux, which shows that).
            for fd in std::fs::read_dir("/proc/self/fd")
                .into_iter()
                .flatten()
                .flatten()
            {
                assert!(std::fs::read_link(fd.path()).ok().as_ref() != Some(&path));
            }
            drop(lease);
            drop(other.wait().unwrap().unwrap());
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(&format!("{} 7 ", std::process::id())),
            "{text}"
        );
    }
}
