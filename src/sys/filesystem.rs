//! Filesystems: how full, and how far away.

use super::check;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What `statvfs(3)` says, as far as anybody asks: sizes in blocks.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes of a block (f_frsize).
    pub block: u64,
    pub blocks: u64,
    pub free: u64,
    /// Free, and not kept for root.
    pub available: u64,
}

/// `statvfs(3)` of the filesystem that a path is on.
pub fn space(path: &Path) -> io::Result<Space> {
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: a struct of integers; zero is a value of it.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is NUL-terminated, and there is room for one statvfs.
    check(unsafe { libc::statvfs(path.as_ptr(), &mut answer) })?;
    Ok(Space {
        block: answer.f_frsize as u64,
        blocks: answer.f_blocks as u64,
        free: answer.f_bfree as u64,
        available: answer.f_bavail as u64,
    })
}

/// Whether a file is served over a network, or by a process, where locks may be
/// another's affair.
#[cfg(target_os = "linux")]
pub fn is_remote(file: BorrowedFd<'_>) -> io::Result<bool> {
    /// linux/magic.h: NFS, SMB, CIFS, SMB2, FUSE, Ceph.
    const REMOTE: [u32; 6] = [
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x6573_5546,
        0x00c3_6400,
    ];
    // SAFETY: a struct of integers; zero is a value of it.
    let mut answer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: room for one statfs.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &mut answer) })?;
    Ok(REMOTE.contains(&(answer.f_type as u32)))
}

/// See the Linux twin.
#[cfg(target_os = "freebsd")]
pub fn is_remote(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: a struct of integers and bytes; zero is a value of it.
    let mut answer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: room for one statfs.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &mut answer) })?;
    Ok(answer.f_flags & libc::MNT_LOCAL as u64 == 0)
}

/// What is in memory of a file, and on its disk, need not stay in memory: the
/// next read asks the disk.
pub fn forget_cache(file: BorrowedFd<'_>) {
    // SAFETY: no pointers. Advice: a failure changes nothing.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}
