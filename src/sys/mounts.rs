//! What is mounted where, without asking any of the filesystems: one of them
//! may hang.

use super::disk::Number;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mount, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number, and that of the mount it is mounted on; 0 where the system
    /// does not tell.
    pub id: u32,
    pub parent: u32,
    /// Of the filesystem; major 0: of none that is a disk's alone.
    pub device: Number,
    pub point: PathBuf,
    /// The disk, or whatever the filesystem calls its source.
    pub source: PathBuf,
}

/// All mounts that this process sees, in the order of the kernel's list.
#[cfg(target_os = "linux")]
pub fn list() -> io::Result<Vec<Mount>> {
    std::fs::read("/proc/self/mountinfo").map(|text| parse(&text))
}

/// See the Linux twin. MNT_NOWAIT: what the kernel knows, no filesystem is
/// asked.
#[cfg(target_os = "freebsd")]
pub fn list() -> io::Result<Vec<Mount>> {
    /// More than there were when they were counted.
    const SPARE: usize = 16;
    // SAFETY: null asks for the number alone.
    let count =
        super::check(unsafe { libc::getfsstat(std::ptr::null_mut(), 0, libc::MNT_NOWAIT) })?;
    let room = count as usize + SPARE;
    let mut all: Vec<libc::statfs> = Vec::with_capacity(room);
    let bytes = (room * size_of::<libc::statfs>()) as libc::c_long;
    // SAFETY: `bytes` of spare capacity.
    let count =
        super::check(unsafe { libc::getfsstat(all.as_mut_ptr(), bytes, libc::MNT_NOWAIT) })?;
    // SAFETY: the kernel has written that many.
    unsafe { all.set_len((count as usize).min(room)) };
    let text = |name: &[libc::c_char]| {
        let bytes = name.iter().map(|&c| c as u8).take_while(|&c| c != 0);
        PathBuf::from(OsString::from_vec(bytes.collect()))
    };
    let mount = |facts: &libc::statfs| Mount {
        id: 0,
        parent: 0,
        device: (0, 0),
        point: text(&facts.f_mntonname),
        source: text(&facts.f_mntfromname),
    };
    Ok(all.iter().map(mount).collect())
}

/// Reads Linux's mountinfo (proc_pid_mountinfo(5)); a line that is none is left
/// out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&b| b == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: the fields
/// between the options and the dash are any number.
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let mut number = || str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let (major, minor) = str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let _root = fields.next()?;
    let point = unescape(fields.next()?);
    fields.find(|field| *field == b"-")?;
    let _kind = fields.next()?;
    let source = unescape(fields.next()?);
    Some(Mount {
        id,
        parent,
        device,
        point,
        source,
    })
}

/// Blanks, line ends and backslashes come as `\040` and the like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let octal = rest.get(1..4).filter(|_| first == b'\\');
        let byte = octal
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &rest[4..] } else { behind };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134c rw,noatime master:1 shared:2 - ext3 /dev/sda\\0401 rw\n\
            nonsense\n\n\
            1 1 0:5 / / rw - tmpfs tmpfs rw\n\
            2 1 0:x / /proc rw - proc proc rw\n\
            3 1 8:1 / /half rw - ext4\n\
            4 1 8:1 / /trailing\\04 rw - ext4 none rw\n";
        let found = parse(text);
        let facts: Vec<_> = found
            .iter()
            .map(|m| {
                (
                    m.id,
                    m.parent,
                    m.device,
                    m.point.to_str().unwrap(),
                    m.source.to_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            facts,
            [
                (36, 35, (98, 0), "/mnt/a b\\c", "/dev/sda 1"),
                (1, 1, (0, 5), "/", "tmpfs"),
                (4, 1, (8, 1), "/trailing\\04", "none"),
            ]
        );
    }

    #[test]
    fn this_machine_has_a_root() {
        let found = list().unwrap();
        assert!(
            found.iter().any(|m| m.point.to_str() == Some("/")),
            "{found:?}"
        );
    }
}
