//! Settling: copy until a whole pass finds nothing changed, which proves that all copies show one instant.
//!
//! # Why that is a proof
//!
//! A pass first takes the fingerprint of every file (the survey), waits until the last changes are old enough to be told
//! from new ones, then copies those files whose fingerprint is not the one under which they were last copied. Let the
//! survey of pass *k* find nothing to copy. A file that was fingerprinted and then copied in an earlier pass has the same
//! fingerprint in survey *k*. A change after the copy began would have stamped it differently, because it was not young
//! then (see [`super::fingerprint`]); so the file did not change from that moment until survey *k*, and the copy is what
//! it held all that time. All these times contain the end of the copying in pass *k − 1*: at that instant all files held
//! what was copied. No file came or went between the surveys either: it would be new or missing in survey *k*, or its
//! directory would be stamped differently. A directory is "copied" by being listed, hence its youth counts from the
//! survey. (The top of a root is not compared, only what is in it: the server makes and removes marker files there all
//! the time. No table lives there.)
//!
//! # The one exception: a redo log that only grew
//!
//! A rollback of an old transaction writes redo inside the frozen window. The last copy is accepted although a redo file
//! changed after it, if
//!
//! 1. nothing but redo files changed, none came, none went;
//! 2. their heads — header and checkpoints, compared by content — are as they were before the copy, none is shorter;
//! 3. the copy was begun when the last copies of all other files, of every engine, were complete.
//!
//! Let *t* be the instant at which that redo copy began. By 3 and the proof above, all other files held at *t* what was
//! copied. By 2 the checkpoint did not move from before *t* until now, so nothing that a recovery from it reads was
//! overwritten: after *t* the server only appended. The copy therefore holds every record from the checkpoint up to *t*,
//! then perhaps a part of what was appended while we read, which ends for recovery where the first block or
//! mini-transaction fails its checksum or sequence. Pages are written after their redo (write-ahead logging), and the
//! pages we hold were on disk at *t*: no page is ahead of the copied log. That is the disk of a server that lost power at
//! *t* or a moment later, from which recovery is exact. What was appended is not a commit: those are held off.
//! With the log copied *before* a page (MariaDB's own rsync script does so) the page is from the log's future, and with a
//! checkpoint in between recovery skips records whose pages we do not hold: hence 2 and 3.

use std::collections::HashMap;
use std::time::Duration;

use tracing::{debug, info};

use super::fingerprint::{Clock, Stamp};
use crate::archive::manifest::{EntryKind, FileClass};
use crate::cancel::Cancel;
use crate::datadir::inventory::{Found, Inventory, Key};
use crate::error::{Class, Error, Result};

/// How many changing files an error names.
const NAMED: usize = 10;

/// The files to be copied, and the clock that stamps them.
pub trait Files {
    /// Looks at every file; fingerprints are taken before this returns.
    fn survey(&mut self) -> Result<Inventory>;

    /// The time by the clock that stamps files.
    fn now(&self) -> Stamp;

    /// Lets `time` pass.
    fn wait(&mut self, time: Duration) -> Result<()>;
}

/// Where copies are held.
pub trait Held {
    /// Begins to copy a directory or file, as many bytes as its fingerprint says; takes the place of an earlier copy.
    fn copy(&mut self, found: &Found) -> Result<Copied>;

    /// Forgets the copy of a file that is gone.
    fn drop_copy(&mut self, key: &Key) -> Result<()>;

    /// Returns when all copies that were begun are complete: with those that must be made again, because the file was
    /// shorter than announced or because it has to be copied in another way.
    fn barrier(&mut self) -> Result<Vec<Key>>;

    /// Returns when nothing of the copies so far is left to be done.
    fn rest(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether this file is held without being read.
    fn is_cloned(&self, _found: &Found) -> bool {
        false
    }

    /// Whether copying this file waits for every write that was begun before: then [`Clock::in_flight`] does not matter.
    fn waits_for_writes(&self, _found: &Found) -> bool {
        false
    }
}

/// Whether there was something to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The copy was begun.
    Begun,
    /// The file is gone, or another one has its name.
    Vanished,
}

/// What settling may cost, and what it may accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Passes after which files that still change fail the run.
    pub max_passes: u32,
    /// Whether a redo log that only grew is settled (see the head of this file).
    pub redo_prefix: bool,
    /// How far the files' change times can be trusted.
    pub clock: Clock,
}

