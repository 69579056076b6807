//! A server with a write-ahead log, and a file system whose stamps tick: what settling is tested against.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::super::{Copied, Held, Rules, Settled};
use crate::archive::manifest::{EntryKind, FileClass};
use crate::datadir::inventory::{Found, Inventory, Key};
use crate::digest::Digest;
use crate::error::Result;
use crate::relpath::RelPath;
use crate::source::fingerprint::{Clock, Fingerprint, Stamp};

const TICK: Duration = Duration::from_millis(4);
/// Redo records that fit before the oldest is overwritten.
const SLOTS: usize = 8;
const REDO: &str = "ib_logfile0";
const PAGES: [&str; 3] = ["ibdata1", "db/a.ibd", "db/b.ibd"];
const TABLE: &str = "db/t.MYD";
const LOG: &str = "mysql/general_log.CSV";

pub(super) fn rules() -> Rules {
    Rules { max_passes: 40, redo_prefix: true, clock: Clock { tick: TICK, in_flight: Duration::ZERO } }
}

/// What the server can do between two looks.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// InnoDB changes a page: a redo record is written, the page on disk stays as it is.
    Change {
        file: u8,
        page: u8,
    },
    /// InnoDB writes the changed pages of a file.
    Flush {
        file: u8,
    },
    /// InnoDB moves its checkpoint as far as the pages on disk allow.
    Checkpoint,
    /// A byte of another engine's table, which keeps its size.
    Write {
        at: u8,
        byte: u8,
    },
    Grow,
    Shrink,
    Create {
        name: u8,
    },
    Delete {
        name: u8,
    },
    /// The table gets another inode with the same content and size, as `OPTIMIZE` does it.
    Replace,
    /// A row of the log table.
    Log,
    EmptyLog,
    /// Somebody sets the modification time of the table back.
    HideTheTime,
}

#[derive(Clone)]
struct Node {
    bytes: Vec<u8>,
    mtime: Stamp,
    ctime: Stamp,
}

#[derive(Clone, PartialEq)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    lsn: u8,
}

struct Inner {
    ns: u64,
    step_ns: u64,
    schedule: VecDeque<(u32, Op)>,
    names: BTreeMap<String, u64>,
    nodes: BTreeMap<u64, Node>,
    directories: BTreeMap<String, Stamp>,
    /// Which page each redo record changes; record n is `records[n - 1]`.
    records: Vec<(u8, u8)>,
    history: Vec<State>,
    /// The state in which the window began: copies that show an older one are outdated.
    frozen: usize,
}

#[derive(Clone)]
pub(super) struct World(Rc<RefCell<Inner>>);

