//! Upgrades that fail, each in its own way: the old one serves on as if nothing had been (PROCESSES.md D8, H4, H6).

use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::alone;
use super::traffic::Habit;
use crate::harness::fault::{Fault, Mishap, Step, Who};
use crate::harness::tree::{Builder, Claim, Program, Tree};
use crate::harness::{PATIENCE, eventually};

/// From the failure until all is as it was.
const RESTORED: Duration = Duration::from_secs(2);

/// What a successor has to make progress.
const TIMEOUT: Duration = Duration::from_millis(1000);

/// Short patience; USR2 commits by itself, or does not.
fn builder(upgrade: &str) -> Builder {
    Tree::builder()
        .set("upgrade", upgrade)
        .set("upgrade-timeout", &TIMEOUT.as_secs_f64().to_string())
        .set("spawn-timeout", "1")
        .set("probation", "1")
}

/// How an upgrade is to fail.
struct Failure<'a> {
    /// What is done before USR2.
    prepare: &'a dyn Fn(&Tree),
    /// What is done when the successor has been started.
    meanwhile: &'a dyn Fn(&Tree, i32),
    /// What is undone before the next, good one.
    repair: &'a dyn Fn(&Tree),
    /// How long it may take to see it.
    seen_within: Duration,
    /// What the reason names.
    named: &'a [&'a str],
}

fn nothing(_: &Tree) {}

impl Default for Failure<'_> {
    fn default() -> Self {
        Failure {
            prepare: &nothing,
            meanwhile: &|_, _| (),
            repair: &nothing,
            seen_within: Duration::ZERO,
            named: &[],
        }
    }
}

/// The upgrade fails, beside clients who do not notice; and the next one succeeds.
#[track_caller]
fn is_taken_back(builder: Builder, failure: &Failure) {
    let _alone = alone();
    let Some(tree) = builder.start(&Program::Ours) else {
        return;
    };
    let traffic = tree.clients(&[
        (Habit::Busy, 2),
        (Habit::Dawdling(Duration::from_millis(300)), 2),
        (Habit::OneShot, 2),
    ]);
    traffic.flow(40);
    let (skip, old) = (tree.mark(), tree.first());
    let workers = tree.workers(old);
    (failure.prepare)(&tree);
    let mut at = Instant::now();
    tree.signal(old, libc::SIGUSR2);
    if let Some(new) = started(&tree, skip) {
        (failure.meanwhile)(&tree, new);
        at = Instant::now();
    }
    let said = tree.wait_log(skip, "upgrade failed: ", failure.seen_within + RESTORED);
    tree.settle_beside(old, 2);
    eventually("the pidfile to name it", PATIENCE, || {
        tree.claim().is_of(old)
    });
    let took = at.elapsed();
    // those of a new one that was killed drain for a moment
    tree.settle(&[(old, 2)]);
    eprintln!("{took:?} from the start of the new one until all is as before: {said}");
    assert!(took <= failure.seen_within + RESTORED, "{took:?}");
    assert!(said.ends_with("; this server serves on"), "{said}");
    for name in failure.named {
        assert!(said.contains(name), "{name:?} is not in: {said}");
    }
    assert_eq!(tree.workers(old), workers, "nobody was retired for it");
    assert_eq!(tree.old_claim(), Claim::Free(String::new()));
    traffic.flow(40);
    (failure.repair)(&tree);
    assert!(tree.install(&Program::Ours));
    tree.await_calm();
    let skip = tree.mark();
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    if tree.conf("upgrade").as_deref() == Some("manual") {
        tree.wait_log(skip, "both serve", PATIENCE);
        traffic.flow(40);
        tree.signal(old, libc::SIGQUIT);
    } else {
        tree.wait_log(skip, "upgrade: committed", PATIENCE);
    }
    tree.await_gone(old);
    tree.settle(&[(new, 2)]);
    traffic.flow(40);
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}

/// The successor's pid, or the failure came first.
fn started(tree: &Tree, skip: usize) -> Option<i32> {
    let mut outcome = None;
    eventually("a successor, or that there is none", PATIENCE, || {
        let log = tree.log();
        let line = log[skip..].iter().find(|line| {
            line.contains("upgrade failed")
                || line.contains("upgrade: pid") && line.contains("was started")
        });
        outcome = line.cloned();
        outcome.is_some()
    });
    outcome?
        .contains("was started")
        .then(|| tree.await_successor(skip))
}

/// As if this had been installed.
#[track_caller]
fn program_fails(program: &Program, seen_within: Duration, named: &[&str]) {
    for upgrade in ["auto", "manual"] {
        let failure = Failure {
            prepare: &|tree| assert!(tree.install(program)),
            seen_within,
            named,
            ..Failure::default()
        };
        is_taken_back(builder(upgrade), &failure);
    }
}

