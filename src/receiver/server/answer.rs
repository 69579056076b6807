//! What a client is answered: a status, and a sentence or a document.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

use crate::archive::label::BackupId;

/// The form of every answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// A request that is not served, with the reason that the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
    allow: Option<Method>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), allow: None }
    }

    /// The client has not shown who it is.
    pub(super) fn unknown() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "a token is needed that this receiver knows")
    }

    /// There is nothing of that name, or it does not do that.
    pub(super) fn no_such() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such resource: see docs/receive.md")
    }

    /// The resource has one method, and it is not that of the request.
    pub(super) fn method(known: Method) -> Self {
        let text = format!("the method of this resource is {known}");
        Self { allow: Some(known), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, text) }
    }

    /// The client sends nothing, or too slowly.
    pub(super) fn slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too little came in the time that it may take")
    }

    /// The connection, or the form of the body, broke.
    pub(super) fn broken() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "the body ended before its end")
    }

    /// More than is allowed.
    pub(super) fn too_large(limit: u64) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {limit} bytes are not taken"))
    }

    /// The disk is full.
    pub(super) fn no_room() -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "there is no space left on the receiver's device")
    }

    /// There is a backup of that name.
    pub(super) fn taken(id: &BackupId) -> Self {
        Self::new(StatusCode::CONFLICT, format!("there is a backup {id} already"))
    }

    /// Something that the client cannot help.
    pub(super) fn internal(text: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// The answer; the connection ends after it.
    pub(super) fn answer(&self) -> Answer {
        let mut answer = document(self.status, "text/plain; charset=utf-8", format!("{}\n", self.text).into());
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(method) = self.allow.as_ref().and_then(|method| HeaderValue::from_str(method.as_str()).ok()) {
            headers.insert(ALLOW, method);
        }
        answer
    }
}

/// An answer with a document in JSON.
pub(super) fn json(status: StatusCode, content: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(content).unwrap_or_default();
    document(status, "application/json", text.into())
}

fn document(status: StatusCode, kind: &'static str, text: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
