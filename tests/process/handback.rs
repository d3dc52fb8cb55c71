//! From another daemon and back: `cmog.c` behaves as PROTOCOL.md section 6 says of cmogstored, whose program was
//! replaced by ours, or ours by it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use super::traffic::Habit;
use super::{alone, facts};
use crate::harness::tree::{Builder, Claim, End, Program, Tree};
use crate::harness::{Conn, PATIENCE, eventually};

const HABITS: [(Habit, usize); 3] = [
    (Habit::Busy, 3),
    (Habit::Dawdling(Duration::from_millis(300)), 4),
    (Habit::OneShot, 3),
];

/// A port that was free a moment ago: cmogstored adopts by address, and 0 is none.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number")
}

/// An http, an http-get and a sidechannel listener, as a storage node has.
fn builder() -> Builder {
    Tree::builder()
        .set("httplisten", &free_port().to_string())
        .set("httpgetlisten", &free_port().to_string())
        .set("mgmtlisten", &free_port().to_string())
        .set("upgrade-timeout", "2")
}

/// USR2 to the pidfile's master when `program` has been put in its place, until the new one is ready.
#[track_caller]
fn hand_over(tree: &Tree, program: &Program) -> (i32, i32) {
    let (skip, old) = (tree.mark(), tree.master());
    assert!(tree.install(program));
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    tree.wait_log(skip, "ready with ", PATIENCE);
    eventually("the pidfile to name the new one", PATIENCE, || {
        tree.claim().names(new)
    });
    assert!(tree.old_claim().names(old), "{:?}", tree.old_claim());
    (old, new)
}

/// The inodes of the sockets that listen, whoever holds them.
fn listening(tree: &Tree) -> Vec<String> {
    let mut ports: Vec<String> = Vec::new();
    for line in fs::read_to_string("/proc/net/tcp")
        .expect("/proc/net/tcp")
        .lines()
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words[1]
            .split_once(':')
            .and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        let is_ours = tree.listeners().iter().any(|listener| {
            format!("{listener:?}").ends_with(&format!(":{})", port.unwrap_or_default()))
        });
        if words[3] == "0A" && is_ours {
            ports.push(words[9].to_owned());
        }
    }
    ports.sort();
    ports
}

/// Both ways a request can come in.
#[track_caller]
fn serves(tree: &Tree) {
    tree.conn().put("/dev1/file", b"content").expect(201, true);
    for _ in 0..10 {
        assert_eq!(tree.conn().get("/dev1/file").body, b"content");
    }
}

/// The stand-in alone: it serves, upgrades into itself, and returns, as the model does; also with listeners that do not
/// block.
#[test]
fn the_stand_in_is_what_it_stands_for() {
    let _alone = alone();
    for nonblocking in [false, true] {
        let Some(tree) = cmog(nonblocking) else {
            return;
        };
        let sockets = listening(&tree);
        assert_eq!(sockets.len(), 3);
        let traffic = tree.clients(&HABITS);
        for round in 0..4 {
            traffic.flow(60);
            let (old, new) = hand_over(&tree, &Program::Cmog);
            assert_eq!(listening(&tree), sockets);
            let (goes, stays) = if round % 2 == 0 {
                (old, new)
            } else {
                (new, old)
            };
            tree.signal(goes, libc::SIGQUIT);
            tree.await_gone(goes);
            tree.settle(&[(stays, 0)]);
            assert!(tree.claim().names(stays) && tree.old_claim() == Claim::NoFile);
        }
        traffic.flow(60);
        let tally = traffic.finish();
        eprintln!(
            "{} requests of the stand-in, {} idle ends",
            tally.served, tally.idle_ends
        );
        assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
        serves(&tree);
        stays_when_others_cannot_start(&tree);
        tree.stop();
    }
}

/// A successor, and a second start from outside.
#[track_caller]
fn stays_when_others_cannot_start(tree: &Tree) {
    let (skip, old) = (tree.mark(), tree.master());
    assert!(tree.install(&Program::Shell("exit 1")));
    tree.signal(old, libc::SIGUSR2);
    tree.wait_log(skip, "this server serves on", PATIENCE);
    tree.settle(&[(old, 0)]);
    assert!(tree.install(&Program::Cmog));
    let second = std::process::Command::new(tree.path("bin/rmogstored"))
        .arg(format!("--pidfile={}", tree.pidfile().display()))
        .output()
        .expect("start");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        said.contains(&format!("already running on PID: {old}")),
        "{said}"
    );
    assert_eq!(second.status.code(), Some(1));
}

