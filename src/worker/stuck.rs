//! Consumers and acceptors that do not come back from a call: each is told once,
//! with what it is about and what holds it, and again when it comes back.

use crate::ledger::{Entry, Ledger, Who};
use crate::sys::clock::Tick;
use std::collections::HashMap;
use std::sync::Arc;

/// Who has not come on for so long, and does not run, is stuck.
/// Milliseconds; the lanes let a device keep no longer what counts as busy.
const STUCK_MS: u32 = 1000;

/// Looks come once a second at least. After a longer pause the process itself
/// was stopped (SIGSTOP, a suspended machine). Milliseconds.
const PAUSED_MS: u32 = 5000;

/// Lines about who is stuck within [`WINDOW_MS`]; the others are counted.
const LINES: usize = 10;
const WINDOW_MS: u32 = 60_000;

struct Known {
    entry: Entry,
    since: Tick,
    /// What was logged of it.
    told: Option<String>,
}

/// See the module.
#[derive(Default)]
pub struct Stuck {
    known: HashMap<Who, Known>,
    /// When the window began, and the lines in it; those that it had no room for.
    window: Option<Tick>,
    lines: usize,
    left_out: usize,
    looked: Option<Tick>,
    /// The process has not paused since: who did nothing before was stopped with
    /// it.
    awake: Option<Tick>,
}

impl Stuck {
    /// Looks at the ledgers of all consumers that run, and of the acceptors. Some:
    /// all consumers are stuck, for so many milliseconds.
    pub fn look(&mut self, now: Tick, ledgers: &[&Arc<Ledger>]) -> Option<u32> {
        let looked = self.looked.replace(now);
        if looked.is_none_or(|looked| now.since(looked) >= PAUSED_MS) {
            self.awake = Some(now);
        }
        self.take_back(now, ledgers);
        for ledger in ledgers {
            let entry = ledger.entry();
            let lasts = entry.lasts(now).filter(|ms| *ms >= STUCK_MS);
            let (Some(lasts), Some(owner)) = (lasts, ledger.owner()) else {
                continue;
            };
            if self.known.contains_key(&ledger.who()) || owner.is_running() {
                continue;
            }
            // It has come back just now.
            let Some(about) = ledger.tell(entry) else {
                continue;
            };
            let who = ledger.who();
            let told = self.has_room(now).then(|| {
                let seconds = f64::from(lasts) / 1000.0;
                let by = owner.held_by();
                log::warn!("{who}, {owner}, is stuck for {seconds:.1} s: {about}; {by}");
                about.to_string()
            });
            let since = entry.since();
            self.known.insert(who, Known { entry, since, told });
        }
        // Of those alone who are there. An acceptor, stuck or idle, is none of them:
        // it serves nobody in their place.
        let there = ledgers.iter().filter(|l| l.who().is_consumer()).count();
        let youngest = self.consumers().map(|known| now.since(known.since));
        let all = youngest
            .min()
            .filter(|_| self.consumers().count() == there)?;
        Some(self.awake.map_or(all, |awake| now.since(awake).min(all)))
    }

    /// The stuck consumer of which something is known, for the scoreboard.
    pub fn example(&self) -> Option<&str> {
        self.consumers().find_map(|known| known.told.as_deref())
    }

    fn consumers(&self) -> impl Iterator<Item = &Known> {
        let known = self.known.iter();
        known.filter_map(|(who, known)| who.is_consumer().then_some(known))
    }

    /// Who has come on is stuck no more.
    fn take_back(&mut self, now: Tick, ledgers: &[&Arc<Ledger>]) {
        let back = |who: &Who, known: &mut Known| {
            let ledger = ledgers.iter().find(|ledger| ledger.who() == *who);
            ledger.is_none_or(|ledger| ledger.entry() != known.entry)
        };
        for (who, known) in self.known.extract_if(back) {
            if let Some(told) = known.told {
                let seconds = f64::from(now.since(known.since)) / 1000.0;
                log::info!("{who} has come back after {seconds:.1} s: {told}");
            }
        }
    }