#[test]
fn a_program_that_exits() {
    program_fails(&Program::Shell("exit 1"), Duration::ZERO, &["1"]);
}

#[test]
fn a_program_that_exits_as_if_all_were_well() {
    program_fails(&Program::Shell("exit 0"), Duration::ZERO, &["0"]);
}

#[test]
fn a_program_that_is_killed() {
    program_fails(
        &Program::Shell("kill -SEGV $$"),
        Duration::ZERO,
        &["SIGSEGV"],
    );
}

#[test]
fn no_program_at_all() {
    program_fails(&Program::Nothing, Duration::ZERO, &["rmogstored"]);
}

#[test]
fn a_file_that_nobody_may_execute() {
    program_fails(&Program::Locked, Duration::ZERO, &["rmogstored"]);
}

#[test]
fn a_file_that_is_no_program() {
    program_fails(&Program::Garbage, Duration::ZERO, &[]);
}

#[test]
fn a_program_that_hangs_before_it_binds() {
    program_fails(&Program::Shell("exec sleep 1000"), TIMEOUT, &[]);
}

/// Only SIGKILL ends it.
#[test]
fn a_program_that_hangs_and_ignores_signals() {
    let script = "trap '' TERM QUIT INT ABRT HUP; while :; do sleep 0.1; done";
    program_fails(&Program::Shell(script), TIMEOUT, &[]);
}

#[test]
fn a_program_that_is_stopped() {
    program_fails(
        &Program::Shell("kill -STOP $$; exec \"$OURS\" \"$@\""),
        TIMEOUT,
        &[],
    );
}

/// A successor in which something goes wrong, at this step of its start.
#[track_caller]
fn step_fails(who: Who, step: Step, mishap: Mishap, seen_within: Duration) {
    for upgrade in ["auto", "manual"] {
        let builder = builder(upgrade);
        let folder = builder.path("bin");
        let Some(fault) = Fault::new(&folder, &builder.path("root")) else {
            return;
        };
        fault.set(who, step, mishap, 0);
        let failure = Failure {
            prepare: &|tree| assert!(tree.install(&Program::Faulty(&fault))),
            seen_within,
            ..Failure::default()
        };
        is_taken_back(builder, &failure);
        assert!(fault.struck() > 0);
    }
}

#[test]
fn its_workers_hang_when_they_are_born() {
    step_fails(Who::Worker, Step::Birth, Mishap::Hang, TIMEOUT);
}

#[test]
fn its_workers_hang_at_the_docroot() {
    step_fails(Who::Worker, Step::Docroot, Mishap::Hang, TIMEOUT);
}

#[test]
fn its_workers_hang_while_their_threads_start() {
    step_fails(Who::Worker, Step::Thread, Mishap::Hang, TIMEOUT);
}

#[test]
fn its_workers_crash_at_birth() {
    step_fails(Who::Worker, Step::Birth, Mishap::Abort, TIMEOUT);
}

#[test]
fn its_workers_crash_while_their_threads_start() {
    step_fails(Who::Worker, Step::Thread, Mishap::Abort, TIMEOUT);
}

#[test]
fn its_workers_get_no_thread() {
    step_fails(Who::Worker, Step::Thread, Mishap::Fail, TIMEOUT);
}

#[test]
fn it_cannot_fork() {
    step_fails(Who::Master, Step::Fork, Mishap::Fail, TIMEOUT);
}

#[test]
fn it_hangs_before_its_first_line() {
    step_fails(Who::Master, Step::Start, Mishap::Hang, TIMEOUT);
}

#[test]
fn it_crashes_before_its_first_line() {
    step_fails(Who::Master, Step::Start, Mishap::Abort, Duration::ZERO);
}

#[test]
fn it_hangs_where_it_opens_the_docroot() {
    step_fails(Who::Master, Step::Docroot, Mishap::Hang, TIMEOUT);
}

#[test]
fn a_file_that_was_broken_meanwhile() {
    for upgrade in ["auto", "manual"] {
        let failure = Failure {
            prepare: &|tree| tree.set("nonsense", Some("1")),
            repair: &|tree| tree.set("nonsense", None),
            ..Failure::default()
        };
        is_taken_back(builder(upgrade), &failure);
    }
}

#[test]
fn a_docroot_that_is_not_there() {
    let failure = Failure {
        prepare: &|tree| tree.set("docroot", Some(tree.path("missing").to_str().unwrap())),
        repair: &|tree| tree.set("docroot", Some(tree.root().to_str().unwrap())),
        ..Failure::default()
    };
    is_taken_back(builder("auto"), &failure);
}

