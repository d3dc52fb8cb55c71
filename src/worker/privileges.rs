//! Whose rights a worker has: found in the master at its start, so that a name
//! that nobody has is an error then, and taken by each worker first of all.

use crate::config::Config;
use crate::sys::{process, user};
use std::ffi::CString;
use std::fmt;
use std::io;
use std::str::FromStr;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// None: those of the master.
    identity: Option<Identity>,
    nice: Option<i32>,
    core_limit: Option<u64>,
}

/// Who a worker becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: u32,
    pub group: u32,
    /// The supplementary ones.
    groups: Vec<u32>,
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl Privileges {
    /// Looks up the names. The error names the option.
    pub fn find(config: &Config) -> io::Result<Privileges> {
        Ok(Privileges {
            identity: identity(config.user.as_deref(), config.group.as_deref())?,
            nice: config.nice,
            core_limit: config.core_limit,
        })
    }

    /// The same identity, with what else is configured now: nobody is looked up.
    pub fn renewed(&self, config: &Config) -> Privileges {
        Privileges {
            identity: self.identity.clone(),
            nice: config.nice,
            core_limit: config.core_limit,
        }
    }

    /// Who workers become, unless they stay who the master is.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Makes them this process's, which must have one thread. What takes root
    /// comes first; groups before the group before the user, since each step
    /// takes the right to the one before it. The error names the step.
    pub fn take(&self) -> io::Result<()> {
        let failed =
            |what: String| move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
        if let Some(bytes) = self.core_limit {
            process::set_core_limit(bytes)
                .map_err(failed(format!("core-limit={bytes}: setrlimit")))?;
        }
        if let Some(nice) = self.nice {
            process::add_nice(nice).map_err(failed(format!("nice={nice}: setpriority")))?;
        }
        let Some(id) = &self.identity else {
            return Ok(());
        };
        let (uid, gid) = (id.user, id.group);
        user::set_groups(&id.groups).map_err(failed(format!("user={uid}: setgroups")))?;
        user::set_group(gid).map_err(failed(format!("group={gid}: setresgid")))?;
        user::set_user(uid).map_err(failed(format!("user={uid}: setresuid")))?;
        user::renounce().map_err(failed("no_new_privs".to_owned()))?;
        user::allow_dumps().map_err(failed("allowing core dumps again".to_owned()))?;
        let now = user::all_of_ours()?;
        if now != ([uid; 3], [gid; 3]) {
            return Err(refused(format!(
                "user={uid}, group={gid}: the kernel says {now:?} instead"
            )));
        }
        if uid != 0 && user::set_user(0).is_ok() {
            return Err(refused(format!("user={uid}: root can be had back")));
        }
        Ok(())
    }
}

/// For a worker that is a fresh image of the program, which finds no names.
impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
        let nice = number(self.nice.map(|n| n.to_string()));
        let core = number(self.core_limit.map(|n| n.to_string()));
        write!(f, "{nice},{core}")?;
        let Some(id) = &self.identity else {
            return Ok(());
        };
        write!(f, ",{},{}", id.user, id.group)?;
        id.groups.iter().try_for_each(|group| write!(f, ",{group}"))
    }
}

impl FromStr for Privileges {
    type Err = String;

    fn from_str(text: &str) -> Result<Privileges, String> {
        let bad = || format!("{text:?} is no list of rights");
        let number = |word: Option<&str>| match word {
            Some("-") => Ok(None),
            Some(word) => word.parse::<i128>().map(Some).map_err(|_| bad()),
            None => Err(bad()),
        };
        let mut words = text.split(',');
        let nice = number(words.next())?.map(i32::try_from);
        let core_limit = number(words.next())?.map(u64::try_from);
        let ids: Result<Vec<u32>, _> = words.map(str::parse).collect();
        let identity = match ids.map_err(|_| bad())?[..] {
            [] => None,
            [_] => return Err(bad()),
            [user, group, ref groups @ ..] => Some(Identity {
                user,
                group,
                groups: groups.to_vec(),
            }),
        };
        Ok(Privileges {
            identity,
            nice: nice.transpose().map_err(|_| bad())?,
            core_limit: core_limit.transpose().map_err(|_| bad())?,
        })
    }
}

