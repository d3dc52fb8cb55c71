//! Signals, verbs, upgrades and kills in random order under load, and after each step the service is what it should be
//! as seen from outside: one who holds the pidfile, the right number of workers, no orphan, no failed request but
//! those of whom was killed.
//!
//! The seed is printed; `RMOG_CHAOS_SEED` repeats its order of steps. `RMOG_CHAOS_SECONDS` asks for more than the half
//! minute each that fits into the suite.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::traffic::{Habit, Tally};
use super::{alone, facts};
use crate::harness::tree::{Builder, Program, Tree};
use crate::harness::{PATIENCE, eventually};

/// A worker that has lived longer than this has not died young: its successor starts at once.
const GROWN_UP: Duration = Duration::from_millis(1100);

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed =
            from_env("RMOG_CHAOS_SEED").unwrap_or(now.expect("after 1970").subsec_nanos().into());
        eprintln!("RMOG_CHAOS_SEED={seed}");
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    More,
    Fewer,
    ReloadSame,
    ReloadOther,
    ReloadBroken,
    ReloadTwice,
    Reopen,
    RetireAndBack,
    TellWorker(i32),
    StopWorker,
    UpgradeAndGo(Path),
    UpgradeBroken,
    VerbUpgrade,
    VerbReload,
    VerbStatus,
    Noise,
    KillWorker,
    UpgradeAndKill(Path),
}

/// How two masters become one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Path {
    OldGoes,
    NewGoes,
    OldRetiresAndGoes,
    OldRetiresAndReturns,
}

/// What fails no request.
const GENTLE: &[Step] = &[
    Step::More,
    Step::More,
    Step::Fewer,
    Step::Fewer,
    Step::ReloadSame,
    Step::ReloadSame,
    Step::ReloadOther,
    Step::ReloadOther,
    Step::ReloadBroken,
    Step::ReloadTwice,
    Step::Reopen,
    Step::Reopen,
    Step::RetireAndBack,
    Step::TellWorker(libc::SIGQUIT),
    Step::TellWorker(libc::SIGTERM),
    Step::TellWorker(libc::SIGWINCH),
    Step::TellWorker(libc::SIGUSR1),
    Step::TellWorker(libc::SIGHUP),
    Step::StopWorker,
    Step::UpgradeAndGo(Path::OldGoes),
    Step::UpgradeAndGo(Path::NewGoes),
    Step::UpgradeAndGo(Path::OldRetiresAndGoes),
    Step::UpgradeAndGo(Path::OldRetiresAndReturns),
    Step::UpgradeBroken,
    Step::VerbUpgrade,
    Step::VerbReload,
    Step::VerbStatus,
    Step::VerbStatus,
    Step::Noise,
];

/// What fails those of whom is killed.
const VIOLENT: &[Step] = &[
    Step::KillWorker,
    Step::KillWorker,
    Step::UpgradeAndKill(Path::OldGoes),
    Step::UpgradeAndKill(Path::NewGoes),
];

struct Chaos {
    tree: Tree,
    random: Random,
    master: i32,
    wanted: usize,
    /// Makes each new configuration another one.
    edits: u32,
    /// When each worker was first seen, and when it was killed.
    born: BTreeMap<i32, Instant>,
    killed: BTreeMap<i32, (Instant, Instant)>,
    history: Vec<String>,
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.history.len().saturating_sub(12);
            eprintln!("the last steps: {:#?}", &self.history[last..]);
        }
    }
}

impl Chaos {
    fn new(builder: Builder) -> Option<Chaos> {
        let tree = builder.start(&Program::Ours)?;
        let mut chaos = Chaos {
            master: tree.first(),
            wanted: 2,
            edits: 0,
            born: BTreeMap::new(),
            killed: BTreeMap::new(),
            history: Vec::new(),
            random: Random::new(),
            tree,
        };
        chaos.settle();
        Some(chaos)
    }

    fn signal(&self, signal: i32) {
        self.tree.signal(self.master, signal);
    }

    /// A configuration that nobody has yet.
    fn edit(&mut self) {
        self.edits += 1;
        self.tree
            .set("idle-timeout", Some(&format!("{}", 100 + self.edits)));
        self.tree
            .set("worker-processes", Some(&self.wanted.to_string()));
    }

    /// HUP, and how that ended.
    fn reload(&mut self, outcome: &str) {
        let skip = self.tree.mark();
        self.signal(libc::SIGHUP);
        self.tree.wait_line(skip, outcome, |line| {
            let begins = line.split_once("] ").map_or("", |(_, text)| text);
            begins.contains(outcome) && !begins.ends_with("begins")
        });
    }

