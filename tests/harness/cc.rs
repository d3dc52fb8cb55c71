//! The C programs and libraries of the tests, compiled when their source is newer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

/// A program, from `tests/harness/NAME.c`. `None`, with a line that says why: there is no C compiler here.
pub fn program(name: &str) -> Option<PathBuf> {
    compile(name, name, &["-O2", "-pthread"])
}

/// A library to be preloaded, from the same place.
pub fn library(name: &str) -> Option<PathBuf> {
    // NULL checks are wanted: std asks with NULL whether there is a statx
    let flags = "-O2 -shared -fPIC -fno-delete-null-pointer-checks -Wno-nonnull-compare -ldl";
    compile(
        name,
        &format!("{name}.so"),
        &flags.split(' ').collect::<Vec<_>>(),
    )
}

fn compile(name: &str, product: &str, flags: &[&str]) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/harness/{name}.c"));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(product);
    let age = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    if age(&path) > age(&source) {
        return Some(path);
    }
    // another run of the tests may be at the same
    let fresh = path.with_extension(std::process::id().to_string());
    let output = Command::new("cc")
        .args(["-Wall", "-Wextra", "-o"])
        .args([&fresh, &source])
        .args(flags)
        .output();
    match output {
        Ok(output) if output.status.success() => {
            fs::rename(&fresh, &path).expect("rename");
            Some(path)
        }
        Ok(output) => panic!("cc: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: cc: {error}");
            None
        }
    }
}
