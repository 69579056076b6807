//! Files that stand in one place for a file in another: symbolic links and InnoDB's `.isl` files.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::archive::manifest::{FileClass, ReferrerKind};
use crate::error::{Error, Result};
use crate::relpath::RelPath;

/// Linux's own `PATH_MAX`: nothing longer can be opened.
const LONGEST: u64 = 4096;

/// A name that points to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// The root of the name.
    pub root: u32,
    /// The name below its root.
    pub path: RelPath,
    /// How it points.
    pub kind: ReferrerKind,
    /// The file, canonical.
    pub target: PathBuf,
    /// What the file is for the server.
    pub class: FileClass,
}

/// Reads the `.isl` file `full`: the path of a tablespace made with `DATA DIRECTORY` (InnoDB's `RemoteDatafile`).
///
/// `None` where the tablespace does not exist: the server keeps the file after `DISCARD TABLESPACE`.
pub(super) fn read_isl(datadir: &Path, root: u32, path: &RelPath, full: &Path) -> Result<Option<Reference>> {
    let mut text = Vec::new();
    let read = File::open(full).and_then(|file| file.take(LONGEST).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", full, error)),
    }
    let named = datadir.join(OsStr::from_bytes(text.trim_ascii_end()));
    match named.canonicalize() {
        Ok(target) if target.is_file() => {
            let path = path.clone();
            Ok(Some(Reference { root, path, kind: ReferrerKind::Isl, target, class: FileClass::Innodb }))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("find", &named, error).hint(format!("{full:?} names this tablespace"))),
    }
}
