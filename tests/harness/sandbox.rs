//! Kernels that lack something, by a seccomp filter: the calls named here fail as they would there, all
//! others go through. Unlike a tracer it costs nothing and needs no privilege.

use std::io;

/// What the server shall not find.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Missing {
    /// openat2(2): ENOSYS, as before Linux 5.6.
    Openat2,
    /// O_TMPFILE: EOPNOTSUPP, as on a filesystem without unnamed files.
    UnnamedFiles,
    /// fallocate(2): EOPNOTSUPP, as on a filesystem that cannot reserve.
    Fallocate,
    /// close_range(2): ENOSYS, as before Linux 5.9.
    CloseRange,
    /// pidfd_open(2): ENOSYS, as before Linux 5.3.
    Pidfd,
}

/// Where `struct seccomp_data` has the number of the call.
const NUMBER: u32 = 0;

/// And the lower half of its third argument (the flags of openat), on little-endian machines.
const THIRD: u32 = 32;

/// The filter, made before the fork. Empty: none is wanted.
pub fn filter(missing: &[Missing]) -> Vec<libc::sock_filter> {
    let mut code = Vec::new();
    for missing in missing {
        code.extend(match missing {
            Missing::Openat2 => refuse(libc::SYS_openat2, libc::ENOSYS),
            Missing::Fallocate => refuse(libc::SYS_fallocate, libc::EOPNOTSUPP),
            Missing::CloseRange => refuse(libc::SYS_close_range, libc::ENOSYS),
            Missing::Pidfd => refuse(libc::SYS_pidfd_open, libc::ENOSYS),
            Missing::UnnamedFiles => refuse_unnamed(),
        });
    }
    if !code.is_empty() {
        code.push(op(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ALLOW,
        ));
    }
    code
}

fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    let code = code as u16;
    libc::sock_filter { code, jt, jf, k }
}

fn load(place: u32) -> libc::sock_filter {
    op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, place)
}

fn fail(errno: i32) -> libc::sock_filter {
    let verdict = libc::SECCOMP_RET_ERRNO | errno as u32;
    op(libc::BPF_RET | libc::BPF_K, 0, 0, verdict)
}

/// `call` fails with `errno`.
fn refuse(call: libc::c_long, errno: i32) -> Vec<libc::sock_filter> {
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    vec![load(NUMBER), op(equal, 0, 1, call as u32), fail(errno)]
}

/// openat with the one bit that O_TMPFILE has and O_DIRECTORY has not.
fn refuse_unnamed() -> Vec<libc::sock_filter> {
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let any = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let bit = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
    vec![
        load(NUMBER),
        op(equal, 0, 3, libc::SYS_openat as u32),
        load(THIRD),
        op(any, 0, 1, bit),
        fail(libc::EOPNOTSUPP),
    ]
}

/// Takes effect for this process and its children; called between fork and exec.
pub fn apply(filter: &[libc::sock_filter]) -> io::Result<()> {
    if filter.is_empty() {
        return Ok(());
    }
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: no pointers; without privilege the kernel wants this before a filter
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the program points to `len` instructions that outlive the call, and is only read
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
