//! Clients that mean harm, or do not know better: whatever they do, the next one is served and nothing of theirs is left.

use super::*;
use crate::archive::label::{Label, Stored};
use crate::digest::Digest;
use crate::store::MANIFEST_LIMIT;

#[test]
fn without_the_token_nothing_is_told() {
    let running = Running::new(WIDE);
    let one = path(&id(1), "archive");
    for shown in [
        "",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer a-secret-of-the-test\r\n",
        "Authorization: Basic eDp5\r\n",
    ] {
        for (method, resource) in
            [("GET", "/v1/ready"), ("PUT", &one), ("GET", "/"), ("PUT", "/../etc/passwd"), ("X", "/")]
        {
            let answer =
                Raw::to(running.address).say(format!("{method} {resource} HTTP/1.1\r\nHost: x\r\n{shown}\r\n")).hear();
            assert_eq!(status(&answer), 401, "{answer}");
            assert!(answer.to_lowercase().contains("www-authenticate: bearer"), "{answer}");
            assert!(!answer.contains(SECRET));
        }
    }
    running.serves(&id(1));
}

#[test]
fn no_path_of_the_wire_is_a_path() {
    let running = Running::new(WIDE);
    let long = format!("/v1/backups/{}/archive", "2".repeat(10_000));
    for resource in [
        "/",
        "/etc/passwd",
        "/v1/backups/../../../../etc/passwd",
        "/v1/backups/../archive",
        "/v1/backups/..%2f..%2fetc/archive",
        "/v1/backups/%2e%2e/archive",
        "/v1/backups/.partial-x/archive",
        "/v1/backups//etc/passwd/archive",
        "/v1/backups/20261122T100946Z-node2-7f3a/../../archive",
        "/v1/backups/20261122T100946Z-..-7f3a/archive",
        "/v1/backups/20261122T100946Z-node2-7f3a/backup.json",
        "/v1/backups/20261122T100946Z-node2-7f3a/archive?x=../..",
        &long,
    ] {
        let answer = put(running.address, resource, b"x");
        assert_eq!(status(&answer), 404, "{resource}: {answer}");
    }
    assert_eq!(running.names(), [""; 0]);
    running.serves(&id(1));
}

#[test]
fn every_resource_has_one_method() {
    let running = Running::new(WIDE);
    let one = path(&id(1), "archive");
    for (method, resource, allowed) in [
        ("PUT", "/v1/ready", "GET"),
        ("GET", &one, "PUT"),
        ("POST", &one, "PUT"),
        ("DELETE", &one, "PUT"),
        ("BREW", &one, "PUT"),
    ] {
        let answer = Raw::to(running.address).ask(method, resource, "").hear();
        assert_eq!(status(&answer), 405, "{answer}");
        assert!(answer.to_lowercase().contains(&format!("allow: {}", allowed.to_lowercase())), "{answer}");
    }
}

#[test]
fn what_is_not_http_is_not_served() {
    let running = Running::new(WIDE);
    for noise in [&b"\x16\x03\x01\x02\x00"[..], b"HELO x\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET / HTTP/9\r\n\r\n"] {
        let answer = Raw::to(running.address).say(noise).say("\r\n\r\n").hear();
        assert!(matches!(status(&answer), 0 | 400 | 505), "{answer}");
    }
    running.serves(&id(1));
}

#[test]
fn a_head_is_bounded() {
    let running = Running::new(WIDE);
    let huge = format!("X: {}\r\n", "x".repeat(1 << 20));
    let many: String = (0..200).map(|number| format!("X-{number}: x\r\n")).collect();
    let path = format!("/{}", "x".repeat(1 << 20));
    for (path, more) in [("/v1/ready", huge.as_str()), ("/v1/ready", &many), (&path, "")] {
        let answer = Raw::to(running.address).ask("GET", path, more).hear();
        assert!(matches!(status(&answer), 0 | 400 | 414 | 431), "{answer}");
    }
    running.serves(&id(1));
}

#[test]
fn a_client_that_says_nothing_or_only_half_is_left() {
    let running = Running::new(Limits { request: SHORT, ..WIDE });
    for half in ["", "P", "PUT /v1/backups/", "GET /v1/ready HTTP/1.1\r\nHost: x\r\n"] {
        let answer = Raw::to(running.address).say(half).hear();
        assert!(matches!(status(&answer), 0 | 408), "{half:?}: {answer}");
    }
    // A connection that has been served may not stay for ever either.
    let answer = Raw::to(running.address).ask("GET", "/v1/ready", "").hear();
    assert_eq!(status(&answer), 200, "{answer}");
}

#[test]
fn more_connections_than_are_served_keep_nobody_out_for_long() {
    let running = Running::new(Limits { request: SHORT, ..WIDE });
    let idle: Vec<Raw> = (0..200).map(|_| Raw::to(running.address)).collect();
    let settings = ReceiverSettings { stall_timeout: PATIENCE, ..running.settings() };
    open(running.address, &settings).unwrap().probe_writable().unwrap();
    drop(idle);
}