    fn worker(&mut self) -> i32 {
        let workers = self.tree.workers(self.master);
        self.random.one_of(&workers)
    }

    /// Does it; `false`: not now.
    fn act(&mut self, step: Step) -> bool {
        match step {
            Step::More | Step::Fewer => return self.resize(step == Step::More),
            // How many workers the master has is the file's to say from here on.
            Step::ReloadSame => {
                self.edit();
                self.reload("reload: generation");
                self.settle();
                self.reload("reload: nothing has changed");
            }
            Step::ReloadOther => {
                self.edit();
                self.reload("reload: generation");
            }
            Step::ReloadTwice => {
                self.edit();
                self.signal(libc::SIGHUP);
                self.edit();
                self.signal(libc::SIGHUP);
                eventually("the last of two reloads", PATIENCE, || {
                    let said = self.tree.verb(&["--reload"]).expect(0, &[]);
                    (said.out + &said.err).contains("nothing has changed")
                });
            }
            Step::ReloadBroken => {
                self.tree.set("nonsense", Some("1"));
                self.reload("reload failed: ");
                self.tree.set("nonsense", None);
            }
            Step::Reopen => self.signal(libc::SIGUSR1),
            Step::RetireAndBack => {
                self.signal(libc::SIGWINCH);
                eventually("nobody who accepts", PATIENCE, || {
                    self.tree
                        .workers(self.master)
                        .into_iter()
                        .all(facts::is_draining)
                });
                // an upgrade that came to nothing may have left another number in the file
                self.tree
                    .set("worker-processes", Some(&self.wanted.to_string()));
                self.signal(libc::SIGHUP);
            }
            Step::TellWorker(signal) => {
                let worker = self.worker();
                self.tree.signal(worker, signal);
                if [libc::SIGQUIT, libc::SIGTERM, libc::SIGWINCH].contains(&signal) {
                    self.tree.await_gone(worker);
                }
            }
            Step::StopWorker => {
                let worker = self.worker();
                self.tree.signal(worker, libc::SIGSTOP);
                eventually("it to stop", PATIENCE, || facts::is_stopped(worker));
                self.tree.signal(worker, libc::SIGCONT);
            }
            Step::Noise => {
                for _ in 0..20 {
                    let all = [libc::SIGUSR1, libc::SIGPIPE, libc::SIGCHLD, libc::SIGURG];
                    let signal = self.random.one_of(&all);
                    let worker = self.worker();
                    let to = self.random.one_of(&[self.master, worker]);
                    self.tree.signal(to, signal);
                }
            }
            Step::VerbStatus => {
                let status = self.tree.status();
                assert_eq!(status["pid"], self.master, "{status:#}");
                assert_eq!(status["wanted_workers"], self.wanted, "{status:#}");
            }
            Step::VerbReload => {
                self.edit();
                self.tree.verb(&["--reload"]).expect(0, &[]);
            }
            Step::KillWorker => self.kill_worker(),
            _ => self.upgrade(step),
        }
        true
    }

    fn resize(&mut self, more: bool) -> bool {
        match more {
            true if self.wanted < 5 => self.wanted += 1,
            false if self.wanted > 1 => self.wanted -= 1,
            _ => return false,
        }
        self.signal(if more { libc::SIGTTIN } else { libc::SIGTTOU });
        true
    }

    fn kill_worker(&mut self) {
        let worker = self.worker();
        let born = self.born[&worker];
        eventually("it to grow up", PATIENCE, || born.elapsed() > GROWN_UP);
        let at = Instant::now();
        self.tree.signal(worker, libc::SIGKILL);
        self.tree.await_gone(worker);
        self.killed.insert(worker, (at, Instant::now()));
    }

