//! The system's log: one datagram a line, to the socket that every syslogd has.
//! The C library's own call waits for a syslogd that does not read, with a lock
//! held, and every thread that has something to say waits behind it.

use super::check;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

#[cfg(target_os = "linux")]
const SOCKET: &str = "/dev/log";
#[cfg(target_os = "freebsd")]
const SOCKET: &str = "/var/run/log";

/// The facility "daemon", as a line's number has it.
const DAEMON: i32 = libc::LOG_DAEMON;

/// How grave a line is.
#[derive(Clone, Copy, Debug)]
pub enum Gravity {
    Error = libc::LOG_ERR as isize,
    Warning = libc::LOG_WARNING as isize,
    Info = libc::LOG_INFO as isize,
    Debug = libc::LOG_DEBUG as isize,
}

/// Sends a line; `ident` is who says it. Waits no longer than `patience` for
/// a syslogd that does not read (WouldBlock); zero: not at all. No descriptor
/// is kept: it would have to be saved from every fork, and the next syslogd
/// may be another.
pub fn send(ident: &str, gravity: Gravity, text: &str, patience: Duration) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    if patience.is_zero() {
        socket.set_nonblocking(true)?;
    } else {
        socket.set_write_timeout(Some(patience))?;
    }
    let number = DAEMON | gravity as i32;
    let line = format!("<{number}>{} {ident}: {text}", date()?);
    socket.send_to(line.as_bytes(), SOCKET)?;
    Ok(())
}

/// Local time, in RFC 3164's form: `Nov  1 09:05:00`.
fn date() -> io::Result<String> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // SAFETY: a struct of integers and a pointer that is only read by others;
    // zero is a value of it.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: null asks for the result alone.
    let now = unsafe { libc::time(std::ptr::null_mut()) };
    // SAFETY: both live through the call. Null is a year out of range.
    let found = unsafe { libc::localtime_r(&now, &mut local) };
    check(if found.is_null() { -1 } else { 0 })?;
    let month = MONTHS[local.tm_mon.clamp(0, 11) as usize];
    Ok(format!(
        "{month} {:2} {:02}:{:02}:{:02}",
        local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_date_has_fifteen_characters() {
        let date = super::date().unwrap();
        assert_eq!(date.len(), 15, "{date}");
        assert_eq!(date.as_bytes()[3], b' ');
        assert_eq!(&date[9..10], ":");
    }
}
