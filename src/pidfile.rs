//! The pidfile: who runs this service. The claim is a flock that the kernel
//! ends with its last holder; the pid in the file is for others to read. The
//! file is never unlinked: who waits for a lock on an unlinked file and who
//! locks its successor would both win.

use crate::sys::pidfd::Pidfd;
use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to try when the file is replaced at each try, or when who has
/// claimed it has not yet written who it is.
const PATIENCE: Duration = Duration::from_millis(200);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// A claim. Dropping it ends the claim and nothing else: the master empties the
/// file ([`Pidfile::clear`]), a forked child must not.
pub struct Pidfile {
    /// Close-on-exec, and not on any child's list of what it keeps: a child
    /// that held it would hold the claim. A successor shall, see
    /// [`Pidfile::inherit`].
    file: File,
    path: PathBuf,
}

impl Pidfile {
    /// Claims the file, and leaves its content as it is: a start that fails
    /// later has changed nothing. The error names the holder.
    pub fn claim(path: &Path) -> io::Result<Pidfile> {
        let end = Instant::now() + PATIENCE;
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file.metadata()?, path) => {
                    let path = path.to_owned();
                    return Ok(Pidfile { file, path });
                }
                // Somebody has put another file there meanwhile.
                Ok(()) if Instant::now() < end => {}
                Ok(()) => return Err(replaced()),
                Err(TryLockError::Error(e)) => return Err(e),
                Err(TryLockError::WouldBlock) => match holder(&file)? {
                    Holder::Master(pid) => {
                        return Err(io::Error::other(format!("already running on PID: {pid}")));
                    }
                    _ if Instant::now() < end => std::thread::sleep(PAUSE),
                    Holder::Perhaps(pid) => {
                        return Err(io::Error::other(format!("already running on PID: {pid}")));
                    }
                    Holder::Starting => {
                        return Err(io::Error::other(
                            "already running: its pid is not written yet",
                        ));
                    }
                    Holder::Reader => return Err(io::Error::other("another process locks it")),
                },
            }
        }
    }

    /// The claim of our predecessor, which handed us its descriptor: the lock
    /// belongs to the open file, so both of us hold it, and it does not lapse
    /// when the other ends.
    pub fn inherit(fd: OwnedFd, path: &Path) -> io::Result<Pidfile> {
        // One that is close-on-exec: what came through an exec is not.
        let file = File::from(fd.try_clone()?);
        drop(fd);
        let found = file.metadata()?;
        if !found.is_file() || !is_at(&found, path) {
            return Err(io::Error::other(
                "the file that was inherited as a claim is not the one at this path",
            ));
        }
        match file.try_lock() {
            Ok(()) => Ok(Pidfile {
                file,
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(e)) => Err(e),
            Err(TryLockError::WouldBlock) => Err(io::Error::other(
                "the file that was inherited as a claim is locked by somebody else",
            )),
        }
    }

    /// Claims the name under which a master goes on while its successor has the
    /// pidfile, as nginx and cmogstored have it: `PIDFILE.oldbin`.
    pub fn claim_oldbin(&self) -> io::Result<Pidfile> {
        let mut path = self.path.as_os_str().to_owned();
        path.push(".oldbin");
        Pidfile::claim(Path::new(&path))
    }

    /// Says who has claimed it, or who is in charge now. There is no moment at
    /// which the file is empty, and on a full disk what stands there stays.
    pub fn write(&self, pid: u32) -> io::Result<()> {
        let text = format!("{pid}\n");
        let (before, len) = (self.file.metadata()?.len(), text.len() as u64);
        if before < len {
            // First, since a write beyond the end is seen cut off there: as
            // another pid. What this adds is behind the first line.
            self.file.set_len(len)?;
        }
        if let Err(e) = self.file.write_all_at(text.as_bytes(), 0) {
            // The old content must do, and does.
            let _ = self.file.set_len(before);
            return Err(match e.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => io::Error::new(
                    e.kind(),
                    format!("the pid could not be written, make room there: {e}"),
                ),
                _ => e,
            });
        }
        // Readers mind the first line alone.
        self.file.set_len(len)
    }

    /// Claims the path anew if something else is there, or nothing: another
    /// daemon, to which we had handed over, has removed what it thought its own.
    pub fn reclaim(&mut self) -> io::Result<()> {
        if !is_at(&self.file.metadata()?, &self.path) {
            *self = Pidfile::claim(&self.path)?;
        }
        Ok(())
    }

    /// Says that nobody runs any more.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Pidfile {
    /// For a successor, see [`Pidfile::inherit`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What a pidfile says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<T> {
    NotExist,
    /// Nobody has claimed it, whatever is written there.
    NotHeld,
    Held(T),
}

