//! What operators say while an upgrade is under way: `--upgrade`, `--reload`, `--stop` and `--status`, at the same time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::facts;
use crate::harness::tree::{End, Program, Tree};
use crate::harness::{PATIENCE, SetOnDrop, eventually};

fn start(probation: &str) -> Option<Tree> {
    Tree::builder()
        .set("probation", probation)
        .start(&Program::Ours)
}

/// One of them upgrades, the other one is told why not; there is one successor.
#[test]
fn two_upgrades_at_once() {
    let Some(tree) = start("0.3") else { return };
    for _ in 0..3 {
        tree.await_calm();
        let (skip, old) = (tree.mark(), tree.master());
        let mut ended = std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| tree.verb(&["--upgrade"])));
            both.map(|one| one.join().expect("a verb"))
        });
        ended.sort_by_key(|ended| ended.code);
        let [good, bad] = ended;
        assert_eq!(good.code, Some(0), "{} and {}", good.err, bad.err);
        assert_eq!(bad.code, Some(1), "{} and {}", good.err, bad.err);
        let new = tree.await_successor(skip);
        assert!(good.out.contains(&new.to_string()), "{}", good.out);
        assert!(
            bad.err
                .contains(&format!("pid {new} is its successor already"))
                || bad
                    .err
                    .contains(&format!("its own predecessor, pid {old}, lives")),
            "{}",
            bad.err
        );
        assert_eq!(tree.await_end(old), End::Exited(0));
        tree.settle(&[(new, 2)]);
        let started = tree.log()[skip..]
            .iter()
            .filter(|line| line.contains("was started"))
            .count();
        assert_eq!(started, 1);
    }
    tree.stop();
}

/// USR2 by another operator, who wants it by hand: the first one's way is kept.
#[test]
fn a_signal_beside_the_verb() {
    let Some(tree) = start("0.7") else { return };
    let (skip, old) = (tree.mark(), tree.master());
    let ended = std::thread::scope(|scope| {
        let verb = scope.spawn(|| tree.verb(&["--upgrade"]));
        let new = tree.await_successor(skip);
        tree.signal(old, libc::SIGUSR2);
        tree.wait_log(
            skip,
            &format!("pid {new} is its successor already"),
            PATIENCE,
        );
        verb.join().expect("a verb")
    });
    ended.expect(0, &[]);
    let new = tree.master();
    assert_eq!(tree.await_end(old), End::Exited(0));
    tree.settle(&[(new, 2)]);
    tree.stop();
}

/// It is refused, at once, and the upgrade goes on. What the file says is the new one's.
#[test]
fn a_reload_during_an_upgrade() {
    let Some(tree) = start("1") else { return };
    let (skip, old) = (tree.mark(), tree.master());
    let workers = tree.workers(old);
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| tree.verb(&["--upgrade"]));
        let new = tree.await_successor(skip);
        tree.set("idle-timeout", Some("299"));
        tree.verb(&["--reload"])
            .expect(1, &["an upgrade is under way"]);
        tree.settle_beside(new, 2);
        tree.verb(&["--reload"])
            .expect(1, &["an upgrade is under way"]);
        assert_eq!(tree.workers(old), workers);
        upgrade.join().expect("a verb").expect(0, &[]);
        assert_eq!(tree.await_end(old), End::Exited(0));
        tree.settle(&[(new, 2)]);
        // whatever it has read at its start
        tree.verb(&["--reload"]).expect(0, &[]);
        tree.settle(&[(new, 2)]);
    });
    tree.stop();
}

/// And the other way round: the upgrade is refused, and the reload goes on.
#[test]
fn an_upgrade_during_a_reload() {
    let Some(tree) = start("0.2") else { return };
    let old = tree.master();
    let workers = tree.workers(old);
    // one that has a client leaves when that has gone; the reload waits for it
    let mut upload = tree.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
    upload.settle();
    tree.set("idle-timeout", Some("299"));
    std::thread::scope(|scope| {
        let skip = tree.mark();
        let reload = scope.spawn(|| tree.verb(&["--reload"]));
        tree.wait_log(skip, "reload: generation 2 begins", PATIENCE);
        if !tree.has_said(skip, "reload: generation 2 serves") {
            let ended = tree.verb(&["--upgrade"]);
            let is_over = tree.has_said(skip, "reload: generation 2 serves");
            assert!(
                is_over || ended.code == Some(1) && ended.err.contains("a reload is under way"),
                "{}",
                ended.err
            );
        }
        upload.send("y");
        upload.response();
        reload.join().expect("a verb").expect(0, &[]);
    });
    drop(upload);
    tree.await_calm();
    let master = tree.master();
    tree.settle(&[(master, 2)]);
    assert!(
        tree.workers(master)
            .iter()
            .all(|pid| !workers.contains(pid))
    );
    tree.stop();
}

