//! `DOCROOT/devN/usage`: how full the device is, for the trackers (PROTOCOL 3).

use crate::sys::disk::Space;
use crate::sys::file;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const NAME: &std::ffi::CStr = c"usage";

/// Its mode, less the umask.
const MODE: u32 = 0o666;

/// The file's text. `source` is the device's disk, `disk` its path, `time`
/// seconds since the epoch.
pub fn render(space: &Space, source: &OsStr, disk: &Path, time: u64) -> Vec<u8> {
    let kib = |blocks: u64| u128::from(blocks) * u128::from(space.block) / 1024;
    // What is reserved for root is nobody's.
    let reserved = space.free.saturating_sub(space.available);
    let total = kib(space.blocks.saturating_sub(reserved));
    let used = kib(space.blocks.saturating_sub(space.free));
    let percent = match total {
        0 => 0,
        total => (used * 100).div_ceil(total).min(100),
    };
    let mut text = format!("available: {}\ndevice: ", kib(space.available)).into_bytes();
    text.extend_from_slice(source.as_bytes());
    text.extend_from_slice(b"\ndisk: ");
    text.extend_from_slice(disk.as_os_str().as_bytes());
    let rest = format!("\ntime: {time}\ntotal: {total}\nuse: {percent}%\nused: {used}\n");
    text.extend_from_slice(rest.as_bytes());
    text
}

/// Puts it in place of the one before, in the device's directory.
pub fn write(device: BorrowedFd<'_>, text: &[u8], umask: u32) -> io::Result<()> {
    let mode = MODE & !umask;
    let temporary = CString::new(format!("usage.{:x}", std::process::id()))?;
    let made = match file::create_new(device, &temporary, mode) {
        // A process of our number has died over it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            file::unlink(device, &temporary)?;
            file::create_new(device, &temporary, mode)?
        }
        other => other?,
    };
    let written = File::from(made);
    let done = (&written)
        .write_all(text)
        .and_then(|()| file::set_mode(written.as_fd(), mode))
        .and_then(|()| file::rename(device, &temporary, device, NAME));
    if done.is_err() {
        // The error of what it was for says more than that of this.
        let _ = file::unlink(device, &temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn text(block: u64, blocks: u64, free: u64, available: u64) -> String {
        let space = Space {
            block,
            blocks,
            free,
            available,
        };
        let disk = Path::new("/srv/dev1");
        String::from_utf8(render(&space, OsStr::new("/dev/sda1"), disk, 1234)).unwrap()
    }

    #[test]
    fn seven_lines() {
        assert_eq!(
            text(4096, 1000, 600, 500),
            "available: 2000\ndevice: /dev/sda1\ndisk: /srv/dev1\ntime: 1234\n\
             total: 3600\nuse: 45%\nused: 1600\n"
        );
    }

    #[test]
    fn percent_is_rounded_up_and_never_more_than_all() {
        for (blocks, free, available, percent) in [
            (100, 100, 100, "0%"),
            (10_000, 9_999, 9_999, "1%"),
            (100, 0, 0, "100%"),
            (100, 10, 0, "100%"),
            (0, 0, 0, "0%"),
            (u64::MAX / 4096, 1, 1, "100%"),
            // What some filesystems say when they are more than full.
            (10, 20, 30, "0%"),
        ] {
            let text = text(4096, blocks, free, available);
            assert!(text.contains(&format!("\nuse: {percent}\n")), "{text}");
        }
    }

    #[test]
    fn it_replaces_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let device = file::open_root(folder.path()).unwrap();
        let stale = format!("usage.{:x}", std::process::id());
        std::fs::write(folder.path().join(stale), "stale").unwrap();
        std::fs::write(folder.path().join("usage.1"), "of a dead one").unwrap();
        for text in ["one", "two"] {
            write(device.as_fd(), text.as_bytes(), 0o027).unwrap();
            let usage = folder.path().join("usage");
            assert_eq!(std::fs::read_to_string(&usage).unwrap(), text);
            let mode = std::fs::metadata(&usage).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o640);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
