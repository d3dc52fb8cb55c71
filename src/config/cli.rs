//! argv: options, their defaults and units, and usage errors that name them.

use super::{Config, Health, Site, Timeouts, Utilization};
use crate::listener::{Address, Serves};
use crate::scoreboard::MAX_WORKERS;
use crate::store::Durability;
use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Why there is no configuration: help was asked for, or argv is wrong.
pub struct End(clap::Error);

impl End {
    /// Prints it: help on stdout (0), an error on stderr (2).
    pub fn say(self) -> ExitCode {
        // Nobody is left to be told when stderr is closed.
        let _ = self.0.print();
        ExitCode::from(self.0.exit_code() as u8)
    }
}

/// Longest time that an option takes: a week. Clients' clocks are 32 bits of
/// milliseconds.
const MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// Most consumer threads, and fewest: a disk's queue wants about ten.
const THREADS: std::ops::RangeInclusive<u64> = 10..=100;

/// Reads argv (its first element is the program's name).
pub fn parse(argv: impl Iterator<Item = OsString>) -> Result<Config, End> {
    let matches = command().try_get_matches_from(argv).map_err(End)?;
    Ok(from(&matches))
}

fn command() -> Command {
    Command::new("rmogstored")
        .about("A storage server for files over HTTP")
        .version(env!("CARGO_PKG_VERSION"))
        .infer_long_args(true)
        .args_override_self(false)
        .disable_help_flag(true)
        .arg(
            Arg::new("help")
                .short('?')
                .short_alias('h')
                .long("help")
                .action(ArgAction::Help)
                .help("Print this help"),
        )
        .args(what())
        .args(how_many())
        .args(how_long())
}

fn option(name: &'static str, unit: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(unit).help(help)
}

fn what() -> Vec<Arg> {
    vec![
        option(
            "docroot",
            "DIR",
            "Directory that is served; its subdirectories are the devices",
        )
        .default_value("/var/mogdata")
        .value_parser(clap::value_parser!(PathBuf)),
        option(
            "httplisten",
            "LISTEN",
            "Serve HTTP here: PORT, IPv4:PORT, [IPv6]:PORT or unix:/PATH; repeatable \
             [default: 0.0.0.0:7500 when no listener is given]",
        )
        .action(ArgAction::Append)
        .value_parser(ValueParser::new(Address::parse)),
        option(
            "httpgetlisten",
            "LISTEN",
            "The same, read-only (GET and HEAD); repeatable",
        )
        .action(ArgAction::Append)
        .value_parser(ValueParser::new(Address::parse)),
        option(
            "mgmtlisten",
            "LISTEN",
            "Serve MogileFS's sidechannel here; repeatable \
             [default: 0.0.0.0:7501 when no listener is given]",
        )
        .action(ArgAction::Append)
        .value_parser(ValueParser::new(Address::parse)),
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
            "device-wait",
            "2",
            "What a request waits for a device that is busy",
        ),
        seconds(
            "probe-timeout",
            "10",
            "A device whose probe takes longer is dead",
        ),
        seconds(
            "drain-grace",
            "2",
            "While stopping: what an idle connection has left",
        ),
    ]
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=MAX_SECONDS).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!("expected seconds, 0.001 to {MAX_SECONDS}")),
    }
}

fn from(matches: &ArgMatches) -> Config {
    let seconds = |name| given::<Duration>(matches, name).unwrap_or_default();
    let number = |name| given::<u64>(matches, name).map(|n| n as usize);
    let listeners = |name, serves| {
        matches
            .get_many::<Address>(name)
            .into_iter()
            .flatten()
            .map(move |address| (address.clone(), serves))
    };
    let mut all: Vec<_> = listeners("httplisten", Serves::Http)
        .chain(listeners("httpgetlisten", Serves::HttpGet))
        .chain(listeners("mgmtlisten", Serves::Mgmt))
        .collect();
    if all.is_empty() {
        let any = |port| Address::Inet((std::net::Ipv4Addr::UNSPECIFIED, port).into());
        all.extend([(any(7500), Serves::Http), (any(7501), Serves::Mgmt)]);
    }
    Config {
        sites: vec![Site {
            docroot: given(matches, "docroot").unwrap_or_default(),
            listeners: all,
        }],
        workers: number("worker-processes").unwrap_or_else(default_workers),
        threads: number("threads"),
        max_connections: number("maxconns").unwrap_or_default(),
        durability: given(matches, "durability").unwrap_or_default(),
        timeouts: Timeouts {
            idle: seconds("idle-timeout"),
            head: seconds("head-timeout"),
            body: seconds("body-timeout"),
            send: seconds("send-timeout"),
            device: seconds("device-wait"),
            drain_grace: seconds("drain-grace"),
        },
        pidfile: None,
        daemonize: false,
        health: Health {
            usage_interval: Duration::from_secs(10),
            probe_timeout: seconds("probe-timeout"),
            utilization: Utilization::Kernel,
        },
    }
}

fn given<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Option<T> {
    matches.get_one::<T>(name).cloned()
}

/// One per core; above four the listen queue's lock is what they share.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let argv = std::iter::once("rmogstored")
            .chain(args.iter().copied())
            .map(OsString::from);
        super::parse(argv).map_err(|end| end.0.to_string())
    }

    #[test]
    fn the_command_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn defaults() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.sites[0].docroot, PathBuf::from("/var/mogdata"));
        assert_eq!(config.sites[0].listeners.len(), 2);
        assert_eq!(config.max_connections, 10_000);
        assert!((1..=4).contains(&config.workers));
    }

    #[test]
    fn a_listener_replaces_the_default() {
        let config = parse(&["--httpgetlisten", "[::1]:80", "--httpgetl=81"]).unwrap();
        assert_eq!(config.sites[0].listeners.len(), 2);
        assert!(
            config.sites[0]
                .listeners
                .iter()
                .all(|(_, s)| *s == Serves::HttpGet)
        );
    }

    #[test]
    fn errors_name_the_option() {
        for (args, named) in [
            (vec!["--threads=9"], "--threads"),
            (vec!["--worker-processes=0"], "--worker-processes"),
            (vec!["--httplisten=nowhere"], "--httplisten"),
            (vec!["--idle-timeout=-1"], "--idle-timeout"),
            (vec!["--idle-timeout=nan"], "--idle-timeout"),
            (vec!["--durability=some"], "--durability"),
            (vec!["--nonesuch"], "--nonesuch"),
            (vec!["stray"], "stray"),
            (vec!["--docroot=/a", "--docroot=/b"], "--docroot"),
        ] {
            let error = parse(&args).unwrap_err();
            assert!(error.contains(named), "{args:?}: {error}");
        }
    }
}
