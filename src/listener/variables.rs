//! The variables that name listeners: what is written for a successor, and what
//! was written for us. Values in, values out.

use super::{Listener, Origin, Serves};
use crate::sys::inherit::{number, take_variable};
use crate::sys::process::Solo;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// Numbers of descriptors, `3,4,…`. A server of ours sets both: who only knows
/// the older name finds them, and where the two differ a cmogstored has come
/// between, which knows nothing of ours and passes it on.
const OURS: &str = "RMOGSTORED_FD";
const CMOGSTORED: &str = "CMOGSTORED_FD";

/// What a number alone does not tell: `3=http;file=2049:17,4=mgmt;systemd,…`.
/// A word that nobody knows is skipped: it is a newer server's.
const NOTES: &str = "RMOGSTORED_FD_NOTES";

/// systemd's first descriptor: sd_listen_fds(3).
const FIRST: i32 = 3;

/// What one process tells about a listener to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    pub serves: Option<Serves>,
    pub is_lent: bool,
    pub file: Option<(u64, u64)>,
}

/// The variables, as they were found.
#[derive(Default)]
pub(super) struct Variables {
    ours: Option<OsString>,
    cmogstored: Option<OsString>,
    notes: Option<OsString>,
    listen_pid: Option<OsString>,
    listen_fds: Option<OsString>,
    listen_names: Option<OsString>,
}

/// A descriptor that a variable names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub number: i32,
    pub variable: &'static str,
    pub origin: Origin,
    pub note: Note,
}

