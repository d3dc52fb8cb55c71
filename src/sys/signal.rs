//! Signals. Handlers set a bit and write a byte, nothing else; they are read
//! in one place per process. One more signal, the kick, does nothing at all:
//! it makes a blocked accept4 return EINTR.

use super::{check, own};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::thread::JoinHandle;

/// What an operator can say with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Quit,
    Term,
    Int,
    Child,
    Hup,
    Usr1,
    Usr2,
    Winch,
    /// One worker more.
    Ttin,
    /// One worker less.
    Ttou,
}

impl Signal {
    /// The most urgent first: a stop comes before whatever else has come.
    const ALL: [Signal; 10] = [
        Signal::Int,
        Signal::Term,
        Signal::Quit,
        Signal::Child,
        Signal::Winch,
        Signal::Ttou,
        Signal::Ttin,
        Signal::Usr1,
        Signal::Hup,
        Signal::Usr2,
    ];

    pub(super) fn number(self) -> i32 {
        match self {
            Signal::Quit => libc::SIGQUIT,
            Signal::Term => libc::SIGTERM,
            Signal::Int => libc::SIGINT,
            Signal::Child => libc::SIGCHLD,
            Signal::Hup => libc::SIGHUP,
            Signal::Usr1 => libc::SIGUSR1,
            Signal::Usr2 => libc::SIGUSR2,
            Signal::Winch => libc::SIGWINCH,
            Signal::Ttin => libc::SIGTTIN,
            Signal::Ttou => libc::SIGTTOU,
        }
    }
}

/// The signal of [`kick`]: ignored by default, so a late one harms nobody.
const KICK: i32 = libc::SIGURG;

/// One bit a signal number that came since the last [`Inbox::take`].
static PENDING: AtomicU32 = AtomicU32::new(0);
/// The write end of this process's self-pipe, or -1.
static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: libc::c_int) {
    // SAFETY: errno is this thread's; it is put back for whoever was
    // interrupted between a call and the look at its errno.
    unsafe {
        let errno = errno_place();
        let saved = *errno;
        PENDING.fetch_or(1 << signal, Ordering::Release);
        let fd = PIPE.load(Ordering::Acquire);
        if fd >= 0 {
            // A full pipe is fine: a byte is there already, and the bits are
            // kept apart from the bytes.
            libc::write(fd, [0u8].as_ptr().cast(), 1);
        }
        *errno = saved;
    }
}

extern "C" fn nothing(_: libc::c_int) {}

#[cfg(target_os = "linux")]
fn errno_place() -> *mut libc::c_int {
    // SAFETY: returns the address of this thread's errno.
    unsafe { libc::__errno_location() }
}

#[cfg(target_os = "freebsd")]
fn errno_place() -> *mut libc::c_int {
    // SAFETY: returns the address of this thread's errno.
    unsafe { libc::__error() }
}

