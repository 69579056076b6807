//! `show`: everything that is known about one backup.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use serde::Serialize;

use super::output::{Align, Output, Table};
use super::{Context, human};
use crate::archive::label::Label;
use crate::archive::manifest::{EntryKind, Excluded, FileClass, Manifest, Root};
use crate::archive::seal::Seal;
use crate::cli::ShowArgs;
use crate::error::Result;
use crate::relpath::escape;

/// The document of `show --json`.
#[derive(Serialize)]
struct Document<'a> {
    directory: String,
    label: &'a Label,
    /// None of an encrypted backup whose key was not given; so are the others.
    roots: Option<&'a [Root]>,
    classes: Option<Vec<ClassSum>>,
    excluded: Option<&'a [Excluded]>,
    warnings: Option<&'a [String]>,
    frames: Option<usize>,
}

/// The files of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ClassSum {
    class: FileClass,
    files: u64,
    bytes: u64,
}

/// Prints the label and what the manifest adds to it.
pub fn run(args: &ShowArgs, context: &Context<'_>, output: &mut Output) -> Result<()> {
    let label = context.repository.label(&context.repository.resolve(&args.id)?)?;
    let closed = label.seal() == Seal::Age && context.keys.is_empty();
    let manifest = if closed { None } else { Some(context.manifest(&label)?) };
    let manifest = manifest.as_ref();
    let classes = manifest.map(classes);
    let directory = context.repository.place_of(&label.id);
    output.json(&Document {
        directory: directory.clone(),
        label: &label,
        roots: manifest.map(|manifest| &*manifest.roots),
        classes: classes.clone(),
        excluded: manifest.map(|manifest| &*manifest.excluded),
        warnings: manifest.map(|manifest| &*manifest.warnings),
        frames: manifest.map(|manifest| Ok(manifest.frames()?.len())).transpose()?,
    })?;
    for (name, value) in facts(&label, directory, context.now) {
        output.line(format!("{name:<14}{value}"))?;
    }
    let (Some(manifest), Some(classes)) = (manifest, classes) else {
        output.line("")?;
        return output.line("what is in it is encrypted: --identity FILE shows it");
    };
    print_roots(manifest, output)?;
    print_classes(&classes, output)?;
    print_excluded(manifest, output)?;
    manifest.warnings.iter().try_for_each(|warning| output.line(format!("warning: {warning}")))
}

fn facts(label: &Label, directory: String, now: jiff::Timestamp) -> Vec<(&'static str, String)> {
    let ms = |ms| human::duration(Duration::from_millis(ms));
    let level = label.codec.level().map_or_else(String::new, |level| format!(" level {level}"));
    let (raw, stored) = (label.raw_bytes, label.archive.bytes);
    let mut facts = vec![
        ("backup", label.id.to_string()),
        ("directory", directory),
        ("seqno", label.gtid.seqno.to_string()),
        ("history", label.gtid.uuid.to_string()),
        ("cluster", label.cluster.clone()),
        ("node", label.node.clone()),
    ];
    let optional = [
        ("gtid domain", label.gtid_domain.map(|domain| domain.to_string())),
        ("server", label.server_version.clone()),
        ("binlog", label.binlog.as_ref().map(|log| format!("{} at {}", log.file, log.position))),
        ("request", label.request.clone()),
    ];
    facts.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let age = human::duration(human::between(label.started, now));
    facts.extend([
        ("started", format!("{} UTC ({age} ago)", human::utc(label.started))),
        ("finished", format!("{} UTC", human::utc(label.finished))),
        ("took", human::duration(human::between(label.started, label.finished))),
        ("frozen", format!("{} (after a flush of {})", ms(label.frozen_ms), ms(label.flush_ms))),
        (
            "settled",
            format!("after {} passes, {} copied again", label.settle_passes, human::size(label.copied_again_bytes)),
        ),
        ("files", human::thousands(label.files)),
        ("data", format!("{} ({} bytes)", human::size(raw), human::thousands(raw))),
        ("stored", format!("{} ({}{level}, {})", human::size(stored), label.codec.name(), human::ratio(raw, stored))),
        ("SHA-256", format!("{} of {}", label.archive.sha256, label.archive.name)),
    ]);
    facts.extend(label.recipients.iter().map(|recipient| ("encrypted to", recipient.to_string())));
    facts.push(("made by", format!("wsrep_sst_backup {}", label.program_version)));
    facts
}

fn print_roots(manifest: &Manifest, output: &mut Output) -> Result<()> {
    let mut table = Table::new(&[("ROOT", Align::Left), ("KIND", Align::Left), ("ON THE DONOR", Align::Left)]);
    for root in &manifest.roots {
        table.row([root.name.to_string(), word(&root.kind), escape(root.path.as_os_str().as_bytes())]);
    }
    output.line("")?;
    output.table(&table)
}

fn classes(manifest: &Manifest) -> Vec<ClassSum> {
    let mut sums: BTreeMap<FileClass, ClassSum> = BTreeMap::new();
    for entry in manifest.files.iter().filter(|entry| entry.kind == EntryKind::File) {
        let sum = sums.entry(entry.class).or_insert(ClassSum { class: entry.class, files: 0, bytes: 0 });
        sum.files += 1;
        sum.bytes = sum.bytes.saturating_add(entry.size);
    }
    sums.into_values().collect()
}

fn print_classes(classes: &[ClassSum], output: &mut Output) -> Result<()> {
    let mut table = Table::new(&[("FILES OF CLASS", Align::Left), ("FILES", Align::Right), ("DATA", Align::Right)]);
    for sum in classes {
        table.row([word(&sum.class), human::thousands(sum.files), human::size(sum.bytes)]);
    }
    output.line("")?;
    output.table(&table)
}

fn print_excluded(manifest: &Manifest, output: &mut Output) -> Result<()> {
    if manifest.excluded.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[("LEFT OUT", Align::Left), ("BECAUSE", Align::Left)]);
    for excluded in &manifest.excluded {
        let root = manifest.root(excluded.root)?;
        let path =
            if excluded.root == 0 { excluded.path.to_string() } else { format!("{}:{}", root.name, excluded.path) };
        table.row([path, excluded.reason.clone()]);
    }
    output.line("")?;
    output.table(&table)
}

/// The word that a value has in JSON.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::fixture::{GTID, ID, Lab, printed};

    fn args() -> ShowArgs {
        ShowArgs { id: "latest".to_owned(), ..ShowArgs::default() }
    }

    #[test]
    fn show_tells_position_roots_classes_and_what_was_left_out() {
        let lab = Lab::small();
        let (result, text) = printed(false, |output| run(&args(), &lab.context(), output));
        result.unwrap();
        for word in
            [ID, "77", "2 h 00 min ago", "/var/lib/mysql", "innodb-system", "galera.cache", "warning: the engine"]
        {
            assert!(text.contains(word), "{word} is not in:\n{text}");
        }
    }

    #[test]
    fn json_has_the_same_facts() {
        let lab = Lab::small();
        let (result, text) = printed(true, |output| run(&args(), &lab.context(), output));
        result.unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["label"]["gtid"], GTID);
        assert_eq!(json["roots"][0]["path"], "/var/lib/mysql");
        assert_eq!(json["excluded"][0]["path"], "galera.cache");
        assert_eq!(
            json["classes"].as_array().unwrap().iter().find(|sum| sum["class"] == "redo").unwrap()["bytes"],
            100_000
        );
    }
}
