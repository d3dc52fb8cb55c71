//! The probe of a device: can something be written to it, and read back?

use crate::scoreboard::Device;
use crate::store::path::TEMP_DIR;
use crate::sys::clock;
use crate::sys::{file, filesystem};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is written. Bytes.
const LEN: usize = 4096;

/// Writes, syncs, and reads back from the disk. May hang with it.
pub(super) fn probe(device: &Path) -> io::Result<()> {
    let (file, _name) = scratch(device)?;
    let mark = clock::seed().to_ne_bytes();
    let written: Vec<u8> = mark.into_iter().cycle().take(LEN).collect();
    file.write_all_at(&written, 0)?;
    file.sync_data()?;
    // What is in memory proves nothing.
    filesystem::forget_cache(file.as_fd());
    let mut read = vec![0; LEN];
    file.read_exact_at(&mut read, 0)?;
    if read != written {
        return Err(io::Error::other("other bytes were read than were written"));
    }
    Ok(())
}

/// A name that is removed when it is dropped.
struct Named(std::path::PathBuf);

impl Drop for Named {
    fn drop(&mut self) {
        // What cannot be removed now is left to the sweep.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file without a name; where there are none, one in the temporary directory,
/// which the sweep knows by our number.
fn scratch(device: &Path) -> io::Result<(File, Option<Named>)> {
    let dir: OwnedFd = file::open_root(device)?;
    match file::open_unnamed(dir.as_fd(), 0o600) {
        Err(e) if file::has_no_unnamed(&e) => {}
        other => return Ok((other?.into(), None)),
    }
    let folder = device.join(OsStr::from_bytes(TEMP_DIR));
    match file::make_directory(dir.as_fd(), &CString::new(TEMP_DIR)?, 0o700) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let path = folder.join(format!("{}.{:x}.probe", std::process::id(), clock::seed()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    Ok((file, Some(Named(path))))
}

/// What a probe's result says of its device.
pub(super) fn judge(result: &io::Result<()>) -> Device {
    let Err(e) = result else {
        return Device::Good;
    };
    match e.raw_os_error().unwrap_or_default() {
        libc::EROFS | libc::EACCES | libc::EPERM => Device::ReadOnly,
        libc::ENOSPC | libc::EDQUOT => Device::Full,
        // It has been unmounted, or removed: the next look at the docroot knows.
        libc::ENOENT | libc::ENOTDIR => Device::Unknown,
        _ => Device::Failing,
    }
}
