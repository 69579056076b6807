//! What a restore will write and where, decided from the manifest before anything is written.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::manifest::{Entry, EntryKind, FileClass, Manifest, Referrer, ReferrerKind, Root, RootKind};
use crate::cancel::Cancel;
use crate::cli::RootMapping;
use crate::error::{Class, Error, Result};
use crate::relpath::{RelPath, shell_word};
use crate::wsrep::grastate;

/// The deepest path that is restored: no server nests its files like that, and taking back must be able to follow.
const DEEPEST: usize = 48;

/// What the restored directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A node that joins its cluster.
    Join,
    /// The first node of a new cluster.
    Bootstrap,
    /// A server without a cluster.
    Standalone,
}

/// What the operator decided.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The new data directory.
    pub target: &'a Path,
    /// Where other roots go.
    pub roots: &'a [RootMapping],
    /// What it is for.
    pub purpose: Purpose,
    /// Binary logs are left out.
    pub without_binlogs: bool,
}

/// What will be written.
#[derive(Debug)]
pub struct Plan {
    /// For each root of the manifest its new place, absolute; none where the root is left out.
    pub targets: Vec<Option<PathBuf>>,
    /// The entries that come out of the archive, as indices into [`Manifest::files`].
    pub chosen: Vec<usize>,
    /// Files that restore writes itself.
    pub own: Vec<OwnFile>,
    /// Symbolic links: the root, the path below it, what it points to.
    pub links: Vec<(u32, RelPath, PathBuf)>,
}

/// A file that restore writes itself.
#[derive(Debug)]
pub struct OwnFile {
    /// The root, as an index into [`Manifest::roots`].
    pub root: u32,
    /// The path below the root.
    pub path: RelPath,
    /// The contents.
    pub bytes: Arc<[u8]>,
    /// The entry whose owner, mode and time it gets.
    pub like: usize,
}

impl Plan {
    /// Decides; nothing is written, and what cannot work is an error.
    pub fn new(manifest: &Manifest, wish: &Wish<'_>, cancel: &Cancel) -> Result<Self> {
        let targets = targets(manifest, wish)?;
        let own = own_files(manifest, wish, &targets, cancel)?;
        let links = links(manifest, &targets);
        own.iter().map(|file| &file.path).chain(links.iter().map(|(_, path, _)| path)).try_for_each(check_depth)?;
        let own_names: HashSet<(u32, &RelPath)> = own.iter().map(|file| (file.root, &file.path)).collect();
        let replaced = |entry: &Entry| is_grastate(entry) || own_names.contains(&(entry.root, &entry.path));
        let mut chosen = Vec::with_capacity(manifest.files.len());
        for (index, entry) in manifest.files.iter().enumerate() {
            cancel.check()?;
            check_depth(&entry.path)?;
            let left_out = targets.get(entry.root as usize).is_none_or(Option::is_none)
                || (wish.without_binlogs && is_binlog(manifest, entry));
            if !left_out && !replaced(entry) {
                chosen.push(index);
            }
        }
        Ok(Self { targets, chosen, own, links })
    }

    /// Bytes that root number `root` will take; a file with holes is not counted, since nobody knows what is left of it.
    pub fn bytes(&self, manifest: &Manifest, root: u32) -> u64 {
        let entries = self.chosen.iter().filter_map(|index| manifest.files.get(*index));
        let full = entries.filter(|entry| entry.root == root && !entry.sparse);
        full.map(|entry| entry.size).fold(0, u64::saturating_add)
    }
}

fn check_depth(path: &RelPath) -> Result<()> {
    if path.depth() <= DEEPEST {
        return Ok(());
    }
    Err(Error::new(Class::Damage, format!("{path:?} is nested too deeply")))
}

/// Whether a file is a binary log or the list of them.
fn is_binlog(manifest: &Manifest, entry: &Entry) -> bool {
    let of_binlog_root = manifest.roots.get(entry.root as usize).is_some_and(|root| root.kind == RootKind::Binlog);
    entry.class == FileClass::Binlog || of_binlog_root || is_binlog_index(entry)
}

/// The list of binary logs is what a backup generates besides Galera's state; its name is the donor's choice.
fn is_binlog_index(entry: &Entry) -> bool {
    let other = is_grastate(entry) || entry.path.as_bytes().ends_with(b".isl");
    entry.class == FileClass::Generated && entry.kind == EntryKind::File && !other
}

