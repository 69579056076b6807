//! What a person asked for: settings, the repository, and the command.

use std::ffi::{OsStr, OsString};

use super::output::Output;
use super::{Context, copy, extract, list, open, receive, restore, show, verify};
use crate::archive::seal::Identities;
use crate::cancel::Cancel;
use crate::cli::{Cli, Command, Global};
use crate::config::print_defaults::{Defaults, OptionFiles};
use crate::config::{Config, Environment};
use crate::error::Result;
use crate::store::Location;
use crate::sys;
use crate::wsrep::watch::Watch;

/// Runs the command of `cli`.
pub fn run(cli: &Cli, environment: &Environment) -> Result<()> {
    let cancel = Cancel::default();
    let _watch = Watch::start(&cancel, None)?;
    let config = settings(&cli.global, environment, &cancel)?;
    let at = |place: Option<&OsStr>| place.map_or_else(|| Ok(config.repository.clone()), |place| config.place(place));
    let open = |location: &Location| open::repository(location, &config, environment, &cancel);
    let place = match &cli.command {
        Command::Copy(args) => args.from.as_ref().or(cli.global.repository.as_ref()),
        _ => cli.global.repository.as_ref(),
    };
    let location = at(place.map(|place| place.as_os_str()))?;
    let repository = open(&location)?;
    let keys = Identities::read(cli.command.identities(), &cancel)?;
    let (workers, now) = (config.workers, sys::now());
    let context = Context { repository: &*repository, keys: &keys, workers, cancel: &cancel, now };
    let mut output = Output::stdout(cli.global.json, cli.global.quiet);
    match &cli.command {
        Command::List => list::run(&context, &mut output),
        Command::Show(args) => show::run(args, &context, &mut output),
        Command::Verify(args) => verify::run(args, &context, &mut output),
        Command::Restore(args) => restore::run(args, &context, &mut output),
        Command::Extract(args) => extract::run(args, &context, &mut output),
        Command::Copy(args) => copy::run(args, &context, &*open(&at(Some(args.to.as_os_str()))?)?, &mut output),
        Command::Receive(args) => receive::run(args, &location, &cancel, &mut output),
    }
}

fn settings(global: &Global, environment: &Environment, cancel: &Cancel) -> Result<Config> {
    let defaults = Defaults {
        file: global.defaults_file.clone(),
        extra_file: global.defaults_extra_file.clone(),
        group_suffix: global.defaults_group_suffix.clone(),
    };
    let files = OptionFiles::of_host(environment, &defaults);
    let mut flags: Vec<(&str, OsString)> = Vec::new();
    if let Some(workers) = global.workers {
        flags.push(("workers", workers.to_string().into()));
    }
    Config::resolve(&files.own(cancel)?, environment, &flags)
}
