//! `list`: which backups there are.

use serde::Serialize;

use super::output::{Align, Output, Table};
use super::{Context, human};
use crate::archive::label::{BackupId, Label};
use crate::error::{Class, Error, Result, one_line};
use crate::store::Listing;
use std::time::Duration;

/// The document of `list --json`.
#[derive(Serialize)]
struct Document<'a> {
    repository: String,
    backups: &'a [Label],
    broken: Vec<Broken<'a>>,
}

#[derive(Serialize)]
struct Broken<'a> {
    id: &'a BackupId,
    error: String,
}

/// Prints every backup of the repository; a label that cannot be read is an error after everything is printed.
pub fn run(context: &Context<'_>, output: &mut Output) -> Result<()> {
    let listing = context.repository.list()?;
    let broken = listing.broken.iter().map(|(id, error)| Broken { id, error: one_line(error) }).collect();
    let repository = context.repository.place();
    output.json(&Document { repository, backups: &listing.labels, broken })?;
    print(context, &listing, output)?;
    verdict(&listing)
}

fn print(context: &Context<'_>, listing: &Listing, output: &mut Output) -> Result<()> {
    let place = context.repository.place();
    if listing.labels.is_empty() && listing.broken.is_empty() {
        output.line(format!("no backups in \"{place}\""))?;
        return output.line(
            "make one with: garbd --address gcomm://NODE --group CLUSTER --donor NODE --sst backup (see README)",
        );
    }
    output.line(format!("{} in \"{place}\"", human::count(listing.labels.len() as u64, "backup")))?;
    if !listing.labels.is_empty() {
        output.table(&table(&listing.labels, context.now))?;
    }
    for (id, error) in &listing.broken {
        output.line(format!("DAMAGED {id}: {}", one_line(error)))?;
    }
    Ok(())
}

fn table(labels: &[Label], now: jiff::Timestamp) -> Table {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("SEQNO", Align::Right),
        ("NODE", Align::Left),
        ("STARTED (UTC)", Align::Left),
        ("AGE", Align::Right),
        ("DATA", Align::Right),
        ("STORED", Align::Right),
        ("RATIO", Align::Right),
        ("FROZEN", Align::Right),
        ("CLUSTER HISTORY", Align::Left),
    ]);
    for label in labels {
        table.row([
            label.id.to_string(),
            label.gtid.seqno.to_string(),
            label.node.clone(),
            human::utc(label.started),
            human::duration(human::between(label.started, now)),
            human::size(label.raw_bytes),
            human::size(label.archive.bytes),
            human::ratio(label.raw_bytes, label.archive.bytes),
            human::duration(Duration::from_millis(label.frozen_ms)),
            label.gtid.uuid.to_string(),
        ]);
    }
    table
}

fn verdict(listing: &Listing) -> Result<()> {
    match listing.broken.as_slice() {
        [] => Ok(()),
        [(id, _)] => Err(Error::new(Class::Damage, format!("the backup {id} has no label that can be read"))),
        [..] => {
            let text = format!("{} backups have no label that can be read", listing.broken.len());
            Err(Error::new(Class::Damage, text))
        }
    }
}
