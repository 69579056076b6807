//! File systems of a test's own: taken away when they are dropped, or when a signal ends the lab.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::statvfs::fstatvfs;

use super::node::ACCOUNT;
use super::process::{mounted, must, output, run, unmounted};

/// A file system for a server's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Clones.
    Xfs,
    /// Clones.
    Btrfs,
    /// Does not clone.
    Ext4,
}

impl FileSystem {
    /// Those that clone.
    pub const CLONING: [Self; 2] = [Self::Xfs, Self::Btrfs];

    /// Its name, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ext4 => "ext4",
        }
    }

    fn format(self, image: &Path) {
        let mut mkfs = Command::new(format!("mkfs.{}", self.name()));
        match self {
            Self::Xfs => mkfs.args(["-q", "-m", "reflink=1"]),
            Self::Btrfs => mkfs.args(["-q"]),
            // Its tables at once, so that no kernel thread writes them while something is measured.
            Self::Ext4 => mkfs.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
        };
        must("mkfs", mkfs.arg(image), Duration::from_secs(60));
    }
}

/// A mounted file system; dropping it takes it away.
pub struct Mount {
    place: PathBuf,
    image: Option<PathBuf>,
}

impl Mount {
    /// Mounts a tmpfs of `mebibytes` at `place`, which the servers' account owns; `Err` if this machine does not let root mount.
    pub fn tmpfs(place: &Path, mebibytes: u32) -> Result<Self, String> {
        let options = format!("size={mebibytes}m,mode=0700,uid={ACCOUNT},gid={ACCOUNT}");
        Self::mount(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "lab"]), place)?;
        Ok(Self { place: place.to_owned(), image: None })
    }

    /// Mounts a new file system at `place`, which the servers' account owns: on a loop device, in a sparse file of
    /// `mebibytes` beside `place`.
    #[track_caller]
    pub fn disk(place: &Path, kind: FileSystem, mebibytes: u64) -> Self {
        let image = place.with_extension("image");
        let file = std::fs::File::create(&image).expect("the image of a disk");
        file.set_len(mebibytes << 20).expect("the size of a disk");
        kind.format(&image);
        // Past the page cache of the file system below: else every flush brings all of that to the disk.
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--direct-io=on"]).arg(&image);
        let device = must("losetup", &mut attach, Duration::from_secs(20)).trim().to_owned();
        let ended = Self::mount(Command::new("mount").args(["-o", "noatime"]).arg(&device), place);
        // In use, it goes away with the mount.
        run("losetup", ["--detach", &device]);
        ended.unwrap_or_else(|cause| panic!("this machine does not let root mount {}: {cause}", kind.name()));
        super::own(place);
        Self { place: place.to_owned(), image: Some(image) }
    }

    fn mount(command: &mut Command, place: &Path) -> Result<(), String> {
        std::fs::create_dir_all(place).expect("a mount point");
        let ended = output("mount", command.arg(place), Duration::from_secs(20));
        if !ended.status.success() {
            return Err(String::from_utf8_lossy(&ended.stderr).trim().to_owned());
        }
        mounted(place);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmounted(&self.place);
        unmount(&self.place);
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
    }
}

/// Bytes that can still be written to the file system of `place`, when everything that was written or freed has got there.
pub fn free_bytes(place: &Path) -> u64 {
    let directory = std::fs::File::open(place).expect("a directory");
    nix::unistd::syncfs(&directory).expect("a file system can be synced");
    let found = fstatvfs(&directory).expect("a file system has a size");
    found.blocks_available() * found.fragment_size()
}

/// Writes a file at `path` until its file system has less than `bytes` free.
pub fn fill_up(path: &Path, bytes: u64) {
    let mut file = std::fs::File::create(path).expect("a file");
    let mebibyte = vec![1; 1 << 20];
    let place = path.parent().expect("a directory");
    while let Some(more) = (free_bytes(place) + 1).checked_sub(bytes).filter(|more| *more > 0) {
        for _ in 0..=more >> 20 {
            file.write_all(&mebibyte).expect("room for one mebibyte more");
        }
    }
}

/// Takes away what is mounted at `place`.
pub fn unmount(place: &Path) {
    // Lazily, if a process that was just killed still has a file open.
    if let Ok(status) = Command::new("umount").arg(place).stderr(Stdio::null()).status()
        && !status.success()
    {
        let _ = Command::new("umount").arg("--lazy").arg(place).status();
    }
}
