//! What the devices want of the scoreboard: which there are, and which of them are dead.

use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::fmt;
use std::sync::Arc;

/// Devices that a scenario can have; the name of number n is the digit n.
const DEVICES: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(u8);

impl Name {
    pub fn new(name: &[u8]) -> Option<Name> {
        name.first().copied().map(Name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as char)
    }
}

#[derive(PartialEq, Eq)]
pub enum Device {
    Good,
    Dead,
}

#[derive(Default)]
struct Page {
    layout: AtomicU64,
    dead: [AtomicBool; DEVICES],
    suspected: AtomicU64,
}

#[derive(Clone, Default)]
pub struct Scoreboard(Arc<Page>);

pub struct Row<'a> {
    page: &'a Page,
    nr: usize,
}

impl Scoreboard {
    pub fn layout(&self) -> u64 {
        self.0.layout.load(Ordering::SeqCst)
    }

    pub fn row(&self, nr: usize) -> Row<'_> {
        Row { page: &self.0, nr }
    }

    pub fn rows(&self) -> impl Iterator<Item = (usize, Row<'_>)> {
        (0..DEVICES).map(|nr| (nr, self.row(nr)))
    }

    pub fn suspect(&self, _row: usize) {
        self.0.suspected.fetch_add(1, Ordering::SeqCst);
    }

    pub fn suspected(&self) -> u64 {
        self.0.suspected.load(Ordering::SeqCst)
    }

    /// The devices have changed, it seems.
    pub fn change(&self) {
        self.0.layout.fetch_add(1, Ordering::SeqCst);
    }

    pub fn set_dead(&self, nr: usize, dead: bool) {
        self.0.dead[nr].store(dead, Ordering::SeqCst);
    }
}

impl Row<'_> {
    pub fn device(&self) -> Option<(usize, Name)> {
        Some((0, Name(b'0' + self.nr as u8)))
    }

    pub fn state(&self) -> Device {
        if self.page.dead[self.nr].load(Ordering::SeqCst) {
            Device::Dead
        } else {
            Device::Good
        }
    }
}
