//! Encrypted archives: the same as others once they are opened, and whatever happens to one is found.

use age::x25519;

use super::super::codec::FRAME_BYTES;
use super::super::seal::{Archive, seal};
use super::super::verify::verify_stored;
use super::*;

/// An encrypted archive with what belongs to it.
struct Sealed {
    tree: Tree,
    finished: Finished<Vec<u8>>,
    label: Label,
    keys: Identities,
}

fn pair() -> (Recipients, Identities) {
    let key = x25519::Identity::generate();
    let recipient = key.to_public().to_string().parse().unwrap();
    (Recipients::new([recipient]).unwrap(), vec![key].into())
}

impl Sealed {
    fn new(codec: Codec) -> Self {
        let mut tree = Tree::new();
        tree.insert(b"a".to_vec(), Some(contents(1, 2 * FRAME_BYTES + 700)));
        tree.insert(b"b".to_vec(), Some(contents(2, 5000)));
        tree.insert(b"c".to_vec(), None);
        tree.insert(b"e".to_vec(), Some(contents(3, FRAME_BYTES)));
        let (recipients, keys) = pair();
        let finished = encode_for(&recipients, &tree, codec, 2);
        let stored = seal(finished.manifest.to_stored().unwrap(), &recipients).unwrap();
        let mut label = Label { recipients, ..label(&finished) };
        label.archive.name = codec.archive_name(Seal::Age).to_owned();
        label.manifest.bytes = stored.len() as u64;
        label.manifest.sha256 = Digest::of(&stored);
        Self { tree, finished, label, keys }
    }

    fn verify(&self, stored: &Vec<u8>) -> Result<Report> {
        let (cancel, progress) = (Cancel::default(), Progress::default());
        verify(stored, &self.finished.manifest, &self.label, &self.keys, count(2), &cancel, &progress)
    }

    fn stored_only(&self, stored: &Vec<u8>) -> Report {
        verify_stored(stored, &self.label, &Cancel::default(), &Progress::default()).unwrap()
    }

    fn restore(&self, stored: &Vec<u8>) -> Result<Tree> {
        restore_tree(&Archive::open(stored, &self.label, &self.keys)?, &self.finished.manifest, 2)
    }

    /// Where the first chunk begins.
    fn payload(&self) -> usize {
        let opened = Archive::open(&self.finished.sink, &self.label, &self.keys).unwrap();
        let chunks = opened.len().div_ceil(65_536);
        self.finished.sink.len() - (opened.len() + 16 * chunks) as usize
    }
}

#[test]
fn an_encrypted_archive_of_every_codec_comes_back_and_is_sound() {
    for codec in CODECS {
        let sealed = Sealed::new(codec);
        let stored = &sealed.finished.sink;
        assert_eq!(sealed.finished.sha256, Digest::of(stored), "the digest is that of the stored bytes");
        assert_eq!(sealed.finished.stored_bytes, stored.len() as u64);
        assert!(stored.starts_with(b"age-encryption.org/v1\n-> X25519 "));
        assert!(sealed.restore(stored).unwrap() == sealed.tree, "{codec:?}");
        let report = sealed.verify(stored).unwrap();
        assert_eq!((report.damages, report.stored_bytes), (vec![], stored.len() as u64));
        assert_eq!(sealed.stored_only(stored).damages, []);
    }
}

#[test]
fn decrypted_it_is_the_archive_that_it_would_have_been() {
    let sealed = Sealed::new(Codec::Zstd(1));
    let opened = Archive::open(&sealed.finished.sink, &sealed.label, &sealed.keys).unwrap();
    let mut bytes = vec![0; opened.len() as usize];
    opened.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == encode(&sealed.tree, Codec::Zstd(1), 1).sink);
}

#[test]
fn a_changed_byte_is_found_with_a_key_and_without() {
    let sealed = Sealed::new(Codec::Zstd(1));
    let payload = sealed.payload();
    let len = sealed.finished.sink.len();
    for at in [0, 30, payload - 10, payload, payload + 70_000, len / 2, len - 1] {
        let mut harmed = sealed.finished.sink.clone();
        harmed[at] ^= 4;
        let report = sealed.verify(&harmed).unwrap();
        assert!(!report.damages.is_empty(), "byte {at}");
        let [damage] = &sealed.stored_only(&harmed).damages[..] else { panic!("byte {at}") };
        assert_eq!(damage.what, "its SHA-256 is not the label's");
        let error = sealed.restore(&harmed);
        // In the middle of the file the damage is only met where somebody reads.
        assert!(
            error.as_ref().is_err_and(|error| error.class() == Class::Damage) || at == len - 1,
            "byte {at}: {error:?}"
        );
    }
}

