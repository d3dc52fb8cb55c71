//! The tracker's HTTP: kept connections, a retry on one that the server closed between requests, and headers
//! in an order that is a Perl hash's.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::harness::conn::Ended;
use crate::harness::{Conn, Response};

/// One of the tracker's processes.
#[derive(Default)]
pub struct Agent {
    kept: HashMap<SocketAddr, Vec<Conn>>,
    requests: usize,
    /// Requests that were sent again, on a new connection.
    pub retries: usize,
}

impl Agent {
    /// A request as MogileFS::Connection::HTTP spells it: GET in HTTP/1.0, all others in HTTP/1.1.
    #[track_caller]
    pub fn ask(
        &mut self,
        host: SocketAddr,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let version = if method == "GET" { "1.0" } else { "1.1" };
        let host_header = host.to_string();
        let mut headers = vec![
            ("Connection", "keep-alive"),
            ("Host", host_header.as_str()),
            ("User-Agent", "MogileFS::Connection::HTTP/2.73"),
        ];
        headers.extend(more);
        let length = body.len().to_string();
        if matches!(method, "PUT" | "MKCOL") {
            headers.push(("Content-Length", &length));
        }
        // each process has its own order of a hash, and it changes
        self.requests += 1;
        let turn = self.requests % headers.len();
        headers.rotate_left(turn);
        let mut message = format!("{method} {path} HTTP/{version}\r\n");
        for (name, value) in headers {
            message += &format!("{name}: {value}\r\n");
        }
        let message = [message.as_bytes(), b"\r\n", body].concat();
        self.exchange(host, &message, method == "HEAD")
    }

    /// Sends these bytes and reads one reply. A kept connection that was closed in between is no error: the
    /// request goes out once more, on a new one.
    #[track_caller]
    pub fn exchange(&mut self, host: SocketAddr, message: &[u8], is_head: bool) -> Response {
        while let Some(mut conn) = self.kept.entry(host).or_default().pop() {
            match attempt(&mut conn, message, is_head) {
                Ok(reply) => return self.keep(host, conn, reply),
                Err(_) => self.retries += 1,
            }
        }
        let mut conn = Conn::connect(host);
        match attempt(&mut conn, message, is_head) {
            Ok(reply) => self.keep(host, conn, reply),
            Err(ended) => panic!(
                "{ended:?} on a new connection, asked {}",
                crate::harness::show(message)
            ),
        }
    }

    #[track_caller]
    fn keep(&mut self, host: SocketAddr, conn: Conn, reply: Response) -> Response {
        if reply.keeps_alive() {
            self.kept.entry(host).or_default().push(conn);
        }
        reply
    }

    /// The connections that it holds to this host.
    pub fn kept(&self, host: SocketAddr) -> &[Conn] {
        self.kept.get(&host).map_or(&[], Vec::as_slice)
    }
}

fn attempt(conn: &mut Conn, message: &[u8], is_head: bool) -> Result<Response, Ended> {
    conn.try_send(message)
        .map_err(|error| Ended::Broken(error.to_string()))?;
    if is_head {
        conn.try_response_to_head()
    } else {
        conn.try_response()
    }
}
