//! One connection: TLS if it is asked for, then requests, one after the other.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::requests::Service;
use crate::error::one_line;
use crate::receiver::socket;

/// The most bytes of a request's head, and of a piece of its body.
const BUFFER: usize = 128 << 10;

/// The most headers.
const HEADERS: usize = 64;

/// Serves a client until it, or we, have enough.
pub(super) async fn serve(stream: TcpStream, peer: IpAddr, tls: Option<TlsAcceptor>, service: Arc<Service>) {
    if let Err(cause) = socket::watch_for_silence(&stream) {
        service.complaints.tell(format_args!("cannot set up the connection from {peer}: {cause}"));
        return;
    }
    let Some(tls) = tls else { return requests(stream, peer, service).await };
    match timeout(service.limits.request, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, peer, service).await,
        Ok(Err(cause)) => {
            service.complaints.tell(format_args!("no TLS with {peer}: {}", one_line(&cause)));
        }
        Err(_) => service.complaints.tell(format_args!("no TLS with {peer} in time")),
    }
}

async fn requests(stream: impl AsyncRead + AsyncWrite + Unpin, peer: IpAddr, service: Arc<Service>) {
    let mut http = http1::Builder::new();
    // The time-out begins when a request may come: it bounds idle connections too.
    http.timer(TokioTimer::new()).header_read_timeout(service.limits.request);
    http.max_buf_size(BUFFER).max_headers(HEADERS);
    let requests = service_fn(|request| Arc::clone(&service).serve(peer, request));
    if let Err(cause) = http.serve_connection(TokioIo::new(stream), requests).await {
        service.complaints.tell(format_args!("the connection from {peer} ended: {}", one_line(&cause)));
    }
}
