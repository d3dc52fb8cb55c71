//! Upgrades beside a service manager that, like systemd with NotifyAccess=main, listens to nobody but the main process:
//! what it concludes from who says what, and when.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::tree::{End, Program, Tree};
use crate::harness::{PATIENCE, eventually};

/// What it lets a main process be silent.
const PATIENCE_OF_WATCHDOG: Duration = Duration::from_millis(1500);

/// A datagram, and who has sent it.
#[derive(Clone, Debug)]
struct Word {
    pid: i32,
    text: String,
    at: Instant,
}

/// Reads for as long as it lives.
struct Manager {
    heard: Arc<Mutex<Vec<Word>>>,
    enough: Arc<AtomicBool>,
}

/// What the words amount to.
#[derive(Debug)]
struct Conclusion {
    main: i32,
    /// Accepted words but the watchdog's, as `READY=1`, each with its sender.
    said: Vec<(i32, String)>,
    /// The longest time for which the main process was silent, from its READY on.
    silence: Duration,
    is_ready: bool,
    is_stopping: bool,
}

impl Manager {
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).expect("bind");
        let tick = Some(Duration::from_millis(50));
        socket.set_read_timeout(tick).expect("SO_RCVTIMEO");
        let on: libc::c_int = 1;
        // SAFETY: the value lives across the call
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PASSCRED,
                (&raw const on).cast(),
                mem::size_of_val(&on) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0, "SO_PASSCRED: {}", io::Error::last_os_error());
        let heard = Arc::<Mutex<Vec<Word>>>::default();
        let enough = Arc::<AtomicBool>::default();
        let (theirs, is_enough) = (Arc::clone(&heard), Arc::clone(&enough));
        std::thread::spawn(move || {
            while !is_enough.load(Ordering::Relaxed) {
                if let Some(word) = hear(&socket) {
                    theirs.lock().unwrap().push(word);
                }
            }
        });
        Manager { heard, enough }
    }

    fn words(&self) -> Vec<Word> {
        self.heard.lock().unwrap().clone()
    }

    /// As systemd would see it that has started this process.
    fn conclusion(&self, first: i32) -> Conclusion {
        let mut state = Conclusion {
            main: first,
            said: Vec::new(),
            silence: Duration::ZERO,
            is_ready: false,
            is_stopping: false,
        };
        let mut last: Option<Instant> = None;
        for word in self.words() {
            // NotifyAccess=main
            if word.pid != state.main {
                continue;
            }
            for line in word.text.lines() {
                match line.split_once('=') {
                    Some(("WATCHDOG", _)) if state.is_ready => {
                        let silence = last.map(|last| word.at - last).unwrap_or_default();
                        state.silence = state.silence.max(silence);
                        last = Some(word.at);
                        continue;
                    }
                    Some(("MAINPID", pid)) => state.main = pid.parse().expect("a pid"),
                    Some(("READY", _)) => {
                        state.is_ready = true;
                        last = last.or(Some(word.at));
                    }
                    Some(("STOPPING", _)) => state.is_stopping = true,
                    _ => continue,
                }
                state.said.push((word.pid, line.to_owned()));
            }
        }
        if !state.is_stopping {
            let silence = last.map(|last| last.elapsed()).unwrap_or_default();
            state.silence = state.silence.max(silence);
        }
        state
    }

    /// So many more beats of this process.
    #[track_caller]
    fn await_beats(&self, pid: i32, count: usize) {
        let beats = || {
            let words = self.words();
            let is_beat = |word: &&Word| word.pid == pid && word.text == "WATCHDOG=1";
            words.iter().filter(is_beat).count()
        };
        let before = beats();
        eventually("the watchdog's beats", PATIENCE, || {
            beats() >= before + count
        });
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if std::thread::panicking() {
            let words = self.words();
            let others = words.iter().filter(|word| word.text != "WATCHDOG=1");
            for word in others {
                eprintln!("{}: {:?}", word.pid, word.text);
            }
        }
    }
}

/// The next datagram with the pid that the kernel gives for it.
fn hear(socket: &UnixDatagram) -> Option<Word> {
    let (mut text, mut control) = ([0_u8; 1024], [0_u64; 16]);
    let mut part = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    // SAFETY: all zeros is a message without parts
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: all that it points to lives across the call
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let len = usize::try_from(len).ok()?;
    // SAFETY: the kernel has filled the control part; its first header is SO_PASSCRED's
    let sender: libc::ucred = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_CREDENTIALS {
            return None;
        }
        libc::CMSG_DATA(header)
            .cast::<libc::ucred>()
            .read_unaligned()
    };
    Some(Word {
        pid: sender.pid,
        text: String::from_utf8_lossy(&text[..len]).into_owned(),
        at: Instant::now(),
    })
}

