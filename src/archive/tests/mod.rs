//! What the parts of the archive do together; each file is one subject.

mod damage;
mod failure;
mod hostile;
mod round_trip;
mod sealed;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex};

use super::codec::Codec;
use super::decode::{PieceSink, restore};
use super::encode::{EncodeOptions, Encoder, EntryId, Finished, ManifestHead, Meta};
use super::label::{Label, Source, Stored};
use super::manifest::{EntryKind, FORMAT_VERSION, FileClass, Manifest, Root, RootKind, RootName};
use super::progress::Progress;
use super::read_at::ReadAt;
use super::seal::{Identities, Recipients, Seal};
use super::verify::{Report, verify};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::relpath::RelPath;

/// An archive in memory.
impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let begin = usize::try_from(offset).unwrap();
        let bytes = self.get(begin..begin + buf.len()).ok_or_else(|| Error::new(Class::Damage, "too short"))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// Files and directories (`None`) by their path.
type Tree = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

const CODECS: [Codec; 3] = [Codec::None, Codec::Gzip(6), Codec::Zstd(1)];

fn count(workers: usize) -> NonZeroUsize {
    NonZeroUsize::new(workers).unwrap()
}

fn path(bytes: &[u8]) -> RelPath {
    RelPath::new(std::ffi::OsString::from_vec(bytes.to_vec())).unwrap()
}

fn root_name(name: &str) -> RootName {
    RootName::new(name).unwrap()
}

fn meta(name: &[u8], size: u64) -> Meta {
    Meta {
        root: 0,
        root_name: root_name("datadir"),
        path: path(name),
        class: FileClass::Other,
        size,
        mode: 0o640,
        uid: 0,
        gid: 0,
        user: "root".to_owned(),
        group: "root".to_owned(),
        mtime: 1_700_000_000,
        mtime_nsec: 123_456_789,
        sparse: false,
    }
}

fn in_root_1(meta: Meta) -> Meta {
    Meta { root: 1, root_name: root_name("innodb-undo"), ..meta }
}

fn head() -> ManifestHead {
    let root = |name, kind, path: &str| Root::new(root_name(name), kind, path);
    ManifestHead {
        id: "20261122T100946Z-node2-7f3a".parse().unwrap(),
        gtid: "6d3f9a04-1234-11ef-8000-0242ac120002:17".parse().unwrap(),
        roots: vec![
            root("datadir", RootKind::Datadir, "/var/lib/mysql"),
            root("innodb-undo", RootKind::InnodbUndo, "/var/lib/undo"),
        ],
        excluded: Vec::new(),
        warnings: vec!["a warning".to_owned()],
    }
}

fn encoder<W: std::io::Write + Send + 'static>(codec: Codec, workers: usize, sink: W) -> Encoder<W> {
    encoder_for(&Recipients::none(), codec, workers, sink)
}

fn encoder_for<W: std::io::Write + Send + 'static>(
    recipients: &Recipients,
    codec: Codec,
    workers: usize,
    sink: W,
) -> Encoder<W> {
    let options = EncodeOptions { codec, workers: count(workers), recipients: recipients.clone() };
    Encoder::start(options, sink, Cancel::default(), Arc::default()).unwrap()
}

/// Adds a file with these contents, which the workers read from a file without a name.
fn add_file<W: std::io::Write + Send + 'static>(encoder: &mut Encoder<W>, meta: Meta, contents: &[u8]) -> EntryId {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(contents).unwrap();
    encoder.add_file(Meta { size: contents.len() as u64, ..meta }, Arc::new(file), 0).unwrap()
}

fn encode(tree: &Tree, codec: Codec, workers: usize) -> Finished<Vec<u8>> {
    encode_for(&Recipients::none(), tree, codec, workers)
}

fn encode_for(recipients: &Recipients, tree: &Tree, codec: Codec, workers: usize) -> Finished<Vec<u8>> {
    let mut encoder = encoder_for(recipients, codec, workers, Vec::new());
    for (name, contents) in tree {
        match contents {
            Some(contents) => add_file(&mut encoder, meta(name, 0), contents),
            None => encoder.add_directory(Meta { mode: 0o750, ..meta(name, 0) }).unwrap(),
        };
    }
    encoder.finish(head()).unwrap()
}

/// Puts restored bytes together, and counts them.
#[derive(Default)]
struct Collect(Mutex<BTreeMap<usize, (Vec<u8>, usize)>>);

impl PieceSink for Collect {
    fn write(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut files = self.0.lock().unwrap();
        let (file, count) = files.entry(file).or_default();
        let (begin, end) = (offset as usize, offset as usize + bytes.len());
        if file.len() < end {
            file.resize(end, 0);
        }
        file[begin..end].copy_from_slice(bytes);
        *count += bytes.len();
        Ok(())
    }
}

fn restore_tree(source: &dyn ReadAt, manifest: &Manifest, workers: usize) -> Result<Tree> {
    let sink = Collect::default();
    restore(source, manifest, &|_| true, &sink, count(workers), &Cancel::default(), &Progress::default())?;
    let mut files = sink.0.into_inner().unwrap();
    let mut tree = Tree::new();
    for (index, entry) in manifest.files.iter().enumerate() {
        let (contents, count) = files.remove(&index).unwrap_or_default();
        assert_eq!((contents.len(), count as u64), (count, entry.size), "every byte comes exactly once");
        let contents = (entry.kind == EntryKind::File).then_some(contents);
        tree.insert(manifest.member_path(entry).unwrap(), contents);
    }
    Ok(tree)
}

fn label(finished: &Finished<Vec<u8>>) -> Label {
    let manifest = finished.manifest.to_stored().unwrap();
    let stored = |name: &str, bytes: &[u8]| Stored {
        name: name.to_owned(),
        bytes: bytes.len() as u64,
        sha256: Digest::of(bytes),
    };
    Label {
        format_version: FORMAT_VERSION,
        id: finished.manifest.id.clone(),
        gtid: finished.manifest.gtid,
        gtid_domain: Some(0),
        cluster: "lab".to_owned(),
        node: "node2".to_owned(),
        server_version: None,
        program_version: "0.1.0".to_owned(),
        binlog: None,
        started: jiff::Timestamp::UNIX_EPOCH,
        finished: jiff::Timestamp::UNIX_EPOCH,
        frozen_ms: 1,
        flush_ms: 2,
        source: Source::Locked,
        settle_passes: 1,
        files: finished.manifest.files.len() as u64,
        raw_bytes: finished.manifest.raw_bytes(),
        copied_again_bytes: 0,
        codec: finished.manifest.codec,
        recipients: Recipients::none(),
        archive: stored(finished.manifest.codec.archive_name(Seal::Open), &finished.sink),
        manifest: stored("manifest.json.zst", &manifest),
        request: None,
        warnings: 0,
    }
}

fn verified(source: &dyn ReadAt, manifest: &Manifest, label: &Label) -> Result<Report> {
    verify(source, manifest, label, &Identities::none(), count(2), &Cancel::default(), &Progress::default())
}

/// Bytes that compress about two to one and differ everywhere.
fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 32).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
