//! A descriptor that goes from one process to another along with a message.

use super::{check_len, own};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Room for the one descriptor that a message may carry, aligned as the
/// kernel's header of it.
#[repr(C)]
union Parcel {
    _header: libc::cmsghdr,
    // Linux: 24 bytes on 64 bits, FreeBSD: as many.
    bytes: [u8; 64],
}

/// What sendmsg and recvmsg are told: one stretch of bytes, and the parcel.
fn envelope(bytes: &mut libc::iovec, parcel: &mut Parcel, room: usize) -> libc::msghdr {
    // SAFETY: a struct of integers and pointers; zero is a value of it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = bytes;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut *parcel).cast();
    message.msg_controllen = room as _;
    message
}

/// `sendmsg(2)` of these bytes with a descriptor, which the receiver gets as
/// one of its own (SCM_RIGHTS). Without SIGPIPE.
pub fn send_passing(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    passed: BorrowedFd<'_>,
) -> io::Result<usize> {
    const LEN: u32 = size_of::<libc::c_int>() as u32;
    let mut parcel = Parcel { bytes: [0; 64] };
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: arithmetic alone.
    let (room, len) = unsafe { (libc::CMSG_SPACE(LEN), libc::CMSG_LEN(LEN)) };
    let message = envelope(&mut iov, &mut parcel, room as usize);
    // SAFETY: the parcel has room for a header and a descriptor, so the first
    // header is in it and is ours to fill; the bytes are only read.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = len as _;
        libc::CMSG_DATA(header)
            .cast::<libc::c_int>()
            .write_unaligned(passed.as_raw_fd());
        check_len(libc::sendmsg(
            socket.as_raw_fd(),
            &message,
            libc::MSG_NOSIGNAL,
        ))
    }
}

/// As [`super::socket::recv_append`], with the descriptor that came along, if one did; it is
/// close-on-exec. Of several the first is taken.
pub fn recv_passed(
    socket: BorrowedFd<'_>,
    buf: &mut Vec<u8>,
) -> io::Result<(usize, Option<OwnedFd>)> {
    const LEN: u32 = size_of::<libc::c_int>() as u32;
    let mut parcel = Parcel { bytes: [0; 64] };
    let spare = buf.spare_capacity_mut();
    debug_assert!(!spare.is_empty());
    let mut iov = libc::iovec {
        iov_base: spare.as_mut_ptr().cast(),
        iov_len: spare.len(),
    };
    // SAFETY: arithmetic alone.
    let room = unsafe { libc::CMSG_SPACE(LEN) };
    let mut message = envelope(&mut iov, &mut parcel, room as usize);
    // SAFETY: writes at most into the spare capacity and the parcel.
    let n = check_len(unsafe {
        libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC)
    })?;
    // SAFETY: the kernel has just written `n` bytes there.
    unsafe { buf.set_len(buf.len() + n) };
    // SAFETY: the kernel has filled the parcel up to msg_controllen; a header
    // of rights is followed by at least one descriptor, which is ours alone.
    let passed = unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
        {
            Some(
                libc::CMSG_DATA(header)
                    .cast::<libc::c_int>()
                    .read_unaligned(),
            )
        } else {
            None
        }
    };
    Ok((n, passed.map(own).transpose()?))
}