fn is_grastate(entry: &Entry) -> bool {
    entry.root == 0 && entry.path.as_bytes() == grastate::FILE_NAME.as_bytes()
}

fn targets(manifest: &Manifest, wish: &Wish<'_>) -> Result<Vec<Option<PathBuf>>> {
    for (at, mapping) in wish.roots.iter().enumerate() {
        if mapping.name == "datadir" {
            return Err(Error::new(Class::Usage, "the datadir's place is given with --target"));
        }
        if wish.roots[..at].iter().any(|other| other.name == mapping.name) {
            return Err(Error::new(Class::Usage, format!("--root {} is given twice", mapping.name)));
        }
        if !manifest.roots.iter().any(|root| root.name.as_str() == mapping.name) {
            return Err(unknown_root(manifest, &mapping.name));
        }
    }
    let mut missing = Vec::new();
    let mut targets = Vec::with_capacity(manifest.roots.len());
    for root in &manifest.roots {
        let given = wish.roots.iter().find(|mapping| mapping.name == root.name.as_str());
        let path = match (root.kind, given) {
            (RootKind::Datadir, _) => Some(wish.target),
            (RootKind::Binlog, _) if wish.without_binlogs => None,
            (_, Some(mapping)) => Some(mapping.path.as_path()),
            (_, None) => {
                missing.push(root);
                None
            }
        };
        let absolute = path.map(std::path::absolute).transpose();
        targets.push(absolute.map_err(|cause| Error::new(Class::Io, "cannot resolve a path").because(cause))?);
    }
    if missing.is_empty() { Ok(targets) } else { Err(missing_roots(&missing)) }
}

fn missing_roots(missing: &[&Root]) -> Error {
    let flag = |root: &&Root| format!("--root {}={}", root.name, shell_word(&root.path));
    let flags: Vec<String> = missing.iter().map(flag).collect();
    let names: Vec<&str> = missing.iter().map(|root| root.name.as_str()).collect();
    let binlog = if missing.iter().any(|root| root.kind == RootKind::Binlog) {
        "; or leave the binary logs out with --without-binlogs"
    } else {
        ""
    };
    Error::new(
        Class::Usage,
        format!("the backup has directories outside the datadir, and their places are not given: {}", names.join(", ")),
    )
    .hint(format!("the donor had them here: {}{binlog}", flags.join(" ")))
}

fn unknown_root(manifest: &Manifest, name: &str) -> Error {
    let names = manifest.roots.iter().skip(1).map(|root| root.name.as_str());
    let nearest =
        names.max_by(|one, other| strsim::jaro_winkler(one, name).total_cmp(&strsim::jaro_winkler(other, name)));
    let error = Error::new(Class::Usage, format!("the backup has no root {name:?}"));
    match nearest {
        Some(nearest) => error.hint(format!("did you mean {nearest}? `show` lists the roots")),
        None => error.hint("everything of this backup is in the datadir"),
    }
}

/// For each root the file whose owner stands for all of it: the system tablespace, else the first file.
pub fn representatives(manifest: &Manifest) -> Vec<Option<usize>> {
    let mut best: Vec<Option<(u8, usize)>> = vec![None; manifest.roots.len()];
    for (index, entry) in manifest.files.iter().enumerate() {
        let rank = match (entry.class, entry.kind) {
            (FileClass::InnodbSystem, _) => 0,
            (_, EntryKind::File) => 1,
            (_, EntryKind::Directory) => 2,
        };
        let Some(best) = best.get_mut(entry.root as usize) else { continue };
        if best.is_none_or(|(before, _)| rank < before) {
            *best = Some((rank, index));
        }
    }
    best.into_iter().map(|best| best.map(|(_, index)| index)).collect()
}

fn own_files(
    manifest: &Manifest,
    wish: &Wish<'_>,
    targets: &[Option<PathBuf>],
    cancel: &Cancel,
) -> Result<Vec<OwnFile>> {
    let representatives = representatives(manifest);
    let mut own = Vec::new();
    if wish.purpose != Purpose::Standalone {
        let stored = manifest.files.iter().position(is_grastate);
        let nothing = || Error::new(Class::Damage, "the manifest names no file of the datadir");
        let like = stored.or_else(|| representatives.first().copied().flatten()).ok_or_else(nothing)?;
        let bytes = grastate::render(manifest.gtid, wish.purpose == Purpose::Bootstrap).into_bytes().into();
        own.push(OwnFile { root: 0, path: RelPath::new(grastate::FILE_NAME)?, bytes, like });
    }
    if !wish.without_binlogs {
        own.extend(binlog_indices(manifest, targets));
    }
    own.extend(isl_files(manifest, targets, &representatives, cancel)?);
    Ok(own)
}

