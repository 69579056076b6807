//! The program as a black box: run by a scripted mysqld that is as strict as the real ones.
#![allow(missing_docs, unreachable_pub)]

mod answer;
mod arguments;
mod authority;
mod bucket;
mod clone;
mod destination;
mod dialogue;
mod disk;
mod gentle;
mod held;
mod interruption;
mod operator;
mod outcome;
mod precopy;
mod receive;
#[path = "../s3/mod.rs"]
mod s3;
mod sealed;
mod server;
mod several;
mod small_disk;
mod tree;