/// The stand-in, with listeners that block or do not.
fn cmog(nonblocking: bool) -> Option<Tree> {
    let mut builder = builder();
    if nonblocking {
        builder = builder.env("CMOG_NONBLOCK", "1");
    }
    builder.start(&Program::Cmog)
}

/// The daemon's program was replaced by ours: USR2, and QUIT to the old one.
#[test]
fn from_cmogstored_to_ours_without_a_dropped_connection() {
    let _alone = alone();
    for nonblocking in [false, true] {
        let Some(tree) = cmog(nonblocking) else {
            return;
        };
        let sockets = listening(&tree);
        let traffic = tree.clients(&HABITS);
        traffic.flow(60);
        let (old, new) = hand_over(&tree, &Program::Ours);
        tree.settle(&[(new, 2), (old, 0)]);
        assert_eq!(listening(&tree), sockets, "adopted, not bound anew");
        assert!(tree.claim().is_of(new), "{:?}", tree.claim());
        // both serve
        let mut seen = Vec::new();
        eventually("connections of both", PATIENCE, || {
            let mut conn = tree.conn();
            conn.get("/dev1/shared").expect(200, true);
            seen.extend(facts::owner(tree.keeper(), &conn));
            seen.contains(&old) && seen.iter().any(|pid| *pid != old)
        });
        tree.signal(old, libc::SIGQUIT);
        assert_eq!(tree.await_end(old), End::Exited(0));
        tree.settle(&[(new, 2)]);
        assert_eq!(
            tree.old_claim(),
            Claim::NoFile,
            "the old one has removed it"
        );
        traffic.flow(60);
        let tally = traffic.finish();
        eprintln!(
            "cmogstored to ours: {} requests, {} idle ends",
            tally.served, tally.idle_ends
        );
        assert!(
            tally.failures.is_empty(),
            "O_NONBLOCK {nonblocking}: {:#?}",
            tally.failures
        );
        // from here on it is an upgrade like any other
        let (old, new) = tree.upgrade();
        tree.signal(old, libc::SIGQUIT);
        tree.settle(&[(new, 2)]);
        serves(&tree);
        tree.stop();
    }
}

/// The operator changes his mind: ours goes, and the door of those who were there before stays open.
#[test]
fn ours_leaves_the_daemon_that_started_it_as_it_was() {
    let _alone = alone();
    let Some(tree) = builder().start(&Program::Cmog) else {
        return;
    };
    let traffic = tree.clients(&HABITS);
    let old = tree.first();
    for signal in [libc::SIGQUIT, libc::SIGTERM] {
        traffic.flow(60);
        let (_, new) = hand_over(&tree, &Program::Ours);
        tree.settle(&[(new, 2), (old, 0)]);
        tree.signal(new, signal);
        tree.await_gone(new);
        is_as_it_was(&tree);
    }
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    // these end clients' requests too; and of a master that is killed the workers drain
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let (_, new) = hand_over(&tree, &Program::Ours);
        tree.settle(&[(new, 2), (old, 0)]);
        tree.signal(new, signal);
        tree.await_gone(new);
        is_as_it_was(&tree);
    }
    tree.stop();
}

/// The first one serves alone, by its pidfile, and its door is open.
#[track_caller]
fn is_as_it_was(tree: &Tree) {
    let old = tree.first();
    tree.settle(&[(old, 0)]);
    assert!(tree.claim().names(old), "{:?}", tree.claim());
    assert_eq!(tree.old_claim(), Claim::NoFile);
    // a SYN that is dropped would be sent again after a second
    for _ in 0..30 {
        let mut conn =
            Conn::try_connect(tree.addr(), Duration::from_millis(500)).expect("an open door");
        conn.get("/dev1/shared").expect(200, true);
    }
}

/// Its argv: a daemon that is started by CMOGSTORED_FD is one already.
#[test]
fn argv_of_the_daemon_is_understood_and_it_does_not_detach_again() {
    let builder = builder()
        .arg("--daemonize")
        .arg("--maxconns=500")
        .arg("--worker-processes=2");
    let Some(tree) = builder.start(&Program::Cmog) else {
        return;
    };
    let old = tree.first();
    assert!(tree.install(&Program::Ours));
    let skip = tree.mark();
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    eventually(
        "the pidfile to name the process that was started",
        PATIENCE,
        || tree.claim().is_of(new),
    );
    tree.settle_beside(new, 2);
    assert!(
        !tree.has_said(skip, "has ended"),
        "its parent must not see it end: {:#?}",
        tree.log()
    );
    serves(&tree);
    tree.signal(old, libc::SIGQUIT);
    tree.settle(&[(new, 2)]);
    tree.stop();
}