/// The lists of binary logs, with the paths as they will be: the server may have written them absolute.
fn binlog_indices(manifest: &Manifest, targets: &[Option<PathBuf>]) -> Vec<OwnFile> {
    // `BASE.000042`, and not its GTID index `BASE.000042.idx`.
    let is_log = |entry: &&Entry| {
        let suffix = entry.path.as_path().extension().map(OsStrExt::as_bytes);
        entry.class == FileClass::Binlog && suffix.is_some_and(|suffix| suffix.iter().all(u8::is_ascii_digit))
    };
    let mut logs: Vec<&Entry> = manifest.files.iter().filter(is_log).collect();
    // After 999999 comes 1000000.
    logs.sort_by_key(|entry| (entry.path.as_bytes().len(), entry.path.as_bytes()));
    let mut bytes = Vec::new();
    for log in logs {
        match targets.get(log.root as usize).and_then(Option::as_ref) {
            Some(target) if log.root != 0 => {
                bytes.extend_from_slice(target.join(log.path.as_path()).as_os_str().as_bytes());
            }
            _ => bytes.extend([b"./".as_slice(), log.path.as_bytes()].concat()),
        }
        bytes.push(b'\n');
    }
    let bytes: Arc<[u8]> = bytes.into();
    let indices = manifest.files.iter().enumerate().filter(|(_, entry)| is_binlog_index(entry));
    let own = |(like, entry): (usize, &Entry)| OwnFile {
        root: entry.root,
        path: entry.path.clone(),
        bytes: Arc::clone(&bytes),
        like,
    };
    indices.map(own).collect()
}

/// The names on the donor that stood for files in other roots, each with the path that its file will have.
fn referrers<'a>(
    manifest: &'a Manifest,
    targets: &'a [Option<PathBuf>],
) -> impl Iterator<Item = (&'a Referrer, PathBuf)> {
    let is_here = |root: u32| targets.get(root as usize).is_some_and(Option::is_some);
    let roots = manifest.roots.iter().zip(targets);
    let of_root = move |(root, target): (&'a Root, &'a Option<PathBuf>)| {
        let target = target.as_ref();
        let found = root.referrers.iter().filter(move |referrer| is_here(referrer.root));
        found.filter_map(move |referrer| Some((referrer, target?.join(referrer.target.as_path()))))
    };
    roots.flat_map(of_root)
}

/// The text files in which InnoDB keeps the paths of tablespaces that lie elsewhere.
fn isl_files(
    manifest: &Manifest,
    targets: &[Option<PathBuf>],
    representatives: &[Option<usize>],
    cancel: &Cancel,
) -> Result<Vec<OwnFile>> {
    let isl = || referrers(manifest, targets).filter(|(referrer, _)| referrer.kind == ReferrerKind::Isl);
    let mut stored: HashMap<(u32, &RelPath), Option<usize>> =
        isl().map(|(referrer, _)| ((referrer.root, &referrer.path), None)).collect();
    for (index, entry) in manifest.files.iter().enumerate() {
        cancel.check()?;
        if let Some(stored) = stored.get_mut(&(entry.root, &entry.path)) {
            *stored = Some(index);
        }
    }
    let own = |(referrer, to): (&Referrer, PathBuf)| {
        let stored = stored.get(&(referrer.root, &referrer.path)).copied().flatten();
        let like = stored.or_else(|| representatives.get(referrer.root as usize).copied().flatten())?;
        let bytes = to.into_os_string().into_vec().into();
        Some(OwnFile { root: referrer.root, path: referrer.path.clone(), bytes, like })
    };
    Ok(isl().filter_map(own).collect())
}

/// The symbolic links of databases and files that lie elsewhere.
fn links(manifest: &Manifest, targets: &[Option<PathBuf>]) -> Vec<(u32, RelPath, PathBuf)> {
    let databases = manifest.roots.iter().zip(targets);
    let databases = databases.filter_map(|(root, target)| Some((0, root.link.clone()?, target.clone()?)));
    let files = referrers(manifest, targets).filter(|(referrer, _)| referrer.kind == ReferrerKind::Symlink);
    databases.chain(files.map(|(referrer, to)| (referrer.root, referrer.path.clone(), to))).collect()
}
