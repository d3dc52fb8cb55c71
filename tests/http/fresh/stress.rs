//! Files of all habits under load. Each is changed at intervals at which it grows old and is kept, a few times at
//! once; what is asked for most is what is about to be changed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::tracks::{Ask, HABITS, Track};
use super::{OLD, SIZES, outside};
use crate::harness::conn::Ended;
use crate::harness::{Conn, Response, Server, SetOnDrop};
use crate::process::alone;

const WRITERS: usize = 3;

/// Files of a writer: so many of each habit and size that a round has one every 33 ms.
const FILES: usize = HABITS.len() * SIZES.len() * 3 / 2;

/// From one change of a file to the next: it has grown old by then.
const ROUND: Duration = Duration::from_millis(OLD.as_millis() as u64 + 550);

const ROUNDS: usize = 2;

/// Requests that a client sends before it reads.
const PIPELINE: usize = 8;

/// What readers ask for before it is changed.
const AHEAD: usize = 4;

struct Stress {
    server: Server,
    /// Of one writer after the other.
    tracks: Vec<Track>,
    /// The next one that each writer changes.
    next: [AtomicUsize; WRITERS],
    enough: AtomicBool,
    served: AtomicU64,
}

/// A reader's dice: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Stress {
    fn start(outside: &Path) -> Stress {
        let server = Server::builder().workers(2).threads(10).start();
        let device = server.path("dev1");
        let tracks = (0..WRITERS * FILES).map(|id| {
            // each writer has all habits and, of each, all sizes
            let (habit, len) = (HABITS[id % 12], SIZES[id / 12 % SIZES.len()]);
            Track::new(id, habit, len, &device, outside)
        });
        Stress {
            tracks: tracks.collect(),
            next: Default::default(),
            enough: AtomicBool::new(false),
            served: AtomicU64::new(0),
            server,
        }
    }

    fn is_on(&self) -> bool {
        !self.enough.load(Ordering::Relaxed)
    }

    fn write(&self, writer: usize) {
        let mut conn = self.server.conn();
        let start = Instant::now();
        for nr in 0..ROUNDS * FILES {
            let due = ROUND.mul_f64(nr as f64 / FILES as f64);
            // the shape of the load; nothing is hoped for from it
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            if !self.is_on() {
                return;
            }
            let track = &self.tracks[writer * FILES + nr % FILES];
            for _ in 0..=nr % 3 {
                track.change(&mut conn);
            }
            self.next[writer].store(nr + 1, Ordering::Relaxed);
        }
    }

    /// Mostly one that is about to be changed; else any.
    fn pick(&self, dice: &mut Dice) -> &Track {
        let writer = dice.roll() as usize % WRITERS;
        let at = match dice.roll() % 4 {
            0 => dice.roll() as usize,
            _ => self.next[writer].load(Ordering::Relaxed) + dice.roll() as usize % AHEAD,
        };
        &self.tracks[writer * FILES + at % FILES]
    }

    /// `None`: the connection ended, as it may where the file shrinks.
    fn reply(&self, conn: &mut Conn, track: &Track, ask: &Ask) -> Option<Response> {
        let reply = match track.request(ask).starts_with("HEAD") {
            true => conn.try_response_to_head(),
            false => conn.try_response(),
        };
        match reply {
            Ok(reply) => {
                track.judge(ask, &reply);
                self.served.fetch_add(1, Ordering::Relaxed);
                Some(reply)
            }
            Err(_) if track.may_break(ask) => None,
            Err(Ended::Clean) => panic!("{}: the end instead of a reply", track.target),
            Err(Ended::Broken(how)) => panic!("{}: {how}", track.target),
        }
    }

    /// One request after the other; on one connection each, or all on one.
    fn read(&self, seed: u64, one_shot: bool) {
        let _end = SetOnDrop(&self.enough);
        let mut dice = Dice(seed);
        let mut conn = self.server.conn();
        while self.is_on() {
            let track = self.pick(&mut dice);
            let ask = track.ask(dice.roll());
            conn.send(track.request(&ask));
            let goes_on = self.reply(&mut conn, track, &ask).is_some();
            if one_shot || !goes_on {
                conn = self.server.conn();
            }
        }
    }

    fn read_pipelined(&self, seed: u64) {
        let _end = SetOnDrop(&self.enough);
        let mut dice = Dice(seed);
        let mut conn = self.server.conn();
        while self.is_on() {
            // where a connection may break, the replies before are lost as well
            let batch: Vec<(&Track, Ask)> = std::iter::repeat_with(|| {
                let track = self.pick(&mut dice);
                (track, track.ask(dice.roll()))
            })
            .filter(|(track, _)| !track.may_shrink())
            .take(PIPELINE)
            .collect();
            let requests = batch.iter().map(|(track, ask)| track.request(ask));
            conn.send(requests.collect::<String>());
            for (track, ask) in &batch {
                self.reply(&mut conn, track, ask);
            }
        }
    }
}

#[test]
fn no_reader_sees_what_was_before() {
    let _alone = alone();
    let outside = outside();
    let stress = Stress::start(outside.path());
    let start = Instant::now();
    std::thread::scope(|scope| {
        let stress = &stress;
        for seed in 1..=2 {
            scope.spawn(move || stress.read(seed, false));
        }
        scope.spawn(|| stress.read(3, true));
        scope.spawn(|| stress.read_pipelined(4));
        // however the writers end, the readers do
        let _end = SetOnDrop(&stress.enough);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || stress.write(writer)))
            .collect();
        for writer in writers {
            writer.join().expect("a writer");
        }
    });
    let served = stress.served.load(Ordering::Relaxed);
    let rate = served as f64 / start.elapsed().as_secs_f64();
    eprintln!("{served} replies judged, {rate:.0} a second");
    assert!(served > 1000, "{served} replies are no load");
    stress.server.stop();
}