impl Rules {
    /// For copies that are read while the server is frozen.
    ///
    /// A page on its way to the disk was stamped when its write began, and reading does not wait for it. A fifth of a
    /// second is more than a write takes on a disk that anybody runs a database on; a write that hangs for longer while its
    /// stamp stands is not seen.
    pub fn locked() -> Self {
        Self { max_passes: 30, redo_prefix: true, clock: Clock::new(Duration::from_millis(200)) }
    }
}

/// Copies that show one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The files as copied: the last survey, with the fingerprints under which the copies were made.
    pub inventory: Inventory,
    /// Passes made, the last one, which found nothing, included.
    pub passes: u32,
    /// Bytes copied.
    pub copied_bytes: u64,
    /// Those of them that were copied because an earlier copy was outdated.
    pub copied_again_bytes: u64,
    /// Redo files that grew after their copy, by the rule in the head of this file.
    pub grown: Vec<Key>,
    /// Log tables: copied last, exempt from settling.
    pub exempt: Vec<Key>,
}

/// Copies the files into `held` until all copies show one instant.
///
/// # Errors
///
/// [`Class::Unsettled`] if files still change after the last allowed pass; whatever `files`, `held` and `cancel` say.
pub fn settle(files: &mut dyn Files, held: &mut dyn Held, rules: &Rules, cancel: &Cancel) -> Result<Settled> {
    Settling::new(held, rules, cancel).settle(files)
}

/// What one pass before the window did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Bytes that the pass copied.
    pub copied_bytes: u64,
    /// Bytes of the files that are to be copied before the window, and not yet.
    pub later_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// When a file is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// In this pass.
    Now,
    /// In a later one before the window, if there is one.
    Later,
    /// Inside the window, or in another way.
    Never,
}

/// What a survey shows to be different from the copies: indices into the inventory, and keys of the ledger.
struct Difference {
    changed: Vec<usize>,
    gone: Vec<Key>,
}

/// A copy that is held.
struct Copy {
    /// The file as it was before it was copied.
    found: Found,
    /// When it was copied: copies of a smaller turn were complete before this one began.
    turn: u64,
    /// The file was young when it was copied: the copy may be outdated already.
    young: bool,
    /// The file was shorter than announced, or has to be copied in another way.
    short: bool,
    /// The number of the last survey that showed the file.
    seen: u64,
}

/// Copies on their way to one instant, with the ledger of what was copied under which fingerprint.
pub struct Settling<'a> {
    held: &'a mut dyn Held,
    rules: &'a Rules,
    cancel: &'a Cancel,
    ledger: HashMap<Key, Copy>,
    /// When the last survey began.
    asked: Stamp,
    surveys: u64,
    turn: u64,
    copied: u64,
    copied_again: u64,
}

impl<'a> Settling<'a> {
    /// Nothing is copied yet.
    pub fn new(held: &'a mut dyn Held, rules: &'a Rules, cancel: &'a Cancel) -> Self {
        Self {
            held,
            rules,
            cancel,
            ledger: HashMap::new(),
            asked: Stamp::default(),
            surveys: 0,
            turn: 0,
            copied: 0,
            copied_again: 0,
        }
    }

    /// Copies what is `worth` it before the files are held still, in one pass; what it found out. `None` if the files
    /// could not be looked at, which while they move says nothing.
    ///
    /// Nothing is proved by this: it is [`settle`](Self::settle) that finds out what changed since.
    pub fn copy_ahead(
        &mut self,
        files: &mut dyn Files,
        worth: &dyn Fn(&Found, Stamp, &dyn Held) -> Worth,
    ) -> Result<Option<Ahead>> {
        self.cancel.check()?;
        self.asked = files.now();
        let inventory = match files.survey() {
            Ok(inventory) => inventory,
            Err(cause) => {
                self.cancel.check()?;
                debug!(%cause, "the files moved while they were looked at");
                return Ok(None);
            }
        };
        let mut difference = self.compare(&inventory);
        let mut later_bytes = 0;
        difference.changed.retain(|at| {
            let Some(found) = inventory.files.get(*at) else { return false };
            let worth = worth(found, self.asked, &*self.held);
            if worth == Worth::Later {
                later_bytes += found.bytes();
            }
            worth == Worth::Now
        });
        for key in &difference.gone {
            self.forget(key)?;
        }
        let before = self.copied;
        let changed: Vec<&Found> = difference.changed.iter().filter_map(|at| inventory.files.get(*at)).collect();
        self.copy_turn(files, &changed)?;
        let (copied_bytes, total_bytes) = (self.copied - before, inventory.total_bytes());
        Ok(Some(Ahead { copied_bytes, later_bytes, total_bytes }))
    }

