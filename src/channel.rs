//! What master and worker say to each other: messages of a fixed size on a
//! socketpair that keeps their boundaries. Its end is the other's death.

use crate::sys::{passing, socket};
use socket2::{SockRef, Type};
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
    /// Master: the log, opened anew: its descriptor comes along. Worker: an
    /// operator wants that of me, and it is the master who can.
    Reopen,
    /// Worker: what I log goes there; or it does not, and I have said why.
    Reopened { followed: bool },
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
            Message::Reopen => (7, 0),
            Message::Reopened { followed } => (8, u8::from(followed)),
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
            (LEN, 7, _) => Some(Message::Reopen),
            (LEN, 8, followed) => Some(Message::Reopened {
                followed: *followed != 0,
            }),
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
        if SockRef::from(&fd).r#type()? == Type::SEQPACKET {
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

    /// Says something, and gives the other side a descriptor with it.
    pub fn send_passing(&self, message: Message, passed: BorrowedFd<'_>) -> io::Result<()> {
        passing::send_passing(self.0.as_fd(), &message.encode(), passed)?;
        Ok(())
    }

    /// The next message; None is the end. WouldBlock: there is none now. Of
    /// a descriptor that came along nothing is kept.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        Ok(self.receive_passed()?.map(|(message, _)| message))
    }

    /// The same, with the descriptor that came along.
    pub fn receive_passed(&self) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
        let mut bytes = Vec::with_capacity(LEN);
        match passing::recv_passed(self.0.as_fd(), &mut bytes) {
            Ok((0, _)) => Ok(None),
            Ok((_, passed)) => match Message::decode(&bytes) {
                Some(message) => Ok(Some((message, passed))),
                None => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "unknown message on the channel",
                )),
            },
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_is_said_is_heard() {
        let (one, other) = Channel::pair().unwrap();
        let all = [
            Message::Ready,
            Message::Shutdown,
            Message::Surveyed,
            Message::Quit { last: true },
            Message::Quit { last: false },
            Message::Fast,
            Message::Resign,
            Message::Reopen,
            Message::Reopened { followed: true },
            Message::Reopened { followed: false },
        ];
        for message in all {
            one.send(message).unwrap();
        }
        for message in all {
            assert_eq!(other.receive().unwrap(), Some(message));
        }
        let nothing = other.receive().unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert_eq!(other.receive().unwrap(), None);
    }

    #[test]
    fn a_descriptor_comes_along() {
        let (one, other) = Channel::pair().unwrap();
        let (mut read, write) = io::pipe().unwrap();
        one.send_passing(Message::Reopen, write.as_fd()).unwrap();
        one.send(Message::Resign).unwrap();
        drop(write);
        let (message, passed) = other.receive_passed().unwrap().unwrap();
        assert_eq!(message, Message::Reopen);
        io::PipeWriter::from(passed.unwrap())
            .write_all(b"x")
            .unwrap();
        let (message, passed) = other.receive_passed().unwrap().unwrap();
        assert_eq!((message, passed.is_none()), (Message::Resign, true));

        // who does not want it does not hold it
        let (mut second, write) = io::pipe().unwrap();
        one.send_passing(Message::Reopen, write.as_fd()).unwrap();
        drop(write);
        assert_eq!(other.receive().unwrap(), Some(Message::Reopen));
        let mut text = Vec::new();
        read.read_to_end(&mut text).unwrap();
        assert_eq!(text, b"x");
        assert_eq!(second.read(&mut [0]).unwrap(), 0);
    }
}
