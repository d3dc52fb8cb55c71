//! Why there is no configuration, and how that is said.

use super::source::Place;
use std::io::Write;
use std::process::ExitCode;

/// Why there is no configuration.
pub enum End {
    /// Help was asked for, or argv is wrong.
    Argv(clap::Error),
    /// The short usage message was asked for.
    Usage(String),
    /// What was said cannot be done.
    Refused(Refusal),
}

impl End {
    /// Prints it: help on stdout (0), an error on stderr (2 when argv is wrong
    /// by itself, 1 when a file has its part in it).
    pub fn say(self) -> ExitCode {
        // Nobody is left to be told when the stream is closed.
        match self {
            End::Argv(error) => {
                let _ = error.print();
                ExitCode::from(error.exit_code() as u8)
            }
            End::Usage(text) => {
                let _ = writeln!(std::io::stdout(), "{text}");
                ExitCode::SUCCESS
            }
            End::Refused(refusal) => {
                for line in &refusal.lines {
                    log::error!("{line}");
                }
                ExitCode::from(refusal.code)
            }
        }
    }
}

impl End {
    /// Why, in one line, for who is told of it otherwise.
    pub fn text(&self) -> String {
        match self {
            End::Argv(error) => {
                let text = error.to_string();
                text.lines().next().unwrap_or_default().to_owned()
            }
            End::Usage(text) => text.clone(),
            End::Refused(refusal) => refusal.lines.join("; "),
        }
    }
}

/// What cannot be done, and why.
#[derive(Debug)]
pub struct Refusal {
    pub(super) lines: Vec<String>,
    pub(super) code: u8,
}

impl Refusal {
    pub(super) fn of_argv(line: String) -> Refusal {
        let lines = vec![line];
        Refusal { lines, code: 2 }
    }

    pub(super) fn of_file(line: String) -> Refusal {
        let lines = vec![line];
        Refusal { lines, code: 1 }
    }

    /// What these two places say does not go together.
    pub(super) fn of(places: [&Place; 2], line: String) -> Refusal {
        if places == [&Place::Argv; 2] {
            Refusal::of_argv(line)
        } else {
            Refusal::of_file(line)
        }
    }
}
