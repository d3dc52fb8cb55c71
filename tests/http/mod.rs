//! The HTTP conversation, one module a noun of PROTOCOL.md sections 0 and 2.

mod conditional;
mod delete;
mod disk;
mod durability;
mod escape;
#[cfg(target_os = "linux")]
mod first;
mod framing;
#[cfg(target_os = "linux")]
pub mod fresh;
mod get;
mod keepalive;
mod limits;
mod listeners;
mod log;
mod md5;
mod partial;
mod put;
mod range;
mod timeouts;
