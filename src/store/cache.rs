//! What was read of small files lately. A copy is never trusted: whoever uses
//! one has asked the kernel in the same request whether the file is still the
//! one that was read (`Store::find`). So it saves the open, the read and the
//! close, not the look; and it holds no descriptor, so that a disk can be
//! unmounted.
//!
//! It is one worker's own, bounded in bytes. A file is kept when it is read for
//! the second time within a while, and leaves when others need its room and it
//! was not used since the hand came by (second chance).

use super::path::StorePath;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::clock;
use crate::sys::file::Facts;
use slab::Slab;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// A longer file is not kept. Bytes.
pub const MAX_KEPT: u64 = 32 * 1024;

/// A copy is read anew after so long, whatever the kernel says: writes through a
/// shared mapping of the file (mmap) need not show in its times. Milliseconds.
const LASTS_MS: u64 = 10_000;

/// Locks that threads can hold at the same time; a power of two.
const SHARDS: usize = 16;

/// What a copy takes besides its path, content and note. Bytes, about.
const OVERHEAD: usize = 400;

/// Of so much room there is a place for one file that was read once, by a hash.
/// Two files with one place, read in turns, are never kept: it is what a small
/// copy takes, so that places are no fewer than copies. Bytes.
const SEEN_PER: usize = 512;

/// What a reader of the file wants to remember with it.
pub struct Note {
    /// A few hundred bytes.
    pub text: Box<[u8]>,
    /// Of something in it.
    pub place: usize,
}

/// A file as it was read.
pub struct Kept {
    facts: Facts,
    content: Box<[u8]>,
    note: OnceLock<Note>,
    /// On the monotonic clock, which does not wrap: nobody may ask for a month.
    /// Milliseconds.
    read: u64,
    was_used: AtomicBool,
}

impl Kept {
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// All of it.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// What is told of it again and again: made once.
    pub fn note(&self, make: impl FnOnce() -> Note) -> &Note {
        self.note.get_or_init(make)
    }
}

/// See the module.
pub(super) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    /// Bytes that each may hold. 0: nothing is kept.
    room: usize,
    hashing: RandomState,
    seen: Box<[AtomicU32]>,
}

#[derive(Default)]
struct Shard {
    /// By the hash of the path. Of two paths with the same one is kept.
    places: HashMap<u64, usize, BuildHasherDefault<Itself>>,
    entries: Slab<Entry>,
    bytes: usize,
    hand: usize,
}

struct Entry {
    hash: u64,
    path: CString,
    kept: Arc<Kept>,
}

impl Entry {
    fn bytes(&self) -> usize {
        cost(&self.path, self.kept.content.len())
    }
}

/// What a copy of so many bytes takes of the cache. Bytes.
fn cost(path: &CStr, len: usize) -> usize {
    OVERHEAD + path.to_bytes().len() + len
}

/// The hash of a hash.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Cache {
    /// Of so many bytes in all.
    pub(super) fn new(bytes: usize) -> Cache {
        Cache {
            shards: std::array::from_fn(|_| Mutex::default()),
            room: bytes / SHARDS,
            hashing: RandomState::new(),
            seen: std::iter::repeat_with(|| AtomicU32::new(0))
                .take(bytes.div_ceil(SEEN_PER))
                .collect(),
        }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[(hash >> 32) as usize % SHARDS].lock()
    }

    fn hash(&self, path: &StorePath) -> u64 {
        self.hashing.hash_one(path.as_c_str().to_bytes())
    }

    /// What was read of `path`, unless that was long ago.
    pub(super) fn get(&self, path: &StorePath) -> Option<Arc<Kept>> {
        self.get_at(path, clock::coarse_ms)
    }

    fn get_at(&self, path: &StorePath, now: impl FnOnce() -> u64) -> Option<Arc<Kept>> {
        if self.room == 0 {
            return None;
        }
        let hash = self.hash(path);
        let shard = self.shard(hash);
        let entry = &shard.entries[*shard.places.get(&hash)?];
        if *entry.path != *path.as_c_str() || now().saturating_sub(entry.kept.read) >= LASTS_MS {
            return None;
        }
        // Written only where it changes: other cores read it, too.
        if !entry.kept.was_used.load(Ordering::Relaxed) {
            entry.kept.was_used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.kept))
    }

    /// Whether `path` is worth to be kept: it can be, and has been read before,
    /// lately.
    pub(super) fn wants(&self, path: &StorePath, len: u64) -> bool {
        if len > MAX_KEPT || cost(path.as_c_str(), len as usize) > self.room {
            return false;
        }
        let hash = self.hash(path);
        let place = &self.seen[hash as usize % self.seen.len()];
        let mark = (hash >> 32) as u32;
        if place.load(Ordering::Relaxed) == mark {
            return true;
        }
        place.store(mark, Ordering::Relaxed);
        false
    }

    /// Keeps what was read, in place of what was kept of `path` before.
    pub(super) fn put(&self, path: &StorePath, facts: Facts, content: &[u8]) {
        let hash = self.hash(path);
        let entry = Entry {
            hash,
            path: path.as_c_str().to_owned(),
            kept: Arc::new(Kept {
                facts,
                content: content.into(),
                note: OnceLock::new(),
                read: clock::coarse_ms(),
                was_used: AtomicBool::new(false),
            }),
        };
        let bytes = entry.bytes();
        if bytes > self.room {
            return;
        }
        let mut shard = self.shard(hash);
        // Freed behind the lock.
        let _before = shard.remove(hash);
        let mut left = Vec::new();
        while shard.bytes + bytes > self.room {
            left.extend(shard.evict());
        }
        shard.bytes += bytes;
        let place = shard.entries.insert(entry);
        shard.places.insert(hash, place);
        drop(shard);
    }

    /// Forgets `path`.
    pub(super) fn remove(&self, path: &StorePath) {
        let hash = self.hash(path);
        let _left = self.shard(hash).remove(hash);
    }
}

impl Shard {
    fn remove(&mut self, hash: u64) -> Option<Entry> {
        let place = self.places.remove(&hash)?;
        let entry = self.entries.remove(place);
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// Takes out the next one that was not used since the hand came by. There
    /// is one.
    fn evict(&mut self) -> Option<Entry> {
        loop {
            if self.hand >= self.entries.capacity() {
                self.hand = 0;
            }
            let here = self.hand;
            self.hand += 1;
            let Some(entry) = self.entries.get(here) else {
                if self.entries.is_empty() {
                    return None;
                }
                continue;
            };
            if !entry.kept.was_used.swap(false, Ordering::Relaxed) {
                let hash = entry.hash;
                return self.remove(hash);
            }
        }
    }
}
