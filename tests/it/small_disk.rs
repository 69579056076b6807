//! A disk that is soon full, without harm to any other.

use std::path::Path;

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// A file system of its own, which only the thread that mounted it sees.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    pub fn mount(bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).expect("a small disk can be mounted (by root)");
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        let size = format!("size={bytes}");
        mount(Some("none"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Otherwise it goes away with the thread.
        let _ = umount(self.0.path());
    }
}
