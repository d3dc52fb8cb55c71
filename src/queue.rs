//! The one-shot queue: it owns every client that no thread is serving.
//!
//! `next` moves a client out to a consumer, `rearm` moves it back in: one owner
//! at a time is a move, not a comment. The kernel knows only a token; a late
//! event for a client that has gone finds nothing and is dropped.

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sys::selector::{Event, Selector};
use slab::Slab;
use std::io;
use std::num::NonZeroU32;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::time::Duration;

pub use crate::sys::selector::Wait;

/// What a client asks of the queue when its turn ends.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Park it until this.
    Rearm(Wait),
    /// It is done, or hopeless: close it.
    Close,
    /// Another owner takes it for now; the client knows who.
    Detach,
}

/// What a wait for clients came to.
pub enum Woken<T> {
    By(Turn<T>),
    /// The consumer has passed the poison on and shall leave.
    Poisoned,
    /// Nobody came in time.
    Late,
}

/// Locks that threads can hold at the same time; a power of two.
const SHARDS: usize = 16;
const SHARD_BITS: u32 = SHARDS.trailing_zeros();
const KEY_BITS: u32 = 32 - SHARD_BITS;
/// Clients that one shard can park: below the poison's token.
const MAX_KEYS: usize = (1 << KEY_BITS) - 1;

/// By so many places a shard grows, or by an eighth: half of what doubling takes
/// would be empty, and of idle clients each byte counts.
const LEAST_GROWTH: usize = 64;

/// A belt against wake-ups that some kernels lose (5.1 to 5.5): consumers look
/// again after this, though nothing was announced.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Where a client is parked: slab reuses keys at once, so without a generation
/// a late event could hit the next client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    shard: usize,
    key: usize,
    generation: NonZeroU32,
}

impl Token {
    fn to_u64(self) -> u64 {
        (u64::from(self.generation.get()) << 32) | ((self.key << SHARD_BITS) | self.shard) as u64
    }

    /// None: no token of ours.
    fn from_u64(raw: u64) -> Option<Token> {
        let place = raw as u32 as usize;
        Some(Token {
            shard: place % SHARDS,
            key: place >> SHARD_BITS,
            generation: NonZeroU32::new((raw >> 32) as u32)?,
        })
    }
}

/// Small, and with a value that is none, for which the slab's vacant places use
/// it: there are as many as there were ever clients at once.
struct Slot<T> {
    generation: NonZeroU32,
    /// None while a consumer has it.
    client: Option<Box<T>>,
}

struct Shard<T> {
    slots: Slab<Slot<T>>,
    next_generation: NonZeroU32,
}

impl<T> Shard<T> {
    fn slot(&mut self, token: Token) -> Option<&mut Slot<T>> {
        self.slots
            .get_mut(token.key)
            .filter(|slot| slot.generation == token.generation)
    }
}

/// See the module.
pub struct Queue<T> {
    selector: Selector,
    shards: [Mutex<Shard<T>>; SHARDS],
    /// New clients are dealt out in turn.
    next_shard: AtomicUsize,
    len: AtomicUsize,
}

/// A client that is out of the queue for one turn, with its place kept.
#[must_use = "a turn ends by rearm or close"]
pub struct Turn<T> {
    token: Token,
    client: Box<T>,
}

impl<T> Deref for Turn<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.client
    }
}

impl<T> DerefMut for Turn<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.client
    }
}

impl<T: AsFd> Queue<T> {
    /// An empty queue of this process. Make it after the fork.
    pub fn new() -> io::Result<Queue<T>> {
        Ok(Queue {
            selector: Selector::new()?,
            shards: std::array::from_fn(|_| {
                Mutex::new(Shard {
                    slots: Slab::new(),
                    next_generation: NonZeroU32::MIN,
                })
            }),
            next_shard: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
        })
    }

