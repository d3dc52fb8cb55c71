//! The system's log, by the C library: it knows where each system's is.

use std::ffi::CStr;

/// How grave a line is.
#[derive(Clone, Copy, Debug)]
pub enum Gravity {
    Error,
    Warning,
    Info,
    Debug,
}

/// Lines carry `ident[PID]` from here on, and the facility is "daemon". No
/// descriptor is opened before the first line.
pub fn open(ident: &'static CStr) {
    // SAFETY: the name lives as long as the program; the library keeps it.
    unsafe { libc::openlog(ident.as_ptr(), libc::LOG_PID, libc::LOG_DAEMON) };
}

/// Writes a line. That it could not be written is not told.
pub fn write(gravity: Gravity, line: &CStr) {
    let priority = match gravity {
        Gravity::Error => libc::LOG_ERR,
        Gravity::Warning => libc::LOG_WARNING,
        Gravity::Info => libc::LOG_INFO,
        Gravity::Debug => libc::LOG_DEBUG,
    };
    // SAFETY: the format takes one text, and there is one; both end in NUL.
    unsafe { libc::syslog(priority, c"%s".as_ptr(), line.as_ptr()) };
}

/// Gives the descriptor back; the next line opens another. Whoever closes
/// descriptors by number does this before: the library would go on writing to
/// the number, whatever file it has become.
pub fn close() {
    // SAFETY: no arguments, nothing to fail.
    unsafe { libc::closelog() };
}
