//! A client that sees every byte. Each call has a deadline; nothing here waits for ever.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{PATIENCE, Response, eventually, kernel, show};

/// No reply of the server has a longer head.
const HEAD_MAX: usize = 16 * 1024;

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_timeouts(&self, wait: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream
                .set_read_timeout(Some(wait))
                .and_then(|()| stream.set_write_timeout(Some(wait))),
            Stream::Unix(stream) => stream
                .set_read_timeout(Some(wait))
                .and_then(|()| stream.set_write_timeout(Some(wait))),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Unix(stream) => stream.read(buf),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }
}

/// How a connection ended where a reply was due.
#[derive(Debug)]
pub enum Ended {
    /// A clean end before any byte of the reply.
    Clean,
    /// A reset, half a reply, silence until the deadline: the words for it.
    Broken(String),
}

/// One connection, and the bytes that came on it but were not looked at yet.
pub struct Conn {
    stream: Stream,
    inbox: Vec<u8>,
}

impl Conn {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Conn {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)
            .unwrap_or_else(|e| panic!("connect {addr}: {e}"));
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Conn {
            stream: Stream::Tcp(stream),
            inbox: Vec::new(),
        }
    }

    /// The same, for a test in which there may be nobody to connect to.
    pub fn try_connect(addr: SocketAddr, within: Duration) -> io::Result<Conn> {
        let stream = TcpStream::connect_timeout(&addr, within)?;
        stream.set_nodelay(true)?;
        Ok(Conn {
            stream: Stream::Tcp(stream),
            inbox: Vec::new(),
        })
    }

    /// A client whose receive buffer is small from the start, so that the server soon has to wait for it.
    #[track_caller]
    pub fn connect_narrow(addr: SocketAddr, receive_buffer: usize) -> Conn {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(addr),
            socket2::Type::STREAM,
            None,
        );
        let socket = socket.expect("a socket");
        socket
            .set_recv_buffer_size(receive_buffer)
            .expect("SO_RCVBUF");
        socket
            .connect_timeout(&addr.into(), PATIENCE)
            .unwrap_or_else(|e| panic!("connect {addr}: {e}"));
        socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
        Conn {
            stream: Stream::Tcp(socket.into()),
            inbox: Vec::new(),
        }
    }

    #[track_caller]
    pub fn unix(path: &Path) -> Conn {
        let stream =
            UnixStream::connect(path).unwrap_or_else(|e| panic!("connect {}: {e}", path.display()));
        Conn {
            stream: Stream::Unix(stream),
            inbox: Vec::new(),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Unix(_) => panic!("only a TCP connection has this"),
        }
    }

    /// Our own end, which the server's log names as the peer.
    pub fn local_addr(&self) -> SocketAddr {
        self.tcp().local_addr().expect("getsockname")
    }

    /// Sends all of it.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.try_send(bytes)
            .unwrap_or_else(|e| panic!("send {}: {e}", show(bytes)));
    }

    /// Sends all of it unless the server closes first, which it may after a refusal.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut rest = bytes.as_ref();
        let end = Instant::now() + PATIENCE;
        while !rest.is_empty() {
            rest = &rest[self.write(rest, end)?..];
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], end: Instant) -> io::Result<usize> {
        let left = end
            .checked_duration_since(Instant::now())
            .ok_or(ErrorKind::TimedOut)?;
        self.stream
            .set_timeouts(left.max(Duration::from_millis(1)))?;
        match self.stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }

    /// Sends to a server that may stop taking it; says how much it took before it stood still for so long.
    pub fn push(&mut self, bytes: impl AsRef<[u8]>, patience: Duration) -> usize {
        let bytes = bytes.as_ref();
        let mut sent = 0;
        while sent < bytes.len() {
            match self.write(&bytes[sent..], Instant::now() + patience) {
                Ok(taken) => sent += taken,
                Err(_) => break,
            }
        }
        sent
    }

    /// Sends one byte a segment.
    #[track_caller]
    pub fn send_slowly(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]);
        }
    }

    /// Says that no more will come; replies can still be read.
    pub fn finish_sending(&self) {
        self.tcp()
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
    }

    /// Ends with a reset instead of a clean close.
    pub fn reset(self) {
        socket2::SockRef::from(self.tcp())
            .set_linger(Some(Duration::ZERO))
            .expect("SO_LINGER");
    }

    /// Reads once; 0 is the end of the stream.
    fn fill(&mut self, end: Instant) -> io::Result<usize> {
        let mut buf = [0; 64 * 1024];
        loop {
            let left = end
                .checked_duration_since(Instant::now())
                .ok_or(ErrorKind::TimedOut)?;
            self.stream
                .set_timeouts(left.max(Duration::from_millis(1)))?;
            match self.stream.read(&mut buf) {
                Ok(got) => {
                    self.inbox.extend_from_slice(&buf[..got]);
                    return Ok(got);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads exactly so many bytes.
    #[track_caller]
    pub fn read_exactly(&mut self, len: usize) -> Vec<u8> {
        let end = Instant::now() + PATIENCE;
        while self.inbox.len() < len {
            match self.fill(end) {
                Ok(0) => panic!(
                    "the end after {} of {len} bytes: {}",
                    self.inbox.len(),
                    show(&self.inbox)
                ),
                Ok(_) => {}
                Err(error) => panic!("{error} after {} of {len} bytes", self.inbox.len()),
            }
        }
        let rest = self.inbox.split_off(len);
        std::mem::replace(&mut self.inbox, rest)
    }

    /// Reads up to the end of the first such bytes.
    #[track_caller]
    pub fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = find(&self.inbox, end) {
                return self.read_exactly(at + end.len());
            }
            match self.fill(patience) {
                Ok(0) => panic!("the end instead of {}: {}", show(end), show(&self.inbox)),
                Ok(_) => {}
                Err(error) => panic!("{error} instead of {}: {}", show(end), show(&self.inbox)),
            }
        }
    }

    /// Reads what is there now, at least one byte and at most `most` (a slow reader's sip).
    #[track_caller]
    pub fn sip(&mut self, most: usize) -> Vec<u8> {
        if self.inbox.is_empty() {
            let mut buf = vec![0; most];
            self.stream.set_timeouts(PATIENCE).expect("SO_RCVTIMEO");
            let got = self.stream.read(&mut buf).expect("bytes");
            assert!(got > 0, "the end of the stream instead of bytes");
            buf.truncate(got);
            return buf;
        }
        let rest = self.inbox.split_off(most.min(self.inbox.len()));
        std::mem::replace(&mut self.inbox, rest)
    }

    /// Reads a head, interim (1xx) or final, without its body.
    #[track_caller]
    pub fn head_of_response(&mut self) -> Response {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = find(&self.inbox, b"\r\n\r\n") {
                let rest = self.inbox.split_off(at + 4);
                let head = std::mem::replace(&mut self.inbox, rest);
                return Response::parse(&head);
            }
            assert!(
                self.inbox.len() < HEAD_MAX,
                "no end of the head in {}",
                show(&self.inbox)
            );
            match self.fill(end) {
                Ok(0) => panic!("the end instead of a reply; so far {}", show(&self.inbox)),
                Ok(_) => {}
                Err(error) => panic!("{error} instead of a reply; so far {}", show(&self.inbox)),
            }
        }
    }

    /// Reads a whole final reply.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        let mut response = self.head_of_response();
        response.check_shape();
        if !matches!(response.status, 204 | 304) {
            response.body = self.read_exactly(response.content_length() as usize);
        }
        response
    }

    /// Reads a whole final reply, or `None` if the server closes before its end.
    #[track_caller]
    pub fn response_unless_closed(&mut self) -> Option<Response> {
        let end = Instant::now() + PATIENCE;
        loop {
            let head = find(&self.inbox, b"\r\n\r\n").map(|at| at + 4);
            let whole = head.is_some_and(|head| {
                let length = Response::parse(&self.inbox[..head]).content_length();
                (self.inbox.len() - head) as u64 >= length
            });
            if whole {
                return Some(self.response());
            }
            match self.fill(end) {
                Ok(0) => return None,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Ok(_) => {}
                Err(error) => panic!("{error} instead of the rest of {}", show(&self.inbox)),
            }
        }
    }

    /// The same, for a test that counts what fails instead of ending there.
    pub fn try_response(&mut self) -> Result<Response, Ended> {
        let mut response = self.try_response_to_head()?;
        if !matches!(response.status, 204 | 304) {
            let end = Instant::now() + PATIENCE;
            let len = response.content_length() as usize;
            while self.inbox.len() < len {
                self.try_fill(end).map_err(|ended| match ended {
                    Ended::Clean => Ended::Broken(format!("the end instead of {len} bytes")),
                    broken => broken,
                })?;
            }
            let rest = self.inbox.split_off(len);
            response.body = std::mem::replace(&mut self.inbox, rest);
        }
        Ok(response)
    }

    /// The same of a reply to HEAD.
    pub fn try_response_to_head(&mut self) -> Result<Response, Ended> {
        let end = Instant::now() + PATIENCE;
        let at = loop {
            match find(&self.inbox, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.try_fill(end)?,
            }
        };
        let rest = self.inbox.split_off(at);
        let head = std::mem::replace(&mut self.inbox, rest);
        let response = Response::parse(&head);
        response.check_shape();
        Ok(response)
    }

    /// A line with its LF, or how the connection ended instead.
    pub fn try_line(&mut self) -> Result<String, Ended> {
        let end = Instant::now() + PATIENCE;
        let at = loop {
            match find(&self.inbox, b"\n") {
                Some(at) => break at + 1,
                None => self.try_fill(end)?,
            }
        };
        let rest = self.inbox.split_off(at);
        let line = std::mem::replace(&mut self.inbox, rest);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn try_fill(&mut self, end: Instant) -> Result<(), Ended> {
        match self.fill(end) {
            Ok(0) if self.inbox.is_empty() => Err(Ended::Clean),
            Ok(0) => Err(Ended::Broken(format!(
                "the end after {}",
                show(&self.inbox)
            ))),
            Ok(_) => Ok(()),
            Err(error) => Err(Ended::Broken(format!(
                "{error} after {}",
                show(&self.inbox)
            ))),
        }
    }

    /// Whether bytes have come that nobody has looked at; asked without waiting.
    pub fn has_input(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let got = socket2::SockRef::from(self.tcp()).recv_with_flags(&mut byte, flags);
        !self.inbox.is_empty() || got.is_ok_and(|got| got > 0)
    }

    /// Whether the server's end of the connection has come already; asked without waiting.
    pub fn has_ended(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match socket2::SockRef::from(self.tcp()).recv_with_flags(&mut byte, flags) {
            Ok(got) => got == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Whether nothing has come that was not looked at yet, not even the end; asked without waiting.
    pub fn is_silent(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let peeked = socket2::SockRef::from(self.tcp()).recv_with_flags(&mut byte, flags);
        self.inbox.is_empty() && peeked.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }

    /// The inode of the server's end, by which /proc/PID/fd tells who holds it; `None` before it is accepted.
    pub fn server_inode(&self) -> Option<u32> {
        let (ours, theirs) = self.ends();
        kernel::end(theirs, ours)
            .map(|end| end.inode)
            .filter(|inode| *inode != 0)
    }

    /// Reads the reply to a HEAD request: never a body.
    #[track_caller]
    pub fn response_to_head(&mut self) -> Response {
        let response = self.head_of_response();
        response.check_shape();
        response
    }

    /// Reads `100 Continue`.
    #[track_caller]
    pub fn expect_continue(&mut self) {
        let response = self.head_of_response();
        assert_eq!(show(&response.head), show(b"HTTP/1.1 100 Continue\r\n\r\n"));
    }

    /// Sends a request with `Host`, and with `Content-Length` if there is a body and no other framing.
    #[track_caller]
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let mut message = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n").into_bytes();
        for (name, value) in headers {
            message.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let framed = |name: &str| name == "Content-Length" || name == "Transfer-Encoding";
        let has_framing = headers.iter().any(|(name, _)| framed(name));
        if !has_framing && (!body.is_empty() || method == "PUT") {
            message.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        message.extend_from_slice(b"\r\n");
        message.extend_from_slice(body);
        self.send(message);
        if method == "HEAD" {
            self.response_to_head()
        } else {
            self.response()
        }
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], b"")
    }

    #[track_caller]
    pub fn get_with(&mut self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", target, headers, b"")
    }

    #[track_caller]
    pub fn head(&mut self, target: &str) -> Response {
        self.request("HEAD", target, &[], b"")
    }

    #[track_caller]
    pub fn put(&mut self, target: &str, body: &[u8]) -> Response {
        self.request("PUT", target, &[], body)
    }

    #[track_caller]
    pub fn delete(&mut self, target: &str) -> Response {
        self.request("DELETE", target, &[], b"")
    }

    /// The server closes, cleanly, and sends nothing more before.
    #[track_caller]
    pub fn expect_eof(&mut self) {
        let rest = self.drain().expect("a clean end, not a reset");
        assert!(
            rest.is_empty(),
            "bytes after the last reply: {}",
            show(&rest)
        );
    }

    /// The server closes and sends nothing more before. A reset will do: it may have closed with bytes of
    /// ours unread.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let rest = match self.drain() {
            Ok(rest) => rest,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                std::mem::take(&mut self.inbox)
            }
            Err(error) => panic!("{error} instead of the end"),
        };
        assert!(
            rest.is_empty(),
            "bytes after the last reply: {}",
            show(&rest)
        );
    }

    /// The connection still serves requests, the next one from its first byte.
    #[track_caller]
    pub fn expect_open(&mut self) {
        assert!(
            self.inbox.is_empty(),
            "bytes that no request asked for: {}",
            show(&self.inbox)
        );
        let response = self.get("/");
        response.expect(200, true);
        assert!(
            response.body.is_empty() && self.inbox.is_empty(),
            "bytes that no request asked for"
        );
    }

    /// Everything until the server closes. A reset is an error and leaves what came in the inbox.
    pub fn drain(&mut self) -> io::Result<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        while self.fill(end)? > 0 {}
        Ok(std::mem::take(&mut self.inbox))
    }

    /// How many bytes come until the server closes or resets, without keeping them.
    #[track_caller]
    pub fn count_to_end(&mut self) -> u64 {
        let end = Instant::now() + PATIENCE;
        let mut total = 0;
        loop {
            let got = self.fill(end);
            total += self.inbox.len() as u64;
            self.inbox.clear();
            match got {
                Ok(0) => return total,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return total,
                Err(error) => panic!("{error} after {total} bytes"),
            }
        }
    }

    /// Waits until the server has read every byte that we sent: nothing unacknowledged at our end, nothing
    /// unread at its end. It is the fact that a sleep would hope for.
    #[track_caller]
    pub fn settle(&self) {
        let (ours, theirs) = self.ends();
        assert!(
            kernel::end(ours, theirs).is_some(),
            "sock_diag knows our own end"
        );
        eventually("the server to read what was sent", PATIENCE, || {
            kernel::end(ours, theirs).is_some_and(|end| end.unsent == 0)
                && kernel::end(theirs, ours).is_some_and(|end| end.unread == 0)
        });
    }

    /// At least so many bytes of replies are in the kernel's hands, or were not read yet.
    pub fn undelivered(&self) -> u64 {
        let (ours, theirs) = self.ends();
        let unsent = kernel::end(theirs, ours).map_or(0, |end| end.unsent);
        let unread = kernel::end(ours, theirs).map_or(0, |end| end.unread);
        u64::from(unsent) + u64::from(unread)
    }

    /// Waits until the server has let go of its end.
    #[track_caller]
    pub fn wait_abandoned(&self) {
        let (ours, theirs) = self.ends();
        assert!(
            kernel::end(theirs, ours).is_some(),
            "sock_diag knows the server's end"
        );
        eventually("the server to let go of the connection", PATIENCE, || {
            kernel::end(theirs, ours).is_none_or(|end| !end.established)
        });
    }

    fn ends(&self) -> (SocketAddr, SocketAddr) {
        let stream = self.tcp();
        (
            stream.local_addr().expect("getsockname"),
            stream.peer_addr().expect("getpeername"),
        )
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
