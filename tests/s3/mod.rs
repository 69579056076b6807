//! An S3 server for the tests, in a process and behind a socket of its own, and a proxy that puts faults in between.
//!
//! The server is `s3s-fs`, which keeps objects as files: what is left of an upload can be seen in its directory.
//! The library's own tests use this file too: it knows nothing of the crate.
#![allow(dead_code, unreachable_pub, reason = "each user takes what it needs")]
#![allow(clippy::disallowed_methods, reason = "a slow answer takes time; there is nobody to cancel it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const ACCESS_KEY: &str = "AKIDOFTHETESTS";
pub const SECRET_KEY: &str = "hunter2-is-the-secret-of-the-tests";
pub const BUCKET: &str = "backups";

/// Where `tests/run` installs the server.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/s3s-fs");

/// How long the server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server with one bucket. Dropping it ends the process.
pub struct Server {
    child: Child,
    root: tempfile::TempDir,
    port: u16,
}

impl Server {
    pub fn start() -> Self {
        assert!(Path::new(PROGRAM).exists(), "the S3 server of the tests is missing: tests/run installs {PROGRAM}");
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let started = Instant::now();
        loop {
            // Another process may take the port before the server does.
            let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            let mut child = Command::new(PROGRAM)
                .args(["--host", "127.0.0.1", "--port", &port.to_string()])
                .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
                .arg(root.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            while child.try_wait().unwrap().is_none() {
                assert!(started.elapsed() < START_LIMIT, "the S3 server does not listen");
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { child, root, port };
                }
                std::thread::yield_now();
            }
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The directory that holds the objects of the bucket.
    pub fn bucket(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// The names of all objects of the bucket, and of whatever is left of uploads, sorted.
    pub fn everything(&self) -> Vec<String> {
        let mut names = self.uploads();
        let mut open = vec![self.bucket()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                } else {
                    names.push(entry.path().strip_prefix(self.bucket()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        names.sort();
        names
    }

    /// What is left of multipart uploads: their records and their parts.
    pub fn uploads(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.root.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".upload") && !name.ends_with(".metadata.json")).collect()
    }
}

impl Server {
    /// Removes what is left of uploads.
    pub fn forget_uploads(&self) {
        for name in self.uploads() {
            std::fs::remove_file(self.root.path().join(name)).unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request as the proxy saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub sent: usize,
    pub received: usize,
}

impl Seen {
    pub fn is_part(&self) -> bool {
        self.method == "PUT" && self.target.contains("partNumber=")
    }

    pub fn is_create(&self) -> bool {
        self.method == "POST" && self.target.contains("uploads")
    }

    pub fn is_complete(&self) -> bool {
        self.method == "POST" && self.target.contains("uploadId=")
    }

    pub fn is_abort(&self) -> bool {
        self.method == "DELETE" && self.target.contains("uploadId=")
    }

    pub fn is_put_of(&self, name: &str) -> bool {
        self.method == "PUT" && self.target.split('?').next().unwrap().ends_with(name)
    }

    pub fn is_get_of(&self, name: &str) -> bool {
        self.method == "GET" && self.target.split('?').next().unwrap().ends_with(name)
    }
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The proxy answers with this status, and the store's usual document.
    Status(u16, &'static str),
    /// The connection is reset in the middle of the request's body.
    ResetMidBody,
    /// Nothing is answered until the client hangs up.
    Stall,
    /// The request arrives, the answer does not.
    LostAnswer,
    /// The answer comes as a few bytes at a time.
    Slow,
    /// The answer ends in the middle.
    HalfAnswer,
    /// The answer names another ETag.
    WrongEtag,
}

type Rule = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;

/// A proxy in front of a server: it hands each request on by a connection of its own.
pub struct Proxy {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    rule: Arc<Mutex<Rule>>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    pub fn before(server: &Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let none: Rule = Box::new(|_| None);
        let (seen, rule) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(none)));
        let stop = Arc::new(AtomicBool::new(false));
        let proxy = Self { port, seen: Arc::clone(&seen), rule: Arc::clone(&rule), stop: Arc::clone(&stop) };
        let upstream = server.port;
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(client) = client else { continue };
                let (seen, rule) = (Arc::clone(&seen), Arc::clone(&rule));
                // A client that hangs up is what some of the tests are about.
                std::thread::spawn(move || drop(serve(client, upstream, &seen, &rule)));
            }
        });
        proxy
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on, what happens to each request.
    pub fn faults(&self, rule: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Requests since the last time.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A message's first line and its other lines, and how long its body says it is.
struct Head {
    first: String,
    lines: Vec<String>,
    length: Option<usize>,
}

fn read_head(stream: &mut impl BufRead) -> std::io::Result<Option<Head>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    Ok(Some(Head { first: lines.remove(0), lines, length }))
}

fn serve(client: TcpStream, upstream: u16, seen: &Mutex<Vec<Seen>>, rule: &Mutex<Rule>) -> std::io::Result<()> {
    let mut writer = client.try_clone()?;
    let mut reader = BufReader::new(client);
    let Some(head) = read_head(&mut reader)? else { return Ok(()) };
    let mut words = head.first.split(' ');
    let method = words.next().unwrap().to_owned();
    let target = words.next().unwrap().to_owned();
    let length = head.length.unwrap_or(0);
    let mut this = Seen { method, target, sent: length, received: 0 };
    let fault = (rule.lock().unwrap())(&this);
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(this.clone());
        seen.len() - 1
    };
    let mut note = |received: usize| {
        this.received = received;
        if let Some(entry) = seen.lock().unwrap().get_mut(number) {
            entry.received = received;
        }
    };

    if fault == Some(Fault::ResetMidBody) {
        let mut half = vec![0; length / 2];
        reader.read_exact(&mut half)?;
        // What is unread makes this a reset, not an end.
        return writer.shutdown(Shutdown::Both);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    match fault {
        Some(Fault::Status(status, code)) => {
            let text = format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test wants</Message></Error>"
            );
            let head =
                format!("HTTP/1.1 {status} Fault\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
            writer.write_all(head.as_bytes())?;
            return writer.write_all(text.as_bytes());
        }
        Some(Fault::Stall) => {
            // Until the client hangs up.
            return reader.read(&mut [0]).map(drop);
        }
        _ => {}
    }

    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let mut text = format!("{}\r\n", head.first);
    for line in head.lines.iter().filter(|line| !line.to_lowercase().starts_with("connection:")) {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    server.write_all(text.as_bytes())?;
    server.write_all(&body)?;
    let mut server = BufReader::new(server);
    let Some(answer) = read_head(&mut server)? else { return Ok(()) };
    let mut content = Vec::new();
    server.read_to_end(&mut content)?;
    if fault == Some(Fault::LostAnswer) {
        return writer.shutdown(Shutdown::Both);
    }
    let mut text = format!("{}\r\n", answer.first);
    for line in answer.lines.iter().filter(|line| !line.to_lowercase().starts_with("connection:")) {
        let etag = line.to_lowercase().starts_with("etag:") && fault == Some(Fault::WrongEtag);
        text.push_str(if etag { "ETag: \"00000000000000000000000000000000\"" } else { line });
        text.push_str("\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    writer.write_all(text.as_bytes())?;
    note(content.len());
    match fault {
        Some(Fault::HalfAnswer) => {
            writer.write_all(&content[..content.len() / 2])?;
            writer.shutdown(Shutdown::Both)
        }
        Some(Fault::Slow) => content.chunks(content.len().div_ceil(20).max(1)).try_for_each(|part| {
            writer.write_all(part)?;
            writer.flush()?;
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        }),
        _ => writer.write_all(&content),
    }
}
