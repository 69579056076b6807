//! Backups for the tests of the operator commands, made with the real encoder and the real store.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Group, User, getegid, geteuid};

use super::Context;
use super::output::{Output, tests::Printed};
use crate::archive::codec::Codec;
use crate::archive::encode::{EncodeOptions, Encoder, ManifestHead, Meta};
use crate::archive::label::{BackupId, Label, Source, Stored};
use crate::archive::manifest::{Excluded, FileClass, Manifest, Root, RootKind, RootName};
use crate::archive::progress::Progress;
use crate::archive::seal::{Identities, Recipients, seal};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::relpath::RelPath;
use crate::store::{Destination, LocalRepository, Repository, manifest_name};

pub(crate) const ID: &str = "20261122T100946Z-node2-7f3a";
pub(crate) const GTID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002:77";

/// One member of the donor's tree.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) root: u32,
    pub(crate) path: &'static str,
    pub(crate) class: FileClass,
    pub(crate) mode: u32,
    pub(crate) sparse: bool,
    /// None for a directory.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// What a test's donor has.
pub(crate) struct Donor {
    pub(crate) codec: Codec,
    pub(crate) recipients: Recipients,
    pub(crate) roots: Vec<Root>,
    pub(crate) members: Vec<Member>,
    pub(crate) user: String,
    pub(crate) group: String,
}

/// A repository with backups, and a place for targets beside it.
pub(crate) struct Lab {
    pub(crate) base: tempfile::TempDir,
    pub(crate) repository: LocalRepository,
    pub(crate) keys: Identities,
    pub(crate) cancel: Cancel,
}

pub(crate) fn root(name: &str, kind: RootKind, path: &str) -> Root {
    Root::new(RootName::new(name).unwrap(), kind, path)
}

pub(crate) fn file(path: &'static str, class: FileClass, bytes: impl Into<Vec<u8>>) -> Member {
    Member { root: 0, path, class, mode: 0o660, sparse: false, bytes: Some(bytes.into()) }
}

pub(crate) fn directory(path: &'static str) -> Member {
    Member { root: 0, path, class: FileClass::Directory, mode: 0o750, sparse: false, bytes: None }
}

/// Bytes that do not compress and differ between seeds.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Donor {
    /// A datadir with everything that matters: several frames, small and empty files, holes, partitions, odd names.
    pub(crate) fn small() -> Self {
        let mut holes = vec![0; 6 << 20];
        holes[4_500_000..4_500_100].copy_from_slice(&noise(100, 9));
        let mut grastate = file("grastate.dat", FileClass::Generated, "# the donor's\n");
        grastate.mode = 0o600;
        Self {
            codec: Codec::new("zstd", None).unwrap(),
            recipients: Recipients::none(),
            roots: vec![root("datadir", RootKind::Datadir, "/var/lib/mysql")],
            members: vec![
                directory("empty"),
                directory("shop"),
                grastate,
                file("aria_log_control", FileClass::AriaLog, noise(52, 1)),
                file("shop/db.opt", FileClass::Other, "default-character-set=utf8mb4\n"),
                file("shop/orders.frm", FileClass::Other, noise(900, 2)),
                file("shop/nothing.frm", FileClass::Other, ""),
                file("ibdata1", FileClass::InnodbSystem, noise(300_000, 3)),
                file("shop/orders.ibd", FileClass::Innodb, noise(9 << 20, 4)),
                file("shop/part#P#p0.ibd", FileClass::Innodb, noise(5000, 5)),
                file("shop/part#P#p1.ibd", FileClass::Innodb, noise(6000, 6)),
                file("shop/my@002dtable.ibd", FileClass::Innodb, noise(7000, 7)),
                Member { sparse: true, ..file("shop/holes.ibd", FileClass::Innodb, holes) },
                file("ib_logfile0", FileClass::Redo, noise(100_000, 8)),
            ],
            user: User::from_uid(geteuid()).unwrap().map_or_else(String::new, |user| user.name),
            group: Group::from_gid(getegid()).unwrap().map_or_else(String::new, |group| group.name),
        }
    }

    fn meta(&self, member: &Member) -> Meta {
        Meta {
            root: member.root,
            root_name: self.roots[member.root as usize].name.clone(),
            path: RelPath::new(member.path).unwrap(),
            class: member.class,
            size: member.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            mode: member.mode,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            user: self.user.clone(),
            group: self.group.clone(),
            mtime: 1_700_000_000,
            mtime_nsec: 123_456_789,
            sparse: member.sparse,
        }
    }

    /// Makes the backup `id` in `repository`.
    pub(crate) fn back_up(&self, repository: &dyn Destination, id: &str) -> Label {
        let id: BackupId = id.parse().unwrap();
        let archive_name = self.codec.archive_name(self.recipients.seal());
        let (upload, sink) = repository.begin(&id, archive_name, 0).unwrap();
        let recipients = self.recipients.clone();
        let options = EncodeOptions { codec: self.codec, workers: NonZeroUsize::new(2).unwrap(), recipients };
        let progress = Arc::new(Progress::default());
        let mut encoder = Encoder::start(options, sink, Cancel::default(), progress).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        for (number, member) in self.members.iter().enumerate() {
            match &member.bytes {
                None => encoder.add_directory(self.meta(member)).unwrap(),
                Some(bytes) => {
                    let path = scratch.path().join(number.to_string());
                    std::fs::write(&path, bytes).unwrap();
                    encoder.add_file(self.meta(member), Arc::new(std::fs::File::open(path).unwrap()), 0).unwrap()
                }
            };
        }
        let excluded = vec![Excluded {
            root: 0,
            path: RelPath::new("galera.cache").unwrap(),
            reason: "the ring buffer of the donor".to_owned(),
        }];
        let head = ManifestHead {
            id: id.clone(),
            gtid: GTID.parse().unwrap(),
            roots: self.roots.clone(),
            excluded,
            warnings: vec!["the engine X was not frozen".to_owned()],
        };
        let mut finished = encoder.finish(head).unwrap();
        finished.sink.flush().unwrap();
        let archive = Stored {
            name: self.codec.archive_name(self.recipients.seal()).to_owned(),
            bytes: finished.stored_bytes,
            sha256: finished.sha256,
        };
        let stored = seal(finished.manifest.to_stored().unwrap(), &self.recipients).unwrap();
        let label = label(&id, &finished.manifest, &self.recipients, archive, &stored);
        upload.commit(&stored, &label).unwrap();
        label
    }
}