impl Inner {
    fn stamp(&self) -> Stamp {
        let ns = self.ns - self.ns % TICK.as_nanos() as u64;
        Stamp { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }

    /// One look at the outside: time passes, and what is due happens.
    fn step(&mut self) {
        self.ns += self.step_ns;
        while let Some((left, _)) = self.schedule.front_mut() {
            if *left > 0 {
                *left -= 1;
                return;
            }
            if let Some((_, op)) = self.schedule.pop_front() {
                self.happen(&op);
                self.remember();
            }
        }
    }

    fn happen(&mut self, op: &Op) {
        match op {
            Op::Change { file, page } => self.change(*file, *page),
            Op::Flush { file } => self.flush(*file),
            Op::Checkpoint => self.checkpoint(),
            Op::Write { at, byte } => self.edit(TABLE, |bytes| {
                if let Some(there) = bytes.get_mut(usize::from(*at)) {
                    *there = *byte;
                }
            }),
            Op::Grow => self.edit(TABLE, |bytes| bytes.push(77)),
            Op::Shrink => self.edit(TABLE, |bytes| bytes.truncate(bytes.len().saturating_sub(1))),
            Op::Create { name } => self.create(&format!("db/n{name}.MYD"), vec![9, 9]),
            Op::Delete { name } => self.delete(&format!("db/n{name}.MYD")),
            Op::Replace => {
                let bytes = self.bytes(TABLE);
                self.delete(TABLE);
                self.create(TABLE, bytes);
            }
            Op::Log => self.edit(LOG, |bytes| bytes.push(b'l')),
            Op::EmptyLog => self.edit(LOG, Vec::clear),
            Op::HideTheTime => {
                let (stamp, ino) = (self.stamp(), self.names[TABLE]);
                if let Some(node) = self.nodes.get_mut(&ino) {
                    (node.mtime, node.ctime) = (Stamp { sec: 1, nsec: 1 }, stamp);
                }
            }
        }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.nodes[&self.names[name]].bytes.clone()
    }

    fn edit(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let (stamp, ino) = (self.stamp(), self.names[name]);
        let node = self.nodes.get_mut(&ino).unwrap();
        change(&mut node.bytes);
        (node.mtime, node.ctime) = (stamp, stamp);
    }

    fn create(&mut self, name: &str, bytes: Vec<u8>) {
        if !self.names.contains_key(name) {
            let (stamp, ino) = (self.stamp(), self.nodes.len() as u64 + 1);
            self.nodes.insert(ino, Node { bytes, mtime: stamp, ctime: stamp });
            self.names.insert(name.to_owned(), ino);
            self.touch_directory(name);
        }
    }

    fn delete(&mut self, name: &str) {
        if self.names.remove(name).is_some() {
            self.touch_directory(name);
        }
    }

    fn touch_directory(&mut self, name: &str) {
        if let Some((directory, _)) = name.split_once('/') {
            self.directories.insert(directory.to_owned(), self.stamp());
        }
    }

    fn change(&mut self, file: u8, page: u8) {
        let lsn = self.records.len() + 1;
        if lsn < 250 && lsn - usize::from(self.bytes(REDO)[0]) <= SLOTS {
            self.records.push((file, page));
            self.edit(REDO, |bytes| bytes[1 + (lsn - 1) % SLOTS] = lsn as u8);
        }
    }

    fn flush(&mut self, file: u8) {
        let pages = logical(&self.records, self.records.len());
        self.edit(PAGES[usize::from(file)], |bytes| bytes.copy_from_slice(&pages[usize::from(file)]));
    }

    fn checkpoint(&mut self) {
        let on_disk: Vec<Vec<u8>> = PAGES.iter().map(|name| self.bytes(name)).collect();
        let unflushed = |(at, (file, page)): (usize, &(u8, u8))| {
            (usize::from(on_disk[usize::from(*file)][usize::from(*page)]) < at + 1).then_some(at)
        };
        let reached = self.records.iter().enumerate().find_map(unflushed).unwrap_or(self.records.len());
        self.edit(REDO, |bytes| bytes[0] = reached as u8);
    }

    fn remember(&mut self) {
        let files = self.names.iter().map(|(name, ino)| (name.clone(), self.nodes[ino].bytes.clone())).collect();
        self.history.push(State { files, lsn: self.records.len() as u8 });
    }
}

/// All pages as they are once the first `count` records have been applied: each holds the number of its last record.
fn logical(records: &[(u8, u8)], count: usize) -> [[u8; 3]; 3] {
    let mut pages = [[0; 3]; 3];
    for (at, (file, page)) in records.iter().take(count).enumerate() {
        pages[usize::from(*file)][usize::from(*page)] = at as u8 + 1;
    }
    pages
}

impl World {
    pub(super) fn new(schedule: &[(u32, Op)], step_ns: u64) -> Self {
        let mut inner = Inner {
            ns: 1_000_500_000_000,
            step_ns,
            schedule: schedule.iter().cloned().collect(),
            names: BTreeMap::new(),
            nodes: BTreeMap::new(),
            directories: BTreeMap::new(),
            records: Vec::new(),
            history: Vec::new(),
            frozen: 0,
        };
        inner.create(REDO, vec![0; 1 + SLOTS]);
        PAGES.iter().for_each(|name| inner.create(name, vec![0; 3]));
        inner.create(TABLE, vec![0; 3]);
        inner.create(LOG, b"ll".to_vec());
        inner.create("db/n0.MYD", vec![5; 3]);
        inner.remember();
        inner.ns += 1_001_000_000; // all that is old by now
        Self(Rc::new(RefCell::new(inner)))
    }

    /// The window begins.
    pub(super) fn freeze(&self) {
        let mut world = self.0.borrow_mut();
        world.frozen = world.history.len() - 1;
    }

    /// Proves that `copies` restore to one instant of the window.
    pub(super) fn check(&self, settled: &Settled, copies: &BTreeMap<Key, Vec<u8>>) {
        let world = self.0.borrow();
        let mut copied: BTreeMap<String, Vec<u8>> =
            copies.iter().map(|((_, path), bytes)| (path.to_string(), bytes.clone())).collect();
        let listed = settled.inventory.files.iter().filter(|found| found.kind == EntryKind::File);
        let sizes: BTreeMap<String, u64> = listed.map(|found| (found.path.to_string(), found.print.size)).collect();
        let held = copied.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect();
        assert_eq!(sizes, held, "the inventory says what is held");

        copied.remove(LOG);
        let redo = copied.remove(REDO).unwrap();
        let (pages, reached) = recover(&redo, &copied, &world.records);
        assert_eq!(pages, logical(&world.records, usize::from(reached)), "recovery is exact");
        let same = |state: &State| {
            let mut files = state.files.clone();
            files.remove(LOG);
            let log = files.remove(REDO).unwrap();
            let prefix = !settled.grown.is_empty() && state.lsn <= reached && log[0] == redo[0];
            files == copied && (log == redo || prefix)
        };
        assert!(world.history[world.frozen..].iter().any(same), "the copies show no instant of the window");
    }
}

/// What a server makes of copied files: it applies the records after the checkpoint, until one is not the next.
fn recover(redo: &[u8], copied: &BTreeMap<String, Vec<u8>>, records: &[(u8, u8)]) -> ([[u8; 3]; 3], u8) {
    let mut pages = [[0; 3]; 3];
    for (file, name) in PAGES.iter().enumerate() {
        pages[file].copy_from_slice(&copied[*name]);
    }
    let mut lsn = redo[0];
    while redo[1 + usize::from(lsn) % SLOTS] == lsn + 1 {
        lsn += 1;
        let (file, page) = records[usize::from(lsn) - 1];
        let there = &mut pages[usize::from(file)][usize::from(page)];
        *there = lsn.max(*there);
    }
    (pages, lsn)
}

/// The model as [`super::super::Files`].
pub(super) struct Files(pub(super) World);

impl super::super::Files for Files {
    fn survey(&mut self) -> Result<Inventory> {
        let mut files = Vec::new();
        for directory in ["", "db", "mysql"] {
            let mut world = self.0.0.borrow_mut();
            world.step();
            if let Some(stamp) = world.directories.get(directory) {
                files.push(found(
                    directory,
                    EntryKind::Directory,
                    0,
                    &Node { bytes: Vec::new(), mtime: *stamp, ctime: *stamp },
                ));
            }
            let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
            world.step();
            let inside = |name: &&String| name.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/'));
            let names: Vec<String> = world.names.keys().filter(inside).cloned().collect();
            for name in names {
                world.step();
                if let Some(ino) = world.names.get(&name) {
                    files.push(found(&name, EntryKind::File, *ino, &world.nodes[ino]));
                }
            }
        }
        files.sort_by_key(|found| found.class);
        Ok(Inventory { files, ..Inventory::default() })
    }