#[test]
fn a_body_that_stands_still_or_drips_is_left() {
    let running = Running::new(Limits { stall: SHORT, max_uploads: 1, ..WIDE });
    let head = "Archive-Name: archive.tar.zst\r\nTransfer-Encoding: chunked\r\n";
    let answer = Raw::to(running.address).ask("PUT", &path(&id(1), "archive"), head).say("4\r\nfour\r\n").hear();
    assert_eq!(status(&answer), 408, "{answer}");
    let mut drip = Raw::to(running.address);
    drip.ask("PUT", &path(&id(1), "archive"), head);
    drip.0.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let dripping = (0..PATIENCE.as_millis() / 10).any(|_| {
        drip.say("1\r\nx\r\n");
        let mut answer = [0; 12];
        drip.0.read(&mut answer).is_ok_and(|length| &answer[..length] == b"HTTP/1.1 408")
    });
    assert!(dripping, "it was never left");
    running.serves(&id(1));
}

#[test]
fn a_body_that_breaks_off_is_not_an_archive() {
    let running = Running::new(Limits { max_uploads: 1, ..WIDE });
    let chunked = "Archive-Name: archive.tar.zst\r\nTransfer-Encoding: chunked\r\n";
    let sized = "Archive-Name: archive.tar.zst\r\nContent-Length: 100\r\n";
    for (head, body) in
        [(chunked, "4\r\nfour\r\n"), (chunked, "4\r\nfo"), (chunked, "zz\r\nfour\r\n0\r\n\r\n"), (sized, "four")]
    {
        let mut raw = Raw::to(running.address);
        raw.ask("PUT", &path(&id(1), "archive"), head).say(body);
        raw.0.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = raw.hear();
        assert!(matches!(status(&answer), 0 | 400), "{answer}");
        let answer = put(running.address, &path(&id(1), "manifest"), MANIFEST);
        assert_eq!(status(&answer), 409, "{answer}");
    }
    assert_eq!(running.names(), [""; 0]);
    running.serves(&id(1));
}

#[test]
fn an_archive_comes_in_a_known_form_and_size() {
    let running = Running::new(Limits { max_size: 1000, ..WIDE });
    let to = path(&id(1), "archive");
    for (head, wanted) in [
        ("Content-Length: 4\r\n", 400),
        ("Archive-Name: ../../etc/passwd\r\nContent-Length: 4\r\n", 400),
        ("Archive-Name: archive.tar.xz\r\nContent-Length: 4\r\n", 400),
        ("Archive-Name: archive.tar\r\nContent-Length: 1001\r\n", 413),
        ("Archive-Name: archive.tar\r\nContent-Length: 9223372036854775807\r\n", 413),
    ] {
        let answer = Raw::to(running.address).ask("PUT", &to, head).say("four").hear();
        assert_eq!(status(&answer), wanted, "{head}: {answer}");
    }
    let chunked = "Archive-Name: archive.tar\r\nTransfer-Encoding: chunked\r\n";
    let body = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001));
    let answer = Raw::to(running.address).ask("PUT", &to, chunked).say(body).hear();
    assert_eq!(status(&answer), 413, "{answer}");
    assert_eq!(running.names(), [""; 0]);
}

#[test]
fn manifest_and_label_are_bounded() {
    let running = Running::new(WIDE);
    put_two(running.address, &id(1));
    let huge = format!("Content-Length: {}\r\n", MANIFEST_LIMIT + 1);
    let answer = Raw::to(running.address).ask("PUT", &path(&id(1), "manifest"), &huge).hear();
    assert_eq!(status(&answer), 413, "{answer}");
    put_two(running.address, &id(1));
    let answer = put(running.address, &path(&id(1), "label"), &vec![b' '; (1 << 20) + 1]);
    assert_eq!(status(&answer), 413, "{answer}");
    assert_eq!(running.names(), [""; 0]);
    running.serves(&id(1));
}

#[test]
fn what_a_client_may_hold_is_bounded() {
    let running = Running::new(Limits { request: SHORT, max_uploads: 2, ..WIDE });
    let head = "Archive-Name: archive.tar.zst\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n";
    let begin = |id: &BackupId| {
        let mut raw = Raw::to(running.address);
        raw.ask("PUT", &path(id, "archive"), head);
        raw
    };
    let mut first = begin(&id(1));
    assert_eq!(status(&first.hear_until("\r\n\r\n")), 100);
    let answer = begin(&id(1)).hear();
    assert_eq!(status(&answer), 409, "the same backup twice: {answer}");
    let mut second = begin(&id(2));
    assert_eq!(status(&second.hear_until("\r\n\r\n")), 100);
    let answer = begin(&id(3)).hear();
    assert_eq!(status(&answer), 503, "a third: {answer}");
    let answer = Raw::to(running.address).ask("GET", "/v1/ready", "Connection: close\r\n").hear();
    assert_eq!(status(&answer), 503, "{answer}");
    // They were not disturbed.
    for raw in [&mut first, &mut second] {
        raw.say("4\r\nfour\r\n0\r\n\r\n");
        assert_eq!(status(&raw.hear_until("\r\n\r\n")), 200);
    }
}

