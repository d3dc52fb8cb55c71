//! Filesystems that come and go below a device's name while the server runs: it follows at once, and is never in
//! the way of umount(2). All in the server's own mount namespace.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::{c_path, conns_of_each, content, wait_until_old};
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

/// A new tmpfs, or with `from` what is to be seen there.
#[track_caller]
fn mount(server: &Server, from: Option<&Path>, at: &Path) {
    let (source, flags) = match from {
        Some(path) => (c_path(path), libc::MS_BIND),
        None => (CString::from(c"tmpfs"), 0),
    };
    let at = c_path(at);
    let done = inside(server, move || {
        let options = CStr::as_ptr(c"size=4m,mode=777");
        // SAFETY: all are NUL-terminated and outlive the call
        let done = unsafe {
            libc::mount(
                source.as_ptr(),
                at.as_ptr(),
                c"tmpfs".as_ptr(),
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
    let mut conns = conns_of_each(&server, 2);
    wait_until_old(&second.join("empty"));
    see(&mut conns, "dev1", Ok(2), "a mount");
    see(&mut conns, "dev2", Ok(3), "a folder");

    mount(&server, None, &second);
    see(&mut conns, "dev2", Err(404), "an empty mount over it");
    fill(&server.seen("dev2"), 4);
    see(&mut conns, "dev2", Ok(4), "a mount over it");
    umount(&server, &second);
    see(&mut conns, "dev2", Ok(3), "the folder after umount");

    mount(&server, Some(&first), &second);
    see(
        &mut conns,
        "dev2",
        Ok(2),
        "the other device mounted over it",
    );
    see(&mut conns, "dev1", Ok(2), "the other device");
    umount(&server, &second);
    see(&mut conns, "dev2", Ok(3), "the folder after umount again");

    umount(&server, &first);
    see(&mut conns, "dev1", Ok(1), "what lies below the mount");
    // a disk is exchanged: the new one has the old one's number, names, inodes and lengths
    mount(&server, None, &first);
    fill(&server.seen("dev1"), 5);
    see(&mut conns, "dev1", Ok(5), "a new mount");
    umount(&server, &first);
    mount(&server, None, &first);
    fill(&server.seen("dev1"), 6);
    see(&mut conns, "dev1", Ok(6), "the next one in its place");
    umount(&server, &first);
    see(&mut conns, "dev1", Ok(1), "what lies below again");
    drop(conns);
    server.stop();
}
