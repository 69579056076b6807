//! What the parts of the archive do together; each file is one subject.

mod round_trip;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex};

use super::codec::Codec;
use super::decode::{PieceSink, restore};
use super::encode::{EncodeOptions, Encoder, EntryId, Finished, ManifestHead, Meta};
use super::manifest::{EntryKind, FileClass, Manifest, Root, RootKind, RootName};
use super::progress::Progress;
use super::read_at::ReadAt;
use crate::cancel::Cancel;
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
    let root = |name, kind, path: &str| Root { name: root_name(name), kind, path: path.into(), link: None };
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
    let options = EncodeOptions { codec, workers: count(workers) };
    Encoder::start(options, sink, Cancel::default(), Arc::default()).unwrap()
}

/// Adds a file with these contents, which the workers read from a file without a name.
fn add_file<W: std::io::Write + Send + 'static>(encoder: &mut Encoder<W>, meta: Meta, contents: &[u8]) -> EntryId {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(contents).unwrap();
    encoder.add_file(Meta { size: contents.len() as u64, ..meta }, Arc::new(file), 0).unwrap()
}

fn encode(tree: &Tree, codec: Codec, workers: usize) -> Finished<Vec<u8>> {
    let mut encoder = encoder(codec, workers, Vec::new());
    for (name, contents) in tree {
        match contents {
            Some(contents) => add_file(&mut encoder, meta(name, 0), contents),
            None => encoder.add_directory(Meta { mode: 0o750, ..meta(name, 0) }).unwrap(),
        };
    }
    encoder.finish(head()).unwrap()
}

/// Puts restored bytes together; two writes to one place are a failure.
struct Collect(Mutex<BTreeMap<usize, Vec<Option<u8>>>>);

impl PieceSink for Collect {
    fn write(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut files = self.0.lock().unwrap();
        let file = files.entry(file).or_default();
        let begin = offset as usize;
        if file.len() < begin + bytes.len() {
            file.resize(begin + bytes.len(), None);
        }
        for (to, from) in file[begin..].iter_mut().zip(bytes) {
            assert!(to.replace(*from).is_none(), "a byte came twice");
        }
        Ok(())
    }
}

fn restore_tree(source: &dyn ReadAt, manifest: &Manifest, workers: usize) -> Result<Tree> {
    let sink = Collect(Mutex::default());
    restore(source, manifest, &|_| true, &sink, count(workers), &Cancel::default(), &Progress::default())?;
    let mut files = sink.0.into_inner().unwrap();
    let mut tree = Tree::new();
    for (index, entry) in manifest.files.iter().enumerate() {
        let contents = files.remove(&index).unwrap_or_default().into_iter().collect::<Option<Vec<u8>>>().unwrap();
        assert_eq!(contents.len() as u64, entry.size);
        let contents = (entry.kind == EntryKind::File).then_some(contents);
        tree.insert(manifest.member_path(entry).unwrap(), contents);
    }
    Ok(tree)
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