/// None: it is us already.
fn identity(name: Option<&str>, group: Option<&str>) -> io::Result<Option<Identity>> {
    let (our_user, our_group) = user::ours();
    let found = match name {
        None => None,
        Some(name) => Some(find_user(name, group.is_some())?),
    };
    let gid = match (group, &found) {
        (Some(group), _) => find_group(group)?,
        (None, Some(found)) => found.group,
        (None, None) => return Ok(None),
    };
    let uid = found.as_ref().map_or(our_user, |found| found.user);
    if our_user != 0 {
        if (uid, gid) == (our_user, our_group) {
            return Ok(None);
        }
        let options = match (name, group) {
            (Some(name), Some(group)) => format!("user={name}, group={group}"),
            (Some(name), None) => format!("user={name}"),
            (None, group) => format!("group={}", group.unwrap_or_default()),
        };
        return Err(refused(format!(
            "{options}: only root can become another; this is user {our_user}, group {our_group}: \
             start the server as root, or leave the option out"
        )));
    }
    let groups = match &found {
        Some(found) if !found.name.is_empty() => user::groups_of(&found.name, gid)
            .map_err(|e| refused(format!("user={}: getgrouplist: {e}", found.user)))?,
        _ => vec![gid],
    };
    Ok(Some(Identity {
        user: uid,
        group: gid,
        groups,
    }))
}

/// By name, else by number. A number needs no entry where the group is said.
fn find_user(name: &str, has_group: bool) -> io::Result<user::User> {
    let failed = |e: io::Error| io::Error::new(e.kind(), format!("user={name}: {e}"));
    let text = CString::new(name).map_err(|e| failed(e.into()))?;
    if let Some(found) = user::by_name(&text).map_err(failed)? {
        return Ok(found);
    }
    let Ok(number) = name.parse() else {
        return Err(refused(format!("user={name}: there is no such user")));
    };
    match user::by_number(number).map_err(failed)? {
        Some(found) => Ok(found),
        None if has_group && number != u32::MAX => Ok(user::User {
            name: CString::default(),
            user: number,
            group: number,
        }),
        None => Err(refused(format!(
            "user={name}: no user has this number, so its group must be said: --group"
        ))),
    }
}

fn find_group(name: &str) -> io::Result<u32> {
    let failed = |e: io::Error| io::Error::new(e.kind(), format!("group={name}: {e}"));
    let text = CString::new(name).map_err(|e| failed(e.into()))?;
    match (user::group_by_name(&text).map_err(failed)?, name.parse()) {
        (Some(group), _) => Ok(group),
        (None, Ok(number)) if number != u32::MAX => Ok(number),
        _ => Err(refused(format!("group={name}: there is no such group"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(user: Option<&str>, group: Option<&str>) -> String {
        identity(user, group).unwrap_err().to_string()
    }

    #[test]
    fn nothing_said_changes_nothing() {
        assert_eq!(identity(None, None).unwrap(), None);
        Privileges::default().take().unwrap();
    }

    #[test]
    fn what_is_not_there_is_named() {
        let text = error(Some("no-such-user"), None);
        assert_eq!(text, "user=no-such-user: there is no such user");
        let text = error(Some("0"), Some("no-such-group"));
        assert_eq!(text, "group=no-such-group: there is no such group");
        assert!(error(Some("2147480000"), None).contains("--group"));
        assert!(error(Some("a\0b"), None).starts_with("user="));
        // what the kernel takes as "leave it as it is"
        assert!(error(Some("4294967295"), Some("0")).contains("user=4294967295"));
        assert!(error(None, Some("4294967295")).contains("group=4294967295"));
    }

    #[test]
    fn root_becomes_anybody_and_others_only_themselves() {
        let (uid, gid) = user::ours();
        let found = identity(Some("65534"), Some("65533"));
        if uid == 0 {
            let found = found.unwrap().unwrap();
            assert_eq!((found.user, found.group), (65534, 65533));
            assert!(found.groups.contains(&65533));
            let group_alone = identity(None, Some("7")).unwrap().unwrap();
            assert_eq!((group_alone.user, group_alone.group), (0, 7));
            assert_eq!(group_alone.groups, [7]);
        } else {
            assert!(found.unwrap_err().to_string().contains("only root"));
            let ours = (uid.to_string(), gid.to_string());
            assert_eq!(identity(Some(&ours.0), Some(&ours.1)).unwrap(), None);
        }
    }

    #[test]
    fn a_fresh_image_has_the_same() {
        let identity = Identity {
            user: 1,
            group: 2,
            groups: vec![2, 30],
        };
        for privileges in [
            Privileges::default(),
            Privileges {
                identity: Some(identity.clone()),
                nice: None,
                core_limit: Some(u64::MAX),
            },
            Privileges {
                identity: Some(Identity {
                    groups: Vec::new(),
                    ..identity
                }),
                nice: Some(-20),
                core_limit: None,
            },
        ] {
            assert_eq!(privileges.to_string().parse(), Ok(privileges));
        }
        for text in ["", "-", "-,-,", "-,-,1", "-,-1", "x,-", "-,-,1,x"] {
            assert!(text.parse::<Privileges>().is_err(), "{text:?}");
        }
    }
}
