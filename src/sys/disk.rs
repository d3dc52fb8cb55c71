//! How long disks were busy.

use std::io;

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub number: (u32, u32),
    /// As in `/dev/NAME`.
    pub name: String,
    /// Milliseconds in which it had something to do, since the system began;
    /// 32 bits of it, which wrap.
    pub busy_ms: u32,
}

/// All block devices, partitions too: /proc/diskstats, whose 13th column is
/// "time spent doing I/Os" (Documentation/admin-guide/iostats.rst).
#[cfg(target_os = "linux")]
pub fn list() -> io::Result<Vec<Disk>> {
    let table = std::fs::read_to_string("/proc/diskstats")?;
    Ok(table.lines().filter_map(parse).collect())
}

#[cfg(target_os = "linux")]
fn parse(line: &str) -> Option<Disk> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    Some(Disk {
        number: (words.first()?.parse().ok()?, words.get(1)?.parse().ok()?),
        name: (*words.get(2)?).to_owned(),
        busy_ms: words.get(12)?.parse::<u64>().ok()? as u32,
    })
}

/// FreeBSD counts in devstat(3), which this program does not read.
#[cfg(not(target_os = "linux"))]
pub fn list() -> io::Result<Vec<Disk>> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// The name of the whole disk that the block device of this number is, or is
/// a partition of. sysfs is asked, no disk.
#[cfg(target_os = "linux")]
pub fn whole(number: (u32, u32)) -> Option<String> {
    let link = format!("/sys/dev/block/{}:{}", number.0, number.1);
    let real = std::fs::canonicalize(link).ok()?;
    let disk = if real.join("partition").exists() {
        real.parent()?
    } else {
        &real
    };
    Some(disk.file_name()?.to_str()?.to_owned())
}

/// See the Linux twin.
#[cfg(not(target_os = "linux"))]
pub fn whole(_number: (u32, u32)) -> Option<String> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = " 254       0 vda 5331 3098 1326626 2663 415 3473 70960 343 0 1524 3151 3030 30";
        assert_eq!(
            parse(line),
            Some(Disk {
                number: (254, 0),
                name: "vda".to_owned(),
                busy_ms: 1524,
            })
        );
        assert_eq!(parse("254 0 vda 1 2 3"), None);
    }
}
