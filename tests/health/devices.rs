//! Devices that hang, fill up or refuse, and what the log says of them.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{builder, leader, watch};
use crate::harness::server::is_root;
use crate::harness::{PATIENCE, Server, eventually};

/// A tracer that makes one thread hang in one device; ends when dropped, and the call goes on.
struct Hang(Child);

impl Hang {
    /// The elected worker's open of that device takes a minute.
    fn start(server: &Server, device: &str) -> Hang {
        let path = server.path(device).canonicalize().expect("the device");
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=openat"])
            .args(["-e", "inject=openat:delay_enter=60000000", "-P"])
            .arg(path)
            .arg("-p")
            .arg(leader(server, PATIENCE).to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        Hang(child)
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        // it detaches from whom it traces
        // SAFETY: no pointers; the pid is our child's, not yet reaped
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

fn usage_time(server: &Server, device: &str) -> Option<u64> {
    let text = String::from_utf8(server.read(&format!("{device}/usage"))?).expect("ASCII");
    let time = text.lines().find_map(|line| line.strip_prefix("time: "));
    time.expect("a time").parse().ok()
}

#[test]
fn one_that_hangs_is_dead_until_it_answers() {
    if !is_root() {
        eprintln!("skipped: tracing the server wants root");
        return;
    }
    let server = builder()
        .workers(2)
        .env("MOG_DISK_USAGE_INTERVAL", "0.2")
        .arg("--probe-timeout=0.7")
        .start();
    let mut conn = watch(&server);
    let hang = Hang::start(&server, "dev1");
    let line = server.wait_log("is dead", PATIENCE);
    assert!(line.contains("/dev1 (") && line.contains("503"), "{line}");
    // the leader goes on for the others, and reports
    let (one, begun) = (usage_time(&server, "dev1"), Instant::now());
    let other = usage_time(&server, "dev2");
    eventually("the other device's usage file", PATIENCE, || {
        usage_time(&server, "dev2") >= other.map(|time| time + 2)
    });
    assert_eq!(usage_time(&server, "dev1"), one);
    assert_eq!(super::report(&mut conn).len(), 2);
    server.conn().put("/dev2/file", b"fine").expect(201, true);
    server.conn().get("/dev1/file").expect(503, true);
    assert!(begun.elapsed() < PATIENCE);
    let probes = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", leader(&server, PATIENCE)));
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
        let names = tasks.unwrap().flatten().filter_map(name);
        names.filter(|name| name.trim() == "probe:dev1").count()
    };
    assert_eq!(probes(), 1, "never doubled");
    drop(hang);
    server.wait_log("is well again", PATIENCE);
    eventually("its usage file", PATIENCE, || {
        usage_time(&server, "dev1") > one
    });
    server.conn().put("/dev1/file", b"back").expect(201, true);
    let said = |what| {
        server
            .log()
            .iter()
            .filter(|line| line.contains(what))
            .count()
    };
    assert_eq!(
        (said("is dead"), said("is well again")),
        (1, 1),
        "once each"
    );
    assert_eq!(probes(), 1);
}

/// A start does not wait for a disk that hangs; nor does a stop.
#[test]
fn one_that_hangs_does_not_hold_the_leader_up() {
    if !is_root() {
        eprintln!("skipped: tracing the server wants root");
        return;
    }
    let server = builder()
        .workers(2)
        .env("MOG_DISK_USAGE_INTERVAL", "0.2")
        .arg("--probe-timeout=0.5")
        .start();
    let led = leader(&server, PATIENCE);
    let _hang = Hang::start(&server, "dev1");
    server.wait_log("is dead", PATIENCE);
    crate::process::signal(led, libc::SIGQUIT);
    let begun = Instant::now();
    eventually("another leader", PATIENCE, || {
        leader(&server, PATIENCE) != led
    });
    assert!(begun.elapsed() < Duration::from_secs(3));
    // it is well for that one
    server.wait_log("is well again", PATIENCE);
}

#[test]
fn a_full_one_is_called_full() {
    if !is_root() {
        eprintln!("skipped: mounting a small disk wants root");
        return;
    }
    let server = builder()
        .tmpfs("dev1", "1m")
        .env("MOG_DISK_USAGE_INTERVAL", "0.1")
        .start();
    let fill = server.seen("dev1/fill");
    let mut taken = 0;
    while taken < 100 && fs::write(fill.with_extension(taken.to_string()), [1; 65536]).is_ok() {
        taken += 1;
    }
    let line = server.wait_log("is full", PATIENCE);
    assert!(
        line.contains("/dev1 (tmpfs)") && line.contains("uploads"),
        "{line}"
    );
    // what is there is served
    server.conn().get("/dev1/fill.0").expect(200, true);
    server
        .conn()
        .put("/dev1/more", &[1; 65536])
        .expect(507, false);
    for nr in 0..=taken {
        let _ = fs::remove_file(fill.with_extension(nr.to_string()));
    }
    server.wait_log("is well again", PATIENCE);
    server
        .conn()
        .put("/dev1/more", &[1; 65536])
        .expect(201, true);
}

/// Nothing is left behind by a probe, and what a dead one left is swept away.
#[test]
fn probes_leave_nothing() {
    let server = builder()
        .env("MOG_DISK_USAGE_INTERVAL", "0.1")
        .workers(2)
        .start();
    let left = server.write("dev1/.rmogstored-tmp/999999999.abc.probe", "left");
    let led = leader(&server, PATIENCE);
    crate::process::signal(led, libc::SIGKILL);
    eventually("the sweep of the next worker", PATIENCE, || !left.exists());
    let log = server.stop();
    let wrong = log
        .iter()
        .filter(|line| line.contains(" dev1 ") && !line.contains(" info: "));
    assert_eq!(wrong.count(), 0, "{log:#?}");
}
