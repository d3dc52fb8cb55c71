//! Which devices there are.

use crate::scoreboard::{Name, Scoreboard};
use std::io;
use std::path::Path;

/// Gives every device of a docroot its line on the scoreboard; returns how many
/// of them MogileFS knows. For the master, before it forks.
pub fn survey(site: usize, docroot: &Path, board: &Scoreboard) -> usize {
    let names = names(docroot).unwrap_or_default();
    place(site, &names, board);
    names
        .iter()
        .filter(|name| device_id(name).is_some())
        .count()
}

/// The directories (and symlinks, which may lead to some) of a docroot. No
/// device is touched. Names that no line can have are left out: those are
/// served, and share the docroot's lane.
pub(super) fn names(docroot: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(docroot)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if (kind.is_dir() || kind.is_symlink()) && !name.starts_with(b".") {
            names.extend(Name::new(name));
        }
    }
    Ok(names)
}

/// These devices have a line; says so when there are more of them than lines.
pub(super) fn place(site: usize, names: &[Name], board: &Scoreboard) {
    let placed = names
        .iter()
        .filter(|name| board.place(site, name).is_some())
        .count();
    if placed < names.len() {
        log::warn!(
            "{} devices are too many: {} of them share one lane and are not probed",
            names.len(),
            names.len() - placed
        );
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        assert_eq!(device_id(b"dev1"), Some(1));
        assert_eq!(device_id(b"dev007"), Some(7));
        assert_eq!(device_id(b"dev16777215"), Some(16_777_215));
        for other in [
            "dev",
            "dev16777216",
            "dev+1",
            "dev1 ",
            "Dev1",
            "dev-1",
            "xdev1",
            "dev1x",
        ] {
            assert_eq!(device_id(other.as_bytes()), None, "{other}");
        }
    }
}
