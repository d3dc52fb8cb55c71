//! Upgrades that fail, each in its own way: the old one serves on as if nothing had been (PROCESSES.md D8, H4, H6).

use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::traffic::{Habit, Traffic};
use super::{alone, facts};
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

/// Clients at work, and an old one whose upgrades fail.
struct Stage {
    tree: Tree,
    traffic: Traffic,
    workers: Vec<i32>,
}

/// When a failure is to be seen.
#[derive(Clone, Copy)]
enum Seen {
    AtOnce,
    /// When the successor has had its time, so many times.
    After(u32),
}

impl Stage {
    /// `upgrade`: what USR2 means. `None`: no C compiler.
    fn new(builder: Builder) -> Option<Stage> {
        let tree = builder.start(&Program::Ours)?;
        let traffic = tree.clients(&[
            (Habit::Busy, 2),
            (Habit::Dawdling(Duration::from_millis(300)), 2),
            (Habit::OneShot, 2),
        ]);
        traffic.flow(40);
        let workers = tree.workers(tree.first());
        Some(Stage {
            tree,
            traffic,
            workers,
        })
    }

    /// USR2 to it, with this program in its place, and all is as before; the reason names this.
    #[track_caller]
    fn refuses(&self, what: &str, program: &Program, seen: Seen, named: &str) {
        assert!(self.tree.install(program));
        self.fails(what, seen, named, |_| ());
        assert!(self.tree.install(&Program::Ours));
    }

    /// The same with whatever is prepared, and done to the successor when it has been started.
    #[track_caller]
    fn fails(&self, what: &str, seen: Seen, named: &str, meanwhile: impl FnOnce(i32)) {
        let (tree, old) = (&self.tree, self.tree.first());
        let skip = tree.mark();
        let mut at = Instant::now();
        tree.signal(old, libc::SIGUSR2);
        if let Some(new) = started(tree, skip) {
            meanwhile(new);
            at = Instant::now();
        }
        let seen_within = match seen {
            Seen::AtOnce => Duration::ZERO,
            Seen::After(times) => TIMEOUT * times,
        };
        tree.wait_log(skip, "upgrade failed: ", seen_within + PATIENCE);
        eventually(
            "the old one to serve, and the pidfile to name it",
            PATIENCE,
            || self.is_serving() && tree.claim().is_of(old),
        );
        let took = at.elapsed();
        let said = tree.wait_log(skip, "upgrade failed: ", PATIENCE);
        let (_, why) = said.split_once("upgrade failed: ").expect("just seen");
        eprintln!("{what}: {took:?} until all was as before: {why}");
        assert!(took <= seen_within + RESTORED, "{what}: {took:?}");
        assert!(why.ends_with("; this server serves on"), "{what}: {why}");
        assert!(why.contains(named), "{what}: {named:?} is not in: {why}");
        // those of a new one that was killed drain for a moment
        tree.settle(&[(old, 2)]);
        assert_eq!(
            tree.workers(old),
            self.workers,
            "{what}: nobody was to retire for it"
        );
        assert_eq!(tree.old_claim(), Claim::Free(String::new()), "{what}");
        self.traffic.flow(20);
    }

    fn is_serving(&self) -> bool {
        let serves = |pid: &i32| facts::is_alive(*pid) && !facts::is_draining(*pid);
        self.workers.iter().all(serves)
    }

