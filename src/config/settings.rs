//! All settings together: argv, files and environment, made one configuration.

use super::refusal::Refusal;
use super::source::{Place, Said, Source, agreed, is_same_path};
use super::{Config, ExecWorkers, Health, Supervision, Timeouts, Utilization, Verb, cli, sites};
use clap::ArgMatches;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// The value of an `--upgrade` that has none: the verb.
const NOW: &str = "now";

const MIB: usize = 1024 * 1024;

/// All that was said, by whom and where.
pub(super) struct Settings {
    pub(super) argv: Source,
    pub(super) files: Vec<(PathBuf, Source)>,
    pub(super) is_multi: bool,
    /// argv's own matches, for what only argv can say and for defaults.
    matches: ArgMatches,
}

impl Settings {
    /// The config files that argv names.
    pub(super) fn paths(matches: &ArgMatches) -> Result<Vec<PathBuf>, Refusal> {
        let is_multi = matches.get_flag("multi");
        let paths: Vec<PathBuf> = matches
            .get_many("config")
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for (nr, path) in paths.iter().enumerate() {
            if paths[..nr].iter().any(|other| is_same_path(other, path)) {
                return Err(Refusal::of_file(format!(
                    "config={} is given twice",
                    path.display()
                )));
            }
        }
        if paths.len() > 1 && !is_multi {
            return Err(Refusal::of_file(
                "several --config need --multi: one tree of processes for several docroots".into(),
            ));
        }
        if paths.is_empty() && is_multi {
            return Err(Refusal::of_argv("--multi needs --config".into()));
        }
        Ok(paths)
    }

    pub(super) fn read(
        matches: ArgMatches,
        files: &[(PathBuf, Vec<u8>)],
    ) -> Result<Settings, Refusal> {
        let mut command = cli::command();
        let files = files
            .iter()
            .map(|(path, text)| {
                Source::file(path, text, &mut command).map(|file| (path.clone(), file))
            })
            .collect::<Result<_, _>>()?;
        Ok(Settings {
            argv: Source::argv(matches.clone()),
            files,
            is_multi: matches.get_flag("multi"),
            matches,
        })
    }

