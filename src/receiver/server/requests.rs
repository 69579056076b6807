//! What is done at each request.
//!
//! Who it is comes first, then what is asked for; only then anything is read of a body. A label is believed as far as it says
//! what was received here.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, EXPECT, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Request, StatusCode};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use super::answer::{Answer, Refusal, json};
use super::body::{Pieces, linger};
use super::complaints::Complaints;
use super::uploads::{Parked, Turn, Uploads};
use super::writer::{Job, Writer};
use super::{Limits, Published};
use crate::archive::label::{BackupId, Label};
use crate::digest::Digest;
use crate::error::{Error, one_line};
use crate::receiver::token::Token;
use crate::receiver::wire::{ARCHIVE_NAME, Part, Ready, Received, Resource, known_archive_name};
use crate::store::{Destination, LABEL_LIMIT, LocalRepository, MANIFEST_LIMIT, manifest_name};

/// All that requests work with.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) repository: Arc<LocalRepository>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) token: Option<Token>,
    pub(super) limits: Limits,
    pub(super) published: UnboundedSender<Published>,
    pub(super) complaints: Complaints,
}

impl Service {
    /// Answers one request.
    pub(super) async fn serve(self: Arc<Self>, peer: IpAddr, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let (head, body) = request.into_parts();
        if self.token.as_ref().is_some_and(|token| !token.is_shown_by(head.headers.get(AUTHORIZATION))) {
            self.complaints.tell(format_args!("{peer} has shown no token that is known here"));
            return Ok(Refusal::unknown().answer());
        }
        Ok(match self.dispatch(peer, &head, body).await {
            Ok(answer) => answer,
            Err(refusal) => {
                self.complaints.tell(format_args!("refused {peer}: {} ({})", refusal.text, refusal.status));
                refusal.answer()
            }
        })
    }

    async fn dispatch(&self, peer: IpAddr, head: &Parts, body: Incoming) -> Result<Answer, Refusal> {
        let resource = Resource::parse(head.uri.path()).filter(|_| head.uri.query().is_none());
        let accepted = match resource.ok_or_else(Refusal::no_such) {
            Ok(resource) if resource.method() != head.method => Err(Refusal::method(resource.method())),
            other => other,
        };
        // Who waits for our leave to send the body does not send it.
        let is_sent = !head.headers.contains_key(EXPECT);
        match accepted {
            Ok(Resource::Ready) => self.ready().await,
            Ok(Resource::Part(id, Part::Archive)) => match self.begin(&id, peer, &head.headers, &body).await {
                Ok((turn, writer, archive_name)) => self.archive(turn, writer, archive_name, &id, body).await,
                Err(refusal) => Err(after(body, is_sent, refusal)),
            },
            Ok(Resource::Part(id, part)) => match self.uploads.resume(&id, peer) {
                Ok((turn, parked)) if part == Part::Manifest => self.manifest(turn, parked, body).await,
                Ok((turn, parked)) => self.label(turn, parked, &id, peer, body).await,
                Err(refusal) => Err(after(body, is_sent, refusal)),
            },
            Err(refusal) => Err(after(body, is_sent, refusal)),
        }
    }

