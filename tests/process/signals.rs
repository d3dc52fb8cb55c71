//! What each signal means to a master and to a worker (PROCESSES.md, G). HUP and USR2 have files of their own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::traffic::Habit;
use super::{alone, facts};
use crate::harness::tree::{Builder, End, Program, Tree};
use crate::harness::{Conn, PATIENCE, eventually, pattern};

fn builder() -> Builder {
    Tree::builder()
}

fn start(builder: Builder) -> Option<Tree> {
    builder.start(&Program::Ours)
}

/// Waits until this master has so many workers, and gives their pids.
#[track_caller]
fn settled(tree: &Tree, workers: usize) -> BTreeSet<i32> {
    let master = tree.first();
    tree.settle(&[(master, workers)]);
    tree.workers(master).into_iter().collect()
}

/// A client and half of its upload; what is to come is one byte.
fn half_an_upload(tree: &Tree) -> Conn {
    let mut upload = tree.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
    upload.settle();
    upload
}

#[test]
fn ttin_and_ttou_add_and_retire_one_worker() {
    let Some(tree) = start(builder()) else { return };
    let traffic = tree.clients(&[(Habit::Busy, 2), (Habit::OneShot, 1)]);
    let master = tree.first();
    let mut before = settled(&tree, 2);
    for (signal, wanted) in [
        (libc::SIGTTIN, 3),
        (libc::SIGTTIN, 4),
        (libc::SIGTTOU, 3),
        (libc::SIGTTOU, 2),
        (libc::SIGTTOU, 1),
        (libc::SIGTTIN, 2),
    ] {
        tree.signal(master, signal);
        let now = settled(&tree, wanted);
        let kept = before.intersection(&now).count();
        assert_eq!(kept, wanted.min(before.len()), "the others were left alone");
        traffic.flow(20);
        before = now;
    }
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    // neither a death nor a retirement is taken for the other
    let errors = tree
        .log()
        .iter()
        .filter(|line| line.contains(" error: "))
        .count();
    assert_eq!(errors, 0, "{:#?}", tree.log());
    tree.stop();
}

#[test]
fn winch_retires_all_workers_and_who_comes_then_is_served_when_they_are_back() {
    for back in [libc::SIGHUP, libc::SIGTTIN] {
        let Some(tree) = start(builder()) else { return };
        tree.write("dev1/file", "content");
        let mut upload = half_an_upload(&tree);
        let master = tree.first();
        let before: BTreeSet<i32> = tree.workers(master).into_iter().collect();
        tree.signal(master, libc::SIGWINCH);
        eventually("the workers to drain", PATIENCE, || {
            tree.workers(master).into_iter().all(facts::is_draining)
        });
        // who has begun is served to the end
        upload.send("y");
        upload.response().expect(201, false);
        drop(upload);
        tree.settle(&[(master, 0)]);
        // the door is open, and the listen queue keeps who comes
        let mut waiting: Vec<Conn> = (0..5).map(|_| tree.conn()).collect();
        for conn in &mut waiting {
            conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        }
        assert!(tree.claim().is_of(master));
        tree.signal(master, back);
        for conn in &mut waiting {
            assert_eq!(conn.response().expect(200, true).body, b"content");
        }
        if back == libc::SIGHUP {
            tree.settle(&[(master, 2)]);
        }
        assert!(tree.workers(master).iter().all(|pid| !before.contains(pid)));
        tree.stop();
    }
}

/// A worker that is told to go, goes as gently as it is told to, and is replaced; what is its master's to hear, it
/// does not hear.
#[test]
fn workers_leave_when_they_are_told_to_and_hear_nothing_else() {
    let Some(tree) = start(builder()) else { return };
    let master = tree.first();
    let mut workers = settled(&tree, 2);
    for deaf in [
        libc::SIGHUP,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGPIPE,
        libc::SIGCHLD,
        libc::SIGURG,
    ] {
        for worker in &workers {
            tree.signal(*worker, deaf);
        }
    }
    for nr in 0..20 {
        tree.conn()
            .put(&format!("/dev1/{nr}"), b"x")
            .expect(201, true);
    }
    assert_eq!(settled(&tree, 2), workers);
    for gentle in [libc::SIGQUIT, libc::SIGTERM, libc::SIGWINCH] {
        let mut upload = half_an_upload(&tree);
        let worker = facts::owner(tree.keeper(), &upload).expect("it was accepted");
        tree.signal(worker, gentle);
        eventually("the worker to drain", PATIENCE, || {
            facts::is_draining(worker)
        });
        tree.conn().put("/dev1/meanwhile", b"x").expect(201, true);
        upload.send("y");
        upload.response().expect(201, false);
        drop(upload);
        tree.await_gone(worker);
        let now = settled(&tree, 2);
        assert!(!now.contains(&worker), "{gentle}");
        workers = now;
    }
    let mut upload = half_an_upload(&tree);
    let worker = facts::owner(tree.keeper(), &upload).expect("it was accepted");
    assert!(workers.contains(&worker));
    tree.signal(worker, libc::SIGINT);
    upload.expect_closed();
    tree.await_gone(worker);
    settled(&tree, 2);
    assert!(tree.is_alive(master));
    tree.stop();
}