    fn now(&self) -> Stamp {
        let ns = self.0.0.borrow().ns;
        Stamp { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }

    fn wait(&mut self, time: Duration) -> Result<()> {
        let mut world = self.0.0.borrow_mut();
        world.step();
        world.ns += time.as_nanos() as u64;
        world.step();
        Ok(())
    }
}

fn found(name: &str, kind: EntryKind, ino: u64, node: &Node) -> Found {
    let class = match name {
        _ if kind == EntryKind::Directory => FileClass::Directory,
        REDO => FileClass::Redo,
        LOG => FileClass::LogTable,
        _ if name.ends_with(".ibd") => FileClass::Innodb,
        "ibdata1" => FileClass::InnodbSystem,
        _ => FileClass::Other,
    };
    let head = (class == FileClass::Redo).then(|| Digest::of(&node.bytes[..1]));
    let (mtime, ctime) = (node.mtime, node.ctime);
    Found {
        root: 0,
        path: RelPath::new(name).unwrap(),
        kind,
        class,
        print: Fingerprint { dev: 1, ino, size: node.bytes.len() as u64, mtime, ctime, head },
        mode: 0o660,
        uid: 1,
        gid: 1,
        user: "mysql".into(),
        group: "mysql".into(),
        sparse: false,
    }
}

/// Copies in memory, made at once or, as by a pool of workers, in any order before the barrier.
pub(super) struct Copies {
    world: World,
    deferred: bool,
    begun: Vec<(Key, u64, u64)>,
    pub(super) copies: BTreeMap<Key, Vec<u8>>,
    short: Vec<Key>,
}

impl Copies {
    pub(super) fn new(world: World, deferred: bool) -> Self {
        Self { world, deferred, begun: Vec::new(), copies: BTreeMap::new(), short: Vec::new() }
    }

    fn read(&mut self, key: Key, ino: u64, size: u64) {
        let mut world = self.world.0.borrow_mut();
        let half = (size / 2) as usize;
        let part = |world: &Inner, from: usize, to: usize| {
            let bytes = &world.nodes[&ino].bytes;
            bytes.get(from..to.min(bytes.len())).unwrap_or_default().to_vec()
        };
        world.step();
        let mut bytes = part(&world, 0, half);
        world.step();
        bytes.extend(part(&world, half, size as usize));
        if (bytes.len() as u64) < size {
            bytes.resize(size as usize, 0);
            self.short.push(key.clone());
        }
        self.copies.insert(key, bytes);
    }
}

impl Held for Copies {
    fn copy(&mut self, found: &Found) -> Result<Copied> {
        if found.kind == EntryKind::Directory {
            return Ok(Copied::Begun);
        }
        self.world.0.borrow_mut().step();
        let there = self.world.0.borrow().names.get(&found.path.to_string()).copied();
        if there != Some(found.print.ino) {
            return Ok(Copied::Vanished);
        }
        let (key, ino, size) = (found.key(), found.print.ino, found.print.size);
        if self.deferred {
            self.begun.push((key, ino, size))
        } else {
            self.read(key, ino, size)
        }
        Ok(Copied::Begun)
    }

    fn drop_copy(&mut self, key: &Key) -> Result<()> {
        self.copies.remove(key);
        Ok(())
    }

    fn barrier(&mut self) -> Result<Vec<Key>> {
        while let Some((key, ino, size)) = self.begun.pop() {
            self.read(key, ino, size);
        }
        Ok(std::mem::take(&mut self.short))
    }
}