    fn has_room(&mut self, now: Tick) -> bool {
        if self
            .window
            .is_none_or(|begun| now.since(begun) >= WINDOW_MS)
        {
            if self.left_out > 0 {
                log::warn!("{} more were stuck", self.left_out);
            }
            (self.window, self.lines, self.left_out) = (Some(now), 0, 0);
        }
        let has_room = self.lines < LINES;
        if has_room {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Act;
    use crate::sys::clock::monotonic_ns;

    /// One whose thread has ended: it does not run.
    fn ended(who: Who) -> Arc<Ledger> {
        let ledger = Arc::new(Ledger::new(who));
        let theirs = Arc::clone(&ledger);
        std::thread::spawn(move || theirs.take()).join().unwrap();
        ledger
    }

    fn crew(count: usize) -> Vec<Arc<Ledger>> {
        (0..count).map(|nr| ended(Who::Consumer(nr))).collect()
    }

    fn look(stuck: &mut Stuck, crew: &[Arc<Ledger>]) -> Option<u32> {
        let ledgers: Vec<_> = crew.iter().collect();
        stuck.look(Tick::now(), &ledgers)
    }

    /// One that has looked for long.
    fn awake() -> Stuck {
        let long_ago = Tick::of_ns(monotonic_ns() - 60_000_000_000);
        Stuck {
            looked: Some(Tick::now()),
            awake: Some(long_ago),
            ..Stuck::default()
        }
    }

    fn begin(ledger: &Ledger, seconds_ago: u64) {
        ledger.begin(monotonic_ns() - seconds_ago * 1_000_000_000);
    }

    #[test]
    fn all_are_stuck_since_the_last_one_is() {
        let (crew, mut stuck) = (crew(3), awake());
        assert_eq!(look(&mut stuck, &crew), None);
        begin(&crew[0], 9);
        begin(&crew[1], 7);
        assert_eq!(look(&mut stuck, &crew), None);
        begin(&crew[2], 0);
        assert_eq!(look(&mut stuck, &crew), None, "just begun");
        begin(&crew[2], 5);
        let all = look(&mut stuck, &crew);
        assert!(all.is_some_and(|ms| (4900..6900).contains(&ms)), "{all:?}");
        assert!(stuck.example().is_some());
        crew[1].go(Act::Read);
        assert_eq!(look(&mut stuck, &crew), None);
        assert_eq!(stuck.known.len(), 2);
        crew.iter().for_each(|ledger| ledger.end());
        assert_eq!(look(&mut stuck, &crew), None);
        assert!(stuck.known.is_empty());
        assert_eq!(stuck.lines, 3, "each was told once");
    }

    #[test]
    fn an_acceptor_is_told_and_is_no_consumer() {
        let (mut crew, mut stuck) = (crew(2), awake());
        crew.push(ended(Who::Acceptor(0)));
        let [first, second, acceptor] = [0, 1, 2].map(|nr| Arc::clone(&crew[nr]));
        acceptor.begin(monotonic_ns() - 3_000_000_000);
        acceptor.then_about(&[b"GET /dev1/x"], Act::Open);
        assert_eq!(look(&mut stuck, &crew), None);
        let told = |stuck: &Stuck, who| stuck.known.get(&who)?.told.clone();
        let about = told(&stuck, Who::Acceptor(0));
        assert_eq!(about.as_deref(), Some("GET /dev1/x, open"));
        assert_eq!(stuck.example(), None, "of no consumer");
        begin(&first, 9);
        assert_eq!(look(&mut stuck, &crew), None, "two of three, one is free");
        assert_eq!((stuck.known.len(), stuck.lines), (2, 2), "both number 0");
        assert_eq!(stuck.example(), Some("a client, talk"));
        begin(&second, 7);
        let since_the_second = |ms: Option<u32>| ms.is_some_and(|ms| (6900..8900).contains(&ms));
        let all = look(&mut stuck, &crew);
        assert!(since_the_second(all), "not since the acceptor is: {all:?}");
        acceptor.end();
        let all = look(&mut stuck, &crew);
        assert!(since_the_second(all), "who is idle is not free: {all:?}");
        assert!(told(&stuck, Who::Acceptor(0)).is_none());
        assert!(told(&stuck, Who::Consumer(0)).is_some());
        first.end();
        assert_eq!(look(&mut stuck, &crew), None);
    }

    #[test]
    fn acceptors_alone_are_not_all() {
        let (acceptor, mut stuck) = (ended(Who::Acceptor(0)), awake());
        begin(&acceptor, 5);
        assert_eq!(look(&mut stuck, &[acceptor]), None);
        assert_eq!(stuck.known.len(), 1);
    }

    #[test]
    fn a_pause_of_the_process_does_not_count() {
        let (crew, mut stuck) = (crew(1), awake());
        begin(&crew[0], 50);
        assert!(look(&mut stuck, &crew) > Some(40_000));
        stuck.looked = Some(Tick::of_ns(monotonic_ns() - 10_000_000_000));
        assert_eq!(look(&mut stuck, &crew), Some(0));
    }

    #[test]
    fn one_that_runs_is_not_stuck() {
        let (ledger, mut stuck) = (Arc::new(Ledger::default()), Stuck::default());
        ledger.take();
        begin(&ledger, 5);
        assert_eq!(look(&mut stuck, &[ledger]), None);
    }

    #[test]
    fn lines_are_bounded() {
        let (crew, mut stuck) = (crew(LINES + 5), Stuck::default());
        for round in 0..3 {
            crew.iter().for_each(|ledger| begin(ledger, 5 + round));
            assert!(look(&mut stuck, &crew).is_some());
        }
        assert_eq!(stuck.lines, LINES);
        assert_eq!(stuck.left_out, 3 * crew.len() - LINES);
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let (mut crew, mut stuck) = (crew(2), Stuck::default());
        begin(&crew[0], 5);
        begin(&crew[1], 5);
        assert!(look(&mut stuck, &crew).is_some());
        crew.truncate(1);
        assert!(look(&mut stuck, &crew).is_some());
        assert_eq!(stuck.known.len(), 1);
    }
}