fn label(id: &BackupId, manifest: &Manifest, recipients: &Recipients, archive: Stored, stored: &[u8]) -> Label {
    let name = manifest_name(recipients.seal()).to_owned();
    Label {
        format_version: 1,
        id: id.clone(),
        gtid: manifest.gtid,
        gtid_domain: Some(0),
        cluster: "lab".into(),
        node: "node2".into(),
        server_version: Some("10.11.19-MariaDB".into()),
        program_version: "0.1.0".into(),
        binlog: None,
        started: "2026-11-22T10:09:46Z".parse().unwrap(),
        finished: "2026-11-22T10:10:46Z".parse().unwrap(),
        frozen_ms: 1250,
        flush_ms: 30,
        source: Source::Locked,
        settle_passes: 2,
        files: manifest.files.len() as u64,
        raw_bytes: manifest.raw_bytes(),
        copied_again_bytes: 0,
        codec: manifest.codec,
        recipients: recipients.clone(),
        archive,
        manifest: Stored { name, bytes: stored.len() as u64, sha256: Digest::of(stored) },
        request: None,
        warnings: manifest.warnings.len() as u64,
    }
}

impl Lab {
    pub(crate) fn empty() -> Self {
        // Memory, where there is such a directory: a restore syncs, and the sweeps restore a hundred times.
        let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        std::fs::create_dir(base.path().join("repository")).unwrap();
        std::fs::create_dir(base.path().join("site")).unwrap();
        let repository = LocalRepository::open(&base.path().join("repository")).unwrap();
        Self { base, repository, keys: Identities::none(), cancel: Cancel::default() }
    }

    /// A lab with one backup of [`Donor::small`].
    pub(crate) fn small() -> Self {
        Self::of(&Donor::small())
    }

    pub(crate) fn of(donor: &Donor) -> Self {
        let lab = Self::empty();
        donor.back_up(&lab.repository, ID);
        lab
    }

    /// A path of the directory where targets go.
    pub(crate) fn site(&self, name: &str) -> PathBuf {
        self.base.path().join("site").join(name)
    }

    /// A file of the backup [`ID`].
    pub(crate) fn stored(&self, name: &str) -> PathBuf {
        self.repository.path().join(ID).join(name)
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context {
            repository: &self.repository,
            keys: &self.keys,
            workers: NonZeroUsize::new(2).unwrap(),
            cancel: &self.cancel,
            now: "2026-11-22T12:09:46Z".parse().unwrap(),
        }
    }

    /// Replaces the manifest of the backup [`ID`] by what `change` makes of it, with a label that fits.
    pub(crate) fn forge(&self, change: impl FnOnce(&mut Manifest)) {
        let id: BackupId = ID.parse().unwrap();
        let mut label = self.repository.label(&id).unwrap();
        let mut manifest = self.context().manifest(&label).unwrap();
        change(&mut manifest);
        let stored = seal(manifest.to_stored().unwrap(), &label.recipients).unwrap();
        label.manifest.bytes = stored.len() as u64;
        label.manifest.sha256 = Digest::of(&stored);
        label.gtid = manifest.gtid;
        std::fs::write(self.stored(&label.manifest.name), stored).unwrap();
        std::fs::write(self.stored("backup.json"), label.to_json().unwrap()).unwrap();
    }
}

/// Every name below `path`, relative to it, sorted.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            names.push(entry.path().strip_prefix(path).unwrap().to_str().unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    names.sort();
    names
}

/// What `command` prints, and how it ends.
pub(crate) fn printed<T>(json: bool, command: impl FnOnce(&mut Output) -> T) -> (T, String) {
    let printed = Printed::default();
    let result = command(&mut Output::to(printed.clone(), json));
    (result, printed.text())
}
