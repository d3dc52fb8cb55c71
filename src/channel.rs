//! What master and worker say to each other: messages of a fixed size on a
//! socketpair that keeps their boundaries. Its end is the other's death.

use crate::sys::socket;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a message: its kind, its argument, and room for what comes.
const LEN: usize = 16;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Worker: I serve.
    Ready,
    /// Worker: a client of the sidechannel wants the whole server to stop.
    Shutdown,
    /// Worker: I am elected, and every device that answers has its usage file.
    Surveyed,
    /// Master: stop gracefully. `last`: nobody serves the listeners after you.
    Quit { last: bool },
    /// Master: stop at once.
    Fast,
    /// Master: you are elected and make no progress: leave that to another.
    Resign,
}

impl Message {
    fn encode(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        (bytes[0], bytes[4]) = match self {
            Message::Ready => (1, 0),
            Message::Quit { last } => (2, u8::from(last)),
            Message::Fast => (3, 0),
            Message::Shutdown => (4, 0),
            Message::Surveyed => (5, 0),
            Message::Resign => (6, 0),
        };
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Message> {
        match (bytes.len(), bytes.first()?, bytes.get(4)?) {
            (LEN, 1, _) => Some(Message::Ready),
            (LEN, 2, last) => Some(Message::Quit { last: *last != 0 }),
            (LEN, 3, _) => Some(Message::Fast),
            (LEN, 4, _) => Some(Message::Shutdown),
            (LEN, 5, _) => Some(Message::Surveyed),
            (LEN, 6, _) => Some(Message::Resign),
            _ => None,
        }
    }
}

/// One end.
pub struct Channel(OwnedFd);

impl Channel {
    /// Two ends, close-on-exec and non-blocking.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = socket::message_pair()?;
        Ok((Channel(one), Channel(other)))
    }

    /// The end that another image of the program was given.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Channel> {
        if socket::keeps_messages(fd.as_fd())? {
            return Ok(Channel(fd));
        }
        let what = "not the end of a channel";
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// Says something. EAGAIN: the other side has not listened for a long time.
    pub fn send(&self, message: Message) -> io::Result<()> {
        socket::send(self.0.as_fd(), &message.encode(), false)?;
        Ok(())
    }

    /// The next message; None is the end. WouldBlock: there is none now.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = Vec::with_capacity(LEN);
        match socket::recv_append(self.0.as_fd(), &mut bytes) {
            Ok(0) => Ok(None),
            Ok(_) => Message::decode(&bytes).map(Some).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "unknown message on the channel")
            }),
            // How the death of a peer that had unread messages is told.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
