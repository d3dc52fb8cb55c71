//! Processes: fork, wait, limits, names.

use super::check;
#[cfg(target_os = "linux")]
use super::thread;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// A process id, as fork and wait know it.
pub type Pid = libc::pid_t;

/// Proof that this process has one thread, so that fork is safe: no other
/// thread can hold a lock that the child would wait for.
pub struct Solo(());

impl Solo {
    /// Counts the threads. The error names what was found.
    pub fn prove() -> io::Result<Solo> {
        let names = thread_names()?;
        if names.len() == 1 {
            return Ok(Solo(()));
        }
        Err(io::Error::other(format!(
            "{} threads where one was expected: {}",
            names.len(),
            names.join(", ")
        )))
    }
}

#[cfg(target_os = "linux")]
fn thread_names() -> io::Result<Vec<String>> {
    std::fs::read_dir("/proc/self/task")?
        .map(|task| {
            let path = task?.path();
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            Ok(name.trim_end().to_owned())
        })
        .collect()
}

/// FreeBSD counts by sysctl kern.proc.pid (`ki_numthreads`); names are not
/// among it.
#[cfg(target_os = "freebsd")]
fn thread_names() -> io::Result<Vec<String>> {
    // SAFETY: a struct of integers and bytes; zero is a value of it.
    let mut info: libc::kinfo_proc = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::kinfo_proc>();
    let mib = [
        libc::CTL_KERN,
        libc::KERN_PROC,
        libc::KERN_PROC_PID,
        std::process::id() as libc::c_int,
    ];
    // SAFETY: `info` has `len` bytes of room; the name has the length given.
    check(unsafe {
        libc::sysctl(
            mib.as_ptr(),
            mib.len() as u32,
            (&raw mut info).cast(),
            &mut len,
            std::ptr::null(),
            0,
        )
    })?;
    Ok(vec!["?".to_owned(); info.ki_numthreads.max(1) as usize])
}

/// Which side of a fork one is on.
pub enum Forked {
    Parent(Pid),
    Child,
}

/// `fork(2)`. The child must end by [`exit`], never by returning into the
/// parent's code: the parent's values are all still in its memory.
pub fn fork(_proof: Solo) -> io::Result<Forked> {
    // SAFETY: one thread (`Solo`), so the child's copies of all locks are free.
    let pid = check(unsafe { libc::fork() })?;
    Ok(if pid == 0 {
        Forked::Child
    } else {
        Forked::Parent(pid)
    })
}

/// Ends this process at once, without running destructors or exit handlers.
pub fn exit(code: i32) -> ! {
    // SAFETY: no pointers, and it does not return.
    unsafe { libc::_exit(code) }
}

/// Leaves the terminal: a session and a process group of this process alone.
pub fn new_session() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() })?;
    Ok(())
}

/// A process group of this process alone, which it may be already.
pub fn lead_group() -> io::Result<()> {
    // SAFETY: no pointers; 0 is this process.
    match check(unsafe { libc::setpgid(0, 0) }) {
        // The leader of a session: its group is its own.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => other.map(drop),
    }
}

/// From now on this process is the parent of whoever loses his own among its
/// descendants, and reaps him. Where that cannot be had, init does.
#[cfg(target_os = "linux")]
pub fn adopt_orphans() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// See the Linux twin.
#[cfg(target_os = "freebsd")]
pub fn adopt_orphans() {
    // SAFETY: no pointers for this request; 0 is this process.
    unsafe {
        libc::procctl(
            libc::P_PID,
            0,
            libc::PROC_REAP_ACQUIRE,
            std::ptr::null_mut(),
        )
    };
}

/// One of the streams that every process is born with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    Input = 0,
    Output = 1,
    Error = 2,
}

/// Makes a standard stream another name of `file`.
pub fn redirect(stream: Standard, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers. Nobody owns the standard streams: std lends them by
    // number, and what it writes next goes to the new file.
    check(unsafe { libc::dup2(file.as_raw_fd(), stream as libc::c_int) })?;
    Ok(())
}

