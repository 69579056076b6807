//! The contract against a real S3 server, and what faults between it and us do to a backup.

use std::num::NonZeroUsize;
use std::time::Instant;

use super::settings::Endpoint;
use super::*;
use crate::archive::manifest::FileClass;
use crate::archive::seal::Identities;
use crate::cancel::Reason;
use crate::cli::{ExtractArgs, KeyArgs, RestoreArgs, VerifyArgs};
use crate::command::fixture::{self, Donor};
use crate::command::{Context, extract, restore, verify};
use crate::store::MANIFEST_NAME;
use crate::store::location::Location;
use crate::store::tests::contract::{self, LONG, Subject};
use crate::store::tests::{MANIFEST, id, label};
use s3::{Fault, Proxy, Seen, Server};

#[path = "../../../tests/s3/mod.rs"]
mod s3;

fn credentials() -> Credentials {
    let variables = [("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", s3::SECRET_KEY)];
    Credentials::of_environment(variables.into_iter())
}

fn settings(endpoint: &str) -> ObjectSettings {
    ObjectSettings {
        endpoint: Some(Endpoint::parse(endpoint).unwrap()),
        allow_http: true,
        part_bytes: settings::LEAST_PART_BYTES,
        request_timeout: Duration::from_secs(20),
        stall_timeout: Duration::from_secs(30),
        retries: 3,
        ..ObjectSettings::default()
    }
}

fn open(settings: &ObjectSettings, url: &str, cancel: &Cancel) -> ObjectRepository {
    let Some(Location::Object(url)) = Location::parse(url) else { panic!("{url}") };
    ObjectRepository::open(&url, settings, &credentials(), cancel).unwrap()
}

/// A bucket of a server, behind a proxy.
struct Bucket {
    server: Server,
    proxy: Proxy,
    store: ObjectRepository,
    keys: Identities,
    cancel: Cancel,
    prefix: &'static str,
}

impl Bucket {
    fn new(prefix: &'static str) -> Self {
        Self::with(prefix, |settings| settings)
    }

    fn with(prefix: &'static str, change: impl FnOnce(ObjectSettings) -> ObjectSettings) -> Self {
        let server = Server::start();
        let proxy = Proxy::before(&server);
        let cancel = Cancel::default();
        let settings = change(settings(&proxy.endpoint()));
        let store = open(&settings, &format!("s3://{}/{prefix}", s3::BUCKET), &cancel);
        Self { server, proxy, store, keys: Identities::none(), cancel, prefix }
    }

    fn context(&self) -> Context<'_> {
        let workers = NonZeroUsize::new(2).unwrap();
        let now = "2026-11-22T12:09:46Z".parse().unwrap();
        Context { repository: &self.store, keys: &self.keys, workers, cancel: &self.cancel, now }
    }
}

impl Subject for Bucket {
    fn store(&self) -> &dyn Repository {
        &self.store
    }

    fn everything(&self) -> Vec<String> {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let name = |name: String| name.strip_prefix(&prefix).map(str::to_owned).unwrap_or(name);
        self.server.everything().into_iter().map(name).collect()
    }