/// Numbers in CMOGSTORED_FD that lead nowhere: ours says which and ends; the daemon serves on.
#[test]
fn a_list_that_is_wrong_is_named() {
    for (list, said) in [
        ("999", "getsockname(fd=999) failed"),
        ("7x", "CMOGSTORED_FD contained invalid byte"),
        ("x", "failed to parse"),
        ("99999999999", "too large"),
        ("0", "getsockname(fd=0) failed"),
    ] {
        let Some(tree) = builder().env("CMOG_FDS", list).start(&Program::Cmog) else {
            return;
        };
        let old = tree.first();
        assert!(tree.install(&Program::Ours));
        let skip = tree.mark();
        tree.signal(old, libc::SIGUSR2);
        tree.wait_log(skip, said, PATIENCE);
        tree.wait_log(skip, "this server serves on", PATIENCE);
        tree.settle(&[(old, 0)]);
        assert!(tree.claim().names(old));
        tree.stop();
    }
}

/// The way back: ours hands its listeners to the daemon, which knows no handshake of ours.
#[test]
fn ours_hands_back_to_cmogstored() {
    let _alone = alone();
    let Some(tree) = builder().start(&Program::Ours) else {
        return;
    };
    let sockets = listening(&tree);
    let traffic = tree.clients(&HABITS);
    traffic.flow(60);
    let (old, new) = hand_over(&tree, &Program::Cmog);
    tree.settle(&[(new, 0), (old, 2)]);
    assert_eq!(listening(&tree), sockets);
    // longer than a successor of our own may be silent: this one will not speak
    let began = std::time::Instant::now();
    eventually("more than the time that a successor has", PATIENCE, || {
        began.elapsed() > Duration::from_secs(4)
    });
    traffic.flow(60);
    tree.settle(&[(new, 0), (old, 2)]);
    tree.signal(old, libc::SIGQUIT);
    assert_eq!(tree.await_end(old), End::Exited(0));
    tree.settle(&[(new, 0)]);
    assert!(
        tree.claim().names(new),
        "it is not ours to empty: {:?}",
        tree.claim()
    );
    traffic.flow(60);
    let tally = traffic.finish();
    eprintln!(
        "ours to cmogstored: {} requests, {} idle ends",
        tally.served, tally.idle_ends
    );
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    serves(&tree);
    tree.stop();
}

/// And if that one goes again: it unlinks the pidfile on its way, and ours is in charge, by a file that is locked.
#[test]
fn ours_is_in_charge_again_when_cmogstored_has_gone() {
    let _alone = alone();
    let Some(tree) = builder().start(&Program::Ours) else {
        return;
    };
    let traffic = tree.clients(&HABITS);
    for _ in 0..2 {
        traffic.flow(60);
        let (old, new) = hand_over(&tree, &Program::Cmog);
        tree.signal(new, libc::SIGQUIT);
        tree.await_gone(new);
        tree.settle(&[(old, 2)]);
    }
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    // killed, it ends its clients' requests too
    let (old, new) = hand_over(&tree, &Program::Cmog);
    tree.signal(new, libc::SIGKILL);
    tree.await_gone(new);
    tree.settle(&[(old, 2)]);
    serves(&tree);
    // one that cannot start
    assert!(tree.install(&Program::Shell("exit 1")));
    let skip = tree.mark();
    tree.signal(old, libc::SIGUSR2);
    tree.wait_log(skip, "upgrade failed", PATIENCE);
    tree.settle(&[(old, 2)]);
    tree.stop();
}

/// There, back, and there again, without a pause between.
#[test]
fn there_and_back_and_there_again() {
    let _alone = alone();
    let Some(tree) = builder().start(&Program::Cmog) else {
        return;
    };
    let sockets = listening(&tree);
    let traffic = tree.clients(&HABITS);
    for program in [Program::Ours, Program::Cmog, Program::Ours, Program::Cmog] {
        traffic.flow(60);
        let (old, new) = hand_over(&tree, &program);
        tree.signal(old, libc::SIGQUIT);
        assert_eq!(tree.await_end(old), End::Exited(0));
        let workers = if matches!(program, Program::Ours) {
            2
        } else {
            0
        };
        tree.settle(&[(new, workers)]);
        assert_eq!(listening(&tree), sockets);
    }
    traffic.flow(60);
    let tally = traffic.finish();
    eprintln!(
        "four hand-overs: {} requests, {} idle ends",
        tally.served, tally.idle_ends
    );
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}
