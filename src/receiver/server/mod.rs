//! The receiver: takes backups into a local repository, from whoever shows the token or the certificate.
//!
//! One thread speaks to all clients, one more writes each upload. What is not committed has no name on the disk, so that not even
//! `kill -9` leaves anything of it. Bounded are: connections, uploads, bytes of every head and body, and the time that
//! each of them may take.

mod answer;
mod body;
mod complaints;
mod connection;
mod requests;
mod uploads;
mod writer;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener as Listener;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use self::complaints::Complaints;
use self::requests::Service;
use self::uploads::Uploads;
use super::tls::{self, Pair};
use super::token::Token;
use crate::archive::label::BackupId;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::store::LocalRepository;

/// The most connections; a further one waits until another ends.
const CONNECTIONS: u32 = 64;

/// How often it is looked whether the program is to end.
const LOOK: Duration = Duration::from_millis(50);

/// How long a system that accepts no connection, for instance because there are no descriptors, is left alone.
const PAUSE: Duration = Duration::from_millis(200);

/// How long the end waits for answers that are on their way, and for disks.
const PARTING: Duration = Duration::from_secs(10);

/// What a receiver is to be.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens; port 0 is any that is free.
    pub listen: SocketAddr,
    /// With what it proves who it is; without it everything goes in the clear.
    pub tls: Option<TlsFiles>,
    /// What every client shows.
    pub token: Option<Token>,
    /// What clients may do.
    pub limits: Limits,
    /// It ends when it has one backup.
    pub once: bool,
}

/// The certificates.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Its own, and those between it and its authority, in PEM.
    pub certificate: PathBuf,
    /// The key to it, in PEM.
    pub key: PathBuf,
    /// The authorities of clients: without a certificate of theirs nobody may speak.
    pub client_ca: Option<PathBuf>,
}

/// What clients may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of an archive.
    pub max_size: u64,
    /// Uploads at once.
    pub max_uploads: u32,
    /// How long an archive may stand still.
    pub stall: Duration,
    /// How long anything else may take.
    pub request: Duration,
}

/// A backup that has come.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its id.
    pub id: BackupId,
    /// Bytes of its archive.
    pub bytes: u64,
    /// Who sent it.
    pub peer: IpAddr,
}

/// A receiver that listens; nobody is served before [`run`](Self::run).
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    token: Option<Token>,
    limits: Limits,
    once: bool,
    repository: Arc<LocalRepository>,
}

impl Server {
    /// Reads the certificates, looks at the repository, and listens.
    pub fn bind(settings: Settings, repository: LocalRepository) -> Result<Self> {
        let Settings { listen, tls, token, limits, once } = settings;
        repository.sweep()?;
        let pair = |files: &TlsFiles| {
            let own = Pair { certificate: &files.certificate, key: &files.key };
            tls::server(own, files.client_ca.as_deref())
        };
        let tls = tls.as_ref().map(pair).transpose()?;
        let failed = |cause| Error::io("listen on", listen.to_string(), cause);
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, tls, token, limits, once, repository: Arc::new(repository) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is reached, as a URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `cancel` is raised, or one backup has come if there is to be one only. Uploads that are under way then
    /// end, and nothing of them is left.
    pub fn run(self, cancel: &Cancel, mut told: impl FnMut(&Published) -> Result<()>) -> Result<()> {
        let failed = |cause| Error::io("start", "the receiver", cause);
        let runtime = Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(4).build();
        let runtime = runtime.map_err(failed)?;
        let ended = runtime.block_on(self.serve(cancel, &mut told));
        // A disk that does not answer does not hold the program.
        runtime.shutdown_background();
        ended
    }

    async fn serve(self, cancel: &Cancel, told: &mut impl FnMut(&Published) -> Result<()>) -> Result<()> {
        let listener = Listener::from_std(self.listener).map_err(|cause| Error::io("start", "the receiver", cause))?;
        let (published, mut events) = unbounded_channel();
        let uploads = Uploads::new(&self.limits);
        let service = Arc::new(Service {
            repository: self.repository,
            uploads: Arc::clone(&uploads),
            token: self.token,
            limits: self.limits,
            published,
            complaints: Complaints::new(),
        });
        let connections = Arc::new(Semaphore::new(CONNECTIONS as usize));
        let accepting =
            tokio::spawn(accept(listener, Arc::clone(&connections), self.tls.map(TlsAcceptor::from), service));
        let ended = listen(cancel, &mut events, self.once, told).await;
        if self.once && ended.is_ok() && !cancel.is_raised() {
            // The client is to have its answer; that it closes the connection shows that it has.
            let _ = timeout(PARTING, answered(&connections)).await;
        }
        accepting.abort();
        uploads.end(PARTING).await;
        while let Ok(event) = events.try_recv() {
            told(&event)?;
        }
        ended
    }
}

/// Tells what comes until it is the end.
async fn listen(
    cancel: &Cancel,
    events: &mut UnboundedReceiver<Published>,
    once: bool,
    told: &mut impl FnMut(&Published) -> Result<()>,
) -> Result<()> {
    while !cancel.is_raised() {
        if let Ok(Some(event)) = timeout(LOOK, events.recv()).await {
            told(&event)?;
            if once {
                break;
            }
        }
    }
    Ok(())
}

/// Returns when no connection is open.
async fn answered(connections: &Semaphore) {
    // One permit is the acceptor's, who waits for the next.
    let _ = connections.acquire_many(CONNECTIONS - 1).await;
}

/// Accepts connections for ever; ending this ends all of them.
async fn accept(listener: Listener, free: Arc<Semaphore>, tls: Option<TlsAcceptor>, service: Arc<Service>) {
    let mut open = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection = connection::serve(stream, peer.ip().to_canonical(), tls.clone(), Arc::clone(&service));
                open.spawn(held(permit, connection));
            }
            Err(cause) => {
                service.complaints.tell(format_args!("cannot accept a connection: {cause}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn held(permit: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(permit);
}