    /// Returns when nothing of the copies so far is left to be done: the window's own would wait behind it.
    pub fn rest(&mut self) -> Result<()> {
        self.held.rest()
    }

    /// Copies the files until all copies show one instant; see [`settle`].
    pub fn settle(mut self, files: &mut dyn Files) -> Result<Settled> {
        let mut names = Vec::new();
        // One pass to copy and one to prove it are the least.
        let max_passes = self.rules.max_passes.max(2);
        for pass in 1..=max_passes {
            self.cancel.check()?;
            self.asked = files.now();
            let inventory = files.survey()?;
            let difference = self.compare(&inventory);
            debug!(pass, changed = difference.changed.len(), gone = difference.gone.len(), "survey");
            if let Some(grown) = self.settled(&inventory, &difference) {
                return self.finish(files, inventory, pass, grown);
            }
            if pass > 1 {
                names = difference.names(&inventory);
                info!("changed while they were copied: {}", list(&names));
            }
            self.copy_all(files, &inventory, &difference)?;
        }
        Err(unsettled(max_passes, &names))
    }

    fn compare(&mut self, inventory: &Inventory) -> Difference {
        let mut changed = Vec::new();
        self.surveys += 1;
        for (at, found) in inventory.files.iter().enumerate() {
            if found.class == FileClass::LogTable {
                continue;
            }
            let copy = self.ledger.get_mut(&found.key());
            let is_good = copy.is_some_and(|copy| {
                copy.seen = self.surveys;
                same_state(&copy.found, found) && !copy.young && !copy.short
            });
            if !is_good {
                changed.push(at);
            }
        }
        let unseen = self.ledger.iter().filter(|(_, copy)| copy.seen != self.surveys);
        let mut gone: Vec<Key> = unseen.map(|(key, _)| key.clone()).collect();
        gone.sort();
        Difference { changed, gone }
    }

    /// Whether the copies show one instant: then with the redo files that grew since.
    fn settled(&self, inventory: &Inventory, difference: &Difference) -> Option<Vec<Key>> {
        if !difference.gone.is_empty() {
            return None;
        }
        let others = self.ledger.values().filter(|copy| copy.found.class != FileClass::Redo);
        let complete = others.map(|copy| copy.turn).max().unwrap_or(0);
        let grew = |found: &Found| {
            let copy = self.ledger.get(&found.key())?;
            let only_grew = found.class == FileClass::Redo && !copy.short && copy.found.print.grew_into(&found.print);
            (self.rules.redo_prefix && only_grew && copy.turn > complete).then(|| found.key())
        };
        difference.changed.iter().map(|at| inventory.files.get(*at).and_then(grew)).collect()
    }

    /// Copies what is different: the redo log when everything else is complete.
    fn copy_all(&mut self, files: &mut dyn Files, inventory: &Inventory, difference: &Difference) -> Result<()> {
        for key in &difference.gone {
            self.forget(key)?;
        }
        let mut changed: Vec<&Found> = difference.changed.iter().filter_map(|at| inventory.files.get(*at)).collect();
        // While the old ones are copied the young ones grow old.
        let now = files.now();
        changed.sort_by_key(|found| self.until_old(found, now));
        let (redo, others): (Vec<&Found>, Vec<&Found>) =
            changed.iter().partition(|found| found.class == FileClass::Redo);
        self.copy_turn(files, &others)?;
        self.copy_turn(files, &redo)?;
        // A directory is as old as the next survey finds it.
        let directories = changed.iter().filter(|found| found.kind == EntryKind::Directory);
        match directories.filter_map(|found| self.until_old(found, files.now())).max() {
            Some(time) => files.wait(time),
            None => Ok(()),
        }
    }