/// Reads it, without being in the way of another reader, or for long of who
/// wants to claim it.
pub fn read(path: &Path) -> io::Result<Found<u32>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let file = match open_to_read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::NotExist),
            other => other?,
        };
        let is_there = is_at(&file.metadata()?, path);
        match holder(&file)? {
            Holder::Reader if is_there => return Ok(Found::NotHeld),
            Holder::Master(pid) if is_there => return Ok(Found::Held(pid)),
            _ if Instant::now() < end => std::thread::sleep(PAUSE),
            _ if !is_there => return Err(replaced()),
            Holder::Perhaps(pid) => return Ok(Found::Held(pid)),
            _ => {
                return Err(io::Error::other(
                    "who has claimed it has not written its pid yet: is it just starting?",
                ));
            }
        }
    }
}

/// The holder itself, so that who is signalled is no other process, whatever
/// happens meanwhile. The number in the file proves nothing: who has just
/// claimed it leaves there what a dead master wrote, until it serves.
pub fn find(path: &Path) -> io::Result<Found<Pidfd>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let pid = match read(path)? {
            Found::Held(pid) => pid,
            Found::NotHeld => return Ok(Found::NotHeld),
            Found::NotExist => return Ok(Found::NotExist),
        };
        match Pidfd::open(pid) {
            // In this order: the process is pinned, then it is looked at.
            Ok(process) if is_holder(&process, path)? => return Ok(Found::Held(process)),
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(e),
            _ if Instant::now() < end => std::thread::sleep(PAUSE),
            _ => {
                return Err(io::Error::other(format!(
                    "it names pid {pid}, but another process has claimed it: is that just starting?"
                )));
            }
        }
    }
}

fn is_holder(process: &Pidfd, path: &Path) -> io::Result<bool> {
    if read(path)? != Found::Held(process.pid()) {
        return Ok(false);
    }
    let locked = std::fs::symlink_metadata(path)?;
    Ok(process.locks((locked.dev(), locked.ino())) != Some(false))
}

/// Not truncated: that is for who has the lock. A symlink is not followed: the
/// folder may be one that others write to, and the master is root at times.
fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .mode(0o666)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