#[test]
fn term_means_what_the_option_says() {
    for (term, waits) in [("graceful", true), ("fast", false)] {
        let Some(tree) = start(builder().set("term", term)) else {
            return;
        };
        let master = tree.first();
        let workers = tree.workers(master);
        let mut upload = half_an_upload(&tree);
        let at = Instant::now();
        tree.signal(master, libc::SIGTERM);
        if waits {
            eventually("the workers to drain", PATIENCE, || {
                workers.iter().all(|pid| facts::is_draining(*pid))
            });
            upload.send("y");
            upload.response().expect(201, false);
        } else {
            upload.expect_closed();
        }
        drop(upload);
        assert_eq!(tree.await_end(master), End::Exited(0), "{term}");
        assert!(
            waits || at.elapsed() < Duration::from_secs(3),
            "{:?}",
            at.elapsed()
        );
        assert!(workers.iter().all(|pid| !tree.is_alive(*pid)));
    }
}

/// All of them at once: they are pending bits, of which those that stop come first.
#[test]
fn who_is_told_to_stop_begins_nothing_else() {
    let Some(tree) = start(builder()) else { return };
    let master = tree.first();
    tree.set("idle-timeout", Some("299"));
    let skip = tree.mark();
    tree.signal(master, libc::SIGSTOP);
    eventually("the master to stop", PATIENCE, || facts::is_stopped(master));
    for signal in [
        libc::SIGHUP,
        libc::SIGUSR2,
        libc::SIGTTIN,
        libc::SIGWINCH,
        libc::SIGUSR1,
        libc::SIGQUIT,
    ] {
        tree.signal(master, signal);
    }
    tree.signal(master, libc::SIGCONT);
    assert_eq!(tree.await_end(master), End::Exited(0));
    let log = &tree.log()[skip..];
    for begun in ["generation 2", "was started", "is ready, pid"] {
        assert!(
            !log.iter().any(|line| line.contains(begun)),
            "{begun}: {log:#?}"
        );
    }
    assert!(tree.claim().is_over());
}

/// Hundreds of each, as fast as a shell can: none of them is more than it means, and the last word counts.
#[test]
fn a_flood_of_signals_leaves_a_service_that_serves() {
    let _alone = alone();
    let Some(tree) = start(builder()) else { return };
    let master = tree.first();
    let traffic = tree.clients(&[
        (Habit::Busy, 2),
        (Habit::Dawdling(Duration::from_millis(50)), 2),
        (Habit::OneShot, 2),
    ]);
    traffic.flow(50);
    for round in 0..300 {
        let signal = [
            libc::SIGHUP,
            libc::SIGUSR1,
            libc::SIGPIPE,
            libc::SIGCHLD,
            libc::SIGURG,
        ];
        tree.signal(master, signal[round % 5]);
    }
    tree.settle(&[(master, 2)]);
    for _ in 0..200 {
        tree.signal(master, libc::SIGTTIN);
        tree.signal(master, libc::SIGTTOU);
    }
    traffic.flow(50);
    // which of them were one is not known; how many workers there are now must be
    let mut wanted = 0;
    eventually("a number of workers that stays", PATIENCE, || {
        let all = tree.workers(master);
        let serving = all.iter().filter(|pid| !facts::is_draining(**pid)).count();
        let stays = serving == all.len() && serving == wanted;
        wanted = all.len();
        stays && wanted > 0 && tree.status()["wanted_workers"] == wanted
    });
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}

/// PROCESSES.md, B13 and H15: the whole tree sleeps for longer than any of its patience, and its master wakes up first.
#[test]
fn a_tree_that_was_suspended_murders_nobody() {
    let Some(tree) = start(builder().set("spawn-timeout", "2").set("hard-timeout", "2")) else {
        return;
    };
    let master = tree.first();
    let workers = settled(&tree, 2);
    let skip = tree.mark();
    let all: Vec<i32> = workers.iter().copied().chain([master]).collect();
    for pid in &all {
        tree.signal(*pid, libc::SIGSTOP);
    }
    let asleep = Instant::now();
    eventually("a night to pass", Duration::from_secs(30), || {
        asleep.elapsed() > Duration::from_secs(12)
    });
    tree.signal(master, libc::SIGCONT);
    let awake = Instant::now();
    eventually("the master to look around", PATIENCE, || {
        awake.elapsed() > Duration::from_secs(2)
    });
    for worker in &workers {
        tree.signal(*worker, libc::SIGCONT);
    }
    tree.conn().put("/dev1/file", b"x").expect(201, true);
    eventually("some rounds of the master", PATIENCE, || {
        awake.elapsed() > Duration::from_secs(4)
    });
    assert_eq!(settled(&tree, 2), workers);
    assert!(!tree.has_said(skip, "SIGKILL"), "{:#?}", tree.log());
    tree.stop();
}

