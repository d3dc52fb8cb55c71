//! How busy disks are: once a second from the kernel's own counters, or from
//! the output of a command like `iostat -dx 1`.

pub(super) mod command;

use crate::scoreboard::{Scoreboard, Util};
use crate::sys::disk::{self, Disk};
use crate::sys::mount::Mount;
use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// As iostat's interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// Device lines on the scoreboard, and what is mounted there.
pub(super) type Mounts = HashMap<usize, Mount>;

/// Samples the kernel's counters.
#[derive(Default)]
pub(super) struct Sampler {
    last: Option<(Instant, HashMap<String, Disk>)>,
    /// Which disk a mount is on; None: none that is counted.
    disks: HashMap<usize, (Mount, Option<String>)>,
}

impl Sampler {
    /// When a second is over: a new report on the scoreboard. The first needs
    /// two samples. Nothing here asks a disk.
    pub(super) fn sample(&mut self, board: &Scoreboard, mounts: &Mounts) -> io::Result<()> {
        let now = Instant::now();
        if let Some((last, _)) = &self.last
            && now.duration_since(*last) < INTERVAL
        {
            return Ok(());
        }
        let disks: HashMap<String, Disk> = disk::list()?
            .into_iter()
            .map(|disk| (disk.name.clone(), disk))
            .collect();
        if let Some((then, before)) = self.last.take() {
            let span = now.duration_since(then);
            for (nr, row) in board.rows() {
                let name = mounts
                    .get(&nr)
                    .and_then(|mount| self.disk_of(nr, mount, &disks));
                let util = name.and_then(|name| {
                    let busy = disks.get(&name)?.busy_ms;
                    let was = before.get(&name)?.busy_ms;
                    Util::new(&percent(busy.wrapping_sub(was), span))
                });
                row.set_util(util);
            }
            board.announce_report();
        }
        self.last = Some((now, disks));
        Ok(())
    }

    fn disk_of(
        &mut self,
        nr: usize,
        mount: &Mount,
        disks: &HashMap<String, Disk>,
    ) -> Option<String> {
        match self.disks.get(&nr) {
            Some((known, disk)) if known == mount => disk.clone(),
            _ => {
                let disk = find_disk(mount, disks);
                self.disks.insert(nr, (mount.clone(), disk.clone()));
                disk
            }
        }
    }
}

/// The whole disk of a mount, as `iostat -dx` lists it: by the device's number;
/// by the source's name where that has a number that no disk has (btrfs).
fn find_disk(mount: &Mount, disks: &HashMap<String, Disk>) -> Option<String> {
    let is_counted = |number: &(u32, u32)| disks.values().any(|disk| disk.number == *number);
    let by_name = || {
        let source = Path::new(&mount.source);
        let name = source
            .starts_with("/dev")
            .then(|| source.file_name())
            .flatten()?;
        let disk = disks
            .values()
            .find(|disk| name.as_bytes() == disk.name.as_bytes())?;
        Some(disk.number)
    };
    disk::whole(mount.number.filter(is_counted).or_else(by_name)?)
}

/// As iostat writes %util.
fn percent(busy_ms: u32, span: Duration) -> String {
    let share = f64::from(busy_ms) / (span.as_secs_f64() * 1000.0);
    format!("{:.2}", (share * 100.0).min(100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_two_digits_and_end_at_a_hundred() {
        let second = Duration::from_secs(1);
        assert_eq!(percent(0, second), "0.00");
        assert_eq!(percent(4, second), "0.40");
        assert_eq!(percent(500, 2 * second), "25.00");
        assert_eq!(percent(1004, second), "100.00");
    }
}
