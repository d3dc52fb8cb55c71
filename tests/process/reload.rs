//! HUP: a new configuration, worker by worker, or the old one as it was (PROCESSES.md, D2 and H12).

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::traffic::Habit;
use super::{alone, facts};
use crate::harness::fault::{Mishap, Step, Who};
use crate::harness::tree::{Builder, Program, Tree};
use crate::harness::{Conn, PATIENCE, SetOnDrop, eventually};

const UNCHANGED: &str = "reload: nothing has changed";
const FAILED: &str = "reload failed: ";

fn start(builder: Builder) -> Option<Tree> {
    builder.start(&Program::Ours)
}

fn workers(tree: &Tree) -> BTreeSet<i32> {
    tree.workers(tree.first()).into_iter().collect()
}

/// HUP, and the line that says how it ended.
#[track_caller]
fn reload(tree: &Tree) -> String {
    let skip = tree.mark();
    tree.signal(tree.first(), libc::SIGHUP);
    let is_outcome = |line: &String| {
        line.contains(UNCHANGED)
            || line.contains(FAILED)
            || line.contains("reload: generation ") && line.ends_with(" serves")
    };
    let mut outcome = None;
    eventually("the outcome of a reload", PATIENCE, || {
        outcome = tree.log()[skip..]
            .iter()
            .find(|line| is_outcome(line))
            .cloned();
        outcome.is_some()
    });
    outcome.expect("just seen")
}

/// HUP, after which all is new.
#[track_caller]
fn succeed(tree: &Tree, wanted: usize) -> BTreeSet<i32> {
    let before = workers(tree);
    let said = reload(tree);
    assert!(said.contains("reload: generation "), "{said}");
    tree.settle(&[(tree.first(), wanted)]);
    let after = workers(tree);
    assert!(before.is_disjoint(&after), "{before:?}, then {after:?}");
    after
}

/// HUP, after which all is as it was; why.
#[track_caller]
fn fail(tree: &Tree, named: &[&str]) -> String {
    let before = workers(tree);
    let said = reload(tree);
    assert!(said.contains(FAILED), "{said}");
    assert!(
        said.ends_with("; the old configuration serves on"),
        "{said}"
    );
    for name in named {
        assert!(said.contains(name), "{name:?} is not in: {said}");
    }
    tree.settle(&[(tree.first(), before.len())]);
    assert_eq!(workers(tree), before, "somebody was replaced: {said}");
    tree.conn().put("/dev1/probe", b"x").expect(201, true);
    said
}

/// A port that is free, and stays so as long as nobody asks the kernel for any.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number")
}

fn is_refused(addr: SocketAddr) -> bool {
    let refused = Conn::try_connect(addr, Duration::from_millis(300)).err();
    refused.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// The inode of the listening socket of this address.
fn listener_inode(addr: SocketAddr) -> Option<u64> {
    let wanted = format!("0100007F:{:04X} 00000000:0000 0A", addr.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let line = table.lines().find(|line| line.contains(&wanted))?;
    line.split_whitespace().nth(9)?.parse().ok()
}

#[test]
fn what_has_not_changed_restarts_nobody() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let before = workers(&tree);
    let mut conn = tree.conn();
    conn.put("/dev1/file", b"content").expect(201, true);
    for round in 0..3 {
        assert!(reload(&tree).contains(UNCHANGED));
        if round == 1 {
            // other bytes, but nothing that they say
            let conf = fs::read_to_string(tree.path("conf")).unwrap();
            fs::write(tree.path("conf"), format!("# a remark\n\n{conf}")).unwrap();
        }
    }
    tree.settle(&[(tree.first(), 2)]);
    assert_eq!(workers(&tree), before);
    assert_eq!(conn.get("/dev1/file").expect(200, true).body, b"content");
    tree.stop();
}

/// Never fewer than wanted who accept, and never many more.
#[test]
fn workers_are_replaced_one_after_the_other() {
    let _alone = alone();
    let Some(tree) = start(Tree::builder().workers(3)) else {
        return;
    };
    let master = tree.first();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&enough);
        let sampler = scope.spawn(|| {
            let (mut fewest, mut most) = (usize::MAX, 0);
            while !enough.load(Ordering::Relaxed) {
                let all = facts::children(master);
                let serving = all.iter().filter(|pid| !facts::is_draining(**pid)).count();
                // one that has gone between the two looks is no gap in the service
                if facts::children(master) == all {
                    fewest = fewest.min(serving);
                }
                most = most.max(all.len());
            }
            (fewest, most)
        });
        for round in 0..5 {
            tree.set("idle-timeout", Some(&format!("{}", 200 + round)));
            succeed(&tree, 3);
        }
        enough.store(true, Ordering::Relaxed);
        let (fewest, most) = sampler.join().expect("the sampler");
        eprintln!("5 reloads of 3 workers: {fewest} to {most} at a time");
        assert!(fewest >= 3, "only {fewest} accepted");
        assert!(most <= 6, "{most} at a time");
    });
    tree.stop();
}

