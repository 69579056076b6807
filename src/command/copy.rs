//! `copy`: a backup into another repository, as it is stored.
//!
//! Archive and manifest are proved by the label's digests while they are copied, before the label is put: what is damaged on
//! the way, or was before, makes no backup.

use std::io::Write;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::output::Output;
use super::{Context, check_length, human};
use crate::archive::codec::STORED_BYTES_MAX;
use crate::archive::label::Label;
use crate::archive::progress::Progress;
use crate::archive::read_at::ReadAt;
use crate::cli::CopyArgs;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::monitor::bar::Bar;
use crate::store::{ArchiveSink, Repository};

/// The document of `copy --json`.
#[derive(Serialize)]
struct Document {
    id: String,
    from: String,
    to: String,
    /// Of archive and manifest.
    stored_bytes: u64,
}

/// Copies a backup from the context's repository to `to`, where it must not be yet.
pub fn run(args: &CopyArgs, context: &Context<'_>, to: &dyn Repository, output: &mut Output) -> Result<()> {
    let from = context.repository;
    let label = from.label(&from.resolve(&args.id)?)?;
    check_absent(&label, to)?;
    let manifest = from.manifest_stored(&label)?;
    let archive = from.open_archive(&label)?;
    check_length(&label, &*archive)?;
    let (upload, sink) = to.begin(&label.id, label.codec.archive_name(label.seal()), label.archive.bytes)?;
    copy_archive(&*archive, sink, &label, context, output)?;
    context.cancel.check()?;
    upload.commit(&manifest, &label)?;
    let (from, to) = (from.place(), to.place());
    let stored_bytes = label.archive.bytes.saturating_add(label.manifest.bytes);
    let sentence = format!("{} copied from \"{from}\" to \"{to}\": {}", label.id, human::size(stored_bytes));
    output.json(&Document { id: label.id.to_string(), from, to, stored_bytes })?;
    output.line(sentence)
}

/// Refused before anything is moved, where it would be refused at the end.
fn check_absent(label: &Label, to: &dyn Repository) -> Result<()> {
    match to.label(&label.id) {
        Err(error) if error.class() == Class::NotFound => Ok(()),
        Err(error) if error.class() != Class::Damage && error.class() != Class::Unsupported => Err(error),
        _ => Err(Error::new(Class::Refused, format!("there is a backup {} in \"{}\" already", label.id, to.place()))),
    }
}

fn copy_archive(
    archive: &dyn ReadAt,
    mut sink: ArchiveSink,
    label: &Label,
    context: &Context<'_>,
    output: &Output,
) -> Result<()> {
    let progress = Arc::new(Progress::default());
    progress.set_total(archive.len());
    let _bar = Bar::start(output.may_draw(), "copying", &progress);
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; STORED_BYTES_MAX]);
    let mut at = 0;
    while at < archive.len() {
        context.cancel.check()?;
        let left = usize::try_from(archive.len() - at).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        archive.read_exact_at(part, at)?;
        hasher.update(&*part);
        sink.write_all(part).map_err(|cause| {
            let inner = cause.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            let class = inner.map_or(Class::Io, Error::class);
            Error::new(class, format!("cannot write the copy of {}", label.id)).because(cause)
        })?;
        at += length as u64;
        progress.add_raw(length as u64);
        progress.add_stored(length as u64);
    }
    if Digest::finish(hasher) != label.archive.sha256 {
        let text = format!("the archive of {} is damaged: its SHA-256 is not the label's", label.id);
        return Err(Error::new(Class::Damage, text).hint("`verify` tells what of it is lost"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
