//! The program: asked by mysqld it answers as a donor, asked by a person it runs one of the commands.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use wsrep_sst_backup::cli::Cli;
use wsrep_sst_backup::config::Environment;
use wsrep_sst_backup::error::{Class, Error, Result};
use wsrep_sst_backup::log::{self, Face};
use wsrep_sst_backup::wsrep::request::Request;
use wsrep_sst_backup::{command, sys};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    #[allow(clippy::disallowed_methods, reason = "the one snapshot")]
    let environment = Environment::from_iter(std::env::vars_os());
    if Request::is_asked_by_a_server(&args) {
        // mysqld leaks its descriptors to us, both ends of our own stdout among them.
        sys::close_inherited_fds();
        log::start(Face::Donor, tracing::Level::INFO);
        return status(caught(|| command::donor::run(args, &environment)), Error::errno);
    }
    let cli = Cli::parse();
    log::start(Face::Operator, tracing::Level::INFO);
    status(caught(|| command::operator::run(&cli, &environment)), Error::exit_status)
}

/// A bug must not look like an errno of somebody else's: a panic's own exit status is "network is unreachable".
fn caught(run: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(Error::new(Class::Io, "the program failed in a way it should not: please report it")))
}

fn status(outcome: Result<()>, code: fn(&Error) -> u8) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::failure(&error);
            ExitCode::from(code(&error))
        }
    }
}
