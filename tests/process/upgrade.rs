//! USR2: a new program takes over without a gap (PROCESSES.md D7-D11, H4, H5, H8).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::nginx::{Nginx, clients};
use super::traffic::Habit;
use super::wrk::{socket_errors, wrk};
use super::{alone, facts};
use crate::harness::server::Listener;
use crate::harness::tree::{Builder, Claim, End, Program, Tree};
use crate::harness::{Conn, PATIENCE, SetOnDrop, assert_same, eventually, pattern};

const HABITS: [(Habit, usize); 3] = [
    (Habit::Busy, 3),
    (Habit::Dawdling(Duration::from_millis(400)), 6),
    (Habit::OneShot, 3),
];

fn start(builder: Builder) -> Option<Tree> {
    builder.start(&Program::Ours)
}

/// Commits by itself, after a short probation.
fn auto() -> Builder {
    Tree::builder()
        .set("upgrade", "auto")
        .set("probation", "0.2")
}

/// USR2 to one that commits by itself; the new master, when it is alone.
#[track_caller]
fn upgrade_to_the_end(tree: &Tree, workers: usize) -> i32 {
    tree.await_calm();
    let (skip, old) = (tree.mark(), tree.master());
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    tree.wait_log(
        skip,
        &format!("upgrade: committed: pid {new} serves"),
        PATIENCE,
    );
    assert_eq!(tree.await_end(old), End::Exited(0));
    tree.settle(&[(new, workers)]);
    new
}

/// What a process holds, without the numbers that differ from run to run.
fn kinds(pid: i32) -> Vec<String> {
    let kind = |(_, place): (i32, String)| match place.split_once(':') {
        Some((kind, _)) if kind != "anon_inode" => kind.to_owned(),
        _ => place,
    };
    let mut kinds: Vec<String> = facts::descriptors(pid).into_iter().map(kind).collect();
    kinds.sort();
    kinds
}

#[test]
fn both_serve_until_one_is_told_to_go() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let old = tree.first();
    let inodes = || [tree.pidfile(), tree.oldbin()].map(|path| fs::metadata(path).unwrap().ino());
    let skip = tree.mark();
    let workers = tree.workers(old);
    let at = Instant::now();
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    let line = tree.wait_log(skip, "both serve", PATIENCE);
    eprintln!("from USR2 until both serve: {:?}", at.elapsed());
    assert!(
        line.contains(&format!(
            "upgrade: pid {new} is ready; both serve: QUIT the one that shall go"
        )),
        "{line}"
    );
    tree.settle(&[(new, 2), (old, 2)]);
    assert_eq!(tree.workers(old), workers, "nobody was retired");
    assert!(tree.old_claim().is_of(old), "{:?}", tree.old_claim());
    let before = inodes();
    // each of the four gets its share
    let mut seen = Vec::new();
    eventually("connections of four workers", PATIENCE, || {
        let mut conn = tree.conn();
        conn.put("/dev1/file", b"x").expect(201, true);
        seen.extend(facts::owner(tree.keeper(), &conn));
        seen.sort_unstable();
        seen.dedup();
        seen.len() == 4
    });
    tree.signal(old, libc::SIGQUIT);
    assert_eq!(tree.await_end(old), End::Exited(0));
    tree.settle(&[(new, 2)]);
    assert_eq!(inodes(), before, "no file was replaced");
    assert_eq!(tree.old_claim(), Claim::Free(String::new()));
    tree.conn().put("/dev1/file", b"x").expect(201, true);
    tree.stop();
}

