//! One donor run: the list of steps of `docs/design.md`, in its words.
//!
//! Whatever fails before `done` ends the run with an error and nothing more on stdout: the server then lets its files go,
//! counts the transfer as failed, and tells the cluster. Nothing is published before everything is on the disk.

mod label;
mod locked;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

use self::label::Facts;
use self::locked::{Members, Server};
use super::human;
use crate::archive::encode::{EncodeOptions, Encoder, Finished, ManifestHead};
use crate::archive::label::BackupId;
use crate::archive::progress::Progress;
use crate::cancel::Cancel;
use crate::config::{Config, Environment};
use crate::datadir::Datadir;
use crate::datadir::inventory::{Found, Generated, Inventory};
use crate::error::{Class, Error, Result};
use crate::monitor::Ticker;
use crate::source::settle::{Rules, Settled, settle};
use crate::store::{ArchiveFile, LocalRepository};
use crate::sys;
use crate::wsrep::address::Address;
use crate::wsrep::answer::{Answers, Position};
use crate::wsrep::request::Request;
use crate::wsrep::server_process::ServerProcess;
use crate::wsrep::session::{Idle, Session};
use crate::wsrep::watch::Watch;
use crate::wsrep::{grastate, stdin};

/// Below this part of the data's size the free space is surely too little, whatever the data compresses to.
const HOPELESS: u64 = 20;

/// Answers the server that runs us: `args` are its arguments without the program's name.
pub fn run(args: Vec<OsString>, environment: &Environment) -> Result<()> {
    let started = sys::now();
    let cancel = Cancel::default();
    let request = Request::parse(args)?;
    let server = ServerProcess::find()?;
    let mut watch = Watch::start(&cancel, Some(Box::new(server.try_clone()?)))?;
    stdin::drain(std::io::stdin().as_fd(), &cancel)?;
    info!("wsrep_sst_backup {} asked for {}", env!("CARGO_PKG_VERSION"), request.gtid);
    let session = Session::on_stdout(request.progress);
    if request.bypass {
        return bypass(session, &request);
    }

    let address = Address::parse(&request.address)?;
    let (config, variables) = Config::of_server(&request, environment, &cancel)?;
    let _only_run = lock(&variables.datadir)?;
    let repository = LocalRepository::open(config.destination(&address)?)?;
    repository.probe_writable()?;
    let datadir = Datadir::open(&variables, config.binlogs, &[repository.path()])?;
    let before = datadir.survey(&cancel)?;
    datadir.check_readable(&before, &cancel)?;
    check_space(&repository, before.total_bytes())?;
    before.warnings.iter().for_each(|warning| warn!("{warning}"));

    let node = label::node_name(&variables);
    let id = BackupId::new(started, &node, sys::random_u16());
    let (upload, archive) = repository.begin(&id, config.codec)?;
    let progress = Arc::new(Progress::default());
    progress.set_total(before.total_bytes());
    let options = EncodeOptions { codec: config.codec, workers: config.workers };
    let mut encoder = Encoder::start(options, archive, cancel.clone(), Arc::clone(&progress))?;
    info!("backup {id}: {} in {} files, to {:?}", human::size(before.total_bytes()), before.files.len(), repository.path());

    let answers = Answers::new(&variables.datadir, &datadir.grastate_directory(), request.gtid);
    let asked = Instant::now();
    let session = session.freeze(&answers, config.flush_timeout, &cancel)?;
    let (opened, flush) = (Instant::now(), asked.elapsed());
    watch.window_opened(config.frozen_limit);
    let gtid = session.position().gtid();
    info!("frozen at {gtid}; the server's flush took {} ms", flush.as_millis());
    let ticker = Ticker::start(Arc::clone(&progress))?;
    let mut members = Members::new(&datadir, &mut encoder, &before);
    let settled = settle(&mut Server { datadir: &datadir, cancel: &cancel }, &mut members, &Rules::locked(), &cancel)?;
    session.recheck()?;
    cancel.check()?;
    let session = session.thaw()?;
    watch.window_closed();
    let frozen = opened.elapsed();
    info!("the server goes on: it was frozen for {} ms, {} passes", frozen.as_millis(), settled.passes);

    add_generated(&mut members, &settled.inventory, session.position())?;
    drop(members);
    let warnings = warnings(&settled);
    let facts = Facts { request: &request, address: &address, variables: &variables, server: &server, node: &node };
    let head = ManifestHead {
        id: id.clone(),
        gtid,
        roots: settled.inventory.roots.clone(),
        excluded: settled.inventory.excluded.clone(),
        warnings: warnings.clone(),
    };
    let finished = encoder.finish(head)?;
    drop(ticker);
    todo!()
}
