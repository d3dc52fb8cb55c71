//! Threads: who they are, what they do, and how urgent it is.

use std::ffi::CStr;

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
        let stat = format!("/proc/self/task/{}/stat", self.0);
        state(&std::fs::read_to_string(stat).unwrap_or_default()) == Some('R')
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
    fn states() {
        assert_eq!(state("7 (a) b) (c) D 1 7"), Some('D'));
        assert_eq!(state(""), None);
    }
}
