//! Which devices a docroot has: its names are listed again and again, in a
//! thread of its own, since the docroot's disk may hang too.

use super::mounts::{self, Seat};
use super::rounds::News;
use crate::scoreboard::{Name, Scoreboard, device_id};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

/// A device that was found.
pub struct Found {
    pub name: Name,
    /// Below the canonical docroot.
    pub path: PathBuf,
    pub seat: Option<Seat>,
}

/// Starts a docroot's thread: each order gives one [`News::Docroot`].
pub fn start(site: usize, docroot: PathBuf, tell: &Sender<News>) -> io::Result<Sender<()>> {
    let (give, orders) = channel();
    let tell = tell.clone();
    std::thread::Builder::new()
        .name(format!("survey:{site}"))
        .spawn(move || {
            let mut canonical = None;
            for () in orders {
                let found = list(&docroot, &mut canonical);
                // Nobody listens any more when the process ends.
                let _ = tell.send(News::Docroot(site, found));
            }
        })?;
    Ok(give)
}

fn list(docroot: &Path, canonical: &mut Option<PathBuf>) -> io::Result<Vec<Found>> {
    let docroot = match canonical {
        Some(docroot) => docroot,
        None => canonical.insert(docroot.canonicalize()?),
    };
    // Without it there are no seats; the names are there all the same.
    let mounts = crate::sys::mounts::list().unwrap_or_else(|e| {
        log::error!("the list of mounts: {e}");
        Vec::new()
    });
    let found = names(docroot)?.into_iter().map(|(name, is_link)| {
        let path = docroot.join(std::ffi::OsStr::from_bytes(&name));
        let leads = if is_link {
            std::fs::read_link(&path)
                .map_or_else(|_| path.clone(), |target| mounts::follow(docroot, &target))
        } else {
            path.clone()
        };
        Found {
            name,
            seat: Seat::find(&mounts, &leads),
            path,
        }
    });
    Ok(found.collect())
}

/// The docroot's directories and symlinks that can be devices, and whether they
/// are symlinks.
fn names(docroot: &Path) -> io::Result<Vec<(Name, bool)>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(docroot)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = Name::new(name.as_bytes()).filter(|name| !name.starts_with(b".")) else {
            continue;
        };
        // It is in the listing; where it is not, only the docroot is asked.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() || kind.is_symlink() {
            names.push((name, kind.is_symlink()));
        }
    }
    Ok(names)
}

/// Gives every device of a docroot its line on the scoreboard; returns how many
/// of them MogileFS knows (`dev` and a number). For the master, before it forks.
pub fn survey(site: usize, docroot: &Path, board: &Scoreboard) -> usize {
    let names = names(docroot).unwrap_or_default();
    for (name, _) in &names {
        board.place(site, name);
    }
    names
        .iter()
        .filter(|(name, _)| device_id(name).is_some())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn devices_are_directories_and_symlinks() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["dev1", "dev007", "disk", ".dev2"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        std::fs::create_dir(root.join("d".repeat(33))).unwrap();
        std::fs::write(root.join("dev3"), "a file").unwrap();
        symlink("/nonesuch/x", root.join("dev4")).unwrap();
        let mut found = list(&root, &mut None).unwrap();
        found.sort_by_key(|found| found.path.clone());
        let paths: Vec<_> = found.iter().map(|found| found.path.clone()).collect();
        let wanted = ["dev007", "dev1", "dev4", "disk"].map(|name| root.join(name));
        assert_eq!(paths, wanted);
        assert!(found[1].seat.is_some());
        let board = Scoreboard::new().unwrap();
        assert_eq!(survey(0, &root, &board), 3);
        assert_eq!(board.rows().count(), 4);
        assert!(list(Path::new("/nonesuch"), &mut None).is_err());
    }
}