/// The parent's process id; 1, or that of a reaper of orphans, when it has gone.
pub fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Killed { signal: i32, core: bool },
}

/// Reaps one child that has ended, if there is one; never waits.
pub fn reap() -> io::Result<Option<(Pid, End)>> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    match check(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) }) {
        Ok(0) => Ok(None),
        Ok(pid) if libc::WIFSIGNALED(status) => Ok(Some((
            pid,
            End::Killed {
                signal: libc::WTERMSIG(status),
                core: libc::WCOREDUMP(status),
            },
        ))),
        Ok(pid) => Ok(Some((pid, End::Exited(libc::WEXITSTATUS(status))))),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(e) => Err(e),
    }
}

/// `kill(pid, SIGKILL)`.
pub fn kill(pid: Pid) -> io::Result<()> {
    send(pid, libc::SIGKILL)
}

/// SIGKILL to the process group that this child leads, and to the child.
pub fn kill_group(pid: Pid) -> io::Result<()> {
    // Not yet a leader, or no longer: ESRCH.
    let _ = send(-pid, libc::SIGKILL);
    send(pid, libc::SIGKILL)
}

/// `kill(pid, SIGABRT)`: the end with a core dump.
pub fn abort(pid: Pid) -> io::Result<()> {
    send(pid, libc::SIGABRT)
}

/// `kill(pid, SIGQUIT)`: the graceful end of a server.
pub fn quit(pid: Pid) -> io::Result<()> {
    send(pid, libc::SIGQUIT)
}

fn send(pid: Pid, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// Whether a process of this id exists.
pub fn exists(pid: Pid) -> bool {
    // SAFETY: no pointers; signal 0 only asks.
    let answer = check(unsafe { libc::kill(pid, 0) });
    !matches!(answer, Err(e) if e.raw_os_error() == Some(libc::ESRCH))
}

/// Whether a child has ended but for threads that no signal reaches: it cannot
/// be reaped before they come back from the kernel.
#[cfg(target_os = "linux")]
pub fn is_dying(pid: Pid) -> bool {
    state(pid) == Some('Z')
}

/// Whether a child runs, or only waits for a core to do so.
#[cfg(target_os = "linux")]
pub fn is_runnable(pid: Pid) -> bool {
    state(pid) == Some('R')
}

/// That of its first thread.
#[cfg(target_os = "linux")]
fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    thread::state(&stat)
}

/// See the Linux twin: nobody asks here.
#[cfg(not(target_os = "linux"))]
pub fn is_runnable(_pid: Pid) -> bool {
    false
}

/// See the Linux twin: nobody asks here.
#[cfg(not(target_os = "linux"))]
pub fn is_dying(_pid: Pid) -> bool {
    false
}

/// The name of a signal, for a log line.
pub fn signal_name(signal: i32) -> String {
    // SAFETY: strsignal returns a NUL-terminated text, or null.
    let text = unsafe {
        let text = libc::strsignal(signal);
        if text.is_null() {
            return format!("signal {signal}");
        }
        CStr::from_ptr(text).to_string_lossy()
    };
    format!("signal {signal} ({text})")
}

/// Closes every descriptor that is not in `keep`: a forked child holds what is
/// on its list and nothing else.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().map(|fd| fd.as_raw_fd()).collect();
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep.into_iter().chain([RawFd::MAX]) {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// The call itself, not the C library's: glibc has it only since 2.34.
#[cfg(target_os = "linux")]
fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: no pointers. Whoever owned those descriptors (the parent's
    // values, in a forked child) never runs again in this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 {
        return Ok(());
    }
    close_listed("/proc/self/fd", first, last)
}

/// `/dev/fd` lists 0, 1 and 2 alone where fdescfs is not mounted.
#[cfg(target_os = "freebsd")]
fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: as on Linux.
    let result = unsafe { libc::close_range(first as libc::c_uint, last as libc::c_uint, 0) };
    if result == 0 {
        return Ok(());
    }
    close_listed("/dev/fd", first, last)
}