/// The variables by which a successor finds these listeners; their descriptors
/// must be open in it under the same numbers.
pub fn variables(listeners: &[Listener]) -> [(&'static str, String); 3] {
    let join = |texts: Vec<String>| texts.join(",");
    let numbers = listeners.iter().map(|listener| number(listener.as_fd()));
    let list = join(numbers.map(|number| number.to_string()).collect());
    let notes = listeners.iter().map(|listener| {
        let mut note = format!("{}={}", number(listener.as_fd()), listener.serves);
        if listener.is_lent() {
            note.push_str(";systemd");
        }
        if let Some((device, inode)) = listener.file {
            note.push_str(&format!(";file={device}:{inode}"));
        }
        note
    });
    let notes = join(notes.collect());
    [(OURS, list.clone()), (CMOGSTORED, list), (NOTES, notes)]
}

impl Variables {
    /// Takes them out of the environment.
    pub fn take(solo: &Solo) -> Variables {
        let take = |name| take_variable(solo, name);
        take("LISTEN_PIDFDID");
        Variables {
            ours: take(OURS),
            cmogstored: take(CMOGSTORED),
            notes: take(NOTES),
            listen_pid: take("LISTEN_PID"),
            listen_fds: take("LISTEN_FDS"),
            listen_names: take("LISTEN_FDNAMES"),
        }
    }

    /// Whom they name. `pid`: whose LISTEN_FDS counts.
    pub fn read(&self, pid: u32) -> Result<Vec<Named>, String> {
        let mut all = Vec::new();
        if let Some((list, variable, origin)) = self.list() {
            let mut notes = match &self.notes {
                Some(text) if origin == Origin::Predecessor => read_notes(&text.to_string_lossy()),
                _ => HashMap::new(),
            };
            for number in read_numbers(variable, list.as_bytes())? {
                let note = notes.remove(&number).unwrap_or_default();
                let origin = if note.is_lent {
                    Origin::Systemd
                } else {
                    origin
                };
                all.push(Named {
                    number,
                    variable,
                    origin,
                    note,
                });
            }
        }
        self.read_systemd(pid, &mut all)?;
        for (nr, named) in all.iter().enumerate() {
            if all[..nr].iter().any(|before| before.number == named.number) {
                return Err(format!(
                    "duplicate listener: {} names descriptor {} a second time",
                    named.variable, named.number
                ));
            }
        }
        Ok(all)
    }

    /// Who has written the predecessor's.
    pub fn predecessor(&self) -> Option<Origin> {
        self.list().map(|(_, _, origin)| origin)
    }

    /// The predecessor's list, the variable that it is in, and whose it is.
    fn list(&self) -> Option<(&OsStr, &'static str, Origin)> {
        match (&self.ours, &self.cmogstored) {
            (Some(ours), cmogstored) if cmogstored.as_ref().is_none_or(|c| c == ours) => {
                Some((ours, OURS, Origin::Predecessor))
            }
            (_, cmogstored) => Some((cmogstored.as_ref()?, CMOGSTORED, Origin::Cmogstored)),
        }
    }

    fn read_systemd(&self, pid: u32, all: &mut Vec<Named>) -> Result<(), String> {
        let (Some(for_whom), Some(count)) = (&self.listen_pid, &self.listen_fds) else {
            return Ok(());
        };
        // They were for another process, whose environment we have got.
        if for_whom.to_str().and_then(|text| text.parse().ok()) != Some(pid) {
            return Ok(());
        }
        let text = count.to_string_lossy();
        let count: u16 = text
            .parse()
            .map_err(|_| format!("LISTEN_FDS={text}: expected a number of descriptors"))?;
        let names = self.listen_names.as_ref().map(|all| all.to_string_lossy());
        let mut names = names.as_deref().unwrap_or_default().split(':');
        for number in (FIRST..).take(usize::from(count)) {
            all.push(Named {
                number,
                variable: "LISTEN_FDS",
                origin: Origin::Systemd,
                note: Note {
                    serves: names.next().and_then(Serves::named),
                    is_lent: true,
                    file: None,
                },
            });
        }
        Ok(())
    }
}

/// `3,4,5`. The words of the errors are cmogstored's.
fn read_numbers(variable: &str, list: &[u8]) -> Result<Vec<i32>, String> {
    // A comma behind the last one is no number that is missing.
    let list = list.strip_suffix(b",").unwrap_or(list);
    let mut numbers = Vec::new();
    for text in list.split(|byte| *byte == b',') {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = text.split_at(digits);
        let shown = text.escape_ascii();
        if let (Some(byte), false) = (rest.first(), digits.is_empty()) {
            return Err(format!("{variable} contained invalid byte: {byte}"));
        }
        if digits.is_empty() || !rest.is_empty() {
            return Err(format!("failed to parse {variable}: \"{shown}\""));
        }
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| format!("{variable}: {shown} is too large for a descriptor"))?;
        numbers.push(number);
    }
    Ok(numbers)
}

