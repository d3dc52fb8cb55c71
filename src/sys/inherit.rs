//! What a program is born with: variables, and descriptors that these name by
//! their numbers.

use super::check;
use super::process::Solo;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Takes a variable out of the environment: what this process starts does not
/// find it any more.
pub fn take_variable(_proof: &Solo, name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: nobody else reads or writes the environment: there is one thread.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// Takes possession of a descriptor that this process was started with, and that
/// nobody in it has taken yet: each number once. Close-on-exec from here on.
/// EBADF: there is none, or it is a standard stream, which nobody owns.
pub fn adopt(number: i32) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: no pointers; a number that is not open is an error.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and by this function's contract no other owner exists.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The number by which a program that we start would find it.
pub fn number(fd: BorrowedFd<'_>) -> i32 {
    fd.as_raw_fd()
}
