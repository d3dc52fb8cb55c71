//! Every knob: parsed once, valid by construction, read-only afterwards.

pub mod cli;
pub mod file;
mod refusal;
mod settings;
mod sites;
mod snapshot;
mod source;

use crate::listener::{Address, Place, Serves};
use crate::store::Durability;
pub use refusal::End;
pub use snapshot::Snapshot;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least one; no docroot twice, no address twice.
    pub sites: Vec<Site>,
    /// Worker processes, 1 to `scoreboard::MAX_WORKERS`.
    pub workers: usize,
    /// Consumer threads of all workers together, 10 to 100; None: 10 a device.
    pub threads: Option<usize>,
    /// Connections of all workers together, at least 1.
    pub max_connections: usize,
    /// Bytes of small files that all workers together may keep in memory; 0: none.
    pub cache: usize,
    pub durability: Durability,
    pub timeouts: Timeouts,
    /// Where the master's process id is kept, and claimed.
    pub pidfile: Option<PathBuf>,
    /// Leave the terminal once the service is ready; all paths are absolute then.
    pub daemonize: bool,
    /// Where log lines go instead of stderr or the system's log; opened again on USR1.
    pub log_file: Option<PathBuf>,
    /// Whom workers become, by name or number; None: who starts the server.
    pub user: Option<String>,
    /// Their group, by name or number; None: the user's own.
    pub group: Option<String>,
    /// What workers add to their niceness, -20 to 19.
    pub nice: Option<i32>,
    /// Bytes of a core dump of a worker; None: as inherited.
    pub core_limit: Option<u64>,
    /// Listeners that were inherited O_NONBLOCK are ours alone, and are made to
    /// block. Otherwise they stay as they are.
    pub listen_exclusive: bool,
    /// The kernel keeps new connections to HTTP over TCP until they say something.
    pub defer_accept: bool,
    pub health: Health,
    pub supervision: Supervision,
    /// What this run is for.
    pub verb: Verb,
}

impl Config {
    /// Where all sites listen.
    pub fn places(&self) -> Vec<Place> {
        let sites = self.sites.iter().enumerate();
        sites
            .flat_map(|(nr, site)| {
                site.listeners.iter().map(move |(address, serves)| Place {
                    address: address.clone(),
                    serves: *serves,
                    site: nr,
                })
            })
            .collect()
    }
}

/// What a run of the program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Serve,
    /// To say whether these options would do.
    Check,
    /// These are said to the server that has claimed the pidfile.
    Stop,
    Reload,
    Upgrade,
    Status {
        json: bool,
    },
}

/// How the master minds its workers, and its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervision {
    /// Whether TERM stops at once.
    pub term_is_fast: bool,
    /// A worker that drains ends when for so long no byte moves and no
    /// connection ends; None: never.
    pub graceful: Option<Duration>,
    /// From a worker's fork until it serves.
    pub spawn: Duration,
    /// A worker all of whose consumers are stuck for so long is replaced.
    pub hard: Duration,
    /// So many early deaths in a row, and the server gives up; None: never.
    pub spawn_errors: Option<u32>,
    pub exec_workers: ExecWorkers,
    /// Whether USR2 commits by itself (auto), or leaves that to the operator.
    pub upgrade_is_auto: bool,
    /// A successor that makes no progress for so long has failed.
    pub upgrade: Duration,
    /// How long both serve, all of the successor's workers ready, before it takes over.
    pub probation: Duration,
}

/// Whether workers are a fresh image of the program, not a copy of the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecWorkers {
    Never,
    Always,
    /// When copies die early again and again.
    Auto,
}

/// A docroot and where it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub docroot: PathBuf,
    /// At least one.
    pub listeners: Vec<(Address, Serves)>,
}

impl Site {
    /// Whether a MogileFS tracker can ask about it: only then there are usage
    /// files.
    pub fn has_mgmt(&self) -> bool {
        self.serves(Serves::Mgmt)
    }

    /// Whether clients can write to it.
    pub fn is_written(&self) -> bool {
        self.serves(Serves::Http)
    }

    fn serves(&self, what: Serves) -> bool {
        self.listeners.iter().any(|(_, serves)| *serves == what)
    }
}

/// How long a client may say nothing, by what it is expected to do. A transfer
/// that makes progress is never cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Between two requests.
    pub idle: Duration,
    /// From a request's first byte to the end of its head, in all.
    pub head: Duration,
    /// Without a byte of the body.
    pub body: Duration,
    /// Without the client taking a byte of the reply.
    pub send: Duration,
    /// While stopping: what an idle connection has left to begin a request.
    pub drain_grace: Duration,
    /// What a request waits for a device that is busy, before it is refused.
    pub device: Duration,
}