    fn tamper(&self, id: &BackupId, name: &str, bytes: Option<&[u8]>) {
        let path = self.server.bucket().join(self.prefix).join(id.as_str()).join(name);
        match bytes {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
    }
}

#[test]
fn the_contract_holds_in_a_bucket_and_below_a_prefix() {
    contract::hold(&Bucket::new(""));
    contract::hold(&Bucket::new("galera/prod"));
}

/// Bytes of an archive of several parts.
fn long() -> (Vec<u8>, Label) {
    let bytes: Vec<u8> = (0..LONG).map(|at| (at ^ (at >> 7) ^ (at >> 15)) as u8).collect();
    let mut label = label(&id(1));
    label.archive.bytes = bytes.len() as u64;
    label.archive.sha256 = crate::digest::Digest::of(&bytes);
    (bytes, label)
}

/// Makes a backup of several parts.
fn back_up(store: &ObjectRepository) -> Result<()> {
    let (bytes, label) = long();
    let (upload, mut archive) = store.begin(&label.id, "archive.tar.zst", LONG as u64)?;
    let written = bytes.chunks(400_001).try_for_each(|part| archive.write_all(part));
    written.map_err(|cause| Error::new(Class::Io, "cannot write the archive").because(cause))?;
    archive.flush().unwrap();
    upload.commit(MANIFEST, &label)
}

fn assert_backed_up(store: &ObjectRepository) {
    let (bytes, label) = long();
    assert_eq!(store.label(&label.id).unwrap(), label);
    assert_eq!(store.manifest_stored(&label).unwrap(), MANIFEST);
    let mut found = vec![0; LONG];
    store.open_archive(&label).unwrap().read_exact_at(&mut found, 0).unwrap();
    assert!(found == bytes, "the archive is another one");
}

/// What a fault is put to, of each kind the requests of one backup have.
type Target = (&'static str, fn(&Seen) -> bool);

const TARGETS: [Target; 6] = [
    ("create", Seen::is_create),
    ("part", Seen::is_part),
    ("complete", Seen::is_complete),
    ("manifest", |seen| seen.is_put_of(MANIFEST_NAME)),
    ("label", |seen| seen.is_put_of(LABEL_NAME)),
    ("list", |seen| seen.method == "GET"),
];

const FAULTS: [Fault; 9] = [
    Fault::Status(500, "InternalError"),
    Fault::Status(503, "SlowDown"),
    Fault::Status(403, "ExpiredToken"),
    Fault::ResetMidBody,
    Fault::Stall,
    Fault::LostAnswer,
    Fault::Slow,
    Fault::HalfAnswer,
    Fault::WrongEtag,
];

/// A fault met once, or for ever: the backup is whole, or there is none and nothing is left of its upload.
fn sweep(times: usize) {
    let bucket = Bucket::with("", |settings| ObjectSettings {
        request_timeout: Duration::from_millis(1500),
        stall_timeout: Duration::from_secs(4),
        retries: 2,
        ..settings
    });
    let direct = open(&settings(&bucket.server.endpoint()), &format!("s3://{}", s3::BUCKET), &Cancel::default());
    let mut whole = 0;
    for (name, is_target) in TARGETS {
        for fault in FAULTS {
            let (mut left, mut met) = (times, 0);
            let (tell, told) = std::sync::mpsc::channel();
            bucket.proxy.faults(move |seen| {
                if !is_target(seen) || left == 0 {
                    return None;
                }
                left -= 1;
                met += 1;
                let _ = tell.send(met);
                Some(fault)
            });
            let started = std::time::Instant::now();
            let result = back_up(&bucket.store);
            let case = format!("{fault:?} at {name}, {times} times: {result:?}");
            assert!(told.try_iter().last().is_some(), "no request met {case}");
            assert!(started.elapsed() < Duration::from_secs(60), "{case} took {:?}", started.elapsed());
            let listing = direct.list().unwrap();
            assert!(result.is_err() || listing.labels.len() == 1, "{case}");
            if listing.labels.is_empty() {
                // What was put before a label that failed may stay; it is no backup.
                assert!(name == "label" || listing.broken.is_empty(), "{case} left {:?}", bucket.everything());
            } else {
                assert_backed_up(&direct);
                whole += 1;
            }
            let mut left = bucket.server.uploads();
            if name == "create" && matches!(fault, Fault::LostAnswer | Fault::HalfAnswer) {
                // Nobody knows the name of that upload. It has no parts, and takes no room.
                left.retain(|name| name.contains(".part-"));
            }
            assert_eq!(left, [""; 0], "{case}");
            let text = result.err().map(|error| format!("{error:?} {}", crate::error::one_line(&error)));
            assert!(!text.unwrap_or_default().contains(s3::SECRET_KEY), "{case}");
            bucket.proxy.faults(|_| None);
            let _ = std::fs::remove_dir_all(bucket.server.bucket().join(id(1).as_str()));
            bucket.server.forget_uploads();
        }
    }
    assert!(whole >= FAULTS.len(), "only {whole} backups were made in spite of a fault");
}

#[test]
fn a_fault_that_passes_leaves_a_whole_backup_or_none() {
    sweep(1);
}

#[test]
fn a_fault_that_stays_leaves_a_whole_backup_or_none() {
    sweep(usize::MAX);
}

#[test]
fn a_run_that_is_stopped_ends_soon_and_leaves_nothing() {
    let bucket = Bucket::new("");
    bucket.proxy.faults(|seen| seen.is_part().then_some(Fault::Stall));
    let cancel = bucket.cancel.clone();
    let stopper = std::thread::spawn(move || {
        cancel.sleep(Duration::from_millis(300)).unwrap();
        cancel.raise(Reason::Signal("SIGTERM"));
        Instant::now()
    });
    let error = back_up(&bucket.store).unwrap_err();
    let stopped = stopper.join().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(10), "it took {:?}", stopped.elapsed());
    assert!(crate::error::one_line(&error).contains("stopped by SIGTERM"), "{error:?}");
    assert_eq!(bucket.everything(), [""; 0]);
}

#[test]
fn a_backup_needs_few_requests_and_several_parts_are_in_flight() {
    let bucket = Bucket::new("");
    back_up(&bucket.store).unwrap();
    assert_backed_up(&bucket.store);
    let seen = bucket.proxy.take();
    let parts: Vec<usize> = seen.iter().filter(|seen| seen.is_part()).map(|seen| seen.sent).collect();
    let part = settings::LEAST_PART_BYTES as usize;
    let mut sorted = parts.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [LONG - 2 * part, part, part]);
    assert!(seen.len() < 16, "{seen:#?}");
}