#[test]
fn who_does_not_like_the_new_one_quits_it() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    for round in 0..3 {
        let workers = tree.workers(tree.first());
        let (old, new) = tree.upgrade();
        assert_eq!(old, tree.first());
        tree.settle(&[(new, 2), (old, 2)]);
        if round == 1 {
            // before the last word: nginx's way, by way of the old one's retirement
            tree.signal(old, libc::SIGWINCH);
            tree.settle(&[(new, 2), (old, 0)]);
        }
        tree.signal(new, libc::SIGQUIT);
        tree.await_gone(new);
        tree.settle(&[(old, 2)]);
        assert_eq!(tree.old_claim(), Claim::Free(String::new()));
        assert!(round == 1 || tree.workers(old) == workers);
        for _ in 0..20 {
            tree.conn().put("/dev1/file", b"x").expect(201, true);
        }
    }
    tree.stop();
}

/// USR2, WINCH to the old one; then back by HUP to the old and QUIT to the new one, or on by QUIT to the old one.
#[test]
fn the_steps_that_operators_know_from_nginx() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let traffic = tree.clients(&HABITS);
    for goes_back in [true, false] {
        traffic.flow(30);
        let (old, new) = tree.upgrade();
        tree.signal(old, libc::SIGWINCH);
        tree.settle(&[(new, 2), (old, 0)]);
        traffic.flow(30);
        if goes_back {
            tree.signal(old, libc::SIGHUP);
            tree.settle(&[(new, 2), (old, 2)]);
            traffic.flow(30);
            tree.signal(new, libc::SIGQUIT);
            tree.settle(&[(old, 2)]);
        } else {
            tree.signal(old, libc::SIGQUIT);
            assert_eq!(tree.await_end(old), End::Exited(0));
            tree.settle(&[(new, 2)]);
        }
    }
    traffic.flow(30);
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}

#[test]
fn an_automatic_upgrade_commits_when_all_are_ready() {
    let Some(tree) = start(auto().set("probation", "0.7")) else {
        return;
    };
    let (skip, old) = (tree.mark(), tree.first());
    let at = Instant::now();
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    tree.settle_beside(new, 2);
    // the old one is in charge until then
    assert!(tree.claim().is_of(old), "{:?}", tree.claim());
    tree.wait_log(
        skip,
        &format!("upgrade: committed: pid {new} serves"),
        PATIENCE,
    );
    let committed = at.elapsed();
    assert!(committed >= Duration::from_millis(700), "{committed:?}");
    assert_eq!(tree.await_end(old), End::Exited(0));
    eprintln!("from USR2 to commit, 0.7 s of probation included: {committed:?}");
    tree.settle(&[(new, 2)]);
    tree.stop();
}

/// The verb returns when the new one serves alone, or shall.
#[test]
fn the_verb_drives_it_to_the_end() {
    let Some(tree) = start(Tree::builder().set("probation", "0.2")) else {
        return;
    };
    for _ in 0..2 {
        let old = tree.master();
        let ended = tree.verb(&["--upgrade"]).expect(0, &[]);
        let new = tree.master();
        assert_ne!(new, old, "{}", ended.err);
        assert!(tree.claim().is_of(new));
        assert!(ended.out.contains(&new.to_string()) || ended.err.contains(&new.to_string()));
        tree.settle(&[(new, 2)]);
        tree.await_calm();
        assert_eq!(tree.status()["pid"], new);
    }
    tree.stop();
}