#[test]
fn a_reload_under_load_fails_no_request() {
    let _alone = alone();
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let traffic = tree.clients(&[
        (Habit::Busy, 3),
        (Habit::Dawdling(Duration::from_millis(400)), 6),
        (Habit::OneShot, 3),
    ]);
    let (mut longest, rounds) = (Duration::ZERO, 15);
    for round in 0..rounds {
        traffic.flow(40);
        tree.set("idle-timeout", Some(&format!("{}", 200 + round)));
        let at = Instant::now();
        let said = reload(&tree);
        assert!(
            said.contains(&format!("generation {} serves", round + 2)),
            "{said}"
        );
        longest = longest.max(at.elapsed());
    }
    traffic.flow(40);
    let tally = traffic.finish();
    eprintln!(
        "{rounds} reloads beside {} requests, none failed; the longest took {longest:?}",
        tally.served
    );
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.settle(&[(tree.first(), 2)]);
    tree.stop();
}

/// Who has begun is served to the end by whom he began with.
#[test]
fn transfers_under_way_outlive_a_reload() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let master = tree.first();
    let mut upload = tree.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
    upload.settle();
    let owner = facts::owner(tree.keeper(), &upload).expect("it was accepted");
    tree.set("idle-timeout", Some("299"));
    assert!(reload(&tree).contains("generation 2 serves"));
    assert!(tree.is_alive(owner) && facts::is_draining(owner));
    eventually("all but one worker to be new", PATIENCE, || {
        tree.workers(master).len() == 3
    });
    // and the next one does not wait for it either
    tree.set("idle-timeout", Some("298"));
    assert!(reload(&tree).contains("generation 3 serves"));
    assert!(tree.is_alive(owner));
    upload.send("y");
    upload.response().expect(201, false);
    drop(upload);
    tree.settle(&[(master, 2)]);
    tree.stop();
}

#[test]
fn the_number_of_workers_and_a_timeout_are_new() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    for (count, idle) in [("4", "0.3"), ("1", "100"), ("2", "0.3")] {
        tree.set("worker-processes", Some(count));
        tree.set("idle-timeout", Some(idle));
        let wanted = count.parse().unwrap();
        succeed(&tree, wanted);
        let mut conn = tree.conn();
        conn.put("/dev1/file", b"x").expect(201, true);
        if idle == "0.3" {
            conn.expect_eof();
        } else {
            conn.expect_open();
        }
    }
    tree.stop();
}

