//! What every black-box test stands on: a server that is reaped whatever happens (`server`), a client that
//! sees raw bytes (`conn`), replies that are checked against the wire contract as they are parsed
//! (`response`), and waiting for facts instead of sleeping (here).

#[cfg(target_os = "linux")]
mod cc;
pub mod conn;
#[cfg(target_os = "linux")]
pub mod fault;
#[cfg(target_os = "linux")]
pub mod fuse;
#[cfg(target_os = "linux")]
pub mod hang;
mod kernel;
pub mod response;
pub mod sandbox;
pub mod server;
#[cfg(target_os = "linux")]
pub mod tree;

pub use conn::Conn;
pub use response::Response;
pub use server::Server;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for a fact before it fails. Long beside anything the server does (two cores run the
/// whole suite at once), short enough that a hanging server fails a test within twenty seconds.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// Waits until `fact` gives a value; fails the test, naming the fact, when the deadline passes first.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut fact: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Waits until `fact` holds.
#[track_caller]
pub fn eventually(what: &str, deadline: Duration, mut fact: impl FnMut() -> bool) {
    wait_for(what, deadline, || fact().then_some(()))
}

/// Bytes in which no two stretches look alike, so that a piece sent from a wrong offset is noticed.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Compares long bodies without printing megabytes when they differ.
#[track_caller]
pub fn assert_same(got: &[u8], want: &[u8], what: &str) {
    if got == want {
        return;
    }
    let at = got
        .iter()
        .zip(want)
        .position(|(a, b)| a != b)
        .unwrap_or(got.len().min(want.len()));
    panic!(
        "{what}: {} bytes, wanted {}; they differ first at offset {at}",
        got.len(),
        want.len()
    );
}

/// The value of a Content-MD5 header for these bytes.
pub fn content_md5(bytes: &[u8]) -> String {
    use md5::{Digest, Md5};
    base64(&Md5::digest(bytes))
}

/// The same digest as the sidechannel writes it.
pub fn hex_md5(bytes: &[u8]) -> String {
    use md5::{Digest, Md5};
    let hex = |byte: &u8| format!("{byte:02x}");
    Md5::digest(bytes).iter().map(hex).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

/// Bytes as one readable line, for the message of a failed assertion.
pub fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(600)];
    let more = if cut.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{more}\"", cut.escape_ascii())
}

/// Ends a helper thread's loop when the test's own thread is through with it, also by a failed assertion:
/// otherwise the test would wait for that thread instead of failing.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
