//! What is asked about files that are kept in memory.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, symlink};

use rmogstored::sys::cached;
use rmogstored::sys::clock::unix_seconds;
use rmogstored::sys::disk::is_local;
use rmogstored::sys::file::{self, Facts};

fn of(file: &File) -> Facts {
    file::facts(file.as_fd()).expect("fstat")
}

#[test]
fn settled_is_what_changed_some_seconds_ago() {
    let file = tempfile::tempfile().expect("a file");
    let facts = Facts {
        ctime: 1000,
        ctime_nsec: 999_999_999,
        ..of(&file)
    };
    // a clock of two seconds' grain may have dated it as early as this
    for now in [0, 999, 1000, 1001, 1002] {
        assert!(!facts.is_settled(now), "{now}");
    }
    for now in [1003, 1004, u64::from(u32::MAX)] {
        assert!(facts.is_settled(now), "{now}");
    }
    let ever = Facts {
        ctime: i64::MAX,
        ..facts
    };
    assert!(!ever.is_settled(1003), "a time to come, and no overflow");
    let never = Facts {
        ctime: i64::MIN,
        ..facts
    };
    assert!(never.is_settled(1003));
    assert!(!of(&file).is_settled(unix_seconds()), "it was just made");
    // the time of the content, which anybody can set, does not count
    let long_ago = Facts {
        mtime: 0,
        ..of(&file)
    };
    assert!(!long_ago.is_settled(unix_seconds()));
}

#[test]
fn facts_are_the_same_by_each_way_to_ask() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("file"), "text").expect("write");
    symlink("file", dir.path().join("link")).expect("symlink");
    let root = File::open(dir.path()).expect("open");
    for name in ["file", "link", "."] {
        let text = CString::new(name).expect("no NUL");
        let opened = of(&File::open(dir.path().join(name)).expect("open"));
        let named = file::facts_at(root.as_fd(), &text).expect("fstatat");
        assert_eq!(opened, named, "{name}");
        let meta = fs::metadata(dir.path().join(name)).expect("stat");
        assert_eq!((opened.device, opened.inode), (meta.dev(), meta.ino()));
        assert_eq!(i64::from(opened.ctime_nsec), meta.ctime_nsec());
        in_memory(root.as_fd(), name, &text, opened);
    }
    let none = CString::new("none").expect("no NUL");
    assert!(file::facts_at(root.as_fd(), &none).is_err());
    assert!(cached::facts(root.as_fd(), &none).is_err());
}

/// What was just looked at is in memory, where the kernel can say so.
fn in_memory(root: BorrowedFd<'_>, name: &str, text: &CString, opened: Facts) {
    match cached::facts(root, text) {
        Ok(recalled) => assert_eq!(opened, recalled, "{name}"),
        Err(e) => {
            let known = [libc::EINVAL, libc::ENOSYS, libc::EPERM, libc::EAGAIN];
            assert!(
                e.raw_os_error().is_some_and(|errno| known.contains(&errno)),
                "{name}: {e}"
            );
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_recalled_lies_beneath() {
    let dir = tempfile::tempdir().expect("a folder");
    let device = dir.path().join("dev");
    fs::create_dir(&device).expect("mkdir");
    fs::write(dir.path().join("outside"), "text").expect("write");
    symlink("../outside", device.join("out")).expect("symlink");
    symlink(dir.path().join("outside"), device.join("far")).expect("symlink");
    let root = File::open(&device).expect("open");
    for name in [c"../outside", c"out", c"far"] {
        // the way by name does lead there, once
        assert!(file::facts_at(root.as_fd(), name).is_ok(), "{name:?}");
        assert!(cached::facts(root.as_fd(), name).is_err(), "{name:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_no_disk_is_not_local() {
    for path in ["/proc/self/status", "/sys/kernel"] {
        if let Ok(file) = File::open(path) {
            assert!(!is_local(file.as_fd()).expect("fstatfs"), "{path}");
        }
    }
    // tmpfs, unless somebody has mounted something else there
    let shared = fs::read_to_string("/proc/self/mounts").expect("mounts");
    if shared.lines().any(|line| line.contains(" /dev/shm tmpfs ")) {
        let file = File::open("/dev/shm").expect("open");
        assert!(is_local(file.as_fd()).expect("fstatfs"));
    }
}
