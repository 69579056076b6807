//! The contract for several stores at once, and what becomes of all when one fails.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use tempfile::TempDir;

use super::*;
use crate::archive::label::Label;
use crate::archive::read_at::ReadAt;
use crate::command::fixture::names;
use crate::dir::fault::{self, After};
use crate::store::tests::contract::{self, Subject, publish};
use crate::store::tests::{ARCHIVE, ARCHIVE_NAME, MANIFEST, assert_whole, id, label};
use crate::store::{LocalRepository, Sealed, Upload};

/// Several directories.
struct Directories {
    bases: Vec<TempDir>,
    /// Each of them alone.
    stores: Vec<LocalRepository>,
    several: Several,
}

impl Directories {
    fn new(count: usize, policy: Policy) -> Self {
        let bases: Vec<TempDir> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let open = |base: &TempDir| LocalRepository::open(base.path()).unwrap();
        let several = Several::new(policy, bases.iter().map(|base| opened(Box::new(open(base)))).collect()).unwrap();
        Self { stores: bases.iter().map(open).collect(), bases, several }
    }

    /// The names in each.
    fn visible(&self) -> Vec<Vec<String>> {
        let top = |base: &TempDir| names(base.path()).into_iter().filter(|name| !name.contains('/')).collect();
        self.bases.iter().map(top).collect()
    }
}

fn opened(store: Box<dyn Repository>) -> (String, Result<Box<dyn Repository>>) {
    (store.place(), Ok(store))
}

impl Subject for Directories {
    fn store(&self) -> &dyn Repository {
        &self.stores[0]
    }

    fn begin(&self, id: &BackupId) -> Result<Begun> {
        self.several.begin(id, ARCHIVE_NAME, 0)
    }

    fn remove(&self, label: &Label) -> Result<()> {
        self.stores.iter().try_for_each(|store| store.remove(label))
    }

    fn everything(&self) -> Vec<String> {
        let objects = |base: &TempDir| -> Vec<String> {
            names(base.path()).into_iter().filter(|name| name.parse::<BackupId>().is_err()).collect()
        };
        let first = objects(&self.bases[0]);
        self.bases.iter().for_each(|base| assert_eq!(objects(base), first));
        first
    }

