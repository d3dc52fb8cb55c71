//! Sockets: what std and socket2 do not offer, or do with a retry inside.

use super::{append, check, check_len, own};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

/// The other end of a connection, as accept told it. Small: every idle
/// connection holds one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    V4(Ipv4Addr, u16),
    V6(Box<SocketAddrV6>),
    /// A UNIX socket, whose clients have no address.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::V4(ip, port) => write!(f, "{ip}:{port}"),
            Peer::V6(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix:"),
        }
    }
}

/// `accept4(2)` on a blocking listener; the connection is non-blocking and
/// close-on-exec. EINTR is returned: std's accept retries it, and an acceptor
/// could not be stopped (PITFALLS 1).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Peer)> {
    // SAFETY: a struct of integers and bytes; zero is a value of it.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `address` has `len` bytes of room, and both live through the call.
    let fd = own(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            (&raw mut address).cast(),
            &mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    Ok((fd, peer(&address)))
}

fn peer(address: &libc::sockaddr_storage) -> Peer {
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which of the structs the kernel wrote,
            // and sockaddr_storage has room and alignment for each of them.
            let v4 = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
            Peer::V4(
                Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)),
                u16::from_be(v4.sin_port),
            )
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            match ip.to_ipv4_mapped() {
                Some(v4) => Peer::V4(v4, port),
                None => Peer::V6(Box::new(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id))),
            }
        }
        _ => Peer::Unix,
    }
}

/// `recv(2)` of up to `max` bytes behind the end of `buf`, and at most into its
/// spare capacity, which must not be empty. 0 is the peer's end.
pub fn recv_append(socket: BorrowedFd<'_>, buf: &mut Vec<u8>, max: usize) -> io::Result<usize> {
    let max = max.min(buf.capacity() - buf.len());
    debug_assert!(max > 0);
    let fd = socket.as_raw_fd();
    // SAFETY: recv writes what it returns, `len` bytes at most.
    unsafe { append(buf, max, |at, len| libc::recv(fd, at, len, 0)) }
}

/// Whether bytes have come that nobody has read yet. The peer's end is none.
pub fn has_input(socket: BorrowedFd<'_>) -> bool {
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: writes at most the one byte.
    unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, flags) > 0 }
}

/// Waits until there is something to be read, or the peer's end, but not longer
/// than `at_most`, below a second. A signal ends the wait.
pub fn await_input(socket: BorrowedFd<'_>, at_most: Duration) -> bool {
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: a struct of integers; zero is a value of it.
    let mut timeout: libc::timespec = unsafe { std::mem::zeroed() };
    timeout.tv_nsec = at_most.subsec_nanos().into();
    // SAFETY: one pollfd and one timespec, and the signal mask stays as it is.
    unsafe { libc::ppoll(&mut asked, 1, &timeout, std::ptr::null()) > 0 }
}

/// Whether it would take bytes now, or say that it is broken.
pub fn has_room(socket: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one pollfd; it does not wait.
    unsafe { libc::poll(&mut asked, 1, 0) > 0 }
}

/// How bytes are sent: never with SIGPIPE. `more` says that others follow at
/// once, so that the header and the file behind it share segments.
fn how_to_send(more: bool) -> i32 {
    // FreeBSD has no MSG_MORE: the header leaves in a segment of its own.
    #[cfg(target_os = "linux")]
    if more {
        return libc::MSG_NOSIGNAL | libc::MSG_MORE;
    }
    let _ = more;
    libc::MSG_NOSIGNAL
}

/// `send(2)`. `more`: bytes of a file follow at once.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], more: bool) -> io::Result<usize> {
    // SAFETY: reads `bytes.len()` bytes of a live slice.
    check_len(unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            how_to_send(more),
        )
    })
}

/// The same of two pieces, as if they were one: `sendmsg(2)`.
pub fn send_both(
    socket: BorrowedFd<'_>,
    first: &[u8],
    second: &[u8],
    more: bool,
) -> io::Result<usize> {
    let mut pieces = [first, second].map(|piece| libc::iovec {
        iov_base: piece.as_ptr().cast_mut().cast(),
        iov_len: piece.len(),
    });
    // SAFETY: a struct of integers and pointers; zero is a value of it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    // SAFETY: the message, its two pieces and their bytes, which are only read,
    // live through the call.
    check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, how_to_send(more)) })
}

/// `shutdown(2)` of our direction: the peer reads the end after our last byte.
pub fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) })?;
    Ok(())
}

/// `shutdown(2)` of both directions: whoever waits for the socket is woken.
pub fn shutdown_both(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) })?;
    Ok(())
}

