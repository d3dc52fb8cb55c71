//! What was read of small files lately. A copy is never trusted: whoever uses
//! one has asked the kernel in the same request whether the file is still the
//! one that was read (`Store::find`). So it saves the open, the read and the
//! close, not the look; and it holds no descriptor, so that a disk can be
//! unmounted.
//!
//! It is one worker's own, bounded in bytes. A file is kept when it is read for
//! the second time within a while, and leaves when others need its room and it
//! was not used since the hand came by (second chance).

mod seen;

use super::path::StorePath;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::clock;
use crate::sys::file::Facts;
use seen::Seen;
use slab::Slab;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// A longer file is not kept. Bytes.
pub const MAX_KEPT: u64 = 64 * 1024;

/// A copy is read anew after so long, whatever the kernel says: writes through a
/// shared mapping of the file (mmap) need not show in its times. Milliseconds.
const LASTS_MS: u64 = 10_000;

/// Locks that threads can hold at the same time; a power of two.
const SHARDS: usize = 16;

/// Once the cache is full each so manieth file that is worth it comes in. More
/// files than it holds, read in turns, would all be copied for nothing.
const PUSHES_EVERY: u32 = 16;

/// So many of those that would have to leave are asked whether they are old.
const LOOKS_AT: usize = 8;

/// What a copy takes besides its path, content and note. Bytes, about.
const OVERHEAD: usize = 450;

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

    /// Whether it must be read anew, whatever the kernel says.
    fn is_old(&self, now: u64) -> bool {
        now.saturating_sub(self.read) >= LASTS_MS
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

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

/// See the module.
pub(super) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    /// Bytes that each may hold. 0: nothing is kept.
    room: usize,
    hashing: RandomState,
    seen: Seen,
    /// Files that would have pushed others out.
    pushed: AtomicU32,
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
            seen: Seen::new(bytes),
            pushed: AtomicU32::new(0),
        }
    }

    /// Whether anything is ever kept.
    pub(super) fn keeps_any(&self) -> bool {
        self.room > 0
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
        if !self.keeps_any() {
            return None;
        }
        let hash = self.hash(path);
        let shard = self.shard(hash);
        let entry = &shard.entries[*shard.places.get(&hash)?];
        if *entry.path != *path.as_c_str() || entry.kept.is_old(now()) {
            return None;
        }
        // Written only where it changes: other cores read it, too.
        if !entry.kept.was_used.load(Ordering::Relaxed) {
            entry.kept.was_used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.kept))
    }

    /// Whether `path` is worth to be kept: it can be, and has been read before,
    /// lately. Where others would have to leave for it that are of use still, one
    /// of some is.
    pub(super) fn wants(&self, path: &StorePath, len: u64) -> bool {
        let bytes = cost(path.as_c_str(), len as usize);
        if len > MAX_KEPT || bytes > self.room {
            return false;
        }
        let hash = self.hash(path);
        if !self.seen.again(hash) {
            return false;
        }
        let has_room = self
            .shard(hash)
            .has_room(hash, bytes, self.room, clock::coarse_ms());
        has_room
            || self
                .pushed
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(PUSHES_EVERY)
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
        let (mut left, now) = (Vec::new(), clock::coarse_ms());
        while shard.bytes + bytes > self.room {
            left.extend(shard.evict(now));
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
    /// Whether so many bytes need not push out anybody but the one of this hash,
    /// or one that is too old to be served.
    fn has_room(&self, hash: u64, bytes: usize, room: usize, now: u64) -> bool {
        let own = self.places.get(&hash).map(|place| &self.entries[*place]);
        if self.bytes - own.map_or(0, Entry::bytes) + bytes <= room {
            return true;
        }
        // Those whom the hand will come to first.
        let places = (self.hand..self.entries.capacity()).chain(0..self.hand);
        let next = places.filter_map(|place| self.entries.get(place));
        next.take(LOOKS_AT).any(|entry| entry.kept.is_old(now))
    }

    fn remove(&mut self, hash: u64) -> Option<Entry> {
        let place = self.places.remove(&hash)?;
        let entry = self.entries.remove(place);
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// Takes out the next one that was not used since the hand came by. There
    /// is one.
    fn evict(&mut self, now: u64) -> Option<Entry> {
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
            let was_used = entry.kept.was_used.swap(false, Ordering::Relaxed);
            if !was_used || entry.kept.is_old(now) {
                let hash = entry.hash;
                return self.remove(hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Kind;

    fn path(name: &str) -> StorePath {
        StorePath::parse(format!("/dev1/{name}").as_bytes()).expect("a path")
    }

    fn facts(inode: u64, size: usize) -> Facts {
        Facts {
            kind: Kind::Regular,
            size: size as u64,
            device: 1,
            inode,
            mode: 0o644,
            mtime: 1,
            mtime_nsec: 0,
            ctime: 1,
            ctime_nsec: 0,
        }
    }

    fn put(cache: &Cache, name: &str, content: &[u8]) {
        cache.put(&path(name), facts(7, content.len()), content);
    }

    /// Names of files whose copies all lie in one shard.
    fn neighbours(cache: &Cache) -> impl Iterator<Item = String> {
        let shard = |name: &str| (cache.hash(&path(name)) >> 32) as usize % SHARDS;
        let first = shard("0");
        (0..)
            .map(|nr: u32| nr.to_string())
            .filter(move |name| shard(name) == first)
    }

    fn bytes(cache: &Cache) -> usize {
        let held = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            let sum: usize = shard.entries.iter().map(|(_, entry)| entry.bytes()).sum();
            assert_eq!(sum, shard.bytes, "the account is true");
            assert_eq!(shard.places.len(), shard.entries.len());
            assert!(sum <= cache.room, "{sum} bytes of {}", cache.room);
            sum
        };
        cache.shards.iter().map(held).sum()
    }

    #[test]
    fn what_was_put_is_there_until_it_is_removed() {
        let cache = Cache::new(1 << 20);
        assert!(cache.get(&path("a")).is_none());
        put(&cache, "a", b"one");
        put(&cache, "b", b"other");
        put(&cache, "a", b"two");
        let kept = cache.get(&path("a")).expect("kept");
        assert_eq!((kept.content(), kept.facts().size), (&b"two"[..], 3));
        let account = 2 * OVERHEAD + 2 * "dev1/a".len() + "two".len() + "other".len();
        assert_eq!(bytes(&cache), account, "in place of what was there");
        cache.remove(&path("a"));
        cache.remove(&path("a"));
        assert!(cache.get(&path("a")).is_none());
        assert!(cache.get(&path("b")).is_some());
        assert_eq!(kept.content(), b"two", "its reader has it still");
        cache.remove(&path("b"));
        assert_eq!(bytes(&cache), 0);
    }

    #[test]
    fn what_can_never_be_kept_is_not_wanted() {
        let none = Cache::new(0);
        let small = Cache::new(SHARDS * 1000);
        let large = Cache::new(64 << 20);
        let room = (1000 - OVERHEAD - "dev1/a".len()) as u64;
        for (cache, len, is_wanted) in [
            (&none, 1, false),
            (&small, room, true),
            (&small, room + 1, false),
            (&large, MAX_KEPT, true),
            (&large, MAX_KEPT + 1, false),
        ] {
            assert!(!cache.wants(&path("a"), len), "{len}, the first time");
            assert_eq!(cache.wants(&path("a"), len), is_wanted, "{len}");
        }
        put(&small, "a", &vec![0; room as usize + 1]);
        put(&none, "a", b"");
        assert_eq!((bytes(&small), bytes(&none)), (0, 0));
        assert!(none.get(&path("a")).is_none());
        put(&small, "a", &vec![0; room as usize]);
        assert_eq!(bytes(&small), 1000, "to the last byte");
    }

    #[test]
    fn it_holds_no_more_than_its_room() {
        let cache = Cache::new(256 << 10);
        for nr in 0..3000_usize {
            put(&cache, &nr.to_string(), &vec![0; nr * 37 % 9000]);
            if nr % 100 == 0 {
                bytes(&cache);
            }
        }
        assert!(bytes(&cache) > 128 << 10, "and most of that");
    }

    #[test]
    fn who_is_used_stays_when_others_leave() {
        let cache = Cache::new(SHARDS * 4 * (OVERHEAD + 100));
        let mut names = neighbours(&cache);
        let content = [0; 80];
        let used = names.next().expect("a name");
        put(&cache, &used, &content);
        let last = names.by_ref().take(40).inspect(|name| {
            assert!(cache.get(&path(&used)).is_some(), "before {name}");
            put(&cache, name, &content);
        });
        let last = last.last().expect("a name");
        assert!(cache.get(&path(&last)).is_some());
        // Whoever was used once has one chance more, not for ever.
        for name in names.take(8) {
            put(&cache, &name, &content);
            // All that are there were used: somebody leaves nevertheless.
            assert!(cache.get(&path(&name)).is_some());
        }
        assert!(cache.get(&path(&used)).is_none());
    }

    #[test]
    fn a_full_cache_lets_in_whoever_pushes_out_nobody_of_use() {
        let cache = Cache::new(1 << 20);
        let names: Vec<String> = neighbours(&cache).take(400).collect();
        let content = [0; 1000];
        names.iter().for_each(|name| put(&cache, name, &content));
        let (here, gone) = (&names[399], &names[0]);
        assert!(cache.get(&path(gone)).is_none(), "it is full");
        let wanted = |name: &str| {
            let times = (0..160).filter(|_| cache.wants(&path(name), 1000));
            times.count()
        };
        assert!(wanted(here) >= 159, "in its own place");
        assert!((9..=11).contains(&wanted(gone)), "one of sixteen");
        let hash = cache.hash(&path(gone));
        let has_room = |later: u64| {
            let now = clock::coarse_ms() + later;
            cache.shard(hash).has_room(hash, 1500, cache.room, now)
        };
        assert!(!has_room(0) && has_room(LASTS_MS), "in an old one's place");
    }

    #[test]
    fn a_copy_lasts_its_time_and_no_longer() {
        let cache = Cache::new(1 << 20);
        let before = clock::coarse_ms();
        put(&cache, "a", b"one");
        let after = clock::coarse_ms();
        let lasts = |now: u64| cache.get_at(&path("a"), || now).is_some();
        assert!(lasts(before + LASTS_MS - 1));
        assert!(!lasts(after + LASTS_MS));
        // A Tick would take it for new again.
        assert!(!lasts(after + u64::from(u32::MAX / 2) + 2 * LASTS_MS));
        assert!(!lasts(after + u64::from(u32::MAX) + LASTS_MS));
        // Another thread's clock may be a tick ahead.
        assert!(lasts(before - 1));
    }

    #[test]
    fn of_two_paths_with_one_hash_one_is_kept() {
        let cache = Cache::new(1 << 20);
        put(&cache, "a", b"one");
        let hash = cache.hash(&path("a"));
        // As if "b" had the hash of "a", and came later.
        let mut shard = cache.shard(hash);
        let place = shard.places[&hash];
        shard.entries[place].path = path("b").as_c_str().to_owned();
        drop(shard);
        assert!(cache.get(&path("a")).is_none(), "not the other one's bytes");
        put(&cache, "a", b"one");
        assert_eq!(cache.get(&path("a")).expect("kept").content(), b"one");
        assert_eq!(bytes(&cache), OVERHEAD + "dev1/a".len() + "one".len());
    }

    #[test]
    fn a_note_is_made_once() {
        let cache = Cache::new(1 << 20);
        put(&cache, "a", b"one");
        let note = |text: &[u8]| Note {
            text: text.into(),
            place: 1,
        };
        let kept = |cache: &Cache| cache.get(&path("a")).expect("kept");
        assert_eq!(&*kept(&cache).note(|| note(b"first")).text, b"first");
        assert_eq!(&*kept(&cache).note(|| note(b"second")).text, b"first");
        put(&cache, "a", b"two");
        assert_eq!(&*kept(&cache).note(|| note(b"third")).text, b"third");
    }
}
