//! How busy the disks are, once a second, as iostat says it: `%util`, two
//! decimals. From the kernel's counters, or from what iostat prints.

use super::mounts::Seat;
use crate::scoreboard::Util;
use crate::sys::disk::Number;
use std::collections::HashMap;

/// Milliseconds that each disk was busy, since the machine started; they wrap.
pub type Ticks = HashMap<Number, u32>;

/// Reads the kernel's counters: `254 0 vda 1 2 3 …`, the tenth number behind
/// the name is what is wanted (iostats.rst of the kernel's documentation).
pub fn ticks(text: &str) -> Ticks {
    const TICKS: usize = 9;
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let number = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let ticks: u64 = fields.nth(1 + TICKS)?.parse().ok()?;
        Some((number, ticks as u32))
    };
    text.lines().filter_map(line).collect()
}

/// Utilization of a disk that was busy from one count to the other, which lie
/// `ns` nanoseconds apart.
pub fn percent(before: u32, after: u32, ns: u64) -> Option<Util> {
    let busy_ms = f64::from(after.wrapping_sub(before));
    let percent = busy_ms * 1e6 / ns as f64 * 100.0;
    // A disk cannot be busier; the counters are a tick coarse.
    Util::new(&format!("{:.2}", percent.clamp(0.0, 100.0)))
}

/// A line of a report: the device's word, and its utilization.
pub type Line = (String, Util);

/// Puts reports together from what iostat prints, line by line. A device's line
/// is any that begins with a word and ends with a number; the first other one
/// behind them ends the report.
#[derive(Default)]
pub struct Reports(Vec<Line>);

impl Reports {
    /// Lines of a report, at most; more are left out.
    const LONGEST: usize = 4096;

    /// Takes a line, without its end. Some: it has ended this report.
    pub fn take(&mut self, line: &str) -> Option<Vec<Line>> {
        match device_line(line) {
            Some(device) if self.0.len() < Self::LONGEST => {
                self.0.push(device);
                None
            }
            Some(_) => None,
            None if self.0.is_empty() => None,
            None => Some(std::mem::take(&mut self.0)),
        }
    }

    /// The output has ended, and the report with it.
    pub fn end(&mut self) -> Option<Vec<Line>> {
        Some(std::mem::take(&mut self.0)).filter(|report| !report.is_empty())
    }
}

fn device_line(line: &str) -> Option<Line> {
    if line.starts_with(char::is_whitespace) {
        return None;
    }
    let mut words = line.split_ascii_whitespace();
    let (word, last) = (words.next()?, words.next_back()?);
    // A comma is the decimal point of some languages; not of the trackers'.
    let number = last.replace(',', ".");
    let is_number =
        number.bytes().all(|b| b.is_ascii_digit() || b == b'.') && number.parse::<f64>().is_ok();
    let util = Util::new(&number).filter(|_| is_number)?;
    Some((word.to_owned(), util))
}

/// The line about a device's disk: `sda` is about /dev/sda1 too. The longest
/// such word: not `sda` for /dev/sdab when there is an `sdab`.
pub fn of_seat(report: &[Line], seat: &Seat) -> Option<Util> {
    let source = seat.source.to_str()?.strip_prefix("/dev/")?;
    report
        .iter()
        .filter(|(word, _)| source.starts_with(word.as_str()))
        .max_by_key(|(word, _)| word.len())
        .map(|(_, util)| *util)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn util(text: &str) -> Option<Util> {
        Util::new(text)
    }

    #[test]
    fn counters() {
        let text = "   7       0 loop0 43 1 692 1 31 22 96 4 0 4 9 0 0 0 0 18 2\n\
            254 0 vda 178544 14486 15584250 237525 34530 38358 16925064 51610 0 23312 293480 37282\n\
            8 1 sda1 1 2\nnonsense\n8 17 sdb 0 0 0 0 0 0 0 0 0 4294967301\n";
        let found = ticks(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[&(7, 0)], 4);
        assert_eq!(found[&(254, 0)], 23_312);
        assert_eq!(found[&(8, 17)], 5);
    }

    #[test]
    fn percents() {
        const SECOND: u64 = 1_000_000_000;
        for (before, after, ns, text) in [
            (0, 0, SECOND, "0.00"),
            (1000, 1004, SECOND, "0.40"),
            (1000, 2000, SECOND, "100.00"),
            (1000, 2010, SECOND, "100.00"),
            (0, 500, 1_003_000_000, "49.85"),
            (u32::MAX - 1, 8, SECOND, "1.00"),
        ] {
            assert_eq!(percent(before, after, ns), util(text));
        }
    }

    /// Debian's `iostat -dx 1 2`, columns left out.
    const SYSSTAT: &str = "\
Linux 6.18.44 (host) \t11/21/26 \t_x86_64_\t(2 CPU)


Device            r/s     rkB/s   aqu-sz  %util
loop0            0.00      0.01     0.00   0.00
vda             11.54    480.06     0.02   0.40


Device            r/s     rkB/s   aqu-sz  %util
vda              0.00      0.00     0.00 100.00

";

    /// FreeBSD's `iostat -dx 1`.
    const FREEBSD: &str = "                        extended device statistics
device       r/s     w/s     kr/s     kw/s  ms/r  ms/w  ms/o  ms/t qlen  %b
ada0           1       2     20.4     40.2     1     2     0     2    0   7
                        extended device statistics
device       r/s     w/s     kr/s     kw/s  ms/r  ms/w  ms/o  ms/t qlen  %b
";

    fn read(text: &str) -> Vec<Vec<Line>> {
        let mut reports = Reports::default();
        text.lines().filter_map(|line| reports.take(line)).collect()
    }

    #[test]
    fn what_iostat_prints() {
        let line = |word: &str, text| (word.to_owned(), util(text).unwrap());
        let found = read(SYSSTAT);
        assert_eq!(
            found,
            [
                vec![line("loop0", "0.00"), line("vda", "0.40")],
                vec![line("vda", "100.00")]
            ]
        );
        assert_eq!(read(FREEBSD), [vec![line("ada0", "7")]]);
        assert_eq!(read("sda 1.00 0,40\n\n"), [vec![line("sda", "0.40")]]);
        for nothing in [
            "sda\n\n",
            "sda x\n\n",
            "sda 12345678\n\n",
            " sda 1\n\n",
            "sda nan\n\n",
            "sda -1\n\n",
            "sda .\n\n",
        ] {
            assert_eq!(read(nothing), [[]; 0], "{nothing:?}");
        }
        let mut reports = Reports::default();
        assert_eq!(reports.take("sda 1.00"), None);
        assert_eq!(reports.end(), Some(vec![line("sda", "1.00")]));
        assert_eq!(reports.end(), None);
    }

    #[test]
    fn a_disk_is_its_partitions_too() {
        let report = [("sda", "1"), ("sdab", "2"), ("dm-1", "3")]
            .map(|(word, text)| (word.to_owned(), util(text).unwrap()));
        for (source, text) in [
            ("/dev/sda", Some("1")),
            ("/dev/sda1", Some("1")),
            ("/dev/sdab1", Some("2")),
            ("/dev/dm-1", Some("3")),
            ("/dev/sdb", None),
            ("tmpfs", None),
            ("sda", None),
        ] {
            let seat = Seat {
                point: "/".into(),
                source: source.into(),
                disk: None,
            };
            assert_eq!(of_seat(&report, &seat), text.and_then(util), "{source}");
        }
    }
}