/// Sets or clears O_NONBLOCK. On a listener this is a flag of the open file
/// description: it changes for every process that shares it.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let wanted = if on {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    if wanted != flags {
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) })?;
    }
    Ok(())
}

/// Makes `number`'s descriptor *not* a listener any more, in this process
/// alone: a dead descriptor takes its place (dup3/dup2). A thread that is
/// inside accept4 keeps its reference to the old file and gets EINTR by the
/// signal that follows; one that is about to enter finds ENOTSOCK.
pub fn replace_by_dead(listener: BorrowedFd<'_>, dead: BorrowedFd<'_>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // SAFETY: no pointers. The number stays open, as another file: whoever
    // borrows it sees a descriptor at any moment.
    check(unsafe { libc::dup3(dead.as_raw_fd(), listener.as_raw_fd(), libc::O_CLOEXEC) })?;
    #[cfg(not(target_os = "linux"))]
    {
        // SAFETY: as above.
        check(unsafe { libc::dup2(dead.as_raw_fd(), listener.as_raw_fd()) })?;
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    Ok(())
}

/// From now on the listener drops SYNs: clients in its queue can still be
/// accepted, new ones get no answer until it is closed (then a refusal), and
/// none is reset because it came between the last accept and the close.
///
/// A classic socket filter that sees the TCP header: byte 13 holds the flags;
/// SYN without ACK is a new connection. Linux only; elsewhere
/// `ErrorKind::Unsupported`.
#[cfg(target_os = "linux")]
pub fn refuse_new(listener: BorrowedFd<'_>) -> io::Result<()> {
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_ACK: u32 = 0x12;
    const KEEP: u32 = u32::MAX;
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut code = [
        op(
            libc::BPF_LD | libc::BPF_B | libc::BPF_ABS,
            0,
            0,
            FLAGS_OFFSET,
        ),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN_ACK),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, KEEP),
    ];
    let program = libc::sock_fprog {
        len: code.len() as u16,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions that live through the
    // call; the kernel copies and verifies them.
    check(unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// See the Linux twin.
#[cfg(not(target_os = "linux"))]
pub fn refuse_new(_listener: BorrowedFd<'_>) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// A connection leaves the listen queue only when it has said something, or
/// after a second (TCP_DEFER_ACCEPT of 1: with the first SYN-ACK that is sent
/// again, tcp(7)). `ErrorKind::Unsupported` elsewhere than on Linux.
#[cfg(target_os = "linux")]
pub fn set_defer_accept(listener: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let seconds = libc::c_int::from(on);
    // SAFETY: reads one int.
    check(unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// See the Linux twin.
#[cfg(not(target_os = "linux"))]
pub fn set_defer_accept(_listener: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    if on {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(())
}

/// Two ends of a channel that keeps message boundaries: close-on-exec,
/// non-blocking. EOF on one end is the death of every holder of the other.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: room for the two descriptors that the call writes.
    check(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
            fds.as_mut_ptr(),
        )
    })?;
    Ok((own(fds[0])?, own(fds[1])?))
}

/// A UNIX socket that listens at `path`, which must be free: non-blocking, and
/// from its first moment for its owner alone.
pub fn listen_alone(path: &Path, backlog: i32) -> io::Result<UnixListener> {
    use socket2::{Domain, SockAddr, Socket, Type};
    const MODE: libc::mode_t = 0o600;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    // SAFETY: no pointers. It is what bind gives the file.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), MODE) })?;
    socket.bind(&SockAddr::unix(path)?)?;
    #[cfg(not(target_os = "linux"))]
    {
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        // SAFETY: `path` is NUL-terminated.
        check(unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), MODE, flags) })?;
    }
    // Before this nobody could connect.
    socket.listen(backlog)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Who is at the other end of a UNIX socket: who connected, or who listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: u32,
    /// None: the system does not say, or that process is not to be seen here.
    pub pid: Option<u32>,
}

/// As the kernel wrote it down when they connected.
#[cfg(target_os = "linux")]
pub fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: libc::uid_t::MAX,
        gid: libc::gid_t::MAX,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` has `len` bytes of room, and both live through the call.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut len,
        )
    })?;
    Ok(Credentials {
        user: peer.uid,
        pid: u32::try_from(peer.pid).ok().filter(|pid| *pid > 0),
    })
}

/// As the kernel wrote it down when they connected.
#[cfg(not(target_os = "linux"))]
pub fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let (mut user, mut group) = (libc::uid_t::MAX, libc::gid_t::MAX);
    // SAFETY: room for both, which live through the call.
    check(unsafe { libc::getpeereid(socket.as_raw_fd(), &mut user, &mut group) })?;
    Ok(Credentials { user, pid: None })
}

/// What takes a listener's place when an acceptor is stopped: it never listens.
pub fn dead() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}
