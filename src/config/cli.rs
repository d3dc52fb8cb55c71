//! The table of options: names, units, defaults, and usage errors that name
//! them. argv is read by it, and so is each line of a config file: every long
//! option is a key.

use super::ExecWorkers;
use crate::listener::Address;
use crate::scoreboard::MAX_WORKERS;
use crate::store::Durability;
use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgAction, Command};
use std::path::PathBuf;
use std::time::Duration;

/// Options that a config file cannot hold: they are about config files, or
/// about this run alone.
pub const ARGV_ONLY: [&str; 11] = [
    "config",
    "check-config",
    "stop",
    "reload",
    "status",
    "json",
    "multi",
    "skipconfig",
    "help",
    "usage",
    "version",
];

/// Longest time that an option takes: a week. Clients' clocks are 32 bits of
/// milliseconds.
const MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// Most consumer threads, and fewest: a disk's queue wants about ten.
const THREADS: std::ops::RangeInclusive<u64> = 10..=100;

/// All options. What is given twice is no error here: listeners add up, and
/// whether the others agree is asked when all sources are read.
pub fn command() -> Command {
    Command::new("rmogstored")
        // However it is called: it says the same.
        .bin_name("rmogstored")
        .about("A storage server for files over HTTP, and the storage daemon of MogileFS")
        .version(env!("CARGO_PKG_VERSION"))
        .infer_long_args(true)
        .disable_help_flag(true)
        .arg(
            Arg::new("help")
                .short('?')
                .short_alias('h')
                .long("help")
                .action(ArgAction::Help)
                .help("Print this help"),
        )
        .arg(said("usage").alias("u").help("Print a short usage message"))
        .args(verbs())
        .args(files())
        .args(what())
        .args(how_many())
        .args(how_long())
        .args(supervision())
        .args(whose())
        .args(inherited())
}

/// An option with a value, which files and argv may repeat.
fn option(name: &'static str, unit: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(unit)
        .action(ArgAction::Append)
        .help(help)
}

/// An option without one. Twice is as good as once.
fn said(name: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .overrides_with(name)
}

/// An option whose value may be left out: 1.
fn switch(name: &'static str, help: &'static str) -> Arg {
    option(name, "0|1", help)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("1")
        .value_parser(PossibleValuesParser::new(["0", "1"]).map(|value| value == "1"))
}

/// What is said to the server that has claimed --pidfile. `upgrade` is among
/// those of `supervision`.
fn verbs() -> Vec<Arg> {
    vec![
        said("stop")
            .help("Stop the server that holds --pidfile gracefully; return when it has ended"),
        said("reload")
            .help("Make it read its options and files again; return when its workers are new"),
        said("status").help("Say how it is"),
        said("json").help("With --status: as JSON"),
    ]
}

fn supervision() -> Vec<Arg> {
    let seconds = |name, default, help| {
        option(name, "SECONDS", help)
            .default_value(default)
            .value_parser(ValueParser::new(parse_seconds))
    };
    vec![
        option(
            "upgrade",
            "auto|manual",
            "Alone: make the server that holds --pidfile execute its program anew and hand over; \
             return when it has. With a value: whether USR2 does so by itself [default: manual]",
        )
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("now")
        .hide_possible_values(true)
        .value_parser(["auto", "manual", "now"]),
        seconds(
            "upgrade-timeout",
            "30",
            "A successor that makes no progress for so long has failed",
        ),
        seconds(
            "probation",
            "2",
            "How long both serve before a successor takes over",
        ),
        option("term", "graceful|fast", "What TERM means")
            .default_value("graceful")
            .value_parser(["graceful", "fast"]),
        option(
            "graceful-timeout",
            "SECONDS",
            "A worker that is stopping ends when for so long no byte moves; 0: never",
        )
        .default_value("60")
        .value_parser(ValueParser::new(parse_seconds_or_never)),
        seconds(
            "spawn-timeout",
            "10",
            "From a worker's fork until it serves",
        ),
        seconds(
            "hard-timeout",
            "60",
            "A worker all of whose threads are stuck for so long is replaced",
        ),
        option(
            "spawn-errors",
            "N",
            "Give up after so many early deaths of workers in a row; 0: never",
        )
        .default_value("0")
        .value_parser(clap::value_parser!(u64).range(0..=1_000_000)),
        option(
            "exec-workers",
            "never|always|auto",
            "Start workers from a fresh image of the program; auto: when copies of the master fail",
        )
        .default_value("auto")
        .value_parser(
            PossibleValuesParser::new(["never", "always", "auto"]).map(|when| match &*when {
                "never" => ExecWorkers::Never,
                "always" => ExecWorkers::Always,
                _ => ExecWorkers::Auto,
            }),
        ),
    ]
}

/// Whose rights, priorities and files.
fn whose() -> Vec<Arg> {
    vec![
        option(
            "user",
            "NAME",
            "Workers become this user, by name or number",
        ),
        option("group", "NAME", "And this group [default: the user's]"),
        option("nice", "N", "What workers add to their niceness, -20 to 19")
            .allow_hyphen_values(true)
            .value_parser(clap::value_parser!(i32).range(-20..=19)),
        option("core-limit", "BYTES", "The largest core dump of a worker")
            .value_parser(clap::value_parser!(u64)),
        option(
            "log-file",
            "FILE",
            "Append log lines to this file; USR1 opens it anew",
        )
        .value_parser(clap::value_parser!(PathBuf)),
        switch(
            "listen-exclusive",
            "Whether inherited listeners are this server's alone [default: 1]",
        ),
        switch(
            "defer-accept",
            "Whether a connection is accepted only when its request has come [default: 0]",
        ),
    ]
}