#[test]
fn no_more_is_in_memory_than_the_settings_allow() {
    let parallel = NonZeroUsize::new(3).unwrap();
    let bucket = Bucket::with("", |settings| ObjectSettings { parallel, ..settings });
    // Nothing lands: what was written is what is held.
    bucket.proxy.faults(|seen| seen.is_part().then_some(Fault::Stall));
    let (upload, mut archive) = bucket.store.begin(&id(1), "archive.tar.zst", 0).unwrap();
    let cancel = bucket.cancel.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let mut written = 0;
        while archive.write_all(&[7; 100_000]).is_ok() {
            written += 100_000;
            let _ = tell.send(written);
        }
        written
    });
    while told.recv_timeout(Duration::from_secs(3)).is_ok() {}
    cancel.raise(Reason::Signal("SIGTERM"));
    let written = writer.join().unwrap() as u64;
    let bound = settings::LEAST_PART_BYTES * parallel.get() as u64;
    assert!(written <= bound && written > bound - settings::LEAST_PART_BYTES - 100_000, "{written} of {bound}");
    drop(upload);
    assert_eq!(bucket.everything(), [""; 0]);
}

#[test]
fn wrong_secrets_are_told_by_the_stores_code_and_not_shown() {
    let server = Server::start();
    let Some(Location::Object(url)) = Location::parse("s3://backups/x") else { panic!() };
    let wrong = [("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", "hunter3")];
    let wrong = Credentials::of_environment(wrong.into_iter());
    let store = ObjectRepository::open(&url, &settings(&server.endpoint()), &wrong, &Cancel::default()).unwrap();
    let error = store.probe_writable().unwrap_err();
    let shown = format!("{} {error:?} {store:?}", crate::error::one_line(&error));
    assert!(shown.contains("SignatureDoesNotMatch"), "{shown}");
    assert!(!shown.contains("hunter") && !shown.contains("AWS4"), "{shown}");
    assert_eq!(error.errno(), nix::libc::EACCES as u8);
}

#[test]
fn a_store_that_is_not_there_is_told_soon() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = ObjectSettings { retries: 1, ..settings(&format!("http://127.0.0.1:{port}")) };
    let error = open(&settings, "s3://backups", &Cancel::default()).probe_writable().unwrap_err();
    assert_eq!(error.errno(), nix::libc::ECONNREFUSED as u8, "{error:?}");
}