    /// Whether a backup would be taken now.
    async fn ready(&self) -> Result<Answer, Refusal> {
        if !self.uploads.has_slot() {
            let text = "as many uploads as are allowed are under way";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        let repository = Arc::clone(&self.repository);
        let probe = move || repository.probe_writable().and_then(|()| repository.free_bytes());
        let free = timeout(self.limits.stall, tokio::task::spawn_blocking(probe)).await;
        let free = free.map_err(|_| Refusal::internal("the receiver's disk does not answer"))?;
        let free =
            free.map_err(|_| Refusal::internal("the receiver cannot look"))?.map_err(|error| unwritable(&error))?;
        let free_bytes = free.unwrap_or(u64::MAX).min(self.limits.max_size);
        Ok(json(StatusCode::OK, &Ready { free_bytes }))
    }

    /// Everything that can be refused before anything is read.
    async fn begin(
        &self,
        id: &BackupId,
        peer: IpAddr,
        headers: &HeaderMap,
        body: &Incoming,
    ) -> Result<(Turn, Writer, &'static str), Refusal> {
        let known = headers.get(ARCHIVE_NAME).and_then(|name| known_archive_name(name.as_bytes()));
        let archive_name = known.ok_or_else(|| {
            let text = format!(
                "the header {ARCHIVE_NAME} must be archive.tar, archive.tar.gz or archive.tar.zst, or that with .age"
            );
            Refusal::new(StatusCode::BAD_REQUEST, text)
        })?;
        let expected_bytes = body.size_hint().lower();
        if expected_bytes > self.limits.max_size {
            return Err(Refusal::too_large(self.limits.max_size));
        }
        let (turn, slot) = self.uploads.claim(id, peer).await?;
        let events = self.published.clone();
        let published = Box::new(move |label: &Label| {
            // Nobody listens any more only when the process ends.
            let _ = events.send(Published { id: label.id.clone(), bytes: label.archive.bytes, peer });
        });
        let repository = Arc::clone(&self.repository);
        let job = Job { repository, id: id.clone(), archive_name, expected_bytes, slot, published };
        let started = timeout(self.limits.stall, Writer::start(job)).await;
        match started.unwrap_or_else(|_| Err(Refusal::internal("the receiver's disk does not answer"))) {
            Ok(writer) => Ok((turn, writer, archive_name)),
            Err(refusal) => {
                turn.finish();
                Err(refusal)
            }
        }
    }

    async fn archive(
        &self,
        turn: Turn,
        mut writer: Writer,
        archive_name: &'static str,
        id: &BackupId,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let mut pieces = Pieces::new(body, self.limits.max_size, self.limits.stall)?;
        let received = match self.store(&mut pieces, &mut writer).await {
            Ok(Some(received)) => Ok(received),
            Ok(None) => Err(writer.why(id).await),
            Err(refusal) => Err(refusal),
        };
        match received {
            Ok(archive) => {
                turn.park(Parked { writer, archive_name, archive, manifest: None });
                Ok(json(StatusCode::OK, &archive))
            }
            Err(refusal) => {
                pieces.linger();
                Err(refusal)
            }
        }
    }

    /// Hands everything that comes to the writer; nothing if that has ended.
    async fn store(&self, pieces: &mut Pieces, writer: &mut Writer) -> Result<Option<Received>, Refusal> {
        let late = |_| Refusal::internal("the receiver's disk does not answer");
        while let Some(piece) = pieces.next().await? {
            let before = Instant::now();
            if timeout(self.limits.stall, writer.piece(piece)).await.map_err(late)?.is_err() {
                return Ok(None);
            }
            pieces.forgive(before.elapsed());
        }
        Ok(timeout(self.limits.stall, writer.end()).await.map_err(late)?.ok())
    }

    async fn manifest(&self, turn: Turn, parked: Parked, body: Incoming) -> Result<Answer, Refusal> {
        let (manifest, sha256) = self.small(body, MANIFEST_LIMIT).await?;
        let received = Received { bytes: manifest.len() as u64, sha256 };
        turn.park(Parked { manifest: Some((manifest, received)), ..parked });
        Ok(json(StatusCode::OK, &received))
    }

    async fn label(
        &self,
        turn: Turn,
        mut parked: Parked,
        id: &BackupId,
        peer: IpAddr,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let Some((manifest, received)) = parked.manifest.take() else {
            turn.park(parked);
            let text = format!("there is no manifest of {id} yet: it comes before the label");
            return Err(Refusal::new(StatusCode::CONFLICT, text));
        };
        let (text, _) = self.small(body, LABEL_LIMIT).await?;
        let label = Label::parse(&text).map_err(|error| untrue(&one_line(&error)))?;
        check(&label, id, &parked, received)?;
        // The backup is published or not, whether the client waits for the answer or not.
        let commit = tokio::spawn(async move {
            let committed = parked.writer.commit(label, manifest).await;
            if committed.is_ok() {
                turn.finish();
            }
            committed
        });
        commit.await.map_err(|_| Refusal::internal("the upload has ended"))??;
        tracing::debug!("{peer} knows that {id} is published");
        Ok(json(StatusCode::CREATED, &serde_json::json!({ "id": id })))
    }

    async fn small(&self, body: Incoming, limit: u64) -> Result<(Bytes, Digest), Refusal> {
        Pieces::new(body, limit, self.limits.request)?.all().await
    }
}

/// The refusal, after which the client may go on sending for a while.
fn after(body: Incoming, is_sent: bool, refusal: Refusal) -> Refusal {
    if is_sent {
        linger(body);
    }
    refusal
}

/// A label says what was received here, and nothing else.
fn check(label: &Label, id: &BackupId, parked: &Parked, manifest: Received) -> Result<(), Refusal> {
    let stored = |stored: &crate::archive::label::Stored| Received { bytes: stored.bytes, sha256: stored.sha256 };
    if label.id != *id {
        return Err(untrue("it is that of another backup"));
    }
    if label.archive.name != parked.archive_name || label.codec.archive_name(label.seal()) != parked.archive_name {
        return Err(untrue("the archive came in another form"));
    }
    if label.manifest.name != manifest_name(label.seal()) {
        return Err(untrue("it names another manifest"));
    }
    if stored(&label.archive) != parked.archive {
        return Err(untrue("the archive that came has another size or digest"));
    }
    if stored(&label.manifest) != manifest {
        return Err(untrue("the manifest that came has another size or digest"));
    }
    Ok(())
}

fn untrue(why: &str) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the label is not that of what was received: {why}"))
}

fn unwritable(error: &Error) -> Refusal {
    tracing::warn!("{}", one_line(error));
    match error.os_error() {
        Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => Refusal::no_room(),
        _ => Refusal::internal("the receiver's repository cannot be written: its own log says why"),
    }
}