#[test]
fn status_tells_how_far_it_is() {
    let Some(tree) = start(auto().set("probation", "1.5")) else {
        return;
    };
    let (skip, old) = (tree.mark(), tree.first());
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    let mut seen = Vec::new();
    while !tree.has_said(skip, "upgrade: committed") {
        // one that ends just then has no answer
        let ended = tree.verb(&["--status", "--json"]);
        let Ok(status) = serde_json::from_str::<serde_json::Value>(&ended.out) else {
            assert_eq!(ended.code, Some(1), "{}", ended.err);
            continue;
        };
        if status["pid"] == old {
            assert!(status["predecessor"].is_null(), "{status:#}");
            assert_eq!(status["upgrade"]["pid"], new, "{status:#}");
            let state = status["upgrade"]["state"].as_str().expect("a state");
            seen.push(state.to_owned());
        }
    }
    seen.dedup();
    let order = ["starting", "bound", "ready", "committed"];
    let places: Vec<_> = seen
        .iter()
        .map(|state| order.iter().position(|known| known == state))
        .collect();
    assert!(places.is_sorted() && !places.contains(&None), "{seen:?}");
    assert!(seen.iter().any(|state| state == "ready"), "{seen:?}");
    assert_eq!(tree.await_end(old), End::Exited(0));
    tree.settle(&[(new, 2)]);
    // by hand, the pidfile names the new one while both serve
    tree.set("upgrade", None);
    let before = new;
    tree.verb(&["--reload"]).expect(0, &[]);
    let (old, new) = tree.upgrade();
    assert_eq!(old, before);
    let status = tree.status();
    assert_eq!(status["pid"], new, "{status:#}");
    assert_eq!(status["predecessor"], old, "{status:#}");
    tree.signal(old, libc::SIGQUIT);
    tree.settle(&[(new, 2)]);
    tree.stop();
}

/// What each of two workers holds, when both have swept their folders.
#[track_caller]
fn held_by_workers(tree: &Tree, master: i32) -> Vec<String> {
    let mut held = Vec::new();
    eventually("two workers that hold the same", PATIENCE, || {
        let all: Vec<_> = tree.workers(master).into_iter().map(kinds).collect();
        let is_sweeping = |kind: &String| kind.contains("/dev");
        let same = all.len() == 2 && all[0] == all[1];
        held = all.into_iter().next().unwrap_or_default();
        same && !held
            .iter()
            .any(|kind| is_sweeping(kind) && kind != "/dev/null")
    });
    held
}

/// Ten in a row: the last master is like the first that was executed by another, and so are its workers.
#[test]
fn ten_upgrades_leak_nothing() {
    let _alone = alone();
    let Some(tree) = start(auto()) else { return };
    let mut master = upgrade_to_the_end(&tree, 2);
    let (masters, workers) = (kinds(master), held_by_workers(&tree, master));
    let mut times = Vec::new();
    for _ in 0..10 {
        let at = Instant::now();
        master = upgrade_to_the_end(&tree, 2);
        times.push(at.elapsed());
        tree.conn().put("/dev1/file", b"x").expect(201, true);
    }
    assert_eq!(held_by_workers(&tree, master), workers);
    // fewer: a link or a client of the control socket was just going when they were counted
    eventually("no more descriptors than before", PATIENCE, || {
        kinds(master).len() <= masters.len()
    });
    times.sort();
    eprintln!("10 upgrades, from USR2 until the new one is alone: {times:?}");
    let folder = fs::read_dir(tree.path("pid.run")).expect("the run folder");
    let names: Vec<_> = folder.flatten().map(|entry| entry.file_name()).collect();
    assert!(names.len() < 10, "{names:?}");
    tree.stop();
}

/// H8: a worker of a successor holds what one of a first master does, and the claim is its master's alone.
#[test]
fn workers_hold_the_same_before_and_after() {
    let Some(tree) = start(auto()) else { return };
    let before = held_by_workers(&tree, tree.first());
    let new = upgrade_to_the_end(&tree, 2);
    assert_eq!(held_by_workers(&tree, new), before);
    let held = facts::descriptors(new).into_iter();
    let pidfiles = held.filter(|(_, place)| place.ends_with("/pid")).count();
    assert_eq!(pidfiles, 1, "the claim, once");
    tree.stop();
}

