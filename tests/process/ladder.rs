//! Workers that do not get on, at each step of their start, and what their master does about it (PROCESSES.md B4-B7,
//! B12, D16, H14). `harness/fault.c` is what goes wrong.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use super::{alone, facts};
use crate::harness::fault::{Mishap, Step, Who};
use crate::harness::tree::{Builder, End, Program, Tree};
use crate::harness::{PATIENCE, eventually};

/// Three workers, a second for each to start.
fn builder() -> Builder {
    Tree::builder()
        .workers(3)
        .set("spawn-timeout", "1")
        .faulty()
}

fn start(builder: Builder) -> Option<Tree> {
    builder.start(&Program::Ours)
}

/// A worker that has lived for so long has not died young: its successor starts at once.
fn grow_up(tree: &Tree) {
    let since = Instant::now();
    tree.settle(&[(tree.first(), 3)]);
    eventually("the workers to grow up", PATIENCE, || {
        since.elapsed() > Duration::from_millis(1100)
    });
}

/// Kills one worker while its successors fail; the others, who must not notice.
#[track_caller]
fn kill_one(tree: &Tree) -> BTreeSet<i32> {
    let mut others: BTreeSet<i32> = tree.workers(tree.first()).into_iter().collect();
    let victim = others.pop_last().expect("a worker");
    tree.signal(victim, libc::SIGKILL);
    // as long as it dies it looks as if it served
    tree.await_gone(victim);
    others
}

#[track_caller]
fn serves(tree: &Tree) {
    for _ in 0..10 {
        tree.conn().put("/dev1/file", b"x").expect(201, true);
    }
}

/// Who hangs on its way is killed, the log says where it was, and the others serve.
#[test]
fn one_that_hangs_is_killed_and_its_phase_is_named() {
    let _alone = alone();
    let Some(tree) = start(builder()) else { return };
    let master = tree.first();
    // as the scoreboard names the steps; who is born and does nothing yet may be told either way
    for (step, phases) in [
        (Step::Birth, &["born"][..]),
        (Step::Docroot, &["docroot"]),
        (Step::Thread, &["thread"]),
    ] {
        grow_up(&tree);
        let skip = tree.mark();
        tree.fault().set(Who::Worker, step, Mishap::Hang, 1);
        let others = kill_one(&tree);
        eventually("one that hangs", PATIENCE, || tree.fault().struck() == 1);
        serves(&tree);
        let at = Instant::now();
        tree.settle(&[(master, 3)]);
        let took = at.elapsed();
        assert!(took < Duration::from_secs(6), "{step:?}: {took:?}");
        let now: BTreeSet<i32> = tree.workers(master).into_iter().collect();
        assert!(now.is_superset(&others), "{step:?}: others were touched");
        let log = &tree.log()[skip..];
        let names = |line: &String| {
            let line = line.to_lowercase();
            phases.iter().any(|phase| line.contains(phase))
        };
        assert!(log.iter().any(names), "{step:?}: no {phases:?} in {log:#?}");
        tree.fault().clear();
    }
    tree.stop();
}

/// Crashes, exits, refusals of the kernel: each is said once a try, ever more slowly, and all is well when the reason
/// has gone.
#[test]
fn one_that_crashes_is_tried_again_with_growing_delays() {
    let _alone = alone();
    let Some(tree) = start(builder()) else { return };
    let master = tree.first();
    for (step, mishap) in [
        (Step::Birth, Mishap::Abort),
        (Step::Docroot, Mishap::Exit),
        (Step::Thread, Mishap::Abort),
        (Step::Thread, Mishap::Fail),
    ] {
        grow_up(&tree);
        let skip = tree.mark();
        tree.fault().set(Who::Worker, step, mishap, 0);
        let others = kill_one(&tree);
        let since = Instant::now();
        eventually("a second of it", PATIENCE, || {
            since.elapsed() > Duration::from_secs(1)
        });
        let tries = tree.fault().struck();
        serves(&tree);
        assert!(
            (2..=12).contains(&tries),
            "{step:?} {mishap:?}: {tries} tries in a second"
        );
        let lines = tree.mark() - skip;
        assert!(
            lines <= 6 * tries as usize + 4,
            "{lines} lines for {tries} tries"
        );
        assert!(others.iter().all(|pid| tree.is_alive(*pid)));
        tree.fault().clear();
        tree.settle(&[(master, 3)]);
    }
    tree.stop();
}

