//! What a program is born with: variables, and descriptors that these name by
//! their numbers.

use super::process::Solo;
use super::{check, own};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Takes a variable out of the environment: what this process starts does not
/// find it any more.
pub fn take_variable(_proof: &Solo, name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: nobody else reads or writes the environment: there is one thread.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// From now on a program that this process executes inherits the descriptor; by
/// this number. For the time between fork and exec alone.
pub fn pass(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })?;
    Ok(fd.as_raw_fd())
}

/// Takes ownership of a descriptor that this program was given when it was
/// executed. It becomes close-on-exec, as all others are: one that is so already
/// is somebody's (EBUSY).
pub fn adopt(number: i32) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        // Nobody owns a standard stream.
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    own(number)
}

/// The number by which a program that we start would find it.
pub fn number(fd: BorrowedFd<'_>) -> i32 {
    fd.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_is_adopted_once_and_only_when_it_was_passed() {
        let (read, _write) = io::pipe().unwrap();
        let refused = |number| adopt(number).unwrap_err().raw_os_error();
        assert_eq!(refused(read.as_raw_fd()), Some(libc::EBUSY));
        assert_eq!(refused(2), Some(libc::EBADF));
        assert_eq!(refused(-1), Some(libc::EBADF));
        let number = pass(read.as_fd()).unwrap();
        std::mem::forget(read);
        let adopted = adopt(number).unwrap();
        assert_eq!(adopted.as_raw_fd(), number);
        assert_eq!(refused(number), Some(libc::EBUSY));
    }
}
