//! The kernel's side of the one-shot queue. Two twins with the same names in
//! them: `epoll` (Linux) and `kqueue` (FreeBSD; on Linux over libkqueue with
//! `--cfg queue_kqueue`, so that it can be run there).

#[cfg_attr(any(target_os = "freebsd", queue_kqueue), path = "kqueue.rs")]
#[cfg_attr(not(any(target_os = "freebsd", queue_kqueue)), path = "epoll.rs")]
mod twin;

pub use twin::Selector;

/// What a parked client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until bytes (or the end) can be read.
    Read,
    /// Until bytes can be written.
    Write,
    /// "Still active": there is work that needs no event; to the back of the
    /// line, so that others get their turn.
    ReadWrite,
}

/// What the selector says when a consumer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The descriptor that was armed with this token; it is disarmed now.
    Ready(u64),
    /// The poison: the waiter shall re-arm it and leave.
    Poison,
    /// The timeout passed.
    Timeout,
}
