//! Listeners: where to listen, what is served there, and the bound socket.

use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    /// The socket file's identity (dev, ino), so that only our own is removed.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Binds and listens.
    pub fn bind(address: &Address, serves: Serves, site: usize) -> io::Result<Listener> {
        match address {
            Address::Inet(inet) => Listener::bind_inet(*inet, serves, site),
            Address::Unix(path) => Listener::bind_unix(path, serves, site),
        }
    }

    fn bind_inet(address: SocketAddr, serves: Serves, site: usize) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // Against TIME_WAIT of our predecessor; it does not allow two live
        // listeners. SO_REUSEPORT would, so it stays off (PITFALLS 17).
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Accepted connections inherit both.
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Listener {
            socket,
            serves,
            site,
            address: Address::Inet(bound),
            file: None,
        })
    }

    /// Bound under another name and renamed over: there is no moment at which
    /// the path leads nowhere, and a dead predecessor's file is no obstacle.
    fn bind_unix(path: &Path, serves: Serves, site: usize) -> io::Result<Listener> {
        if is_served(path)? {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
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
        Ok(Listener {
            socket,
            serves,
            site,
            address: Address::Unix(path.to_owned()),
            file: Some(listening?),
        })
    }

    /// The socket itself, for a worker's acceptor.
    pub fn into_socket(self) -> OwnedFd {
        self.socket.into()
    }

    /// Removes the socket's file, unless another server's has taken its place.
    /// Clients in the listen queue stay there; new ones find no path.
    pub fn unlink(&self) {
        let (Address::Unix(path), Some(ours)) = (&self.address, self.file) else {
            return;
        };
        let now = std::fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()));
        if now.is_ok_and(|now| now == ours) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether a live server answers at `path`. What is there and is no socket is
/// EADDRINUSE too: it is not ours to replace.
fn is_served(path: &Path) -> io::Result<bool> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    use std::os::unix::fs::FileTypeExt;
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
