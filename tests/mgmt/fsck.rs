//! Digests of low priority: one at a time for each filesystem, in the order in which they came, whichever
//! worker they came to. What waits and what runs, the kernel's own list of locks says.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::{builder, dial, dial_other, expect, expect_open, sparse};
use crate::harness::{Conn, PATIENCE, Server, eventually};
use crate::process::facts;

/// Long enough to be killed, or looked at, before its end.
const LONG: u64 = 2 << 30;
/// Zeros, and their MD5, as `head -c 16777216 /dev/zero | md5sum` says.
const SHORT: u64 = 16 << 20;
const SHORT_MD5: &str = "2c7ab85a893283e98c931e9511add182";

/// Who has the lock of the filesystem that the docroot is on, and how many wait for it.
#[derive(Debug, Default, PartialEq)]
struct Line {
    holders: Vec<i32>,
    waiting: usize,
}

/// The lock file of the filesystem that the docroot is on.
fn lock_file(server: &Server) -> PathBuf {
    let dev = fs::metadata(server.path("dev1")).expect("stat").dev();
    server.path(&format!(".rmogstored-run/fsck-{dev:x}.lock"))
}

/// Nobody's turn comes while this test has the lock.
fn hold(server: &Server) -> fs::File {
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock_file(server))
        .expect("the lock file");
    file.lock().expect("flock");
    file
}

fn line(server: &Server) -> Line {
    let mut line = Line::default();
    let Ok(file) = fs::metadata(lock_file(server)) else {
        return line;
    };
    let inode = format!(":{} ", file.ino());
    let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
    for lock in locks.lines().filter(|lock| lock.contains(&inode)) {
        let words: Vec<&str> = lock.split_whitespace().collect();
        match words[1] {
            "->" => line.waiting += 1,
            _ => line.holders.push(words[4].parse().expect("a pid")),
        }
    }
    line
}

/// Begins digests one after the other, each when the one before it has its place in the line, and in another
/// worker than that.
#[track_caller]
fn begin(server: &Server, files: &[&str]) -> Vec<Conn> {
    let mut conns = Vec::new();
    let mut last = Vec::new();
    let before = line(server);
    let before = before.holders.len() + before.waiting;
    for (nr, file) in files.iter().enumerate() {
        let mut conn = if server.worker_pids().len() == 1 {
            dial(server)
        } else {
            let (conn, owner) = dial_other(server, &last);
            last = vec![owner];
            conn
        };
        conn.send(format!("MD5 /{file} fsck\r\n"));
        eventually("its place in the line", PATIENCE, || {
            let now = line(server);
            now.holders.len() + now.waiting == before + nr + 1
        });
        conns.push(conn);
    }
    conns
}

#[test]
fn one_at_a_time_in_the_order_of_arrival() {
    let server = builder().workers(4).threads(40).start();
    sparse(&server, "dev1/short", SHORT);
    sparse(&server, "dev2/short", SHORT);
    let held = hold(&server);
    let files = ["dev1/short", "dev2/short"].repeat(6);
    let mut conns = begin(&server, &files);
    drop(held);
    let mut samples = 0;
    eventually("all replies", 3 * PATIENCE, || {
        // the list is no snapshot: what is handed on while it is read may be in it twice
        let looks = [line(&server), line(&server), line(&server)];
        assert!(looks.iter().any(|now| now.holders.len() <= 1), "{looks:?}");
        samples += 1;
        // looked at from the last one on, so that none can come meanwhile before those that are due
        let come: Vec<bool> = conns.iter().rev().map(Conn::has_input).collect();
        assert!(come.is_sorted(), "not in the order of arrival: {come:?}");
        come[0]
    });
    assert!(samples > 5, "{samples} samples");
    for (conn, file) in conns.iter_mut().zip(files) {
        expect(conn, format!("/{file} MD5={SHORT_MD5}\r\n"));
    }
    eventually("nobody in the line", PATIENCE, || {
        line(&server) == Line::default()
    });
}

