//! Clocks: monotonic for deadlines, real time for `Date` alone.

use std::sync::OnceLock;

#[cfg(target_os = "linux")]
const MONOTONIC_COARSE: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
#[cfg(target_os = "freebsd")]
const MONOTONIC_COARSE: libc::clockid_t = libc::CLOCK_MONOTONIC_FAST;

#[cfg(target_os = "linux")]
const BOOTTIME: libc::clockid_t = libc::CLOCK_BOOTTIME;
/// Its monotonic clock is the one that stands still, if any does.
#[cfg(target_os = "freebsd")]
const BOOTTIME: libc::clockid_t = libc::CLOCK_MONOTONIC;

#[cfg(target_os = "linux")]
const REALTIME_COARSE: libc::clockid_t = libc::CLOCK_REALTIME_COARSE;
#[cfg(target_os = "freebsd")]
const REALTIME_COARSE: libc::clockid_t = libc::CLOCK_REALTIME_FAST;

fn get(clock: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid place for one timespec. The call can fail only
    // for a clock that the kernel does not have; the ones of this file are older
    // than any kernel that runs the rest.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now
}

/// A moment of the monotonic clock in milliseconds, good to a few of them
/// (the kernel's tick). It wraps after 49 days: compare by [`Tick::since`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    /// Now, without a system call (vDSO, coarse).
    pub fn now() -> Tick {
        Tick(coarse_ms() as u32)
    }

    /// The same moment as [`monotonic_ns`] gave it, or a tick later than
    /// [`Tick::now`] would have.
    pub fn of_ns(ns: u64) -> Tick {
        Tick((ns / 1_000_000) as u32)
    }

    /// For a place among other bits.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// See [`Tick::to_bits`].
    pub fn from_bits(bits: u32) -> Tick {
        Tick(bits)
    }

    /// Milliseconds from `earlier` to this moment, for spans below 24 days;
    /// 0 when `earlier` is not earlier (another thread's clock may be a tick
    /// ahead).
    pub fn since(self, earlier: Tick) -> u32 {
        let span = self.0.wrapping_sub(earlier.0);
        if span > u32::MAX / 2 { 0 } else { span }
    }
}

/// What [`Tick::now`] is made of, for spans that may be longer than its own.
pub fn coarse_ms() -> u64 {
    let now = get(MONOTONIC_COARSE);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Whether that moment of [`coarse_ms`] is less than so many milliseconds ago; 0
/// is no moment, but "never".
pub fn was_within(when: u64, ms: u64) -> bool {
    when > 0 && coarse_ms().saturating_sub(when) < ms
}

/// Nanoseconds of the monotonic clock, precise.
pub fn monotonic_ns() -> u64 {
    let now = get(libc::CLOCK_MONOTONIC);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Milliseconds of the monotonic clock: the same in all processes of the
/// machine, so the scoreboard can carry it.
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// How long the machine has been suspended since it was booted, in
/// milliseconds, good to one of them: a difference between two looks is
/// evidence that clocks and processes stood still between them. Always 0 where
/// the system does not tell (FreeBSD).
pub fn suspended_ms() -> u64 {
    let ns = |clock| {
        let now = get(clock);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    };
    // In this order: what passes between the two calls is not counted.
    let booted = ns(BOOTTIME);
    booted.saturating_sub(ns(libc::CLOCK_MONOTONIC)) / 1_000_000
}

/// Seconds since the epoch, without a system call.
pub fn unix_seconds() -> u64 {
    get(REALTIME_COARSE).tv_sec as u64
}

/// A number that differs between processes and starts: it seeds names of
/// temporary files.
pub fn seed() -> u64 {
    static START: OnceLock<u64> = OnceLock::new();
    let start = *START.get_or_init(monotonic_ns);
    monotonic_ns() ^ start.rotate_left(32)
}
