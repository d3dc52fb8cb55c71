//! The steps that a change is made of: each does one thing to its place, and says what is to be seen from then on.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::mapping::Mapping;
use super::places::{Place, Want};
use super::{content, exchange, overwrite, overwrite_in_secret};
use crate::harness::assert_same;

pub fn put(place: &Place<'_>) -> Want {
    let reply = place.conn().put(&place.target, &place.version(3));
    assert_eq!(reply.status, 201, "PUT {}", place.target);
    place.shows(3)
}

pub fn put_again(place: &Place<'_>) -> Want {
    place.conn().put(&place.target, &place.version(4));
    let reply = place.conn().put(&place.target, &place.version(5));
    assert_eq!(reply.status, 201, "PUT {}", place.target);
    place.shows(5)
}

/// The first half of another version; of nothing, one byte.
pub fn put_part(place: &Place<'_>) -> Want {
    let part = content(place.id, 3, place.len.div_ceil(2).max(1));
    let range = format!("bytes 0-{}/*", part.len() - 1);
    let headers = [("Content-Range", range.as_str())];
    let reply = place.conn().request("PUT", &place.target, &headers, &part);
    assert_eq!(reply.status, 201, "PUT {}", place.target);
    let mut now = place.version(1);
    now.resize(now.len().max(part.len()), 0);
    now[..part.len()].copy_from_slice(&part);
    Want::Body(now)
}

pub fn delete(place: &Place<'_>) -> Want {
    place.conn().delete(&place.target).expect(204, true);
    Want::Status(404)
}

pub fn rename(place: &Place<'_>) -> Want {
    fs::rename(place.beside(6), place.file()).expect("rename");
    place.shows(6)
}

/// Twice at once, so that it may be within one tick of the clock.
pub fn rename_again(place: &Place<'_>) -> Want {
    let (one, other) = (place.beside(7), place.beside(8));
    fs::rename(one, place.file()).expect("rename");
    fs::rename(other, place.file()).expect("rename");
    place.shows(8)
}

/// A file that is kept as well takes its place.
pub fn rename_the_other(place: &Place<'_>) -> Want {
    fs::rename(place.path("b/file"), place.file()).expect("rename");
    place.shows(2)
}

pub fn swap_files(place: &Place<'_>) -> Want {
    exchange(&place.file(), &place.path("b/file"));
    place.shows(2)
}

pub fn swap_files_back(place: &Place<'_>) -> Want {
    exchange(&place.file(), &place.path("b/file"));
    place.shows(1)
}

pub fn unlink(place: &Place<'_>) -> Want {
    fs::remove_file(place.file()).expect("unlink");
    Want::Status(404)
}

pub fn link_the_other(place: &Place<'_>) -> Want {
    fs::hard_link(place.path("b/file"), place.path("new")).expect("link");
    fs::rename(place.path("new"), place.file()).expect("rename");
    place.shows(2)
}

pub fn write(place: &Place<'_>) -> Want {
    overwrite(&place.file(), 0, &place.version(9));
    place.shows(9)
}

/// Twice at once, equally long, so that it may be within one tick of the clock.
pub fn write_twice(place: &Place<'_>) -> Want {
    overwrite(&place.file(), 0, &place.version(10));
    overwrite(&place.file(), 0, &place.version(11));
    place.shows(11)
}

/// The same, and between each two somebody has looked.
pub fn write_and_look(place: &Place<'_>) -> Want {
    let mut conn = place.conn();
    for version in 12..20 {
        overwrite(&place.file(), 0, &place.version(version));
        let reply = conn.get(&place.target);
        let what = format!("pwrite of {}", place.target);
        assert_same(&reply.body, &place.version(version), &what);
    }
    overwrite(&place.file(), 0, &place.version(20));
    place.shows(20)
}

pub fn secret(place: &Place<'_>) -> Want {
    overwrite_in_secret(&place.file(), &place.version(21));
    place.shows(21)
}

pub fn secret_again(place: &Place<'_>) -> Want {
    overwrite_in_secret(&place.file(), &place.version(22));
    overwrite_in_secret(&place.file(), &place.version(23));
    place.shows(23)
}

/// The first store into a page that was not written to.
pub fn map(place: &Place<'_>) -> Want {
    if place.len == 0 {
        return place.shows(1);
    }
    Mapping::of(&place.file(), place.len).store(&place.version(24));
    place.shows(24)
}

fn cut(place: &Place<'_>, len: usize) -> Want {
    let file = fs::OpenOptions::new().write(true).open(place.file());
    file.and_then(|file| file.set_len(len as u64))
        .expect("truncate");
    Want::Body(fs::read(place.file()).expect("read"))
}

pub fn shorten(place: &Place<'_>) -> Want {
    cut(place, place.len / 2)
}

/// Zeros come behind it.
pub fn lengthen(place: &Place<'_>) -> Want {
    cut(place, place.len + 100)
}

pub fn empty(place: &Place<'_>) -> Want {
    cut(place, 0)
}

