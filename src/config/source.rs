//! What has been said, and where: by argv, and by the lines of config files.

use super::refusal::Refusal;
use super::{cli, file};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where something was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Argv,
    Line(Rc<Path>, usize),
    /// By nobody.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Argv => f.write_str("the command line"),
            Place::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Place::Default => f.write_str("the default"),
        }
    }
}

/// A value that was said.
#[derive(Clone, Debug)]
pub struct Said<T> {
    pub value: T,
    /// As it was written.
    pub text: OsString,
    pub place: Place,
}

/// argv, or a config file.
pub struct Source {
    /// A file's lines are read one by one, as if each were an argv: so there is
    /// one table of options, and each has its place.
    said: Vec<(ArgMatches, Place)>,
}

impl Source {
    /// What argv says.
    pub fn argv(matches: ArgMatches) -> Source {
        Source {
            said: vec![(matches, Place::Argv)],
        }
    }

    /// What a config file says.
    pub fn file(path: &Path, text: &[u8], command: &mut Command) -> Result<Source, Refusal> {
        let shared: Rc<Path> = Rc::from(path);
        let entries = file::parse(text).map_err(|fault| {
            let place = Place::Line(Rc::clone(&shared), fault.line);
            let hint = fault
                .word
                .map(|word| hint(&word, command))
                .unwrap_or_default();
            Refusal::of_file(format!("{place}: {}{hint}", fault.what))
        })?;
        let said = entries
            .iter()
            .map(|entry| {
                let place = Place::Line(Rc::clone(&shared), entry.line);
                match understand(entry, command) {
                    Ok(matches) => Ok((matches, place)),
                    Err(why) => Err(Refusal::of_file(format!("{place}: {why}"))),
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Source { said })
    }

    /// All that is said about a key, in order.
    pub fn all<T: Clone + Send + Sync + 'static>(&self, key: &str) -> Vec<Said<T>> {
        self.said
            .iter()
            .filter(|(matches, _)| matches.value_source(key) == Some(ValueSource::CommandLine))
            .flat_map(|(matches, place)| {
                let values = matches.get_many::<T>(key).into_iter().flatten();
                // None for a switch without its value.
                let texts = matches.get_raw(key).into_iter().flatten();
                values.zip(texts).map(|(value, text)| Said {
                    value: value.clone(),
                    text: text.to_owned(),
                    place: place.clone(),
                })
            })
            .collect()
    }
}

/// The keys of a file.
fn keys(command: &Command) -> impl Iterator<Item = &str> {
    command
        .get_arguments()
        .filter_map(Arg::get_long)
        .filter(|name| !cli::ARGV_ONLY.contains(name))
}

fn hint(word: &str, command: &Command) -> String {
    let nearest = file::nearest(word, keys(command));
    nearest.map_or_else(String::new, |key| format!("; the nearest key is \"{key}\""))
}

/// The entry as an option, or why it is none.
fn understand(entry: &file::Entry<'_>, command: &mut Command) -> Result<ArgMatches, String> {
    let key = entry.key;
    if cli::ARGV_ONLY.contains(&key) {
        return Err(format!("\"{key}\" belongs on the command line"));
    }
    let Some(option) = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(key))
    else {
        let quoted = file::quoted(key.as_bytes());
        return Err(format!("unknown key {quoted}{}", hint(key, command)));
    };
    let needs_value = option.get_num_args().is_none_or(|n| n.min_values() > 0);
    if needs_value && entry.value.is_none() {
        return Err(format!("{key} has no value"));
    }
    let choices: Vec<String> = option
        .get_possible_values()
        .iter()
        .map(|choice| choice.get_name().to_owned())
        .collect();
    let mut words = format!("--{key}").into_bytes();
    if let Some(value) = entry.value {
        words.push(b'=');
        words.extend_from_slice(value);
    }
    let argv = [OsString::from("rmogstored"), OsString::from_vec(words)];
    command.try_get_matches_from_mut(argv).map_err(|error| {
        let value = entry.value.unwrap_or_default().escape_ascii();
        match error.source() {
            Some(reason) => format!("{key} = {value}: {reason}"),
            None => format!("{key} = {value}: expected {}", choices.join(" or ")),
        }
    })
}

/// The one value of a key of which all say the same.
pub fn agreed<T: PartialEq>(
    key: &str,
    kind: &str,
    said: Vec<Said<T>>,
) -> Result<Option<Said<T>>, Refusal> {
    let mut all = said.into_iter();
    let Some(first) = all.next() else {
        return Ok(None);
    };
    match all.find(|other| other.value != first.value) {
        None => Ok(Some(first)),
        Some(other) => Err(Refusal::of([&first.place, &other.place], {
            let one = first.text.display();
            let two = other.text.display();
            format!(
                "conflicting {kind}values for {key}: {one} ({}) and {two} ({})",
                first.place, other.place
            )
        })),
    }
}

/// Whether both lead to the same file or directory, existing or not.
pub fn is_same_path(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    one == other || real(one) == real(other)
}
