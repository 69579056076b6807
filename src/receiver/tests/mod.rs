//! Both ends on one machine: what a store promises, hostile clients, receivers that lie or fall silent.

mod hostile;
mod lying;
mod tls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use super::client::{Receiver, ReceiverSettings};
use super::server::{Limits, Server, Settings, TlsFiles};
use super::token::Token;
use crate::archive::label::BackupId;
use crate::cancel::{Cancel, Reason};
use crate::command::fixture;
use crate::error::{Class, Result};
use crate::store::tests::contract::{self, Subject};
use crate::store::tests::{ARCHIVE, ARCHIVE_NAME, MANIFEST, assert_whole, id, label};
use crate::store::{Begun, Destination, LocalRepository, Repository, label_text};

const SECRET: &str = "a-secret-of-the-tests";

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bounds that no honest client reaches here.
const WIDE: Limits = Limits { max_size: 1 << 30, max_uploads: 2, stall: PATIENCE, request: PATIENCE };

/// Bounds that a client reaches who does nothing.
const SHORT: Duration = Duration::from_millis(400);

/// A receiver in this process.
struct Running {
    base: TempDir,
    secrets: TempDir,
    address: SocketAddr,
    cancel: Cancel,
    published: Arc<Mutex<Vec<BackupId>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    fn new(limits: Limits) -> Self {
        Self::start(limits, None)
    }

    fn start(limits: Limits, tls: Option<TlsFiles>) -> Self {
        let [base, secrets] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let token = Some(Token::read(&token_file(secrets.path())).unwrap());
        let settings = Settings { listen: "127.0.0.1:0".parse().unwrap(), tls, token, limits, once: false };
        let server = Server::bind(settings, LocalRepository::open(base.path()).unwrap()).unwrap();
        let address = server.address();
        let (cancel, published) = (Cancel::default(), Arc::new(Mutex::new(Vec::new())));
        let (heard, told) = (cancel.clone(), Arc::clone(&published));
        let run = move || {
            server.run(&heard, |event| {
                told.lock().unwrap().push(event.id.clone());
                Ok(())
            })
        };
        let thread = Some(std::thread::spawn(run));
        Self { base, secrets, address, cancel, published, thread }
    }

    fn settings(&self) -> ReceiverSettings {
        ReceiverSettings {
            allowed: vec!["127.0.0.0/8".parse().unwrap()],
            tls: false,
            token_file: Some(self.secrets.path().join("token")),
            stall_timeout: PATIENCE,
            ..ReceiverSettings::default()
        }
    }

    fn receiver(&self) -> Receiver {
        open(self.address, &self.settings()).unwrap()
    }

    fn repository(&self) -> LocalRepository {
        LocalRepository::open(self.base.path()).unwrap()
    }

    /// Everything in the repository, whatever it is.
    fn names(&self) -> Vec<String> {
        fixture::names(self.base.path())
    }

    /// Another backup can be made.
    #[track_caller]
    fn serves(&self, id: &BackupId) {
        send(&self.receiver(), id).unwrap();
        assert_whole(&self.repository(), id);
    }

