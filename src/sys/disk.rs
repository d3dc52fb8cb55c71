//! Disks and their filesystems, as far as health is concerned: how much room,
//! what kind, how busy, and the way past the page cache.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

/// A disk or partition: major and minor number.
pub type Number = (u32, u32);

/// The room of a filesystem, in blocks.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes of a block.
    pub block: u64,
    pub blocks: u64,
    pub free: u64,
    /// Free less what is reserved for root.
    pub available: u64,
}

/// `fstatvfs(3)`: of the filesystem that `fd` is on.
pub fn space(fd: BorrowedFd<'_>) -> io::Result<Space> {
    // SAFETY: a struct of integers; zero is a value of it.
    let mut facts: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: room for one statvfs.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), &mut facts) })?;
    Ok(Space {
        block: facts.f_frsize as u64,
        blocks: facts.f_blocks as u64,
        free: facts.f_bfree as u64,
        available: facts.f_bavail as u64,
    })
}

/// What the file's pages hold is read from the disk the next time; they must
/// have been written back. Advice: a failure changes nothing.
pub fn uncache(file: BorrowedFd<'_>) {
    // SAFETY: no pointers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Whether the kernel of this machine alone decides what is on the filesystem,
/// so that what it says of a file is true now: a network's may say what was true
/// a while ago. What is not known is not trusted.
#[cfg(target_os = "linux")]
pub fn is_local(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // statfs(2): ext2 to ext4, XFS, btrfs, tmpfs, ramfs, F2FS, bcachefs, ZFS, JFS.
    const LOCAL: [u32; 9] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0x0102_1994,
        0x8584_58f6,
        0xf2f5_2010,
        0xca45_1a4e,
        0x2fc1_2fc1,
        0x3153_464a,
    ];
    Ok(LOCAL.contains(&kind(fd)?))
}

/// See the Linux twin.
#[cfg(target_os = "freebsd")]
pub fn is_local(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let name = kind(fd)?;
    Ok([&b"ufs"[..], b"zfs", b"tmpfs"].contains(&&*name))
}

/// `statfs(2)`'s number of the filesystem's kind.
#[cfg(target_os = "linux")]
fn kind(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: a struct of integers; zero is a value of it.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: room for one statfs.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &mut facts) })?;
    // The type's width differs between C libraries.
    Ok(facts.f_type as u32)
}

/// Its name, on FreeBSD.
#[cfg(target_os = "freebsd")]
fn kind(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // SAFETY: a struct of integers and bytes; zero is a value of it.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: room for one statfs.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &mut facts) })?;
    // SAFETY: the kernel ends the name by NUL.
    let name = unsafe { std::ffi::CStr::from_ptr(facts.f_fstypename.as_ptr()) };
    Ok(name.to_bytes().to_vec())
}

/// The kind of the filesystem when another machine or process decides about
/// its locks.
#[cfg(target_os = "linux")]
pub fn remote_kind(fd: BorrowedFd<'_>) -> io::Result<Option<&'static str>> {
    // statfs(2)
    Ok(match kind(fd)? {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("CIFS"),
        0x6573_5546 => Some("FUSE"),
        _ => None,
    })
}

/// See the Linux twin.
#[cfg(target_os = "freebsd")]
pub fn remote_kind(fd: BorrowedFd<'_>) -> io::Result<Option<&'static str>> {
    Ok(match &*kind(fd)? {
        b"nfs" => Some("NFS"),
        b"smbfs" => Some("CIFS"),
        name if name.starts_with(b"fusefs") => Some("FUSE"),
        _ => None,
    })
}

/// The kernel's counters of all disks, in the form of Linux's /proc/diskstats.
#[cfg(target_os = "linux")]
pub fn counters() -> io::Result<String> {
    std::fs::read_to_string("/proc/diskstats")
}

/// FreeBSD has them in kern.devstat.all, in a form that changes between
/// releases; iostat of the base system reads it.
#[cfg(target_os = "freebsd")]
pub fn counters() -> io::Result<String> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "set MOG_IOSTAT_CMD to 'iostat -dx 1'",
    ))
}

/// The disk that a partition is on; a disk itself, and what is made of disks
/// (md, dm), is its own. None: no block device.
#[cfg(target_os = "linux")]
pub fn whole((major, minor): Number) -> Option<Number> {
    let device = std::path::PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if !device.exists() {
        return None;
    }
    if !device.join("partition").exists() {
        return Some((major, minor));
    }
    // The link leads to …/block/sda/sda1; sda has a file of the same kind.
    let disk = std::fs::canonicalize(device).ok()?;
    let text = std::fs::read_to_string(disk.parent()?.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// See the Linux twin; there are no counters that would need it.
#[cfg(target_os = "freebsd")]
pub fn whole(_device: Number) -> Option<Number> {
    None
}

/// The number of the device that a path below /dev names.
#[cfg(target_os = "linux")]
pub fn number(path: &Path) -> Option<Number> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let facts = std::fs::metadata(path).ok()?;
    let device = facts.rdev() as libc::dev_t;
    facts
        .file_type()
        .is_block_device()
        .then(|| (libc::major(device) as u32, libc::minor(device) as u32))
}

/// See the Linux twin; there are no block devices.
#[cfg(target_os = "freebsd")]
pub fn number(_path: &Path) -> Option<Number> {
    None
}