#[test]
fn the_parts_come_in_order() {
    let running = Running::new(WIDE);
    for part in ["manifest", "label"] {
        let answer = put(running.address, &path(&id(1), part), b"x");
        assert_eq!(status(&answer), 409, "{answer}");
    }
    assert_eq!(status(&put(running.address, &path(&id(1), "archive"), ARCHIVE)), 200);
    let text = label_text(&label(&id(1))).unwrap();
    assert_eq!(status(&put(running.address, &path(&id(1), "label"), &text)), 409);
    assert_eq!(running.names(), [""; 0]);
    assert_eq!(status(&put(running.address, &path(&id(1), "manifest"), MANIFEST)), 200);
    assert_eq!(status(&put(running.address, &path(&id(1), "label"), &text)), 201);
    assert_whole(&running.repository(), &id(1));
    assert_eq!(status(&put(running.address, &path(&id(1), "label"), &text)), 409, "it is over");
}

#[test]
fn an_upload_that_does_not_go_on_is_given_up() {
    let running = Running::new(Limits { request: SHORT, max_uploads: 1, ..WIDE });
    assert_eq!(status(&put(running.address, &path(&id(1), "archive"), ARCHIVE)), 200);
    // The only slot is free again when it is.
    let started = std::time::Instant::now();
    while send(&running.receiver(), &id(2)).is_err() {
        assert!(started.elapsed() < PATIENCE);
    }
    let answer = put(running.address, &path(&id(1), "manifest"), MANIFEST);
    assert_eq!(status(&answer), 409, "{answer}");
    assert!(running.names().iter().all(|name| name.starts_with(id(2).as_str())));
}

#[test]
fn an_upload_that_begins_anew_replaces_one_that_does_not_go_on() {
    let running = Running::new(Limits { max_uploads: 1, ..WIDE });
    assert_eq!(status(&put(running.address, &path(&id(1), "archive"), b"something else")), 200);
    running.serves(&id(1));
}

#[test]
fn a_label_that_lies_is_not_published() {
    let running = Running::new(WIDE);
    let good = label(&id(1));
    let stored = |stored: &Stored, bytes: u64, sha256: Digest| Stored { name: stored.name.clone(), bytes, sha256 };
    let (archive, manifest) = (&good.archive, &good.manifest);
    let other = Digest::of(b"other");
    let lies = [
        Label { archive: stored(archive, archive.bytes + 1, archive.sha256), ..good.clone() },
        Label { archive: stored(archive, archive.bytes, other), ..good.clone() },
        Label { manifest: stored(manifest, 0, manifest.sha256), ..good.clone() },
        Label { manifest: stored(manifest, manifest.bytes, other), ..good.clone() },
        Label { archive: Stored { name: "../../etc/passwd".into(), ..archive.clone() }, ..good.clone() },
        Label { archive: Stored { name: "archive.tar".into(), ..archive.clone() }, ..good.clone() },
        Label { manifest: Stored { name: "/etc/shadow".into(), ..manifest.clone() }, ..good.clone() },
        Label { codec: crate::archive::codec::Codec::None, ..good.clone() },
        label(&id(2)),
    ];
    let texts = lies.iter().map(|lie| label_text(lie).unwrap());
    for text in texts.chain([b"no label".to_vec(), b"{}".to_vec(), vec![b'['; 100_000]]) {
        put_two(running.address, &id(1));
        let answer = put(running.address, &path(&id(1), "label"), &text);
        assert_eq!(status(&answer), 422, "{answer}");
        let answer = put(running.address, &path(&id(1), "label"), &label_text(&good).unwrap());
        assert_eq!(status(&answer), 409, "there is no second try: {answer}");
    }
    assert_eq!(running.names(), [""; 0]);
    running.serves(&id(1));
}

#[test]
fn a_link_in_the_repository_is_not_followed() {
    let running = Running::new(WIDE);
    let other = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(other.path(), running.base.path().join(id(1).as_str())).unwrap();
    put_two(running.address, &id(1));
    let answer = put(running.address, &path(&id(1), "label"), &label_text(&label(&id(1))).unwrap());
    assert_eq!(status(&answer), 409, "{answer}");
    assert_eq!(fixture::names(other.path()), [""; 0]);
    running.serves(&id(2));
}

#[test]
fn two_requests_in_one_are_not_confused() {
    let running = Running::new(Limits { request: SHORT, ..WIDE });
    let both = "Archive-Name: archive.tar.zst\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let hidden = format!("0\r\n\r\nGET /v1/ready HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n\r\n");
    let answer = Raw::to(running.address).ask("PUT", &path(&id(1), "archive"), both).say(hidden).hear();
    assert!(!answer.contains("free_bytes"), "{answer}");
}