    fn tamper(&self, id: &BackupId, name: &str, bytes: Option<&[u8]>) {
        for base in &self.bases {
            let path = base.path().join(id.as_str()).join(name);
            match bytes {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
        }
    }
}

#[test]
fn the_contract_holds_for_two_and_three_directories_under_both_policies() {
    for policy in [Policy::All, Policy::Any] {
        contract::hold(&Directories::new(2, policy));
        contract::hold(&Directories::new(3, policy));
    }
}

/// Fails at every step in turn; returns how many steps there were.
fn fault_sweep(count: usize, policy: Policy, after: After) -> u32 {
    for k in 1.. {
        let directories = Directories::new(count, policy);
        publish(&directories, &id(1)).unwrap();
        let (result, reached) = fault::on(k, after, || publish(&directories, &id(2)));
        let case = format!("{count} stores, {policy:?}, operation {k}: {result:?}");
        let mut holding = 0;
        for store in &directories.stores {
            assert_whole(store, &id(1));
            if store.list().unwrap().labels.len() == 2 {
                assert_whole(store, &id(2));
                holding += 1;
            }
        }
        if after == After::Works {
            let wanted = match policy {
                Policy::All => {
                    if result.is_ok() {
                        count
                    } else {
                        0
                    }
                }
                Policy::Any => {
                    if reached {
                        count - 1
                    } else {
                        count
                    }
                }
            };
            assert_eq!(holding, wanted, "{case}");
            assert!(result.is_ok() || policy == Policy::All, "{case}");
            let left: usize = directories.visible().iter().map(Vec::len).sum();
            assert_eq!(left, count + holding, "{case}: {:?}", directories.visible());
        }
        directories.stores.iter().for_each(|store| store.sweep().unwrap());
        for (store, visible) in directories.stores.iter().zip(directories.visible()) {
            assert_eq!(visible.len(), store.list().unwrap().labels.len(), "{case} left something for ever");
        }
        if !reached {
            assert!(result.is_ok());
            return k;
        }
    }
    unreachable!()
}

#[test]
fn whichever_operation_fails_all_hold_the_backup_or_none_and_of_any_all_but_one() {
    for count in [2, 3] {
        for policy in [Policy::All, Policy::Any] {
            let swept = fault_sweep(count, policy, After::Works);
            assert!(swept as usize > 15 * count, "the sweep saw {swept} operations only");
        }
    }
}

#[test]
fn whenever_the_program_dies_each_backup_is_whole_or_absent() {
    for policy in [Policy::All, Policy::Any] {
        fault_sweep(2, policy, After::Dead);
    }
}

/// A sealed backup, and somebody else's of that name in the last store.
fn sealed_and_taken(directories: &Directories) -> Box<dyn Sealed> {
    let (upload, mut sink) = directories.begin(&id(2)).unwrap();
    sink.write_all(ARCHIVE).unwrap();
    let sealed = upload.seal(MANIFEST, &label(&id(2))).unwrap();
    directories.stores.iter().for_each(|store| assert!(store.list().unwrap().labels.is_empty(), "a label is out"));
    publish_alone(directories.stores.last().unwrap());
    sealed
}

fn publish_alone(store: &LocalRepository) {
    let (upload, mut sink) = store.begin(&id(2), ARCHIVE_NAME, 0).unwrap();
    sink.write_all(ARCHIVE).unwrap();
    upload.commit(MANIFEST, &label(&id(2))).unwrap();
}

#[test]
fn a_late_label_that_fails_takes_the_earlier_backups_away_and_nobody_elses() {
    let directories = Directories::new(3, Policy::All);
    let error = sealed_and_taken(&directories).publish().unwrap_err();
    assert_eq!((error.class(), error.advice()), (Class::Refused, None));
    assert_eq!(directories.visible(), [vec![], vec![], vec![id(2).to_string()]]);
    assert_whole(&directories.stores[2], &id(2));

    let directories = Directories::new(3, Policy::Any);
    sealed_and_taken(&directories).publish().unwrap();
    directories.stores.iter().for_each(|store| assert_whole(store, &id(2)));
}

#[test]
fn a_backup_that_cannot_be_taken_away_again_is_named() {
    let mut named = 0;
    for k in 1.. {
        let directories = Directories::new(2, Policy::All);
        let sealed = sealed_and_taken(&directories);
        let (result, reached) = fault::on(k, After::Dead, || sealed.publish());
        let error = result.unwrap_err();
        if let Some(advice) = error.advice() {
            assert!(advice.contains(&*directories.stores[0].place()) && advice.contains(id(2).as_str()), "{advice}");
            named += 1;
        }
        if !reached {
            break;
        }
    }
    assert!(named > 2, "only {named} failures to remove were seen");
}

/// Tells that a write hangs, and hears that it may go on.
type Ends = Arc<std::sync::Mutex<(mpsc::Sender<()>, mpsc::Receiver<()>)>>;

/// A directory whose sink does something else with the bytes; tells when an upload into it is dropped.
#[derive(Debug)]
struct Odd {
    inner: LocalRepository,
    hangs: Option<Ends>,
    aborted: Arc<AtomicBool>,
}

#[derive(Debug)]
struct OddUpload(Arc<AtomicBool>);

struct FullSink;

struct HangingSink(Ends);

impl Write for FullSink {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(nix::errno::Errno::ENOSPC.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for HangingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (hanging, go_on) = &*self.0.lock().unwrap();
        hanging.send(()).unwrap();
        go_on.recv().unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for OddUpload {
    fn seal(self: Box<Self>, _: &[u8], _: &Label) -> Result<Box<dyn Sealed>> {
        panic!("sealed, although writing failed")
    }
}

impl Drop for OddUpload {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Destination for Odd {
    fn place(&self) -> String {
        "odd".to_owned()
    }

    fn probe_writable(&self) -> Result<()> {
        self.inner.probe_writable()
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(Some(7))
    }

    fn begin(&self, _: &BackupId, _: &'static str, _: u64) -> Result<Begun> {
        let upload = Box::new(OddUpload(Arc::clone(&self.aborted)));
        match &self.hangs {
            Some(hangs) => Ok((upload, Box::new(HangingSink(Arc::clone(hangs))))),
            None => Ok((upload, Box::new(FullSink))),
        }
    }
}

impl Repository for Odd {
    fn ids(&self) -> Result<Vec<BackupId>> {
        self.inner.ids()
    }

    fn object(&self, id: &BackupId, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.inner.object(id, name, limit)
    }

    fn open_archive(&self, label: &Label) -> Result<Box<dyn ReadAt>> {
        self.inner.open_archive(label)
    }

    fn remove(&self, label: &Label) -> Result<()> {
        self.inner.remove(label)
    }
}

#[test]
fn a_store_that_is_full_is_given_up_at_once_and_the_other_goes_on_or_all_fail() {
    for policy in [Policy::All, Policy::Any] {
        let base = tempfile::tempdir().unwrap();
        let open = || LocalRepository::open(base.path()).unwrap();
        let aborted = Arc::new(AtomicBool::new(false));
        let odd = Odd { inner: open(), hangs: None, aborted: Arc::clone(&aborted) };
        let several = Several::new(policy, vec![opened(Box::new(odd)), opened(Box::new(open()))]).unwrap();
        let (upload, mut sink) = several.begin(&id(1), ARCHIVE_NAME, 0).unwrap();
        let written = sink.write_all(ARCHIVE);
        assert!(aborted.load(Ordering::SeqCst), "{policy:?}: not aborted before the end");
        if policy == Policy::Any {
            written.unwrap();
            upload.commit(MANIFEST, &label(&id(1))).unwrap();
            assert_whole(&open(), &id(1));
        } else {
            let error = Error::new(Class::Io, "x").because(written.unwrap_err());
            assert_eq!(error.os_error(), Some(nix::errno::Errno::ENOSPC as i32));
            assert!(one_line(&error).contains("\"odd\""), "{error:?}");
            assert!(upload.commit(MANIFEST, &label(&id(1))).is_err());
            assert_eq!(names(base.path()), [""; 0]);
        }
    }
}

#[test]
fn giving_up_does_not_wait_for_a_write_that_hangs() {
    let base = tempfile::tempdir().unwrap();
    let inner = LocalRepository::open(base.path()).unwrap();
    let ((hanging, hangs), (go_on, wait)) = (mpsc::channel(), mpsc::channel());
    let aborted = Arc::new(AtomicBool::new(false));
    let ends = Some(Arc::new(std::sync::Mutex::new((hanging, wait))));
    let odd = Odd { inner, hangs: ends, aborted: Arc::clone(&aborted) };
    let several = Several::new(Policy::All, vec![opened(Box::new(odd))]).unwrap();
    let (upload, mut sink) = several.begin(&id(1), ARCHIVE_NAME, 0).unwrap();
    let writer = std::thread::spawn(move || {
        let first = sink.write(ARCHIVE).is_ok();
        (first, sink.write(ARCHIVE).is_err())
    });
    hangs.recv().unwrap();
    drop(upload);
    assert!(!aborted.load(Ordering::SeqCst), "it was taken from the writer");
    go_on.send(()).unwrap();
    assert_eq!(writer.join().unwrap(), (true, true));
    assert!(aborted.load(Ordering::SeqCst));
}

#[test]
fn one_that_cannot_be_opened_fails_all_and_is_passed_over_for_any() {
    let base = tempfile::tempdir().unwrap();
    let places = || {
        let open = |path: &Path| LocalRepository::open(path).map(|store| -> Box<dyn Repository> { Box::new(store) });
        let absent = base.path().join("absent");
        vec![("absent".to_owned(), open(&absent)), ("here".to_owned(), open(base.path()))]
    };
    assert_eq!(Several::new(Policy::All, places()).unwrap_err().class(), Class::Config);
    let several = Several::new(Policy::Any, places()).unwrap();
    several.probe_writable().unwrap();
    assert_eq!(several.place(), "absent\", \"here");
    let mut absent = places();
    absent.truncate(1);
    assert_eq!(Several::new(Policy::Any, absent).unwrap_err().class(), Class::Config);
}

#[test]
fn the_free_space_is_the_least_of_all_and_the_most_of_any() {
    for (policy, least) in [(Policy::All, true), (Policy::Any, false)] {
        let base = tempfile::tempdir().unwrap();
        let open = || LocalRepository::open(base.path()).unwrap();
        let odd = Odd { inner: open(), hangs: None, aborted: Arc::default() };
        let several = Several::new(policy, vec![opened(Box::new(odd)), opened(Box::new(open()))]).unwrap();
        assert_eq!(several.free_bytes().unwrap() == Some(7), least);
    }
}
