//! `restore`: a data directory out of a backup, checked while it is written, whole or not at all.

pub mod owner;
pub mod plan;
pub mod site;
pub mod stage;
pub mod tree;

mod finish;
pub mod stages;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::owner::Owners;
use self::plan::{Plan, Purpose, Wish};
use self::stages::Stages;
use self::tree::Tree;
use super::Context;
use super::output::Output;
use crate::archive::decode::{self, PieceSink};
use crate::archive::label::Label;
use crate::archive::manifest::Manifest;
use crate::archive::progress::Progress;
use crate::archive::read_at::ReadAt;
use crate::archive::seal::Archive;
use crate::cli::RestoreArgs;
use crate::command::check_length;
use crate::error::Result;
use crate::monitor::bar::Bar;

/// Restores one backup. On any error the targets are as they were.
pub fn run(args: &RestoreArgs, context: &Context<'_>, output: &mut Output) -> Result<()> {
    let label = context.repository.label(&context.repository.resolve(&args.id)?)?;
    let manifest = context.manifest(&label)?;
    let wish = Wish {
        target: &args.target,
        roots: &args.roots,
        purpose: purpose(args),
        without_binlogs: args.without_binlogs,
    };
    let plan = Plan::new(&manifest, &wish, context.cancel)?;
    let owners = Owners::resolve(&manifest, args.owner.as_deref())?;
    let stored = context.repository.open_archive(&label)?;
    check_length(&label, &*stored)?;
    let archive = Archive::open(&*stored, &label, context.keys)?;

    let stages = Stages::prepare(&manifest, &plan, context.repository.local_path())?;
    announce(&label, &owners, output)?;
    let tree = Tree::new(&manifest, &owners, stages.dirs()?);
    fill(&tree, &plan, context, output, &manifest, &archive)?;
    tree.finish(&plan.chosen, context.cancel)?;
    context.cancel.check()?;
    stages.sync()?;
    let targets = stages.publish(&manifest, &owners)?;
    finish::report(&label, &manifest, &plan, wish.purpose, &targets, context, output)
}

fn purpose(args: &RestoreArgs) -> Purpose {
    match (args.bootstrap, args.standalone) {
        (true, _) => Purpose::Bootstrap,
        (_, true) => Purpose::Standalone,
        _ => Purpose::Join,
    }
}

fn announce(label: &Label, owners: &Owners, output: &mut Output) -> Result<()> {
    output.line(format!("restoring {} of node {} at {}", label.id, label.node, label.gtid))?;
    match owners {
        Owners::Caller => output.line("not root: the files will belong to you, whoever owned them on the donor"),
        Owners::Fixed(..) | Owners::Donor { .. } => Ok(()),
    }
}

fn fill(
    tree: &Tree<'_>,
    plan: &Plan,
    context: &Context<'_>,
    output: &Output,
    manifest: &Manifest,
    archive: &dyn ReadAt,
) -> Result<()> {
    let mut wanted = vec![false; manifest.files.len()];
    let progress = Arc::new(Progress::default());
    for index in &plan.chosen {
        if let (Some(flag), Some(entry)) = (wanted.get_mut(*index), manifest.files.get(*index)) {
            *flag = true;
            progress.add_total(entry.size);
        }
    }
    tree.begin(&plan.chosen, context.cancel)?;
    for (root, path, to) in &plan.links {
        context.cancel.check()?;
        tree.link(*root, path, to)?;
    }
    for own in &plan.own {
        context.cancel.check()?;
        if let Some(like) = manifest.files.get(own.like) {
            tree.write_own(own.root, &own.path, &own.bytes, like)?;
        }
    }
    let _bar = Bar::start(output.may_draw(), "restoring", &progress);
    let wanted = |index: usize| wanted.get(index).copied().unwrap_or(false);
    decode::restore(archive, manifest, &wanted, tree, context.workers, context.cancel, &progress)
}

impl PieceSink for Tree<'_> {
    fn write(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_piece(file, offset, bytes)
    }
}
