//! Another image of this program in a process's place, and what it is given.

#[cfg(target_os = "freebsd")]
use super::check;
use super::own;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// A program, held open: what its path leads to may change.
pub struct Program(OwnedFd);

impl Program {
    /// The one that runs now. Open it at the start: later, it is not on every
    /// system still known by more than its path.
    #[cfg(target_os = "linux")]
    pub fn this() -> io::Result<Program> {
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        // SAFETY: a NUL-terminated text.
        own(unsafe { libc::open(c"/proc/self/exe".as_ptr(), flags) }).map(Program)
    }

    /// See the Linux twin.
    #[cfg(target_os = "freebsd")]
    pub fn this() -> io::Result<Program> {
        let name = [
            libc::CTL_KERN,
            libc::KERN_PROC,
            libc::KERN_PROC_PATHNAME,
            -1,
        ];
        let mut path = [0u8; libc::PATH_MAX as usize + 1];
        let mut len = libc::PATH_MAX as usize;
        // SAFETY: `path` has `len` bytes of room, and one more, which stays
        // NUL; the name has the length given.
        check(unsafe {
            libc::sysctl(
                name.as_ptr(),
                name.len() as u32,
                path.as_mut_ptr().cast(),
                &mut len,
                std::ptr::null(),
                0,
            )
        })?;
        // SAFETY: a NUL-terminated text.
        own(unsafe { libc::open(path.as_ptr().cast(), libc::O_EXEC | libc::O_CLOEXEC) })
            .map(Program)
    }

    /// Executes it in this process's place; what returns is why that failed.
    pub fn exec(&self, argv: &[OsString], env: &[(OsString, OsString)]) -> io::Error {
        let words = argv.iter().map(|word| CString::new(word.as_bytes()));
        let lines = env
            .iter()
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()));
        let (Ok(argv), Ok(env)) = (
            words.collect::<Result<Vec<_>, _>>(),
            lines.collect::<Result<Vec<_>, _>>(),
        ) else {
            return io::Error::from_raw_os_error(libc::EINVAL);
        };
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            let texts = texts.iter().map(|text| text.as_ptr());
            texts.chain([std::ptr::null()]).collect()
        };
        // SAFETY: both lists end with null, and hold NUL-terminated texts that
        // live through the call.
        unsafe {
            libc::fexecve(
                self.0.as_raw_fd(),
                pointers(&argv).as_ptr(),
                pointers(&env).as_ptr(),
            )
        };
        io::Error::last_os_error()
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
