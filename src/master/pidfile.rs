//! The pidfile: who runs this service. The claim is a flock that the kernel
//! ends with its holder; the pid in the file is for others to read. The file is
//! never unlinked: who waits for a lock on an unlinked file and who locks its
//! successor would both win.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Read};
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
    /// that held it would hold the claim.
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
                Ok(()) => return Err(io::Error::other("it is replaced again and again")),
                Err(TryLockError::Error(e)) => return Err(e),
                Err(TryLockError::WouldBlock) => match holder(&file)? {
                    Holder::Master(pid) => {
                        return Err(io::Error::other(format!("already running on PID: {pid}")));
                    }
                    _ if Instant::now() < end => std::thread::sleep(PAUSE),
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

    /// Says who has claimed it.
    pub fn write(&self, pid: u32) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(format!("{pid}\n").as_bytes(), 0)
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

fn is_at(file: &Metadata, path: &Path) -> bool {
    let there = std::fs::symlink_metadata(path);
    there.is_ok_and(|there| (there.dev(), there.ino()) == (file.dev(), file.ino()))
}

/// Who keeps us from a claim.
enum Holder {
    Master(u32),
    /// A master that has not written its pid yet.
    Starting,
    /// Somebody who reads, with a shared lock: gone in a moment.
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
    const LEN: u64 = 16;
    let mut text = String::new();
    // Bytes that are no text are no pid.
    let _ = file.take(LEN).read_to_string(&mut text);
    Ok(match text.trim_ascii_end().parse() {
        Ok(pid) if pid > 0 => Holder::Master(pid),
        _ => Holder::Starting,
    })
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
    fn a_symlink_is_no_pidfile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        std::os::unix::fs::symlink(folder.path().join("target"), &path).unwrap();
        assert!(Pidfile::claim(&path).is_err());
        assert!(!folder.path().join("target").exists());
    }
}
