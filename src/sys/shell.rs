//! A command of the operator's, for the shell.

use super::check;
use super::process::Pid;
use super::signal::Mask;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Starts `/bin/sh -c "exec COMMAND"` in a process group of its own: its
/// standard input is empty, its output a pipe, its errors are ours.
pub fn start(command: &OsStr) -> io::Result<Child> {
    let mut line = OsString::from("exec ");
    line.push(command);
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(line)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    // The service manager listens to the server alone.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        shell.env_remove(name);
    }
    // Our threads have blocked signals, and a program inherits that.
    let unblock = || {
        Mask::none().apply();
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call and touches no
    // memory but its own stack.
    unsafe { shell.pre_exec(unblock) };
    shell.spawn()
}

/// Kills what [`start`] started, and what that has started; it must not have
/// been waited for.
pub fn kill(child: &Child) -> io::Result<()> {
    // SAFETY: no pointers. The group is named by its first process, whose
    // number is taken until it has been waited for.
    check(unsafe { libc::kill(-(child.id() as Pid), libc::SIGKILL) })?;
    Ok(())
}
