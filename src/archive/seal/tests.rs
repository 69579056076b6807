//! Random access into age files, and everything that can be wrong with one.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use age::secrecy::SecretString;
use age::x25519;
use proptest::prelude::*;

use super::*;
use crate::archive::read_at::ReadAt;
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result, one_line};

const CHUNK: usize = CHUNK_BYTES as usize;
const STORED_CHUNK: usize = STORED_CHUNK_BYTES as usize;

/// A pair of keys.
fn pair() -> (Recipients, Identities) {
    let key = x25519::Identity::generate();
    let recipient = key.to_public().to_string().parse().unwrap();
    (Recipients::new([recipient]).unwrap(), vec![key].into())
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Where the first chunk begins.
fn payload(sealed: &[u8], len: usize) -> usize {
    sealed.len() - len - 16 * len.div_ceil(CHUNK).max(1)
}

fn opened(sealed: &Vec<u8>, recipients: &Recipients, keys: &Identities) -> Result<Vec<u8>> {
    let opened = Unsealed::open(sealed, recipients, keys)?;
    let mut bytes = vec![0; opened.len() as usize];
    opened.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[test]
fn every_length_comes_back() {
    let (recipients, keys) = pair();
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 17, 100 * CHUNK] {
        let bytes = noise(len);
        let sealed = seal(bytes.clone(), &recipients).unwrap();
        assert!(opened(&sealed, &recipients, &keys).unwrap() == bytes, "{len}");
    }
    assert_eq!(seal(b"as it is".to_vec(), &Recipients::none()).unwrap(), b"as it is");
}

#[test]
fn every_recipient_can_read_it_and_nobody_else() {
    let ((one, first), (two, second), (_, stranger)) = (pair(), pair(), pair());
    let both = Recipients::new(one.iter().chain(two.iter()).cloned()).unwrap();
    let sealed = seal(b"for both".to_vec(), &both).unwrap();
    for keys in [&first, &second] {
        assert_eq!(opened(&sealed, &both, keys).unwrap(), b"for both");
    }
    let error = opened(&sealed, &both, &stranger).unwrap_err();
    assert_eq!(error.class(), Class::Key);
    assert!(error.to_string().contains("does not open it"), "{error}");
    let advice = error.advice().unwrap();
    assert!(both.iter().all(|recipient| advice.contains(&recipient.to_string())), "{advice}");
    let error = opened(&sealed, &both, &Identities::none()).unwrap_err();
    assert_eq!(error.class(), Class::Key);
    assert!(error.to_string().contains("no key was given"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_part_is_the_same_part_of_the_whole(
        len in 0..4 * CHUNK + 100,
        reads in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..20),
        edges in prop::collection::vec((0..5usize, 0..3usize, 0..3usize), 0..10),
    ) {
        let (recipients, keys) = pair();
        let bytes = noise(len);
        let sealed = seal(bytes.clone(), &recipients).unwrap();
        let opened = Unsealed::open(&sealed, &recipients, &keys).unwrap();
        prop_assert_eq!(opened.len(), len as u64);
        let near_edges = edges.into_iter().map(|(chunk, before, length)| {
            let begin = (chunk * CHUNK).saturating_sub(before).min(len);
            (begin, (begin + length).min(len))
        });
        let anywhere = reads.into_iter().map(|(begin, length)| {
            let begin = begin.index(len + 1);
            (begin, begin + length.index(len - begin + 1))
        });
        for (begin, end) in near_edges.chain(anywhere) {
            let mut part = vec![0; end - begin];
            opened.read_exact_at(&mut part, begin as u64).unwrap();
            prop_assert!(part == bytes[begin..end], "{begin}..{end} of {len}");
        }
        prop_assert!(opened.read_exact_at(&mut [0; 2], (len as u64).saturating_sub(1)).is_err());
    }
}

#[test]
fn many_threads_read_at_once() {
    let (recipients, keys) = pair();
    let bytes = noise(40 * CHUNK + 5);
    let sealed = seal(bytes.clone(), &recipients).unwrap();
    let opened = Unsealed::open(&sealed, &recipients, &keys).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (opened, bytes) = (&opened, &bytes);
            scope.spawn(move || {
                for step in 0..40 {
                    let begin = (thread * 7919 + step * 104_729) % (bytes.len() - 70_000);
                    let mut part = vec![0; 70_000];
                    opened.read_exact_at(&mut part, begin as u64).unwrap();
                    assert!(part == bytes[begin..begin + 70_000]);
                }
            });
        }
    });
}

