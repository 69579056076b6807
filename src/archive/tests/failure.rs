//! An archive that cannot be finished: a prompt error with its cause, no hang, and no end of a stream.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::codec::FRAME_BYTES;
use super::*;
use crate::cancel::Reason;

/// A disk that is full at the write with this number; counts the writes.
#[derive(Clone)]
struct FullAt {
    limit: usize,
    writes: Arc<AtomicUsize>,
}

impl FullAt {
    fn new(limit: usize) -> Self {
        Self { limit, writes: Arc::default() }
    }
}

impl Write for FullAt {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.writes.fetch_add(1, Ordering::SeqCst) == self.limit {
            return Err(io::Error::from_raw_os_error(28));
        }
        Ok(buf.len().min(700_000))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn some_backup<W: Write + Send + 'static>(mut encoder: Encoder<W>) -> Result<Finished<W>> {
    for name in [b"a", b"b", b"c"] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&contents(1, FRAME_BYTES + 5)).unwrap();
        encoder.add_file(meta(name, FRAME_BYTES as u64 + 5), Arc::new(file), 0)?;
        encoder.add_directory(meta(b"directory", 0))?;
    }
    encoder.barrier()?;
    encoder.finish(head())
}

#[test]
fn a_full_disk_is_told_with_its_errno_at_every_write() {
    for codec in CODECS {
        let sound = some_backup(encoder(codec, 2, FullAt::new(usize::MAX))).unwrap_or_else(|error| panic!("{error}"));
        let writes = sound.sink.writes.load(Ordering::SeqCst);
        assert!(writes > 4);
        for limit in 0..writes {
            let error = some_backup(encoder(codec, 2, FullAt::new(limit))).err().unwrap();
            assert_eq!(error.os_error(), Some(28), "{error} at write {limit}");
            assert_eq!(error.class(), Class::Io);
        }
    }
}

#[test]
fn nobody_reads_on_for_long_after_the_disk_is_full() {
    let options = EncodeOptions { codec: Codec::Zstd(1), workers: count(2), recipients: Recipients::none() };
    let progress = Arc::new(Progress::default());
    let mut encoder = Encoder::start(options, FullAt::new(0), Cancel::default(), Arc::clone(&progress)).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 40).unwrap();
    let error = encoder.add_file(meta(b"a", 1 << 40), Arc::new(file), 0).unwrap_err();
    assert_eq!(error.os_error(), Some(28));
    assert!(progress.raw_done() <= 16 * FRAME_BYTES as u64, "{} bytes", progress.raw_done());
}

#[test]
fn a_flush_that_fails_fails_the_archive() {
    struct NoFlush;
    impl Write for NoFlush {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(122))
        }
    }
    assert_eq!(some_backup(encoder(Codec::Zstd(1), 2, NoFlush)).err().unwrap().os_error(), Some(122));
}

