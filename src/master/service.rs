//! What the service manager is told: systemd's protocol, one datagram a matter,
//! to the socket that `NOTIFY_SOCKET` names. Without that variable nothing is.
//!
//! The variable stays in the environment: a successor in an upgrade speaks
//! there too, once the manager has been told that it is the main process.

use crate::sys::clock;
use socket2::{Domain, SockAddr, Socket, Type};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

/// The watchdog hears from us so often within its patience.
const BEATS: u32 = 2;

/// See the module.
pub struct Service {
    /// None: there is no manager that wants to know.
    manager: Option<SockAddr>,
    /// It kills us when it hears nothing for twice so long.
    beat: Option<Duration>,
    due: Instant,
    /// A failure is logged once, until the next success.
    is_deaf: bool,
}

impl Service {
    /// From the process's environment.
    pub fn from_env() -> Service {
        Service::new(|name| std::env::var_os(name), std::process::id())
    }

    fn new(env: impl Fn(&str) -> Option<OsString>, pid: u32) -> Service {
        let number = |name| env(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let manager = env("NOTIFY_SOCKET").and_then(|name| match address(&name) {
            Some(address) => Some(address),
            None => {
                log::warn!(
                    "NOTIFY_SOCKET={}: not a UNIX socket; the service manager is told nothing",
                    name.display()
                );
                None
            }
        });
        let is_ours = env("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(pid.into());
        let patience = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && is_ours);
        Service {
            beat: patience
                .filter(|_| manager.is_some())
                .map(|usec| Duration::from_micros(usec) / BEATS),
            manager,
            due: Instant::now(),
            is_deaf: false,
        }
    }

    /// The start, or a reload, is over.
    pub fn ready(&mut self, status: &str) {
        self.say(&format!("READY=1\n{}", line(status)));
    }

    /// The configuration is being read again, until [`Service::ready`].
    pub fn reloading(&mut self) {
        let now = clock::monotonic_ns() / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The end has begun.
    pub fn stopping(&mut self, status: &str) {
        self.say(&format!("STOPPING=1\n{}", line(status)));
    }

    /// Another process is the service from now on: to be said by the one that was,
    /// whom alone the manager may listen to.
    pub fn main_pid(&mut self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
    }

    /// Tells the watchdog that we are alive, when it is time to.
    pub fn tend(&mut self) {
        let Some(beat) = self.beat else {
            return;
        };
        let now = Instant::now();
        if now >= self.due {
            self.due = now + beat;
            self.say("WATCHDOG=1");
        }
    }

    /// When [`Service::tend`] is due.
    pub fn next(&self) -> Option<Instant> {
        self.beat.map(|_| self.due)
    }

    /// Never waits: a manager that does not read is no reason to serve nobody.
    fn say(&mut self, text: &str) {
        let Some(manager) = &self.manager else {
            return;
        };
        let said = Socket::new(Domain::UNIX, Type::DGRAM, None).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(text.as_bytes(), manager)
        });
        match said {
            Ok(_) => self.is_deaf = false,
            Err(e) if !self.is_deaf => {
                self.is_deaf = true;
                log::warn!("NOTIFY_SOCKET: the service manager cannot be told: {e}");
            }
            Err(_) => {}
        }
    }
}

/// `STATUS=`, which is one line.
fn line(status: &str) -> String {
    format!("STATUS={}", status.replace('\n', " "))
}

/// A path, or after `@` a name in Linux's abstract namespace.
fn address(name: &OsStr) -> Option<SockAddr> {
    let mut bytes = name.as_bytes().to_vec();
    match bytes.first()? {
        b'/' => {}
        b'@' => bytes[0] = 0,
        _ => return None,
    }
    SockAddr::unix(OsString::from_vec(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    const ME: u32 = 77;

    fn service(env: &[(&str, &str)]) -> Service {
        let env = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Service::new(env, ME)
    }

    fn hear(manager: &UnixDatagram) -> String {
        let mut text = [0; 256];
        let len = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..len]).into_owned()
    }

    #[test]
    fn each_matter_is_a_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut service = service(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
        service.ready("two\nlines");
        assert_eq!(hear(&manager), "READY=1\nSTATUS=two lines");
        service.stopping("why");
        assert_eq!(hear(&manager), "STOPPING=1\nSTATUS=why");
        service.main_pid(5);
        assert_eq!(hear(&manager), "MAINPID=5");
        service.reloading();
        let text = hear(&manager);
        let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);
        service.tend();
        assert!(manager.recv(&mut [0]).is_err(), "no watchdog was wished");
        assert_eq!(service.next(), None);
    }

    #[test]
    fn the_watchdog_hears_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let socket = ("NOTIFY_SOCKET", path.to_str().unwrap());
        let usec = ("WATCHDOG_USEC", "60000000");
        for pid in [None, Some(("WATCHDOG_PID", "77"))] {
            let env: Vec<_> = [socket, usec].into_iter().chain(pid).collect();
            let mut service = service(&env);
            service.tend();
            assert_eq!(hear(&manager), "WATCHDOG=1");
            let due = service.next().unwrap() - Instant::now();
            assert!(due > Duration::from_secs(29) && due <= Duration::from_secs(30));
            service.tend();
            assert!(manager.recv(&mut [0]).is_err(), "not yet");
        }
        for pid in ["78", "x"] {
            let other = service(&[socket, usec, ("WATCHDOG_PID", pid)]);
            assert_eq!(other.next(), None, "it waits for another");
        }
        assert_eq!(service(&[usec]).next(), None);
        assert_eq!(service(&[socket, ("WATCHDOG_USEC", "0")]).next(), None);
    }

    #[test]
    fn nobody_listens() {
        let mut service = service(&[("NOTIFY_SOCKET", "/nowhere/at/all")]);
        service.ready("");
        assert!(service.is_deaf);
        for name in ["", "vsock:2:1", "relative"] {
            assert!(address(OsStr::new(name)).is_none(), "{name}");
        }
        assert!(address(OsStr::new("@abstract")).is_some());
        Service::new(|_| None, ME).ready("");
    }
}
