//! Listeners: where to listen, what is served there, and the bound socket.

mod change;
mod inherit;
mod variables;

use crate::sys::socket;
pub use change::{Binding, Change, Ready};
pub use inherit::Inherited;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
pub use variables::variables;

/// Connections that may wait in the kernel; it cuts this to
/// net.core.somaxconn (kern.ipc.soacceptqueue on FreeBSD).
const BACKLOG: i32 = 4096;

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// GET, HEAD, PUT, DELETE.
    Http,
    /// GET and HEAD alone.
    HttpGet,
    /// MogileFS's sidechannel.
    Mgmt,
}

impl fmt::Display for Serves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Serves::Http => "http",
            Serves::HttpGet => "http-get",
            Serves::Mgmt => "mgmt",
        })
    }
}

impl Serves {
    /// By the name that it is displayed by.
    fn named(name: &str) -> Option<Serves> {
        [Serves::Http, Serves::HttpGet, Serves::Mgmt]
            .into_iter()
            .find(|serves| serves.to_string() == name)
    }
}

/// Who has bound a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This process.
    Here,
    /// The server that has started us to take its place.
    Predecessor,
    /// The same, and it was a cmogstored.
    Cmogstored,
    /// systemd, for us or for a predecessor. It keeps the socket, and gives it
    /// to the next server that it starts: clients that nobody has accepted wait
    /// there until then.
    Systemd,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Here => "this server",
            Origin::Predecessor => "the predecessor",
            Origin::Cmogstored => "cmogstored",
            Origin::Systemd => "systemd",
        })
    }
}

/// A line of the configuration: where, what, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub address: Address,
    pub serves: Serves,
    /// The number of the site that is served.
    pub site: usize,
}

/// A place where one cannot listen, and why.
#[derive(Debug)]
pub struct Refused {
    pub address: Address,
    pub error: io::Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.error)
    }
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Inet(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// `7500`, `:7500`, `1.2.3.4:7500`, `[::1]:7500`, `unix:/path`. No names:
    /// a name can mean several addresses, and asking takes a resolver.
    pub fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Address::Unix(path))
            } else {
                Err("the path of a UNIX socket must be absolute".to_owned())
            };
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        if let Ok(port) = port.parse::<u16>()
            && port_is_plain(text)
        {
            return Ok(Address::Inet((Ipv4Addr::UNSPECIFIED, port).into()));
        }
        text.parse()
            .map(Address::Inet)
            .map_err(|_| "expected PORT, :PORT, IPv4:PORT, [IPv6]:PORT or unix:/PATH".to_owned())
    }
}

