//! What an operator can ask the server that runs: `control.PID`, a UNIX socket
//! of the master's in the run folder. Who connects says one line, an order. The
//! answer is any number of lines `processing TEXT`, and when the thing is done
//! `ok TEXT` or `failed WHY`; an `ok` may go on until the end of the stream.

pub mod client;
pub mod report;
pub mod server;

pub use report::Report;
pub use server::{Asker, Office};

use std::fmt;
use std::path::{Path, PathBuf};

/// Bytes of an order, with its line end.
const LONGEST_ORDER: usize = 64;

/// How the lines of an answer begin.
const PROCESSING: &str = "processing";
const OK: &str = "ok";
const FAILED: &str = "failed";

/// What the socket of a master is called.
const PREFIX: &str = "control.";

/// Where the socket of that master is.
fn socket_of(run: &Path, pid: u32) -> PathBuf {
    run.join(format!("{PREFIX}{pid}"))
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// How is it?
    Status {
        json: bool,
    },
    /// Read options and files again.
    Reload,
    /// Execute the program anew, and hand over to it.
    Upgrade,
    Stop {
        fast: bool,
    },
    /// Open the log file anew.
    Reopen,
    /// So many workers more.
    Workers(i32),
}

impl Order {
    /// Reads a line, without its end. The error says what would be one.
    fn parse(line: &str) -> Result<Order, String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        Ok(match words[..] {
            ["status"] => Order::Status { json: false },
            ["status", "json"] => Order::Status { json: true },
            ["reload"] => Order::Reload,
            ["upgrade"] => Order::Upgrade,
            ["stop"] => Order::Stop { fast: false },
            ["stop", "fast"] => Order::Stop { fast: true },
            ["reopen"] => Order::Reopen,
            ["workers", "+1"] => Order::Workers(1),
            ["workers", "-1"] => Order::Workers(-1),
            _ => {
                return Err(format!(
                    "unknown order \"{}\"; known: status [json], reload, upgrade, stop [fast], \
                     reopen, workers +1|-1",
                    line.escape_debug()
                ));
            }
        })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Status { json: false } => f.write_str("status"),
            Order::Status { json: true } => f.write_str("status json"),
            Order::Reload => f.write_str("reload"),
            Order::Upgrade => f.write_str("upgrade"),
            Order::Stop { fast: false } => f.write_str("stop"),
            Order::Stop { fast: true } => f.write_str("stop fast"),
            Order::Reopen => f.write_str("reopen"),
            Order::Workers(more) => write!(f, "workers {more:+}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_is_written() {
        for order in [
            Order::Status { json: false },
            Order::Status { json: true },
            Order::Reload,
            Order::Upgrade,
            Order::Stop { fast: false },
            Order::Stop { fast: true },
            Order::Reopen,
            Order::Workers(1),
            Order::Workers(-1),
        ] {
            let text = order.to_string();
            assert!(text.len() < LONGEST_ORDER);
            assert_eq!(Order::parse(&text), Ok(order));
            assert_eq!(Order::parse(&format!("  {text}\r")), Ok(order));
        }
        for bad in [
            "",
            "Status",
            "status xml",
            "stop slow",
            "workers 7",
            "reload now",
        ] {
            assert!(Order::parse(bad).is_err(), "{bad}");
        }
    }
}