#[test]
fn a_sink_that_panics_is_an_error_and_not_a_hang() {
    struct Panics;
    impl Write for Panics {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("a sink that panics");
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = some_backup(encoder(Codec::None, 1, Panics)).err().unwrap();
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for size in [10, 100_000] {
        let mut encoder = encoder(Codec::Zstd(1), 2, Vec::new());
        let unreadable = Arc::new(std::fs::File::open(directory.path()).unwrap());
        let added = encoder.add_file(meta(b"shop/orders.ibd", size), unreadable, 0);
        let error = added.and_then(|_| encoder.barrier()).unwrap_err();
        assert_eq!(error.os_error(), Some(21), "a directory cannot be read as a file");
        assert_eq!(error.to_string(), "cannot read \"shop/orders.ibd\"");
        assert!(encoder.finish(head()).is_err(), "an archive with a hole is never finished");
    }
}

#[test]
fn a_file_that_shrank_is_reported_by_the_barrier_and_never_finished_with() {
    for size in [10, 100_000, 2 * FRAME_BYTES as u64 + 1] {
        let mut encoder = encoder(Codec::Zstd(1), 2, Vec::new());
        let whole = add_file(&mut encoder, meta(b"whole", 0), b"1234567");
        let short = || Arc::new(tempfile::tempfile().unwrap());
        let id = encoder.add_file(meta(b"short", size), short(), 0).unwrap();
        assert_eq!(encoder.barrier().unwrap(), [id]);
        assert_eq!(encoder.barrier().unwrap(), [], "a barrier tells what is new");
        encoder.forget(id);
        encoder.forget(whole);
        add_file(&mut encoder, meta(b"short", 0), b"now it is");
        let again = encoder.add_file(meta(b"again", size), short(), 0).unwrap();
        assert_eq!(encoder.barrier().unwrap(), [again]);
        let error = encoder.finish(head()).err().unwrap();
        assert_eq!(error.class(), Class::Unsettled);
        assert!(error.to_string().contains("\"again\""), "{error}");
    }
}

#[test]
fn the_stream_of_a_file_that_shrank_stays_valid() {
    let mut encoder = encoder(Codec::Gzip(1), 2, Vec::new());
    let file = tempfile::tempfile().unwrap();
    let id = encoder.add_file(meta(b"a", 70_000), Arc::new(file), 0).unwrap();
    assert_eq!(encoder.barrier().unwrap(), [id]);
    add_file(&mut encoder, meta(b"a", 0), b"shorter");
    let finished = encoder.finish(head()).unwrap();
    assert_eq!(verified(&finished.sink, &finished.manifest, &label(&finished)).unwrap().damages, []);
    assert_eq!(
        restore_tree(&finished.sink, &finished.manifest, 1).unwrap()[&b"a"[..]].as_deref(),
        Some(&b"shorter"[..])
    );
}

#[test]
fn a_stopped_run_gets_its_reason_at_the_next_step() {
    let cancel = Cancel::default();
    let options = EncodeOptions { codec: Codec::Zstd(1), workers: count(2), recipients: Recipients::none() };
    let mut encoder = Encoder::start(options, Vec::new(), cancel.clone(), Arc::default()).unwrap();
    add_file(&mut encoder, meta(b"a", 0), b"a");
    cancel.raise(Reason::Signal("SIGTERM"));
    assert_eq!(encoder.add_directory(meta(b"d", 0)).unwrap_err().class(), Class::Cancelled);
    assert_eq!(encoder.barrier().unwrap_err().class(), Class::Cancelled);
    assert_eq!(encoder.finish(head()).err().unwrap().class(), Class::Cancelled);
}

#[test]
fn an_encoder_that_is_dropped_ends_its_threads_and_writes_no_end() {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(buf)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = Shared::default();
    let mut encoder = encoder(Codec::None, 2, sink.clone());
    add_file(&mut encoder, meta(b"a", 0), &contents(1, 3 * FRAME_BYTES + 5));
    encoder.barrier().unwrap();
    drop(encoder);
    assert_eq!(Arc::strong_count(&sink.0), 1, "the writer is gone");
    let written = sink.0.lock().unwrap();
    assert!(!written.windows(20).any(|window| window.starts_with(b".wsrep_sst_backup/m")));
    assert!(written.last_chunk::<1024>().is_none_or(|end| *end != [0; 1024]));
}

#[test]
fn what_would_not_restore_is_not_taken() {
    let mut encoder = encoder(Codec::Zstd(1), 1, Vec::new());
    let own = encoder.add_directory(meta(b".wsrep_sst_backup", 0)).unwrap_err();
    assert_eq!(own.class(), Class::Refused);
    encoder.add_bytes(meta(b"shop", 0), b"a file").unwrap();
    assert_eq!(encoder.add_directory(meta(b"shop", 0)).unwrap_err().class(), Class::Unsettled);
    assert_eq!(encoder.add_bytes(meta(b"shop/a", 0), b"").unwrap_err().class(), Class::Unsettled);
    let stranger = Meta { root: 7, root_name: root_name("elsewhere"), ..meta(b"a", 0) };
    encoder.add_bytes(stranger, b"").unwrap();
    assert_eq!(encoder.finish(head()).err().unwrap().class(), Class::Refused);
}

/// A disk that takes nothing until it is let go.
struct Stuck(crossbeam_channel::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_hangs_holds_neither_the_end_nor_the_drop_of_a_run_that_was_stopped() {
    let (_let_go, stuck) = crossbeam_channel::bounded(0);
    let cancel = Cancel::default();
    let options = EncodeOptions { codec: Codec::None, workers: count(1), recipients: Recipients::none() };
    let mut encoder = Encoder::start(options, Stuck(stuck), cancel.clone(), Arc::default()).unwrap();
    encoder.add_bytes(meta(b"a", 0), &contents(1, FRAME_BYTES)).unwrap();
    let (told, outcome) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || told.send(encoder.finish(head()).err()));
    cancel.raise(Reason::ServerGone);
    // `finish` drops the encoder: without the disk's consent, or this would wait for ever.
    let error = outcome.recv_timeout(std::time::Duration::from_secs(30)).unwrap().unwrap();
    assert_eq!(error.class(), Class::Server);
}
