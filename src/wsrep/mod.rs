//! The server's side of a donor run: what it asked for, the dialogue with it, and whether it is still there.

pub mod address;
pub mod answer;
pub mod grastate;
pub mod last_resort;
pub mod request;
pub mod server_process;
pub mod session;
pub mod stand_in;
pub mod stdin;
pub mod watch;
