//! A daemon's log. Only root can give a service a /dev/log of its own: in a mount namespace.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use super::daemon::Reaper;
use super::{Folder, addresses, pid_in, run_command};
use crate::harness::{Conn, PATIENCE, eventually};

/// $1: a folder with the socket `log`; the rest is executed where /dev/log is that socket.
const WITH_LOG: &str = "set -e
mkdir -p $1/dev
mount --rbind /dev $1/dev
mount -t tmpfs none /dev
for name in null zero random urandom; do ln -s $1/dev/$name /dev/$name; done
ln -s $1/log /dev/log
shift
exec \"$@\"";

/// Lines as syslogd gets them, until one that contains `last`.
#[track_caller]
fn lines_until(socket: &UnixDatagram, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buf = [0; 8192];
    loop {
        let len = socket
            .recv(&mut buf)
            .unwrap_or_else(|e| panic!("{e} instead of {last:?} after {lines:#?}"));
        let line = String::from_utf8_lossy(&buf[..len]).into_owned();
        let is_last = line.contains(last);
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}

#[test]
fn a_daemon_logs_to_the_systems_log() {
    logs_to_the_systems_log("never");
}

#[test]
fn a_daemon_whose_workers_are_fresh_images_logs_there_too() {
    logs_to_the_systems_log("always");
}

fn logs_to_the_systems_log(exec_workers: &str) {
    let folder = Folder::new();
    let root = folder.docroot("root");
    let socket = UnixDatagram::bind(folder.path("log")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", WITH_LOG, "sh", &folder.at("")]);
        command
    };
    if !namespace().arg("true").status().is_ok_and(|s| s.success()) {
        eprintln!("skipped: no mount namespace for a /dev/log of its own");
        return;
    }
    let pid = folder.at("pid");
    let config = folder.config(
        "x.conf",
        &format!(
            "docroot = {root}\npidfile = {pid}\nhttplisten = 127.0.0.1:0\nmgmtlisten = 127.0.0.1:0\n\
             worker-processes = 1\ndaemonize\nexec-workers = {exec_workers}\n"
        ),
    );
    let _reaper = Reaper::new(&folder);
    let bin = env!("CARGO_BIN_EXE_rmogstored");
    let ended = run_command(namespace().args([bin, &config])).expect(0, &["ready with 1 workers"]);
    let pid = pid_in(&folder.path("pid")).expect("a pid");

    // <30> is daemon.info; then a date of 15 characters
    let lines = lines_until(&socket, "ready with 1 workers");
    let said = |line: &str| (line[..4].to_owned(), line[20..].to_owned());
    let ready = said(lines.last().unwrap());
    assert_eq!(
        ready,
        (
            "<30>".to_owned(),
            format!("rmogstored[{pid}]: info: ready with 1 workers")
        )
    );
    let told: Vec<_> = ended
        .err
        .lines()
        .map(|line| line.split_once("] ").expect("an ident").1)
        .collect();
    // a worker has left stderr when it has said that it is ready; the election comes after that
    let logged: Vec<_> = lines
        .iter()
        .map(|line| line.split_once("]: ").expect("an ident").1)
        .filter(|line| !line.contains("is elected"))
        .collect();
    assert_eq!(told, logged, "until it is ready, stderr has the same");

    // what a client causes comes from a worker, whose connection to the log is not its master's
    let (http, _) = addresses(&ended.listeners());
    let mut conn = Conn::connect(http);
    conn.send("PUT /dev1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf");
    let peer = conn.local_addr();
    conn.finish_sending();
    conn.expect_eof();
    let failed = format!("PUT /dev1/x failed from {peer} after 4 bytes");
    let line = lines_until(&socket, &failed).pop().unwrap();
    let (priority, text) = said(&line);
    assert_eq!(priority, "<28>", "daemon.warning: {line}");
    assert!(text.starts_with("rmogstored[") && !text.starts_with(&format!("rmogstored[{pid}]")));

    // a syslogd that does not read: nobody waits for it
    let began = Instant::now();
    for _ in 0..60 {
        half_a_put(http);
    }
    let unread = began.elapsed();
    assert!(unread < Duration::from_secs(5), "{unread:?}");
    // and what it missed is counted when it reads again
    let waiting = drain(&socket).len();
    if waiting < 20 {
        eventually("the number of lost lines", PATIENCE, || {
            half_a_put(http);
            let lines = drain(&socket);
            lines.iter().any(|line| {
                line.contains("warn: the system's log did not take ")
                    && line.ends_with(" lines before this one")
            })
        });
    } else {
        eprintln!("nothing was lost: the kernel keeps {waiting} lines");
    }
    // SAFETY: the pid was read from this test's own pidfile
    unsafe { libc::kill(pid, libc::SIGQUIT) };
    lines_until(&socket, "stopping: who has begun");
    eventually("the daemon's end", PATIENCE, || {
        pid_in(&folder.path("pid")).is_none()
    });
}

/// A client's line in the log.
#[track_caller]
fn half_a_put(http: SocketAddr) {
    let mut conn = Conn::connect(http);
    conn.send("PUT /dev1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf");
    conn.finish_sending();
    conn.expect_eof();
}

/// Reads what is there.
fn drain(socket: &UnixDatagram) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buf = [0; 8192];
    socket.set_nonblocking(true).unwrap();
    while let Ok(len) = socket.recv(&mut buf) {
        lines.push(String::from_utf8_lossy(&buf[..len]).into_owned());
    }
    socket.set_nonblocking(false).unwrap();
    lines
}
