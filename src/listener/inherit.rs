//! Listeners that this process was started with: from its predecessor, from
//! cmogstored, from systemd. Each has its variables, which are taken out of the
//! environment, and each descriptor must be a listening socket.

use super::change::{self, Have};
use super::variables::{Named, Variables};
use super::{Address, BACKLOG, Listener, Origin, Place, Refused, Serves, socket_file};
use crate::sys::inherit::adopt;
use crate::sys::process::Solo;
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A socket that nobody has claimed yet.
struct Heirloom {
    socket: Socket,
    /// None: no address of ours can mean it.
    address: Option<Address>,
    /// How it is called in the log.
    name: String,
    origin: Origin,
    serves: Option<Serves>,
    is_dual: bool,
    file: Option<(u64, u64)>,
}

/// See the module.
#[derive(Default)]
pub struct Inherited {
    heirlooms: Vec<Heirloom>,
    predecessor: Option<Origin>,
}

impl Inherited {
    /// Takes what the environment names. The error is one line.
    pub fn from_env(solo: &Solo) -> Result<Inherited, String> {
        let variables = Variables::take(solo);
        let mut inherited = Inherited {
            predecessor: variables.predecessor(),
            ..Inherited::default()
        };
        for named in variables.read(std::process::id())? {
            let heirloom = Heirloom::adopt(named)?;
            if let Some(address) = &heirloom.address
                && let Some(other) = inherited.of(address)
            {
                return Err(format!(
                    "duplicate listener: {} and {} are both {address}",
                    other.name, heirloom.name
                ));
            }
            inherited.heirlooms.push(heirloom);
        }
        Ok(inherited)
    }

    /// Who has started us to take its place: our kind, or cmogstored. Where that
    /// is cmogstored, other variables of ours that are there are older than it.
    pub fn predecessor(&self) -> Option<Origin> {
        self.predecessor
    }

    fn of(&self, address: &Address) -> Option<&Heirloom> {
        let mut all = self.heirlooms.iter();
        all.find(|heirloom| heirloom.address.as_ref() == Some(address))
    }

    /// Listens at all of `places`: what fits is taken over, what nobody claims
    /// is closed (clients in its queue would wait for ever), the rest is bound.
    /// `exclusive`: sockets that do not block are made to, as nobody needs them so.
    pub fn open(self, places: &[Place], exclusive: bool) -> Result<Vec<Listener>, Refused> {
        let haves: Vec<Have<'_>> = self.heirlooms.iter().map(Heirloom::have).collect();
        let chosen = change::assign(&haves, places);
        let mut taken: HashMap<usize, Listener> = HashMap::new();
        for (nr, heirloom) in self.heirlooms.into_iter().enumerate() {
            match chosen.iter().position(|chosen| *chosen == Some(nr)) {
                Some(place) => {
                    taken.insert(place, heirloom.claim(&places[place], exclusive)?);
                }
                None => log::warn!(
                    "{} ({}) is closed: no listener of the configuration is there",
                    heirloom.name,
                    heirloom.place()
                ),
            }
        }
        change::bind_missing(places, taken)
    }
}