/// A tree, and who manages it.
fn start(upgrade: &str) -> Option<(Tree, Manager)> {
    let builder = Tree::builder();
    let path = builder.path("notify");
    let manager = Manager::at(&path);
    let usec = PATIENCE_OF_WATCHDOG.as_micros().to_string();
    let tree = builder
        .set("upgrade", upgrade)
        // beats are half of the watchdog's patience apart
        .set("probation", "1.2")
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", &usec)
        .start(&Program::Ours)?;
    eventually("READY=1", PATIENCE, || {
        manager.conclusion(tree.first()).is_ready
    });
    Some((tree, manager))
}

impl Conclusion {
    /// It runs, and this is it; and it was so all the time.
    #[track_caller]
    fn expect_running(&self, main: i32) {
        assert_eq!(self.main, main, "{self:#?}");
        assert!(self.is_ready && !self.is_stopping, "{self:#?}");
        assert!(self.silence < PATIENCE_OF_WATCHDOG, "{self:#?}");
    }
}

/// The new one's end, at last, is the service's.
#[track_caller]
fn stop(tree: Tree, manager: &Manager) {
    let (first, last) = (tree.first(), tree.master());
    tree.stop();
    eventually("STOPPING=1 of the main process", PATIENCE, || {
        manager.conclusion(first).is_stopping
    });
    let conclusion = manager.conclusion(first);
    let stopping = conclusion.said.last().expect("a word");
    assert_eq!(
        *stopping,
        (last, "STOPPING=1".to_owned()),
        "{conclusion:#?}"
    );
}

#[test]
fn automatic_upgrades_are_followed() {
    let Some((tree, manager)) = start("auto") else {
        return;
    };
    let first = tree.first();
    for _ in 0..2 {
        tree.await_calm();
        let (skip, old) = (tree.mark(), tree.master());
        tree.signal(old, libc::SIGUSR2);
        let new = tree.await_successor(skip);
        // until it is in charge the old one is the service
        manager.await_beats(old, 1);
        tree.wait_log(skip, "upgrade: committed", PATIENCE);
        assert_eq!(tree.await_end(old), End::Exited(0));
        manager.await_beats(new, 2);
        let conclusion = manager.conclusion(first);
        conclusion.expect_running(new);
        let last = conclusion.said.last().expect("a word");
        assert_eq!(*last, (old, format!("MAINPID={new}")));
    }
    stop(tree, &manager);
}

/// Until it is decided who goes, the manager is told nothing.
#[test]
fn upgrades_by_hand_are_followed_in_both_directions() {
    let Some((tree, manager)) = start("manual") else {
        return;
    };
    let first = tree.first();
    let (old, new) = tree.upgrade();
    manager.await_beats(new, 2);
    manager.conclusion(first).expect_running(old);
    tree.signal(new, libc::SIGQUIT);
    tree.settle(&[(old, 2)]);
    manager.await_beats(old, 2);
    manager.conclusion(first).expect_running(old);
    // and on
    for signal in [libc::SIGQUIT, libc::SIGTERM] {
        let (old, new) = tree.upgrade();
        manager.await_beats(old, 1);
        manager.conclusion(first).expect_running(old);
        tree.signal(old, signal);
        assert_eq!(tree.await_end(old), End::Exited(0));
        manager.await_beats(new, 2);
        let conclusion = manager.conclusion(first);
        conclusion.expect_running(new);
        let last = conclusion.said.last().expect("a word");
        assert_eq!(*last, (old, format!("MAINPID={new}")));
        tree.settle(&[(new, 2)]);
    }
    stop(tree, &manager);
}

/// The old one is ended at once while both serve: the service goes on, and the manager must not think that it ends.
#[test]
fn the_old_one_is_ended_at_once() {
    let Some((tree, manager)) = start("manual") else {
        return;
    };
    let (old, new) = tree.upgrade();
    tree.signal(old, libc::SIGINT);
    assert_eq!(tree.await_end(old), End::Exited(0));
    manager.await_beats(new, 2);
    manager.conclusion(tree.first()).expect_running(new);
    tree.settle(&[(new, 2)]);
    stop(tree, &manager);
}

#[test]
fn an_upgrade_that_fails_is_no_matter_for_the_manager() {
    let Some((tree, manager)) = start("auto") else {
        return;
    };
    let first = tree.first();
    for program in ["exit 7", "sleep 0.2; exit 7"] {
        assert!(tree.install(&Program::Shell(program)));
        let skip = tree.mark();
        tree.signal(first, libc::SIGUSR2);
        tree.wait_log(skip, "upgrade failed", PATIENCE);
        manager.await_beats(first, 2);
        manager.conclusion(first).expect_running(first);
        tree.settle(&[(first, 2)]);
    }
    stop(tree, &manager);
}
