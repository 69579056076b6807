//! Receivers that lie, break off or fall silent, as a donor sees them.

use super::*;
use std::net::TcpListener;

use crate::digest::Digest;
use crate::error::one_line;

/// What a false receiver does with the connection of a request, when it has read its head.
type Deed = Box<dyn Fn(&mut Raw, &str) + Send>;

/// A receiver that does with each connection what it likes, until the test is over.
fn false_receiver(deed: Deed) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut raw = Raw(stream.unwrap());
            raw.0.set_read_timeout(Some(PATIENCE)).unwrap();
            let head = raw.hear_until("\r\n\r\n");
            deed(&mut raw, &head);
        }
    });
    address
}

fn settings(stall_timeout: Duration) -> ReceiverSettings {
    let allowed = vec!["127.0.0.1/32".parse().unwrap()];
    ReceiverSettings { allowed, tls: false, stall_timeout, ..ReceiverSettings::default() }
}

fn to(deed: impl Fn(&mut Raw, &str) + Send + 'static) -> Receiver {
    open(false_receiver(Box::new(deed)), &settings(PATIENCE)).unwrap()
}

/// Takes the archive as it should, and answers with this.
fn take(raw: &mut Raw, answer: &str) {
    raw.say("HTTP/1.1 100 Continue\r\n\r\n");
    raw.hear_until("0\r\n\r\n");
    raw.say(answer);
}

fn document(status: &str, text: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

fn received(bytes: &[u8]) -> String {
    document("200 OK", &format!("{{\"bytes\":{},\"sha256\":\"{}\"}}", bytes.len(), Digest::of(bytes)))
}

#[test]
fn a_receiver_that_hangs_up_fails_the_backup() {
    let receiver = to(|_, _| {});
    let error = receiver.probe_writable().unwrap_err();
    assert!(one_line(&error).contains("cannot stream to the receiver"), "{}", one_line(&error));
    assert_eq!(error.os_error(), Some(nix::libc::ECONNRESET), "{}", one_line(&error));
    assert!(send(&receiver, &id(1)).is_err());
}

#[test]
fn a_receiver_that_is_silent_fails_the_backup_in_time() {
    let held = Mutex::new(Vec::new());
    let silent = move |raw: &mut Raw, _: &str| held.lock().unwrap().push(raw.0.try_clone().unwrap());
    let receiver = open(false_receiver(Box::new(silent)), &settings(SHORT)).unwrap();
    for error in [receiver.probe_writable().unwrap_err(), send(&receiver, &id(1)).unwrap_err()] {
        assert_eq!(error.class(), Class::Deadline);
        let text = one_line(&error);
        assert!(text.contains("stalls") && text.contains("receiver-stall-timeout"), "{text}");
        assert_eq!(error.os_error(), Some(nix::libc::ETIMEDOUT));
    }
}

#[test]
fn a_receiver_that_takes_nothing_more_fails_the_backup_in_time() {
    let held = Mutex::new(Vec::new());
    let stuck = move |raw: &mut Raw, _: &str| {
        raw.say("HTTP/1.1 100 Continue\r\n\r\n");
        held.lock().unwrap().push(raw.0.try_clone().unwrap());
    };
    let receiver = open(false_receiver(Box::new(stuck)), &settings(SHORT)).unwrap();
    let (_upload, mut archive) = receiver.begin(&id(1), ARCHIVE_NAME, 0).unwrap();
    let piece = vec![7; 1 << 20];
    // More than any system keeps in its buffers.
    let error = (0..1000).find_map(|_| archive.write_all(&piece).err()).expect("it stalls");
    assert!(error.to_string().contains("stalls"), "{error}");
}

#[test]
fn an_answer_before_the_end_of_the_archive_is_no_success() {
    let receiver = to(|raw, _| {
        raw.say("HTTP/1.1 100 Continue\r\n\r\n").say(received(ARCHIVE));
    });
    let (upload, mut archive) = receiver.begin(&id(1), ARCHIVE_NAME, 0).unwrap();
    let piece = vec![7; 1 << 20];
    assert!((0..1000).any(|_| archive.write_all(&piece).is_err()), "it goes on for ever");
    assert!(upload.commit(MANIFEST, &label(&id(1))).is_err());
}

#[test]
fn a_success_before_the_archive_was_begun_is_none() {
    let receiver = to(|raw, _| {
        raw.say(received(ARCHIVE));
    });
    assert_eq!(send(&receiver, &id(1)).unwrap_err().class(), Class::Protocol);
}

#[test]
fn an_archive_that_came_in_another_form_fails_the_backup() {
    let receiver = to(|raw, _| take(raw, &received(b"something else")));
    let error = send(&receiver, &id(1)).unwrap_err();
    assert_eq!(error.class(), Class::Refused);
}

#[test]
fn only_201_means_that_the_backup_exists() {
    for answer in ["200 OK", "202 Accepted", "204 No Content", "302 Found", "500 Oops", "404 Not Found"] {
        let receiver = to(move |raw, head| match head {
            head if head.contains("/archive ") => take(raw, &received(ARCHIVE)),
            head if head.contains("/manifest ") => {
                raw.hear_until("bytes");
                raw.say(received(MANIFEST));
            }
            _ => {
                raw.hear_until("}\n");
                raw.say(document(answer, "{}"));
            }
        });
        assert!(send(&receiver, &id(1)).is_err(), "{answer}");
    }
}

#[test]
fn an_answer_is_bounded_and_cannot_forge_a_line_of_the_log() {
    let receiver = to(|raw, _| {
        let text = format!("a\n\x1b[31mb{}", "x".repeat(1000));
        raw.say(document("500 Oops", &text));
    });
    let text = one_line(&receiver.probe_writable().unwrap_err());
    assert!(text.contains("answered 500: a\\n\\u{1b}[31mb") && text.len() < 400, "{text}");
    let receiver = to(|raw, _| {
        raw.say("HTTP/1.1 200 OK\r\n\r\n");
        while raw.0.write_all(&[b' '; 4096]).is_ok() {}
    });
    assert_eq!(receiver.probe_writable().unwrap_err().class(), Class::Protocol);
}

#[test]
fn a_refusal_has_the_meaning_of_its_status() {
    for (answer, class, errno) in [
        ("401 Unauthorized", Class::Refused, nix::libc::EACCES),
        ("409 Conflict", Class::Refused, nix::libc::EEXIST),
        ("413 Content Too Large", Class::Refused, nix::libc::EFBIG),
        ("503 Service Unavailable", Class::Busy, nix::libc::EBUSY),
        ("507 Insufficient Storage", Class::Io, nix::libc::ENOSPC),
        ("418 I'm a teapot", Class::Io, nix::libc::EREMOTEIO),
    ] {
        let receiver = to(move |raw, _| {
            raw.say(document(answer, "no"));
        });
        let error = receiver.begin(&id(1), ARCHIVE_NAME, 0).map(drop).unwrap_err();
        assert_eq!((error.class(), error.os_error()), (class, Some(errno)), "{answer}");
    }
}

#[test]
fn nobody_listening_is_told_with_the_command_that_does() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = open(address, &settings(PATIENCE)).unwrap().probe_writable().unwrap_err();
    assert_eq!(error.os_error(), Some(nix::libc::ECONNREFUSED));
    assert!(error.advice().unwrap().contains("wsrep_sst_backup receive"));
}
