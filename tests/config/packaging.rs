//! What a packager takes from `scripts/`: systemd reads the units, and the shells the scripts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Folder;

/// `systemd-analyze security`, in tenths: 100 is a service without any fence.
const EXPOSURE: &str = "20";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name)
}

/// None, with a line that says so: there is no such program.
fn output(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: {}: {error}", command.get_program().display());
            None
        }
    }
}

#[track_caller]
fn expect_fine(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    out + &err
}

#[test]
fn systemd_understands_the_units() {
    let folder = Folder::new();
    let service = folder.path("rmogstored.service");
    let socket = folder.path("rmogstored.socket");
    // the program is looked for where it is installed
    let bin = env!("CARGO_BIN_EXE_rmogstored");
    let unit = std::fs::read_to_string(script("systemd/rmogstored.service")).expect("the unit");
    std::fs::write(&service, unit.replace("/usr/sbin/rmogstored", bin)).expect("write");
    std::fs::copy(script("systemd/rmogstored.socket"), &socket).expect("copy");
    let mut verify = Command::new("systemd-analyze");
    verify
        .args(["verify", "--man=no"])
        .arg(&service)
        .arg(&socket);
    let Some(verified) = output(&mut verify) else {
        return;
    };
    let said = expect_fine(&verified);
    // what it does not know it only mentions
    assert!(!said.contains("rmogstored."), "{said}");
    let mut security = Command::new("systemd-analyze");
    security
        .args(["security", "--no-pager", "--offline=true"])
        .arg(format!("--threshold={EXPOSURE}"))
        .arg(&service);
    if let Some(judged) = output(&mut security) {
        expect_fine(&judged);
    }
}

#[test]
fn the_units_say_what_the_program_understands() {
    let unit = std::fs::read_to_string(script("systemd/rmogstored.service")).expect("the unit");
    let folder = Folder::new();
    let root = folder.docroot("root");
    let pid = folder.at("pid");
    let config = folder.config("x.conf", &format!("docroot = {root}\npidfile = {pid}\n"));
    let lines = unit.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        let args = value.strip_prefix("/usr/sbin/rmogstored ")?;
        Some((key, args))
    });
    let mut keys = Vec::new();
    for (key, args) in lines {
        keys.push(key);
        let args: Vec<&str> = args
            .split(' ')
            .map(|arg| {
                if arg.starts_with("--config=") {
                    config.as_str()
                } else {
                    arg
                }
            })
            .collect();
        if args.contains(&"--reload") {
            // nobody runs
            continue;
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_rmogstored"));
        let checked = output(command.args(args).arg("--check-config")).expect("our own");
        expect_fine(&checked);
    }
    assert_eq!(keys, ["ExecStartPre", "ExecStart", "ExecReload"]);
}

#[test]
fn the_shell_understands_the_script() {
    let script = script("freebsd/rmogstored");
    let read = output(Command::new("sh").arg("-n").arg(&script)).expect("a shell");
    expect_fine(&read);
    // rc.subr's variables look unused, or never assigned
    let mut check = Command::new("shellcheck");
    check.args(["-s", "sh", "--severity=warning", "-e", "SC2034,SC2154"]);
    if let Some(checked) = output(check.arg(&script)) {
        expect_fine(&checked);
    }
}
