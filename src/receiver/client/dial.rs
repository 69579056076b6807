//! One request on a connection of its own, to an address that was checked before.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::{Class, Error, Result, printable};
use crate::receiver::socket;
use crate::receiver::token::Token;
use crate::receiver::wire::{ANSWER_LIMIT, Resource};
use crate::wsrep::address::{Host, HostPort};

/// How long one address may take to accept a connection before the next is tried.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a connection that is not needed any more may take to end.
const PARTING: Duration = Duration::from_secs(1);

/// How much of a refusal's text is shown, in characters.
const SHOWN: usize = 200;

/// Where and how a receiver is reached.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) receiver: HostPort,
    /// Its addresses, checked.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) token: Option<Token>,
}

/// What a receiver has answered, with a status that means yes.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    text: Bytes,
}

/// A connection's own task; it ends with the request, whatever became of that.
struct Driver(JoinHandle<()>);

impl Driver {
    /// Lets the connection say farewell, so that the receiver does not take it for broken.
    async fn part(mut self) {
        let _ = timeout(PARTING, &mut self.0).await;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Dial {
    /// A request for `resource`, with what proves who asks.
    pub(super) fn request<B>(&self, resource: &Resource, body: B) -> Result<Request<B>> {
        let request = Request::builder().method(resource.method()).uri(resource.path()).header(HOST, self.host());
        let mut request =
            request.body(body).map_err(|cause| Error::new(Class::Io, "cannot write a request").because(cause))?;
        if let Some(shown) = self.token.as_ref().and_then(Token::header) {
            request.headers_mut().insert(AUTHORIZATION, shown);
        }
        Ok(request)
    }

    /// Sends `request` and waits for its answer; one that means no is an error.
    pub(super) async fn ask<B>(&self, request: Request<B>) -> Result<Answer>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let stream = self.connect().await?;
        match &self.tls {
            None => self.exchange(stream, request).await,
            Some(config) => {
                let name = self.server_name()?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
                self.exchange(stream.map_err(|cause| self.no_tls(cause))?, request).await
            }
        }
    }

    async fn exchange<B>(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<B>,
    ) -> Result<Answer>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let is_put = request.method() == Method::PUT;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|cause| self.broken(cause))?;
        let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
        let answer = sender.send_request(request).await.map_err(|cause| self.broken(cause))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
        // What it means is in the status.
        let text = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if !status.is_success() {
            return Err(self.refused(status, &text, is_put));
        }
        drop(sender);
        driver.part().await;
        Ok(Answer { status, text })
    }

    async fn connect(&self) -> Result<TcpStream> {
        let mut last = io::Error::from(Errno::EADDRNOTAVAIL);
        for address in &self.addresses {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let set = socket::watch_for_silence(&stream);
                    set.map_err(|cause| self.failed("connect to").because(cause))?;
                    return Ok(stream);
                }
                Ok(Err(cause)) => last = cause,
                Err(_) => last = Errno::ETIMEDOUT.into(),
            }
        }
        Err(self.failed("connect to").because(last).hint("on the host that waits: wsrep_sst_backup receive"))
    }

    fn host(&self) -> String {
        self.receiver.to_string()
    }

    fn server_name(&self) -> Result<ServerName<'static>> {
        match self.receiver.host() {
            Host::Ip(address) => Ok(ServerName::IpAddress((*address).into())),
            Host::Name(name) => {
                let named = ServerName::try_from(name.clone());
                named.map_err(|cause| self.failed("ask for the certificate of").because(cause))
            }
        }
    }

    /// `cannot VERB the receiver "HOST:PORT"`.
    fn failed(&self, verb: &str) -> Error {
        Error::new(Class::Io, format!("cannot {verb} the receiver \"{}\"", self.receiver))
    }

    fn no_tls(&self, cause: io::Error) -> Error {
        let error = self.failed("speak TLS with").because(cause);
        error.hint("its certificate must be for that host and signed by an authority of receiver-ca")
    }

    /// The connection ended before there was an answer.
    fn broken(&self, cause: hyper::Error) -> Error {
        if std::error::Error::source(&cause).is_some() {
            return self.failed("stream to").because(cause);
        }
        self.failed("stream to").because(io::Error::from(Errno::ECONNRESET))
    }

    fn refused(&self, status: StatusCode, text: &[u8], is_put: bool) -> Error {
        let said: String = String::from_utf8_lossy(text).trim_end().chars().take(SHOWN).collect();
        let said = if said.is_empty() { String::new() } else { format!(": {}", printable(said)) };
        let text = format!("the receiver \"{}\" answered {}{said}", self.receiver, status.as_u16());
        let (class, errno) = meaning(status);
        let error = Error::new(class, text).because(io::Error::from(errno));
        match status {
            StatusCode::UNAUTHORIZED => {
                error.hint("receiver-token-file must hold the token that the receiver was given")
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED if !is_put => {
                error.hint("what answers there is not `wsrep_sst_backup receive`")
            }
            _ => error,
        }
    }
}

/// The class of a refusal, and what the operating system would have said.
fn meaning(status: StatusCode) -> (Class, Errno) {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (Class::Refused, Errno::EACCES),
        StatusCode::CONFLICT => (Class::Refused, Errno::EEXIST),
        StatusCode::UNPROCESSABLE_ENTITY => (Class::Refused, Errno::EBADMSG),
        StatusCode::PAYLOAD_TOO_LARGE => (Class::Refused, Errno::EFBIG),
        StatusCode::INSUFFICIENT_STORAGE => (Class::Io, Errno::ENOSPC),
        StatusCode::REQUEST_TIMEOUT => (Class::Deadline, Errno::ETIMEDOUT),
        StatusCode::SERVICE_UNAVAILABLE => (Class::Busy, Errno::EBUSY),
        _ => (Class::Io, Errno::EREMOTEIO),
    }
}

impl Answer {
    /// Whether something was made.
    pub(super) fn is_created(&self) -> bool {
        self.status == StatusCode::CREATED
    }

    /// The document.
    pub(super) fn json<T: DeserializeOwned>(&self, dial: &Dial) -> Result<T> {
        serde_json::from_slice(&self.text).map_err(|_| dial.senseless())
    }
}

impl Dial {
    /// An answer that this protocol does not know.
    pub(super) fn senseless(&self) -> Error {
        Error::new(Class::Protocol, format!("the answer of the receiver \"{}\" makes no sense", self.receiver))
            .hint("what answers there is not `wsrep_sst_backup receive`, or another version of it")
    }
}

/// What a request of ours has in `Expect`: the receiver says when it has begun the upload.
pub(super) fn expect_continue() -> HeaderValue {
    HeaderValue::from_static("100-continue")
}