    fn in_files<T: Clone + Send + Sync + 'static>(&self, key: &str) -> Vec<Said<T>> {
        let files = self.files.iter();
        files.flat_map(|(_, file)| file.all(key)).collect()
    }

    /// argv wins.
    pub(super) fn argv_else_files<T: Clone + Send + Sync + 'static>(
        &self,
        key: &str,
    ) -> Vec<Said<T>> {
        let argv = self.argv.all(key);
        if argv.is_empty() {
            self.in_files(key)
        } else {
            argv
        }
    }

    /// A path of which argv and files must say the same.
    pub(super) fn path(&self, key: &str) -> Result<Option<Said<PathBuf>>, Refusal> {
        let mut all = self.argv.all(key);
        all.extend(self.in_files(key));
        agreed(key, "path ", all)
    }

    /// A value of the whole tree of processes, unless it is the default's.
    fn said<T: Clone + PartialEq + Send + Sync + 'static>(
        &self,
        key: &str,
    ) -> Result<Option<T>, Refusal> {
        let one = agreed(key, "", self.argv_else_files(key))?;
        Ok(one.map(|said| said.value))
    }

    /// The default, of a key that has one.
    pub(super) fn default<T: Clone + Default + Send + Sync + 'static>(&self, key: &str) -> T {
        // argv's own value is no default, but then nobody asks.
        self.matches.get_one(key).cloned().unwrap_or_default()
    }

    fn or_default<T: Clone + Default + PartialEq + Send + Sync + 'static>(
        &self,
        key: &str,
    ) -> Result<T, Refusal> {
        Ok(self.said(key)?.unwrap_or_else(|| self.default(key)))
    }

    fn number(&self, key: &str) -> Result<Option<usize>, Refusal> {
        Ok(self.said::<u64>(key)?.map(|n| n as usize))
    }

    pub(super) fn config(
        &self,
        env: impl Fn(&str) -> Option<OsString>,
        cores: usize,
    ) -> Result<Config, Refusal> {
        let config = Config {
            sites: sites::sites(self)?,
            workers: self
                .number("worker-processes")?
                // Above four the listen queue's lock is what they share.
                .unwrap_or(cores.clamp(1, 4)),
            threads: self.number("threads")?,
            max_connections: self.max_connections()?,
            cache: (self.or_default::<u64>("cache")? as usize).saturating_mul(MIB),
            durability: self.or_default("durability")?,
            timeouts: Timeouts {
                idle: self.or_default("idle-timeout")?,
                head: self.or_default("head-timeout")?,
                body: self.or_default("body-timeout")?,
                send: self.or_default("send-timeout")?,
                drain_grace: self.or_default("drain-grace")?,
                device: self.or_default("device-wait")?,
            },
            pidfile: self.path("pidfile")?.map(|said| said.value),
            daemonize: self.or_default("daemonize")?,
            log_file: self.said("log-file")?,
            user: self.said("user")?,
            group: self.said("group")?,
            nice: self.said("nice")?,
            core_limit: self.said("core-limit")?,
            listen_exclusive: self.said("listen-exclusive")?.unwrap_or(true),
            defer_accept: self.or_default("defer-accept")?,
            health: self.health(&env)?,
            supervision: self.supervision()?,
            verb: self.verb()?,
        };
        if config.pidfile.is_none() && !matches!(config.verb, Verb::Serve | Verb::Check) {
            let line = "--stop, --reload, --upgrade and --status need --pidfile: whom to ask";
            return Err(if self.files.is_empty() {
                Refusal::of_argv(line.into())
            } else {
                Refusal::of_file(line.into())
            });
        }
        if config.daemonize {
            self.refuse_relative(&config, env("PATH"))?;
        }
        Ok(config)
    }

    fn supervision(&self) -> Result<Supervision, Refusal> {
        let errors: u64 = self.or_default("spawn-errors")?;
        let exec_workers = self.said("exec-workers")?;
        let when = |text: Option<String>, meant| text.as_deref() == Some(meant);
        Ok(Supervision {
            term_is_fast: when(self.said("term")?, "fast"),
            graceful: self.or_default("graceful-timeout")?,
            spawn: self.or_default("spawn-timeout")?,
            hard: self.or_default("hard-timeout")?,
            spawn_errors: (errors > 0).then_some(errors as u32),
            exec_workers: exec_workers.unwrap_or(ExecWorkers::Auto),
            upgrade_is_auto: when(self.upgrade_policy()?, "auto"),
            upgrade: self.or_default("upgrade-timeout")?,
            probation: self.or_default("probation")?,
        })
    }

    /// What argv or the files say of it, but for the verb.
    fn upgrade_policy(&self) -> Result<Option<String>, Refusal> {
        let policy = |all: Vec<Said<String>>| {
            all.into_iter()
                .filter(|said| said.value != NOW || said.place != Place::Argv)
                .collect::<Vec<_>>()
        };
        let argv = policy(self.argv.all("upgrade"));
        let said = if argv.is_empty() {
            policy(self.in_files("upgrade"))
        } else {
            argv
        };
        let agreed = agreed("upgrade", "", said)?;
        match agreed {
            Some(said) if said.value == NOW => Err(Refusal::of_file(format!(
                "{}: upgrade: expected auto or manual",
                said.place
            ))),
            other => Ok(other.map(|said| said.value)),
        }
    }

    fn verb(&self) -> Result<Verb, Refusal> {
        let json = self.matches.get_flag("json");
        let upgrade: Vec<Said<String>> = self.argv.all("upgrade");
        let said = [
            (self.matches.get_flag("check-config"), Verb::Check),
            (self.matches.get_flag("stop"), Verb::Stop),
            (self.matches.get_flag("reload"), Verb::Reload),
            (upgrade.iter().any(|said| said.value == NOW), Verb::Upgrade),
            (self.matches.get_flag("status"), Verb::Status { json }),
        ];
        let mut said = said.iter().filter(|(is_said, _)| *is_said);
        let verb = said.next().map_or(Verb::Serve, |(_, verb)| *verb);
        if said.next().is_some() {
            return Err(Refusal::of_argv(
                "--check-config, --stop, --reload, --upgrade and --status: one at a time".into(),
            ));
        }
        if json && !matches!(verb, Verb::Status { .. }) {
            return Err(Refusal::of_argv("--json needs --status".into()));
        }
        Ok(verb)
    }

    /// One number for all: argv's, or those of the sites together.
    fn max_connections(&self) -> Result<usize, Refusal> {
        const KEY: &str = "maxconns";
        if let Some(all) = agreed(KEY, "", self.argv.all::<u64>(KEY))? {
            return Ok(all.value as usize);
        }
        let default: u64 = self.default(KEY);
        let mut sum = 0;
        for (_, file) in &self.files {
            let of_site = agreed(KEY, "", file.all(KEY))?;
            sum += of_site.map_or(default, |said| said.value);
        }
        Ok(if self.files.is_empty() { default } else { sum } as usize)
    }

    fn health(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<Health, Refusal> {
        const INTERVAL: &str = "MOG_DISK_USAGE_INTERVAL";
        let usage_interval = match env(INTERVAL) {
            None => Duration::from_secs(10),
            Some(text) => cli::parse_seconds(&text.to_string_lossy())
                .map_err(|e| Refusal::of_file(format!("{INTERVAL}={}: {e}", text.display())))?,
        };
        let command = env("MOG_IOSTAT_CMD").filter(|command| !command.is_empty());
        let is_wanted = self.said("iostat")?.unwrap_or(true);
        Ok(Health {
            usage_interval,
            probe_timeout: self.or_default("probe-timeout")?,
            utilization: match (is_wanted, command) {
                (false, _) => Utilization::Off,
                (true, Some(command)) => Utilization::Command(command),
                (true, None) => Utilization::Kernel,
            },
        })
    }

    /// A daemon works in `/`, and an upgrade finds the program by PATH.
    fn refuse_relative(&self, config: &Config, path: Option<OsString>) -> Result<(), Refusal> {
        let files = self.files.iter().map(|(path, _)| ("config", path));
        let docroots = config.sites.iter().map(|site| ("docroot", &site.docroot));
        let pidfile = config.pidfile.iter().map(|path| ("pidfile", path));
        let log_file = config.log_file.iter().map(|path| ("log-file", path));
        let mut lines: Vec<String> = files
            .chain(docroots)
            .chain(pidfile)
            .chain(log_file)
            .filter(|(_, path)| path.is_relative())
            .map(|(key, path)| format!("{key}={} must use an absolute path", path.display()))
            .collect();
        let path = path.unwrap_or_default();
        // An empty element is the current directory. An empty PATH has none.
        let mut elements = path.as_bytes().split(|byte| *byte == b':');
        if !path.is_empty() && elements.any(|element| !element.starts_with(b"/")) {
            lines.push("PATH environment contains relative path".into());
        }
        if lines.is_empty() {
            return Ok(());
        }
        lines.push("relative paths are incompatible with --daemonize".into());
        Err(Refusal { lines, code: 1 })
    }

    /// What meant something to other daemons. One line a key.
    pub(super) fn warn_of_ignored(&self) {
        if let Some(said) = self.argv_else_files::<OsString>("serverbin").first() {
            log::warn!("serverbin = {} ignored", said.text.display());
        }
        let server = self.argv_else_files::<String>("server");
        if let Some(said) = server.iter().find(|said| said.value != "perlbal") {
            log::warn!(
                "server = {} ignored: HTTP is served by this program ({})",
                said.value,
                said.place
            );
        }
    }
}