/// Whoever stops the service during an upgrade is told the truth: it has ended, or who serves on. And so is who
/// upgrades.
#[test]
fn a_stop_during_an_upgrade() {
    for moment in ["was started", "listening on", "ready with 2 workers"] {
        let Some(tree) = start("0.7") else { return };
        let (skip, old) = (tree.mark(), tree.master());
        let (upgraded, stopped, new) = std::thread::scope(|scope| {
            let upgrade = scope.spawn(|| tree.verb(&["--upgrade"]));
            let new = tree.await_successor(skip);
            tree.wait_log(skip, moment, PATIENCE);
            let stopped = tree.verb(&["--stop"]);
            (upgrade.join().expect("a verb"), stopped, new)
        });
        eprintln!(
            "stop at {moment:?}: {:?} {:?}; upgrade: {:?} {:?} {:?}",
            stopped.code,
            stopped.err.lines().last(),
            upgraded.code,
            upgraded.out,
            upgraded.err.lines().last()
        );
        tree.await_gone(old);
        match stopped.code {
            Some(0) => {
                eventually("nobody", PATIENCE, || {
                    facts::descendants(tree.keeper()).is_empty()
                });
                assert_ne!(upgraded.code, Some(0), "{}", upgraded.out);
                assert!(tree.claim().is_over(), "{:?}", tree.claim());
            }
            Some(1) => {
                assert!(stopped.err.contains(&new.to_string()), "{}", stopped.err);
                assert!(stopped.err.contains("serves on"), "{}", stopped.err);
                tree.settle(&[(new, 2)]);
                tree.conn().put("/dev1/file", b"x").expect(201, true);
                // the old one could not wait for it
                let is_told = upgraded.err.contains(&format!(
                    "was stopped meanwhile; pid {new} goes on by itself"
                ));
                assert!(upgraded.code == Some(0) || is_told, "{}", upgraded.err);
                tree.stop();
            }
            other => panic!("{other:?}: {}", stopped.err),
        }
    }
}

/// Somebody asks again and again: he always gets an answer, of one that serves or is about to.
#[test]
fn status_is_answered_across_ten_upgrades() {
    let _alone = super::alone();
    let Some(tree) = start("0.05") else { return };
    let (enough, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&enough);
        let askers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut bad = Vec::new();
                    while !enough.load(Ordering::Relaxed) {
                        let ended = tree.verb(&["--status", "--json"]);
                        let status = serde_json::from_str::<serde_json::Value>(&ended.out);
                        match status {
                            Ok(status) if ended.code == Some(0) => {
                                assert!(status["pid"].is_u64(), "{status:#}");
                                answers.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => bad.push((ended.code, ended.out, ended.err)),
                        }
                    }
                    bad
                })
            })
            .collect();
        for _ in 0..10 {
            let before = answers.load(Ordering::Relaxed);
            eventually("answers", PATIENCE, || {
                answers.load(Ordering::Relaxed) >= before + 5
            });
            tree.await_calm();
            let old = tree.master();
            let ended = tree.verb(&["--upgrade"]).expect(0, &[]);
            let new = tree.master();
            assert_ne!(new, old, "{}", ended.err);
            assert_eq!(tree.await_end(old), End::Exited(0));
            tree.settle(&[(new, 2)]);
        }
        enough.store(true, Ordering::Relaxed);
        for asker in askers {
            let bad = asker.join().expect("an asker");
            assert!(bad.is_empty(), "{bad:#?}");
        }
    });
    eprintln!(
        "{} answers across ten upgrades",
        answers.load(Ordering::Relaxed)
    );
    tree.stop();
}