#[test]
fn a_stream_that_was_cut_anywhere_is_not_opened() {
    let (recipients, keys) = pair();
    for len in [3 * CHUNK, 3 * CHUNK + 1000] {
        let sealed = seal(noise(len), &recipients).unwrap();
        let begin = payload(&sealed, len);
        let boundaries = (0..4).map(|chunk| begin + chunk * STORED_CHUNK).filter(|at| *at < sealed.len());
        let around = boundaries.flat_map(|at| [at.saturating_sub(1), at, at + 1, at + 15, at + 16, at + 17]);
        for cut in around.chain([0, 1, 100, begin - 16, sealed.len() - 1]).filter(|cut| *cut < sealed.len()) {
            let error = opened(&sealed[..cut].to_vec(), &recipients, &keys).unwrap_err();
            assert_eq!(error.class(), Class::Damage, "{cut} of {len}: {error}");
            if cut >= begin {
                assert!(error.to_string().contains("truncated"), "{cut}: {error}");
            } else {
                assert!(error.to_string().contains("header of the encryption is damaged"), "{cut}: {error}");
            }
        }
        let mut longer = sealed.clone();
        longer.push(0);
        assert_eq!(opened(&longer, &recipients, &keys).unwrap_err().class(), Class::Damage);
    }
}

#[test]
fn any_changed_bit_of_the_header_is_damage_and_no_wrong_key() {
    let (recipients, keys) = pair();
    let sealed = seal(b"contents".to_vec(), &recipients).unwrap();
    for at in 0..payload(&sealed, 8) {
        for bit in [1, 0x20, 0x80] {
            let mut harmed = sealed.clone();
            harmed[at] ^= bit;
            let error = opened(&harmed, &recipients, &keys).unwrap_err();
            assert_eq!(error.class(), Class::Damage, "bit {bit} of byte {at}: {error}");
        }
    }
}

#[test]
fn a_changed_chunk_is_damage_there_and_nowhere_else() {
    let (recipients, keys) = pair();
    let bytes = noise(6 * CHUNK);
    let mut sealed = seal(bytes.clone(), &recipients).unwrap();
    let begin = payload(&sealed, bytes.len());
    sealed[begin + 2 * STORED_CHUNK + 77] ^= 1;
    let opened = Unsealed::open(&sealed, &recipients, &keys).unwrap();
    for _ in 0..2 {
        for chunk in 0..6 {
            let mut part = vec![0; CHUNK];
            let read = opened.read_exact_at(&mut part, (chunk * CHUNK) as u64);
            match read {
                Err(error) if chunk == 2 => {
                    assert!(error.to_string().starts_with("a chunk of the encryption is damaged"))
                }
                read => {
                    read.unwrap();
                    assert!(part == bytes[chunk * CHUNK..][..CHUNK], "{chunk}");
                }
            }
        }
    }
}

#[test]
fn a_chunk_in_another_ones_place_is_damage() {
    let (recipients, keys) = pair();
    let mut sealed = seal(noise(5 * CHUNK), &recipients).unwrap();
    let begin = payload(&sealed, 5 * CHUNK);
    let (one, two) = sealed[begin..].split_at_mut(2 * STORED_CHUNK);
    one[..STORED_CHUNK].swap_with_slice(&mut two[..STORED_CHUNK]);
    let opened = Unsealed::open(&sealed, &recipients, &keys).unwrap();
    for (chunk, sound) in [(0, false), (1, true), (2, false), (3, true)] {
        assert_eq!(opened.read_exact_at(&mut [0; 10], (chunk * CHUNK) as u64).is_ok(), sound, "{chunk}");
    }
}