#[test]
fn a_damaged_chunk_is_damage_of_the_files_in_it_and_of_no_other() {
    let sealed = Sealed::new(Codec::None);
    let frames = sealed.finished.manifest.frames().unwrap();
    let entry =
        |name: &[u8]| sealed.finished.manifest.files.iter().position(|entry| entry.path.as_bytes() == name).unwrap();
    let piece = sealed.finished.manifest.files[entry(b"a")].pieces[1];
    let middle = frames[piece.frame as usize].offset as usize + FRAME_BYTES / 2;
    let mut harmed = sealed.finished.sink.clone();
    harmed[sealed.payload() + middle / 65_536 * 65_552 + 100] ^= 1;
    let report = sealed.verify(&harmed).unwrap();
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    assert_eq!(damage.path.as_ref().unwrap().to_string(), "a");
    assert_eq!((damage.offset, damage.length), (FRAME_BYTES as u64, FRAME_BYTES as u64));
    assert!(damage.what.contains("a chunk of the encryption is damaged"), "{damage}");
    // Others are restored all the same.
    let opened = Archive::open(&harmed, &sealed.label, &sealed.keys).unwrap();
    let sink = Collect::default();
    let wanted = |index| index == entry(b"e");
    let (cancel, progress) = (Cancel::default(), Progress::default());
    restore(&opened, &sealed.finished.manifest, &wanted, &sink, count(2), &cancel, &progress).unwrap();
    assert_eq!(sink.0.into_inner().unwrap().len(), 1);
}

#[test]
fn a_cut_or_lengthened_archive_says_so_with_a_key_and_without() {
    let sealed = Sealed::new(Codec::Zstd(1));
    let len = sealed.finished.sink.len();
    let chunk = sealed.payload() + 65_552;
    for cut in [0, 10, chunk, len - 1] {
        let harmed = sealed.finished.sink[..cut].to_vec();
        for report in [sealed.verify(&harmed).unwrap(), sealed.stored_only(&harmed)] {
            let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
            assert_eq!(
                (damage.what.as_str(), damage.offset, damage.length),
                ("the archive is truncated", cut as u64, (len - cut) as u64)
            );
        }
        assert_eq!(sealed.restore(&harmed).unwrap_err().class(), Class::Damage);
    }
    let mut longer = sealed.finished.sink.clone();
    longer.extend_from_slice(b"more");
    for report in [sealed.verify(&longer).unwrap(), sealed.stored_only(&longer)] {
        assert_eq!(report.damages[0].what, "something follows the end of the archive");
    }
}

#[test]
fn another_archive_to_the_same_key_is_not_taken_for_this_one() {
    let mut sealed = Sealed::new(Codec::Zstd(1));
    let mut tree = sealed.tree.clone();
    tree.insert(b"b".to_vec(), Some(contents(9, 5000)));
    let other = encode_for(&sealed.label.recipients, &tree, Codec::Zstd(1), 2);
    assert!(!sealed.verify(&other.sink).unwrap().damages.is_empty());
    assert!(!sealed.stored_only(&other.sink).damages.is_empty());
    // Not even with a label that was made to fit: the manifest knows every piece.
    sealed.label.archive.bytes = other.stored_bytes;
    sealed.label.archive.sha256 = other.sha256;
    let report = sealed.verify(&other.sink).unwrap();
    assert!(report.damages.iter().any(|damage| damage.path.as_ref().is_some_and(|path| path.to_string() == "b")));
}

#[test]
fn the_wrong_key_and_none_are_told_apart_from_damage_and_from_each_other() {
    let mut sealed = Sealed::new(Codec::Zstd(1));
    let stored = sealed.finished.sink.clone();
    sealed.keys = Identities::none();
    let none = sealed.restore(&stored).unwrap_err();
    sealed.keys = pair().1;
    let wrong = sealed.restore(&stored).unwrap_err();
    assert_eq!((none.class(), wrong.class()), (Class::Key, Class::Key));
    let (none, wrong) = (crate::error::one_line(&none), crate::error::one_line(&wrong));
    assert!(none.contains("no key was given") && wrong.contains("does not open it"), "{none} {wrong}");
    assert_eq!(sealed.verify(&stored).unwrap_err().class(), Class::Key);
}

#[test]
fn a_sink_that_fails_under_the_encryption_ends_the_run_with_its_cause() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| std::io::Error::from_raw_os_error(28))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (recipients, _) = pair();
    for room in [0, 1000, 100_000] {
        let mut encoder = encoder_for(&recipients, Codec::None, 2, Full(room));
        let added = (0..8).try_for_each(|index| {
            let bytes = contents(index, 200_000);
            encoder.add_bytes(meta(format!("f{index}").as_bytes(), 0), &bytes).map(drop)
        });
        let error = added.and_then(|()| encoder.finish(head()).map(drop)).unwrap_err();
        assert_eq!(error.os_error(), Some(28), "{room}");
    }
}
