//! Starts that must fail and say why; and `--check-config`, which finds the same without a start.

use super::{Folder, run};
use std::time::{Duration, Instant};

/// A start, and a check, end alike.
#[track_caller]
fn refused(args: &[&str], code: i32, named: &[&str]) {
    run(args).expect(code, named);
    let mut args = args.to_vec();
    args.push("--check-config");
    let checked = run(&args).expect(code, named);
    assert_eq!(checked.out, "");
}

#[test]
fn what_is_fine_is_said_on_stdout_and_nothing_is_served() {
    let folder = Folder::new();
    let root = folder.docroot("root");
    // the address is taken, by somebody who serves
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let pid = folder.at("pid");
    let text = format!(
        "docroot = {root}\nhttplisten = {}\nmgmtlisten=127.0.0.1:0\npidfile = {pid}\ndaemonize\n",
        taken.local_addr().unwrap()
    );
    let config = folder.config("x.conf", &text);
    let checked = run(&[&config, "--check-config"]).expect(0, &[]);
    assert_eq!(
        checked.out,
        "configuration is fine: 1 site(s), 2 listener(s)\n"
    );
    assert_eq!(checked.err, "");
    assert!(!folder.path("pid").exists());
}

#[test]
fn an_unknown_line_is_named_with_the_nearest_key() {
    let folder = Folder::new();
    let config = folder.config("x.conf", "# one\ndocroot = /\n\nhttp_listen = 7500\n");
    let path = folder.at("x.conf");
    refused(
        &[&config],
        1,
        &[&format!(
            "{path}:4: unknown key \"http_listen\"; the nearest key is \"httplisten\""
        )],
    );
    let config = folder.config("x.conf", "docroot /srv\n");
    refused(
        &[&config],
        1,
        &[
            &format!("{path}:1: \"docroot /srv\" is not `key = value`"),
            "\"docroot\"",
        ],
    );
}

/// Whatever file was named by mistake: the answer is short, and comes at once.
#[test]
fn a_megabyte_of_something_else_is_refused_in_a_short_line() {
    let folder = Folder::new();
    let path = folder.at("x.conf");
    let half = 1 << 19;
    for (text, said) in [
        ("a".repeat(half), "unknown key \"aaaa"),
        ("a b ".repeat(half / 4), "\"a b a b"),
        ("\u{e9}".repeat(half / 2), "\"\\xc3\\xa9"),
        (format!("docroot = /{}", " b".repeat(half / 2)), "\"b b b"),
        (format!("a = {}", "b".repeat(half)), "unknown key \"a\""),
    ] {
        let config = folder.config("x.conf", &text);
        let at = Instant::now();
        let ended = run(&[&config]).expect(1, &[&format!("{path}:1: "), said]);
        assert!(ended.err.len() < 1024, "{} bytes", ended.err.len());
        assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
    }
}

#[test]
fn a_bad_value_is_named_with_its_line() {
    let folder = Folder::new();
    let config = folder.config("x.conf", "\nhttplisten = localhost:80\n");
    let place = format!("{}:2: httplisten = localhost:80: ", folder.at("x.conf"));
    refused(&[&config], 1, &[&place]);
}

#[test]
fn a_missing_file_and_a_missing_docroot_are_named() {
    let folder = Folder::new();
    let missing = folder.at("missing");
    let arg = format!("--config={missing}");
    refused(&[&arg], 1, &[&format!("config={missing}: No such file")]);
    let config = folder.config("x.conf", &format!("docroot = {missing}\nmgmtlisten = 0"));
    refused(&[&config], 1, &[&missing, "No such file"]);
}

#[test]
fn conflicts_name_both_places() {
    let folder = Folder::new();
    let path = folder.at("x.conf");
    let config = folder.config("x.conf", "docroot = /a\npidfile = /p\n");
    refused(
        &[&config, "--docroot=/b"],
        1,
        &[
            "conflicting path values for docroot: /b (the command line) and /a",
            &format!("{path}:1"),
        ],
    );
    refused(
        &[&config, "--pidfile=/q"],
        1,
        &["conflicting path values for pidfile", &format!("{path}:2")],
    );
    refused(
        &["--docroot=/a", "--docroot=/b"],
        2,
        &["conflicting path values for docroot"],
    );
}

#[test]
fn several_files_want_multi() {
    let folder = Folder::new();
    let a = folder.config("a.conf", "docroot = /a\nhttplisten = 1\n");
    let b = folder.config("b.conf", "docroot = /b\nhttplisten = 2\n");
    let c = folder.config("c.conf", "docroot = /b\nhttplisten = 3\n");
    let d = folder.config("d.conf", "docroot = /d\nmgmtlisten = 2\n");
    refused(&[&a, &b], 1, &["--multi"]);
    refused(&["--multi", &a, &a], 1, &["a.conf is given twice"]);
    refused(&["--multi", &b, &c], 1, &["/b", "b.conf:1", "c.conf:1"]);
    refused(
        &["--multi", &b, &d],
        1,
        &["0.0.0.0:2", "b.conf:2", "d.conf:2"],
    );
    for arg in ["--docroot=/x", "--httplisten=9", "--mgmtlisten=9"] {
        let (name, _) = arg.split_once('=').unwrap();
        refused(&["--multi", &a, &b, arg], 2, &[name, "--multi"]);
    }
    let e = folder.config("e.conf", "docroot = /e\n");
    refused(&["--multi", &a, &e], 1, &["e.conf", "a listener"]);
    let f = folder.config("f.conf", "httplisten = 5\n");
    refused(&["--multi", &a, &f], 1, &["f.conf", "a docroot"]);
}

#[test]
fn nonsense_in_the_environment_is_named() {
    let ended = super::run_command(
        std::process::Command::new(env!("CARGO_BIN_EXE_rmogstored"))
            .env("MOG_DISK_USAGE_INTERVAL", "often")
            .args(["--docroot=/", "--mgmtlisten=127.0.0.1:0"]),
    );
    ended.expect(1, &["MOG_DISK_USAGE_INTERVAL=often: "]);
}

#[test]
fn help_usage_and_version_are_ours_by_any_name() {
    let folder = Folder::new();
    for name in ["rmogstored", "cmogstored", "mogstored"] {
        let link = folder.path(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rmogstored"), &link).unwrap();
        for (arg, starts) in [
            ("--version", "rmogstored "),
            ("-V", "rmogstored "),
            ("--usage", "Usage: rmogstored "),
            ("--help", "A storage server"),
            ("-?", "A storage server"),
        ] {
            let ended = super::run_command(std::process::Command::new(&link).arg(arg));
            let ended = ended.expect(0, &[]);
            assert!(ended.out.starts_with(starts), "{arg}: {}", ended.out);
            assert!(!ended.out.contains("cmogstored"), "{arg}: {}", ended.out);
        }
        let wrong = super::run_command(std::process::Command::new(&link).arg("--nonesuch"));
        wrong.expect(2, &["--nonesuch", "Usage: rmogstored "]);
    }
}
