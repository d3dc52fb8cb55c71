//! The rules of the house that a machine can check. Each failure names the file, the line and the rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may know whom: a noun, and the nouns that it may name behind `crate::`. A noun stands below all that name it,
/// so that the arrows point one way; a new edge is a decision, and is written down here.
const MAY_KNOW: [(&str, &[&str]); 27] = [
    ("sys", &[]),
    ("sync", &[]),
    ("text", &[]),
    ("log", &["sys"]),
    ("ledger", &["sys", "text"]),
    // A consumer's desk: what lies on it, and its owner's ledger.
    ("buffer", &["ledger", "sys"]),
    ("channel", &["sys"]),
    ("scoreboard", &["sys", "text"]),
    ("queue", &["sync", "sys"]),
    // Who waits for clients; a disk that makes its visitor wait is told by whoever asks it.
    ("seats", &["sync", "sys"]),
    ("store", &["seats", "sync", "sys"]),
    ("listener", &["sys"]),
    ("pidfile", &["sys"]),
    // Who may enter a disk: it is told by the queue's tokens whom to call, and by the scoreboard who is dead.
    ("closer", &["sync", "sys"]),
    ("lane", &["queue", "sys"]),
    (
        "device",
        &[
            "closer",
            "lane",
            "queue",
            "scoreboard",
            "seats",
            "sync",
            "sys",
        ],
    ),
    // Knobs are made of the types of those whom they set, and are checked against their limits.
    ("config", &["listener", "scoreboard", "store"]),
    // Where lock files and the control socket are: what the configuration says of it.
    ("run", &["config", "store", "sys"]),
    // Both ends: the master's, and the operator's.
    ("control", &["config", "pidfile", "run", "sys"]),
    (
        "site",
        &["channel", "config", "device", "scoreboard", "store", "sys"],
    ),
    // These two know of the queue what a step returns: Next and Wait.
    (
        "http",
        &[
            "buffer", "device", "ledger", "log", "queue", "seats", "site", "store", "sys",
        ],
    ),
    (
        "mgmt",
        &[
            "buffer",
            "channel",
            "device",
            "ledger",
            "log",
            "queue",
            "scoreboard",
            "seats",
            "site",
            "store",
            "sys",
        ],
    ),
    (
        "client",
        &[
            "buffer", "device", "http", "ledger", "listener", "mgmt", "queue", "site", "sys",
        ],
    ),
    (
        "health",
        &["config", "log", "scoreboard", "store", "sync", "sys"],
    ),
    (
        "worker",
        &[
            "buffer",
            "channel",
            "client",
            "config",
            "device",
            "health",
            "http",
            "ledger",
            "listener",
            "log",
            "mgmt",
            "queue",
            "scoreboard",
            "seats",
            "site",
            "store",
            "sync",
            "sys",
        ],
    ),
    (
        "master",
        &[
            "channel",
            "config",
            "control",
            "health",
            "listener",
            "log",
            "pidfile",
            "run",
            "scoreboard",
            "store",
            "sys",
            "worker",
        ],
    ),
    // lib.rs and main.rs: the map, and the start.
    ("lib", &["config", "control", "log", "master", "worker"]),
];

/// Bytes in, values out: these name no I/O and no system. A prefix of a path under `src`.
const PURE: [&str; 11] = [
    "http/head",
    "http/chunked.rs",
    "http/range.rs",
    "http/conditional.rs",
    "http/response.rs",
    "http/body.rs",
    "http/status.rs",
    "mgmt/command.rs",
    "mgmt/watch.rs",
    "store/path.rs",
    "config/file.rs",
];

/// Lines of a source file, its unit tests not counted: more gets a warning, and more still is refused.
const LONG: usize = 400;
const TOO_LONG: usize = 450;

/// Columns of queues.txt.
const COLUMNS: usize = 72;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of `src`, without its comments.
struct Source {
    /// Below `src`.
    path: String,
    lines: Vec<String>,
    /// Lines before the unit tests.
    len: usize,
}

