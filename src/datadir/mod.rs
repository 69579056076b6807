//! The donor's files: which directories belong to the server's state, what every file in them is.

pub mod binlog;
pub mod classify;
pub mod inventory;
mod layout;
mod links;
mod owners;
pub mod place;
mod roots;
pub mod survey;
pub mod variables;
mod walk;
