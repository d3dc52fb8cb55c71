//! The sidechannel's conversation.

pub mod command;
pub mod digest;
pub mod watch;