/// Who reads the environment of the program after next: nothing of ours is handed on but what this upgrade needs.
#[test]
fn the_environment_does_not_grow() {
    let Some(tree) = start(auto()) else { return };
    let lines = tree.path("environ");
    let script = format!("env > {}; exec \"$OURS\" \"$@\"", lines.display());
    let mut seen = Vec::new();
    for _ in 0..3 {
        assert!(tree.install(&Program::Shell(&script)));
        upgrade_to_the_end(&tree, 2);
        let text = fs::read_to_string(&lines).expect("the environment");
        let ours = text
            .lines()
            .filter(|line| line.contains("MOGSTORED") || line.starts_with("LISTEN_"));
        let mut names: Vec<_> = ours
            .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
            .collect();
        names.sort();
        seen.push(names);
    }
    for name in ["CMOGSTORED_FD", "RMOGSTORED_FD", "RMOGSTORED_UPGRADE"] {
        assert!(seen[0].iter().any(|seen| seen == name), "{seen:?}");
    }
    assert!(seen[0].len() <= 4, "{seen:?}");
    assert_eq!(seen[1], seen[0]);
    assert_eq!(seen[2], seen[0]);
    tree.stop();
}

/// H5, both directions, several times, with clients who check every byte.
#[test]
fn no_request_fails_in_either_direction() {
    let _alone = alone();
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let traffic = tree.clients(&HABITS);
    for round in 0..10 {
        traffic.flow(60);
        let (old, new) = tree.upgrade();
        traffic.flow(60);
        let (goes, stays) = if round % 2 == 0 {
            (old, new)
        } else {
            (new, old)
        };
        tree.signal(goes, libc::SIGQUIT);
        tree.await_gone(goes);
        tree.settle(&[(stays, 2)]);
    }
    traffic.flow(60);
    let tally = traffic.finish();
    eprintln!(
        "5 upgrades and 5 returns: {} requests, {} failed, {} idle ends",
        tally.served,
        tally.failures.len(),
        tally.idle_ends
    );
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}

#[test]
fn no_request_fails_while_upgrades_commit_by_themselves() {
    let _alone = alone();
    let Some(tree) = start(auto()) else { return };
    let traffic = tree.clients(&HABITS);
    for _ in 0..6 {
        traffic.flow(60);
        upgrade_to_the_end(&tree, 2);
    }
    traffic.flow(60);
    let tally = traffic.finish();
    eprintln!(
        "6 automatic upgrades: {} requests, {} failed",
        tally.served,
        tally.failures.len()
    );
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}

/// wrk keeps its connections for as long as the server lets it; a reply may be the last of its connection.
#[test]
fn wrk_sees_no_error_across_upgrades_and_returns() {
    let _alone = alone();
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    tree.write("dev1/file", pattern(1024));
    let Some(mut child) = wrk(tree.addr(), 8) else {
        return;
    };
    let mut rounds = 0;
    while child.try_wait().expect("waitpid").is_none() {
        let (old, new) = tree.upgrade();
        let (goes, stays) = if rounds % 2 == 0 {
            (old, new)
        } else {
            (new, old)
        };
        tree.signal(goes, libc::SIGQUIT);
        tree.await_gone(goes);
        tree.settle(&[(stays, 2)]);
        rounds += 1;
    }
    let output = child.wait_with_output().expect("wrk's report");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(socket_errors(&report), [0; 4], "{report}");
    assert!(!report.contains("Non-2xx"), "{report}");
    let served = report.lines().find(|line| line.contains("requests in"));
    eprintln!(
        "{rounds} upgrades and returns under wrk: {}",
        served.unwrap_or_default().trim()
    );
    assert!(rounds >= 2, "{rounds}");
    tree.stop();
}

