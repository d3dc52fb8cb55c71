//! What is mounted where.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// A mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// What it was made of: `/dev/sda1`, `server:/export`, `tmpfs`.
    pub source: OsString,
    /// The block device's number, as far as the system tells it. A filesystem
    /// over several of them has one that no disk has.
    pub number: Option<(u32, u32)>,
}

/// All that this process sees, in the order in which they were mounted.
#[cfg(target_os = "linux")]
pub fn list() -> io::Result<Vec<Mount>> {
    use std::os::unix::ffi::OsStringExt;
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|&b| b == b'\n')
        .filter_map(|line| {
            let mount = parse(line)?;
            Some(Mount {
                point: OsString::from_vec(mount.0).into(),
                source: OsString::from_vec(mount.1),
                number: Some(mount.2),
            })
        })
        .collect())
}

/// One line of mountinfo: the mount point, the source, the device's number.
/// proc_pid_mountinfo(5).
#[cfg(target_os = "linux")]
fn parse(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>, (u32, u32))> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
    let mut words = line.split(|&b| b == b' ');
    let number = std::str::from_utf8(words.nth(2)?).ok()?;
    let (major, minor) = number.split_once(':')?;
    let point = unescape(words.nth(1)?);
    words.find(|word| *word == b"-")?;
    let source = unescape(words.nth(1)?);
    Some((point, source, (major.parse().ok()?, minor.parse().ok()?)))
}

/// Blank, tab, newline and backslash stand there as `\ooo`.
#[cfg(target_os = "linux")]
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, behind)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| behind.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = &behind[3..];
            }
            None => {
                plain.push(first);
                rest = behind;
            }
        }
    }
    plain
}

/// See the Linux twin; getfsstat(2) there.
#[cfg(target_os = "freebsd")]
pub fn list() -> io::Result<Vec<Mount>> {
    use super::check;
    use std::ffi::CStr;
    use std::os::unix::ffi::OsStringExt;

    let text = |chars: &[libc::c_char]| {
        // SAFETY: the kernel ends these texts by a NUL inside of their room.
        let text = unsafe { CStr::from_ptr(chars.as_ptr()) };
        OsString::from_vec(text.to_bytes().to_vec())
    };
    // SAFETY: no room is given: it only counts.
    let count = check(unsafe { libc::getfsstat(std::ptr::null_mut(), 0, libc::MNT_NOWAIT) })?;
    // Some may come meanwhile.
    let room = count as usize + 8;
    let mut table: Vec<libc::statfs> = Vec::with_capacity(room);
    let bytes = room * size_of::<libc::statfs>();
    // SAFETY: `bytes` of room were reserved.
    let got = check(unsafe {
        libc::getfsstat(table.as_mut_ptr(), bytes as libc::c_long, libc::MNT_NOWAIT)
    })?;
    // SAFETY: the kernel has written so many, at most `room`.
    unsafe { table.set_len((got as usize).min(room)) };
    Ok(table
        .iter()
        .map(|entry| Mount {
            point: text(&entry.f_mntonname).into(),
            source: text(&entry.f_mntfromname),
            number: None,
        })
        .collect())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let (point, source, number) =
            parse(br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw").unwrap();
        assert_eq!(point, b"/mnt 2");
        assert_eq!(source, b"/dev/root");
        assert_eq!(number, (98, 0));
        let (point, source, _) = parse(b"1 0 0:25 / / rw - tmpfs my\\040tmp rw,size=1k").unwrap();
        assert_eq!((&*point, &*source), (&b"/"[..], &b"my tmp"[..]));
        for bad in [
            &b""[..],
            b"36 35 98:0 /",
            b"36 35 x /a /b rw -",
            b"1 2 3:4 / /x rw ext4 /dev/x",
        ] {
            assert_eq!(parse(bad), None);
        }
        assert_eq!(unescape(br"a\134b\9"), br"a\b\9");
    }
}