#[test]
fn listeners_come_and_go_and_those_that_stay_are_the_same() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let first = tree.addr();
    let inode = listener_inode(first).expect("a listener");
    let (second, socket) = (free_port(), tree.path("socket"));
    // a port of 0 keeps the port that it has
    tree.also("httplisten", &second.to_string());
    tree.also("httplisten", &format!("unix:{}", socket.display()));
    succeed(&tree, 2);
    for mut conn in [
        Conn::connect(first),
        Conn::connect(second),
        Conn::unix(&socket),
    ] {
        conn.put("/dev1/file", b"x").expect(201, true);
    }
    assert_eq!(listener_inode(first), Some(inode));
    let unix = fs::metadata(&socket).unwrap().ino();
    tree.set("idle-timeout", Some("299"));
    succeed(&tree, 2);
    assert_eq!(
        fs::metadata(&socket).unwrap().ino(),
        unix,
        "it was left alone"
    );
    Conn::unix(&socket)
        .put("/dev1/file", b"y")
        .expect(201, true);
    // away with the UNIX one, and with the first one; who is in its queue is served
    let queued = second_inode(second);
    let mut early = Conn::connect(first);
    early.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
    tree.set("httplisten", Some(&second.to_string()));
    succeed(&tree, 2);
    early.response();
    assert!(!socket.exists(), "its path has gone with it");
    eventually("nobody behind the first port", PATIENCE, || {
        is_refused(first)
    });
    assert_eq!(listener_inode(second), Some(queued));
    Conn::connect(second)
        .put("/dev1/file", b"z")
        .expect(201, true);
    let master = tree.first();
    tree.signal(master, libc::SIGQUIT);
    tree.await_end(master);
    assert!(is_refused(second));
}

/// While two serve, what the new one's file no longer names is still the old one's.
#[test]
fn a_listener_that_goes_is_left_to_the_predecessor() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let second = free_port();
    tree.also("httplisten", &second.to_string());
    succeed(&tree, 2);
    let first = tree.addr();
    let (old, new) = tree.upgrade();
    tree.set("httplisten", Some(&first.to_string()));
    let skip = tree.mark();
    tree.signal(new, libc::SIGHUP);
    tree.wait_line(skip, "a new generation", |line| {
        line.contains("reload: generation") && line.ends_with(" serves")
    });
    for _ in 0..5 {
        let conn = Conn::try_connect(second, PATIENCE);
        assert_eq!(conn.expect("the old one's").get("/").status, 200);
    }
    tree.signal(new, libc::SIGQUIT);
    tree.await_gone(new);
    tree.settle(&[(old, 2)]);
    for addr in [first, second] {
        let conn = Conn::try_connect(addr, PATIENCE);
        assert_eq!(conn.expect("both are its own").get("/").status, 200);
    }
    tree.stop();
}

#[track_caller]
fn second_inode(addr: SocketAddr) -> u64 {
    listener_inode(addr).expect("a listener")
}

/// One listener that cannot be had, and none of the others is touched.
#[test]
fn a_port_that_is_taken_changes_nothing() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let first = tree.addr();
    let inode = listener_inode(first);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (other, wanted) = (free_port(), taken.local_addr().unwrap());
    let conf = fs::read(tree.path("conf")).unwrap();
    // one that could be had, the one that cannot, and without the one that is there
    tree.set("httplisten", Some(&other.to_string()));
    tree.also("httplisten", &wanted.to_string());
    fail(&tree, &[&wanted.to_string()]);
    assert_eq!(listener_inode(first), inode);
    assert_eq!(listener_inode(other), None, "it was given up again");
    drop(taken);
    succeed(&tree, 2);
    Conn::connect(wanted)
        .put("/dev1/file", b"x")
        .expect(201, true);
    Conn::connect(other)
        .put("/dev1/file", b"x")
        .expect(201, true);
    assert!(is_refused(first));
    // back again: nobody has taken it meanwhile, but its number must be said
    let text = String::from_utf8(conf).unwrap();
    fs::write(
        tree.path("conf"),
        text.replace("127.0.0.1:0", &first.to_string()),
    )
    .unwrap();
    succeed(&tree, 2);
    Conn::connect(first)
        .put("/dev1/file", b"x")
        .expect(201, true);
}