impl Source {
    /// `log` for log.rs, `http` for http/head.rs, `lib` for what is above all nouns.
    fn noun(&self) -> &str {
        match self.path.split(['/', '.']).next() {
            None | Some("main") => "lib",
            Some(noun) => noun,
        }
    }

    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines
            .iter()
            .enumerate()
            .map(|(nr, line)| (nr + 1, line.as_str()))
    }
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_under(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let sources: Vec<Source> = files_under(&src)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            Source {
                path: path
                    .strip_prefix(&src)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
                len: text
                    .lines()
                    .take_while(|line| *line != "#[cfg(test)]")
                    .count(),
                lines: text.lines().map(without_comment).collect(),
            }
        })
        .collect();
    assert!(sources.len() > 30, "src was not found");
    sources
}

/// Comments begin a line, or stand two words from the code; `://` in a text is none.
fn without_comment(line: &str) -> String {
    if line.trim_start().starts_with("//") {
        return String::new();
    }
    line.split(" // ").next().unwrap_or_default().to_owned()
}

/// Files that git keeps; where there is no git (a release's archive), all that are not built.
fn kept_files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["ls-files", "-z"])
        .output();
    match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8(output.stdout)
                .unwrap()
                .split_terminator('\0')
                .map(|name| root().join(name))
                .filter(|path| path.is_file())
                .collect()
        }
        _ => {
            let folders =
                ["src", "tests", "benches", "scripts", ".ci"].map(|name| root().join(name));
            let top = fs::read_dir(root())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file());
            folders
                .iter()
                .filter(|path| path.is_dir())
                .flat_map(|path| files_under(path))
                .chain(top)
                .collect()
        }
    }
}

/// Each place of `word` in `line` where it stands by itself.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

/// The nouns that a line names behind `crate::`.
fn nouns_named(line: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices("crate::")
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| is_part(c) || c == '$'))
        .filter_map(|(at, prefix)| line[at + prefix.len()..].split(|c| !is_part(c)).next())
        .filter(|noun| !noun.is_empty())
        .collect()
}

fn report(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn the_table_of_layers_points_one_way() {
    let mut below: Vec<&str> = Vec::new();
    for (noun, knows) in MAY_KNOW {
        for known in knows {
            assert!(
                below.contains(known),
                "{noun} stands below {known}, or {known} is missing"
            );
        }
        below.push(noun);
    }
}

#[test]
fn who_knows_whom() {
    let may_know: BTreeMap<&str, &[&str]> = MAY_KNOW.into_iter().collect();
    let mut broken = Vec::new();
    for source in sources() {
        let noun = source.noun();
        let Some(allowed) = may_know.get(noun) else {
            broken.push(format!(
                "src/{}: a noun that is not in the table of layers",
                source.path
            ));
            continue;
        };
        for (nr, line) in source.code() {
            if line.contains("crate::{") {
                broken.push(format!(
                    "src/{}:{nr}: one `use crate::noun` a line, so that this test can read it",
                    source.path
                ));
            }
            for named in nouns_named(line) {
                if named != noun && !allowed.contains(&named) {
                    broken.push(format!(
                        "src/{}:{nr}: {noun} may not know {named}",
                        source.path
                    ));
                }
            }
            // The other way up to the crate's root.
            let to_root = match source.path.matches('/').count() {
                0 => line.contains("super::") && line.trim() != "use super::*;",
                1 => line.contains("super::super::"),
                _ => line.contains("super::super::super::"),
            };
            if to_root && noun != "lib" {
                broken.push(format!(
                    "src/{}:{nr}: other nouns are named by `crate::`",
                    source.path
                ));
            }
        }
    }
    report(&broken);
}

#[test]
fn pure_files_do_no_io() {
    const IO: [&str; 8] = [
        "std::io",
        "std::fs",
        "std::net",
        "std::os",
        "crate::sys",
        "libc::",
        "socket2::",
        "mio::",
    ];
    let mut broken = Vec::new();
    let sources = sources();
    for pure in PURE {
        let mut files = sources
            .iter()
            .filter(|source| source.path.starts_with(pure))
            .peekable();
        assert!(
            files.peek().is_some(),
            "src/{pure} has moved: the list of pure files is wrong"
        );
        for source in files {
            for (nr, line) in source.code() {
                for io in IO.iter().filter(|io| line.contains(**io)) {
                    broken.push(format!("src/{}:{nr}: a pure file names {io}", source.path));
                }
            }
        }
    }
    report(&broken);
}

#[test]
fn the_fence_holds() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.noun() != "sys") {
        for (nr, line) in source.code() {
            for word in [
                "unsafe",
                "target_os",
                "RawFd",
                "as_raw_fd",
                "from_raw_fd",
                "into_raw_fd",
            ] {
                if has_word(line, word) {
                    broken.push(format!(
                        "src/{}:{nr}: `{word}` outside of src/sys",
                        source.path
                    ));
                }
            }
        }
    }
    report(&broken);
}

