//! A receiver as a destination: the archive streams there while it is made, and the backup exists when it has said so.
//!
//! Every wait ends after `receiver-stall-timeout` and hears [`Cancel`].

mod admit;
mod dial;
mod upload;

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use ipnet::IpNet;

use self::admit::admit;
use self::dial::Dial;
use super::tls::{self, Pair};
use super::token::Token;
use super::wire::{Ready, Resource};
use crate::archive::label::BackupId;
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};
use crate::runtime::Runtime;
use crate::store::{Begun, Destination};
use crate::wsrep::address::HostPort;

/// How receivers are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverSettings {
    /// The networks of the hosts that may be streamed to.
    pub allowed: Vec<IpNet>,
    /// Whether they have to prove who they are, and everything is encrypted.
    pub tls: bool,
    /// The authorities that are believed, in PEM.
    pub ca: Option<PathBuf>,
    /// The file of the token that is shown.
    pub token_file: Option<PathBuf>,
    /// What we prove with who we are, in PEM.
    pub certificate: Option<PathBuf>,
    /// The key to it, in PEM.
    pub key: Option<PathBuf>,
    /// How long nothing may move.
    pub stall_timeout: Duration,
}

impl Default for ReceiverSettings {
    fn default() -> Self {
        Self {
            allowed: Vec::new(),
            tls: true,
            ca: None,
            token_file: None,
            certificate: None,
            key: None,
            stall_timeout: Duration::from_secs(300),
        }
    }
}

/// A receiver that may be streamed to.
#[derive(Debug)]
pub struct Receiver {
    link: Arc<Link>,
}

/// What all work with that speaks to a receiver.
#[derive(Debug)]
struct Link {
    dial: Dial,
    runtime: Runtime,
    stall_timeout: Duration,
    cancel: Cancel,
}

impl Receiver {
    /// The receiver of an SST address: refused unless every address of its host is allowed. Nothing is connected to yet.
    pub fn open(receiver: &HostPort, settings: &ReceiverSettings, cancel: &Cancel) -> Result<Self> {
        let runtime = Runtime::start("receiver", "receiver-stall-timeout")?;
        let limit = settings.stall_timeout;
        let lookup = |name: &str| look_up(name, receiver.port(), &runtime, limit, cancel);
        let addresses = admit(receiver, &settings.allowed, Box::new(lookup))?;
        let token = settings.token_file.as_deref().map(Token::read).transpose()?;
        let tls = if settings.tls { Some(settings.client()?) } else { None };
        if tls.is_none() {
            tracing::warn!("receiver-tls = off: the backup goes to \"{receiver}\" in the clear, and the token with it");
        }
        let dial = Dial { receiver: receiver.clone(), addresses, tls, token };
        Ok(Self { link: Arc::new(Link { dial, runtime, stall_timeout: limit, cancel: cancel.clone() }) })
    }

    fn ready(&self) -> Result<Ready> {
        let dial = self.link.dial.clone();
        let request = dial.request(&Resource::Ready, Empty::<Bytes>::new())?;
        self.link.wait(async move { dial.ask(request).await })??.json(&self.link.dial)
    }
}

impl ReceiverSettings {
    fn client(&self) -> Result<Arc<rustls::ClientConfig>> {
        let Some(ca) = &self.ca else {
            return Err(Error::new(Class::Config, "streaming to a receiver needs receiver-ca")
                .hint("it is the file of the authority that has signed the receiver's certificate"));
        };
        let own: Option<(&Path, &Path)> = match (&self.certificate, &self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(Error::new(Class::Config, "receiver-cert and receiver-key are only of use together")),
        };
        tls::client(ca, own.map(|(certificate, key)| Pair { certificate, key }))
    }
}

impl Link {
    /// Waits for `work`, but not for ever, and not when the run was stopped.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        // What is answered at once would be done all the same.
        self.cancel.check()?;
        let waited = self.runtime.wait(self.stall_timeout, Some(&self.cancel), work);
        waited.map_err(|error| {
            if error.class() != Class::Deadline || self.cancel.is_raised() {
                return error;
            }
            let text = format!("the receiver \"{}\" stalls", self.dial.receiver);
            Error::new(Class::Deadline, text).because(error)
        })
    }
}

impl Destination for Receiver {
    fn place(&self) -> String {
        let scheme = if self.link.dial.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.link.dial.receiver)
    }

    /// Asks whether a backup would be taken now.
    fn probe_writable(&self) -> Result<()> {
        self.ready().map(drop)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(Some(self.ready()?.free_bytes))
    }

    fn begin(&self, id: &BackupId, archive_name: &'static str, _expected_bytes: u64) -> Result<Begun> {
        upload::begin(&self.link, id, archive_name)
    }
}

fn look_up(name: &str, port: u16, runtime: &Runtime, limit: Duration, cancel: &Cancel) -> Result<Vec<IpAddr>> {
    let asked = (name.to_owned(), port);
    let found = runtime.wait(limit, Some(cancel), async move {
        tokio::net::lookup_host(asked).await.map(|found| found.map(|address| address.ip()).collect())
    })?;
    found.map_err(|cause| {
        Error::new(Class::NotFound, format!("cannot find the receiver's host \"{name}\"")).because(cause)
    })
}