/// H9: who is stopped serves nobody, and takes nobody's place.
#[test]
fn while_a_worker_is_stopped_the_others_take_its_share() {
    let _alone = alone();
    let Some(tree) = start(builder().workers(3)) else {
        return;
    };
    let workers: Vec<i32> = settled(&tree, 3).into_iter().collect();
    let bytes = pattern(2000);
    tree.write("dev1/file", &bytes);
    // whoever has its connection waits as long as it sleeps; others do not. Not
    // the elected one: it would be killed for that
    let elected = tree.wait_log(0, " is elected: ", PATIENCE);
    let spared = |pid: &i32| !elected.contains(&format!("[{pid}]"));
    let asleep = workers.iter().position(spared).expect("two are not");
    tree.signal(workers[asleep], libc::SIGSTOP);
    eventually("the worker to stop", PATIENCE, || {
        facts::is_stopped(workers[asleep])
    });
    let mut served = [0; 3];
    let mut waiting = Vec::new();
    for _ in 0..60 {
        let mut conn = tree.conn();
        conn.send("GET /dev1/file HTTP/1.1\r\nHost: t\r\n\r\n");
        match conn.try_response() {
            Ok(response) => {
                assert_eq!(response.body, bytes);
                let owner = facts::owner(tree.keeper(), &conn);
                let nr = workers.iter().position(|pid| Some(*pid) == owner);
                served[nr.expect("a worker of the first three")] += 1;
            }
            Err(_) => waiting.push(conn),
        }
    }
    eprintln!(
        "served beside a stopped worker: {served:?}, {} waited",
        waiting.len()
    );
    // a thread of it that was inside of accept4 when it was stopped has one more
    assert!(
        waiting.len() <= 2 && served[asleep] == 0,
        "{asleep} asleep: {served:?}, {} waited",
        waiting.len()
    );
    served[asleep] = 60;
    assert!(served.iter().all(|n| *n >= 15), "{served:?}");
    tree.signal(workers[asleep], libc::SIGCONT);
    assert_eq!(settled(&tree, 3).into_iter().collect::<Vec<_>>(), workers);
    tree.stop();
}

/// What status says is what is there.
#[test]
fn status_is_what_one_sees_from_outside() {
    let Some(tree) = start(builder().workers(3)) else {
        return;
    };
    let master = tree.first();
    let mut conn = tree.conn();
    conn.put("/dev1/file", b"x").expect(201, true);
    tree.signal(master, libc::SIGTTOU);
    let workers = settled(&tree, 2);
    let status = tree.status();
    assert_eq!(status["pid"], master, "{status:#}");
    assert_eq!(status["state"], "serving", "{status:#}");
    assert_eq!(status["wanted_workers"], 2, "{status:#}");
    assert_eq!(status["generation"], 1, "{status:#}");
    assert_eq!(status["upgrade"]["state"], "none", "{status:#}");
    assert!(status["predecessor"].is_null(), "{status:#}");
    let told: BTreeSet<i32> = status["workers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|worker| worker["pid"].as_i64().expect("a pid") as i32)
        .collect();
    assert_eq!(told, workers, "{status:#}");
    let listeners = status["listeners"].as_array().expect("a list");
    assert_eq!(listeners.len(), 1);
    assert_eq!(listeners[0], format!("http {}", tree.addr()), "{status:#}");
    tree.signal(master, libc::SIGWINCH);
    drop(conn);
    tree.settle(&[(master, 0)]);
    assert_eq!(tree.status()["state"], "retired");
    let human = tree.verb(&["--status"]).expect(0, &[]);
    assert!(human.out.contains(&master.to_string()), "{}", human.out);
    tree.signal(master, libc::SIGHUP);
    tree.settle(&[(master, 2)]);
    let pidfile = tree.pidfile().display().to_string();
    let ended = tree.verb(&["--stop"]).expect(0, &[]);
    // it has returned, so it is over
    assert!(!tree.is_alive(master), "{}", ended.err);
    eventually("the keeper to have reaped it", PATIENCE, || {
        facts::descendants(tree.keeper()).is_empty()
    });
    assert!(tree.claim().is_over());
    assert_eq!(
        tree.verb(&["--status", "--json"]).code,
        Some(3),
        "{pidfile}"
    );
}

#[test]
fn a_worker_less_brings_nobody_back_who_was_sent_home() {
    let Some(tree) = start(builder().workers(3)) else {
        return;
    };
    let master = tree.first();
    settled(&tree, 3);
    tree.signal(master, libc::SIGWINCH);
    settled(&tree, 0);
    let skip = tree.mark();
    tree.signal(master, libc::SIGTTOU);
    tree.wait_log(skip, "2 workers instead of 3", PATIENCE);
    settled(&tree, 0);
    tree.signal(master, libc::SIGTTIN);
    settled(&tree, 2);
    tree.stop();
}