/// What the elected worker does, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Usage files are written anew in this interval.
    pub usage_interval: Duration,
    /// A device whose probe takes longer is dead.
    pub probe_timeout: Duration,
    pub utilization: Utilization,
}

/// Where the utilization of disks is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Utilization {
    /// The kernel's own counters.
    Kernel,
    /// The output of this shell command, which is like that of `iostat -dx 1`.
    Command(OsString),
    /// Nowhere.
    Off,
}

impl Config {
    /// Makes all paths absolute: relative ones begin at `folder`.
    fn resolve(&mut self, folder: &Path) {
        let docroots = self.sites.iter_mut().map(|site| &mut site.docroot);
        let others = self.pidfile.iter_mut().chain(&mut self.log_file);
        for path in docroots.chain(others) {
            *path = folder.join(&*path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::SocketAddr;

    #[test]
    fn the_command_is_sound() {
        cli::command().debug_assert();
    }

    /// Config files of one test.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }

        /// Writes a file; gives its option.
        fn file(&self, name: &str, text: &str) -> String {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            format!("--config={}", path.display())
        }
    }

    fn load_with(args: &[&str], env: &[(&str, &str)]) -> Result<Config, (u8, String)> {
        let argv = ["rmogstored"].iter().chain(args).map(OsString::from);
        let env = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let config = Snapshot::read(argv, env).and_then(|snapshot| snapshot.config());
        config.map_err(|end| match end {
            End::Argv(error) => (error.exit_code() as u8, error.to_string()),
            End::Usage(text) => (0, text),
            End::Refused(refusal) => (refusal.code, refusal.lines.join("\n")),
        })
    }

    fn load_args(args: &[&str]) -> Result<Config, (u8, String)> {
        load_with(args, &[])
    }

    fn with_file(text: &str, args: &[&str]) -> Result<Config, (u8, String)> {
        let folder = Folder::new();
        let file = folder.file("x.conf", text);
        let mut all = vec![file.as_str()];
        all.extend(args);
        load_args(&all)
    }

    #[track_caller]
    fn refused<T>(result: Result<T, (u8, String)>, code: u8, named: &[&str]) {
        let Err((got, text)) = result else {
            panic!("no error that names {named:?}");
        };
        assert_eq!(got, code, "{text}");
        for name in named {
            assert!(text.contains(name), "{name:?} is not in: {text}");
        }
    }

    fn listeners(site: &Site) -> Vec<(String, Serves)> {
        let all = site.listeners.iter();
        all.map(|(address, serves)| (address.to_string(), *serves))
            .collect()
    }

    #[test]
    fn defaults() {
        let config = load_args(&[]).unwrap();
        assert_eq!(config.sites.len(), 1);
        assert_eq!(config.sites[0].docroot, PathBuf::from("/var/mogdata"));
        assert_eq!(
            listeners(&config.sites[0]),
            [
                ("0.0.0.0:7500".to_owned(), Serves::Http),
                ("0.0.0.0:7501".to_owned(), Serves::Mgmt)
            ]
        );
        assert_eq!(config.max_connections, 10_000);
        assert!((1..=4).contains(&config.workers));
        assert_eq!(config.threads, None);
        assert_eq!(config.durability, Durability::None);
        assert_eq!(config.cache, 64 << 20);
        assert_eq!(config.timeouts.idle, Duration::from_secs(300));
        assert_eq!(config.timeouts.device, Duration::from_secs(2));
        assert_eq!(config.health.usage_interval, Duration::from_secs(10));
        assert_eq!(config.health.probe_timeout, Duration::from_secs(10));
        assert_eq!(config.health.utilization, Utilization::Kernel);
        assert_eq!(config.pidfile, None);
        assert!(!config.daemonize);
        assert_eq!(config.verb, Verb::Serve);
    }

    #[test]
    fn a_file_sets_every_key() {
        let text = "docroot = /srv\nhttplisten = 1\nhttplisten=2\nhttpgetlisten = 3\n\
            mgmtlisten = [::1]:4\nmaxconns = 77\npidfile = /run/x\ndaemonize\n\
            worker-processes = 3\nthreads = 50\ndurability = data\nidle-timeout = 1.5\n\
            head-timeout = 2\nbody-timeout = 3\nsend-timeout = 4\ndrain-grace = 5\n\
            device-wait = 6\nprobe-timeout = 7\niostat = 0\nserver = perlbal\n";
        let config = with_file(text, &[]).unwrap();
        let site = &config.sites[0];
        assert_eq!(site.docroot, PathBuf::from("/srv"));
        assert_eq!(
            listeners(site),
            [
                ("0.0.0.0:1".to_owned(), Serves::Http),
                ("0.0.0.0:2".to_owned(), Serves::Http),
                ("0.0.0.0:3".to_owned(), Serves::HttpGet),
                ("[::1]:4".to_owned(), Serves::Mgmt)
            ]
        );
        assert!(site.has_mgmt() && site.is_written());
        assert_eq!(config.max_connections, 77);
        assert_eq!(config.pidfile, Some(PathBuf::from("/run/x")));
        assert!(config.daemonize);
        assert_eq!((config.workers, config.threads), (3, Some(50)));
        assert_eq!(config.durability, Durability::Data);
        let times = config.timeouts;
        let times = [times.idle, times.head, times.body, times.send];
        assert_eq!(times.map(|t| t.as_millis()), [1500, 2000, 3000, 4000]);
        assert_eq!(config.timeouts.drain_grace.as_secs(), 5);
        assert_eq!(config.timeouts.device.as_secs(), 6);
        assert_eq!(config.health.probe_timeout.as_secs(), 7);
        assert_eq!(config.health.utilization, Utilization::Off);
    }

    #[test]
    fn every_option_but_those_about_files_is_a_key() {
        let command = cli::command();
        for name in command.get_arguments().filter_map(clap::Arg::get_long) {
            let told = with_file(&format!("{name} = %"), &[]).err();
            let told = told.map(|(_, text)| text).unwrap_or_default();
            let is_argv_only = told.contains("belongs on the command line");
            assert_eq!(is_argv_only, cli::ARGV_ONLY.contains(&name), "{name}");
            assert!(!told.contains("unknown key"), "{name}: {told}");
        }
    }

    #[test]
    fn argv_wins_key_by_key() {
        let text = "httplisten = 1\nmgmtlisten = 2\nmaxconns = 3\ndaemonize\nthreads = 20";
        let args = ["--httplisten=9", "--httplisten=8", "--maxconns=10"];
        let config = with_file(text, &args).unwrap();
        let ports: Vec<_> = listeners(&config.sites[0]);
        assert_eq!(
            ports,
            [
                ("0.0.0.0:9".to_owned(), Serves::Http),
                ("0.0.0.0:8".to_owned(), Serves::Http),
                ("0.0.0.0:2".to_owned(), Serves::Mgmt)
            ]
        );
        assert_eq!(config.max_connections, 10);
        assert_eq!(config.threads, Some(20));
        assert!(config.daemonize);
        let config = with_file(text, &["--daemonize=0"]).unwrap();
        assert!(!config.daemonize);
    }

    #[test]
    fn any_listener_replaces_both_defaults() {
        for key in ["httplisten", "httpgetlisten", "mgmtlisten"] {
            let by_file = with_file(&format!("{key} = 5"), &[]).unwrap();
            let by_argv = load_args(&[&format!("--{key}=5")]).unwrap();
            for config in [by_file, by_argv] {
                let any: SocketAddr = ([0, 0, 0, 0], 5).into();
                assert_eq!(config.sites[0].listeners.len(), 1);
                assert_eq!(config.sites[0].listeners[0].0, Address::Inet(any));
            }
        }
    }

    #[test]
    fn paths_must_agree_wherever_they_are_said() {
        for key in ["docroot", "pidfile"] {
            let conflict = format!("conflicting path values for {key}");
            let text = format!("# x\n{key} = /a\n");
            with_file(&text, &[&format!("--{key}=/a")]).unwrap();
            let other = with_file(&text, &[&format!("--{key}=/b")]);
            refused(
                other,
                1,
                &[&conflict, "/a", "/b", "x.conf:2", "command line"],
            );
            let twice = with_file(&format!("{text}{key} = /c"), &[]);
            refused(twice, 1, &[&conflict, "x.conf:2", "x.conf:3"]);
            let argv = [format!("--{key}=/a"), format!("--{key}=/b")];
            refused(load_args(&[&argv[0], &argv[1]]), 2, &[&conflict]);
        }
    }

    #[test]
    fn other_keys_must_agree_within_a_source() {
        with_file("maxconns = 5\nmaxconns = 5", &[]).unwrap();
        let text = "threads = 10\nthreads = 11";
        let named = ["conflicting values for threads", "x.conf:1", "x.conf:2"];
        refused(with_file(text, &[]), 1, &named);
        assert_eq!(
            with_file(text, &["--threads=12"]).unwrap().threads,
            Some(12)
        );
        let argv = load_args(&["--threads=10", "--threads=11"]);
        refused(argv, 2, &["conflicting values for threads"]);
        with_file("daemonize\ndaemonize = 1", &[]).unwrap();
        refused(
            with_file("daemonize\ndaemonize = 0", &[]),
            1,
            &["daemonize"],
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, named) in [
            (
                "docrot = /a",
                "unknown key \"docrot\"; the nearest key is \"docroot\"",
            ),
            ("Docroot = /a", "the nearest key is \"docroot\""),
            ("threads = 9", "threads = 9: 9 is not in 10..=100"),
            ("maxconns = many", "maxconns = many: "),
            ("httplisten = here", "httplisten = here: expected PORT"),
            ("idle-timeout = -1", "idle-timeout = -1: expected seconds"),
            (
                "durability = some",
                "durability = some: expected none or data or full",
            ),
            (
                "server = apache",
                "server = apache: expected perlbal or none",
            ),
            ("iostat = yes", "iostat = yes: expected 0 or 1"),
            ("docroot", "docroot has no value"),
            ("docroot =", "docroot has no value"),
            ("what ever", "the nearest key is"),
            ("multi", "\"multi\" belongs on the command line"),
            ("config = /x", "\"config\" belongs on the command line"),
        ] {
            let result = with_file(&format!("# one\n\n{text}"), &[]);
            refused(result, 1, &["x.conf:3: ", named]);
        }
        refused(
            load_args(&["--config=/nonesuch"]),
            1,
            &["config=/nonesuch: No such"],
        );
        refused(load_args(&["--config=/"]), 1, &["config=/: "]);
        refused(
            load_args(&["--config=/dev/zero"]),
            1,
            &["config=/dev/zero: longer"],
        );
    }

    #[test]
    fn errors_of_argv_name_the_option() {
        for (args, named) in [
            (vec!["--threads=9"], "--threads"),
            (vec!["--worker-processes=0"], "--worker-processes"),
            (vec!["--httplisten=nowhere"], "--httplisten"),
            (vec!["--mgmtlisten"], "--mgmtlisten"),
            (vec!["--idle-timeout=-1"], "--idle-timeout"),
            (vec!["--idle-timeout=nan"], "--idle-timeout"),
            (vec!["--durability=some"], "--durability"),
            (vec!["--server=apache"], "--server"),
            (vec!["--daemonize=2"], "--daemonize"),
            (vec!["--nonesuch"], "--nonesuch"),
            (vec!["stray"], "stray"),
            (vec!["--multi"], "--multi"),
        ] {
            refused(load_args(&args), 2, &[named]);
        }
    }

    /// Abbreviations that the older daemons take: no new option of ours may
    /// make one ambiguous.
    #[test]
    fn scripts_of_the_older_daemons_work() {
        let folder = Folder::new();
        let file = folder.file("x.conf", "mgmtlisten = 2");
        let file = file.replace("--config", "--c");
        let args = [
            &file,
            "-d",
            "-s",
            "--server=perlbal",
            "--htt=1",
            "--do=/x",
            "--max=9",
            "--p=/run/p",
            "--w=2",
            "--skipconfig",
            "--iostat",
            "--serverbin=/x",
        ];
        let config = load_args(&args).unwrap();
        assert_eq!(config.sites[0].docroot, PathBuf::from("/x"));
        assert_eq!(config.pidfile, Some(PathBuf::from("/run/p")));
        assert_eq!((config.workers, config.max_connections), (2, 9));
        assert!(config.daemonize);
        assert_eq!(listeners(&config.sites[0]).len(), 2);
        refused(load_args(&["--u"]), 0, &["Usage: rmogstored "]);
        refused(load_args(&["-V"]), 0, &["rmogstored "]);
        refused(load_args(&["-?"]), 0, &["--docroot"]);
    }

    #[test]
    fn several_sites() {
        let folder = Folder::new();
        let a = folder.file(
            "a.conf",
            "docroot = /a\nhttplisten = 1\nmaxconns = 5\nthreads = 20",
        );
        let b = folder.file(
            "b.conf",
            "docroot=/b\nmgmtlisten = 2\nmaxconns=7\nthreads = 20",
        );
        let config = load_args(&["--multi", &a, &b]).unwrap();
        assert_eq!(config.sites.len(), 2);
        assert_eq!(config.sites[1].docroot, PathBuf::from("/b"));
        assert_eq!(
            listeners(&config.sites[1]),
            [("0.0.0.0:2".to_owned(), Serves::Mgmt)]
        );
        assert!(config.sites[0].is_written() && !config.sites[0].has_mgmt());
        assert!(!config.sites[1].is_written() && config.sites[1].has_mgmt());
        assert_eq!((config.max_connections, config.threads), (12, Some(20)));
        let config = load_args(&["--multi", &a, &b, "--maxconns=3"]).unwrap();
        assert_eq!(config.max_connections, 3);

        refused(load_args(&[&a, &b]), 1, &["--multi"]);
        refused(load_args(&["--multi", &a, &a]), 1, &["a.conf", "twice"]);
        let other = a.replace("a.conf", "./a.conf");
        refused(load_args(&["--multi", &a, &other]), 1, &["twice"]);
        for (key, value) in [("docroot", "/x"), ("httplisten", "9"), ("mgmtlisten", "9")] {
            let arg = format!("--{key}={value}");
            let result = load_args(&["--multi", &a, &b, &arg]);
            refused(result, 2, &[&format!("--{key}"), "--multi"]);
        }
        for (text, named) in [
            ("httplisten = 9", &["c.conf", "needs a docroot"][..]),
            ("docroot = /c", &["c.conf", "needs a listener"]),
            (
                "httplisten = 9\ndocroot = /a/",
                &["/a", "two sites", "a.conf:1", "c.conf:2"],
            ),
            (
                "docroot = /c\nhttpgetlisten = 0.0.0.0:1",
                &["0.0.0.0:1", "twice", "a.conf:2", "c.conf:2"],
            ),
            (
                "docroot = /c\nhttplisten = 9\nthreads = 30",
                &["conflicting", "threads", "a.conf:4", "c.conf:3"],
            ),
        ] {
            let c = folder.file("c.conf", text);
            refused(load_args(&["--multi", &a, &c]), 1, named);
        }
    }

    #[test]
    fn an_address_twice_is_named_with_both_places() {
        let twice = load_args(&["--httplisten=7", "--mgmtlisten=:7"]);
        refused(twice, 2, &["0.0.0.0:7", "twice", "command line"]);
        let twice = with_file("httplisten = 7\nmgmtlisten = 7", &[]);
        refused(twice, 1, &["0.0.0.0:7", "x.conf:1", "x.conf:2"]);
        load_args(&["--httplisten=0", "--mgmtlisten=0", "--httplisten=0"]).unwrap();
    }

    #[test]
    fn a_daemon_wants_absolute_paths() {
        let closing = "relative paths are incompatible with --daemonize";
        let folder = Folder::new();
        let file = folder.file("x.conf", "docroot = a\npidfile = b");
        let named = [
            "docroot=a must use an absolute path",
            "pidfile=b must use an absolute path",
            closing,
        ];
        refused(load_args(&["-d", &file]), 1, &named);
        load_args(&[&file]).unwrap();
        for path in ["/bin:bin", ":/bin", "/bin:", "."] {
            let result = load_with(&["-d"], &[("PATH", path)]);
            let named = ["PATH environment contains relative path", closing];
            refused(result, 1, &named);
        }
        assert!(
            load_with(&["-d"], &[("PATH", "/bin:/usr/bin")])
                .unwrap()
                .daemonize
        );
        load_with(&["-d"], &[("PATH", "")]).unwrap();
    }

    #[test]
    fn the_environment() {
        const INTERVAL: &str = "MOG_DISK_USAGE_INTERVAL";
        const COMMAND: &str = "MOG_IOSTAT_CMD";
        let config = load_with(&[], &[(INTERVAL, "3"), (COMMAND, "iostat -x")]).unwrap();
        assert_eq!(config.health.usage_interval, Duration::from_secs(3));
        let command = Utilization::Command("iostat -x".into());
        assert_eq!(config.health.utilization, command);
        for nonsense in ["", "x", "0", "-1", "1e9", "nan"] {
            let result = load_with(&[], &[(INTERVAL, nonsense)]);
            refused(result, 1, &[INTERVAL, "expected seconds"]);
        }
        let off = load_with(&["--iostat=0"], &[(COMMAND, "x")]).unwrap();
        assert_eq!(off.health.utilization, Utilization::Off);
        let on = load_with(&["--iostat=1"], &[(COMMAND, "x")]).unwrap();
        assert_eq!(on.health.utilization, Utilization::Command("x".into()));
        let empty = load_with(&[], &[(COMMAND, "")]).unwrap();
        assert_eq!(empty.health.utilization, Utilization::Kernel);
    }
}
