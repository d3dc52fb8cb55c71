//! Each kind of change by itself, to files of all sizes that are old and were asked for often by both workers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::places::{Place, Step, Tags, Want, check, give, warm};
use super::steps::*;
use super::{LASTS, SIZES, conns_of_each, content, outside, wait_until_old};
use crate::harness::server::{is_root, own_docroot};
use crate::harness::{Conn, PATIENCE, Server, assert_same, eventually};

/// Requests of each connection before the change.
const TIMES: usize = 4;

const NOBODY: u32 = 65534;

/// What is changed, what the client asks for meanwhile, and how.
static KINDS: [Kind; 29] = [
    ("PUT", "a/file", &[put, put_again]),
    ("PUT of a part", "a/file", &[put_part]),
    ("DELETE and PUT", "a/file", &[delete, put]),
    ("rename", "a/file", &[rename, rename_again]),
    ("rename of the old", "a/file", &[rename_the_other]),
    ("exchange", "a/file", &[swap_files, swap_files_back]),
    ("unlink", "a/file", &[unlink, rename]),
    ("hard link", "a/file", &[link_the_other]),
    ("pwrite", "a/file", &[write, write_twice, write_and_look]),
    ("pwrite in secret", "a/file", &[secret, secret_again]),
    ("written by mapping", "a/file", &[map]),
    ("truncate to less", "a/file", &[shorten, lengthen]),
    ("truncate to more", "a/file", &[lengthen, shorten]),
    ("truncate to nothing", "a/file", &[empty, write]),
    ("append", "a/file", &[append]),
    ("chmod", "a/file", &[close, open, write]),
    (
        "chmod of the folder",
        "a/file",
        &[close_folder, open_folder],
    ),
    ("folder renamed", "a/file", &[folder_aside, folder_in_place]),
    (
        "folder exchanged",
        "a/file",
        &[swap_folders, swap_folders_back],
    ),
    ("folder by a link", "a/file", &[folder_by_link, link_turned]),
    ("folder removed", "a/file", &[remove_folder, make_folder]),
    ("link turned", "link/file", &[turn_link, turn_link_back]),
    ("link removed", "link/file", &[remove_link]),
    ("through a link", "link/file", &[write, rename, unlink]),
    ("file by a link", "a/file", &[file_by_link, write_the_other]),
    ("file by a link out", "a/file", &[link_out, rename]),
    ("moved out, link left", "a/file", &[move_out, rename]),
    ("linked out, link left", "a/file", &[hard_link_out, rename]),
    ("folder in its place", "a/file", &[folder_for_file]),
];

/// What no question about the file tells: it is the same file, but it lies behind a link that leads out now.
static MOVED_OUT: [Kind; 2] = [
    (
        "folder moved out",
        "a/file",
        &[move_folder_out, move_folder_in],
    ),
    (
        "folder above moved out",
        "a/file",
        &[move_all_out, move_all_in],
    ),
];

/// Such a file is served on from memory, unchanged, but not for long.
#[test]
fn a_folder_that_was_moved_out_is_noticed_soon() {
    let outside = outside();
    let server = Server::builder().workers(2).start();
    let root = server.path("");
    let mut places = places(&MOVED_OUT, &root.join("dev1"), outside.path());
    places.retain(|place| place.len == 1024);
    for place in &mut places {
        place.addr = Some(server.addr());
    }
    wait_until_old(&places.last().expect("two").file());
    let mut conns = conns_of_each(&server, 2);
    for place in &places {
        let mut tags = Tags::default();
        warm(place, &mut conns, TIMES, &mut tags);
    }
    let wants: Vec<Want> = places.iter().map(|place| place.steps[0](place)).collect();
    for conn in &mut conns {
        for (place, want) in places.iter().zip(&wants) {
            let Want::Status(status) = want else {
                panic!("moved out, and not refused?");
            };
            eventually("it to be refused", LASTS, || {
                let reply = conn.get(&place.target);
                if reply.status == 200 {
                    assert_same(&reply.body, &place.version(1), place.kind);
                }
                reply.status == *status
            });
        }
    }
    server.stop();
}

