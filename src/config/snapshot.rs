//! All that a configuration is made of, as it was read once: what is configured
//! is a pure function of it. So a worker that is a fresh image of the program
//! finds what its master found, whatever the files say by then.

use super::refusal::{End, Refusal};
use super::settings::Settings;
use super::source::is_same_path;
use super::{Config, cli, sites};
use clap::ArgMatches;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Bytes of a config file; more is an error.
const MAX_FILE: u64 = 1 << 20;

/// The variables that are part of a configuration.
const VARIABLES: [&str; 3] = ["MOG_DISK_USAGE_INTERVAL", "MOG_IOSTAT_CMD", "PATH"];

/// What the bytes of a snapshot begin with; changes with their form.
const FORM: &[u8] = b"rmogstored snapshot 1";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its first element is the program's name.
    argv: Vec<OsString>,
    env: [Option<OsString>; VARIABLES.len()],
    /// Each with its text, in the order of argv.
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Where relative paths begin. None: it had been removed.
    folder: Option<PathBuf>,
    /// The default of `--worker-processes` depends on it.
    cores: usize,
}

impl Snapshot {
    /// Reads what there is now, and says what is wrong with it; what is ignored
    /// is told to the log.
    pub fn read(
        argv: impl Iterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Snapshot, End> {
        let argv: Vec<OsString> = argv.collect();
        let files = Settings::paths(&parse(&argv)?)
            .and_then(|paths| {
                let files = paths.into_iter().map(|path| {
                    let text = read(&path)
                        .map_err(|e| Refusal::of_file(format!("config={}: {e}", path.display())))?;
                    Ok((path, text))
                });
                files.collect::<Result<Vec<_>, _>>()
            })
            .map_err(End::Refused)?;
        let snapshot = Snapshot {
            argv,
            env: VARIABLES.map(env),
            files,
            folder: std::env::current_dir().ok(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let settings = snapshot.settings()?;
        snapshot
            .configured(&settings)
            // Two names of one directory; that may change later, which is no
            // reason to refuse a worker.
            .and_then(|_| sites::refuse_twins(&settings, is_same_path))
            .map_err(End::Refused)?;
        settings.warn_of_ignored();
        Ok(snapshot)
    }

    /// What it says.
    pub fn config(&self) -> Result<Config, End> {
        let settings = self.settings()?;
        self.configured(&settings).map_err(End::Refused)
    }

    /// The argv that was read.
    pub fn argv(&self) -> &[OsString] {
        &self.argv
    }

    fn settings(&self) -> Result<Settings, End> {
        Settings::read(parse(&self.argv)?, &self.files).map_err(End::Refused)
    }

    fn configured(&self, settings: &Settings) -> Result<Config, Refusal> {
        let env = |name: &str| {
            let place = VARIABLES.iter().position(|variable| *variable == name);
            self.env[place.expect("a variable of the snapshot")].clone()
        };
        let mut config = settings.config(env, self.cores)?;
        if let Some(folder) = &self.folder {
            config.resolve(folder);
        }
        Ok(config)
    }

    /// As bytes, for another process of the same program.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |field: &[u8]| {
            bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
            bytes.extend_from_slice(field);
        };
        let number = |n: usize| (n as u64).to_le_bytes();
        put(FORM);
        put(&number(self.argv.len()));
        self.argv.iter().for_each(|word| put(word.as_bytes()));
        for value in &self.env {
            put_option(&mut put, value.as_ref().map(|value| value.as_bytes()));
        }
        put(&number(self.files.len()));
        for (path, text) in &self.files {
            put(path.as_os_str().as_bytes());
            put(text);
        }
        let folder = self.folder.as_ref().map(|path| path.as_os_str().as_bytes());
        put_option(&mut put, folder);
        put(&number(self.cores));
        bytes
    }

    /// None: no bytes of [`Snapshot::encode`].
    pub fn decode(bytes: &[u8]) -> Option<Snapshot> {
        let mut fields = Fields(bytes);
        if fields.next()? != FORM {
            return None;
        }
        let argv = (0..fields.number()?)
            .map(|_| fields.next().map(os_string))
            .collect::<Option<_>>()?;
        let mut env = [const { None }; VARIABLES.len()];
        for value in &mut env {
            *value = fields.option()?.map(os_string);
        }
        let files = (0..fields.number()?)
            .map(|_| {
                Some((
                    PathBuf::from(os_string(fields.next()?)),
                    fields.next()?.to_vec(),
                ))
            })
            .collect::<Option<_>>()?;
        let folder = fields.option()?.map(|path| PathBuf::from(os_string(path)));
        let cores = fields.number()?;
        let snapshot = Snapshot {
            argv,
            env,
            files,
            folder,
            cores,
        };
        fields.0.is_empty().then_some(snapshot)
    }
}

/// A field that says whether there is one more, and that one.
fn put_option(put: &mut impl FnMut(&[u8]), value: Option<&[u8]>) {
    put(&[u8::from(value.is_some())]);
    value.into_iter().for_each(put);
}

fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// Fields, each behind its length.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let (field, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.next()?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }

    fn option(&mut self) -> Option<Option<&'a [u8]>> {
        match self.next()? {
            [0] => Some(None),
            [1] => self.next().map(Some),
            _ => None,
        }
    }
}

fn parse(argv: &[OsString]) -> Result<ArgMatches, End> {
    let matches = cli::command()
        .try_get_matches_from(argv)
        .map_err(End::Argv)?;
    if matches.get_flag("usage") {
        return Err(End::Usage(cli::command().render_usage().to_string()));
    }
    Ok(matches)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("longer than 1 MiB: no config file"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn words(args: &[&str]) -> impl Iterator<Item = OsString> {
        let all: Vec<_> = ["rmogstored"].iter().chain(args).map(Into::into).collect();
        all.into_iter()
    }

    fn read_of(args: &[&str], env: &[(&str, &str)]) -> Snapshot {
        let env = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Snapshot::read(words(args), env)
            .ok()
            .expect("a configuration")
    }

    #[test]
    fn it_says_what_was_read_whatever_the_file_says_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.conf");
        let option = format!("--config={}", path.display());
        fs::write(&path, "maxconns = 77\n").unwrap();
        let env = [("MOG_DISK_USAGE_INTERVAL", "3"), ("HOME", "/x")];
        let snapshot = read_of(&[&option, "--threads=20"], &env);
        let before = snapshot.config().ok().unwrap();
        assert_eq!((before.max_connections, before.threads), (77, Some(20)));
        assert_eq!(before.health.usage_interval.as_secs(), 3);

        fs::write(&path, "maxconns = none\n").unwrap();
        let copy = Snapshot::decode(&snapshot.encode()).unwrap();
        assert_eq!(copy, snapshot);
        assert_eq!(copy.config().ok().unwrap(), before);
        assert!(Snapshot::read(words(&[&option]), |_| None).is_err());

        fs::write(&path, "# moved\nmaxconns = 77").unwrap();
        let again = read_of(&[&option, "--threads=20"], &env);
        assert_ne!(again, snapshot);
        assert_eq!(again.config().ok().unwrap(), before);
        fs::write(&path, "maxconns = 78").unwrap();
        let changed = read_of(&[&option, "--threads=20"], &env);
        assert_ne!(changed.config().ok().unwrap(), before);
    }

    #[test]
    fn two_names_of_a_docroot_are_refused_when_they_are_read_and_not_later() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("a")).unwrap();
        let config = |name: &str, docroot: &Path, port: u16| {
            let text = format!("docroot = {}\nhttplisten = {port}", docroot.display());
            fs::write(at(name), text).unwrap();
            format!("--config={}", at(name).display())
        };
        let args = [config("1", &at("a"), 1), config("2", &at("b"), 2)];
        let args = ["--multi", &args[0], &args[1]];
        let snapshot = read_of(&args, &[]);
        std::os::unix::fs::symlink(at("a"), at("b")).unwrap();
        assert!(Snapshot::read(words(&args), |_| None).is_err());
        assert!(snapshot.config().is_ok());
    }

    #[test]
    fn relative_paths_begin_where_it_was_read() {
        let mut snapshot = read_of(&["--docroot=a", "--pidfile=b/c", "--log-file=/d"], &[]);
        snapshot.folder = Some("/somewhere".into());
        let config = snapshot.config().ok().unwrap();
        assert_eq!(config.sites[0].docroot, Path::new("/somewhere/a"));
        assert_eq!(config.pidfile.unwrap(), Path::new("/somewhere/b/c"));
        assert_eq!(config.log_file.unwrap(), Path::new("/d"));
    }

    #[test]
    fn bytes_that_are_no_snapshot_are_refused() {
        let mut snapshot = read_of(&["--docroot=/caf\u{e9}"], &[("PATH", "/bin")]);
        snapshot.argv.push(OsString::from_vec(vec![0xff, b'\n']));
        let bytes = snapshot.encode();
        assert_eq!(Snapshot::decode(&bytes).unwrap(), snapshot);
        for len in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..len]).is_none(), "{len}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(Snapshot::decode(&longer).is_none());
        let mut endless = bytes.clone();
        // The number of words of argv, behind the form and two lengths.
        endless[8 + FORM.len() + 8..][..8].fill(0xff);
        assert!(Snapshot::decode(&endless).is_none());
    }
}
