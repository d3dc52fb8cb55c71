//! The text of a utilization report.

use crate::scoreboard::device_id;
use std::ops::Deref;

/// A report: a line `N TAB UTIL LF` for each device of these that is a `devN`,
/// in ascending order, and `.` LF. An unknown utilization is `-`.
pub fn report<N, U>(devices: impl Iterator<Item = (N, Option<U>)>) -> Vec<u8>
where
    N: Deref<Target = [u8]>,
    U: Deref<Target = [u8]>,
{
    let mut lines: Vec<(u32, Option<U>)> = devices
        .filter_map(|(name, util)| Some((device_id(&name)?, util)))
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