/// One more listener, which somebody else has: for as long as it is waited for (5 times 0.5 s).
#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let listener = move |tree: &Tree, with: bool| {
        tree.set("httplisten", Some("127.0.0.1:0"));
        if with {
            tree.also("httplisten", &addr);
        }
    };
    let failure = Failure {
        prepare: &|tree| listener(tree, true),
        repair: &|tree| listener(tree, false),
        seen_within: Duration::from_secs(3),
        ..Failure::default()
    };
    is_taken_back(builder("auto").set("upgrade-timeout", "8"), &failure);
}

/// H4: killed at each step: as soon as it was started, when it listens, while its workers start, while both serve.
#[test]
fn the_new_master_is_killed() {
    for moment in ["was started", "listening on", "is ready, pid"] {
        let failure = Failure {
            meanwhile: &|tree, new| {
                let skip = tree
                    .log()
                    .iter()
                    .rposition(|line| line.contains("was started"));
                tree.wait_log(skip.expect("it was"), moment, PATIENCE);
                tree.signal(new, libc::SIGKILL);
            },
            named: &["SIGKILL"],
            ..Failure::default()
        };
        is_taken_back(builder("auto"), &failure);
    }
}

/// H4: the new one's workers, in their probation, one after the other and all at once.
#[test]
fn new_workers_die_during_their_probation() {
    // without clients: those of a worker that is killed notice it
    let _alone = alone();
    let Some(tree) = builder("auto").start(&Program::Ours) else {
        return;
    };
    let (skip, old) = (tree.mark(), tree.first());
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    tree.settle_beside(new, 2);
    eventually("that to be enough", PATIENCE, || {
        for worker in tree.workers(new) {
            // again and again, so that it is no mishap; it may have ended meanwhile
            // SAFETY: no pointers; the pid is a worker's of this test
            unsafe { libc::kill(worker, libc::SIGKILL) };
        }
        tree.has_said(skip, "upgrade failed: ")
    });
    let at = Instant::now();
    tree.settle(&[(old, 2)]);
    assert!(at.elapsed() <= RESTORED, "{:?}", at.elapsed());
    tree.stop();
}

/// The old one had retired its workers for a new one that dies: they come back.
#[test]
fn who_had_retired_comes_back_when_the_new_one_dies() {
    let _alone = alone();
    let Some(tree) = builder("manual").start(&Program::Ours) else {
        return;
    };
    let (old, new) = tree.upgrade();
    tree.signal(old, libc::SIGWINCH);
    tree.settle(&[(new, 2), (old, 0)]);
    let mut waiting = tree.conn();
    waiting.put("/dev1/file", b"x").expect(201, true);
    let at = Instant::now();
    tree.signal(new, libc::SIGKILL);
    tree.settle_beside(old, 2);
    eprintln!(
        "{:?} from the death of the new one until the old one serves again",
        at.elapsed()
    );
    assert!(at.elapsed() <= RESTORED, "{:?}", at.elapsed());
    // those of the dead one drain for a moment
    tree.settle(&[(old, 2)]);
    tree.conn().put("/dev1/file", b"x").expect(201, true);
    tree.stop();
}

/// A successor that speaks the handshake, up to a point.
#[track_caller]
fn heir_fails(upgrade: &str, script: &str, seen_within: Duration, named: &[&str]) {
    let failure = Failure {
        prepare: &|tree| assert!(tree.install(&Program::Heir(script))),
        seen_within,
        named,
        ..Failure::default()
    };
    is_taken_back(builder(upgrade), &failure);
}

#[test]
fn one_that_says_why_it_fails() {
    for upgrade in ["auto", "manual"] {
        heir_fails(
            upgrade,
            "say failed the moon is full;exit 1",
            Duration::ZERO,
            &["the moon is full"],
        );
    }
}

#[test]
fn one_that_says_bound_and_no_more() {
    heir_fails("auto", "say bound;hang", TIMEOUT, &[]);
}

#[test]
fn one_whose_workers_never_are_all_ready() {
    heir_fails(
        "auto",
        "say bound;say ready 0/2;say ready 1/2;hang",
        TIMEOUT,
        &[],
    );
}

#[test]
fn one_whose_worker_has_died() {
    heir_fails(
        "auto",
        "say bound;say ready 1/2;say died worker 1 was killed by SIGBUS;hang",
        TIMEOUT,
        &[],
    );
}

#[test]
fn one_that_dies_in_its_probation() {
    heir_fails(
        "auto",
        "say bound;say ready 2/2;exit 3",
        Duration::ZERO,
        &[],
    );
}

