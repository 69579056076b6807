//! What the operator is told at the end of a restore.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::plan::{Plan, Purpose};
use crate::archive::label::Label;
use crate::archive::manifest::Manifest;
use crate::command::output::Output;
use crate::command::{Context, human};
use crate::error::Result;
use crate::relpath::escape;

/// The document of `restore --json`.
#[derive(Serialize)]
struct Document<'a> {
    id: &'a crate::archive::label::BackupId,
    gtid: crate::gtid::Gtid,
    target: String,
    roots: Vec<Place<'a>>,
    purpose: Purpose,
    files: u64,
    bytes: u64,
    seconds: f64,
    warnings: &'a [String],
    next: Vec<String>,
}

#[derive(Serialize)]
struct Place<'a> {
    name: &'a str,
    path: String,
}

/// Prints what was restored and what to do next.
pub(super) fn report(
    label: &Label,
    manifest: &Manifest,
    plan: &Plan,
    purpose: Purpose,
    targets: &[Option<PathBuf>],
    context: &Context<'_>,
    output: &mut Output,
) -> Result<()> {
    let target = targets.first().and_then(Option::as_deref).unwrap_or(Path::new(""));
    let entries = || plan.chosen.iter().filter_map(|index| manifest.files.get(*index));
    let files = entries().filter(|entry| entry.kind == crate::archive::manifest::EntryKind::File).count();
    let files = (files + plan.own.len()) as u64;
    let bytes = entries().map(|entry| entry.size).fold(0, u64::saturating_add);
    let time = human::between(context.now, crate::sys::now());
    let next = next(label, target, purpose);

    let roots = manifest.roots.iter().zip(targets).filter_map(|(root, path)| {
        Some(Place { name: root.name.as_str(), path: shown(path.as_deref()?) })
    });
    let roots: Vec<Place<'_>> = roots.collect();
    for root in roots.iter().skip(1) {
        output.line(format!("{} is in {}", root.name, root.path))?;
    }
    for warning in &manifest.warnings {
        output.line(format!("note: {warning}"))?;
    }
    let (count, size, took) = (human::count(files, "file"), human::size(bytes), human::duration(time));
    output.line(format!("restored {count}, {size}, to {} in {took}", shown(target)))?;
    next.iter().try_for_each(|line| output.line(line))?;
    output.json(&Document {
        id: &label.id,
        gtid: label.gtid,
        target: shown(target),
        roots,
        purpose,
        files,
        bytes,
        seconds: time.as_secs_f64(),
        warnings: &manifest.warnings,
        next,
    })
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// The three lines that the operator needs next.
fn next(label: &Label, target: &Path, purpose: Purpose) -> Vec<String> {
    let (target, seqno, cluster) = (shown(target), label.gtid.seqno, &label.cluster);
    let first = label.gtid.seqno.saturating_add(1);
    let lines = match purpose {
        Purpose::Join => [
            format!("1. start the server with its own configuration and datadir={target} (systemctl start mariadb)"),
            format!("2. it joins {cluster:?} by IST from write set {first} if a node still caches that, else by a full SST"),
            "3. it is in the cluster when SHOW STATUS LIKE 'wsrep_local_state_comment' says Synced".to_owned(),
        ],
        Purpose::Bootstrap => [
            format!("1. make sure that no other node of {cluster:?} runs or has newer data: this one begins anew at {seqno}"),
            format!("2. start it as the first node, with datadir={target}: galera_new_cluster (or mysqld --wsrep-new-cluster)"),
            "3. start the other nodes when SHOW STATUS LIKE 'wsrep_cluster_status' says Primary".to_owned(),
        ],
        Purpose::Standalone => [
            format!("1. start a server with datadir={target} and wsrep_on=OFF; it knows nothing of a cluster"),
            format!("2. the data is that of {} (UTC), position {seqno}", crate::command::human::utc(label.started)),
            "3. drop accounts that a running SST may have left: SELECT user FROM mysql.user WHERE user LIKE 'wsrep.sst.%'"
                .to_owned(),
        ],
    };
    lines.into()
}
