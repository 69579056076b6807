//! The uploads that are under way: so many at once, one of each id, none for ever.
//!
//! Between two requests an upload is *parked*. While a request works on it the request holds its [`Turn`]; dropping that, for
//! whatever reason, ends the upload, and nothing of it is left.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::Limits;
use super::answer::Refusal;
use super::writer::Writer;
use crate::archive::label::BackupId;
use crate::receiver::wire::Received;

/// How long a request waits at most for a slot, or for an upload of its id whose connection has just broken.
const CLAIM: Duration = Duration::from_secs(5);

/// All of them.
#[derive(Debug)]
pub(super) struct Uploads {
    most: u32,
    slots: Arc<Semaphore>,
    open: Mutex<Open>,
    /// Some upload has ended.
    ended: Notify,
    /// How long an upload may be parked.
    patience: Duration,
    /// How long a request waits to begin.
    claim: Duration,
}

#[derive(Debug, Default)]
struct Open {
    entries: HashMap<BackupId, Entry>,
    parked_ever: u64,
}

#[derive(Debug)]
enum Entry {
    /// A request works on it.
    Busy,
    /// Nobody does; the number tells it from others of its id.
    Parked(u64, Parked),
}

/// An upload whose archive is complete.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) writer: Writer,
    pub(super) archive_name: &'static str,
    pub(super) archive: Received,
    pub(super) manifest: Option<(Bytes, Received)>,
}

/// The right of one request to work on an upload.
#[derive(Debug)]
pub(super) struct Turn {
    uploads: Arc<Uploads>,
    id: BackupId,
    peer: IpAddr,
    /// The upload outlives this turn, or was published.
    over: bool,
}

impl Uploads {
    /// As many at once as `limits` allow.
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(limits.max_uploads as usize));
        let (most, patience, claim) = (limits.max_uploads, limits.request, limits.request.min(CLAIM));
        Arc::new(Self { most, slots, open: Mutex::default(), ended: Notify::new(), patience, claim })
    }

    /// Whether another one could begin now.
    pub(super) fn has_slot(&self) -> bool {
        self.slots.available_permits() > 0
    }

    /// Begins an upload of that id: there is a slot for it, and no other that a request works on. A parked one is given up.
    pub(super) async fn claim(
        self: &Arc<Self>,
        id: &BackupId,
        peer: IpAddr,
    ) -> Result<(Turn, OwnedSemaphorePermit), Refusal> {
        let turn = timeout(self.claim, async {
            loop {
                let ended = self.ended.notified();
                if self.take_id(id) {
                    return Turn { uploads: Arc::clone(self), id: id.clone(), peer, over: false };
                }
                ended.await;
            }
        });
        let under_way = |_| Refusal::new(StatusCode::CONFLICT, format!("an upload of {id} is under way"));
        let turn = turn.await.map_err(under_way)?;
        match timeout(self.claim, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => Ok((turn, slot)),
            _ => {
                turn.finish();
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "as many uploads as are allowed are under way"))
            }
        }
    }

    /// Goes on with an upload.
    pub(super) fn resume(self: &Arc<Self>, id: &BackupId, peer: IpAddr) -> Result<(Turn, Parked), Refusal> {
        let mut open = self.open();
        let conflict = |text: String| Refusal::new(StatusCode::CONFLICT, text);
        match open.entries.insert(id.clone(), Entry::Busy) {
            Some(Entry::Parked(_, parked)) => {
                Ok((Turn { uploads: Arc::clone(self), id: id.clone(), peer, over: false }, parked))
            }
            Some(Entry::Busy) => Err(conflict(format!("another request works on {id}"))),
            None => {
                open.entries.remove(id);
                Err(conflict(format!("there is no archive of {id} yet: it comes first")))
            }
        }
    }

    /// Ends every upload; returns when nothing of them is left, or after `limit`.
    pub(super) async fn end(&self, limit: Duration) {
        self.open().entries.clear();
        if timeout(limit, self.slots.acquire_many(self.most)).await.is_err() {
            tracing::warn!("an upload still waits for the disk, and is left behind");
        }
    }

    fn take_id(&self, id: &BackupId) -> bool {
        let mut open = self.open();
        if matches!(open.entries.get(id), Some(Entry::Busy)) {
            return false;
        }
        open.entries.insert(id.clone(), Entry::Busy);
        true
    }

    fn park(self: &Arc<Self>, id: BackupId, parked: Parked) {
        let mut open = self.open();
        open.parked_ever += 1;
        let number = open.parked_ever;
        open.entries.insert(id.clone(), Entry::Parked(number, parked));
        drop(open);
        let uploads = Arc::clone(self);
        tokio::spawn(async move {
            sleep(uploads.patience).await;
            uploads.expire(&id, number);
        });
    }

    fn expire(&self, id: &BackupId, number: u64) {
        let mut open = self.open();
        if matches!(open.entries.get(id), Some(Entry::Parked(found, _)) if *found == number) {
            open.entries.remove(id);
            drop(open);
            tracing::warn!("the upload of {id} did not go on: nothing of it is kept");
            self.ended.notify_waiters();
        }
    }

    fn remove(&self, id: &BackupId) {
        self.open().entries.remove(id);
        self.ended.notify_waiters();
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// The upload waits for the next request.
    pub(super) fn park(mut self, parked: Parked) {
        self.over = true;
        self.uploads.park(self.id.clone(), parked);
    }

    /// The backup is published, or was never begun.
    pub(super) fn finish(mut self) {
        self.over = true;
        self.uploads.remove(&self.id);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.over {
            tracing::warn!("the upload of {} from {} ended before its end: nothing of it is kept", self.id, self.peer);
            self.uploads.remove(&self.id);
        }
    }
}
