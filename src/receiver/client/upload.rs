//! An archive on its way to a receiver: written here as to a file, sent by the connection's thread.
//!
//! A few pieces wait between the two, no more. The body of the request gets its end only by [`commit`](Upload::commit): whatever
//! else ends it, the receiver sees that it was cut off, and keeps nothing.

use std::fmt;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use http_body_util::Full;
use hyper::HeaderMap;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{EXPECT, HeaderValue};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Link;
use super::dial::{Answer, expect_continue};
use crate::archive::codec::WRITE_BYTES;
use crate::archive::label::{BackupId, Label, Stored};
use crate::error::{Class, Error, Result};
use crate::receiver::wire::{ARCHIVE_NAME, Part, Received, Resource};
use crate::store::{ArchiveSink, Begun, Sealed, Upload, label_text};

/// Pieces that wait for the connection.
const WAITING: usize = 8;

/// The body of the archive's request.
struct Outgoing(mpsc::Receiver<Piece>);

enum Piece {
    Bytes(Bytes),
    /// The archive is complete.
    End,
}

/// The body was given up.
#[derive(Debug)]
struct CutOff;

/// The request that is under way.
#[derive(Debug)]
struct Flow {
    link: Arc<Link>,
    /// None once the archive is complete, or given up.
    pieces: Mutex<Option<mpsc::Sender<Piece>>>,
    /// None once it was waited for.
    answer: Mutex<Option<JoinHandle<Result<Answer>>>>,
}

/// A backup that is being sent.
#[derive(Debug)]
struct Sending {
    id: BackupId,
    flow: Arc<Flow>,
}

/// The archive's way into the request.
struct Sink(Arc<Flow>);

/// Begins a backup; returns when the receiver has begun it too.
pub(super) fn begin(link: &Arc<Link>, id: &BackupId, archive_name: &'static str) -> Result<Begun> {
    let (pieces, outgoing) = mpsc::channel(WAITING);
    let mut request = link.dial.request(&Resource::Part(id.clone(), Part::Archive), Outgoing(outgoing))?;
    head(request.headers_mut(), archive_name);
    let (begun, has_begun) = oneshot::channel();
    let begun = Mutex::new(Some(begun));
    hyper::ext::on_informational(&mut request, move |answer| {
        if answer.status() == hyper::StatusCode::CONTINUE {
            let begun = begun.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Whoever waits for it may have given up.
            begun.map(|begun| begun.send(()));
        }
    });
    let dial = link.dial.clone();
    let answer = link.runtime.handle().spawn(async move { dial.ask(request).await });
    let (pieces, answer) = (Mutex::new(Some(pieces)), Mutex::new(Some(answer)));
    let flow = Arc::new(Flow { link: Arc::clone(link), pieces, answer });
    if flow.link.wait(async move { has_begun.await.is_ok() })? {
        let sink: ArchiveSink = Box::new(Sink(Arc::clone(&flow)));
        return Ok((Box::new(Sending { id: id.clone(), flow }), sink));
    }
    Err(flow.why())
}

fn head(headers: &mut HeaderMap, archive_name: &'static str) {
    headers.insert(ARCHIVE_NAME, HeaderValue::from_static(archive_name));
    headers.insert(EXPECT, expect_continue());
}

impl Flow {
    fn put(&self, piece: Piece) -> Result<()> {
        let Some(pieces) = lock(&self.pieces).clone() else { return Err(self.why()) };
        let piece = match pieces.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(piece)) => piece,
            Err(TrySendError::Closed(_)) => return Err(self.why()),
        };
        match self.link.wait(async move { pieces.send(piece).await.is_ok() }) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.why()),
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    /// The answer to the archive.
    fn answer(&self) -> Result<Answer> {
        let Some(answer) = lock(&self.answer).take() else { return Err(self.over()) };
        let aborted = answer.abort_handle();
        let answered = self.link.wait(answer).inspect_err(|_| aborted.abort())?;
        answered.map_err(|_| self.over())?
    }

    /// Why nothing more can be sent.
    fn why(&self) -> Error {
        match self.answer() {
            Err(error) => error,
            // It has answered before it could have everything.
            Ok(_) => self.link.dial.senseless(),
        }
    }

    fn over(&self) -> Error {
        Error::new(Class::Io, format!("the upload to \"{}\" has ended", self.link.dial.receiver))
    }

    /// Ends the request without the end of its body.
    fn give_up(&self) {
        drop(lock(&self.pieces).take());
        if let Some(answer) = lock(&self.answer).take() {
            answer.abort();
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Everything but the label is at the receiver.
#[derive(Debug)]
struct Sent {
    upload: Box<Sending>,
    label: Vec<u8>,
}

impl Upload for Sending {
    fn seal(self: Box<Self>, manifest_stored: &[u8], label: &Label) -> Result<Box<dyn Sealed>> {
        let link = &self.flow.link;
        self.flow.put(Piece::End)?;
        check("archive", self.flow.answer()?.json(&link.dial)?, &label.archive)?;
        let manifest = self.send(Part::Manifest, Bytes::copy_from_slice(manifest_stored))?;
        check("manifest", manifest.json(&link.dial)?, &label.manifest)?;
        Ok(Box::new(Sent { label: label_text(label)?, upload: self }))
    }
}

impl Sealed for Sent {
    fn publish(self: Box<Self>) -> Result<()> {
        let answer = self.upload.send(Part::Label, self.label.into())?;
        if answer.is_created() { Ok(()) } else { Err(self.upload.flow.link.dial.senseless()) }
    }
}

/// What came is what was sent.
fn check(what: &str, received: Received, stored: &Stored) -> Result<()> {
    if received == (Received { bytes: stored.bytes, sha256: stored.sha256 }) {
        return Ok(());
    }
    let Received { bytes, sha256 } = received;
    let text = format!(
        "the {what} came as {bytes} bytes with SHA-256 {sha256}, and not as {} bytes with {}",
        stored.bytes, stored.sha256
    );
    Err(Error::new(Class::Refused, text))
}

impl Sending {
    fn send(&self, part: Part, body: Bytes) -> Result<Answer> {
        let link = &self.flow.link;
        let request = link.dial.request(&Resource::Part(self.id.clone(), part), Full::new(body))?;
        let dial = link.dial.clone();
        link.wait(async move { dial.ask(request).await })?
    }
}

impl Drop for Sending {
    /// The sink may outlive the upload, and must not hold it.
    fn drop(&mut self) {
        self.flow.give_up();
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(WRITE_BYTES)];
        if !part.is_empty() {
            self.0.put(Piece::Bytes(Bytes::copy_from_slice(part))).map_err(io::Error::other)?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        Poll::Ready(match ready!(self.0.poll_recv(cx)) {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => None,
            None => Some(Err(CutOff)),
        })
    }
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the archive was given up")
    }
}

impl std::error::Error for CutOff {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