    /// Ends it, and looks at what it says.
    fn end(mut self) -> Vec<BackupId> {
        self.cancel.raise(Reason::Signal("SIGTERM"));
        self.thread.take().unwrap().join().unwrap().unwrap();
        self.published.lock().unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.raise(Reason::Signal("SIGTERM"));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn token_file(directory: &Path) -> PathBuf {
    let path = directory.join("token");
    std::fs::write(&path, SECRET).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

fn open(address: SocketAddr, settings: &ReceiverSettings) -> Result<Receiver> {
    Receiver::open(&address.to_string().parse().unwrap(), settings, &Cancel::default())
}

fn send(receiver: &Receiver, id: &BackupId) -> Result<()> {
    let (upload, mut archive) = receiver.begin(id, ARCHIVE_NAME, 0)?;
    archive.write_all(ARCHIVE).unwrap();
    upload.commit(MANIFEST, &label(id))
}

/// A connection by hand.
struct Raw(TcpStream);

impl Raw {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Sends what the other end takes.
    fn say(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // A receiver that has refused it may have closed the connection.
        let _ = self.0.write_all(bytes.as_ref());
        self
    }

    /// The head of a request with the token and these further lines.
    fn ask(&mut self, method: &str, path: &str, more: &str) -> &mut Self {
        self.say(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n{more}\r\n"))
    }

    /// Everything until the other end closes the connection.
    fn hear(&mut self) -> String {
        let mut heard = Vec::new();
        let mut part = [0; 4096];
        loop {
            match self.0.read(&mut part) {
                Ok(0) => break,
                Ok(length) => heard.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&heard)),
            }
        }
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Everything until there is this text.
    fn hear_until(&mut self, text: &str) -> String {
        let mut heard = String::new();
        let mut byte = [0];
        while !heard.contains(text) {
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "the end after {heard:?}");
            heard.push(byte[0].into());
        }
        heard
    }
}

/// The status of an answer; 0 for none.
fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
}

fn path(id: &BackupId, part: &str) -> String {
    format!("/v1/backups/{id}/{part}")
}

/// One `PUT` of its own: what is answered.
fn put(address: SocketAddr, path: &str, body: &[u8]) -> String {
    let head = format!("Archive-Name: archive.tar.zst\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    Raw::to(address).ask("PUT", path, &head).say(body).hear()
}

/// Sends archive and manifest.
fn put_two(address: SocketAddr, id: &BackupId) {
    for (part, body) in [("archive", ARCHIVE), ("manifest", MANIFEST)] {
        let answer = put(address, &path(id, part), body);
        assert_eq!(status(&answer), 200, "{answer}");
    }
}

struct Remote {
    running: Running,
    store: LocalRepository,
    receiver: Receiver,
}

impl Subject for Remote {
    fn store(&self) -> &dyn Repository {
        &self.store
    }

    fn begin(&self, id: &BackupId) -> Result<Begun> {
        self.receiver.begin(id, ARCHIVE_NAME, 0)
    }

    fn everything(&self) -> Vec<String> {
        self.running.names().into_iter().filter(|name| name.parse::<BackupId>().is_err()).collect()
    }

    fn tamper(&self, id: &BackupId, name: &str, bytes: Option<&[u8]>) {
        let path = self.running.base.path().join(id.as_str()).join(name);
        match bytes {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
    }
}

#[test]
fn a_receiver_keeps_the_contract_of_every_store() {
    let running = Running::new(WIDE);
    let (store, receiver) = (running.repository(), running.receiver());
    let remote = Remote { running, store, receiver };
    contract::hold(&remote);
    let published = remote.running.end();
    assert_eq!(published, [id(5), id(4), id(9), id(1), id(10)]);
}

#[test]
fn a_probe_proves_that_a_backup_would_be_taken_and_leaves_nothing() {
    let running = Running::new(Limits { max_size: 12_345, ..WIDE });
    let receiver = running.receiver();
    receiver.probe_writable().unwrap();
    assert_eq!(receiver.free_bytes().unwrap(), Some(12_345));
    assert_eq!(running.names(), [""; 0]);
    assert_eq!(receiver.place(), format!("http://{}", running.address));
    assert_eq!(receiver.local_path(), None);
}

#[test]
fn an_archive_that_is_too_large_fails_while_it_is_written() {
    let running = Running::new(Limits { max_size: 1 << 20, ..WIDE });
    let receiver = running.receiver();
    let (_upload, mut archive) = receiver.begin(&id(1), ARCHIVE_NAME, 0).unwrap();
    let piece = vec![7; 1 << 20];
    let error = (0..1000).find_map(|_| archive.write_all(&piece).err()).expect("it is refused");
    assert!(error.to_string().contains("answered 413"), "{error}");
    assert_eq!(running.names(), [""; 0]);
}

#[test]
fn an_upload_ends_when_the_run_is_stopped() {
    let running = Running::new(WIDE);
    let cancel = Cancel::default();
    let receiver = running.address.to_string().parse().unwrap();
    let receiver = Receiver::open(&receiver, &running.settings(), &cancel).unwrap();
    let (upload, mut archive) = receiver.begin(&id(1), ARCHIVE_NAME, 0).unwrap();
    archive.write_all(ARCHIVE).unwrap();
    cancel.raise(Reason::ServerGone);
    assert_eq!(upload.commit(MANIFEST, &label(&id(1))).unwrap_err().class(), Class::Server);
    running.serves(&id(1));
}

#[test]
fn a_receiver_that_ends_leaves_nothing_of_an_upload() {
    let running = Running::new(WIDE);
    let base = running.base.path().to_owned();
    let receiver = running.receiver();
    let (upload, mut archive) = receiver.begin(&id(1), ARCHIVE_NAME, 0).unwrap();
    archive.write_all(ARCHIVE).unwrap();
    put_two(running.address, &id(2));
    running.cancel.raise(Reason::Signal("SIGTERM"));
    let mut running = running;
    running.thread.take().unwrap().join().unwrap().unwrap();
    assert_eq!(fixture::names(&base), [""; 0]);
    assert!(upload.commit(MANIFEST, &label(&id(1))).is_err());
}
