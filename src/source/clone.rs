//! Copies that share blocks with the server's files: `FICLONERANGE` into one file without a name for each file system.
//!
//! The file is made with `O_TMPFILE` in a directory of the server, so that no name of it ever exists and the kernel frees
//! it with the process. Every copy has a range of its own, at a multiple of the block size; one that is outdated is
//! abandoned, since its blocks are shared or few. Besides these files one descriptor is open at a time.
//!
//! # Why a clone needs no margin for writes under way
//!
//! A write is stamped when it begins, and the bytes follow. On XFS (`xfs_reflink_remap_prep`) and Btrfs
//! (`btrfs_remap_file_range`) a clone takes the inode's locks for writing, those against page faults too, before it looks
//! at anything: a buffered write, which holds them from its stamp to its last byte, is over then. Direct writes, which let
//! go of the lock while they are under way, are waited for by `inode_dio_wait` (`generic_remap_file_range_prep`), those
//! of io_uring and AIO included; then the dirty pages of the range are written, and waited for. So whatever had its stamp
//! when the fingerprint was taken is in the clone. What begins after the clone gets a stamp of its own, if the file was
//! not [young](super::fingerprint::Clock::until_old). On other file systems, whose locking nobody has read for this, the
//! margin stays.
//!
//! # The last block
//!
//! Half a block can be cloned only to the end of a file, and whatever follows makes the file system read and copy that
//! block. So the bytes behind the last whole block are read, after the clone of those before them, which waited for the
//! writers. Of a file without a whole block nothing is left to be cloned: an empty range at its end is, which takes the
//! same locks (its bytes were not written directly: that needs whole sectors).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;

use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::sys;

/// Ranges begin at multiples of at least this: no file system in use has smaller blocks.
const LEAST_BLOCK: u64 = 4096;

/// The largest block: the buffer for the last one.
pub const LARGEST_BLOCK: u64 = 64 << 10;

/// One file system that can clone.
#[derive(Debug)]
struct Store {
    file: Arc<File>,
    directory: PathBuf,
    block: u64,
    end: u64,
    waits_for_writes: bool,
}

/// The files that hold clones, one for each file system.
#[derive(Debug, Default)]
pub struct Clones {
    stores: BTreeMap<u64, Store>,
}

/// Where a clone lies.
#[derive(Clone, Debug)]
pub struct Range {
    /// The file without a name.
    pub file: Arc<File>,
    /// Where in it the clone begins.
    pub offset: u64,
}

/// What came of cloning a file.
#[derive(Debug)]
pub enum Cloned {
    /// It is held here.
    Held(Range),
    /// It has fewer bytes than it had.
    Short,
    /// It cannot be cloned, although others of its file system can.
    Cannot(Errno),
}