/// From here on the calling thread has a table of descriptors of its own, with
/// nothing in it but 0, 1 and 2: the numbers of all others mean something else
/// to it. What it opens is closed when it dies, however long other threads of
/// the process take to. Where that cannot be had (Linux before 5.9) nothing
/// changes.
#[cfg(target_os = "linux")]
pub fn leave_descriptors() {
    let (first, last) = (3, libc::c_uint::MAX);
    // SAFETY: no pointers. Descriptors that others own stay open in the table
    // that this thread leaves.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
}

/// See the Linux twin; there is no such thing.
#[cfg(target_os = "freebsd")]
pub fn leave_descriptors() {}

/// Without close_range (Linux before 5.9): what the folder of descriptors lists.
fn close_listed(folder: &str, first: RawFd, last: RawFd) -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| (first..=last).contains(fd))
        .collect();
    for fd in open {
        // SAFETY: as in close_range; EBADF for the folder's own one.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// The soft and hard limit of open descriptors.
pub fn descriptor_limits() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: room for one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok((limit.rlim_cur as u64, limit.rlim_max as u64))
}

/// Sets both limits; raising the hard one takes root.
pub fn set_descriptor_limits(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft as libc::rlim_t,
        rlim_max: hard as libc::rlim_t,
    };
    // SAFETY: one rlimit, only read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(())
}

/// The largest core dump in bytes. Root may go beyond the hard limit, which is
/// raised then.
pub fn set_core_limit(bytes: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: room for one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut limit) })?;
    limit.rlim_cur = bytes as libc::rlim_t;
    limit.rlim_max = limit.rlim_max.max(limit.rlim_cur);
    // SAFETY: one rlimit, only read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) })?;
    Ok(())
}

/// Adds to the niceness of this process (Linux: of the calling thread, which
/// threads inherit that are made after this). Less takes root.
pub fn add_nice(more: i32) -> io::Result<()> {
    let (least, most) = (-20, 19);
    // SAFETY: no pointers; for this process it cannot fail, and -1 is a value.
    let now = unsafe { libc::getpriority(libc::PRIO_PROCESS as _, 0) };
    let wanted = (now + more).clamp(least, most);
    // SAFETY: no pointers.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS as _, 0, wanted) })?;
    Ok(())
}

/// Makes room for `count` descriptors in the kernel's table of this process,
/// at once. Linux grows it by doubling when a number is first used, and waits
/// for an RCU grace period then (milliseconds, inside accept4) when the process
/// has threads: do it before there are any. A failure costs just that.
pub fn grow_descriptor_table(any: BorrowedFd<'_>, count: u64) {
    let highest = count.saturating_sub(1).min(i32::MAX as u64) as libc::c_int;
    // SAFETY: no pointers.
    let made = unsafe { libc::fcntl(any.as_raw_fd(), libc::F_DUPFD_CLOEXEC, highest) };
    if made >= 0 {
        // SAFETY: the call has just made it, and nobody else knows of it.
        unsafe { libc::close(made) };
    }
}

/// The file mode creation mask. Asking changes it for a moment, so only a
/// process with one thread may.
pub fn umask(_proof: &Solo) -> u32 {
    // SAFETY: no pointers; it cannot fail.
    unsafe {
        let mask = libc::umask(0o022);
        libc::umask(mask);
        u32::from(mask)
    }
}

/// Whether this process belongs to a terminal's user: resizing the window of
/// one signals it. Not the leader of a session of its own, as daemons and
/// services are.
pub fn has_terminal() -> bool {
    use std::io::IsTerminal;
    // SAFETY: no pointers; 0 is this process.
    let session = unsafe { libc::getsid(0) };
    io::stdin().is_terminal() && session != std::process::id() as Pid
}

/// The user whose rights this process has.
pub fn user() -> u32 {
    // SAFETY: no pointers; it cannot fail.
    unsafe { libc::geteuid() }
}