/// GETs and PUTs through nginx, which keeps its connections to us: no 502.
#[test]
fn clients_of_nginx_notice_nothing() {
    let _alone = alone();
    // idle connections of nginx have time to be used once more, as by default
    let Some(tree) = start(Tree::builder().set("drain-grace", "2")) else {
        return;
    };
    let Some(nginx) = Nginx::start(tree.addr()) else {
        return;
    };
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&enough);
        let all: Vec<_> = (0..6)
            .map(|nr| {
                let (nginx, enough) = (&nginx, &enough);
                scope.spawn(move || clients(nginx, enough, nr))
            })
            .collect();
        for round in 0..4 {
            let (old, new) = tree.upgrade();
            let (goes, stays) = if round % 2 == 0 {
                (old, new)
            } else {
                (new, old)
            };
            tree.signal(goes, libc::SIGQUIT);
            tree.await_gone(goes);
            tree.settle(&[(stays, 2)]);
        }
        tree.set("idle-timeout", Some("299"));
        let skip = tree.mark();
        tree.signal(tree.master(), libc::SIGHUP);
        tree.wait_line(skip, "a new generation", |line| {
            line.contains("reload: generation") && line.ends_with(" serves")
        });
        enough.store(true, Ordering::SeqCst);
        let mut total = 0;
        for client in all {
            let (good, bad) = client.join().expect("a client of nginx");
            assert!(bad.is_empty(), "{bad:?}: {:#?}", nginx.complaints());
            total += good;
        }
        eprintln!("4 upgrades and a reload behind nginx: {total} requests, none failed");
    });
    assert_eq!(nginx.complaints(), [""; 0]);
    tree.stop();
}

/// Who has begun with the old one ends with it, however long it takes.
#[test]
fn transfers_under_way_keep_the_old_one_until_they_end() {
    let Some(tree) = start(auto()) else { return };
    let file = pattern(30_000_000);
    tree.write("dev1/big", &file);
    let mut upload = tree.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
    upload.settle();
    let mut download = Conn::connect_narrow(tree.addr(), 4096);
    download.send("GET /dev1/big HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut got = download.sip(1);
    let (skip, old) = (tree.mark(), tree.first());
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    tree.wait_log(skip, "upgrade: committed", PATIENCE);
    assert!(tree.claim().is_of(new));
    // by the new one, or as the last of an old one whose acceptor has not left yet
    assert_eq!(tree.conn().put("/dev1/other", b"x").status, 201);
    assert!(tree.is_alive(old));
    upload.send("y");
    // whether it says `close` depends on whether its worker has heard of it
    assert_eq!(upload.response().status, 201);
    got.extend(download.drain().expect("to the end"));
    let at = got
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .expect("a head")
        + 4;
    assert_same(&got[at..], &file, "the download");
    drop((upload, download));
    assert_eq!(tree.await_end(old), End::Exited(0));
    tree.settle(&[(new, 2)]);
    assert_eq!(fs::read(tree.root().join("dev1/upload")).unwrap(), b"xy");
    tree.stop();
}

/// The path of a UNIX listener goes over to the heir: the old one's end does not take it away.
#[test]
fn a_unix_listener_is_there_all_the_time() {
    let builder = Tree::builder();
    let socket = builder.path("socket");
    let builder = builder.also("httplisten", &format!("unix:{}", socket.display()));
    let Some(tree) = start(builder) else { return };
    let inode = fs::metadata(&socket).unwrap().ino();
    for goes_on in [true, false, true] {
        let (old, new) = tree.upgrade();
        let (goes, stays) = if goes_on { (old, new) } else { (new, old) };
        tree.signal(goes, libc::SIGQUIT);
        tree.await_gone(goes);
        tree.settle(&[(stays, 2)]);
        assert_eq!(fs::metadata(&socket).expect("the path").ino(), inode);
        Conn::unix(&socket)
            .put("/dev1/file", b"x")
            .expect(201, true);
    }
    let listeners = tree.listeners();
    assert!(listeners.contains(&Listener::HttpUnix(socket.clone())));
    tree.stop();
    assert!(!socket.exists(), "the last one takes it away");
}

/// F2: one at a time. A second USR2, to either of them, is said and changes nothing.
#[test]
fn one_upgrade_at_a_time() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let (old, new) = tree.upgrade();
    for pid in [old, new, old, new] {
        let skip = tree.mark();
        tree.signal(pid, libc::SIGUSR2);
        tree.wait_log(skip, "upgrade", PATIENCE);
        tree.settle(&[(new, 2), (old, 2)]);
        assert!(!tree.has_said(skip, "was started"), "{:#?}", tree.log());
    }
    // the old one gone, the new one may
    tree.signal(old, libc::SIGQUIT);
    tree.settle(&[(new, 2)]);
    let (old, new) = tree.upgrade();
    tree.signal(old, libc::SIGQUIT);
    tree.settle(&[(new, 2)]);
    tree.stop();
}