/// A donor with one large table and a small one, of bytes that do not compress.
fn donor() -> Donor {
    let mut donor = Donor::small();
    donor.members.retain(|member| !member.path.ends_with("orders.ibd"));
    donor.members.push(fixture::file("shop/large.ibd", FileClass::Innodb, fixture::noise(40 << 20, 11)));
    donor.members.push(fixture::file("shop/orders.ibd", FileClass::Innodb, fixture::noise(9 << 20, 4)));
    donor
}

#[test]
fn extracting_one_table_moves_little_more_than_that_table() {
    let bucket = Bucket::new("galera");
    let donor = donor();
    let label = donor.back_up(&bucket.store, fixture::ID);
    bucket.proxy.take();
    let to = tempfile::tempdir().unwrap();
    let args = ExtractArgs {
        id: "latest".to_owned(),
        what: vec!["shop.orders".to_owned()],
        to: to.path().join("out"),
        keys: KeyArgs::default(),
    };
    let (result, _) = fixture::printed(false, |output| extract::run(&args, &bucket.context(), output));
    result.unwrap();
    let wanted = donor.members.iter().find(|member| member.path == "shop/orders.ibd").unwrap();
    let found = std::fs::read(to.path().join("out/shop/orders.ibd")).unwrap();
    assert!(Some(&found) == wanted.bytes.as_ref());
    let seen = bucket.proxy.take();
    let archive: Vec<&Seen> = seen.iter().filter(|seen| seen.is_get_of("archive.tar.zst")).collect();
    let moved: usize = archive.iter().map(|seen| seen.received).sum();
    // The frames of the table, and those of the small files that were chosen with it.
    assert!((9 << 20..11 << 20).contains(&moved), "{moved} of {}", label.archive.bytes);
    assert!(archive.len() <= 5, "{archive:#?}");
    assert!(seen.len() <= archive.len() + 5, "{seen:#?}");
}

#[test]
fn a_restore_fetches_every_byte_once_in_large_ranges() {
    let bucket = Bucket::new("");
    let donor = donor();
    let label = donor.back_up(&bucket.store, fixture::ID);
    bucket.proxy.take();
    let base = tempfile::tempdir().unwrap();
    let args = RestoreArgs { id: "latest".to_owned(), target: base.path().join("data"), ..RestoreArgs::default() };
    let (result, _) = fixture::printed(false, |output| restore::run(&args, &bucket.context(), output));
    result.unwrap();
    for member in donor.members.iter().filter(|member| member.path != "grastate.dat") {
        let Some(bytes) = &member.bytes else { continue };
        assert!(std::fs::read(base.path().join("data").join(member.path)).unwrap() == *bytes, "{}", member.path);
    }
    let seen = bucket.proxy.take();
    let archive: Vec<&Seen> = seen.iter().filter(|seen| seen.is_get_of("archive.tar.zst")).collect();
    let moved: u64 = archive.iter().map(|seen| seen.received as u64).sum();
    assert!(moved <= label.archive.bytes, "{moved} of {}", label.archive.bytes);
    let most = label.archive.bytes.div_ceil(2 << 20) as usize;
    assert!(archive.len() <= most, "{} ranges for {} bytes", archive.len(), label.archive.bytes);
}

#[test]
fn a_backup_in_a_bucket_is_verified_and_its_damage_found() {
    let bucket = Bucket::new("");
    Donor::small().back_up(&bucket.store, fixture::ID);
    let verify = || {
        let args = VerifyArgs { ids: vec!["latest".to_owned()], ..VerifyArgs::default() };
        fixture::printed(false, |output| verify::run(&args, &bucket.context(), output)).0
    };
    verify().unwrap();
    let path = bucket.server.bucket().join(fixture::ID).join("archive.tar.zst");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(verify().unwrap_err().class(), Class::Damage);
}
