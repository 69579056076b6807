//! `verify`: reads backups completely and tells every damage.

use std::sync::Arc;

use serde::Serialize;

use super::output::Output;
use super::{Context, human};
use crate::archive::label::BackupId;
use crate::archive::progress::Progress;
use crate::archive::seal::Seal;
use crate::archive::verify::{self, Report};
use crate::cli::VerifyArgs;
use crate::error::{Class, Error, Result, one_line};
use crate::monitor::bar::Bar;

/// The document of `verify --json`.
#[derive(Serialize)]
struct Document {
    sound: usize,
    /// Encrypted, without a key: only the stored bytes are proved.
    intact: usize,
    damaged: usize,
    unreadable: usize,
    backups: Vec<Verified>,
}

/// What was found out about one backup.
#[derive(Serialize)]
struct Verified {
    id: BackupId,
    verdict: Verdict,
    /// Why the backup could not be read through, if it could not.
    error: Option<String>,
    report: Option<Report>,
    #[serde(skip)]
    class: Option<Class>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Sound,
    Intact,
    Damaged,
    Unreadable,
}

/// Verifies the backups that are named, or `latest`, or all of them; the error comes after everything is told.
pub fn run(args: &VerifyArgs, context: &Context<'_>, output: &mut Output) -> Result<()> {
    let mut backups = Vec::new();
    for id in ids(args, context)? {
        let verified = one(id, context, output)?;
        tell(&verified, output)?;
        backups.push(verified);
    }
    let count = |verdict| backups.iter().filter(|backup| backup.verdict == verdict).count();
    let (sound, intact) = (count(Verdict::Sound), count(Verdict::Intact));
    let (damaged, unreadable) = (count(Verdict::Damaged), count(Verdict::Unreadable));
    let class = backups.iter().filter_map(|backup| backup.class).find(|class| *class != Class::Damage);
    let total = backups.len();
    output.json(&Document { sound, intact, damaged, unreadable, backups })?;
    if sound == total {
        return output.line(format!("verdict: {} sound", are(total)));
    }
    let bad = damaged + unreadable;
    if bad == 0 {
        let intact = human::count(intact as u64, "encrypted backup");
        return output.line(format!("verdict: no damage found; {intact} of {total} not opened for want of a key"));
    }
    output.line(format!("verdict: {bad} of {} not sound", human::count(total as u64, "backup")))?;
    // Damage is the graver news: it has the exit status also where another backup could not be read.
    let class = if damaged > 0 { Class::Damage } else { class.unwrap_or(Class::Damage) };
    Err(Error::new(class, format!("{bad} of {} not sound", human::count(total as u64, "backup"))))
}

fn are(total: usize) -> String {
    match total {
        1 => "the backup is".to_owned(),
        _ => format!("all {total} backups are"),
    }
}

fn ids(args: &VerifyArgs, context: &Context<'_>) -> Result<Vec<BackupId>> {
    let repository = context.repository;
    if !args.all {
        let wanted = if args.ids.is_empty() { vec!["latest".to_owned()] } else { args.ids.clone() };
        return wanted.iter().map(|wanted| repository.resolve(wanted)).collect();
    }
    let listing = repository.list()?;
    let broken = listing.broken.into_iter().map(|(id, _)| id);
    let mut ids: Vec<BackupId> = listing.labels.into_iter().map(|label| label.id).chain(broken).collect();
    ids.sort();
    if ids.is_empty() {
        return Err(Error::new(Class::NotFound, format!("there is no backup in \"{}\"", repository.place())));
    }
    Ok(ids)
}

/// Verifies one backup; an error is that the whole command must end.
fn one(id: BackupId, context: &Context<'_>, output: &Output) -> Result<Verified> {
    match read_through(&id, context, output) {
        Ok((depth, report)) => {
            let verdict = match depth {
                _ if !report.damages.is_empty() => Verdict::Damaged,
                Depth::Everything => Verdict::Sound,
                Depth::Stored => Verdict::Intact,
            };
            let class = (verdict == Verdict::Damaged).then_some(Class::Damage);
            Ok(Verified { id, verdict, error: None, report: Some(report), class })
        }
        Err(error) if error.class() == Class::Cancelled => Err(error),
        Err(error) => {
            let class = error.class();
            let verdict = if class == Class::Damage { Verdict::Damaged } else { Verdict::Unreadable };
            Ok(Verified { id, verdict, error: Some(one_line(&error)), report: None, class: Some(class) })
        }
    }
}

/// How much of a backup was looked at.
#[derive(Clone, Copy)]
enum Depth {
    /// Every byte of every file.
    Everything,
    /// What is stored, as it is stored.
    Stored,
}

fn read_through(id: &BackupId, context: &Context<'_>, output: &Output) -> Result<(Depth, Report)> {
    let Context { repository, keys, workers, cancel, .. } = *context;
    let label = repository.label(id)?;
    let progress = Arc::new(Progress::default());
    if label.seal() == Seal::Age && keys.is_empty() {
        repository.manifest_stored(&label)?;
        let archive = repository.open_archive(&label)?;
        progress.set_total(archive.len());
        let _bar = Bar::start(output.may_draw(), "verifying", &progress);
        return Ok((Depth::Stored, verify::verify_stored(&*archive, &label, cancel, &progress)?));
    }
    let manifest = context.manifest(&label)?;
    let archive = repository.open_archive(&label)?;
    progress.set_total(manifest.raw_bytes());
    let _bar = Bar::start(output.may_draw(), "verifying", &progress);
    let report = verify::verify(&*archive, &manifest, &label, keys, workers, cancel, &progress)?;
    Ok((Depth::Everything, report))
}

fn tell(verified: &Verified, output: &mut Output) -> Result<()> {
    let id = &verified.id;
    let Some(report) = &verified.report else {
        let what = verified.error.as_deref().unwrap_or_default();
        let verdict = if verified.verdict == Verdict::Damaged { "DAMAGED" } else { "not readable" };
        return output.line(format!("{id}: {verdict}: {what}"));
    };
    let facts = format!(
        "{}, {}, archive {}",
        human::count(report.files, "file"),
        human::size(report.raw_bytes),
        human::size(report.stored_bytes)
    );
    if verified.verdict == Verdict::Intact {
        output.line(format!("{id}: stored bytes intact ({facts})"))?;
        output.line("  proved: size and SHA-256 of archive and manifest as stored are those of the label")?;
        return output.line(
            "  not proved: that it can be decrypted, and what is in it; it is encrypted: --identity FILE proves it",
        );
    }
    if report.damages.is_empty() {
        return output.line(format!("{id}: sound ({facts})"));
    }
    output.line(format!("{id}: DAMAGED in {} ({facts})", human::count(report.damages.len() as u64, "place")))?;
    report.damages.iter().try_for_each(|damage| output.line(format!("  {damage}")))
}

#[cfg(test)]
mod tests;