/// H12: every kind of error, one after the other, on one server under load.
#[test]
fn whatever_is_wrong_the_old_configuration_serves_on() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let traffic = tree.clients(&[(Habit::Busy, 1), (Habit::OneShot, 1)]);
    let conf = fs::read_to_string(tree.path("conf")).unwrap();
    let root = tree.root().display().to_string();
    let missing = tree.path("missing").display().to_string();
    let file = tree.path("file").display().to_string();
    fs::write(&file, "x").unwrap();
    let without = |key: &str| -> String {
        let lines = conf.lines().filter(|line| !line.starts_with(key));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let megabyte = "x".repeat(1 << 20);
    let cases: Vec<(String, Vec<&str>)> = vec![
        (format!("{conf}nonsense = 1\n"), vec!["nonsense"]),
        (format!("{conf}maxcons = 1\n"), vec!["maxcons"]),
        (format!("{conf}maxconns = many\n"), vec!["maxconns"]),
        (format!("{conf}maxconns = 0\n"), vec!["maxconns"]),
        (format!("{conf}idle-timeout = -1\n"), vec!["idle-timeout"]),
        (format!("{conf}what is this\n"), vec![]),
        (format!("{conf}maxconns =\n"), vec!["maxconns"]),
        (format!("{conf}config = {file}\n"), vec!["config"]),
        (format!("{conf}stop\n"), vec!["stop"]),
        (
            format!("{}worker-processes = 1000\n", without("worker-processes")),
            vec!["worker-processes"],
        ),
        (
            format!("{}docroot = {missing}\n", without("docroot")),
            vec!["docroot", &missing],
        ),
        (
            format!("{}docroot = {file}\n", without("docroot")),
            vec!["docroot", &file],
        ),
        (
            format!("{}docroot = relative\n", without("docroot")),
            vec!["docroot"],
        ),
        (format!("{conf}httplisten = nowhere\n"), vec!["httplisten"]),
        (
            format!("{conf}httplisten = 192.0.2.1:80\n"),
            vec!["192.0.2.1:80"],
        ),
        (
            format!("{conf}httplisten = unix:{missing}/socket\n"),
            vec![&missing],
        ),
        (
            format!("{conf}httplisten = 127.0.0.1:9\nhttplisten = 127.0.0.1:9\n"),
            vec!["127.0.0.1:9"],
        ),
        (megabyte, vec![]),
        ("\0\0\0".to_owned(), vec![]),
    ];
    for (text, named) in &cases {
        fs::write(tree.path("conf"), text).unwrap();
        let said = fail(&tree, named);
        assert!(said.len() < 600, "{said}");
    }
    // the file itself
    fs::remove_file(tree.path("conf")).unwrap();
    fail(&tree, &["conf"]);
    fs::create_dir(tree.path("conf")).unwrap();
    fail(&tree, &["conf"]);
    fs::remove_dir(tree.path("conf")).unwrap();
    tree.restore_conf();
    assert!(reload(&tree).contains(UNCHANGED));
    tree.set("idle-timeout", Some("299"));
    succeed(&tree, 2);
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    eprintln!(
        "{} errors beside {} requests, docroot {root}",
        cases.len() + 2,
        tally.served
    );
    tree.stop();
}

/// What only an upgrade can change is said, and not half done.
#[test]
fn what_a_reload_cannot_change_is_named() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let (old, other) = (tree.pidfile(), tree.path("other"));
    for (key, value) in [
        ("pidfile", other.display().to_string()),
        ("daemonize", "1".to_owned()),
    ] {
        let skip = tree.mark();
        tree.set(key, Some(&value));
        reload(&tree);
        let log = &tree.log()[skip..];
        let named = |line: &String| line.contains("reload") && line.contains(key);
        assert!(log.iter().any(named), "{key} is not named: {log:#?}");
        assert!(tree.claim().is_of(tree.first()));
        assert!(!other.exists());
        tree.set(key, (key == "pidfile").then_some(old.to_str().unwrap()));
    }
    tree.settle(&[(tree.first(), 2)]);
    tree.stop();
}