/// D16: the kernel forks no more for a while. The master stays responsive.
#[test]
fn a_fork_that_fails_is_tried_again() {
    let Some(tree) = start(builder()) else { return };
    let master = tree.first();
    tree.fault().set(Who::Master, Step::Fork, Mishap::Fail, 0);
    kill_one(&tree);
    eventually("three tries", PATIENCE, || tree.fault().struck() >= 3);
    serves(&tree);
    tree.signal(master, libc::SIGTTOU);
    eventually("one to retire meanwhile", PATIENCE, || {
        tree.status()["wanted_workers"] == 2
    });
    tree.fault().clear();
    tree.settle(&[(master, 2)]);
    tree.stop();
}

/// Where an image of a process begins in memory: a copy has it from its master.
fn base(pid: i32) -> String {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let line = maps.lines().find(|line| line.ends_with("/rmogstored"));
    let (base, _) = line.expect("its program").split_once('-').expect("a range");
    base.to_owned()
}

/// B6: copies of the master fail, and a fresh image of the program does not.
#[test]
fn when_copies_fail_workers_are_images_of_their_own() {
    let _alone = alone();
    let randomized = fs::read_to_string("/proc/sys/kernel/randomize_va_space").expect("sysctl");
    if randomized.trim() == "0" {
        eprintln!("skipped: all images begin at the same address here");
        return;
    }
    let Some(tree) = start(builder().set("exec-workers", "auto")) else {
        return;
    };
    let master = tree.first();
    let others = {
        grow_up(&tree);
        let all = tree.workers(master);
        assert!(
            all.iter().all(|pid| base(*pid) == base(master)),
            "copies at first"
        );
        tree.fault().set(Who::Copy, Step::Thread, Mishap::Abort, 0);
        let skip = tree.mark();
        let others = kill_one(&tree);
        // copies come and go before it
        tree.wait_log(skip, " is ready, pid ", PATIENCE);
        others
    };
    tree.settle(&[(master, 3)]);
    let heir = tree
        .workers(master)
        .into_iter()
        .find(|pid| !others.contains(pid));
    assert_ne!(
        base(heir.expect("a third")),
        base(master),
        "an image of its own"
    );
    serves(&tree);
    tree.stop();
}

/// And always, if that is wished.
#[test]
fn workers_are_images_when_they_shall_be() {
    let Some(tree) = start(builder().set("exec-workers", "always")) else {
        return;
    };
    let master = tree.first();
    tree.settle(&[(master, 3)]);
    let all: BTreeSet<String> = tree.workers(master).into_iter().map(base).collect();
    assert!(!all.contains(&base(master)) && all.len() > 1, "{all:?}");
    // the file on the disk has changed meanwhile: that is for an upgrade, not for a worker
    assert!(tree.install(&Program::Shell("exit 1")));
    let others = kill_one(&tree);
    tree.settle(&[(master, 3)]);
    assert!(others.iter().all(|pid| tree.is_alive(*pid)));
    serves(&tree);
    tree.stop();
}

/// B7: only where it was asked for does a master give up.
#[test]
fn a_master_gives_up_when_it_shall() {
    let _alone = alone();
    let Some(tree) = start(
        builder()
            .set("spawn-errors", "3")
            .set("exec-workers", "never"),
    ) else {
        return;
    };
    grow_up(&tree);
    tree.fault()
        .set(Who::Worker, Step::Thread, Mishap::Abort, 0);
    kill_one(&tree);
    assert_eq!(tree.await_end(tree.first()), End::Exited(1));
    assert!(
        (3..=5).contains(&tree.fault().struck()),
        "{}",
        tree.fault().struck()
    );
    eventually("the end of all", PATIENCE, || {
        facts::descendants(tree.keeper()).is_empty()
    });
    assert!(tree.claim().is_over(), "{:?}", tree.claim());
}

/// Stops and upgrades are obeyed while somebody hangs at his start.
#[test]
fn a_master_whose_worker_hangs_at_its_start_still_obeys() {
    for (step, signal) in [
        (Step::Birth, libc::SIGQUIT),
        (Step::Thread, libc::SIGTERM),
        (Step::Birth, libc::SIGINT),
    ] {
        let Some(tree) = start(builder().set("spawn-timeout", "60")) else {
            return;
        };
        tree.fault().set(Who::Worker, step, Mishap::Hang, 1);
        kill_one(&tree);
        eventually("one that hangs", PATIENCE, || tree.fault().struck() == 1);
        serves(&tree);
        tree.signal(tree.first(), signal);
        if signal != libc::SIGINT {
            // who cannot hear it is not waited for longer than for a start; the second word ends it
            tree.wait_log(0, "stopping: ", PATIENCE);
            tree.signal(tree.first(), signal);
        }
        tree.await_end(tree.first());
        eventually("the end of all", PATIENCE, || {
            facts::descendants(tree.keeper()).is_empty()
        });
    }
}