fn files() -> Vec<Arg> {
    let path = |name, help| option(name, "FILE", help).value_parser(clap::value_parser!(PathBuf));
    vec![
        // The aliases are abbreviations that the older daemons take and that
        // a newer option of ours would make ambiguous.
        path(
            "config",
            "Read options from this file (key = value); argv wins",
        )
        .alias("c"),
        said("check-config")
            .short('t')
            .help("Check all options and files, say so, and end"),
        said("multi")
            .hide(true)
            .help("Several --config, each with a docroot and listeners"),
        switch("daemonize", "Run in the background, and log to syslog")
            .short('d')
            .hide_possible_values(true),
        path(
            "pidfile",
            "Write the master's pid here; a second start is refused",
        )
        .alias("p"),
    ]
}

fn what() -> Vec<Arg> {
    let listen = |name, help| option(name, "LISTEN", help).value_parser(Address::parse);
    vec![
        option(
            "docroot",
            "DIR",
            "Directory that is served; its subdirectories are the devices",
        )
        .default_value("/var/mogdata")
        .value_parser(clap::value_parser!(PathBuf)),
        listen(
            "httplisten",
            "Serve HTTP here: PORT, IPv4:PORT, [IPv6]:PORT or unix:/PATH; repeatable \
             [default: 0.0.0.0:7500 when no listener is given]",
        )
        .aliases(["ht", "htt", "http"]),
        listen(
            "httpgetlisten",
            "The same, read-only (GET and HEAD); repeatable",
        ),
        listen(
            "mgmtlisten",
            "Serve the MogileFS sidechannel here; repeatable \
             [default: 0.0.0.0:7501 when no listener is given]",
        ),
        option(
            "durability",
            "LEVEL",
            "What is on the disk before a PUT is answered: none; data (fdatasync); \
             full (fdatasync, and the directory)",
        )
        .default_value("none")
        .value_parser(
            PossibleValuesParser::new(["none", "data", "full"]).map(|level| match &*level {
                "data" => Durability::Data,
                "full" => Durability::Full,
                _ => Durability::None,
            }),
        ),
    ]
}

fn how_many() -> Vec<Arg> {
    vec![
        option(
            "worker-processes",
            "N",
            "Worker processes [default: one per core, at most 4]",
        )
        .value_parser(clap::value_parser!(u64).range(1..=MAX_WORKERS as u64)),
        option(
            "threads",
            "N",
            "Consumer threads of all workers together, 10 to 100 [default: 10 per device]",
        )
        .value_parser(clap::value_parser!(u64).range(*THREADS.start()..=*THREADS.end())),
        option("maxconns", "N", "Connections of all workers together")
            .default_value("10000")
            .value_parser(clap::value_parser!(u64).range(1..=10_000_000)),
        option(
            "cache",
            "MIB",
            "Memory of all workers together for small files that are read often; 0: none",
        )
        .default_value("64")
        .value_parser(clap::value_parser!(u64).range(0..=1_048_576)),
    ]
}

fn how_long() -> Vec<Arg> {
    let seconds = |name, default, help| {
        option(name, "SECONDS", help)
            .default_value(default)
            .value_parser(ValueParser::new(parse_seconds))
    };
    vec![
        seconds(
            "idle-timeout",
            "300",
            "Close a connection idle for so long between requests",
        ),
        seconds(
            "head-timeout",
            "60",
            "From a request's first byte to the end of its head",
        ),
        seconds("body-timeout", "60", "Without a byte of an upload's body"),
        seconds(
            "send-timeout",
            "60",
            "Without the client taking a byte of the reply",
        ),
        seconds(
            "drain-grace",
            "2",
            "While stopping: what an idle connection has left",
        ),
        seconds(
            "device-wait",
            "2",
            "How long a request waits for a busy device before it gets 503",
        ),
        seconds(
            "probe-timeout",
            "10",
            "A device that takes longer to write and read back a few bytes is dead",
        ),
    ]
}

/// What scripts written for the older daemons may say.
fn inherited() -> Vec<Arg> {
    vec![
        switch("iostat", "Whether to measure how busy the disks are").hide(true),
        said("skipconfig").short('s').hide(true),
        option("server", "KIND", "What serves HTTP: it is this program")
            .value_parser(["perlbal", "none"])
            .hide(true),
        option("serverbin", "FILE", "The program of another server")
            .value_parser(clap::value_parser!(std::ffi::OsString))
            .hide(true),
    ]
}

/// Seconds with decimals, or 0.
fn parse_seconds_or_never(text: &str) -> Result<Option<Duration>, String> {
    match text.parse() {
        Ok(0.0) => Ok(None),
        _ => parse_seconds(text).map(Some),
    }
}

/// Seconds with decimals.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=MAX_SECONDS).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!("expected seconds, 0.001 to {MAX_SECONDS}")),
    }
}
