//! Where the servers' programs come from: this machine, or a tree with another release that they run in by chroot.
//!
//! The lab's directory has the same path inside the tree, so that option files, sockets and the program under test mean
//! the same on both sides. All this is mounted in a mount namespace of the test program alone: nothing can be left behind,
//! however it ends, because the kernel takes the mounts away with the last process.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// The system whose servers are tried.
#[derive(Clone, Debug, Default)]
pub struct System {
    tree: Option<PathBuf>,
}

impl System {
    /// The one below `tree`; enters a mount namespace, so no thread may run yet.
    pub fn below(tree: &Path) -> Result<Self, String> {
        let tree = tree.canonicalize().map_err(|cause| format!("{}: {cause}", tree.display()))?;
        let told = |cause| format!("this machine does not let root mount for itself alone: {cause}");
        unshare(CloneFlags::CLONE_NEWNS).map_err(told)?;
        // Nothing goes out; inside, what is mounted below the lab's directory later is seen in the tree as well.
        for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
            special(None, Path::new("/"), None, MsFlags::MS_REC | propagation).map_err(told)?;
        }
        Ok(Self { tree: Some(tree) })
    }

    /// Where `path` of this system is on the machine.
    pub fn on_machine(&self, path: &Path) -> PathBuf {
        match &self.tree {
            Some(tree) => tree.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// A command of this system.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(tree) = &self.tree else { return Command::new(program) };
        let mut command = Command::new("chroot");
        command.arg(tree).arg(program);
        command
    }

    /// Gives the servers the lab's directory `lab`, the accounts of this machine and `/proc`.
    pub fn admit(&self, lab: &Path) -> Result<(), String> {
        if self.tree.is_none() {
            return Ok(());
        }
        let told = |cause: &dyn std::fmt::Display| format!("cannot prepare the tree: {cause}");
        let above = lab.parent().unwrap_or(lab);
        std::fs::create_dir_all(self.on_machine(above)).map_err(|cause| told(&cause))?;
        let mounts = [
            (Some(Path::new("proc")), Path::new("/proc"), Some("proc"), MsFlags::empty()),
            (Some(Path::new("/etc/passwd")), Path::new("/etc/passwd"), None, MsFlags::MS_BIND),
            (Some(Path::new("/etc/group")), Path::new("/etc/group"), None, MsFlags::MS_BIND),
            // So that the lab's name is not left in the tree.
            (Some(Path::new("lab")), above, Some("tmpfs"), MsFlags::empty()),
        ];
        for (source, place, kind, flags) in mounts {
            special(source, &self.on_machine(place), kind, flags).map_err(|cause| told(&cause))?;
        }
        let inside = self.on_machine(lab);
        std::fs::create_dir(&inside).map_err(|cause| told(&cause))?;
        special(Some(lab), &inside, None, MsFlags::MS_BIND).map_err(|cause| told(&cause))
    }
}

fn special(source: Option<&Path>, place: &Path, kind: Option<&str>, flags: MsFlags) -> nix::Result<()> {
    mount(source, place, kind, flags, None::<&str>)
}