#[test]
fn a_passphrase_opens_nothing_and_is_never_tried() {
    let mut passphrase = age::scrypt::Recipient::new(SecretString::from("secret".to_owned()));
    passphrase.set_work_factor(2);
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&passphrase as &dyn age::Recipient)).unwrap();
    let mut writer = encryptor.wrap_output(Vec::new()).unwrap();
    writer.write_all(b"contents").unwrap();
    let (recipients, keys) = pair();
    let mut sealed = writer.finish().unwrap();
    let error = opened(&sealed, &recipients, &keys).unwrap_err();
    assert_eq!(error.class(), Class::Damage);
    assert!(error.to_string().contains("passphrase"), "{error}");
    // A work factor that would take for ever costs nothing.
    let at = sealed.windows(3).position(|bytes| bytes == b" 2\n").unwrap();
    sealed.splice(at..at + 3, *b" 64\n");
    assert!(opened(&sealed, &recipients, &keys).unwrap_err().to_string().contains("passphrase"));
}

/// Counts what is read.
struct Counting {
    bytes: Vec<u8>,
    reads: AtomicU64,
    read_bytes: AtomicU64,
}

impl Counting {
    fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, reads: AtomicU64::new(0), read_bytes: AtomicU64::new(0) }
    }

    fn taken(&self) -> (u64, u64) {
        (self.reads.swap(0, Ordering::Relaxed), self.read_bytes.swap(0, Ordering::Relaxed))
    }
}

impl ReadAt for Counting {
    fn len(&self) -> u64 {
        ReadAt::len(&self.bytes)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.reads.fetch_add(u64::from(!buf.is_empty()), Ordering::Relaxed);
        self.read_bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.bytes.read_exact_at(buf, offset)
    }
}

#[test]
fn a_part_is_fetched_in_one_piece_with_the_chunks_around_it() {
    let (recipients, keys) = pair();
    let bytes = noise(200 * CHUNK);
    let sealed = Counting::of(seal(bytes.clone(), &recipients).unwrap());
    let opened = Unsealed::open(&sealed, &recipients, &keys).unwrap();
    assert_eq!(sealed.taken().0, 2, "head and tail");
    for (begin, len) in [(10 * CHUNK + 5, 4 << 20), (100 * CHUNK, 100), (90 * CHUNK - 1, 2), (199 * CHUNK + 1, 10)] {
        let mut part = vec![0; len];
        opened.read_exact_at(&mut part, begin as u64).unwrap();
        assert!(part == bytes[begin..begin + len]);
        let (reads, read_bytes) = sealed.taken();
        assert!(
            reads <= 1 && read_bytes <= (len + 3 * STORED_CHUNK) as u64,
            "{reads} reads, {read_bytes} bytes for {len}"
        );
    }
}

#[test]
fn a_header_without_end_takes_no_more_than_its_bound() {
    let (recipients, keys) = pair();
    let sealed = seal(b"contents".to_vec(), &recipients).unwrap();
    let first = sealed.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let stanza =
        b"-> X25519 CJM36AHmTbdHSuOQL+NESqyVQE75f2e610iRdLPEN20\nC3ZAeY64NXS4QFrksLm3EGz+uPRyI0eQsWw7LWbbYig\n";
    let mut harmed = sealed.clone();
    harmed.splice(first..first, stanza.repeat(100_000));
    let harmed = Counting::of(harmed);
    let error = Unsealed::open(&harmed, &recipients, &keys).err().unwrap();
    assert_eq!(error.class(), Class::Damage);
    assert!(error.to_string().contains("has no end"), "{error}");
    assert_eq!(harmed.taken(), (1, HEADER_BYTES_MAX as u64));
    // As many as fit are tried, and all belong to somebody else.
    let mut harmed = sealed;
    harmed.splice(first..first, stanza.repeat(150));
    assert_eq!(opened(&harmed, &recipients, &keys).unwrap_err().class(), Class::Damage);
}

#[test]
fn as_many_recipients_as_there_may_be_fit_the_bound_of_a_header() {
    let keys: Vec<x25519::Identity> = (0..RECIPIENTS_MAX).map(|_| x25519::Identity::generate()).collect();
    let all = keys.iter().map(|key| key.to_public().to_string().parse().unwrap());
    let recipients = Recipients::new(all).unwrap();
    let sealed = seal(b"contents".to_vec(), &recipients).unwrap();
    assert!(payload(&sealed, 8) < HEADER_BYTES_MAX / 2);
    let last: Identities = vec![keys[RECIPIENTS_MAX - 1].clone()].into();
    assert_eq!(opened(&sealed, &recipients, &last).unwrap(), b"contents");
}

