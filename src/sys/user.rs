//! Users and groups: who they are, and becoming one.

use super::check;
use std::ffi::{CStr, CString};
use std::io;

/// A user, as the system's database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: CString,
    pub user: u32,
    pub group: u32,
}

/// Bytes of an entry's texts, at most: a group of thousands has a long one.
const LONGEST: usize = 1 << 20;

/// Groups of one user, at most: the kernel's own bound.
const MOST_GROUPS: usize = 65_536;

/// Calls `get` with more and more room, until it has enough. None: there is no
/// such entry.
fn entry<T>(mut get: impl FnMut(&mut [libc::c_char]) -> (i32, Option<T>)) -> io::Result<Option<T>> {
    let mut room = vec![0; 1024];
    loop {
        match get(&mut room) {
            (0, found) => return Ok(found),
            (libc::ERANGE, _) if room.len() < LONGEST => room.resize(room.len() * 2, 0),
            // What "no such entry" is, says POSIX, may differ.
            (libc::ENOENT | libc::ESRCH, _) => return Ok(None),
            (errno, _) => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn user(
    get: impl Fn(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> i32,
) -> io::Result<Option<User>> {
    entry(|room| {
        // SAFETY: a struct of integers and pointers; zero is a value of it.
        let mut passwd: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        let errno = get(&mut passwd, room, &mut found);
        let found = (errno == 0 && !found.is_null()).then(|| User {
            // SAFETY: the entry was filled, so its name is a NUL-terminated
            // text in `room`.
            name: unsafe { CStr::from_ptr(passwd.pw_name) }.to_owned(),
            user: passwd.pw_uid,
            group: passwd.pw_gid,
        });
        (errno, found)
    })
}

/// The user of this name: `getpwnam_r(3)`.
pub fn by_name(name: &CStr) -> io::Result<Option<User>> {
    user(|passwd, room, found| {
        // SAFETY: all pointers live through the call, and the room's size is
        // what is said.
        unsafe { libc::getpwnam_r(name.as_ptr(), passwd, room.as_mut_ptr(), room.len(), found) }
    })
}

/// The user of this number: `getpwuid_r(3)`.
pub fn by_number(number: u32) -> io::Result<Option<User>> {
    user(|passwd, room, found| {
        // SAFETY: as above.
        unsafe { libc::getpwuid_r(number, passwd, room.as_mut_ptr(), room.len(), found) }
    })
}

/// The number of the group of this name: `getgrnam_r(3)`.
pub fn group_by_name(name: &CStr) -> io::Result<Option<u32>> {
    entry(|room| {
        // SAFETY: a struct of integers and pointers; zero is a value of it.
        let mut group: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: as above.
        let errno = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                &mut group,
                room.as_mut_ptr(),
                room.len(),
                &mut found,
            )
        };
        (
            errno,
            (errno == 0 && !found.is_null()).then_some(group.gr_gid),
        )
    })
}

/// The groups of a user, `group` among them: `getgrouplist(3)`.
pub fn groups_of(name: &CStr, group: u32) -> io::Result<Vec<u32>> {
    let mut room = 32;
    loop {
        let mut groups = vec![0; room];
        let mut count = room as libc::c_int;
        // SAFETY: room for `count` numbers, of the type that the call writes.
        let result = unsafe {
            libc::getgrouplist(name.as_ptr(), group as _, groups.as_mut_ptr(), &mut count)
        };
        let count = usize::try_from(count).unwrap_or_default();
        if result >= 0 {
            groups.truncate(count);
            return Ok(groups.into_iter().map(|group| group as u32).collect());
        }
        if room >= MOST_GROUPS {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        // FreeBSD does not say how many there are.
        room = count.max(room * 2);
    }
}

/// User and group whose rights this process has.
pub fn ours() -> (u32, u32) {
    // SAFETY: no pointers; they cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Sets the supplementary groups; takes root.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: reads as many numbers as there are.
    check(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) })?;
    Ok(())
}

/// Real, effective and saved group.
pub fn set_group(group: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setresgid(group, group, group) })?;
    Ok(())
}

/// Real, effective and saved user: there is no way back.
pub fn set_user(user: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setresuid(user, user, user) })?;
    Ok(())
}

/// Real, effective and saved: of the user, and of the group.
pub fn all_of_ours() -> io::Result<([u32; 3], [u32; 3])> {
    let (mut users, mut groups) = ([0; 3], [0; 3]);
    let [real, effective, saved] = &mut users;
    // SAFETY: three places for numbers.
    check(unsafe { libc::getresuid(real, effective, saved) })?;
    let [real, effective, saved] = &mut groups;
    // SAFETY: three places for numbers.
    check(unsafe { libc::getresgid(real, effective, saved) })?;
    Ok((users, groups))
}

/// No program that this process executes gives it more rights than it has.
#[cfg(target_os = "linux")]
pub fn renounce() -> io::Result<()> {
    // SAFETY: no pointers. The unused arguments must be zero.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

/// A process that has changed its user leaves no core and cannot be looked at
/// (nor can it look at itself, in /proc); what it knows is no secret of
/// another's.
#[cfg(target_os = "linux")]
pub fn allow_dumps() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) })?;
    Ok(())
}

/// FreeBSD 14 and later.
#[cfg(target_os = "freebsd")]
pub fn renounce() -> io::Result<()> {
    procctl(libc::PROC_NO_NEW_PRIVS_CTL, libc::PROC_NO_NEW_PRIVS_ENABLE)
}

/// See the Linux twin.
#[cfg(target_os = "freebsd")]
pub fn allow_dumps() -> io::Result<()> {
    procctl(libc::PROC_TRACE_CTL, libc::PROC_TRACE_CTL_ENABLE)
}

#[cfg(target_os = "freebsd")]
fn procctl(what: libc::c_int, mut value: libc::c_int) -> io::Result<()> {
    let me = std::process::id() as libc::id_t;
    // SAFETY: both commands read one integer.
    let result = unsafe { libc::procctl(libc::P_PID, me, what, (&raw mut value).cast()) };
    match check(result) {
        // A kernel that does not know it.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_to_all() {
        let root = by_number(0).unwrap().unwrap();
        assert_eq!((root.user, root.group), (0, 0));
        assert_eq!(by_name(&root.name).unwrap(), Some(root.clone()));
        assert!(groups_of(&root.name, 7).unwrap().contains(&7));
    }

    #[test]
    fn nobody_has_this_name() {
        let name = c"no user: has\nthis name";
        assert_eq!(by_name(name).unwrap(), None);
        assert_eq!(group_by_name(name).unwrap(), None);
        assert_eq!(by_number(0x7fff_fff0).unwrap(), None);
    }

    #[test]
    fn ours_are_ours() {
        let (user, group) = ours();
        let (users, groups) = all_of_ours().unwrap();
        assert_eq!((users[1], groups[1]), (user, group));
    }
}