/// From now on this process, a worker, takes no notice of what only a master
/// understands. Ignored and not handled: a line on a terminal that stops who
/// writes from the background (SIGTTOU) goes through then.
pub fn ignore_but_stops() -> io::Result<()> {
    for signal in [Signal::Hup, Signal::Usr2, Signal::Ttin, Signal::Ttou] {
        // SAFETY: no handler of ours, which could be unsafe.
        let before = unsafe { libc::signal(signal.number(), libc::SIG_IGN) };
        if before == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Installs `handler`, without SA_RESTART: a restarted accept4 stays blocked.
fn handle(signal: i32, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: a struct of integers and a handler; zero is the empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    // SAFETY: `action` is complete, and the handlers above are
    // async-signal-safe.
    check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    Ok(())
}

/// Where this process reads its signals: a self-pipe to wait on, and bits.
pub struct Inbox {
    read: OwnedFd,
    write: OwnedFd,
}

impl Inbox {
    /// Installs the handlers. A forked child calls it again for a pipe of its
    /// own: a byte into the parent's would wake the parent.
    pub fn open() -> io::Result<Inbox> {
        let mut fds = [-1; 2];
        // SAFETY: room for the two descriptors that the call writes.
        check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        let (read, write) = (own(fds[0])?, own(fds[1])?);
        PENDING.store(0, Ordering::Release);
        PIPE.store(write.as_raw_fd(), Ordering::Release);
        for signal in Signal::ALL {
            handle(signal.number(), note)?;
        }
        handle(KICK, nothing)?;
        Ok(Inbox { read, write })
    }

    /// Readable when a signal has come.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// The signals since the last call, each once, the most urgent first.
    pub fn take(&self) -> impl Iterator<Item = Signal> + use<> {
        let mut bytes = [0u8; 64];
        // SAFETY: room for the bytes that are asked for.
        while unsafe {
            libc::read(
                self.read.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
            )
        } > 0
        {}
        let pending = PENDING.swap(0, Ordering::AcqRel);
        Signal::ALL
            .into_iter()
            .filter(move |s| pending & (1 << s.number()) != 0)
    }
}

/// In a forked child that will execute a program: all signals mean what they
/// mean to a new program, and none is blocked. A handler here would write into
/// the parent's pipe.
pub fn let_go() {
    PIPE.store(-1, Ordering::Release);
    for signal in Signal::ALL.map(Signal::number).into_iter().chain([KICK]) {
        // SAFETY: the default action; the numbers are of signals that exist.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Mask::none().apply();
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // Another inbox of this process may have taken over meanwhile.
        let _ = PIPE.compare_exchange(
            self.write.as_raw_fd(),
            -1,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }
}

/// A set of blocked signals.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl Mask {
    /// Every signal.
    pub fn all() -> Mask {
        Mask::made_by(|set| {
            // SAFETY: `set` is a place for one sigset_t.
            unsafe { libc::sigfillset(set) };
        })
    }

    /// No signal.
    pub fn none() -> Mask {
        Mask::made_by(|set| {
            // SAFETY: `set` is a place for one sigset_t.
            unsafe { libc::sigemptyset(set) };
        })
    }

    /// All but the kick: for a thread that may be kicked and minds nothing else.
    pub fn all_but_kick() -> Mask {
        Mask::made_by(|set| {
            // SAFETY: `set` is a place for one sigset_t.
            unsafe {
                libc::sigfillset(set);
                libc::sigdelset(set, KICK);
            }
        })
    }

    fn made_by(fill: impl FnOnce(*mut libc::sigset_t)) -> Mask {
        // SAFETY: an array of integers; `fill` makes it a set.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        fill(&mut set);
        Mask(set)
    }

    /// Adds these to the calling thread's mask; returns the one before.
    fn add(&self) -> Mask {
        Mask::made_by(|old| {
            // SAFETY: both are sets that live through the call, which fails
            // only for a `how` that does not exist.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &self.0, old) };
        })
    }

    /// Makes this the calling thread's mask; returns the one before. Threads
    /// and children inherit it, so do programs that are executed.
    pub fn apply(&self) -> Mask {
        Mask::made_by(|old| {
            // SAFETY: both are sets that live through the call, which fails
            // only for a `how` that does not exist.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, old) };
        })
    }
}

/// Writes in the background of a terminal (`stty tostop`): with a handler for
/// SIGTTOU each write(2) there is interrupted by it, for ever; blocked, it goes
/// through.
pub fn whatever_the_terminal_says<T>(write: impl FnOnce() -> T) -> T {
    let before = Mask::made_by(|set| {
        // SAFETY: `set` is a place for one sigset_t.
        unsafe {
            libc::sigemptyset(set);
            libc::sigaddset(set, libc::SIGTTOU);
        }
    })
    .add();
    let written = write();
    before.apply();
    written
}

/// Interrupts a blocking call of `thread`, which must not have been joined.
/// The signal is not kept for the next call: repeat it until the thread has
/// said that it is gone (PITFALLS 1).
pub fn kick<T>(thread: &JoinHandle<T>) {
    // SAFETY: a handle that has not been joined keeps its pthread_t valid. An
    // error (the thread has ended) is what the caller is waiting for.
    unsafe { libc::pthread_kill(thread.as_pthread_t() as libc::pthread_t, KICK) };
}