#[test]
fn a_failure_to_read_keeps_its_cause() {
    struct Bad<'a>(&'a Vec<u8>, std::ops::Range<u64>);
    impl ReadAt for Bad<'_> {
        fn len(&self) -> u64 {
            ReadAt::len(self.0)
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            if offset < self.1.end && self.1.start < offset + buf.len() as u64 {
                return Err(Error::io("read", "archive", std::io::Error::from_raw_os_error(5)));
            }
            self.0.read_exact_at(buf, offset)
        }
    }
    let (recipients, keys) = pair();
    let sealed = seal(noise(10 * CHUNK), &recipients).unwrap();
    let middle = sealed.len() as u64 / 2;
    let bad = Bad(&sealed, middle..middle + 1);
    let opened = Unsealed::open(&bad, &recipients, &keys).unwrap();
    let error = opened.read_exact_at(&mut vec![0; 10 * CHUNK], 0).unwrap_err();
    assert_eq!(error.os_error(), Some(5), "{}", one_line(&error));
    let end = sealed.len() as u64;
    let bad = Bad(&sealed, end - 1..end);
    assert_eq!(Unsealed::open(&bad, &recipients, &keys).err().unwrap().os_error(), Some(5));
}

const SECRET: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

/// What comes of a file of keys with this text.
fn keys_of(text: &[u8]) -> Result<Identities> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Identities::read(&[file.path().to_owned()], &Cancel::default())
}

#[test]
fn a_file_of_keys_has_comments_and_any_ends_of_lines() {
    for text in [SECRET.to_owned(), format!("# created: today\n# public key: age1...\n\n{SECRET}\r\n")] {
        assert!(!keys_of(text.as_bytes()).unwrap().is_empty());
    }
    assert!(Identities::read(&[], &Cancel::default()).unwrap().is_empty());
}

#[test]
fn what_is_no_file_of_keys_is_refused_and_never_shown() {
    let truncated = &SECRET[..SECRET.len() - 1];
    let many = format!("{SECRET}\n").repeat(65);
    let cases: [(&[u8], &str); 10] = [
        (b"", "holds no identity"),
        (b"# nothing\n", "holds no identity"),
        (truncated.as_bytes(), "line 1"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "line 1"),
        (b"age-encryption.org/v1\n-> scrypt x 18\n", "passphrase"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\n", "passphrase"),
        (b"\xff\xfe", "not a file of age identities"),
        (b"age-encryption.org/v1\n-> X25519 x\n\xff", "encrypted itself"),
        (many.as_bytes(), "more than 64 keys"),
        (&[b'#'; 70_000], "larger than"),
    ];
    for (text, told) in cases {
        let error = keys_of(text).unwrap_err();
        assert_eq!(error.class(), Class::Key, "{error}");
        let said = format!("{} {:?} {error:?}", one_line(&error), error.advice());
        assert!(said.contains(told), "{said}");
        assert!(!said.contains("GQ9778"), "{said}");
    }
    assert_eq!(Identities::read(&["/nonexistent".into()], &Cancel::default()).unwrap_err().os_error(), Some(2));
    assert!(!format!("{:?}", keys_of(SECRET.as_bytes()).unwrap()).contains("GQ"));
}

#[test]
fn a_pipe_without_writer_is_not_waited_for_and_an_endless_one_only_until_a_stop() {
    let base = tempfile::tempdir().unwrap();
    let pipe = base.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let read = |cancel: &Cancel| Identities::read(std::slice::from_ref(&pipe), cancel);
    assert!(read(&Cancel::default()).unwrap_err().to_string().contains("holds no identity"));
    let both = |path| std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut writer = both(&pipe);
    writer.write_all(SECRET.as_bytes()).unwrap();
    let stopped = Cancel::default();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&stopped));
        // A writer that never closes its end is waited for until somebody stops it.
        stopped.raise(crate::cancel::Reason::Signal("SIGINT"));
        assert_eq!(reader.join().unwrap().unwrap_err().class(), Class::Cancelled);
    });
}

#[test]
fn keys_may_come_through_a_pipe() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    std::fs::File::from(writer).write_all(SECRET.as_bytes()).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
    assert!(!Identities::read(&[path.into()], &Cancel::default()).unwrap().is_empty());
}
