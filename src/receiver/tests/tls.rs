//! Who is believed, and who is served, over TLS.

#[allow(unreachable_pub, reason = "it belongs to the integration tests too")]
#[path = "../../../tests/it/authority.rs"]
mod authority;

use self::authority::{Authority, Files};
use super::*;
use crate::error::one_line;

fn tls(files: &Files, client_ca: Option<PathBuf>) -> TlsFiles {
    TlsFiles { certificate: files.certificate.clone(), key: files.key.clone(), client_ca }
}

fn secured(running: &Running, authority: &Authority) -> ReceiverSettings {
    ReceiverSettings { tls: true, ca: Some(authority.ca()), ..running.settings() }
}

#[test]
fn a_backup_goes_over_tls() {
    let authority = Authority::new();
    let running = Running::start(WIDE, Some(tls(&authority.sign("127.0.0.1"), None)));
    let receiver = open(running.address, &secured(&running, &authority)).unwrap();
    assert_eq!(receiver.place(), format!("https://{}", running.address));
    receiver.probe_writable().unwrap();
    send(&receiver, &id(1)).unwrap();
    assert_whole(&running.repository(), &id(1));
}

#[test]
fn a_receiver_with_another_authority_or_name_is_not_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let running = Running::start(WIDE, Some(tls(&authority.sign("127.0.0.1"), None)));
    let error = open(running.address, &secured(&running, &other)).unwrap().probe_writable().unwrap_err();
    assert!(one_line(&error).contains("cannot speak TLS") && one_line(&error).contains("UnknownIssuer"), "{error:?}");
    assert!(error.advice().unwrap().contains("receiver-ca"));
    let running = Running::start(WIDE, Some(tls(&authority.sign("127.0.0.2"), None)));
    let error = open(running.address, &secured(&running, &authority)).unwrap().probe_writable().unwrap_err();
    assert!(one_line(&error).contains("certificate not valid for name"), "{}", one_line(&error));
}

#[test]
fn a_token_is_not_sent_before_the_receiver_is_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let eavesdropper = std::thread::spawn(move || Raw(listener.accept().unwrap().0).hear());
    let running = Running::start(WIDE, Some(tls(&authority.sign("127.0.0.1"), None)));
    let settings = ReceiverSettings { stall_timeout: SHORT, ..secured(&running, &other) };
    assert!(open(address, &settings).unwrap().probe_writable().is_err());
    assert!(!eavesdropper.join().unwrap().contains(SECRET));
}

#[test]
fn a_client_without_the_certificate_that_is_asked_for_is_not_served() {
    let (authority, clients, other) = (Authority::new(), Authority::new(), Authority::new());
    let running = Running::start(WIDE, Some(tls(&authority.sign("127.0.0.1"), Some(clients.ca()))));
    let plain = secured(&running, &authority);
    let showing =
        |files: Files| ReceiverSettings { certificate: Some(files.certificate), key: Some(files.key), ..plain.clone() };
    for settings in [plain.clone(), showing(other.sign("donor"))] {
        let error = open(running.address, &settings).unwrap().probe_writable().unwrap_err();
        assert_eq!(error.class(), Class::Io, "{}", one_line(&error));
        assert!(one_line(&error).contains("alert"), "{}", one_line(&error));
    }
    let receiver = open(running.address, &showing(clients.sign("donor"))).unwrap();
    send(&receiver, &id(1)).unwrap();
    // The certificate does not replace the token.
    let settings = ReceiverSettings { token_file: None, ..showing(clients.sign("donor")) };
    let error = open(running.address, &settings).unwrap().probe_writable().unwrap_err();
    assert!(one_line(&error).contains("answered 401"), "{}", one_line(&error));
}

#[test]
fn a_handshake_that_does_not_go_on_is_left() {
    let authority = Authority::new();
    let files = tls(&authority.sign("127.0.0.1"), None);
    let running = Running::start(Limits { request: SHORT, ..WIDE }, Some(files));
    for half in [&b""[..], b"\x16\x03\x01\x02\x00", b"GET /v1/ready HTTP/1.1\r\n\r\n"] {
        let answer = Raw::to(running.address).say(half).hear();
        assert_eq!(status(&answer), 0, "{answer}");
    }
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let authority = Authority::new();
    let (one, two) = (authority.sign("one"), authority.sign("two"));
    let allowed = vec!["127.0.0.0/8".parse().unwrap()];
    let base = ReceiverSettings { allowed, ..ReceiverSettings::default() };
    let ca = Some(authority.ca());
    let cases = [
        (base.clone(), "receiver-ca"),
        (ReceiverSettings { ca: ca.clone(), key: Some(one.key.clone()), ..base.clone() }, "only of use together"),
        (ReceiverSettings { ca: Some(one.key.clone()), ..base.clone() }, "no certificates"),
        (
            ReceiverSettings {
                ca: ca.clone(),
                certificate: Some(one.certificate.clone()),
                key: Some(two.key.clone()),
                ..base.clone()
            },
            "is not that of the certificate",
        ),
        (
            ReceiverSettings {
                ca,
                certificate: Some(one.certificate.clone()),
                key: Some(one.certificate.clone()),
                ..base.clone()
            },
            "no private key",
        ),
    ];
    for (settings, wanted) in cases {
        let error = open("127.0.0.1:9".parse().unwrap(), &settings).map(drop).unwrap_err();
        assert_eq!(error.class(), Class::Config);
        assert!(one_line(&error).contains(wanted), "{}", one_line(&error));
    }
}

#[test]
fn a_key_that_everybody_can_read_is_refused() {
    let authority = Authority::new();
    let files = authority.sign("127.0.0.1");
    std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o644)).unwrap();
    let base = tempfile::tempdir().unwrap();
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: Some(tls(&files, None)),
        token: None,
        limits: WIDE,
        once: false,
    };
    let error = Server::bind(settings, LocalRepository::open(base.path()).unwrap()).map(drop).unwrap_err();
    assert!(error.to_string().contains("read by everybody"), "{error}");
}