/// H7: a start from outside finds the claim taken at every moment of an upgrade, and leaves both files alone.
#[test]
fn a_second_start_is_refused_all_the_while() {
    let _alone = alone();
    let Some(tree) = start(auto().set("probation", "1")) else {
        return;
    };
    let (skip, old) = (tree.mark(), tree.first());
    tree.signal(old, libc::SIGUSR2);
    let config = format!("--config={}", tree.path("conf").display());
    let mut refused = 0;
    while !tree.has_said(skip, "upgrade: committed") {
        let ended = crate::config::run(&[&config]).expect(1, &["already running"]);
        assert!(!ended.err.contains("listening on"), "{}", ended.err);
        refused += 1;
    }
    assert!(refused >= 3, "{refused}");
    let new = tree.await_successor(skip);
    assert_eq!(tree.await_end(old), End::Exited(0));
    tree.settle(&[(new, 2)]);
    eprintln!("{refused} starts were refused during an upgrade");
    tree.stop();
}

/// H4: the old master is killed while both serve: its workers drain beside the new ones, and nobody is refused.
#[test]
fn the_old_master_is_killed_while_both_serve() {
    let _alone = alone();
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    for _ in 0..3 {
        let traffic = tree.clients(&HABITS);
        traffic.flow(50);
        let (old, new) = tree.upgrade();
        tree.signal(old, libc::SIGKILL);
        assert_eq!(tree.await_end(old), End::Killed(libc::SIGKILL));
        traffic.flow(100);
        tree.settle(&[(new, 2)]);
        let tally = traffic.finish();
        assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
        let mut conn =
            Conn::try_connect(tree.addr(), Duration::from_millis(500)).expect("an open door");
        conn.put("/dev1/file", b"x").expect(201, true);
    }
    tree.stop();
}

/// H4: and before they do, at several moments: the new one is the service then.
#[test]
fn the_old_master_is_killed_before_the_new_one_is_ready() {
    for moment in ["was started", "listening on", "is ready, pid"] {
        let Some(tree) = start(auto().set("probation", "2")) else {
            return;
        };
        let (skip, old) = (tree.mark(), tree.first());
        tree.signal(old, libc::SIGUSR2);
        let new = tree.await_successor(skip);
        tree.wait_log(skip, moment, PATIENCE);
        tree.signal(old, libc::SIGKILL);
        assert_eq!(tree.await_end(old), End::Killed(libc::SIGKILL));
        tree.settle(&[(new, 2)]);
        for _ in 0..20 {
            tree.conn().put("/dev1/file", b"x").expect(201, true);
        }
        tree.stop();
    }
}

/// A successor is a server like any other: it reloads, replaces, grows, and is replaced.
#[test]
fn a_successor_does_all_that_the_first_one_did() {
    let Some(tree) = start(auto()) else { return };
    let addr = tree.addr();
    let new = upgrade_to_the_end(&tree, 2);
    tree.signal(new, libc::SIGTTIN);
    tree.settle(&[(new, 3)]);
    let victim = tree.workers(new)[0];
    tree.signal(victim, libc::SIGKILL);
    tree.await_gone(victim);
    tree.settle(&[(new, 3)]);
    tree.set("worker-processes", Some("1"));
    let skip = tree.mark();
    tree.signal(new, libc::SIGHUP);
    tree.wait_log(skip, "reload: generation 2 serves", PATIENCE);
    tree.settle(&[(new, 1)]);
    tree.signal(new, libc::SIGWINCH);
    tree.settle(&[(new, 0)]);
    tree.signal(new, libc::SIGHUP);
    tree.settle(&[(new, 1)]);
    // what was changed since the start is what the next one starts with
    let next = upgrade_to_the_end(&tree, 1);
    assert_eq!(tree.workers(next).len(), 1);
    Conn::connect(addr)
        .put("/dev1/file", b"x")
        .expect(201, true);
    tree.stop();
}