    /// Copies `batch`; all copies are complete when it returns, with those that are shorter than they should be.
    /// A file that is young is waited for; a pass before the window has none.
    fn copy_turn(&mut self, files: &mut dyn Files, batch: &[&Found]) -> Result<Vec<Key>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        self.turn += 1;
        for found in batch {
            self.cancel.check()?;
            // What is in a directory was copied, so to speak, by the survey that listed it.
            let directory = found.kind == EntryKind::Directory;
            // A log table never grows old, and need not.
            let waits = !directory && found.class != FileClass::LogTable;
            if let Some(time) = self.until_old(found, files.now()).filter(|_| waits) {
                files.wait(time)?;
            }
            let copied = if directory { self.asked } else { files.now() };
            let young = self.until_old(found, copied).is_some();
            self.copy(found, young)?;
        }
        let short = self.held.barrier()?;
        for key in &short {
            if let Some(copy) = self.ledger.get_mut(key) {
                copy.short = true;
            }
        }
        Ok(short)
    }

    fn copy(&mut self, found: &Found, young: bool) -> Result<()> {
        let key = found.key();
        let known = self.ledger.get(&key);
        let again = known.is_some();
        // What comes and goes in a directory changes its stamps; its own copy says only whose it is.
        let noted = found.kind == EntryKind::Directory && known.is_some_and(|copy| same_owner(&copy.found, found));
        if !noted && self.held.copy(found)? == Copied::Vanished {
            return if again { self.forget(&key) } else { Ok(()) };
        }
        self.copied = self.copied.saturating_add(found.bytes());
        if again {
            self.copied_again = self.copied_again.saturating_add(found.bytes());
        }
        let copy = Copy { found: found.clone(), turn: self.turn, young, short: false, seen: self.surveys };
        self.ledger.insert(key, copy);
        Ok(())
    }

    fn forget(&mut self, key: &Key) -> Result<()> {
        self.ledger.remove(key);
        self.held.drop_copy(key)
    }

    fn until_old(&self, found: &Found, now: Stamp) -> Option<Duration> {
        let mut clock = self.rules.clock;
        if found.kind == EntryKind::Directory || self.held.waits_for_writes(found) {
            // Entries come and go under the directory's lock: there is no write under way.
            clock.in_flight = Duration::ZERO;
        }
        clock.until_old(&found.print, now)
    }

    /// Copies the log tables, and puts together what the copies are.
    fn finish(
        mut self,
        files: &mut dyn Files,
        mut inventory: Inventory,
        passes: u32,
        grown: Vec<Key>,
    ) -> Result<Settled> {
        self.copy_log_tables(files, &inventory)?;
        let mut ledger = std::mem::take(&mut self.ledger);
        let copied = inventory.files.iter().filter_map(|found| ledger.remove(&found.key()));
        inventory.files = copied.map(|copy| copy.found).collect();
        let exempt = inventory.files.iter().filter(|found| found.class == FileClass::LogTable).map(Found::key);
        Ok(Settled {
            exempt: exempt.collect(),
            inventory,
            passes,
            copied_bytes: self.copied,
            copied_again_bytes: self.copied_again,
            grown,
        })
    }

    /// Copies the log tables once; again only those that were shorter than announced, because somebody emptied them.
    fn copy_log_tables(&mut self, files: &mut dyn Files, inventory: &Inventory) -> Result<()> {
        let mut wanted: Vec<Found> = log_tables(inventory).cloned().collect();
        for _ in 0..self.rules.max_passes {
            let short = self.copy_turn(files, &wanted.iter().collect::<Vec<_>>())?;
            if short.is_empty() {
                return Ok(());
            }
            let seen = files.survey()?;
            for key in &short {
                if !log_tables(&seen).any(|found| found.key() == *key) {
                    self.forget(key)?;
                }
            }
            wanted = log_tables(&seen).filter(|found| short.contains(&found.key())).cloned().collect();
        }
        let names: Vec<String> = wanted.iter().map(|found| inventory.name(&found.key())).collect();
        Err(unsettled(self.rules.max_passes, &names))
    }
}

impl Difference {
    /// The files' names, in the order of the inventory.
    fn names(&self, inventory: &Inventory) -> Vec<String> {
        let changed = self.changed.iter().filter_map(|at| inventory.files.get(*at)).map(Found::key);
        changed.chain(self.gone.iter().cloned()).map(|key| inventory.name(&key)).collect()
    }
}

fn log_tables(inventory: &Inventory) -> impl Iterator<Item = &Found> {
    inventory.files.iter().filter(|found| found.class == FileClass::LogTable)
}

/// Whether nothing happened to the file between the two looks. Holes are no state: they move when a write is flushed.
fn same_state(one: &Found, other: &Found) -> bool {
    one.print == other.print && one.class == other.class && same_owner(one, other)
}

fn same_owner(one: &Found, other: &Found) -> bool {
    (one.mode, one.uid, one.gid) == (other.mode, other.uid, other.gid)
}

fn unsettled(passes: u32, names: &[String]) -> Error {
    Error::new(Class::Unsettled, format!("in {passes} passes the files never stood still: {} kept changing", list(names)))
        .hint("the frozen server still writes: roll back or end old transactions before a backup, and look who else writes there")
}

/// The first names, and how many more there are.
fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("\"{name}\"")).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests;
