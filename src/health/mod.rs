//! What the one elected worker does: it looks after the devices.

use crate::scoreboard::Scoreboard;
use std::path::Path;

/// Gives every device of a docroot its line on the scoreboard; returns how many
/// of them MogileFS knows (`dev` and a number). For the elected worker, and for
/// the master before it forks.
pub fn survey(site: usize, docroot: &Path, board: &Scoreboard) -> usize {
    let mut devices = 0;
    for entry in std::fs::read_dir(docroot).into_iter().flatten().flatten() {
        let is_device = entry
            .file_type()
            .is_ok_and(|kind| kind.is_dir() || kind.is_symlink());
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !is_device || name.starts_with(b".") {
            continue;
        }
        board.place(site, name);
        devices += usize::from(device_id(name).is_some());
    }
    devices
}

/// The number of a MogileFS device: `dev` and decimal digits, at most
/// 16777215, and nothing else.
pub fn device_id(name: &[u8]) -> Option<u32> {
    /// A tracker's database has 24 bits for it.
    const MAX: u32 = (1 << 24) - 1;
    let digits = name.strip_prefix(b"dev")?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits)
        .ok()?
        .parse()
        .ok()
        .filter(|id| *id <= MAX)
}
