//! A file on its way to a client.

use crate::seats::Seat;
use crate::sys::{cached, file, sendfile};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// From this length on the kernel is told to read ahead. Bytes.
const LONG: u64 = 256 * 1024;

/// What one read-and-send takes where sendfile cannot. Bytes.
const COPY: usize = 64 * 1024;

/// An open file of which spans are sent.
pub struct Download {
    file: File,
    /// sendfile said that it cannot (some FUSE filesystems): copy instead.
    copies: bool,
}

/// A way to read into a buffer, behind its end.
type Read = fn(BorrowedFd<'_>, &mut Vec<u8>, usize, u64) -> io::Result<usize>;

/// What one send did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Bytes(usize),
    /// The socket is full.
    Blocked,
    /// The file has no byte there any more: it shrank.
    Short,
}

impl Download {
    /// `len`: what will be sent of it in all.
    pub fn new(file: File, len: u64) -> Download {
        if len > LONG {
            file::will_read_all(file.as_fd());
        }
        Download {
            file,
            copies: false,
        }
    }

    /// The file itself, to be asked about.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Sends up to `max` bytes from `offset`, without copying where possible.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        offset: u64,
        max: usize,
        seat: &Seat,
    ) -> io::Result<Sent> {
        if !self.copies {
            let is_in_memory = if seat.asks() {
                self.is_in_memory(offset)
            } else {
                Some(true)
            };
            match is_in_memory {
                Some(true) => seat.should_not_wait(),
                Some(false) => seat.will_wait(),
                None => seat.may_wait(),
            }
            match sendfile::sendfile(socket, self.file.as_fd(), offset, max) {
                Ok(0) => return Ok(Sent::Short),
                Ok(n) => return Ok(Sent::Bytes(n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(Sent::Bytes(0)),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                    self.copies = true;
                }
                Err(e) => return Err(e),
            }
        }
        self.copy(socket, offset, max, seat)
    }

    /// What the kernel says of the byte there, which is all that can be asked.
    /// None: its filesystem does not tell (tmpfs, FUSE).
    fn is_in_memory(&self, offset: u64) -> Option<bool> {
        let mut byte = Vec::with_capacity(1);
        match cached::pread_append(self.file.as_fd(), &mut byte, 1, offset) {
            Ok(_) => Some(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Some(false),
            Err(_) => None,
        }
    }

    fn copy(
        &self,
        socket: BorrowedFd<'_>,
        offset: u64,
        max: usize,
        seat: &Seat,
    ) -> io::Result<Sent> {
        let mut bytes = Vec::new();
        if self.read_into(&mut bytes, offset, max.min(COPY), seat)? == 0 {
            return Ok(Sent::Short);
        }
        match crate::sys::socket::send(socket, &bytes, false) {
            Ok(n) => Ok(Sent::Bytes(n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Blocked),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Sent::Bytes(0)),
            Err(e) => Err(e),
        }
    }

    /// Reads up to `len` bytes from `offset` behind the end of `buf`; fewer only
    /// at the end of the file. Returns how many.
    pub fn read_into(
        &self,
        buf: &mut Vec<u8>,
        offset: u64,
        len: usize,
        seat: &Seat,
    ) -> io::Result<usize> {
        let mut got = 0;
        let mut asks = seat.is_one();
        while got < len {
            let read: Read = match asks {
                true => cached::pread_append,
                false => file::pread_append,
            };
            match read(self.file.as_fd(), buf, len - got, offset + got as u64) {
                Ok(n) if n > 0 => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Whatever it is (not the end of the file for certain: Linux 5.9
                // and 5.10 say 0 in its midst), the plain call will tell.
                refused if asks => {
                    asks = false;
                    match refused {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => seat.will_wait(),
                        _ => seat.may_wait(),
                    }
                }
                Ok(_) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(got)
    }
}