    /// Clients that it knows: parked, or out for their turn.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether no client is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Parks a new client until this. The error gives it back (the kernel is out
    /// of memory or of watches, or this shard is full).
    pub fn add(&self, client: Box<T>, wait: Wait) -> Result<(), (Box<T>, io::Error)> {
        let nr = self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut shard = self.shards[nr].lock();
        if shard.slots.len() >= MAX_KEYS {
            return Err((client, io::Error::from_raw_os_error(libc::ENOMEM)));
        }
        if shard.slots.len() == shard.slots.capacity() {
            let more = LEAST_GROWTH.max(shard.slots.len() / 8);
            shard.slots.reserve_exact(more);
        }
        let generation = shard.next_generation;
        shard.next_generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let key = shard.slots.insert(Slot {
            generation,
            client: None,
        });
        let token = Token {
            shard: nr,
            key,
            generation,
        };
        // Armed under the lock: whoever gets the event waits for it, and finds
        // the client parked.
        match self.selector.add(client.as_fd(), token.to_u64(), wait) {
            Ok(()) => {
                shard.slots[key].client = Some(client);
                self.len.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            Err(e) => {
                shard.slots.remove(key);
                Err((client, e))
            }
        }
    }

    /// Waits for a client that is ready and takes it out.
    pub fn next(&self, at_most: Duration) -> io::Result<Woken<T>> {
        loop {
            match self.selector.wait(at_most) {
                Ok(Event::Ready(raw)) => {
                    let Some(token) = Token::from_u64(raw) else {
                        continue;
                    };
                    let mut shard = self.shards[token.shard].lock();
                    if let Some(client) = shard.slot(token).and_then(|slot| slot.client.take()) {
                        return Ok(Woken::By(Turn { token, client }));
                    }
                }
                Ok(Event::Poison) => {
                    self.selector.pass_poison()?;
                    return Ok(Woken::Poisoned);
                }
                Ok(Event::Timeout) => return Ok(Woken::Late),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Ends a turn: parks the client again and arms it. After this another
    /// thread may be serving it already.
    pub fn rearm(&self, turn: Turn<T>, wait: Wait) -> io::Result<()> {
        let Turn { token, client } = turn;
        let mut shard = self.shards[token.shard].lock();
        match self.selector.rearm(client.as_fd(), token.to_u64(), wait) {
            Ok(()) => {
                // Its slot is there: only its own turn or retain (of parked
                // clients) removes one.
                if let Some(slot) = shard.slot(token) {
                    slot.client = Some(client);
                }
                Ok(())
            }
            Err(e) => {
                drop(shard);
                self.close(Turn { token, client });
                Err(e)
            }
        }
    }

    /// Ends a turn: parks the client without arming it. Nothing of its socket
    /// is reported until somebody [calls](Queue::call) it.
    pub fn park(&self, turn: Turn<T>) -> Token {
        let Turn { token, client } = turn;
        if let Some(slot) = self.shards[token.shard].lock().slot(token) {
            slot.client = Some(client);
        }
        token
    }

    /// Tells something to a parked client and gives it to a consumer at once.
    /// Nothing happens (and the message is dropped) when it has gone.
    pub fn call(&self, token: Token, message: impl FnOnce(&mut T)) {
        let mut shard = self.shards[token.shard].lock();
        let Some(slot) = shard.slot(token) else {
            return;
        };
        let Some(client) = slot.client.as_mut() else {
            return;
        };
        message(client);
        let socket = client.as_fd();
        // A broken socket is writable too, so this is "at once" whatever it is.
        if self
            .selector
            .rearm(socket, token.to_u64(), Wait::ReadWrite)
            .is_err()
        {
            let lost = slot.client.take();
            drop(shard);
            if let Some(client) = lost {
                self.close(Turn { token, client });
            }
        }
    }

    /// Ends a turn and the client.
    pub fn close(&self, turn: Turn<T>) {
        let Turn { token, client } = turn;
        self.selector.forget(client.as_fd());
        self.shards[token.shard].lock().slots.remove(token.key);
        // The token is dead; only now may the descriptor's number be reused.
        drop(client);
        self.len.fetch_sub(1, Ordering::AcqRel);
    }

    /// Looks at every parked client in place and drops those for which `keep`
    /// says no; returns how many. Clients that are out for a turn are not seen.
    pub fn retain(&self, mut keep: impl FnMut(&mut T) -> bool) -> usize {
        let mut dropped = 0;
        for shard in &self.shards {
            let mut leaving = Vec::new();
            shard.lock().slots.retain(|_, slot| {
                let stays = slot.client.as_deref_mut().is_none_or(&mut keep);
                if !stays {
                    leaving.extend(slot.client.take());
                }
                stays
            });
            // Closed outside the lock: an upload has a file to give back.
            for client in &leaving {
                self.selector.forget(client.as_fd());
            }
            dropped += leaving.len();
        }
        self.len.fetch_sub(dropped, Ordering::AcqRel);
        dropped
    }

    /// Tells all consumers to leave: each one's `next` returns None. Call it
    /// again until all have left, should the kernel drop a wake-up.
    pub fn poison(&self) -> io::Result<()> {
        self.selector.poison()
    }
}

#[cfg(test)]
impl<T> Turn<T> {
    /// For a fault of the model check: its token while it is out.
    pub fn token(&self) -> Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_survives_the_kernel() {
        let token = Token {
            shard: 15,
            key: MAX_KEYS - 1,
            generation: NonZeroU32::MAX,
        };
        assert_eq!(Token::from_u64(token.to_u64()), Some(token));
        assert_ne!(token.to_u64(), u64::MAX, "the poison's token");
    }

    #[test]
    fn a_slot_is_small() {
        /// As the slab has it.
        enum Entry {
            _Vacant(usize),
            _Occupied(Slot<String>),
        }
        assert_eq!(size_of::<Entry>(), 16);
    }
}
