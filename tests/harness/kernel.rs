//! What the kernel says of one end of a TCP connection (sock_diag(7)). Asked for the one socket, since
//! /proc/net/tcp takes seconds under load where tens of thousands of connections are in TIME_WAIT.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// linux/sock_diag.h, linux/netlink.h, linux/inet_diag.h
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_NETLINK: i32 = 16;
const TCP_ESTABLISHED: u8 = 1;

pub struct End {
    pub established: bool,
    /// Bytes sent and not acknowledged yet.
    pub unsent: u32,
    /// Bytes received and not read yet.
    pub unread: u32,
    /// The socket's inode; 0 while it waits in the listen queue.
    pub inode: u32,
}

/// The end with this address of its own and this peer; `None` if there is none.
pub fn end(local: SocketAddr, peer: SocketAddr) -> Option<End> {
    let mut netlink = Socket::new(
        Domain::from(AF_NETLINK),
        Type::DGRAM,
        Some(Protocol::from(NETLINK_SOCK_DIAG)),
    )
    .expect("a netlink socket");
    netlink.write_all(&request(local, peer)).expect("sock_diag");
    let mut reply = [0; 512];
    let len = netlink.read(&mut reply).expect("sock_diag");
    let word = |at: usize| u32::from_ne_bytes(reply[at..at + 4].try_into().expect("four bytes"));
    let kind = u16::from_ne_bytes([reply[4], reply[5]]);
    if kind != SOCK_DIAG_BY_FAMILY || len < 88 {
        return None;
    }
    // behind the header of 16 bytes: family, state, timer, retransmits, the 48 bytes that name the socket,
    // expiry, the two queues, the owner and the inode
    Some(End {
        established: reply[17] == TCP_ESTABLISHED,
        unread: word(72),
        unsent: word(76),
        inode: word(84),
    })
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(72_u32.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    let family = if local.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    message.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(peer.port().to_be_bytes());
    for addr in [local, peer] {
        let mut bytes = match addr.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        bytes.resize(16, 0);
        message.extend(bytes);
    }
    // any interface, any cookie
    message.extend(0_u32.to_ne_bytes());
    message.extend([0xff; 8]);
    message
}
