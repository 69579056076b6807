//! Real file systems in files, without a trace on the machine: mounted where only the thread of the test sees them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// XFS and Btrfs refuse to be smaller.
const BYTES: u64 = 512 << 20;

/// A mounted file system. Its loop device goes away with the mount, and the mount at the latest with the thread.
pub struct Disk {
    directory: TempDir,
}

impl Disk {
    pub fn xfs() -> Self {
        Self::make(&["mkfs.xfs", "-q"], "xfs")
    }

    pub fn btrfs() -> Self {
        Self::make(&["mkfs.btrfs", "-q"], "btrfs")
    }

    pub fn ext4() -> Self {
        Self::make(&["mkfs.ext4", "-q"], "ext4")
    }

    /// Every file system that can clone.
    pub fn cloning() -> [fn() -> Self; 2] {
        [Self::xfs, Self::btrfs]
    }

    fn make(mkfs: &[&str], kind: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(BYTES).unwrap();
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        unshare(CloneFlags::CLONE_NEWNS).expect("a disk can be mounted (by root)");
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        let disk = Self { directory };
        std::fs::create_dir(disk.path()).unwrap();
        // `mount` finds a free loop device and marks it to go away with the mount.
        let mounted = Command::new("mount").args(["-t", kind, "-o", "loop"]).arg(&image).arg(disk.path()).output();
        let mounted = mounted.unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        disk
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// A directory on it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Free bytes, when everything that was deleted is really gone.
    pub fn free(&self) -> u64 {
        let root = File::open(self.path()).unwrap();
        nix::unistd::syncfs(&root).unwrap();
        let found = nix::sys::statvfs::fstatvfs(&root).unwrap();
        found.blocks_free() * found.fragment_size()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that was killed just now may still hold it: then it goes when that has ended.
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

/// Copies a tree, as `cp -r` does.
pub fn fill(from: &Path, to: &Path) {
    for name in crate::tree::list(from) {
        let (old, new) = (from.join(&name), to.join(&name));
        if old.is_dir() {
            std::fs::create_dir(new).unwrap();
        } else {
            std::fs::copy(old, new).unwrap();
        }
    }
}
