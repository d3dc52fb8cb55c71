//! How many there shall be, and of which generation: whom to start next, whom
//! to relieve.

use super::{Children, Place, Worker};
use crate::channel::Message;
use crate::config::Supervision;
use std::time::Instant;

impl Children {
    /// The one that has this number and is to keep it, of any generation.
    pub(super) fn holder(&self, nr: usize) -> Option<&Worker> {
        let mut holders = self
            .workers()
            .filter(|(_, worker)| worker.nr == nr && !worker.is_relieved);
        holders.next().map(|(_, worker)| worker)
    }

    fn is_current(&self, worker: &Worker) -> bool {
        worker.generation == self.generation
    }

    /// The number of whom to start now: of an empty place whose time has come,
    /// or else of the next one to be renewed, one at a time.
    pub fn due(&self) -> Option<usize> {
        let now = Instant::now();
        let is_due = |nr: &usize| self.places[*nr].due.is_none_or(|due| due <= now);
        let mut numbers = 0..self.places.len();
        let empty = numbers.find(|nr| self.holder(*nr).is_none() && is_due(nr));
        let mut numbers = 0..self.places.len();
        empty.or_else(|| numbers.find(|nr| self.is_to_be_renewed(*nr) && is_due(nr)))
    }

    /// Whether what it has is outdated, and nobody is being started anywhere.
    fn is_to_be_renewed(&self, nr: usize) -> bool {
        let staying = || self.workers().filter(|(_, worker)| !worker.is_relieved);
        staying().all(|(_, worker)| worker.is_ready)
            && staying()
                .filter(|(_, worker)| worker.nr == nr)
                .all(|(_, worker)| !self.is_current(worker))
    }

    /// When the next place is due that is not due yet.
    pub fn next_spawn(&self) -> Option<Instant> {
        let now = Instant::now();
        let dues = self.places.iter().filter_map(|place| place.due);
        dues.filter(|due| *due > now).min()
    }

    /// Workers of another generation that are still to be relieved.
    pub fn outdated(&self) -> usize {
        let is_outdated = |worker: &Worker| !worker.is_relieved && !self.is_current(worker);
        self.workers()
            .filter(|(_, worker)| is_outdated(worker))
            .count()
    }

    /// From now on workers shall be of this generation, and so many. Those of
    /// others are relieved one by one, each when its successor is ready.
    pub fn renew(&mut self, generation: u64, workers: usize, knobs: &Supervision) {
        self.generation = generation;
        self.spawn_timeout = knobs.spawn;
        self.hard_timeout = knobs.hard;
        self.set_wanted(workers);
        for place in &mut self.places {
            *place = Place::default();
        }
    }

    /// So many there shall be.
    pub fn set_wanted(&mut self, workers: usize) {
        self.places.resize_with(workers, Place::default);
    }

    /// How many there shall be.
    pub fn wanted(&self) -> usize {
        self.places.len()
    }

    /// All who live have been told to leave; who comes now is another.
    pub fn relieve_all(&mut self) {
        for worker in self.slots.iter_mut().flatten() {
            worker.is_relieved = true;
        }
    }

    /// Tells those to leave whose successors are ready, and those of whom there
    /// are too many. Their listeners go on in others.
    pub fn relieve(&mut self) {
        let ready: Vec<usize> = self
            .workers()
            .filter(|(_, worker)| worker.is_ready && self.is_current(worker))
            .map(|(_, worker)| worker.nr)
            .collect();
        let (generation, wanted) = (self.generation, self.places.len());
        for worker in self.slots.iter_mut().flatten() {
            let is_surplus = worker.nr >= wanted;
            let is_succeeded = worker.generation != generation && ready.contains(&worker.nr);
            if !worker.is_relieved && (is_surplus || is_succeeded) {
                worker.is_relieved = true;
                worker.tell(Message::Quit { last: false });
            }
        }
    }

    /// Whoever is still starting serves nobody, and may hang.
    pub fn kill_unready(&mut self) {
        let slots = self.slots.iter_mut().flatten();
        for worker in slots.filter(|worker| !worker.is_ready && worker.killed.is_none()) {
            worker.kill(format_args!("has not begun to serve, and does not obey"));
        }
    }

    /// Those of a generation that failed leave at once, unless they serve.
    pub fn dismiss_unready(&mut self, generation: u64) {
        for worker in self.slots.iter_mut().flatten() {
            if worker.generation == generation && !worker.is_ready && !worker.is_relieved {
                worker.is_relieved = true;
                worker.tell(Message::Fast);
            }
        }
    }
}
