//! The usage file of a device: what the tracker reads to know how full it is.

use crate::sys::clock;
use crate::sys::filesystem::{self, Space};
use crate::sys::mount::{self, Mount};
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Finds what is mounted at (or above) a directory that the operator may have
/// made by a symlink. May hang with the disk.
pub(super) fn mount_of(device: &Path) -> io::Result<Mount> {
    let real = std::fs::canonicalize(device)?;
    let mounts = mount::list()?;
    // Of two on one point the later one is seen.
    let mut found: Option<Mount> = None;
    for mount in mounts {
        let depth = |mount: &Mount| mount.point.components().count();
        if real.starts_with(&mount.point)
            && found
                .as_ref()
                .is_none_or(|best| depth(&mount) >= depth(best))
        {
            found = Some(mount);
        }
    }
    let mut mount = found.ok_or_else(|| io::Error::other("nothing is mounted there"))?;
    mount.source = real_source(mount.source);
    Ok(mount)
}

/// `/dev/disk/by-uuid/…` and the like are told by their real name.
fn real_source(source: OsString) -> OsString {
    if !source.as_bytes().starts_with(b"/") {
        return source;
    }
    std::fs::canonicalize(&source).map_or(source, OsString::from)
}

/// Writes `DEVICE/usage` anew. `shown`: the device's path as the file tells it.
pub(super) fn write(device: &Path, shown: &Path, mount: &Mount, umask: u32) -> io::Result<()> {
    let space = filesystem::space(device)?;
    let text = text(
        shown.as_os_str(),
        &mount.source,
        &space,
        clock::unix_seconds(),
    );
    let temporary = device.join(format!("usage.{:x}", std::process::id()));
    // What a process of the same number left.
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o666 & !umask))
        })
        .and_then(|()| std::fs::rename(&temporary, device.join("usage")));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Seven lines, in this order; sizes in KiB, without what only root may use.
fn text(disk: &OsStr, source: &OsStr, space: &Space, now: u64) -> Vec<u8> {
    let kib = |blocks: u64| (u128::from(blocks) * u128::from(space.block) / 1024) as u64;
    let used = space.blocks.saturating_sub(space.free);
    let total = space
        .blocks
        .saturating_sub(space.free.saturating_sub(space.available));
    // As df rounds: up.
    let percent = match total {
        0 => 0,
        total => (u128::from(used) * 100)
            .div_ceil(u128::from(total))
            .min(100),
    };
    let mut text = Vec::new();
    let mut line = |key: &str, value: &[u8]| {
        for part in [key.as_bytes(), b": ", value, b"\n"] {
            text.extend_from_slice(part);
        }
    };
    line("available", kib(space.available).to_string().as_bytes());
    line("device", source.as_bytes());
    line("disk", disk.as_bytes());
    line("time", now.to_string().as_bytes());
    line("total", kib(total).to_string().as_bytes());
    line("use", format!("{percent}%").as_bytes());
    line("used", kib(used).to_string().as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tracker_s_seven_lines() {
        let space = Space {
            block: 4096,
            blocks: 1000,
            free: 400,
            available: 350,
        };
        let text = text(
            "/srv/dev1".as_ref(),
            "/dev/sda1".as_ref(),
            &space,
            1_700_000_000,
        );
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "available: 1400\ndevice: /dev/sda1\ndisk: /srv/dev1\ntime: 1700000000\n\
             total: 3800\nuse: 64%\nused: 2400\n"
        );
    }

    #[test]
    fn an_empty_filesystem_divides_by_nothing() {
        let space = Space {
            block: 512,
            blocks: 0,
            free: 0,
            available: 0,
        };
        let text = text("/d".as_ref(), "x".as_ref(), &space, 0);
        assert!(String::from_utf8(text).unwrap().contains("use: 0%\n"));
    }
}
