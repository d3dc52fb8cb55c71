//! Threads: who they are, what they do, and how urgent it is.

use std::ffi::CStr;
use std::fmt;

/// A thread of this process.
#[derive(Clone, Copy, Debug)]
pub struct Thread(#[cfg(target_os = "linux")] libc::pid_t);

#[cfg(target_os = "linux")]
impl Thread {
    /// The calling one.
    pub fn this() -> Thread {
        thread_local! {
            // SAFETY: no pointers; it cannot fail.
            static NUMBER: libc::pid_t = unsafe { libc::gettid() };
        }
        NUMBER.with(|number| Thread(*number))
    }

    /// Whether it runs, or only waits for a core to do so: nothing in the
    /// kernel holds it.
    pub fn is_running(self) -> bool {
        state(&self.file("stat")) == Some('R')
    }

    /// Where in the kernel it is, as far as that is told: the system call, what
    /// it waits in, and for root the way there.
    pub fn held_by(self) -> String {
        let call = self.file("syscall");
        let call = match call.split(' ').next().map(str::trim_end) {
            None | Some("") => "an unknown system call".to_owned(),
            Some("-1") => "no system call".to_owned(),
            Some("running") => return "it runs".to_owned(),
            Some(number) => match number.parse().ok().and_then(name_of_call) {
                Some(name) => name.to_owned(),
                None => format!("system call {number}"),
            },
        };
        // "0": nothing, or not to be told.
        let channel = self.file("wchan");
        let channel = match channel.trim_end() {
            "" | "0" => String::new(),
            channel => format!(", waits in {channel}"),
        };
        let stack = self.file("stack");
        let frames: Vec<&str> = stack.lines().filter_map(frame).take(FRAMES).collect();
        let stack = match &frames[..] {
            [] => String::new(),
            frames => format!(", stack {}", frames.join(" < ")),
        };
        format!("it is in {call}{channel}{stack}")
    }

    fn file(self, name: &str) -> String {
        let path = format!("/proc/self/task/{}/{name}", self.0);
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

/// Of a kernel stack so many frames are told.
#[cfg(target_os = "linux")]
const FRAMES: usize = 6;

/// `[<0>] folio_wait_bit_common+0x13b/0x330`: proc_pid_stack(5).
#[cfg(target_os = "linux")]
fn frame(line: &str) -> Option<&str> {
    line.split_once("] ")?.1.split(['+', ' ']).next()
}

/// The calls that a consumer makes.
#[cfg(target_os = "linux")]
fn name_of_call(number: libc::c_long) -> Option<&'static str> {
    let known = [
        (libc::SYS_openat, "openat"),
        (libc::SYS_openat2, "openat2"),
        (libc::SYS_close, "close"),
        (libc::SYS_read, "read"),
        (libc::SYS_pread64, "pread64"),
        (libc::SYS_sendfile, "sendfile"),
        (libc::SYS_write, "write"),
        (libc::SYS_pwrite64, "pwrite64"),
        (libc::SYS_sendto, "sendto"),
        (libc::SYS_fallocate, "fallocate"),
        (libc::SYS_ftruncate, "ftruncate"),
        (libc::SYS_fsync, "fsync"),
        (libc::SYS_fdatasync, "fdatasync"),
        (libc::SYS_syncfs, "syncfs"),
        (libc::SYS_linkat, "linkat"),
        (libc::SYS_renameat2, "renameat2"),
        (libc::SYS_unlinkat, "unlinkat"),
        (libc::SYS_mkdirat, "mkdirat"),
        (libc::SYS_statx, "statx"),
        (libc::SYS_fstat, "fstat"),
        (libc::SYS_statfs, "statfs"),
        (libc::SYS_getdents64, "getdents64"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    ];
    known
        .into_iter()
        .find_map(|(call, name)| (call == number).then_some(name))
}

#[cfg(target_os = "linux")]
impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.0)
    }
}

/// Nobody asks here: whoever takes long may be held.
#[cfg(not(target_os = "linux"))]
impl Thread {
    /// See the Linux twin.
    pub fn this() -> Thread {
        Thread()
    }

    /// See the Linux twin.
    pub fn is_running(self) -> bool {
        false
    }

    /// See the Linux twin.
    pub fn held_by(self) -> String {
        "nobody tells by what".to_owned()
    }
}

#[cfg(not(target_os = "linux"))]
impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a thread")
    }
}

/// "pid (name) state ...": proc_pid_stat(5). The name may hold anything.
#[cfg(target_os = "linux")]
pub(super) fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Names the calling thread, as `ps -L` and `top -H` show it; 15 bytes.
#[cfg(target_os = "linux")]
pub fn name_thread(name: &CStr) {
    // SAFETY: a NUL-terminated text; longer ones are cut by the kernel.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// See the Linux twin.
#[cfg(target_os = "freebsd")]
pub fn name_thread(name: &CStr) {
    // SAFETY: the calling thread, and a NUL-terminated text.
    unsafe { libc::pthread_set_name_np(libc::pthread_self(), name.as_ptr()) };
}

/// Lowers the calling thread's priority, for the rest of its life: for disks to
/// the least that is not idle (best-effort 7), for the CPU by `nice`. A failure,
/// or a disk scheduler that knows no priorities, costs just that.
#[cfg(target_os = "linux")]
pub fn lower_priority(nice: i32) {
    // linux/ioprio.h; not in the libc crate.
    const WHO_PROCESS: libc::c_int = 1;
    const BEST_EFFORT: libc::c_int = 2 << 13;
    const LOWEST: libc::c_int = 7;
    // SAFETY: no pointers; 0 is the calling thread.
    unsafe {
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, BEST_EFFORT | LOWEST);
        // Of this thread alone, which is where Linux leaves POSIX.
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
}

/// FreeBSD's disk schedulers know no priorities, and its nice is the process's.
#[cfg(target_os = "freebsd")]
pub fn lower_priority(_nice: i32) {}

/// Raises the calling thread's, where this process may.
#[cfg(target_os = "linux")]
pub fn raise_priority() {
    const NICE: i32 = -10;
    // SAFETY: no pointers; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Nice is the process's there.
#[cfg(target_os = "freebsd")]
pub fn raise_priority() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_until_it_waits_or_ends() {
        assert!(Thread::this().is_running());
        let ended = std::thread::spawn(Thread::this).join().unwrap();
        assert!(!ended.is_running());
    }

    #[test]
    fn what_holds_a_thread() {
        let (give, take) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let held = std::thread::spawn(move || {
            give.send(Thread::this()).unwrap();
            let _ = stopped.recv();
        });
        let thread = take.recv().unwrap();
        while !thread.held_by().starts_with("it is in futex") {
            std::thread::yield_now();
        }
        drop(stop);
        held.join().unwrap();
        assert_eq!(thread.held_by(), "it is in an unknown system call");
    }

    #[test]
    fn frames_of_a_stack() {
        let line = "[<0>] folio_wait_bit_common+0x13b/0x330";
        assert_eq!(frame(line), Some("folio_wait_bit_common"));
        assert_eq!(frame(""), None);
    }

    #[test]
    fn states() {
        assert_eq!(state("7 (a) b) (c) D 1 7"), Some('D'));
        assert_eq!(state(""), None);
    }
}
