//! What is done at a device, in its own thread, since any of it may hang: its
//! usage file is written, and a small file is written, put on the disk and read
//! back from there.

use super::rounds::News;
use super::usage;
use crate::scoreboard::{Device, Name};
use crate::store::path::TEMP_DIR;
use crate::sys::{clock, disk, file};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

/// A device: the number of its site, and its name.
pub type Id = (usize, Name);

/// Bytes of the small file: a block of most disks.
const LEN: usize = 4096;

/// Bytes of such a thread's stack.
const STACK: usize = 256 << 10;

/// Modes of the small file, and of the folder that it is in (as in the store).
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// What shall be done at a device.
pub struct Order {
    pub device: Id,
    pub path: PathBuf,
    /// Its usage file is wanted; from this disk, if anybody knows.
    pub usage: Option<Option<PathBuf>>,
    /// Clients may write to it. Otherwise nothing is written, only looked for.
    pub writes: bool,
    pub umask: u32,
}

/// What was found.
pub enum Finding {
    /// The usage file is written, or why it is not. The rest is being done.
    Usage(Result<(), String>),
    /// How the probe ended. The thread is idle.
    Probe(io::Result<()>),
}

/// Starts a device's thread. It ends when the orders do.
pub fn start(device: Id, tell: &Sender<News>) -> io::Result<Sender<Order>> {
    let (give, orders) = channel();
    let tell = tell.clone();
    let name = format!("probe:{}", device.1);
    Builder::new().name(name).stack_size(STACK).spawn(move || {
        attend(&orders, &tell);
    })?;
    Ok(give)
}

fn attend(orders: &Receiver<Order>, tell: &Sender<News>) {
    for order in orders {
        let say = |finding| {
            // Nobody listens any more when the process ends.
            let _ = tell.send(News::Device(order.device, finding));
        };
        let found = file::open_root(&order.path).and_then(|dir| {
            if let Some(source) = &order.usage {
                say(Finding::Usage(write_usage(&order, source, dir.as_fd())));
            }
            if order.writes {
                probe(dir.as_fd())
            } else {
                std::fs::read_dir(&order.path)?.next().transpose().map(drop)
            }
        });
        say(Finding::Probe(found));
    }
}

fn write_usage(order: &Order, source: &Option<PathBuf>, dir: BorrowedFd<'_>) -> Result<(), String> {
    let Some(source) = source else {
        return Err("nobody knows where it is mounted".to_owned());
    };
    let space = disk::space(dir).map_err(|e| format!("statvfs: {e}"))?;
    let now = clock::unix_seconds();
    let text = usage::render(&space, source.as_os_str(), &order.path, now);
    usage::write(dir, &text, order.umask).map_err(|e| e.to_string())
}

/// Writes a small file, puts it on the disk, and reads it back from there. The
/// file has no name, so that nothing of it can be left behind; where there are
/// no such files, one in the device's temporary directory that begins with this
/// process, like all others there, and that the sweep knows by it.
fn probe(dir: BorrowedFd<'_>) -> io::Result<()> {
    let mark = clock::seed().to_ne_bytes();
    let written: Vec<u8> = mark.into_iter().cycle().take(LEN).collect();
    match file::open_unnamed(dir, FILE_MODE) {
        Err(e) if file::has_no_unnamed(&e) => {}
        made => return write_and_read(&made?.into(), &written),
    }
    let name = format!("{}.{:x}.probe", std::process::id(), clock::seed());
    let path = CString::new([TEMP_DIR, b"/", name.as_bytes()].concat())?;
    let made = match file::create_new(dir, &path, FILE_MODE) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            match file::make_directory(dir, &CString::new(TEMP_DIR)?, FOLDER_MODE) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => file::create_new(dir, &path, FILE_MODE)?,
            }
        }
        other => other?,
    };
    let probed = write_and_read(&made.into(), &written);
    let removed = file::unlink(dir, &path);
    probed.and(removed)
}

fn write_and_read(file: &File, written: &[u8]) -> io::Result<()> {
    file.write_all_at(written, 0)?;
    file.sync_all()?;
    disk::uncache(file.as_fd());
    let mut read = vec![0; written.len()];
    file.read_exact_at(&mut read, 0)?;
    if read != written {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "what was read back is not what was written",
        ));
    }
    Ok(())
}

/// What the end of a probe says about the device; None: nothing, since it was
/// this process that lacked something.
pub fn verdict(probe: &io::Result<()>) -> Option<Device> {
    let Err(e) = probe else {
        return Some(Device::Good);
    };
    Some(match e.raw_os_error().unwrap_or_default() {
        libc::EROFS => Device::ReadOnly,
        libc::ENOSPC | libc::EDQUOT => Device::Full,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR => return None,
        // It answers, and it is the operator's or a user's affair.
        libc::EACCES | libc::EPERM | libc::ENOENT | libc::ENOTDIR | libc::ELOOP => Device::Unknown,
        _ => Device::Failing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_disk() {
        let folder = tempfile::tempdir().unwrap();
        let dir = file::open_root(folder.path()).unwrap();
        for _ in 0..2 {
            let probed = probe(dir.as_fd());
            assert_eq!(verdict(&probed), Some(Device::Good), "{probed:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn verdicts() {
        for (errno, device) in [
            (libc::EROFS, Some(Device::ReadOnly)),
            (libc::ENOSPC, Some(Device::Full)),
            (libc::EIO, Some(Device::Failing)),
            (libc::EACCES, Some(Device::Unknown)),
            (libc::EMFILE, None),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(verdict(&Err(error)), device, "{errno}");
        }
        let other = io::Error::new(io::ErrorKind::InvalidData, "x");
        assert_eq!(verdict(&Err(other)), Some(Device::Failing));
    }
}
