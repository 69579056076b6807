//! Lays members out in frames and hands the frames to the pool.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::codec::{Codec, FRAME_BYTES};
use super::guest::Before;
use super::layout::{BLOCK, END_BYTES, Place, padded, place};
use super::manifest::Piece;
use super::pace::Pace;
use super::pool::{Origin, Pool, Run, Slot, Written, read_or_zero};
use super::progress::Progress;
use super::seal::Sealing;
use super::tar_header::Member;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::relpath::RelPath;

/// A file up to this size is read at once by the caller's thread: handing it over costs more than reading it.
const AT_ONCE_BYTES: u64 = 32 << 10;

/// Files that one frame may hold open; further small ones are read at once. Bounds the descriptors in use.
const OPEN_FILES_PER_FRAME: usize = 16;

/// Where a member's contents come from.
pub(super) enum Contents<'a> {
    /// These bytes, as many as the member's size.
    Bytes(&'a [u8]),
    /// The file, from this offset.
    File(&'a Arc<File>, &'a RelPath, u64),
}

/// The tar stream that is being written.
pub(super) struct TarStream<W> {
    pool: Pool<W>,
    /// The frame that is being laid out.
    open: Option<Slot>,
    /// Entries read by the caller's thread whose file was too short, since the last barrier.
    short: BTreeSet<u32>,
    /// The headers of one member; kept for its allocation.
    headers: Vec<u8>,
}

impl<W: Write + Send + 'static> TarStream<W> {
    pub(super) fn start(
        codec: Codec,
        workers: NonZeroUsize,
        sealing: Sealing,
        sink: W,
        cancel: Cancel,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let pool = Pool::start(codec, workers, sealing, sink, cancel, progress)?;
        Ok(Self { pool, open: None, short: BTreeSet::new(), headers: Vec::new() })
    }

    /// The pace of reading.
    pub(super) fn pace(&self) -> Pace {
        self.pool.pace()
    }

    /// An error once anything has failed or the run was stopped.
    pub(super) fn check(&self) -> Result<()> {
        self.pool.check()
    }

    /// Appends a member; `entry` is the number under which its pieces are reported.
    ///
    /// After an error the stream has a hole, and nothing can be appended to it any more.
    pub(super) fn put(&mut self, member: &Member<'_>, entry: u32, contents: &Contents<'_>) -> Result<()> {
        let put = self.put_whole(member, entry, contents);
        if put.is_err() {
            self.pool.abandon();
        }
        put
    }

    fn put_whole(&mut self, member: &Member<'_>, entry: u32, contents: &Contents<'_>) -> Result<()> {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        member.append_to(&mut headers);
        let fill = self.open.as_ref().map_or(0, |slot| slot.fill);
        let place = place(fill, headers.len(), member.size);
        if matches!(place, Place::Next | Place::NextApart) {
            self.cut()?;
        }
        let mut slot = self.slot()?;
        slot.extend(headers.len()).copy_from_slice(&headers);
        self.open = Some(slot);
        self.headers = headers;
        self.cut_if_full()?;
        if matches!(place, Place::Apart | Place::NextApart) {
            self.cut()?;
        }
        self.put_contents(member.size, entry, contents)
    }

    fn put_contents(&mut self, size: u64, entry: u32, contents: &Contents<'_>) -> Result<()> {
        let mut done = 0u64;
        let mut before = None;
        while done < size {
            let mut slot = self.slot()?;
            let at = slot.fill;
            let room = FRAME_BYTES - at;
            let len = usize::try_from(size - done).unwrap_or(room).min(room);
            let at_once = size <= AT_ONCE_BYTES || slot.open_files() >= OPEN_FILES_PER_FRAME;
            let part = slot.extend(len);
            let mut from = None;
            match contents {
                // `size` is the length of `bytes`: it fits a usize.
                Contents::Bytes(bytes) => part.copy_from_slice(&bytes[done as usize..done as usize + len]),
                Contents::File(file, path, base) if at_once => {
                    self.pool.take_pace(len)?;
                    if !read_or_zero(file, path, base + done, part)? {
                        self.short.insert(entry);
                    }
                }
                Contents::File(file, path, base) => {
                    let before = before.get_or_insert_with(|| Arc::new(Before::look(file, base + done, size - done)));
                    let (file, before) = (Arc::clone(file), Arc::clone(before));
                    from = Some(Origin { file, path: (*path).clone(), offset: base + done, before });
                }
            }
            slot.runs.push(Run { entry, at, len, from });
            self.open = Some(slot);
            done += len as u64;
            self.cut_if_full()?;
        }
        let odd = (size % BLOCK as u64) as usize;
        self.zeroes(padded(odd) - odd)
    }

    /// Appends zeroes, which may begin a frame but never straddle two.
    fn zeroes(&mut self, len: usize) -> Result<()> {
        if self.open.as_ref().is_some_and(|slot| slot.fill + len > FRAME_BYTES) {
            self.cut()?;
        }
        if len > 0 {
            let mut slot = self.slot()?;
            slot.extend(len).fill(0);
            self.open = Some(slot);
        }
        Ok(())
    }

    /// Waits until every byte so far was read; the entries whose file was too short since the last time.
    pub(super) fn barrier(&mut self) -> Result<BTreeSet<u32>> {
        self.cut()?;
        self.check()?;
        let mut short = std::mem::take(&mut self.short);
        short.append(&mut self.pool.wait_read()?);
        Ok(short)
    }

    /// Waits until every byte so far is written.
    pub(super) fn rest(&mut self) -> Result<()> {
        self.cut()?;
        self.pool.rest()
    }

    /// The pieces of every frame that was read, in the order of the archive.
    pub(super) fn take_pieces(&mut self) -> Vec<(u32, Piece)> {
        self.pool.take_pieces()
    }

    /// Appends the end of the stream and waits until everything is written.
    pub(super) fn finish(mut self) -> Result<Written<W>> {
        self.zeroes(END_BYTES)?;
        self.cut()?;
        self.pool.finish()
    }

    /// The open frame, or a new one.
    fn slot(&mut self) -> Result<Slot> {
        self.open.take().map_or_else(|| self.pool.take(), Ok)
    }

    /// Ends the open frame.
    fn cut(&mut self) -> Result<()> {
        self.open.take().map_or(Ok(()), |slot| self.pool.submit(slot))
    }

    fn cut_if_full(&mut self) -> Result<()> {
        if self.open.as_ref().is_some_and(|slot| slot.fill == FRAME_BYTES) { self.cut() } else { Ok(()) }
    }
}
