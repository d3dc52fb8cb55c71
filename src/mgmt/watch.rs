//! The text of a utilization report.

use std::ops::Deref;

/// The greatest number that the name of a device can have.
pub const MAX_DEVICE: u32 = 16_777_215;

/// `devN`: its number. None for a directory that is no device of MogileFS.
pub fn device_number(name: &[u8]) -> Option<u32> {
    let digits = name.strip_prefix(b"dev")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number <= MAX_DEVICE).then_some(number)
}

/// A report: a line `N TAB UTIL LF` for each device of these that is a `devN`,
/// in ascending order, and `.` LF. An unknown utilization is `-`.
pub fn report<N, U>(devices: impl Iterator<Item = (N, Option<U>)>) -> Vec<u8>
where
    N: Deref<Target = [u8]>,
    U: Deref<Target = [u8]>,
{
    let mut lines: Vec<(u32, Option<U>)> = devices
        .filter_map(|(name, util)| Some((device_number(&name)?, util)))
        .collect();
    lines.sort_by_key(|(number, _)| *number);
    let mut text = Vec::new();
    for (number, util) in &lines {
        text.extend_from_slice(number.to_string().as_bytes());
        text.push(b'\t');
        text.extend_from_slice(util.as_ref().map_or(b"-", |util| util));
        text.push(b'\n');
    }
    text.extend_from_slice(b".\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (name, number) in [
            ("dev0", Some(0)),
            ("dev1", Some(1)),
            ("dev007", Some(7)),
            ("dev16777215", Some(MAX_DEVICE)),
            ("dev16777216", None),
            ("dev99999999999999999999", None),
            ("dev", None),
            ("dev+1", None),
            ("dev-1", None),
            ("dev1a", None),
            ("Dev1", None),
            ("xdev1", None),
            ("disk", None),
            ("", None),
        ] {
            assert_eq!(device_number(name.as_bytes()), number, "{name}");
        }
    }

    #[test]
    fn reports() {
        let rows = [
            ("dev10", Some("0.40")),
            ("disk", Some("1.00")),
            ("dev2", None),
            ("dev1", Some("100.00")),
        ];
        let rows = rows.map(|(name, util)| (name.as_bytes(), util.map(str::as_bytes)));
        assert_eq!(report(rows.into_iter()), b"1\t100.00\n2\t-\n10\t0.40\n.\n");
        assert_eq!(report(std::iter::empty::<(&[u8], Option<&[u8]>)>()), b".\n");
    }
}