impl Clones {
    /// Makes and returns the file for the clones of device `device`, unnamed in `directory`, and tries it: with the first block of
    /// `sample`, an existing file there, if there is one. `Err(cause)` inside says why it cannot be done.
    pub fn add(&mut self, device: u64, directory: &Path, sample: Option<&File>) -> Result<Result<Arc<File>, Errno>> {
        let file = match Dir::open(directory).and_then(|directory| directory.create_unnamed()) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Err(Errno::EOPNOTSUPP)),
            // A directory that only the administrator may write: what is in it can still be read.
            Err(cause) => return Ok(Err(cause.os_error().map_or(Errno::EIO, Errno::from_raw))),
        };
        let cannot = |cause: Errno| Error::io("look at the file system of", directory, cause);
        let block = fstatvfs(&file).map_err(cannot)?.fragment_size().max(LEAST_BLOCK);
        if block > LARGEST_BLOCK {
            return Ok(Err(Errno::EOPNOTSUPP));
        }
        let kind = fstatfs(&file).map_err(cannot)?.filesystem_type();
        let waits_for_writes = kind == XFS_SUPER_MAGIC || kind == BTRFS_SUPER_MAGIC;
        let mut store =
            Store { file: Arc::new(file), directory: directory.to_owned(), block, end: 0, waits_for_writes };
        if let Err(cause) = store.probe(sample) {
            let full = matches!(cause, Errno::ENOSPC | Errno::EDQUOT);
            return if full || is_inability(cause) {
                Ok(Err(cause))
            } else {
                Err(store.failed("clone into a file in", cause))
            };
        }
        let file = Arc::clone(&store.file);
        self.stores.insert(device, store);
        Ok(Ok(file))
    }

    /// Whether files of this device can be cloned.
    pub fn can(&self, device: u64) -> bool {
        self.stores.contains_key(&device)
    }

    /// Whether nothing can be cloned.
    pub fn is_empty(&self) -> bool {
        self.stores.is_empty()
    }

    /// Whether a clone on this device waits for all writes that were begun before it (see the head of this file).
    pub fn waits_for_writes(&self, device: u64) -> bool {
        self.stores.get(&device).is_some_and(|store| store.waits_for_writes)
    }

    /// Clones the first `size` bytes of `file`, which is on `device`.
    pub fn hold(&mut self, device: u64, file: &File, size: u64) -> Result<Cloned> {
        let Some(store) = self.stores.get_mut(&device) else { return Ok(Cloned::Cannot(Errno::EXDEV)) };
        match store.hold(file, size) {
            Ok(Some(offset)) => Ok(Cloned::Held(Range { file: Arc::clone(&store.file), offset })),
            Ok(None) => Ok(Cloned::Short),
            Err(cause) if is_inability(cause) => {
                let now = file.metadata().map_err(|cause| Error::io("look at a file in", &store.directory, cause))?;
                Ok(if now.len() < size { Cloned::Short } else { Cloned::Cannot(cause) })
            }
            Err(cause) => Err(store.failed("clone into a file in", cause)),
        }
    }

    /// Why `file`, of at least [`LARGEST_BLOCK`] bytes on this device, cannot be cloned although others of its file system
    /// can; `None` if it can.
    pub fn refuses(&self, device: u64, file: &File) -> Result<Option<Errno>> {
        let Some(store) = self.stores.get(&device) else { return Ok(Some(Errno::EXDEV)) };
        // Where the next clone comes to lie.
        match sys::clone_range(file, 0, store.block, &*store.file, store.end) {
            Ok(()) => Ok(None),
            Err(cause) if is_inability(cause) => Ok(Some(cause)),
            Err(cause) => Err(store.failed("clone into a file in", cause)),
        }
    }

    /// Nothing is cloned on this device after all.
    pub fn remove(&mut self, device: u64) {
        self.stores.remove(&device);
    }
}

impl Store {
    /// Clones one block, and forgets it.
    fn probe(&mut self, sample: Option<&File>) -> nix::Result<()> {
        match sample {
            Some(sample) => sys::clone_range(sample, 0, self.block, &*self.file, 0)?,
            None => {
                let bytes = vec![1; self.block as usize];
                self.file.write_all_at(&bytes, 0).map_err(|cause| errno(&cause))?;
                sys::clone_range(&*self.file, 0, self.block, &*self.file, self.block)?;
            }
        }
        self.file.set_len(0).map_err(|cause| errno(&cause))
    }

    /// Where the clone begins; `None` if the file is shorter than `size` by now.
    fn hold(&mut self, file: &File, size: u64) -> nix::Result<Option<u64>> {
        let begin = self.end;
        let tail = size % self.block;
        let whole = size - tail;
        if whole > 0 {
            sys::clone_range(file, 0, whole, &*self.file, begin)?;
        } else if tail > 0 {
            match sys::clone_range(file, size, 0, &*self.file, begin) {
                // It has another size by now, which the next survey shows.
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(cause) => return Err(cause),
            }
        }
        if tail > 0 {
            let mut block = vec![0; self.block as usize];
            let Some(bytes) = block.get_mut(..tail as usize) else { return Ok(None) };
            match file.read_exact_at(bytes, whole) {
                Ok(()) => {}
                Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(cause) => return Err(errno(&cause)),
            }
            self.file.write_all_at(&block, begin + whole).map_err(|cause| errno(&cause))?;
        }
        self.end = begin + whole + if tail > 0 { self.block } else { 0 };
        Ok(Some(begin))
    }

    fn failed(&self, verb: &str, cause: Errno) -> Error {
        Error::io(verb, &self.directory, cause)
    }
}

/// Whether the file system says that it does not do this, or not with this file, and nothing is broken.
fn is_inability(cause: Errno) -> bool {
    use Errno::{EAGAIN, EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ETXTBSY, EXDEV};
    matches!(cause, EOPNOTSUPP | ENOTTY | ENOSYS | EXDEV | EINVAL | ETXTBSY | EPERM | EAGAIN)
}

fn errno(cause: &std::io::Error) -> Errno {
    cause.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