/// It has heard that it shall take over, and does not say that it has.
#[test]
fn one_that_is_told_to_commit_and_does_not() {
    for last in ["hang", "exit 4", "say failed no pidfile;exit 1"] {
        let script = format!("say bound;say ready 2/2;hear;{last}");
        heir_fails("auto", &script, TIMEOUT + Duration::from_secs(1), &[]);
    }
}

/// It has written its pid already, and dies before it says so: the pidfile names a living one again.
#[test]
fn one_that_takes_the_pidfile_and_dies() {
    heir_fails(
        "auto",
        "say bound;say ready 2/2;hear;pid;exit 5",
        Duration::from_secs(1),
        &[],
    );
    heir_fails("auto", "pid;hang", TIMEOUT, &[]);
}

#[test]
fn one_that_closes_the_handshake_and_lives_on() {
    heir_fails("auto", "say bound;shut;hang", TIMEOUT, &[]);
    heir_fails("manual", "say bound;say ready 2/2;shut;hang", TIMEOUT, &[]);
}

/// A version of the handshake that nobody knows, and words that are none.
#[test]
fn one_that_speaks_another_language() {
    for words in [
        "guten Tag",
        "ready",
        "ready x/y",
        "ready 3/2",
        "ready 2/0",
        "commit",
        "bound bound",
    ] {
        heir_fails("auto", &format!("say {words};hang"), TIMEOUT, &[]);
    }
    let long = "x".repeat(200);
    heir_fails("auto", &format!("say {long};say {long};hang"), TIMEOUT, &[]);
}

/// The successor is of a later version, which the old one's handshake means nothing to. Either it says so and goes, or
/// both serve; nobody may be left without a server.
#[test]
fn another_version_of_the_handshake_harms_nobody() {
    let _alone = alone();
    let Some(tree) = builder("auto").start(&Program::Ours) else {
        return;
    };
    let traffic = tree.clients(&[(Habit::Busy, 2), (Habit::OneShot, 2)]);
    let script = "RMOGSTORED_UPGRADE=99:${RMOGSTORED_UPGRADE#*:}; export RMOGSTORED_UPGRADE; exec \"$OURS\" \"$@\"";
    assert!(tree.install(&Program::Shell(script)));
    let (skip, old) = (tree.mark(), tree.first());
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    eventually("an outcome", PATIENCE, || {
        tree.has_said(skip, "upgrade failed: ") || tree.has_said(skip, "both serve")
    });
    if tree.has_said(skip, "both serve") {
        tree.settle(&[(new, 2), (old, 2)]);
        tree.signal(new, libc::SIGQUIT);
    }
    tree.settle(&[(old, 2)]);
    traffic.flow(30);
    let tally = traffic.finish();
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    tree.stop();
}

/// What stands in the way of `.oldbin` stands in the way of the upgrade, and of nothing else.
#[test]
fn an_oldbin_that_cannot_be_written() {
    let Some(tree) = builder("manual").start(&Program::Ours) else {
        return;
    };
    let (skip, old) = (tree.mark(), tree.first());
    let workers = tree.workers(old);
    std::fs::create_dir(tree.oldbin()).unwrap();
    tree.signal(old, libc::SIGUSR2);
    let said = tree.wait_log(skip, "upgrade failed: ", PATIENCE);
    assert!(said.contains("oldbin"), "{said}");
    assert!(!tree.has_said(skip, "was started"));
    tree.settle(&[(old, 2)]);
    assert_eq!(tree.workers(old), workers);
    std::fs::remove_dir(tree.oldbin()).unwrap();
    let (old, new) = tree.upgrade();
    tree.signal(old, libc::SIGQUIT);
    tree.settle(&[(new, 2)]);
    tree.stop();
}

/// The verb returns when all is as before, and says why.
#[test]
fn the_verb_says_why() {
    let Some(tree) = builder("manual").start(&Program::Ours) else {
        return;
    };
    let old = tree.first();
    for (program, named) in [
        (Program::Shell("exit 7"), "7"),
        (Program::Nothing, "rmogstored"),
        (
            Program::Heir("say failed the moon is full;exit 1"),
            "the moon is full",
        ),
    ] {
        assert!(tree.install(&Program::Ours) && tree.install(&program));
        let ended = tree.verb(&["--upgrade"]).expect(1, &[named]);
        assert!(tree.claim().is_of(old), "{}", ended.err);
        tree.settle(&[(old, 2)]);
    }
    assert_eq!(tree.status()["pid"], old);
    assert!(tree.install(&Program::Ours));
    tree.verb(&["--upgrade"]).expect(0, &[]);
    let new = tree.master();
    assert_ne!(new, old);
    tree.settle(&[(new, 2)]);
    tree.stop();
}
