//! Filesystems that come and go below a device's name while the server runs: it follows at once, and is never in
//! the way of umount(2). All in the server's own mount namespace.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{c_path, conns_of_each, content, overwrite, wait_until_old};
use crate::harness::server::is_root;
use crate::harness::{Conn, PATIENCE, Server, assert_same, eventually};

/// Names in each filesystem: a kept one must not be taken for another's.
const FILES: [(&str, usize); 3] = [("file", 1024), ("long", 100 * 1024), ("empty", 0)];

/// Runs on a thread that sees the server's mounts.
#[track_caller]
fn inside<T: Send>(server: &Server, act: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(format!("/proc/{}/ns/mnt", server.pid())).expect("its mounts");
    std::thread::scope(|scope| {
        let entered = scope.spawn(move || {
            // SAFETY: no pointers; this thread alone gets a working directory and a namespace of its own
            let done = unsafe {
                libc::unshare(libc::CLONE_FS) == 0
                    && libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) == 0
            };
            assert!(done, "setns: {}", io::Error::last_os_error());
            act()
        });
        entered.join().expect("inside of the namespace")
    })
}

/// A new filesystem of this kind in memory, or what is to be seen at a path.
#[track_caller]
fn mount(server: &Server, what: Result<&Path, &CStr>, at: &Path) {
    let (source, flags) = match what {
        Ok(path) => (c_path(path), libc::MS_BIND),
        Err(kind) => (CString::from(kind), 0),
    };
    let at = c_path(at);
    let done = inside(server, move || {
        let options = CStr::as_ptr(c"mode=777");
        // SAFETY: all are NUL-terminated and outlive the call
        let done = unsafe {
            libc::mount(
                source.as_ptr(),
                at.as_ptr(),
                source.as_ptr(),
                flags,
                options.cast(),
            )
        };
        (done, io::Error::last_os_error())
    });
    assert_eq!(done.0, 0, "mount: {}", done.1);
}

/// Not lazily: nobody may hold anything there. The prober may, for the moment that its round takes.
#[track_caller]
fn umount(server: &Server, at: &Path) {
    let at = c_path(at);
    inside(server, move || {
        eventually("umount", PATIENCE, || {
            // SAFETY: NUL-terminated, and outlives the call
            unsafe { libc::umount2(at.as_ptr(), 0) == 0 }
        });
    });
}

