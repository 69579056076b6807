//! The thread that writes one upload: disks are waited for here, so that no connection waits for another's.
//!
//! It owns what is written until it is committed. When its [`Writer`] is dropped before, it ends and nothing is left. It holds
//! one of the slots for uploads, until all of that is over.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::answer::Refusal;
use crate::archive::label::{BackupId, Label};
use crate::digest::Digest;
use crate::error::{Class, Error, Result, one_line};
use crate::receiver::wire::Received;
use crate::store::{Destination, LocalRepository};

/// Pieces of an archive that wait for the disk; each is at most as large as a connection's buffer.
const WAITING: usize = 8;

/// The other end of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    /// Why the thread has ended before its time.
    failed: oneshot::Receiver<Error>,
}

/// What there is to be written.
pub(super) struct Job {
    pub(super) repository: Arc<LocalRepository>,
    pub(super) id: BackupId,
    pub(super) archive_name: &'static str,
    pub(super) expected_bytes: u64,
    /// The slot that is free again when everything is over.
    pub(super) slot: OwnedSemaphorePermit,
    /// Is told of the backup when it is published, whether anybody still waits for the answer or not.
    pub(super) published: Box<dyn FnOnce(&Label) + Send>,
}

enum Order {
    Piece(Bytes),
    End(oneshot::Sender<Received>),
    Commit(Box<Label>, Bytes, oneshot::Sender<()>),
}

impl Writer {
    /// Begins the upload.
    pub(super) async fn start(job: Job) -> Result<Self, Refusal> {
        let (orders, order) = mpsc::channel(WAITING);
        let (ready, is_ready) = oneshot::channel();
        let (failure, failed) = oneshot::channel();
        let id = job.id.clone();
        let run = move || {
            if let Err(error) = job.run(order, ready) {
                // Whoever has given the upload up does not want to know.
                let _ = failure.send(error);
            }
        };
        let started = std::thread::Builder::new().name("receive".into()).spawn(run);
        started.map_err(|cause| refusal(&id, &Error::io("start a thread for", id.as_str(), cause)))?;
        let mut writer = Self { orders, failed };
        match is_ready.await {
            Ok(()) => Ok(writer),
            Err(_) => Err(writer.why(&id).await),
        }
    }

    /// Writes the next bytes of the archive; waits for the disk if too many wait already.
    pub(super) async fn piece(&mut self, bytes: Bytes) -> Result<(), ()> {
        self.orders.send(Order::Piece(bytes)).await.map_err(|_| ())
    }

    /// The archive is complete: what has been written of it.
    pub(super) async fn end(&mut self) -> Result<Received, ()> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::End(answer)).await.map_err(|_| ())?;
        answered.await.map_err(|_| ())
    }

    /// Publishes the backup.
    pub(super) async fn commit(mut self, label: Label, manifest: Bytes) -> Result<(), Refusal> {
        let id = label.id.clone();
        let (answer, answered) = oneshot::channel();
        let sent = self.orders.send(Order::Commit(Box::new(label), manifest, answer)).await;
        match (sent, answered.await) {
            (Ok(()), Ok(())) => Ok(()),
            _ => Err(self.why(&id).await),
        }
    }

    /// Why it has ended.
    pub(super) async fn why(&mut self, id: &BackupId) -> Refusal {
        match (&mut self.failed).await {
            Ok(error) => refusal(id, &error),
            Err(_) => Refusal::internal("the upload has ended"),
        }
    }
}

impl Job {
    fn run(self, mut orders: mpsc::Receiver<Order>, ready: oneshot::Sender<()>) -> Result<()> {
        let Self { repository, id, archive_name, expected_bytes, slot, published } = self;
        if repository.free_bytes()?.is_some_and(|free| free < expected_bytes) {
            return Err(Error::io("write the archive of", id.as_str(), Errno::ENOSPC));
        }
        let (upload, mut sink) = repository.begin(&id, archive_name, expected_bytes)?;
        let _ = ready.send(());
        let mut hasher = Sha256::new();
        let mut bytes: u64 = 0;
        loop {
            match orders.blocking_recv() {
                Some(Order::Piece(piece)) => {
                    hasher.update(&piece);
                    sink.write_all(&piece).map_err(|cause| Error::io("write the archive of", id.as_str(), cause))?;
                    bytes = bytes.saturating_add(piece.len() as u64);
                }
                Some(Order::End(answer)) => {
                    let _ = answer.send(Received { bytes, sha256: Digest::finish(hasher) });
                    break;
                }
                Some(Order::Commit(..)) | None => return Ok(()),
            }
        }
        let Some(Order::Commit(label, manifest, answer)) = orders.blocking_recv() else { return Ok(()) };
        upload.commit(&manifest, &label)?;
        published(&label);
        let _ = answer.send(());
        // Whoever waits for the slots knows then that everything is told.
        drop(slot);
        Ok(())
    }
}

/// What a client is told of a failure here; the rest, with our own paths, stands in our log.
fn refusal(id: &BackupId, error: &Error) -> Refusal {
    let refusal = match (error.os_error(), error.class()) {
        (Some(nix::libc::ENOSPC | nix::libc::EDQUOT), _) => Refusal::no_room(),
        (_, Class::Refused) => Refusal::taken(id),
        _ => Refusal::internal("the receiver cannot store it: its own log says why"),
    };
    tracing::warn!("cannot store {id}: {}", one_line(error));
    refusal
}
