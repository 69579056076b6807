//! One donor run: the list of steps of `docs/design.md`, in its words.
//!
//! Whatever fails before `done` ends the run with an error and nothing more on stdout: the server then lets its files go,
//! counts the transfer as failed, and tells the cluster. Nothing is published before everything is on the disk.

mod before;
mod label;
mod locked;
mod report;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use self::before::Prepared;
use self::label::{Origin, Times};
use self::locked::Members;
use crate::archive::encode::{EncodeOptions, Encoder, ManifestHead};
use crate::archive::label::BackupId;
use crate::archive::progress::Progress;
use crate::cancel::Cancel;
use crate::config::Environment;
use crate::error::Result;
use crate::monitor::Ticker;
use crate::source::live::Live;
use crate::source::settle::{Rules, Settled, settle};
use crate::sys;
use crate::wsrep::answer::{Answers, Position};
use crate::wsrep::request::Request;
use crate::wsrep::server_process::ServerProcess;
use crate::wsrep::session::{Frozen, Released, Session};
use crate::wsrep::stdin;
use crate::wsrep::watch::Watch;

/// Answers the server that runs us: `args` are its arguments without the program's name.
pub fn run(args: Vec<OsString>, environment: &Environment) -> Result<()> {
    let started = sys::now();
    let request = Request::parse(args)?;
    let cancel = Cancel::default();
    let server = Arc::new(ServerProcess::find()?);
    let mut watch = Watch::start(&cancel, Some(Box::new(Arc::clone(&server))))?;
    stdin::drain(std::io::stdin().as_fd(), &cancel)?;
    report::asked(&request);
    let session = Session::on_stdout(request.progress);
    if request.bypass {
        return session.bypass(Position::asked(request.gtid, request.gtid_domain))?.done();
    }

    let prepared = Prepared::make(&request, environment, &cancel)?;
    let Prepared { config, datadir, repository, inventory, .. } = &prepared;
    let origin = Origin::of(&request, &prepared, &server, &cancel);
    let id = BackupId::new(started, &origin.node, sys::random_u32() as u16);
    let upload = repository.begin(&id, config.codec)?;
    let progress = Arc::new(Progress::default());
    progress.set_total(inventory.total_bytes());
    let options = EncodeOptions { codec: config.codec, workers: config.workers };
    let mut encoder = Encoder::start(options, upload.archive(), cancel.clone(), Arc::clone(&progress))?;
    report::prepared(&id, &prepared);

    let answers = Answers::new(datadir.path(), &prepared.variables.grastate_directory(), request.gtid);
    let asked = Instant::now();
    let session = session.freeze(&answers, config.flush_timeout, &cancel)?;
    let opened = Instant::now();
    watch.window_opened(config.frozen_limit);
    report::frozen(session.position(), opened - asked);
    let ticker = Ticker::start(Arc::clone(&progress))?;
    let mut members = Members::new(datadir, &mut encoder, inventory);
    let (session, settled) = copy(session, &mut members, &prepared, &cancel)?;
    watch.window_closed();
    let times = Times { started, flush: opened - asked, frozen: opened.elapsed() };
    report::thawed(times.frozen, &settled);

    let position = session.position().clone();
    let warnings = members.finish(&settled, position.gtid())?;
    let Settled { inventory, .. } = &settled;
    let finished = encoder.finish(ManifestHead {
        id: id.clone(),
        gtid: position.gtid(),
        roots: inventory.roots.clone(),
        excluded: inventory.excluded.clone(),
        warnings,
    })?;
    let manifest = finished.manifest.to_stored()?;
    let label = origin.label(id, &position, times, &settled, &finished, &manifest);
    cancel.check()?;
    upload.commit(&manifest, &label)?;
    drop(ticker);
    report::published(&label, repository);
    session.done()
}

/// The frozen window: copy until all copies show one instant, ask both witnesses once more, and let the server go on.
fn copy<W: Write + Send + 'static>(
    mut session: Session<Frozen>,
    members: &mut Members<'_, W>,
    prepared: &Prepared,
    cancel: &Cancel,
) -> Result<(Session<Released>, Settled)> {
    session.total(prepared.inventory.total_bytes())?;
    let mut live = Live::new(&prepared.datadir, cancel);
    let settled = settle(&mut live, members, &Rules::locked(), cancel)?;
    session.complete(settled.inventory.total_bytes())?;
    report::agreement(session.recheck()?);
    cancel.check()?;
    Ok((session.thaw()?, settled))
}