    fn upgrade(&mut self, step: Step) {
        // A successor has as many workers as the file says.
        self.tree
            .set("worker-processes", Some(&self.wanted.to_string()));
        let path = match step {
            Step::UpgradeBroken => {
                assert!(self.tree.install(&Program::Shell("exit 1")));
                let skip = self.tree.mark();
                self.signal(libc::SIGUSR2);
                self.tree.wait_log(skip, "upgrade failed: ", PATIENCE);
                assert!(self.tree.install(&Program::Ours));
                return;
            }
            Step::VerbUpgrade => {
                self.tree.verb(&["--upgrade"]).expect(0, &[]);
                self.master = self.tree.master();
                return;
            }
            Step::UpgradeAndGo(path) | Step::UpgradeAndKill(path) => path,
            other => panic!("{other:?} is no upgrade"),
        };
        let (old, new) = self.tree.upgrade();
        self.tree.settle(&[(new, self.wanted), (old, self.wanted)]);
        if matches!(path, Path::OldRetiresAndGoes | Path::OldRetiresAndReturns) {
            self.tree.signal(old, libc::SIGWINCH);
            self.tree.settle(&[(new, self.wanted), (old, 0)]);
        }
        let (goes, stays) = match path {
            Path::OldGoes | Path::OldRetiresAndGoes => (old, new),
            Path::NewGoes | Path::OldRetiresAndReturns => (new, old),
        };
        let how = match step {
            // Its workers drain, so nobody's request fails.
            Step::UpgradeAndKill(_) => libc::SIGKILL,
            _ => libc::SIGQUIT,
        };
        self.tree.signal(goes, how);
        self.tree.await_gone(goes);
        self.master = stays;
    }

    /// What holds after each step.
    fn settle(&mut self) {
        self.tree.settle(&[(self.master, self.wanted)]);
        self.tree.await_calm();
        let workers = self.tree.workers(self.master);
        for worker in &workers {
            self.born.entry(*worker).or_insert_with(Instant::now);
        }
        self.born.retain(|pid, _| workers.contains(pid));
    }
}

/// Each failure is one of a worker that was killed while the connection lived.
fn only_of_the_killed(tally: &Tally, killed: &BTreeMap<i32, (Instant, Instant)>) {
    for failure in &tally.failures {
        let died_in = |(from, to): &(Instant, Instant)| failure.from <= *to && *from <= failure.to;
        let excused = match failure.owner {
            Some(pid) => killed.get(&pid).is_some_and(died_in),
            None => failure.first && killed.values().any(died_in),
        };
        assert!(excused, "{failure:?}");
    }
}

/// Steps out of `all`, for so long.
fn run(what: &str, all: &[Step]) {
    let _alone = alone();
    let seconds = from_env("RMOG_CHAOS_SECONDS").unwrap_or(25);
    let builder = Tree::builder()
        .set("drain-grace", "0.15")
        .set("probation", "0.1")
        .set("upgrade-timeout", "5");
    let Some(mut chaos) = Chaos::new(builder) else {
        return;
    };
    let traffic = chaos.tree.clients(&[
        (Habit::Busy, 2),
        (Habit::Dawdling(Duration::from_millis(300)), 3),
        (Habit::OneShot, 2),
    ]);
    traffic.flow(20);
    let start = Instant::now();
    let mut steps = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        let step = chaos.random.one_of(all);
        let at = Instant::now();
        chaos.history.push(format!(
            "{step:?} of {} with {} workers",
            chaos.master, chaos.wanted
        ));
        if !chaos.act(step) {
            continue;
        }
        chaos.settle();
        steps += 1;
        let took = at.elapsed();
        if let Some(last) = chaos.history.last_mut() {
            *last += &format!(": {took:?}");
        }
        traffic.flow(1);
    }
    let masters = chaos.tree.masters().len();
    let tally = traffic.finish();
    eprintln!(
        "{what}: {steps} steps, {masters} masters in {:?}, {} workers killed; {} requests, {} failed, {} idle ends",
        start.elapsed(),
        chaos.killed.len(),
        tally.served,
        tally.failures.len(),
        tally.idle_ends
    );
    only_of_the_killed(&tally, &chaos.killed);
    assert!(steps as u64 >= seconds, "{steps} steps");
    let log = chaos.tree.log();
    let panics: Vec<_> = log
        .iter()
        .filter(|line| line.contains("panicked"))
        .collect();
    assert!(panics.is_empty(), "{panics:#?}");
    let master = chaos.master;
    chaos.tree.signal(master, libc::SIGQUIT);
    chaos.tree.await_end(master);
    eventually("the end of all processes", PATIENCE, || {
        facts::descendants(chaos.tree.keeper()).is_empty()
    });
    assert!(chaos.tree.claim().is_over());
}

#[test]
fn whatever_an_operator_does_fails_no_request() {
    run("gentle", GENTLE);
}

#[test]
fn whoever_is_killed_takes_only_his_own_along() {
    run("violent", &[GENTLE, VIOLENT, VIOLENT].concat());
}