/// A file that was changed meanwhile is the new one's: listeners that it does not know are closed, others opened.
#[test]
fn the_new_one_reads_its_file_anew() {
    let builder = auto().also("httplisten", "127.0.0.1:0");
    let Some(tree) = start(builder) else { return };
    let all = tree.listeners();
    let [Listener::Http(first), Listener::Http(second)] = all[..] else {
        panic!("{all:?}");
    };
    tree.set("httplisten", Some(&second.to_string()));
    tree.set("worker-processes", Some("3"));
    let new = upgrade_to_the_end(&tree, 3);
    Conn::connect(second)
        .put("/dev1/file", b"x")
        .expect(201, true);
    let refused = Conn::try_connect(first, Duration::from_millis(300)).err();
    let refused = refused.map(|e| e.kind());
    assert_eq!(
        refused,
        Some(std::io::ErrorKind::ConnectionRefused),
        "nobody holds it"
    );
    assert_eq!(tree.workers(new).len(), 3);
    tree.stop();
}

/// D10: started by its name alone, in a folder that is a link to the release: the next release is found the same way.
#[test]
fn the_program_is_looked_up_anew_where_it_was_started() {
    let builder = auto();
    let (first, second) = (builder.path("release-1"), builder.path("release-2"));
    for release in [&first, &second] {
        fs::create_dir(release).unwrap();
    }
    let current = builder.path("current");
    std::os::unix::fs::symlink(&first, &current).unwrap();
    // as a shell says it: by the link
    let pwd = current.to_str().unwrap().to_owned();
    let builder = builder.by_name_in(&current).env("PWD", &pwd);
    let Some(tree) = start(builder) else {
        return;
    };
    // the release that was started is removed, as deployment tools do
    fs::remove_file(&current).unwrap();
    std::os::unix::fs::symlink(&second, &current).unwrap();
    fs::remove_dir(&first).unwrap();
    let seen = tree.path("seen");
    let script = format!("pwd -P > {}; exec \"$OURS\" \"$@\"", seen.display());
    assert!(tree.install(&Program::Shell(&script)));
    upgrade_to_the_end(&tree, 2);
    assert!(seen.exists(), "another program was executed");
    let cwd = fs::read_to_string(&seen).unwrap();
    assert_eq!(cwd.trim(), second.canonicalize().unwrap().to_str().unwrap());
    tree.stop();
}

/// Exactly one worker of both trees is elected, and after the commit it is one of the new one's.
#[test]
fn the_election_crosses_an_upgrade() {
    let Some(tree) = start(auto().set("probation", "1")) else {
        return;
    };
    let lock = tree.path("pid.run/health.lock");
    let inode = fs::metadata(&lock).expect("the lock of the election").ino();
    let holders = || -> Vec<i32> {
        let suffix = format!(":{inode}");
        let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
        let held = locks
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let held = held.filter(|words| words[1] != "->" && words[5].ends_with(&suffix));
        held.map(|words| words[4].parse().expect("a pid")).collect()
    };
    let (skip, old) = (tree.mark(), tree.first());
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    while !tree.has_said(skip, "upgrade: committed") {
        let now = holders();
        assert!(now.len() <= 1 || now != holders(), "two leaders: {now:?}");
    }
    assert_eq!(tree.await_end(old), End::Exited(0));
    tree.settle(&[(new, 2)]);
    assert_eq!(fs::metadata(&lock).unwrap().ino(), inode);
    eventually("a leader of the new ones", PATIENCE, || {
        let leaders = holders();
        leaders.len() == 1 && tree.workers(new).contains(&leaders[0])
    });
    tree.stop();
}
