//! A process that is not taken for a later one of the same number: a pidfd,
//! where the system has them (Linux 5.3).

use super::check;
#[cfg(target_os = "linux")]
use super::own;
use super::process::{self, Pid};
use super::signal::Signal;
use std::io;
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// Where there is nothing to wait on: how often the process is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// See the module.
pub struct Pidfd {
    pid: Pid,
    /// None: the system has none, so the number alone must do.
    fd: Option<OwnedFd>,
}

impl Pidfd {
    /// The process that has this number now. ESRCH: nobody.
    pub fn open(pid: u32) -> io::Result<Pidfd> {
        let pid = Pid::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        let fd = match open(pid) {
            // Older than that, or a sandbox that does not know the call.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => None,
            other => Some(other?),
        };
        if fd.is_none() && !process::exists(pid) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(Pidfd { pid, fd })
    }

    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// Whether it can be no other process than at the start, however late it is
    /// asked.
    pub fn is_certain(&self) -> bool {
        self.fd.is_some()
    }

    /// Sends a signal. ESRCH: it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(fd) = &self.fd {
            let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
            // SAFETY: without siginfo the kernel fills in what kill(2) does.
            let sent = unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    fd.as_raw_fd(),
                    signal.number(),
                    info,
                    flags,
                )
            };
            check(sent as libc::c_int)?;
            return Ok(());
        }
        // SAFETY: no pointers.
        check(unsafe { libc::kill(self.pid, signal.number()) })?;
        Ok(())
    }

    /// Waits for its end, no longer than `patience`; whether it has come. One
    /// that its parent has not reaped yet has ended, where that can be seen.
    pub fn wait(&self, patience: Duration) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        if let Some(fd) = &self.fd {
            return wait(fd.as_fd(), patience);
        }
        let has_ended = || !process::exists(self.pid) || process::is_dying(self.pid);
        let end = std::time::Instant::now() + patience;
        while !has_ended() {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(LOOK));
        }
        Ok(true)
    }

    /// Whether it holds an exclusive flock on this file (st_dev, st_ino),
    /// whoever took it. None: that cannot be seen from here.
    #[cfg(target_os = "linux")]
    pub fn locks(&self, file: (u64, u64)) -> Option<bool> {
        use std::os::unix::fs::MetadataExt;
        let own = format!("/proc/{}", self.pid);
        for entry in std::fs::read_dir(format!("{own}/fdinfo")).ok()? {
            let entry = entry.ok()?;
            // One that was closed meanwhile holds nothing.
            let Ok(text) = std::fs::read_to_string(entry.path()) else {
                continue;
            };
            let is_locked = |line: &str| {
                line.starts_with("lock:") && line.contains("FLOCK") && line.contains("WRITE")
            };
            if !text.lines().any(is_locked) {
                continue;
            }
            let name = entry.file_name();
            let there = std::fs::metadata(format!("{own}/fd/{}", name.display()));
            if there.is_ok_and(|there| (there.dev(), there.ino()) == file) {
                return Some(true);
            }
        }
        // Of a process that has ended meanwhile nothing is listed.
        (!self.wait(Duration::ZERO).ok()?).then_some(false)
    }

    /// See the Linux twin.
    #[cfg(not(target_os = "linux"))]
    pub fn locks(&self, _file: (u64, u64)) -> Option<bool> {
        None
    }
}

/// glibc has a function for it only since 2.36.
#[cfg(target_os = "linux")]
fn open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: no pointers. What it returns is close-on-exec.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)
}

#[cfg(not(target_os = "linux"))]
fn open(_pid: Pid) -> io::Result<OwnedFd> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// It is readable when the last thread has ended.
#[cfg(target_os = "linux")]
fn wait(fd: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let mut asked = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let patience = patience.as_millis().min(i32::MAX as u128) as libc::c_int;
    // SAFETY: one pollfd that lives through the call.
    Ok(check(unsafe { libc::poll(&mut asked, 1, patience) })? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        command.arg("60").stdin(Stdio::null());
        command.spawn().unwrap()
    }

    fn ends(process: &Pidfd, patience: Duration) -> bool {
        loop {
            match process.wait(patience) {
                // By a signal of another test's.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.unwrap(),
            }
        }
    }

    #[test]
    fn nobody_has_no_number() {
        let mut child = sleeper();
        child.kill().unwrap();
        child.wait().unwrap();
        for pid in [child.id(), u32::MAX] {
            let refused = Pidfd::open(pid).err().unwrap();
            assert_eq!(refused.raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }

    #[test]
    fn its_end_is_waited_for() {
        let mut child = sleeper();
        let by_number = Pidfd {
            pid: child.id() as Pid,
            fd: None,
        };
        let process = Pidfd::open(child.id()).unwrap();
        for process in [&process, &by_number] {
            assert_eq!(process.pid(), child.id());
            assert!(!ends(process, Duration::ZERO));
            assert!(!ends(process, Duration::from_millis(30)));
        }
        process.signal(Signal::Term).unwrap();
        assert!(ends(&process, Duration::from_secs(10)));
        // It has ended, reaped or not; its number is not free yet.
        #[cfg(target_os = "linux")]
        assert!(ends(&by_number, Duration::from_secs(10)));
        child.wait().unwrap();
        assert!(process.signal(Signal::Term).is_err());
        assert!(ends(&by_number, Duration::from_secs(10)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn whose_lock_it_is() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = |file: &std::fs::File| {
            let facts = file.metadata().unwrap();
            (facts.dev(), facts.ino())
        };
        let us = Pidfd::open(std::process::id()).unwrap();
        let identity = identity(file.as_file());
        assert_eq!(us.locks(identity), Some(false));
        file.as_file().lock_shared().unwrap();
        assert_eq!(us.locks(identity), Some(false), "a reader's");
        file.as_file().lock().unwrap();
        assert_eq!(us.locks(identity), Some(true));
        let other = tempfile::NamedTempFile::new().unwrap();
        other.as_file().lock().unwrap();
        drop(file);
        assert_eq!(us.locks(identity), Some(false));
    }
}