impl Heirloom {
    fn adopt(named: Named) -> Result<Heirloom, String> {
        let Named {
            number,
            variable,
            origin,
            note,
        } = named;
        let failed = |call: &'static str| {
            move |e: io::Error| {
                format!(
                    "{variable}: {call}(fd={number}) failed: {e}; \
                     the variable shall name listening sockets that this process was started with"
                )
            }
        };
        let wrong = |what: &str| {
            Err(format!(
                "{variable}: descriptor {number} is {what}, and no listening stream socket"
            ))
        };
        let socket: Socket = adopt(number).map_err(failed("getsockname"))?.into();
        let name = socket.local_addr().map_err(failed("getsockname"))?;
        let domain = name.domain();
        if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
            return wrong("a socket of neither IP nor UNIX");
        }
        match socket.r#type().map_err(failed("getsockopt"))? {
            Type::STREAM => {}
            Type::DGRAM => return wrong("a datagram socket"),
            _ => return wrong("a socket of another type"),
        }
        if !socket.is_listener().map_err(failed("getsockopt"))? {
            return wrong("a socket that does not listen");
        }
        let mut heirloom = Heirloom {
            is_dual: domain == Domain::IPV6 && !socket.only_v6().unwrap_or(true),
            name: format!("descriptor {number} of {variable}"),
            address: name.as_socket().map(Address::Inet),
            socket,
            origin,
            serves: note.serves,
            file: None,
        };
        if let Some(path) = name.as_pathname() {
            heirloom.find_path(&without_temporary(path), note.file);
        }
        Ok(heirloom)
    }

    /// A UNIX socket is of use where its path still leads to it. Whoever was to
    /// remove the file leaves that to us; systemd does not.
    fn find_path(&mut self, path: &Path, file: Option<(u64, u64)>) {
        let there = socket_file(path);
        if there.is_none() || file.is_some() && file != there {
            log::warn!("{}: {} leads elsewhere now", self.name, path.display());
            return;
        }
        self.address = Some(Address::Unix(path.to_owned()));
        if self.origin != Origin::Systemd {
            self.file = there;
        }
    }

    fn have(&self) -> Have<'_> {
        Have {
            asked: None,
            bound: self.address.as_ref(),
            serves: self.serves,
            is_dual: self.is_dual,
            // systemd's sockets have names: a nameless one was meant for its port.
            any_port: self.origin != Origin::Systemd || self.serves.is_some(),
        }
    }

    fn place(&self) -> String {
        match &self.address {
            Some(address) => address.to_string(),
            None => "a UNIX socket without a path".to_owned(),
        }
    }

    fn claim(self, place: &Place, exclusive: bool) -> Result<Listener, Refused> {
        let Heirloom {
            socket,
            origin,
            file,
            ..
        } = self;
        let address = self.address.unwrap_or_else(|| place.address.clone());
        tune(&socket, &address, origin, exclusive).map_err(|error| Refused {
            address: address.clone(),
            error,
        })?;
        log::info!("{} is {address}: taken over from {origin}", self.name);
        Ok(Listener {
            socket,
            serves: place.serves,
            site: place.site,
            address,
            asked: place.address.clone(),
            origin,
            file,
        })
    }
}

/// As if we had bound it, as far as that harms nobody who has it too.
fn tune(socket: &Socket, address: &Address, origin: Origin, exclusive: bool) -> io::Result<()> {
    if let Address::Inet(_) = address {
        super::prepare_connections(socket)?;
    }
    // A longer queue is no harm; systemd's has the length that its unit says.
    if origin != Origin::Systemd {
        socket.listen(BACKLOG)?;
    }
    if socket.nonblocking()? {
        if exclusive && origin != Origin::Cmogstored {
            // It changes for all who share it: PITFALLS 11.
            socket.set_nonblocking(false)?;
            log::info!("{address} was O_NONBLOCK, and blocks now");
        } else {
            log::info!("{address} is O_NONBLOCK, and stays so: workers will poll it");
        }
    }
    Ok(())
}

/// Our own sockets are bound under `PATH.PID.tmp`, and keep that name.
fn without_temporary(path: &Path) -> PathBuf {
    let plain = || {
        let rest = path.as_os_str().as_bytes().strip_suffix(b".tmp")?;
        let dot = rest.iter().rposition(|byte| *byte == b'.')?;
        let pid = &rest[dot + 1..];
        let is_pid = !pid.is_empty() && pid.iter().all(u8::is_ascii_digit);
        is_pid.then(|| PathBuf::from(OsStr::from_bytes(&rest[..dot])))
    };
    plain().unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_before_the_temporary_one() {
        for (bound, path) in [
            ("/run/x.17.tmp", "/run/x"),
            ("/run/x", "/run/x"),
            ("/run/x.tmp", "/run/x.tmp"),
            ("/run/x.y.tmp", "/run/x.y.tmp"),
            ("/run/x..tmp", "/run/x..tmp"),
        ] {
            assert_eq!(without_temporary(Path::new(bound)), Path::new(path));
        }
    }
}
