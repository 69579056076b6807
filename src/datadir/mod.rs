//! The donor's files: which directories belong to the server's state, what every file in them is.

pub mod inventory;
pub mod variables;