/// Digits only: u16's parse would take a sign.
fn port_is_plain(text: &str) -> bool {
    text.trim_start_matches(':')
        .bytes()
        .all(|b| b.is_ascii_digit())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound, listening, *blocking* socket: shared by all processes, and each
/// blocked accept4 is an exclusive waiter of it.
pub struct Listener {
    socket: Socket,
    pub serves: Serves,
    /// The number of the site that is served.
    pub site: usize,
    /// As bound: port 0 has become a real one.
    pub address: Address,
    /// As the configuration says it.
    pub asked: Address,
    pub origin: Origin,
    /// The socket file's identity (dev, ino), so that only our own is removed.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Binds and listens.
    pub fn bind(place: &Place) -> Result<Listener, Refused> {
        let bound = match &place.address {
            Address::Inet(inet) => bind_inet(*inet),
            Address::Unix(path) => bind_unix(path),
        };
        let (socket, address, file) = bound.map_err(|error| Refused {
            address: place.address.clone(),
            error,
        })?;
        Ok(Listener {
            socket,
            serves: place.serves,
            site: place.site,
            address,
            asked: place.address.clone(),
            origin: Origin::Here,
            file,
        })
    }

    /// Whether somebody goes on with the socket when this server ends.
    pub fn is_lent(&self) -> bool {
        self.origin == Origin::Systemd
    }

    /// The socket itself, for a worker's acceptor.
    pub fn into_socket(self) -> OwnedFd {
        self.socket.into()
    }

    /// The same socket once more: what stays open while a change may fail.
    pub fn duplicate(&self) -> io::Result<Listener> {
        Ok(Listener {
            socket: self.socket.try_clone()?,
            address: self.address.clone(),
            asked: self.asked.clone(),
            ..*self
        })
    }

    fn is_dual(&self) -> bool {
        let is_v6 = matches!(self.address, Address::Inet(inet) if inet.is_ipv6());
        is_v6 && !self.socket.only_v6().unwrap_or(true)
    }

    /// No new client comes, and none that has come is lost: those in the listen
    /// queue can still be accepted. Nothing happens to a socket that is lent. It
    /// is for the last who serves it: for other servers, too, nobody comes.
    pub fn close_door(&self) {
        match self.address {
            _ if self.is_lent() => {}
            Address::Unix(_) => self.unlink(),
            Address::Inet(_) => match socket::refuse_new(self.as_fd()) {
                Err(e) if e.kind() != io::ErrorKind::Unsupported => {
                    log::warn!("{}: SO_ATTACH_FILTER: {e}", self.address);
                }
                _ => {}
            },
        }
    }

    /// Whether a client of HTTP over TCP is accepted only when it has said
    /// something. It is the socket's own, in all processes; a predecessor's
    /// configuration may have been another.
    pub fn defer_accept(&self, on: bool) {
        if self.is_lent() || !matches!(self.address, Address::Inet(_)) {
            return;
        }
        let on = on && self.serves != Serves::Mgmt;
        match socket::set_defer_accept(self.as_fd(), on) {
            Err(e) if on => log::warn!("{}: TCP_DEFER_ACCEPT: {e}", self.address),
            _ => {}
        }
    }

    /// Removes the socket's file, unless another server's has taken its place.
    /// Clients in the listen queue stay there; new ones find no path.
    pub fn unlink(&self) {
        let (Address::Unix(path), Some(ours)) = (&self.address, self.file) else {
            return;
        };
        if socket_file(path) == Some(ours) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket that listens, its address, and the identity of its file.
type Bound = (Socket, Address, Option<(u64, u64)>);

fn bind_inet(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Against TIME_WAIT of our predecessor; it does not allow two live
    // listeners. SO_REUSEPORT would, so it stays off (PITFALLS 17).
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    prepare_connections(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, Address::Inet(bound), None))
}

/// Accepted connections inherit both.
fn prepare_connections(listener: &Socket) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_keepalive(true)
}

/// Where the socket of `path` is bound first. It keeps this name for
/// getsockname.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    PathBuf::from(name)
}

/// Bound under another name and renamed over: there is no moment at which
/// the path leads nowhere, and a dead predecessor's file is no obstacle.
fn bind_unix(path: &Path) -> io::Result<Bound> {
    if is_served(path)? {
        return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
    }
    let temporary = temporary_name(path);
    let _ = std::fs::remove_file(&temporary);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&temporary)?)?;
    let listening = socket
        .listen(BACKLOG)
        .and_then(|()| std::fs::symlink_metadata(&temporary))
        .and_then(|made| {
            std::fs::rename(&temporary, path)?;
            Ok((made.dev(), made.ino()))
        });
    if listening.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    Ok((socket, Address::Unix(path.to_owned()), Some(listening?)))
}

/// The identity of the socket that `path` leads to.
fn socket_file(path: &Path) -> Option<(u64, u64)> {
    let there = std::fs::symlink_metadata(path).ok()?;
    there
        .file_type()
        .is_socket()
        .then(|| (there.dev(), there.ino()))
}

/// Whether a live server answers at `path`. What is there and is no socket is
/// EADDRINUSE too: it is not ours to replace.
fn is_served(path: &Path) -> io::Result<bool> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    if !there.file_type().is_socket() {
        return Ok(true);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A live server with a full queue must not hang us: EAGAIN is an answer.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(e) if e.raw_os_error() == Some(libc::ECONNREFUSED) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let inet = |text: &str| Address::Inet(text.parse().unwrap());
        assert_eq!(Address::parse("7500").unwrap(), inet("0.0.0.0:7500"));
        assert_eq!(Address::parse(":0").unwrap(), inet("0.0.0.0:0"));
        assert_eq!(Address::parse("1.2.3.4:80").unwrap(), inet("1.2.3.4:80"));
        assert_eq!(Address::parse("[::1]:80").unwrap(), inet("[::1]:80"));
        assert_eq!(
            Address::parse("unix:/run/x").unwrap(),
            Address::Unix("/run/x".into())
        );
        for bad in [
            "",
            ":",
            "+80",
            ":+80",
            "::80",
            "65536",
            "localhost:80",
            "unix:x",
            "1.2.3.4",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