type Kind = (&'static str, &'static str, &'static [Step]);

fn places<'a>(kinds: &'static [Kind], device: &Path, outside: &Path) -> Vec<Place<'a>> {
    let kinds = kinds.iter().enumerate();
    let all = kinds.flat_map(|(nr, kind)| SIZES.map(|len| (nr, kind, len)));
    all.enumerate()
        .map(|(id, (nr, (kind, asks, steps), len))| {
            let place = Place {
                kind,
                len,
                id,
                steps,
                asks,
                folder: device.join(format!("{nr}-{len}")),
                target: format!("/dev1/{nr}-{len}/{asks}"),
                outside: outside.join(id.to_string()),
                addr: None,
            };
            place.prepare();
            place
        })
        .collect()
}

/// A server that modes bind, two workers of it, and two connections of each.
#[test]
fn every_change_is_seen_at_once() {
    let outside = outside();
    let root = own_docroot();
    let mut places = places(&KINDS, &root.path().join("dev1"), outside.path());
    // the device itself is changed last
    let second = root.path().join("dev2/file");
    fs::write(&second, content(9999, 1, 1024)).unwrap();
    if is_root() {
        give(root.path(), NOBODY);
        give(outside.path(), NOBODY);
    }
    let builder = Server::builder().workers(2).threads(10);
    let server = builder.docroot(root.path()).unprivileged().start();
    let mut conns = conns_of_each(&server, 2);
    let mut all_tags: Vec<Tags> = places.iter().map(|_| Tags::default()).collect();
    for (place, tags) in places.iter_mut().zip(&mut all_tags) {
        place.addr = Some(server.addr());
        warm(place, &mut conns, 1, tags);
    }
    wait_until_old(&second);
    for (place, tags) in places.iter().zip(&mut all_tags) {
        // now, not all of them before: what is kept is read anew from time to time
        warm(place, &mut conns, TIMES, tags);
        for (nr, step) in place.steps.iter().enumerate() {
            let want = step(place);
            check(place, nr + 1, &want, &server, &mut conns, tags);
        }
    }
    devices(&server, &mut conns, outside.path());
    drop(conns);
    server.stop();
}

/// A device goes, comes back behind a link, and is another one behind the next link.
fn devices(server: &Server, conns: &mut [Conn], outside: &Path) {
    let (first, second) = (content(9999, 1, 1024), content(9999, 2, 1024));
    let mut see = |want: Result<&[u8], u16>, what: &str| {
        for conn in conns.iter_mut() {
            for _ in 0..TIMES {
                let reply = conn.get("/dev2/file");
                match want {
                    Ok(body) => assert_same(&reply.expect(200, true).body, body, what),
                    Err(status) => assert_eq!(reply.status, status, "{what}"),
                }
            }
        }
    };
    see(Ok(&first), "the device");
    let (here, there) = (server.path("dev2"), outside.join("dev2"));
    fs::rename(&here, &there).unwrap();
    see(Err(404), "no device");
    symlink(&there, &here).unwrap();
    see(Ok(&first), "a device behind a link");
    let other = outside.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), &second).unwrap();
    symlink(&other, outside.join("new")).unwrap();
    fs::rename(outside.join("new"), &here).unwrap();
    see(Ok(&second), "another device behind the link");
    // what is asked for must be beneath that device, too
    fs::remove_file(other.join("file")).unwrap();
    symlink(there.join("file"), other.join("file")).unwrap();
    see(Err(403), "a link from one device to the other");
    fs::remove_file(&here).unwrap();
    eventually("the device to be where it was", PATIENCE, || {
        // its prober may have made a folder of that name by now
        fs::rename(&there, &here).is_ok()
    });
    see(Ok(&first), "the device in its place");
}
