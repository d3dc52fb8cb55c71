//! Which disk a device is on: looked up in the kernel's list of mounts, so that
//! a disk that hangs is not asked.

use crate::sys::disk::{self, Number};
use crate::sys::mounts::Mount;
use std::path::{Component, Path, PathBuf};

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    pub point: PathBuf,
    /// `/dev/sda1`, or what the filesystem has in place of that.
    pub source: PathBuf,
    /// The whole disk, whose counters tell how busy it is.
    pub disk: Option<Number>,
}

impl Seat {
    /// Of `path`, which is absolute. Looks at /dev and /sys at most.
    pub fn find(mounts: &[Mount], path: &Path) -> Option<Seat> {
        let mount = mount_of(mounts, path)?;
        let source = source_of(mounts, mount);
        let source = resolved(source);
        // btrfs and its like count their own filesystems, with major number 0.
        let number = match mount.device {
            (0, _) if is_device(&source) => disk::number(&source),
            number => Some(number),
        };
        Some(Seat {
            point: mount.point.clone(),
            disk: number.and_then(disk::whole),
            source,
        })
    }
}

fn is_device(source: &Path) -> bool {
    source.starts_with("/dev")
}

/// Names below /dev may be symlinks (/dev/disk/by-uuid/…); others are not
/// touched.
fn resolved(source: &Path) -> PathBuf {
    let real = if is_device(source) {
        std::fs::canonicalize(source).ok()
    } else {
        None
    };
    real.unwrap_or_else(|| source.to_owned())
}

/// The mount that a path leads to.
fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    walk(mounts, path).or_else(|| {
        // The system does not tell what is mounted on what.
        let candidates = mounts.iter().filter(|m| path.starts_with(&m.point));
        candidates.max_by_key(|m| m.point.components().count())
    })
}

/// As the kernel walks it: from the root into the mount that is next on the
/// path, and on from there. What was mounted over is never reached.
fn walk<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let is_inner = |m: &Mount| {
        mounts
            .iter()
            .any(|other| other.id == m.parent && other != m)
    };
    let mut at = mounts
        .iter()
        .find(|m| m.id != 0 && m.point == Path::new("/") && !is_inner(m))?;
    // Each step goes deeper into the tree of mounts, or something is wrong.
    for _ in 0..mounts.len() {
        let next = mounts
            .iter()
            .rev()
            .filter(|m| m.parent == at.id && m.id != at.id && path.starts_with(&m.point))
            .min_by_key(|m| m.point.components().count());
        match next {
            Some(next) => at = next,
            None => return Some(at),
        }
    }
    None
}

/// A name with a slash, if any mount of the same filesystem has one.
fn source_of<'a>(mounts: &'a [Mount], mount: &'a Mount) -> &'a Path {
    let is_named = |m: &&Mount| m.source.is_absolute();
    let same = mounts
        .iter()
        .filter(|m| m.device == mount.device && mount.device != (0, 0));
    let named = Some(mount)
        .filter(is_named)
        .or_else(|| same.rev().find(is_named));
    &named.unwrap_or(mount).source
}

/// Where a symlink in `folder` leads, by its text alone.
pub fn follow(folder: &Path, target: &Path) -> PathBuf {
    let mut path = PathBuf::new();
    for part in folder.join(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mounts::parse;

    const MOUNTS: &str = "\
        20 1 8:1 / / rw - ext4 /dev/root rw\n\
        21 20 0:5 / /dev rw - devtmpfs dev rw\n\
        22 20 8:17 / /srv/dev1 rw - xfs /dev/nonesuch17 rw\n\
        23 20 8:33 / /srv/dev1x rw - xfs /dev/nonesuch33 rw\n\
        24 20 8:17 /inner /bound rw - xfs /dev/nonesuch17 rw\n\
        25 20 0:40 / /over rw - overlay overlay rw\n\
        26 25 8:49 / /over/dev2 rw - ext4 /dev/nonesuch49 rw\n\
        27 20 0:41 / /twice rw - tmpfs tmpfs rw\n\
        28 27 0:42 / /twice rw - tmpfs later rw\n\
        29 20 8:65 / /hidden/dev3 rw - ext4 /dev/nonesuch65 rw\n\
        30 20 0:43 / /hidden rw - tmpfs hider rw\n\
        31 20 8:81 / /label rw - ext4 some-label rw\n\
        32 20 8:81 / /named rw - ext4 /dev/nonesuch81 rw\n";

    #[track_caller]
    fn leads(mounts: &[Mount], path: &str, source: &str) {
        let seat = Seat::find(mounts, Path::new(path)).unwrap();
        assert_eq!(seat.source, Path::new(source), "{path}");
    }

    #[test]
    fn a_path_leads_to_its_mount() {
        let mounts = parse(MOUNTS.as_bytes());
        for (path, source) in [
            ("/srv/dev1", "/dev/nonesuch17"),
            ("/srv/dev1/usage", "/dev/nonesuch17"),
            ("/srv/dev1x", "/dev/nonesuch33"),
            ("/srv/dev10", "/dev/root"),
            ("/", "/dev/root"),
            ("/bound", "/dev/nonesuch17"),
            ("/over/dev1", "overlay"),
            ("/over/dev2/x", "/dev/nonesuch49"),
            ("/twice/dev1", "later"),
            ("/hidden/dev3", "hider"),
            ("/label", "/dev/nonesuch81"),
        ] {
            leads(&mounts, path, source);
        }
        let seat = Seat::find(&mounts, Path::new("/over/dev1")).unwrap();
        assert_eq!(seat.disk, None);
    }

    #[test]
    fn without_the_tree_the_longest_and_last_counts() {
        let mut mounts = parse(MOUNTS.as_bytes());
        for mount in &mut mounts {
            (mount.id, mount.parent) = (0, 0);
        }
        leads(&mounts, "/srv/dev1/usage", "/dev/nonesuch17");
        leads(&mounts, "/twice", "later");
        assert_eq!(Seat::find(&[], Path::new("/")), None);
    }

    #[test]
    fn symlinks_are_followed_by_their_text() {
        for (target, path) in [
            ("/mnt/a", "/mnt/a"),
            ("other", "/srv/other"),
            ("../mnt/./b", "/mnt/b"),
            ("../../..", "/"),
        ] {
            assert_eq!(
                follow(Path::new("/srv"), Path::new(target)),
                Path::new(path)
            );
        }
    }
}