/// All files of one filesystem.
fn fill(folder: &Path, version: u64) {
    for (nr, (name, len)) in FILES.iter().enumerate() {
        let path = folder.join(name);
        fs::write(&path, content(nr, version, *len))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// `Err`: none of them is there.
#[track_caller]
fn see(conns: &mut [Conn], device: &str, version: Result<u64, u16>, what: &str) {
    for conn in conns {
        for _ in 0..4 {
            for (nr, (name, len)) in FILES.iter().enumerate() {
                let reply = conn.get(&format!("/{device}/{name}"));
                match version {
                    Ok(version) => {
                        let wanted = content(nr, version, *len);
                        assert_same(&reply.expect(200, true).body, &wanted, what);
                    }
                    Err(status) => assert_eq!(reply.status, status, "{what}: {name}"),
                }
            }
        }
    }
}

/// A name that both filesystems have, with other bytes in each, and all that stat says of it but the device the same.
fn twin(one: &Path, other: &Path) -> Option<String> {
    let names = (0..300).map(|nr| format!("twin.{nr}"));
    names.into_iter().find(|name| {
        let facts = [(one, 1), (other, 2)].map(|(folder, version)| {
            let path = folder.join(name);
            fs::write(&path, content(9, version, 1024)).expect("write");
            path
        });
        // only now: who has been looked at gets a finer time with the next change
        let [one, other] = facts.map(|path| fs::metadata(path).expect("stat"));
        let all = |facts: &fs::Metadata| {
            let changed = (facts.ctime(), facts.ctime_nsec());
            (facts.ino(), facts.mtime(), facts.mtime_nsec(), changed)
        };
        all(&one) == all(&other)
    })
}

#[test]
fn mounts_are_seen_at_once_and_can_be_unmounted() {
    if !is_root() {
        eprintln!("skipped: only root mounts");
        return;
    }
    let server = Server::builder().workers(2).tmpfs("dev1", "4m").start();
    let (first, second) = (server.path("dev1"), server.path("dev2"));
    // what lies below the mount, what is on it, and the other device
    fill(&first, 1);
    fill(&server.seen("dev1"), 2);
    fill(&second, 3);
    // not devices: what a prober makes has inodes, too
    let spares = ["one", "other"].map(|name| server.path(name));
    for spare in &spares {
        fs::create_dir(spare).expect("mkdir");
        mount(&server, Err(c"tmpfs"), spare);
    }
    let twin = twin(&server.seen("one"), &server.seen("other"));
    let twin = twin.expect("two files that look the same");
    let mut conns = conns_of_each(&server, 2);
    wait_until_old(&server.seen("other"));
    see(&mut conns, "dev1", Ok(2), "a mount");
    see(&mut conns, "dev2", Ok(3), "a folder");

    mount(&server, Err(c"tmpfs"), &second);
    see(&mut conns, "dev2", Err(404), "an empty mount over it");
    fill(&server.seen("dev2"), 4);
    see(&mut conns, "dev2", Ok(4), "a mount over it");
    umount(&server, &second);
    see(&mut conns, "dev2", Ok(3), "the folder after umount");

    mount(&server, Ok(&first), &second);
    see(
        &mut conns,
        "dev2",
        Ok(2),
        "the other device mounted over it",
    );
    see(&mut conns, "dev1", Ok(2), "the other device");
    for (spare, version) in spares.iter().zip(1..) {
        umount(&server, &second);
        mount(&server, Ok(spare), &second);
        for conn in &mut conns {
            for _ in 0..4 {
                let reply = conn.get(&format!("/dev2/{twin}"));
                let wanted = content(9, version, 1024);
                assert_same(&reply.expect(200, true).body, &wanted, "one of two twins");
            }
        }
    }
    umount(&server, &second);
    see(&mut conns, "dev2", Ok(3), "the folder after umount again");

    umount(&server, &first);
    see(&mut conns, "dev1", Ok(1), "what lies below the mount");
    // a disk is exchanged: the new one has the old one's number, names, inodes and lengths
    mount(&server, Err(c"tmpfs"), &first);
    fill(&server.seen("dev1"), 5);
    see(&mut conns, "dev1", Ok(5), "a new mount");
    umount(&server, &first);
    mount(&server, Err(c"tmpfs"), &first);
    fill(&server.seen("dev1"), 6);
    see(&mut conns, "dev1", Ok(6), "the next one in its place");
    umount(&server, &first);
    see(&mut conns, "dev1", Ok(1), "what lies below again");
    drop(conns);
    server.stop();
}

/// ramfs takes its times from a clock that ticks every few milliseconds, as filesystems do before Linux 6.13: what is
/// changed twice within a tick, in place and equally long, looks as it did in between.
#[test]
fn a_second_change_within_a_tick_is_seen() {
    if !is_root() {
        eprintln!("skipped: only root mounts");
        return;
    }
    let server = Server::builder().workers(2).tmpfs("dev1", "1m").start();
    mount(&server, Err(c"ramfs"), &server.path("dev2"));
    let path = server.seen("dev2").join("file");
    fs::write(&path, content(0, 0, 1024)).expect("write");
    let mut conns = conns_of_each(&server, 2);
    let same = |one: &fs::Metadata, other: &fs::Metadata| {
        (one.ctime(), one.ctime_nsec()) == (other.ctime(), other.ctime_nsec())
    };
    let mut hidden = 0;
    let mut before = fs::metadata(&path).expect("stat");
    for version in 1..400 {
        overwrite(&path, 0, &content(0, version, 1024));
        let now = fs::metadata(&path).expect("stat");
        hidden += usize::from(same(&now, &before));
        before = now;
        // the same worker twice, then the other one
        let nr = version as usize / 2 % conns.len();
        let reply = conns[nr].get("/dev2/file");
        let what = format!("change {version}, {hidden} of them left no trace");
        assert_same(
            &reply.expect(200, true).body,
            &content(0, version, 1024),
            &what,
        );
    }
    eprintln!("{hidden} of 400 changes left no trace");
    drop(conns);
    server.stop();
}