/// A configuration that reads well and does not start: its first worker is its last.
#[test]
fn a_generation_that_does_not_start_is_taken_back() {
    let builder = Tree::builder().set("spawn-timeout", "1").faulty();
    let Some(tree) = start(builder) else { return };
    let traffic = tree.clients(&[(Habit::Busy, 2), (Habit::OneShot, 1)]);
    let mut idle = 200;
    for (step, mishap) in [
        (Step::Thread, Mishap::Abort),
        (Step::Docroot, Mishap::Exit),
        (Step::Birth, Mishap::Abort),
        (Step::Thread, Mishap::Hang),
    ] {
        idle += 1;
        tree.fault().set(Who::Worker, step, mishap, 0);
        tree.set("idle-timeout", Some(&idle.to_string()));
        fail(&tree, &[]);
        assert!(tree.fault().struck() > 0, "{step:?}");
        tree.fault().clear();
        // the next one is not the old one: what was taken back is tried again
        succeed(&tree, 2);
        traffic.flow(20);
    }
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}

/// HUP upon HUP, with another file each time: the last one counts, and nobody serves an older one.
#[test]
fn the_last_of_many_reloads_counts() {
    let _alone = alone();
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let master = tree.first();
    let traffic = tree.clients(&[(Habit::Busy, 2), (Habit::OneShot, 2)]);
    for round in 0..40 {
        tree.set("worker-processes", Some(&format!("{}", 1 + round % 3)));
        tree.signal(master, libc::SIGHUP);
    }
    tree.set("worker-processes", Some("3"));
    tree.set("idle-timeout", Some("0.4"));
    tree.signal(master, libc::SIGHUP);
    eventually("three workers of the last file", PATIENCE, || {
        let status = tree.status();
        let all = status["workers"].as_array().expect("a list").clone();
        all.len() == 3
            && all
                .iter()
                .all(|worker| worker["generation"] == status["generation"])
    });
    tree.settle(&[(master, 3)]);
    for _ in 0..12 {
        let mut conn = tree.conn();
        conn.put("/dev1/file", b"x").expect(201, true);
        conn.expect_eof();
    }
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}

/// When the verb has returned, it is done.
#[test]
fn the_verb_says_how_it_ended() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    let before = workers(&tree);
    tree.verb(&["--reload"]).expect(0, &[]);
    assert_eq!(workers(&tree), before);
    tree.set("idle-timeout", Some("299"));
    tree.verb(&["--reload"]).expect(0, &[]);
    let status = tree.status();
    assert_eq!(status["generation"], 2, "{status:#}");
    assert_eq!(status["reload"]["ok"], true, "{status:#}");
    let serving = status["workers"].as_array().expect("a list").iter();
    let serving = serving.filter(|worker| worker["state"] == "ready");
    assert_eq!(
        serving.filter(|worker| worker["generation"] == 2).count(),
        2,
        "{status:#}"
    );
    tree.set("nonsense", Some("1"));
    tree.verb(&["--reload"]).expect(1, &["nonsense"]);
    let status = tree.status();
    assert_eq!(status["reload"]["ok"], false, "{status:#}");
    assert!(
        status["reload"]["text"]
            .as_str()
            .expect("text")
            .contains("nonsense")
    );
    tree.settle(&[(tree.first(), 2)]);
    tree.set("nonsense", None);
    tree.stop();
}

/// Asked for while another one is under way, it returns when the file as it is now serves.
#[test]
fn the_verb_waits_for_its_own_file() {
    let Some(tree) = start(Tree::builder()) else {
        return;
    };
    for round in 0..5 {
        tree.set("idle-timeout", Some(&format!("{}", 100 + round)));
        let skip = tree.mark();
        tree.signal(tree.first(), libc::SIGHUP);
        // it has read that file, and is at it
        tree.wait_log(skip, "reload", PATIENCE);
        tree.set("idle-timeout", Some(&format!("{}", 200 + round)));
        tree.verb(&["--reload"]).expect(0, &[]);
        let status = tree.status();
        let generation = 3 + 2 * round;
        let all = status["workers"].as_array().expect("a list").iter();
        let serving = all.filter(|worker| worker["state"] == "ready");
        let new = serving.filter(|worker| worker["generation"] == generation);
        assert_eq!(new.count(), 2, "generation {generation}: {status:#}");
        tree.settle(&[(tree.first(), 2)]);
    }
    tree.stop();
}