fn open_to_read(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

fn is_at(file: &Metadata, path: &Path) -> bool {
    let there = std::fs::symlink_metadata(path);
    there.is_ok_and(|there| (there.dev(), there.ino()) == (file.dev(), file.ino()))
}

fn replaced() -> io::Error {
    io::Error::other("it is replaced again and again")
}

/// Who keeps us from a claim.
enum Holder {
    Master(u32),
    /// A pid without its line end: so some programs write it, and so one looks
    /// that is read while it is written over.
    Perhaps(u32),
    /// A master that has not written its pid yet.
    Starting,
    /// Nobody, or somebody who reads, with a shared lock: gone in a moment.
    Reader,
}

fn holder(file: &File) -> io::Result<Holder> {
    match file.try_lock_shared() {
        // Our own shared lock ends with this descriptor, before the next try.
        Ok(()) => return Ok(Holder::Reader),
        Err(TryLockError::Error(e)) => return Err(e),
        Err(TryLockError::WouldBlock) => {}
    }
    /// More than any pid and its line end have.
    const LEN: usize = 16;
    let mut bytes = [0; LEN];
    let len = file.read_at(&mut bytes, 0)?;
    let bytes = &bytes[..len];
    Ok(match parse(bytes) {
        Some(pid) if bytes.contains(&b'\n') => Holder::Master(pid),
        Some(pid) => Holder::Perhaps(pid),
        None => Holder::Starting,
    })
}

/// The first line, with its end or without: a process id.
fn parse(bytes: &[u8]) -> Option<u32> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let text = str::from_utf8(line.trim_ascii()).ok()?;
    // parse() would take a sign.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let pid: i32 = text.parse().ok().filter(|_| is_plain)?;
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn refusal(path: &Path) -> String {
        match Pidfile::claim(path) {
            Ok(_) => panic!("a second claim"),
            Err(e) => e.to_string(),
        }
    }

    /// Until nobody holds it: a child of another test's has our descriptors too,
    /// until it executes something.
    fn await_free(path: &Path) {
        let end = Instant::now() + Duration::from_secs(10);
        while read(path).unwrap() != Found::NotHeld {
            assert!(Instant::now() < end, "it is still held");
            std::thread::sleep(PAUSE);
        }
    }

    #[test]
    fn one_claim_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let first = Pidfile::claim(&path).unwrap();
        assert_eq!(
            refusal(&path),
            "already running: its pid is not written yet"
        );
        first.write(4711).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"4711\n");
        assert_eq!(refusal(&path), "already running on PID: 4711");
        assert_eq!(fs::read(&path).unwrap(), b"4711\n");
        first.clear().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        drop(first);
        await_free(&path);
        Pidfile::claim(&path).unwrap().write(5).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"5\n");
    }

    /// A pid of another length, and one that nobody has: only the lock counts.
    #[test]
    fn what_a_dead_master_left_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, format!("{}\nand more\n", std::process::id())).unwrap();
        let claim = Pidfile::claim(&path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("and more\n"));
        claim.write(1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n");
    }

    #[test]
    fn a_reader_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let reader = open(&path).unwrap();
        reader.try_lock_shared().unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Pidfile::claim(&path).map(|_| ())
        });
        std::thread::sleep(PAUSE * 4);
        drop(reader);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_file_that_was_replaced_is_another_claim() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let first = Pidfile::claim(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Pidfile::claim(&path).unwrap();
        assert!(is_at(&second.file.metadata().unwrap(), &path));
        assert!(!is_at(&first.file.metadata().unwrap(), &path));
    }

    #[test]
    fn a_path_that_another_has_emptied_is_claimed_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let mut claim = Pidfile::claim(&path).unwrap();
        fs::remove_file(&path).unwrap();
        claim.reclaim().unwrap();
        claim.write(7).unwrap();
        assert_eq!(refusal(&path), "already running on PID: 7");
        claim.reclaim().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"7\n");
    }

    #[test]
    fn a_symlink_is_no_pidfile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        std::os::unix::fs::symlink(folder.path().join("target"), &path).unwrap();
        assert!(Pidfile::claim(&path).is_err());
        assert!(!folder.path().join("target").exists());
    }

    #[test]
    fn it_is_read_beside_its_holder_and_other_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        assert_eq!(read(&path).unwrap(), Found::NotExist);
        let claim = Pidfile::claim(&path).unwrap();
        let early = read(&path).unwrap_err().to_string();
        assert!(early.contains("not written its pid yet"), "{early}");
        claim.write(4711).unwrap();
        let reader = open_to_read(&path).unwrap();
        assert!(reader.try_lock_shared().is_err());
        assert_eq!(read(&path).unwrap(), Found::Held(4711));
        // As another program may have written it.
        claim.file.set_len(4).unwrap();
        assert_eq!(read(&path).unwrap(), Found::Held(4711));
        assert_eq!(refusal(&path), "already running on PID: 4711");
        claim.write(4711).unwrap();
        drop(claim);
        await_free(&path);
        reader.try_lock_shared().unwrap();
        assert_eq!(read(&path).unwrap(), Found::NotHeld);
        assert_eq!(fs::read(&path).unwrap(), b"4711\n");
    }

    #[test]
    fn pids() {
        for (text, pid) in [
            ("1\n", Some(1)),
            ("4194304", Some(4_194_304)),
            ("2147483647\n", Some(2_147_483_647)),
            ("12\n456\n", Some(12)),
            (" 12 \r\n", Some(12)),
            ("2147483648", None),
            ("0", None),
            ("-1", None),
            ("+1", None),
            ("1x", None),
            ("\n1", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), pid, "{text:?}");
        }
    }

    /// A shorter pid over a longer one, and back.
    #[test]
    fn it_is_rewritten_and_never_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let claim = Pidfile::claim(&path).unwrap();
        claim.write(123_456).unwrap();
        let watching = std::thread::spawn({
            let path = path.clone();
            move || {
                loop {
                    match read(&path).unwrap() {
                        Found::Held(1) => return,
                        other => assert!(matches!(other, Found::Held(123_456 | 99)), "{other:?}"),
                    }
                }
            }
        });
        for _ in 0..2000 {
            claim.write(99).unwrap();
            claim.write(123_456).unwrap();
        }
        claim.write(1).unwrap();
        watching.join().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n");
    }

    #[test]
    fn a_claim_is_handed_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let ours = Pidfile::claim(&path).unwrap();
        ours.write(1).unwrap();
        let theirs = ours.as_fd().try_clone_to_owned().unwrap();
        let theirs = Pidfile::inherit(theirs, &path).unwrap();
        theirs.write(2).unwrap();
        drop(ours);
        assert_eq!(refusal(&path), "already running on PID: 2");
        // Another file, and another's lock.
        let other = fs::File::create(folder.path().join("other")).unwrap();
        assert!(Pidfile::inherit(other.into(), &path).is_err());
        let other = open(&path).unwrap();
        assert!(Pidfile::inherit(other.into(), &path).is_err());
        drop(theirs);
        await_free(&path);
        Pidfile::claim(&path).unwrap();
    }

    #[test]
    fn the_old_one_has_a_name_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let claim = Pidfile::claim(&path).unwrap();
        let old = claim.claim_oldbin().unwrap();
        old.write(7).unwrap();
        assert_eq!(old.path(), folder.path().join("pid.oldbin"));
        assert!(claim.claim_oldbin().is_err());
        old.clear().unwrap();
        drop(old);
        await_free(&folder.path().join("pid.oldbin"));
        assert_eq!(fs::read(folder.path().join("pid.oldbin")).unwrap(), b"");
        claim.claim_oldbin().unwrap();
    }

    #[test]
    fn the_holder_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        assert!(matches!(find(&path).unwrap(), Found::NotExist));
        let claim = Pidfile::claim(&path).unwrap();
        claim.write(std::process::id()).unwrap();
        let Found::Held(us) = find(&path).unwrap() else {
            panic!("it is held");
        };
        assert_eq!(us.pid(), std::process::id());
        drop(claim);
        await_free(&path);
        assert!(matches!(find(&path).unwrap(), Found::NotHeld));
    }

    /// What a dead master left there, and its number is another's now. It is
    /// noticed where the system shows whose a lock is.
    #[test]
    fn who_is_named_but_holds_nothing_is_not_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let claim = Pidfile::claim(&path).unwrap();
        let us = Pidfd::open(std::process::id()).unwrap();
        if us.locks((0, 0)).is_none() {
            return;
        }
        for innocent in [std::os::unix::process::parent_id(), i32::MAX as u32] {
            claim.write(innocent).unwrap();
            let refused = find(&path).err().unwrap().to_string();
            assert!(
                refused.contains(&format!("pid {innocent}, but")),
                "{refused}"
            );
        }
    }
}
