//! The lines that a donor run writes to the server's error log: one for each step, for a reader at three in the morning.

use std::time::Duration;

use tracing::{info, warn};

use super::before::Prepared;
use crate::archive::label::{BackupId, Label};
use crate::command::human;
use crate::source::settle::Settled;
use crate::store::Destination;
use crate::wsrep::answer::Position;
use crate::wsrep::grastate::Agreement;
use crate::wsrep::request::Request;

pub(super) fn asked(request: &Request) {
    let what = if request.bypass { "to let a joiner begin with IST" } else { "for a backup" };
    info!("wsrep_sst_backup {} asked {what} at {} or later", env!("CARGO_PKG_VERSION"), request.gtid);
}

pub(super) fn prepared(id: &BackupId, prepared: &Prepared) {
    let Prepared { inventory, destination, config, recipients, .. } = prepared;
    let size = human::size(inventory.total_bytes());
    let files = human::count(inventory.files.len() as u64, "file");
    let workers = human::count(config.workers.get() as u64, "worker");
    let sealed = match recipients.iter().count() as u64 {
        0 => "not encrypted".to_owned(),
        count => format!("encrypted to {}", human::count(count, "recipient")),
    };
    info!(
        "backup {id}: {size} in {files}, compression {}, {sealed}, {workers}, to \"{}\"",
        config.codec.name(),
        destination.place()
    );
}

pub(super) fn frozen(position: &Position, flush: Duration) {
    info!("window opened: the server is frozen at {}, its flush took {:.1} ms", position.gtid(), milliseconds(flush));
}

pub(super) fn agreement(agreement: Agreement) {
    if agreement == Agreement::Unknown {
        warn!("grastate.dat does not tell the position during the window: only the server's answer does");
    }
}

pub(super) fn thawed(frozen: Duration, settled: &Settled) {
    let again = match settled.copied_again_bytes {
        0 => "nothing copied twice".to_owned(),
        bytes => format!("{} copied again", human::size(bytes)),
    };
    info!(
        "window closed: the server was frozen for {:.1} ms; settled in {} passes, {again}",
        milliseconds(frozen),
        settled.passes
    );
    grown(settled);
}

/// With a fraction: a window of clones is a few of them.
fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Redo that the server wrote after its last copy was begun: what it undid inside the window.
fn grown(settled: &Settled) {
    for key in &settled.grown {
        info!("{} grew while it was copied; what is copied is a valid beginning of it", settled.inventory.name(key));
    }
}

pub(super) fn released_early() {
    info!("the node is released (release = held): there is no backup before the line that says so");
}

pub(super) fn published(label: &Label, destination: &dyn Destination) {
    let took = human::between(label.started, label.finished);
    info!(
        "backup {} is complete in \"{}\": {} stored as {} ({}), frozen for {} ms, took {}, position {}",
        label.id,
        destination.place(),
        human::size(label.raw_bytes),
        human::size(label.archive.bytes),
        human::ratio(label.raw_bytes, label.archive.bytes),
        label.frozen_ms,
        human::duration(took),
        label.gtid
    );
}
