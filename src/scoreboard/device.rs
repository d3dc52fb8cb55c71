//! A device's line: which one it is, how busy, and whether it lives.

use super::Line;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::Ordering;

/// Devices of all sites together.
pub const MAX_DEVICES: usize = 1024;

/// Bytes of a device's name; one with a longer name has no line.
pub const MAX_NAME: usize = 32;

/// The greatest number of a MogileFS device: a tracker's database has 24 bits
/// for it.
pub const MAX_ID: u32 = (1 << 24) - 1;

/// What stands where: the name in four words, padded by NUL.
const WORDS: usize = MAX_NAME / 8;
/// The number of its site, plus one; 0: the line is free.
const SITE: usize = 4;
/// Seven characters at most, padded by NUL.
const UTIL: usize = 5;
const STATE: usize = 6;
/// How often a worker saw it hang.
const SUSPECTED: usize = 7;

/// What is known of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Device {
    Unknown = 0,
    Good = 1,
    ReadOnly = 2,
    Full = 3,
    /// Its probe meets I/O errors.
    Failing = 4,
    /// Its probe does not come back.
    Dead = 5,
}

/// A device's name: the first segment of its paths.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
}

impl Name {
    /// None: empty, longer than [`MAX_NAME`], or with a NUL in it.
    pub fn new(name: &[u8]) -> Option<Name> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
            return None;
        }
        let mut bytes = [0; MAX_NAME];
        bytes[..name.len()].copy_from_slice(name);
        Some(Name {
            bytes,
            len: name.len() as u8,
        })
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a MogileFS device: `dev` and decimal digits, at most
/// [`MAX_ID`], and nothing else.
pub fn device_id(name: &[u8]) -> Option<u32> {
    let digits = name.strip_prefix(b"dev")?;
    // parse() would take a sign; of nothing it makes nothing.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let id = str::from_utf8(digits).ok()?.parse().ok()?;
    (id <= MAX_ID).then_some(id)
}

/// A utilization as it is reported: at most seven characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Util([u8; 8]);

impl Util {
    /// None: nothing, or longer than that.
    pub fn new(text: &str) -> Option<Util> {
        let mut bytes = [0; 8];
        if text.is_empty() || text.len() > 7 {
            return None;
        }
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Util(bytes))
    }
}

impl Deref for Util {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(self.0.len());
        &self.0[..len]
    }
}

/// One device's line.
pub struct Row<'a>(pub(super) &'a Line);

impl Row<'_> {
    pub(super) fn is_taken(&self) -> bool {
        self.0[SITE].load(Ordering::Acquire) != 0
    }

    pub(super) fn take(&self, site: usize, name: Name) {
        for (word, bytes) in self.0[..WORDS].iter().zip(name.bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        self.0[UTIL].store(0, Ordering::Relaxed);
        self.0[STATE].store(Device::Unknown as u64, Ordering::Relaxed);
        // Last: who sees the site sees the rest.
        self.0[SITE].store(site as u64 + 1, Ordering::Release);
    }

    pub(super) fn free(&self) {
        self.0[SITE].store(0, Ordering::Release);
    }

    /// Its site and its name; None when the line is free, or changing hands.
    pub fn device(&self) -> Option<(usize, Name)> {
        let site = self.0[SITE].load(Ordering::Acquire).checked_sub(1)?;
        let mut bytes = [0; MAX_NAME];
        for (word, bytes) in self.0[..WORDS].iter().zip(bytes.as_chunks_mut::<8>().0) {
            *bytes = word.load(Ordering::Acquire).to_ne_bytes();
        }
        let again = self.0[SITE].load(Ordering::Acquire).checked_sub(1)?;
        let len = bytes.iter().position(|&b| b == 0).unwrap_or(MAX_NAME);
        (site == again && len > 0).then_some((
            site as usize,
            Name {
                bytes,
                len: len as u8,
            },
        ))
    }

    /// How busy it is; None: nobody knows.
    pub fn util(&self) -> Option<Util> {
        let bytes = self.0[UTIL].load(Ordering::Acquire).to_ne_bytes();
        (bytes[0] != 0).then_some(Util(bytes))
    }

    /// Publishes how busy it is, for the next report.
    pub fn set_util(&self, util: Option<Util>) {
        let bytes = util.map_or([0; 8], |util| util.0);
        self.0[UTIL].store(u64::from_ne_bytes(bytes), Ordering::Release);
    }

    /// Whether it lives.
    pub fn state(&self) -> Device {
        match self.0[STATE].load(Ordering::Acquire) {
            1 => Device::Good,
            2 => Device::ReadOnly,
            3 => Device::Full,
            4 => Device::Failing,
            5 => Device::Dead,
            _ => Device::Unknown,
        }
    }

    /// The elected worker knows.
    pub fn set_state(&self, state: Device) {
        self.0[STATE].store(state as u64, Ordering::Release);
    }

    /// How often a worker saw calls on it hang.
    pub fn suspected(&self) -> u64 {
        self.0[SUSPECTED].load(Ordering::Acquire)
    }

    pub(super) fn suspect(&self) {
        self.0[SUSPECTED].fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn a_device_keeps_its_line() {
        let board = Scoreboard::new().unwrap();
        let one = board.place(0, b"dev1").unwrap();
        let other = board.place(1, b"dev1").unwrap();
        assert_ne!(one, other);
        assert_eq!(board.place(0, b"dev1"), Some(one));
        let layout = board.layout();
        board.free(one);
        assert_ne!(board.layout(), layout);
        assert_eq!(board.row(one).device(), None);
        let names: Vec<_> = board.rows().filter_map(|(_, row)| row.device()).collect();
        assert_eq!(names, [(1, Name::new(b"dev1").unwrap())]);
        assert_eq!(board.place(0, &[b'x'; MAX_NAME + 1]), None);
        let longest = [b'x'; MAX_NAME];
        let nr = board.place(0, &longest).unwrap();
        assert_eq!(&*board.row(nr).device().unwrap().1, &longest);
    }

    #[test]
    fn numbers_of_mogilefs() {
        for (name, number) in [
            ("dev0", Some(0)),
            ("dev1", Some(1)),
            ("dev007", Some(7)),
            ("dev16777215", Some(MAX_ID)),
            ("dev16777216", None),
            ("dev99999999999999999999", None),
            ("dev", None),
            ("dev+1", None),
            ("dev-1", None),
            ("dev1a", None),
            ("dev1x", None),
            ("Dev1", None),
            ("xdev1", None),
            ("disk", None),
            ("", None),
        ] {
            assert_eq!(device_id(name.as_bytes()), number, "{name}");
        }
    }

    #[test]
    fn utilization_is_told_as_it_was_said() {
        let board = Scoreboard::new().unwrap();
        let nr = board.place(0, b"dev1").unwrap();
        assert_eq!(board.row(nr).util(), None);
        board.row(nr).set_util(Util::new("100.00"));
        assert_eq!(&*board.row(nr).util().unwrap(), b"100.00");
        assert_eq!(Util::new("12345678"), None);
    }
}