pub fn append(place: &Place<'_>) -> Want {
    let file = fs::OpenOptions::new().append(true).open(place.file());
    file.and_then(|mut file| file.write_all(b"more"))
        .expect("append");
    Want::Body([&place.version(1)[..], b"more"].concat())
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

pub fn close(place: &Place<'_>) -> Want {
    chmod(&place.file(), 0o000);
    Want::Status(403)
}

pub fn open(place: &Place<'_>) -> Want {
    chmod(&place.file(), 0o644);
    place.shows(1)
}

/// The file itself is as it was.
pub fn close_folder(place: &Place<'_>) -> Want {
    chmod(&place.path("a"), 0o000);
    Want::Status(403)
}

pub fn open_folder(place: &Place<'_>) -> Want {
    chmod(&place.path("a"), 0o755);
    place.shows(1)
}

pub fn folder_aside(place: &Place<'_>) -> Want {
    fs::rename(place.path("a"), place.path("aside")).expect("rename");
    Want::Status(404)
}

pub fn folder_in_place(place: &Place<'_>) -> Want {
    fs::rename(place.path("b"), place.path("a")).expect("rename");
    place.shows(2)
}

pub fn swap_folders(place: &Place<'_>) -> Want {
    exchange(&place.path("a"), &place.path("b"));
    place.shows(2)
}

pub fn swap_folders_back(place: &Place<'_>) -> Want {
    exchange(&place.path("a"), &place.path("b"));
    place.shows(1)
}

/// The same file by another way: a link inside the device is followed.
pub fn folder_by_link(place: &Place<'_>) -> Want {
    fs::rename(place.path("a"), place.path("aside")).expect("rename");
    symlink("aside", place.path("a")).expect("symlink");
    place.shows(1)
}

pub fn link_turned(place: &Place<'_>) -> Want {
    symlink("b", place.path("new")).expect("symlink");
    fs::rename(place.path("new"), place.path("a")).expect("rename");
    place.shows(2)
}

pub fn remove_folder(place: &Place<'_>) -> Want {
    fs::remove_dir_all(place.path("a")).expect("rm -r");
    Want::Status(404)
}

pub fn make_folder(place: &Place<'_>) -> Want {
    fs::create_dir(place.path("a")).expect("mkdir");
    fs::write(place.file(), place.version(25)).expect("write");
    place.shows(25)
}

pub fn turn_link(place: &Place<'_>) -> Want {
    symlink("b", place.path("new")).expect("symlink");
    fs::rename(place.path("new"), place.path("link")).expect("rename");
    place.shows(2)
}

pub fn turn_link_back(place: &Place<'_>) -> Want {
    symlink("a", place.path("new")).expect("symlink");
    fs::rename(place.path("new"), place.path("link")).expect("rename");
    place.shows(1)
}

pub fn remove_link(place: &Place<'_>) -> Want {
    fs::remove_file(place.path("link")).expect("unlink");
    Want::Status(404)
}

fn link_over_file(place: &Place<'_>, to: &Path) {
    symlink(to, place.path("new")).expect("symlink");
    fs::rename(place.path("new"), place.file()).expect("rename");
}

pub fn file_by_link(place: &Place<'_>) -> Want {
    link_over_file(place, Path::new("../b/file"));
    place.shows(2)
}

pub fn write_the_other(place: &Place<'_>) -> Want {
    overwrite(&place.path("b/file"), 0, &place.version(26));
    place.shows(26)
}

/// A file outside that is like it in all but its inode.
pub fn link_out(place: &Place<'_>) -> Want {
    let out = place.outside.join("file");
    fs::write(&out, place.version(1)).expect("write");
    link_over_file(place, &out);
    Want::Status(403)
}

/// What the link leads to is the very file that was served.
pub fn move_out(place: &Place<'_>) -> Want {
    let out = place.outside.join("file");
    fs::rename(place.file(), &out).expect("rename");
    link_over_file(place, &out);
    Want::Status(403)
}

pub fn hard_link_out(place: &Place<'_>) -> Want {
    let out = place.outside.join("file");
    fs::hard_link(place.file(), &out).expect("link");
    link_over_file(place, &out);
    Want::Status(403)
}

/// As before, and nothing has touched the file itself: all that stat says of it is as it was.
pub fn move_folder_out(place: &Place<'_>) -> Want {
    let out = place.outside.join("a");
    fs::rename(place.path("a"), &out).expect("rename");
    symlink(out, place.path("a")).expect("symlink");
    Want::Status(403)
}

pub fn move_folder_in(place: &Place<'_>) -> Want {
    fs::remove_file(place.path("a")).expect("unlink");
    fs::rename(place.outside.join("a"), place.path("a")).expect("rename");
    place.shows(1)
}

/// The same one floor up.
pub fn move_all_out(place: &Place<'_>) -> Want {
    let out = place.outside.join("all");
    fs::rename(&place.folder, &out).expect("rename");
    symlink(out, &place.folder).expect("symlink");
    Want::Status(403)
}

pub fn move_all_in(place: &Place<'_>) -> Want {
    fs::remove_file(&place.folder).expect("unlink");
    fs::rename(place.outside.join("all"), &place.folder).expect("rename");
    place.shows(1)
}

pub fn folder_for_file(place: &Place<'_>) -> Want {
    fs::remove_file(place.file()).expect("unlink");
    fs::create_dir(place.file()).expect("mkdir");
    Want::Status(403)
}
