//! A backup program that does not settle: it copies every file once, inside the window, and takes that for a backup.
//!
//! It shows that the writes in these tests do spoil such a copy. This test program is installed in a server's SST slot and
//! runs as this when it is called by the slot's name. The copy lies beside the datadir, in [`COPY`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use wsrep_sst_backup::archive::manifest::{EntryKind, FileClass};
use wsrep_sst_backup::cancel::Cancel;
use wsrep_sst_backup::config::Environment;
use wsrep_sst_backup::config::print_defaults::OptionFiles;
use wsrep_sst_backup::datadir::inventory::{Found, Inventory};
use wsrep_sst_backup::datadir::survey::{Datadir, Options};
use wsrep_sst_backup::datadir::variables::ServerVariables;
use wsrep_sst_backup::wsrep::answer::{Answers, Position};
use wsrep_sst_backup::wsrep::request::Request;
use wsrep_sst_backup::wsrep::session::Session;
use wsrep_sst_backup::{Result, sys};

/// The name of the copy's directory, beside the datadir.
pub const COPY: &str = "naive";

/// What its group of the option file says.
#[derive(Default)]
struct Manner {
    /// `clone`: files share blocks; else they are read.
    clones: bool,
    /// `redo-last`: by name, but the redo log at the end; else by name alone, as MariaDB's own script.
    redo_last: bool,
    /// `stop-before=FILE`: stops itself there, for the test to do something.
    stop_before: String,
}

/// Answers the server as the program does, without settling.
pub fn main() -> ExitCode {
    sys::close_inherited_fds();
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("WSREP_SST: the naive program failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<()> {
    let request = Request::parse(arguments)?;
    let cancel = Cancel::default();
    let session = Session::on_stdout(request.progress);
    if request.bypass {
        return session.bypass(Position::asked(request.gtid, request.gtid_domain))?.done();
    }
    let environment = Environment::from_iter(std::env::vars_os());
    let mut manner = Manner::default();
    for setting in OptionFiles::of_server(&environment, &request.defaults)?.own(&cancel)? {
        match setting.name.as_str() {
            "clone" => manner.clones = true,
            "redo-last" => manner.redo_last = true,
            "stop-before" => manner.stop_before = setting.value.unwrap_or_default().to_string_lossy().into_owned(),
            _ => {}
        }
    }
    let variables = ServerVariables { datadir: request.datadir.clone(), ..ServerVariables::default() };
    let datadir = Datadir::open(&variables, &Options::default())?;
    let answers = Answers::new(datadir.path(), datadir.path(), request.gtid);
    let session = session.freeze(answers, Duration::from_secs(60), &cancel)?;
    let inventory = datadir.survey(&cancel)?;
    copy_once(&datadir, inventory, &manner).expect("a copy");
    session.thaw()?.done()
}

fn copy_once(datadir: &Datadir, inventory: Inventory, manner: &Manner) -> std::io::Result<()> {
    let target = datadir.path().with_file_name(COPY);
    let mut files = inventory.files;
    files.sort_by_key(|found| (manner.redo_last && found.class == FileClass::Redo, found.path.clone()));
    std::fs::create_dir(&target)?;
    for found in &files {
        let to = target.join(found.path.as_path());
        if found.path.to_string() == manner.stop_before {
            raise(Signal::SIGSTOP)?;
        }
        match found.kind {
            EntryKind::Directory => std::fs::create_dir(&to)?,
            EntryKind::File => copy_file(datadir, found, &to, manner.clones)?,
        }
    }
    Ok(())
}

fn copy_file(datadir: &Datadir, found: &Found, to: &Path, clones: bool) -> std::io::Result<()> {
    let (mut from, mut to) = (datadir.open_file(found)?, File::create_new(to)?);
    if clones {
        sys::clone_range(&from, 0, 0, &to, 0)?;
        return Ok(());
    }
    // By hand: `std::io::copy` would share the blocks where it can.
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    to.write_all(&bytes)
}
