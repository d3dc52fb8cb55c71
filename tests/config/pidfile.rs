//! The pidfile in the foreground: one service at a time, and a file that says who it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::{Folder, pid_in, run_command};
use crate::harness::server::{Builder, is_root};
use crate::harness::{PATIENCE, Server};

fn builder(pidfile: &Path) -> Builder {
    Server::builder().arg(&format!("--pidfile={}", pidfile.display()))
}

/// Whether a process has this file open.
#[cfg(target_os = "linux")]
fn holds(pid: i32, path: &Path) -> bool {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("a living process");
    folder
        .flatten()
        .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == path))
}

#[test]
fn it_names_the_master_and_is_emptied_at_the_end() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let server = builder(&path).umask(0o027).start();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{}\n", server.pid())
    );
    let made = fs::metadata(&path).unwrap();
    assert_eq!(made.permissions().mode() & 0o7777, 0o640);
    server.stop();
    let left = fs::metadata(&path).unwrap();
    assert_eq!((left.len(), left.ino()), (0, made.ino()));
}

#[cfg(target_os = "linux")]
#[test]
fn the_master_alone_holds_it() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let server = builder(&path).workers(2).start();
    assert!(holds(server.pid(), &path));
    let workers = server.worker_pids();
    assert_eq!(workers.len(), 2);
    for worker in workers {
        assert!(!holds(worker, &path), "worker {worker} holds the claim");
    }
}

#[test]
fn a_second_start_fails_and_leaves_it_as_it_was() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let server = builder(&path).start();
    let before = fs::metadata(&path).unwrap();
    for _ in 0..3 {
        let (status, said) = builder(&path).run_to_exit();
        assert_eq!(status.code(), Some(1), "{said}");
        let holder = format!("already running on PID: {}", server.pid());
        assert!(said.contains(&holder), "{said}");
        assert!(!said.contains("listening on"), "{said}");
    }
    let after = fs::metadata(&path).unwrap();
    assert_eq!(pid_in(&path), Some(server.pid()));
    assert_eq!(
        (after.ino(), after.mtime_nsec()),
        (before.ino(), before.mtime_nsec())
    );
    server.conn().put("/dev1/x", b"x").expect(201, true);
    server.stop();
    let next = builder(&path).start();
    assert_eq!(pid_in(&path), Some(next.pid()));
}

/// Its workers drain for as long as their clients want; the claim has ended with the master.
#[cfg(target_os = "linux")]
#[test]
fn what_a_killed_master_left_is_taken_over() {
    let folder = Folder::new();
    let path = folder.path("pid");
    let mut server = builder(&path).start();
    let worker = server.worker_pids()[0];
    let mut upload = server.conn();
    upload.send("PUT /dev1/x HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
    upload.settle();
    let old = server.pid();
    server.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE);
    assert_eq!(pid_in(&path), Some(old), "nobody could empty it");
    let next = builder(&path).start();
    assert!(server.is_ours(worker), "the old worker still serves");
    assert_eq!(pid_in(&path), Some(next.pid()));
    upload.send("y");
    upload.response().expect(201, false);
}

/// A start that fails for another reason, beside a service that claims nothing (an older daemon's pidfile).
#[test]
fn a_start_that_cannot_listen_leaves_it_as_it_was() {
    let folder = Folder::new();
    let path = folder.path("pid");
    fs::write(&path, "4711\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (status, said) = builder(&path)
        .http(&taken.local_addr().unwrap().to_string())
        .run_to_exit();
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(pid_in(&path), Some(4711));
}

#[test]
fn one_that_cannot_be_made_is_named() {
    let folder = Folder::new();
    let path = folder.path("missing/pid");
    let (status, said) = builder(&path).run_to_exit();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(path.to_str().unwrap()), "{said}");
}

/// A filesystem that has room for a name and for no content.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let mount = format!(
        "mount -t tmpfs -o size=4k none {0} && echo x > {0}/filler",
        "$1"
    );
    let folder = Folder::new();
    let (docroot, full) = (folder.docroot("root"), folder.at("full"));
    fs::create_dir(&full).unwrap();
    if !is_root() {
        return;
    }
    let script =
        format!("{mount} && shift && \"$@\"; code=$?; stat -c 'size %s' {full}/pid; exit $code");
    let said = run_command(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &script, "sh", &full])
            .arg(env!("CARGO_BIN_EXE_rmogstored"))
            .args(["--httplisten=127.0.0.1:0", "--worker-processes=1"])
            .args([
                &format!("--docroot={docroot}"),
                &format!("--pidfile={full}/pid"),
            ]),
    );
    let said = said.expect(
        1,
        &[
            &format!("pidfile={full}/pid: "),
            "make room",
            "No space left",
        ],
    );
    assert_eq!(said.out, "size 0\n");
}
