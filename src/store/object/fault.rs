//! What an object store's failure is told as: the status and the store's own code and message, and nothing else.
//!
//! The rest of an answer, or of the client's own text, may repeat what opens the store: S3 sends back the signed request
//! with its session token, and a URL may hold a signature.

use std::error::Error as StdError;
use std::io;

use nix::errno::Errno;
use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Class, Error, printable};

/// How much of the store's own message is shown, in characters.
const SHOWN: usize = 200;

/// `cannot VERB "OBJECT": CAUSE`.
pub(super) fn failed(verb: &str, object: &str, cause: &StoreError) -> Error {
    let (errno, why) = reason(cause);
    let error = Error::new(Class::Io, format!("cannot {verb} \"{object}\": {why}"));
    match errno {
        Some(errno) => error.because(io::Error::from(errno)),
        None => error,
    }
}

/// Whether the object is not there.
pub(super) fn is_missing(cause: &StoreError) -> bool {
    matches!(cause, StoreError::NotFound { .. })
}

/// Whether the object is there already.
pub(super) fn is_taken(cause: &StoreError) -> bool {
    matches!(cause, StoreError::AlreadyExists { .. } | StoreError::Precondition { .. })
}

/// Whether the store does not know how to put an object only where there is none.
pub(super) fn is_unknown_condition(cause: &StoreError) -> bool {
    matches!(cause, StoreError::NotImplemented { .. } | StoreError::NotSupported { .. })
        || status(cause).is_some_and(|status| status.starts_with("501"))
}

fn reason(cause: &StoreError) -> (Option<Errno>, String) {
    let answered = status(cause).map(|status| match told(cause) {
        Some(told) => format!("the store answered {status} ({told})"),
        None => format!("the store answered {status}"),
    });
    let or = |text: &str| answered.clone().unwrap_or_else(|| text.to_owned());
    match cause {
        StoreError::NotFound { .. } => (Some(Errno::ENOENT), or("the store does not have it")),
        StoreError::PermissionDenied { .. } => (Some(Errno::EACCES), or("the store does not permit it")),
        StoreError::Unauthenticated { .. } => (Some(Errno::EACCES), or("the store does not know who asks")),
        _ => match (answered, transport(cause)) {
            (Some(answered), _) => (None, answered),
            (None, Some(HttpErrorKind::Connect)) => {
                (Some(Errno::ECONNREFUSED), "no connection to the store".to_owned())
            }
            (None, Some(HttpErrorKind::Timeout)) => {
                (Some(Errno::ETIMEDOUT), "the store did not answer in time (request-timeout)".to_owned())
            }
            (None, Some(HttpErrorKind::Interrupted)) => {
                (Some(Errno::ECONNRESET), "the connection to the store broke".to_owned())
            }
            (None, Some(_)) => (None, "the request failed on its way".to_owned()),
            (None, None) => (None, "the store's answer makes no sense, or nothing opens it".to_owned()),
        },
    }
}

/// Every error below `cause`, itself first.
fn chain(cause: &StoreError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first: &(dyn StdError + 'static) = cause;
    std::iter::successors(Some(first), |&error| error.source())
}

fn transport(cause: &StoreError) -> Option<HttpErrorKind> {
    chain(cause).find_map(|error| error.downcast_ref::<HttpError>()).map(HttpError::kind)
}

/// The status line of the answer. The client has no type for it that could be reached, only this text.
fn status(cause: &StoreError) -> Option<String> {
    let text = chain(cause).last().map(ToString::to_string)?;
    let after = text.split_once("status code: ")?.1;
    let digits = after.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let phrase: String = after[3..].chars().take_while(|c| c.is_ascii_alphabetic() || *c == ' ').collect();
    Some(format!("{digits}{}", phrase.trim_end()))
}

/// The code and the message of an answer in XML.
fn told(cause: &StoreError) -> Option<String> {
    let text = chain(cause).last().map(ToString::to_string)?;
    let code = element(&text, "Code")?;
    let plain: String = code.chars().filter(char::is_ascii_alphanumeric).take(SHOWN).collect();
    // A message about a signature may hold one.
    let silent = plain.contains("Signature") || plain.contains("Token");
    match element(&text, "Message").filter(|_| !silent) {
        Some(message) => Some(format!("{plain}: {}", printable(message.chars().take(SHOWN).collect::<String>()))),
        None => Some(plain),
    }
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let after = text.split_once(&format!("<{name}>"))?.1;
    after.split_once(&format!("</{name}>")).map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::one_line;

    fn answer(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn of_an_answer_only_status_code_and_message_are_told() {
        let body = "<?xml?><Error><Code>SlowDown</Code><Message>Please reduce\nyour rate.</Message>\
            <StringToSign>hunter2</StringToSign></Error>";
        let error = failed(
            "put",
            "s3://b/x",
            &answer(&format!("Server returned non-2xx status code: 503 Service Unavailable: {body}")),
        );
        let told = "cannot put \"s3://b/x\": the store answered 503 Service Unavailable (SlowDown: Please reduce\\nyour rate.)";
        assert_eq!(one_line(&error), told);
    }

    #[test]
    fn a_message_about_a_signature_or_a_token_is_not_told() {
        for code in ["SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"] {
            let body = format!("<Code>{code}</Code><Message>hunter2</Message>");
            let error = failed("put", "x", &answer(&format!("status code: 403 Forbidden: {body}")));
            assert!(one_line(&error).contains(code) && !one_line(&error).contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_text_of_the_client_is_never_told() {
        let error = failed("put", "x", &answer("error sending request for url (https://h/?sig=hunter2)"));
        assert!(!one_line(&error).contains("hunter2"), "{error}");
    }
}