    /// After all that a good program takes over, and no request has failed.
    #[track_caller]
    fn ends(self) {
        let Stage { tree, traffic, .. } = self;
        tree.await_calm();
        let (skip, old) = (tree.mark(), tree.first());
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
}

/// The successor's pid, or the failure came first.
fn started(tree: &Tree, skip: usize) -> Option<i32> {
    let line = tree.wait_line(skip, "a successor, or that there is none", |line| {
        line.contains("upgrade failed")
            || line.contains("upgrade: pid") && line.contains("was started")
    });
    line.contains("was started")
        .then(|| tree.await_successor(skip))
}

/// Both meanings of USR2.
fn stages() -> impl Iterator<Item = Stage> {
    ["auto", "manual"]
        .into_iter()
        .filter_map(|upgrade| Stage::new(builder(upgrade)))
}

#[test]
fn programs_that_end() {
    let _alone = alone();
    for stage in stages() {
        for (what, program, named) in [
            ("exits with 1", Program::Shell("exit 1"), "exited with 1"),
            (
                "exits as if all were well",
                Program::Shell("exit 0"),
                "exited with 0",
            ),
            ("crashes", Program::Shell("kill -SEGV $$"), "signal 11"),
            ("is not there", Program::Nothing, "bin/rmogstored"),
            ("is not executable", Program::Locked, "bin/rmogstored"),
            ("is no program", Program::Garbage, ""),
        ] {
            stage.refuses(what, &program, Seen::AtOnce, named);
        }
        stage.ends();
    }
}

#[test]
fn programs_that_hang_before_they_bind() {
    let _alone = alone();
    let deaf = "trap '' TERM QUIT INT ABRT HUP; while :; do sleep 0.1; done";
    for stage in stages() {
        for (what, script) in [
            ("sleeps", "exec sleep 1000"),
            ("ends by SIGKILL alone", deaf),
            ("is stopped", "kill -STOP $$; exec \"$OURS\" \"$@\""),
        ] {
            stage.refuses(what, &Program::Shell(script), Seen::After(1), "");
        }
        stage.ends();
    }
}

/// Ours, in which something goes wrong at one step of its start.
#[track_caller]
fn steps(all: &[(Who, Step, Mishap)], seen: Seen) {
    let _alone = alone();
    for stage in stages() {
        let Some(fault) = Fault::new(&stage.tree.path("bin"), &stage.tree.root()) else {
            return;
        };
        for (who, step, mishap) in all {
            fault.set(*who, *step, *mishap, 0);
            let what = format!("{who:?} {step:?} {mishap:?}");
            stage.refuses(&what, &Program::Faulty(&fault), seen, "");
            assert!(fault.struck() > 0, "{what}");
        }
        stage.ends();
    }
}

#[test]
fn steps_at_which_it_crashes() {
    let all = [
        (Who::Master, Step::Start, Mishap::Abort),
        (Who::Master, Step::Docroot, Mishap::Exit),
        (Who::Master, Step::Fork, Mishap::Fail),
        (Who::Worker, Step::Birth, Mishap::Abort),
        (Who::Worker, Step::Docroot, Mishap::Exit),
        (Who::Worker, Step::Thread, Mishap::Abort),
        (Who::Worker, Step::Thread, Mishap::Fail),
    ];
    steps(&all, Seen::After(1));
}

#[test]
fn steps_at_which_its_master_hangs() {
    let all = [
        (Who::Master, Step::Start, Mishap::Hang),
        (Who::Master, Step::Docroot, Mishap::Hang),
    ];
    steps(&all, Seen::After(1));
}

/// The new master sees that too, and kills them: whoever is first.
#[test]
fn steps_at_which_its_workers_hang() {
    let all = [
        (Who::Worker, Step::Birth, Mishap::Hang),
        (Who::Worker, Step::Docroot, Mishap::Hang),
        (Who::Worker, Step::Thread, Mishap::Hang),
    ];
    steps(&all, Seen::After(2));
}

/// What was changed in its file since it has started, and is wrong.
#[test]
fn files_that_were_broken_meanwhile() {
    let _alone = alone();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for stage in stages() {
        let tree = &stage.tree;
        tree.set("nonsense", Some("1"));
        stage.fails("an unknown key", Seen::AtOnce, "nonsense", |_| ());
        tree.set("nonsense", None);
        let missing = tree.path("missing").display().to_string();
        tree.set("docroot", Some(&missing));
        stage.fails("no docroot", Seen::AtOnce, &missing, |_| ());
        tree.set("docroot", Some(tree.root().to_str().unwrap()));
        tree.also("httplisten", &addr);
        // it may be waited for: 5 times 0.5 s
        stage.fails("a port that is taken", Seen::After(3), &addr, |_| ());
        tree.set("httplisten", Some("127.0.0.1:0"));
        stage.ends();
    }
}

/// H4: killed at each step: as soon as it was started, when it listens, while its workers start, when they have.
#[test]
fn a_new_master_that_is_killed() {
    let _alone = alone();
    let Some(stage) = Stage::new(builder("auto")) else {
        return;
    };
    for moment in ["was started", "listening on", "is ready, pid"] {
        let tree = &stage.tree;
        let skip = tree.mark();
        stage.fails(moment, Seen::AtOnce, "signal 9", |new| {
            tree.wait_log(skip, moment, PATIENCE);
            tree.signal(new, libc::SIGKILL);
        });
    }
    stage.ends();
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
    tree.conn().put("/dev1/file", b"x").expect(201, true);
    let orphans = tree.workers(new);
    let at = Instant::now();
    tree.signal(new, libc::SIGKILL);
    eventually("workers of the old one", PATIENCE, || {
        // it adopts those of the dead one, who drain
        let own = tree.workers(old).into_iter();
        let own = own.filter(|pid| !orphans.contains(pid) && !facts::is_draining(*pid));
        own.count() == 2 && tree.claim().is_of(old)
    });
    let took = at.elapsed();
    eprintln!("{took:?} from the death of the new one until the old one serves again");
    assert!(took <= RESTORED, "{took:?}");
    tree.settle(&[(old, 2)]);
    tree.conn().put("/dev1/file", b"x").expect(201, true);
    tree.stop();
}

/// Successors that speak the handshake, up to a point.
#[track_caller]
fn heirs(upgrade: &str, all: &[(&str, Seen, &str)]) {
    let _alone = alone();
    let Some(stage) = Stage::new(builder(upgrade)) else {
        return;
    };
    for (script, seen, named) in all {
        stage.refuses(script, &Program::Heir(script), *seen, named);
    }
    stage.ends();
}

#[test]
fn heirs_that_say_why_they_fail() {
    let all = [
        (
            "say failed the moon is full;exit 1",
            Seen::AtOnce,
            "the moon is full",
        ),
        (
            "say bound;say failed no memory;hang",
            Seen::AtOnce,
            "no memory",
        ),
        (
            "say bound;say ready 1/2;say died worker 1 was killed by SIGBUS;hang",
            Seen::AtOnce,
            "SIGBUS",
        ),
        (
            "say bound;say ready 1/2;exit 3",
            Seen::AtOnce,
            "exited with 3",
        ),
    ];
    heirs("auto", &all);
    heirs("manual", &all);
}

#[test]
fn heirs_that_stop_on_their_way() {
    let all = [
        ("say bound;hang", Seen::After(1), ""),
        (
            "say bound;say ready 0/2;say ready 1/2;hang",
            Seen::After(1),
            "",
        ),
        ("say bound;shut;hang", Seen::After(1), ""),
        // it was told to take over: by hand at once, otherwise after its probation of a second
        ("say bound;say ready 2/2;shut;hang", Seen::After(2), ""),
        ("say bound;say ready 2/2;hear;hang", Seen::After(2), ""),
    ];
    heirs("auto", &all);
    heirs("manual", &all);
}

/// In its probation, when it was told to commit, and when it has taken the pidfile and has not said so yet.
#[test]
fn heirs_that_end_on_the_last_step() {
    let all = [
        (
            "say bound;say ready 2/2;exit 3",
            Seen::AtOnce,
            "exited with 3",
        ),
        (
            "say bound;say ready 2/2;hear;exit 4",
            Seen::After(1),
            "exited with 4",
        ),
        (
            "say bound;say ready 2/2;hear;say failed no pidfile;exit 1",
            Seen::After(1),
            "no pidfile",
        ),
        (
            "say bound;say ready 2/2;hear;pid;exit 5",
            Seen::After(1),
            "exited with 5",
        ),
        ("pid;hang", Seen::After(1), ""),
    ];
    heirs("auto", &all);
    heirs("manual", &all);
}

/// Words that are none, or come too early.
#[test]
fn heirs_that_speak_another_language() {
    let long = format!("say {};say {};hang", "x".repeat(200), "y".repeat(200));
    let all = [
        ("say guten Tag;hang", Seen::After(1), ""),
        ("say ready;hang", Seen::After(1), ""),
        ("say ready x/y;hang", Seen::After(1), ""),
        ("say ready 3/2;hang", Seen::After(1), ""),
        ("say ready 2/0;hang", Seen::After(1), ""),
        ("say commit;hang", Seen::After(1), ""),
        ("say committed;hang", Seen::After(1), ""),
        ("say bound bound;hang", Seen::After(1), ""),
        (&long, Seen::After(1), ""),
    ];
    // by hand, a program of another version is left to the operator
    heirs("auto", &all);
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

/// It gives up by itself, after the commit, and says so: the old one still drains.
#[test]
fn the_one_in_charge_gives_up_while_the_old_one_drains() {
    let builder = builder("auto").set("spawn-errors", "2").workers(1);
    let Some(tree) = builder.start(&Program::Ours) else {
        return;
    };
    let old = tree.first();
    let mut upload = tree.conn();
    upload.send("PUT /dev1/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx");
    upload.settle();
    let skip = tree.mark();
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    tree.wait_log(skip, "committed", PATIENCE);
    eventually("it gives up", PATIENCE, || {
        for worker in tree.workers(new) {
            tree.signal(worker, libc::SIGKILL);
        }
        !tree.is_alive(new)
    });
    eventually("the old one serves again", PATIENCE, || {
        tree.claim().is_of(old)
    });
    tree.conn().put("/dev1/file", b"x").expect(201, true);
    upload.send("y");
    upload.response().expect(201, false);
    drop(upload);
    tree.conn().put("/dev1/file", b"x").expect(201, true);
    tree.stop();
}

/// It finds the word to take over and the word to end together.
#[test]
fn who_was_told_too_late_does_not_take_the_pidfile_along() {
    let Some(tree) = builder("auto").start(&Program::Ours) else {
        return;
    };
    let old = tree.first();
    let skip = tree.mark();
    tree.signal(old, libc::SIGUSR2);
    let new = tree.await_successor(skip);
    tree.settle_beside(new, 2);
    tree.signal(new, libc::SIGSTOP);
    tree.wait_log(skip, "did not take over when it was told to", PATIENCE);
    tree.signal(new, libc::SIGCONT);
    tree.await_gone(new);
    assert!(tree.claim().is_of(old), "{:?}", tree.claim());
    tree.stop();
}
