//! `watch`: reports, and nobody who waits for another's.

use std::time::{Duration, Instant};

use super::{ask, builder, dial, dial_other, expect, expect_open};
use crate::harness::server::{Builder, own_docroot};
use crate::harness::{Conn, PATIENCE, eventually};
use crate::process::facts;

/// Reports in a second, as fast as this speaks.
const A_SECOND: u32 = 10;

/// A server whose disks are measured by a shell that says the same again and again.
fn watched() -> Builder {
    let command = format!(
        "sh -c 'while echo Device r/s %util && echo sda 0.00 0.40; do sleep {}; done'",
        1.0 / f64::from(A_SECOND)
    );
    builder().env("MOG_IOSTAT_CMD", &command)
}

/// Reads a report: the devices, in order.
#[track_caller]
fn report(conn: &mut Conn) -> Vec<u32> {
    let text = String::from_utf8(conn.read_until(b"\n.\n")).expect("ASCII");
    let mut devices = Vec::new();
    for line in text.trim_end_matches(".\n").lines() {
        let (device, util) = line.split_once('\t').expect(line);
        let is_util = !util.is_empty()
            && util.len() <= 7
            && util
                .bytes()
                .all(|b| b.is_ascii_digit() || b".-".contains(&b));
        assert!(is_util, "{line:?}");
        devices.push(device.parse().expect(line));
    }
    devices
}

#[test]
fn reports() {
    let root = own_docroot();
    for name in [
        "dev10",
        "dev007x",
        "dev16777215",
        "dev16777216",
        "disk",
        ".dev3",
    ] {
        std::fs::create_dir(root.path().join(name)).expect("mkdir");
    }
    let server = watched().docroot(root.path()).workers(2).start();
    for end in ["\n", "\r\n"] {
        let mut conn = dial(&server);
        // what comes before it is answered, what comes behind it is not read
        conn.send(format!("size /none\r\nwatch{end}size /none\r\n"));
        expect(&mut conn, "/none -1\r\n");
        for _ in 0..3 {
            assert_eq!(report(&mut conn), [1, 2, 10, 16_777_215]);
            conn.send("size /none\r\nshutdown\r\n");
        }
    }
    expect_open(&mut dial(&server));
}

#[test]
fn half_close_ends_no_watch() {
    let server = watched().start();
    let mut conn = dial(&server);
    conn.send("watch\n");
    conn.finish_sending();
    for _ in 0..3 {
        assert_eq!(report(&mut conn), [1, 2]);
    }
}

/// All watchers of a worker get a report at the same time, and a quarter of them reads nothing.
#[test]
fn who_does_not_read_delays_nobody() {
    const DEVICES: u32 = 900;
    const WATCHERS: usize = 200;
    const SILENT: usize = 50;
    let root = own_docroot();
    for nr in 3..=DEVICES {
        std::fs::create_dir(root.path().join(format!("dev{nr}"))).expect("mkdir");
    }
    let server = watched().docroot(root.path()).start();
    let mut silent: Vec<Conn> = (0..SILENT)
        .map(|_| {
            let mut conn = Conn::connect_narrow(server.mgmt_addr(), 4096);
            conn.send("watch\n");
            conn
        })
        .collect();
    let mut readers: Vec<Conn> = (SILENT..WATCHERS).map(|_| dial(&server)).collect();
    for conn in &mut readers {
        conn.send("watch\n");
    }
    // until long after the silent ones' sockets are full
    let mut slowest = Duration::ZERO;
    for _ in 0..4 * A_SECOND {
        let first = report(&mut readers[0]);
        let start = Instant::now();
        for conn in &mut readers[1..] {
            assert_eq!(report(conn), first);
        }
        slowest = slowest.max(start.elapsed());
        expect_open(&mut dial(&server));
    }
    eprintln!("{slowest:?} from the first reader's report to the last one's, at the slowest");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    // what they have missed is missed; what they get is whole
    for conn in &mut silent {
        for _ in 0..3 {
            assert_eq!(report(conn).len(), DEVICES as usize);
        }
    }
}

#[test]
fn every_worker_has_watchers() {
    let server = watched().workers(3).threads(30).start();
    let (mut all, mut owners) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (conn, owner) = dial_other(&server, &owners);
        owners.push(owner);
        all.push(conn);
    }
    all.extend((0..21).map(|_| dial(&server)));
    for conn in &mut all {
        conn.send("watch\r\n");
    }
    for _ in 0..3 {
        for conn in &mut all {
            assert_eq!(report(conn), [1, 2]);
        }
    }
}

/// A watcher that has gone is noticed by the next reports, and its descriptor is free.
#[test]
fn who_goes_is_let_go() {
    let server = watched().start();
    expect_open(&mut dial(&server));
    let pid = server.worker_pids()[0];
    let mut first = dial(&server);
    ask_watch(&mut first);
    let before = facts::sockets(pid);
    for round in 0..3 {
        let mut all: Vec<Conn> = (0..20).map(|_| dial(&server)).collect();
        all.iter_mut().for_each(ask_watch);
        match round {
            0 => all.into_iter().for_each(Conn::reset),
            _ => drop(all),
        }
        eventually("their descriptors to be free", PATIENCE, || {
            facts::sockets(pid) <= before
        });
        report(&mut first);
    }
}

fn ask_watch(conn: &mut Conn) {
    conn.send("watch\n");
    report(conn);
}

#[test]
fn a_stop_drops_them() {
    for quit in [libc::SIGQUIT, libc::SIGTERM] {
        let mut server = watched().workers(2).start();
        let mut all: Vec<Conn> = (0..10).map(|_| dial(&server)).collect();
        all.iter_mut().for_each(ask_watch);
        server.signal(quit);
        for conn in &mut all {
            // perhaps one more report
            let rest = conn.drain().unwrap_or_default();
            assert!(rest.is_empty() || rest.ends_with(b".\n"));
        }
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    }
}

#[test]
fn without_iostat() {
    let server = builder().arg("--iostat=0").workers(2).start();
    let mut conn = dial(&server);
    for end in ["\r\n", "\n"] {
        ask(
            &mut conn,
            format!("watch{end}"),
            "ERR iostat unavailable\r\n",
        );
    }
    ask(
        &mut conn,
        "watch\r\nsize /none\r\n",
        "ERR iostat unavailable\r\n/none -1\r\n",
    );
}

/// Devices that come and go are in the next reports.
#[test]
fn devices_come_and_go() {
    let server = watched().start();
    let mut conn = dial(&server);
    ask_watch(&mut conn);
    std::fs::create_dir(server.path("dev5")).expect("mkdir");
    // it is found by a rescan, which each new watcher wants
    let mut other = dial(&server);
    ask_watch(&mut other);
    eventually("dev5 in the reports", PATIENCE, || {
        report(&mut conn) == [1, 2, 5]
    });
    std::fs::remove_dir_all(server.path("dev5")).expect("rm -r");
    std::fs::remove_dir_all(server.path("dev1")).expect("rm -r");
    ask_watch(&mut dial(&server));
    eventually("dev1 and dev5 to be gone", PATIENCE, || {
        report(&mut conn) == [2]
    });
}
