//! What the kernel says of a process, read from /proc.

use std::fs;
use std::time::Duration;

use crate::harness::Conn;

/// The processes that it has forked and not reaped.
pub fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace()
        .map(|pid| pid.parse().expect("a pid"))
        .collect()
}

/// They, and theirs.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut all = children(pid);
    let mut at = 0;
    while at < all.len() {
        let more = children(all[at]);
        all.extend(more);
        at += 1;
    }
    all
}

/// Whether there is such a process, and it has not ended.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !matches!(state.chars().next(), None | Some('Z' | 'X'))
}

/// Its descriptors and where they lead; empty when it has gone.
pub fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let mut all: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let nr = entry.file_name().to_str()?.parse().ok()?;
            let place = fs::read_link(entry.path()).ok()?;
            Some((nr, place.to_string_lossy().into_owned()))
        })
        .collect();
    all.sort();
    all
}

/// Its title, as `ps` shows it.
pub fn title(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&words).into_owned();
    text.trim_end_matches('\0').to_owned()
}

/// Its name, which the title is not.
pub fn name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// State, parent and process group: proc_pid_stat(5). None: it has gone.
pub fn family(pid: i32) -> Option<(char, i32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((
        state,
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
    ))
}

/// How many sockets it holds.
pub fn sockets(pid: i32) -> usize {
    let is_socket = |(_, place): &&(i32, String)| place.starts_with("socket:");
    descriptors(pid).iter().filter(is_socket).count()
}

/// The descendant of this process that has accepted this connection.
pub fn owner(master: i32, conn: &Conn) -> Option<i32> {
    let wanted = format!("socket:[{}]", conn.server_inode()?);
    let holds = |pid: &i32| descriptors(*pid).iter().any(|(_, place)| *place == wanted);
    descendants(master).into_iter().find(holds)
}

/// Whether a worker drains: its acceptors have gone, and before they went every reply had become the last of
/// its connection.
pub fn is_draining(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
    !tasks
        .into_iter()
        .flatten()
        .flatten()
        .any(|task| name(task).is_ok_and(|name| name.starts_with("acc:")))
}

/// Whether a worker's acceptors sleep, which they do in accept4 when there is nothing to accept.
pub fn accepts(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat"));
    let mut acceptors = tasks
        .flatten()
        .filter_map(|task| stat(task).ok())
        .filter(|stat| stat.contains("(acc:"))
        .peekable();
    acceptors.peek().is_some() && acceptors.all(|stat| stat.contains(") S"))
}

/// Whether each of its threads has obeyed SIGSTOP.
pub fn is_stopped(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_none_or(|(_, rest)| rest.starts_with(" T"))
    })
}

/// How many threads it has.
pub fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Whether a tracer is attached to each of its threads.
pub fn is_traced(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}

/// The memory that is its own, and its share of what it shares, in KiB.
pub fn pss(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.expect("Pss").trim().trim_end_matches(" kB");
    number.parse().expect("a number of kB")
}

/// The CPU time that it has used, in user and kernel mode.
pub fn cpu(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    // the name, in parentheses, may contain anything; behind it the fields are numbers from the third on
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let field = |nr: usize| -> u64 {
        let text = rest.split_whitespace().nth(nr - 3).expect("a field");
        text.parse().expect("a number")
    };
    // SAFETY: no pointers
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    Duration::from_millis((field(14) + field(15)) * 1000 / ticks)
}
