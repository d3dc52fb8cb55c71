//! Black-box tests: they start the real binary, talk to it over sockets and look at the disk behind it.
//! One crate, so that the harness is compiled once. PROTOCOL.md's sections 0 and 2 are what `http` holds the
//! program to, section 4 is what `mogile` does; every test owns its server, its docroot and its ports, so all
//! of them may run at once.

mod config;
mod harness;
mod http;
mod mgmt;
mod mogile;
#[cfg(target_os = "linux")]
mod process;
mod pure;