#[test]
fn names_are_nouns_of_the_design() {
    const DRAWERS: [&str; 10] = [
        "util", "utils", "helper", "helpers", "common", "manager", "misc", "shared", "base", "core",
    ];
    let mut broken = Vec::new();
    for source in sources() {
        for drawer in source
            .path
            .split(['/', '.', '_'])
            .filter(|part| DRAWERS.contains(part))
        {
            broken.push(format!(
                "src/{}: `{drawer}` is a drawer, not a noun",
                source.path
            ));
        }
    }
    report(&broken);
}

#[test]
fn files_are_short() {
    let mut broken = Vec::new();
    for source in sources() {
        let line = format!(
            "src/{}: {} lines without its tests",
            source.path, source.len
        );
        if source.len > TOO_LONG {
            broken.push(format!("{line}; at most {TOO_LONG}"));
        } else if source.len > LONG {
            eprintln!("warning: {line}");
        }
    }
    report(&broken);
}

#[test]
fn each_dependency_says_why_it_is_there() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut broken = Vec::new();
    let (mut section, mut before) = ("", "");
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]")
            && line.contains('=')
            && !line.starts_with([' ', '#'])
            && !before.starts_with("# ")
        {
            broken.push(format!(
                "Cargo.toml: {line}\n    has no line above it that says what it is for"
            ));
        }
        before = line;
    }
    report(&broken);
}

#[test]
fn the_design_fits_a_terminal() {
    let text = fs::read_to_string(root().join("queues.txt")).unwrap();
    let wide = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.chars().count() > COLUMNS);
    report(
        &wide
            .map(|(nr, _)| format!("queues.txt:{}: wider than {COLUMNS} columns", nr + 1))
            .collect::<Vec<_>>(),
    );
}

/// What is committed names no machine: no folder of a person or of a build, and each dependency comes from a registry.
#[test]
fn nothing_names_a_machine() {
    // Put together here, or this file would be the first to be found.
    let folders = ["home", "root", "Users", "work"].map(|folder| format!("/{folder}/"));
    let mut broken = Vec::new();
    for path in kept_files() {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let name = path.strip_prefix(root()).unwrap().display();
        for (nr, line) in text.lines().enumerate() {
            let nr = nr + 1;
            for folder in &folders {
                // At the start of a path, not in the middle of one.
                let absolute = line.match_indices(folder.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~*})$".contains(c))
                });
                if absolute {
                    broken.push(format!("{name}:{nr}: a path of one machine: {folder}"));
                }
            }
            if path.ends_with("Cargo.lock")
                && line.starts_with("source = ")
                && !line.starts_with("source = \"registry+")
            {
                broken.push(format!(
                    "{name}:{nr}: a source that only some machines know: {line}"
                ));
            }
        }
    }
    report(&broken);
}

#[test]
fn this_test_can_read() {
    assert_eq!(nouns_named("use crate::sys::clock;"), ["sys"]);
    assert_eq!(nouns_named("pub use crate::queue;"), ["queue"]);
    assert_eq!(
        nouns_named("    crate::log::client(format_args!(crate::a::B))"),
        ["log", "a"]
    );
    assert_eq!(
        nouns_named("let x = $crate::y; let z = tool_crate::y;"),
        [""; 0]
    );
    assert!(has_word("unsafe { x }", "unsafe") && !has_word("#![deny(unsafe_code)]", "unsafe"));
    assert_eq!(without_comment("    // unsafe"), "");
    assert_eq!(
        without_comment("x(\"http://y\"); // why"),
        "x(\"http://y\");"
    );
}
