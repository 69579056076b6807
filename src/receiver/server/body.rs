//! Reading what a client sends, with bounds on how much and how slowly.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::answer::Refusal;
use crate::digest::Digest;

/// Bytes that must come within each stall time-out, so that no client holds a place by a byte now and then.
const LEAST: u64 = 64 << 10;

/// How long what comes after a refusal is thrown away: a client that still sends would not see the answer otherwise.
const LINGER: Duration = Duration::from_secs(5);

/// A body that is read in pieces.
#[derive(Debug)]
pub(super) struct Pieces {
    body: Incoming,
    limit: u64,
    read: u64,
    stall: Duration,
    since: Instant,
    /// Bytes since then.
    beat: u64,
}

impl Pieces {
    /// At most `limit` bytes, and [`LEAST`] of them in each `stall`.
    pub(super) fn new(body: Incoming, limit: u64, stall: Duration) -> Result<Self, Refusal> {
        if body.size_hint().lower() > limit {
            return Err(Refusal::too_large(limit));
        }
        Ok(Self { body, limit, read: 0, stall, since: Instant::now(), beat: 0 })
    }

    /// The next piece; none at the end of a whole body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let left = self.stall.saturating_sub(self.since.elapsed());
            let frame = timeout(left, self.body.frame()).await.map_err(|_| Refusal::slow())?;
            let Some(frame) = frame else { return Ok(None) };
            // Trailers say nothing here.
            let Ok(piece) = frame.map_err(|_| Refusal::broken())?.into_data() else { continue };
            self.read = self.read.saturating_add(piece.len() as u64);
            if self.read > self.limit {
                return Err(Refusal::too_large(self.limit));
            }
            self.beat = self.beat.saturating_add(piece.len() as u64);
            if self.beat >= LEAST {
                (self.since, self.beat) = (Instant::now(), 0);
            }
            return Ok(Some(piece));
        }
    }

    /// The time that we needed ourselves does not count.
    pub(super) fn forgive(&mut self, ours: Duration) {
        self.since = self.since.checked_add(ours).unwrap_or(self.since);
    }

    /// All of it, in memory, and its digest: made piece by piece, so that nobody else waits for long.
    pub(super) async fn all(mut self) -> Result<(Bytes, Digest), Refusal> {
        let (mut all, mut hasher) = (BytesMut::new(), Sha256::new());
        while let Some(piece) = self.next().await? {
            hasher.update(&piece);
            all.extend_from_slice(&piece);
        }
        Ok((all.freeze(), Digest::finish(hasher)))
    }

    /// Throws away what still comes, for a while, beside everything else.
    pub(super) fn linger(self) {
        linger(self.body);
    }
}

/// Throws away what still comes, for a while, beside everything else.
pub(super) fn linger(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(LINGER, async move { while let Some(Ok(_)) = body.frame().await {} }));
}