/// More than threads wait: nobody is forgotten, and consumers are not held up.
#[test]
fn a_crowd() {
    const CROWD: usize = 120;
    let server = builder().start();
    sparse(&server, "dev1/short", 1 << 20);
    let held = hold(&server);
    let mut crowd: Vec<Conn> = (0..CROWD).map(|_| dial(&server)).collect();
    for conn in &mut crowd {
        conn.send("MD5 /dev1/short fsck\r\n");
        conn.settle();
    }
    eventually("32 in the kernel's line", PATIENCE, || {
        line(&server).waiting == 32
    });
    expect_open(&mut dial(&server));
    assert!(!crowd.iter().any(Conn::has_input));
    drop(held);
    for conn in &mut crowd {
        expect(conn, "/dev1/short MD5=b6d81b360a5672d80c27430f39153e2c\r\n");
    }
    eventually("nobody in the line", PATIENCE, || {
        line(&server) == Line::default()
    });
}

/// Kills the worker that has this connection.
fn kill_owner(server: &Server, conn: &Conn) -> i32 {
    let pid = facts::owner(server.pid(), conn).expect("its worker");
    // SAFETY: no pointers; the pid is a worker of a server that this test owns
    unsafe { libc::kill(pid, libc::SIGKILL) };
    eventually("its death", PATIENCE, || !server.is_ours(pid));
    pid
}

#[test]
fn a_worker_that_dies_gives_its_place_back() {
    let server = builder().workers(3).threads(30).start();
    sparse(&server, "dev1/long", LONG);
    sparse(&server, "dev1/short", SHORT);
    // the digest that runs, one that waits, and one behind them: each in another worker
    let mut conns: Vec<Conn> = Vec::new();
    let mut owners: Vec<i32> = Vec::new();
    for file in ["long", "long", "short"] {
        let (mut conn, owner) = dial_other(&server, &owners);
        conn.send(format!("MD5 /dev1/{file} fsck\r\n"));
        owners.push(owner);
        eventually("its place in the line", PATIENCE, || {
            let now = line(&server);
            now.holders.len() + now.waiting == owners.len()
        });
        conns.push(conn);
    }
    assert_eq!(line(&server).holders, [owners[0]]);
    kill_owner(&server, &conns[1]);
    eventually("one place less", PATIENCE, || {
        line(&server)
            == Line {
                holders: vec![owners[0]],
                waiting: 1,
            }
    });
    kill_owner(&server, &conns[0]);
    eventually("the next one's turn", PATIENCE, || {
        let now = line(&server);
        now.holders == [owners[2]] || now == Line::default()
    });
    expect(&mut conns[2], format!("/dev1/short MD5={SHORT_MD5}\r\n"));
    for conn in &mut conns[..2] {
        conn.expect_closed();
    }
}

/// I/O priority: best effort, the lowest, of the thread that reads and of no other.
#[test]
fn the_priority_of_the_thread() {
    let server = builder().start();
    sparse(&server, "dev1/long", LONG);
    let _conns = begin(&server, &["dev1/long"]);
    let pid = server.worker_pids()[0];
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let mut low = Vec::new();
    for task in tasks.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let tid: libc::pid_t = task
            .file_name()
            .to_str()
            .expect("ASCII")
            .parse()
            .expect("a tid");
        // SAFETY: no pointers; 1 is IOPRIO_WHO_PROCESS
        let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, tid) };
        if priority == (2 << 13) | 7 {
            low.push(name.trim().to_owned());
        }
    }
    assert_eq!(low, ["fsck"]);
}

/// Without lock files they wait for those of their worker.
#[test]
fn without_lock_files() {
    let server = builder().start();
    sparse(&server, "dev1/long", SHORT);
    fs::create_dir(lock_file(&server)).expect("mkdir");
    let mut conns: Vec<Conn> = (0..5).map(|_| dial(&server)).collect();
    for conn in &mut conns {
        conn.send("MD5 /dev1/long fsck\r\n");
    }
    for conn in &mut conns {
        expect(conn, format!("/dev1/long MD5={SHORT_MD5}\r\n"));
    }
    let log = server.log();
    let said = log.iter().filter(|line| line.contains("fsck-")).count();
    assert_eq!(said, 1, "{log:#?}");
}