fn read_notes(text: &str) -> HashMap<i32, Note> {
    let mut notes = HashMap::new();
    for (number, words) in text.split(',').filter_map(|one| one.split_once('=')) {
        let Ok(number) = number.parse() else { continue };
        let mut note = Note::default();
        for word in words.split(';') {
            if word == "systemd" {
                note.is_lent = true;
            } else if let Some(file) = word.strip_prefix("file=") {
                note.file = file
                    .split_once(':')
                    .and_then(|(dev, ino)| Some((dev.parse().ok()?, ino.parse().ok()?)));
            } else {
                note.serves = note.serves.or_else(|| Serves::named(word));
            }
        }
        notes.insert(number, note);
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::{Address, Inherited, Place};

    fn numbers(list: &str) -> Result<Vec<i32>, String> {
        read_numbers(CMOGSTORED, list.as_bytes())
    }

    #[test]
    fn numbers_and_the_words_of_their_errors() {
        assert_eq!(numbers("3,4,17").unwrap(), [3, 4, 17]);
        assert_eq!(numbers("3,").unwrap(), [3]);
        for (list, words) in [
            ("", "failed to parse CMOGSTORED_FD"),
            ("3,,4", "failed to parse CMOGSTORED_FD"),
            ("x", "failed to parse CMOGSTORED_FD"),
            ("-1", "failed to parse CMOGSTORED_FD"),
            ("3;4", "CMOGSTORED_FD contained invalid byte: 59"),
            ("3 ,4", "CMOGSTORED_FD contained invalid byte: 32"),
            ("2147483648", "too large"),
            ("99999999999999999999999", "too large"),
        ] {
            let error = numbers(list).unwrap_err();
            assert!(error.contains(words), "{list}: {error}");
        }
    }

    fn text(text: &str) -> Option<OsString> {
        Some(text.into())
    }

    #[test]
    fn who_has_sent_them() {
        let origins = |variables: Variables| -> Vec<(i32, Origin)> {
            let all = variables.read(7).unwrap();
            all.iter().map(|one| (one.number, one.origin)).collect()
        };
        let ours = Variables {
            ours: text("5,6"),
            cmogstored: text("5,6"),
            notes: text("6=http;systemd"),
            ..Variables::default()
        };
        let expected = [(5, Origin::Predecessor), (6, Origin::Systemd)];
        assert_eq!(origins(ours), expected);
        // A cmogstored between us and our predecessor.
        let theirs = Variables {
            ours: text("5,6"),
            cmogstored: text("8"),
            notes: text("8=http;systemd"),
            ..Variables::default()
        };
        assert_eq!(origins(theirs), [(8, Origin::Cmogstored)]);
        let systemd = |pid: &str, fds: &str| Variables {
            ours: text("9"),
            listen_pid: text(pid),
            listen_fds: text(fds),
            listen_names: text("http:x"),
            ..Variables::default()
        };
        let expected = [
            (9, Origin::Predecessor),
            (3, Origin::Systemd),
            (4, Origin::Systemd),
        ];
        assert_eq!(origins(systemd("7", "2")), expected);
        assert_eq!(origins(systemd("8", "2")), expected[..1]);
        assert_eq!(origins(systemd("8", "many")), expected[..1]);
        assert!(systemd("7", "many").read(7).is_err());
        let twice = systemd("7", "7").read(7).unwrap_err();
        assert!(twice.contains("duplicate listener"), "{twice}");
    }

    #[test]
    fn notes_come_back_as_they_were_sent() {
        let notes = read_notes("3=http-get;systemd,4=mgmt;file=2049:17;newer,x=http,5,6=;file=1");
        let note = |serves, is_lent, file| Note {
            serves,
            is_lent,
            file,
        };
        assert_eq!(notes[&3], note(Some(Serves::HttpGet), true, None));
        assert_eq!(notes[&4], note(Some(Serves::Mgmt), false, Some((2049, 17))));
        assert_eq!(notes[&6], Note::default());
        assert_eq!(notes.len(), 3);
    }

    #[test]
    fn a_successor_reads_what_is_written_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let unix = Address::Unix(folder.path().join("s"));
        let places = [
            (Address::parse("127.0.0.1:0").unwrap(), Serves::Mgmt),
            (unix, Serves::Http),
        ]
        .map(|(address, serves)| Place {
            address,
            serves,
            site: 0,
        });
        let listeners = Inherited::default().open(&places, true).unwrap();
        let [ours, cmogstored, notes] = variables(&listeners).map(|(name, value)| {
            assert!(name.contains("MOGSTORED_FD"));
            text(&value)
        });
        let read = Variables {
            ours,
            cmogstored,
            notes,
            ..Variables::default()
        };
        let all = read.read(1).unwrap();
        for (named, listener) in all.iter().zip(&listeners) {
            assert_eq!(named.number, number(listener.as_fd()));
            assert_eq!(named.note.serves, Some(listener.serves));
            assert_eq!(named.note.file, listener.file);
            assert_eq!(named.origin, Origin::Predecessor);
        }
        assert_eq!(all.len(), 2);

        let again = listeners[1].duplicate().unwrap();
        assert_eq!(again.address, listeners[1].address);
        again.close_door();
        let Address::Unix(path) = &listeners[1].address else {
            panic!("the second one is a UNIX socket");
        };
        assert!(!path.exists());
    }
}
