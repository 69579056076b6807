//! One donor run: the list of steps of `docs/design.md`, in its words.
//!
//! Whatever fails before `done` ends the run with an error. Inside the window the server is let go first, by `continue`; besides
//! that nothing more is said: without `done` it counts the transfer as failed, and tells the cluster. Nothing is published
//! before everything is on the disk.

mod before;
mod copies;
mod gentle;
mod label;
mod members;
mod plan;
mod report;
mod space;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use self::before::{Prepared, Settings};
use self::copies::Copies;
use self::label::{Origin, Times};
use self::members::Members;
use self::space::SpaceWatch;
use crate::archive::encode::{EncodeOptions, Encoder, ManifestHead};
use crate::archive::label::{BackupId, Source};
use crate::archive::progress::Progress;
use crate::archive::seal::seal;
use crate::cancel::Cancel;
use crate::config::Environment;
use crate::config::choice::Release;
use crate::error::Result;
use crate::monitor::Ticker;
use crate::source::live::Live;
use crate::source::precopy::{Limits, clone_ahead, precopy};
use crate::source::settle::{Rules, Settled, Settling};
use crate::sys;
use crate::wsrep::answer::{Answers, Position};
use crate::wsrep::last_resort;
use crate::wsrep::request::Request;
use crate::wsrep::server_process::ServerProcess;
use crate::wsrep::session::{Frozen, Released, Session};
use crate::wsrep::stand_in::StandIn;
use crate::wsrep::stdin;
use crate::wsrep::watch::Watch;

/// Answers the server that runs us: `args` are its arguments without the program's name.
pub fn run(args: Vec<OsString>, environment: &Environment) -> Result<()> {
    let started = sys::now();
    let request = Request::parse(args)?;
    let cancel = Cancel::default();
    let server = Arc::new(ServerProcess::find()?);
    report::asked(&request);
    let settings = if request.bypass { None } else { Some(Settings::read(&request, environment, &cancel)?) };
    let held = settings.as_ref().is_some_and(|settings| settings.config.release == Release::Held);
    let stand_in = if held { Some(StandIn::leave()?) } else { None };
    let mut watch = Watch::start(&cancel, Some(Box::new(Arc::clone(&server))))?;
    stdin::drain(std::io::stdin().as_fd(), &cancel)?;
    let session = Session::on_stdout(request.progress);
    let Some(settings) = settings else {
        return session.bypass(Position::asked(request.gtid, request.gtid_domain))?.done();
    };

    let mut prepared = Prepared::make(settings, environment, &cancel)?;
    let clones = std::mem::take(&mut prepared.plan.clones);
    let spaces = std::mem::take(&mut prepared.plan.spaces);
    let Prepared { config, datadir, destination, inventory, plan, .. } = &prepared;
    let origin = Origin::of(&request, &prepared, &server, &cancel);
    let id = BackupId::new(started, &origin.node, sys::random_u32() as u16);
    let archive_name = config.codec.archive_name(prepared.recipients.seal());
    let (upload, sink) = destination.begin(&id, archive_name, inventory.total_bytes())?;
    let progress = Arc::new(Progress::default());
    progress.set_total(inventory.total_bytes());
    let recipients = prepared.recipients.clone();
    let options = EncodeOptions { codec: config.codec, workers: config.workers, recipients };
    let mut encoder = Encoder::start(options, sink, cancel.clone(), Arc::clone(&progress))?;
    let pace = encoder.pace();
    let ticker = Ticker::start(Arc::clone(&progress))?;
    report::prepared(&id, &prepared);

    let mut copies = Copies::new(datadir, Members::new(datadir, &mut encoder), clones);
    copies.try_clones(inventory, &cancel)?;
    let rules = Rules::locked();
    let mut live = Live::new(datadir, &cancel);
    let mut settling = Settling::new(&mut copies, &rules, &cancel);
    let space = SpaceWatch::start(spaces, &cancel)?;
    pace.limit(config.rate_limit);
    let limits = Limits { passes: plan.passes_ahead, quiet: config.precopy_quiet };
    precopy(&mut settling, &mut live, limits, &cancel)?;
    pace.limit(None);
    if plan.source == Source::Clone {
        clone_ahead(&mut settling, &mut live, config.precopy_quiet)?;
    }

    let answers = Answers::new(datadir.path(), &prepared.variables.grastate_directory(), request.gtid);
    let asked = Instant::now();
    let session = session.freeze(answers, config.flush_timeout, &cancel)?;
    let opened = Instant::now();
    let continued = session.continued();
    watch.window_opened(config.frozen_limit, Box::new(move |why| last_resort::let_go(why, &continued)));
    report::frozen(session.position(), opened - asked);
    let held = hold(session, settling, &mut live, &prepared, &cancel);
    watch.window_closed();
    let (session, settled) = held?;
    let times = Times { started, flush: opened - asked, frozen: opened.elapsed() };
    report::thawed(times.frozen, &settled);
    datadir.check_complete(&settled.inventory)?;

    let position = session.position().clone();
    let session = release(session, stand_in, &prepared, &mut watch)?;
    gentle::make_way(config.nice, config.ionice);
    pace.limit(config.rate_limit);
    let warnings = copies.stream(&settled, position.gtid())?;
    let Settled { inventory, .. } = &settled;
    let finished = encoder.finish(ManifestHead {
        id: id.clone(),
        gtid: position.gtid(),
        roots: inventory.roots.clone(),
        excluded: inventory.excluded.clone(),
        warnings,
    })?;
    drop(space);
    let manifest = seal(finished.manifest.to_stored()?, &prepared.recipients)?;
    let label = origin.label(id, &position, times, &settled, &finished, &manifest);
    cancel.check()?;
    upload.commit(&manifest, &label)?;
    drop(ticker);
    report::published(&label, &**destination);
    session.map_or(Ok(()), Session::done)
}

/// The frozen window: copy until all copies show one instant, ask both witnesses once more, and let the server go on.
///
/// On a failure the server is let go first, so that it does not wait for our cleaning up.
fn hold(
    mut session: Session<Frozen>,
    settling: Settling<'_>,
    live: &mut Live<'_>,
    prepared: &Prepared,
    cancel: &Cancel,
) -> Result<(Session<Released>, Settled)> {
    match settle_in_window(&mut session, settling, live, prepared, cancel) {
        Ok(settled) => Ok((session.thaw()?, settled)),
        Err(error) => {
            session.abandon();
            Err(error)
        }
    }
}

fn settle_in_window(
    session: &mut Session<Frozen>,
    settling: Settling<'_>,
    live: &mut Live<'_>,
    prepared: &Prepared,
    cancel: &Cancel,
) -> Result<Settled> {
    session.total(prepared.inventory.total_bytes())?;
    let settled = settling.settle(live)?;
    session.complete(settled.inventory.total_bytes())?;
    report::agreement(session.recheck()?);
    cancel.check()?;
    Ok(settled)
}

/// Says `done` now if the operator wants the node back when its files are held; returns what is left to be said.
///
/// The clones are ours alone: from here on the server may end, and another one may start and write.
fn release(
    session: Session<Released>,
    stand_in: Option<StandIn>,
    prepared: &Prepared,
    watch: &mut Watch,
) -> Result<Option<Session<Released>>> {
    let Some(stand_in) = stand_in.filter(|_| prepared.is_released_early()) else { return Ok(Some(session)) };
    watch.server_may_go();
    session.done()?;
    stand_in.dismiss()?;
    report::released_early();
    Ok(None)
}
