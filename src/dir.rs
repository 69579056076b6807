//! A directory held open: everything below it is named by one component at a time.
//!
//! A name with a slash, `.` or `..` is refused, and no symbolic link is followed, so that nothing that comes from a label,
//! a manifest or another user of the directory can lead out of it. Modes are set after creation, so that the umask has no say.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir as Listing;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, futimens, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, linkat, symlinkat, syncfs, unlinkat};

use crate::error::{Class, Error, Result};

/// Directories inside directories that [`Dir::remove_tree`] goes down: deeper is nothing that this program made.
const DEEPEST: usize = 64;

/// A directory held open, and where it was when it was opened (for messages only).
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// A lock that ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "held for its Drop")] Flock<OwnedFd>);

impl Dir {
    /// Opens the directory that the operator named: links in its path are followed, once.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = call("open", path, || openat(AT_FDCWD, path, flags, Mode::empty()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The kernel's number of the mount that the directory was reached through: a mount point has another than its parent.
    pub fn mount_id(&self) -> Result<String> {
        let path = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
        let text = std::fs::read_to_string(&path).map_err(|cause| Error::io("read", &path, cause))?;
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        id.map(|id| id.trim().to_owned()).ok_or_else(|| Error::new(Class::Io, format!("{path:?} names no mount")))
    }

    /// The same directory once more.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|cause| Error::io("open", &self.path, cause))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    /// Where the directory was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the directory `name`; a link is refused.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let (name, path) = self.place(name.as_ref())?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = call("open", &path, || openat(&self.fd, name, flags, Mode::empty()))?;
        Ok(Self { fd, path })
    }

    /// Makes the directory `name` with mode 0700, which must not exist, and opens it.
    pub fn create_dir(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let (name, path) = self.place(name.as_ref())?;
        call("create", &path, || mkdirat(&self.fd, name, Mode::S_IRWXU))?;
        // An umask of 0777 takes even the owner's bits; the fd of a directory without them cannot be had by opening it.
        let opened = self.permit(name, 0o700).and_then(|()| self.open_dir(name));
        if opened.is_err() {
            let _ = self.remove_dir(name);
        }
        opened
    }

    /// Makes the file `name` with mode 0600, which must not exist, for reading and writing.
    pub fn create_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let (name, path) = self.place(name.as_ref())?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = call("create", &path, || openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        call("set the mode of", &path, || fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR))?;
        Ok(file.into())
    }

    /// Makes a file with mode 0600 that has no name; `None` where the file system or the kernel cannot.
    pub fn create_unnamed(&self) -> Result<Option<File>> {
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let opened = point("create a file in", &self.path).map(|()| openat(&self.fd, ".", flags, mode))?;
        let file = match opened {
            Ok(file) => file,
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => return Ok(None),
            Err(errno) => return Err(Error::io("create a file in", &self.path, errno)),
        };
        call("set the mode of a file in", &self.path, || fchmod(&file, mode))?;
        // Only /proc can give it a name later.
        Ok(unnamed_path(&file).exists().then(|| file.into()))
    }

    /// Gives a file of [`Dir::create_unnamed`] the name `name`, which must not exist.
    pub fn link_unnamed(&self, file: &File, name: impl AsRef<OsStr>) -> Result<()> {
        let (name, path) = self.place(name.as_ref())?;
        let unnamed = unnamed_path(file);
        call("create", &path, || linkat(AT_FDCWD, &unnamed, &self.fd, name, AtFlags::AT_SYMLINK_FOLLOW))
    }

    /// Opens the regular file `name` for reading; a link or anything else is refused.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let (name, path) = self.place(name.as_ref())?;
        // Without O_NONBLOCK a FIFO of that name would keep us waiting for its writer.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        self.regular(&path, call("open", &path, || openat(&self.fd, name, flags, Mode::empty()))?)
    }

    /// Opens the regular file `name`, which this program made, for writing.
    pub fn reopen_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let (name, path) = self.place(name.as_ref())?;
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        self.regular(&path, call("open", &path, || openat(&self.fd, name, flags, Mode::empty()))?)
    }

    fn regular(&self, path: &Path, file: OwnedFd) -> Result<File> {
        let found = call("look at", path, || fstat(&file))?;
        if found.st_mode & nix::libc::S_IFMT != nix::libc::S_IFREG {
            return Err(Error::new(Class::Damage, format!("{path:?} is not a regular file")));
        }
        Ok(file.into())
    }

    /// Makes the symbolic link `name` that points to `to`.
    pub fn create_link(&self, name: impl AsRef<OsStr>, to: &Path) -> Result<()> {
        let (name, path) = self.place(name.as_ref())?;
        call("create the link", &path, || symlinkat(to, &self.fd, name))
    }

    /// What is called `name`, if anything; a link is itself.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> Result<Option<FileStat>> {
        let (name, path) = self.place(name.as_ref())?;
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::io("look at", path, errno)),
        }
    }

    /// The directory itself.
    pub fn stat_self(&self) -> Result<FileStat> {
        call("look at", &self.path, || fstat(&self.fd))
    }

    /// Everything in it but `.` and `..`, in order of the bytes.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = call("read", &self.path, || Listing::openat(&self.fd, ".", flags, Mode::empty()))?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(|errno| Error::io("read", &self.path, errno))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Renames `from` to `to` in the directory `target`, which must have nothing of that name.
    pub fn publish(&self, from: impl AsRef<OsStr>, target: &Dir, to: impl AsRef<OsStr>) -> Result<()> {
        self.rename(from.as_ref(), target, to.as_ref(), RenameFlags::RENAME_NOREPLACE)
    }

    /// Renames `from` to `to` in the directory `target`, over a file or an empty directory of that name.
    pub fn replace(&self, from: impl AsRef<OsStr>, target: &Dir, to: impl AsRef<OsStr>) -> Result<()> {
        self.rename(from.as_ref(), target, to.as_ref(), RenameFlags::empty())
    }

    fn rename(&self, from: &OsStr, target: &Dir, to: &OsStr, flags: RenameFlags) -> Result<()> {
        let ((from, _), (to, path)) = (self.place(from)?, target.place(to)?);
        point("create", &path)?;
        let renamed = match renameat2(&self.fd, from, &target.fd, to, flags) {
            // NFS and some FUSE file systems know no flags. Whoever takes the name in between has the same random id.
            Err(Errno::EINVAL) if flags == RenameFlags::RENAME_NOREPLACE => match target.stat(to)? {
                Some(_) => Err(Errno::EEXIST),
                None => renameat2(&self.fd, from, &target.fd, to, RenameFlags::empty()),
            },
            renamed => renamed,
        };
        renamed.map_err(|errno| Error::io("create", path, errno))
    }

    /// Removes the file or link `name`; none of that name is no error.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> Result<()> {
        self.unlink(name.as_ref(), UnlinkatFlags::NoRemoveDir)
    }

    /// Removes the empty directory `name`; none of that name is no error.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> Result<()> {
        self.unlink(name.as_ref(), UnlinkatFlags::RemoveDir)
    }

    fn unlink(&self, name: &OsStr, flag: UnlinkatFlags) -> Result<()> {
        let (name, path) = self.place(name)?;
        point("remove", &path)?;
        match unlinkat(&self.fd, name, flag) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Error::io("remove", path, errno)),
        }
    }

    /// Removes the directory `name` and everything in it, without following a link.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<()> {
        self.remove_below(name.as_ref(), DEEPEST)
    }

    fn remove_below(&self, name: &OsStr, deeper: usize) -> Result<()> {
        if deeper == 0 {
            return Err(Error::new(Class::Refused, format!("{:?} is nested too deeply to be removed", self.path)));
        }
        let inner = self.open_dir(name)?;
        for name in inner.names()? {
            let is_dir = inner.stat(&name)?.is_some_and(|found| is_dir(&found));
            if is_dir { inner.remove_below(&name, deeper - 1)? } else { inner.remove_file(&name)? }
        }
        self.remove_dir(name)
    }

    /// Waits until the names in it are on the disk.
    pub fn sync(&self) -> Result<()> {
        call("sync", &self.path, || fsync(&self.fd))
    }

    /// Waits until everything on its file system is on the disk.
    pub fn sync_file_system(&self) -> Result<()> {
        call("sync the file system of", &self.path, || syncfs(&self.fd))
    }

    /// Sets the permission bits of the directory itself.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        call("set the mode of", &self.path, || fchmod(&self.fd, Mode::from_bits_truncate(mode)))
    }

    /// Sets the owner of the directory itself.
    pub fn set_owner(&self, uid: u32, gid: u32) -> Result<()> {
        set_owner(&self.fd, &self.path, uid, gid)
    }

    /// Sets the modification time of the directory itself.
    pub fn set_mtime(&self, seconds: i64, nanoseconds: u32) -> Result<()> {
        set_mtime(&self.fd, &self.path, seconds, nanoseconds)
    }

    /// Bytes that this user can still write to its file system.
    pub fn free_bytes(&self) -> Result<u64> {
        let found = call("measure the free space of", &self.path, || fstatvfs(&self.fd))?;
        Ok(found.blocks_available().saturating_mul(found.fragment_size()))
    }

    /// Takes the directory's lock; `None` if somebody else has it.
    pub fn try_lock(&self) -> Result<Option<DirLock>> {
        let fd = self.fd.try_clone().map_err(|cause| Error::io("lock", &self.path, cause))?;
        point("lock", &self.path)?;
        match Flock::lock(fd, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(DirLock(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(Error::io("lock", &self.path, errno)),
        }
    }

    /// Sets the mode of what was just made under `name`, when it cannot be opened yet.
    fn permit(&self, name: &OsStr, mode: u32) -> Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let path = self.path.join(name);
        let handle = call("open", &path, || openat(&self.fd, name, flags, Mode::empty()))?;
        let by_number = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        let mode = Mode::from_bits_truncate(mode);
        // fchmod refuses an O_PATH descriptor; through /proc it is the same object, whatever the name has become.
        let flag = nix::sys::stat::FchmodatFlags::FollowSymlink;
        call("set the mode of", &path, || nix::sys::stat::fchmodat(AT_FDCWD, &by_number, mode, flag))
    }

    fn place<'a>(&self, name: &'a OsStr) -> Result<(&'a OsStr, PathBuf)> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(Error::new(Class::Damage, format!("{name:?} is not the name of a file in {:?}", self.path)));
        }
        Ok((name, self.path.join(name)))
    }
}

/// Whether `found` is a directory.
pub fn is_dir(found: &FileStat) -> bool {
    found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR
}

/// Sets the owner of an open file; `path` is for the message.
pub fn set_owner(file: impl AsFd, path: &Path, uid: u32, gid: u32) -> Result<()> {
    call("set the owner of", path, || fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

/// Sets the permission bits of an open file; `path` is for the message.
pub fn set_mode(file: impl AsFd, path: &Path, mode: u32) -> Result<()> {
    call("set the mode of", path, || fchmod(&file, Mode::from_bits_truncate(mode)))
}

/// Sets the modification time of an open file; `path` is for the message.
pub fn set_mtime(file: impl AsFd, path: &Path, seconds: i64, nanoseconds: u32) -> Result<()> {
    let mtime = TimeSpec::new(seconds, i64::from(nanoseconds));
    call("set the time of", path, || futimens(&file, &TimeSpec::UTIME_OMIT, &mtime))
}

/// Appends `bytes` to an open file; `path` is for the message.
pub fn write_file(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    point("write", path)?;
    file.write_all(bytes).map_err(|cause| Error::io("write", path, cause))
}

/// Waits until the bytes of an open file are on the disk; `path` is for the message.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    call("sync", path, || fsync(file))
}

fn unnamed_path(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

fn call<T>(verb: &str, path: &Path, operation: impl FnOnce() -> nix::Result<T>) -> Result<T> {
    point(verb, path)?;
    operation().map_err(|errno| Error::io(verb, path, errno))
}

#[cfg(not(test))]
fn point(_verb: &str, _path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
use fault::point;

/// Makes the k-th operation of this thread fail, in tests.
#[cfg(test)]
pub(crate) mod fault {
    use super::{Errno, Error, Path, Result};
    use std::cell::{Cell, RefCell};

    /// What happens after the operation that failed.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) enum After {
        /// Everything works again: a passing error.
        Works,
        /// Nothing works any more: to the disk this is what kill -9 looks like.
        Dead,
    }

    /// What somebody else does, and the part of a path before whose first use he does it.
    type Stranger = (String, Box<dyn FnOnce()>);

    thread_local! {
        static LEFT: Cell<Option<(u32, After)>> = const { Cell::new(None) };
        static DENIED: RefCell<Option<String>> = const { RefCell::new(None) };
        static STRANGER: RefCell<Option<Stranger>> = const { RefCell::new(None) };
    }

    /// Runs `work` with operation number `k` failing; says whether that operation was reached.
    pub(crate) fn on<T>(k: u32, after: After, work: impl FnOnce() -> T) -> (T, bool) {
        LEFT.set(Some((k, after)));
        let result = work();
        let reached = LEFT.replace(None).is_none_or(|(left, _)| left == 0);
        (result, reached)
    }

    /// Runs `work` as a user who may make nothing whose path holds `part`.
    pub(crate) fn denying<T>(part: &str, work: impl FnOnce() -> T) -> T {
        DENIED.replace(Some(part.to_owned()));
        let result = work();
        DENIED.replace(None);
        result
    }

    /// Runs `work`, and `stranger` just before its first operation on a path that holds `part`.
    pub(crate) fn with_stranger<T>(part: &str, stranger: impl FnOnce() + 'static, work: impl FnOnce() -> T) -> T {
        STRANGER.replace(Some((part.to_owned(), Box::new(stranger))));
        let result = work();
        assert!(STRANGER.replace(None).is_none(), "nothing was done to {part}");
        result
    }

    /// One operation.
    pub(crate) fn point(verb: &str, path: &Path) -> Result<()> {
        let comes =
            |held: &mut Option<Stranger>| held.take_if(|(part, _)| path.to_string_lossy().contains(part.as_str()));
        if let Some((_, stranger)) = STRANGER.with_borrow_mut(comes) {
            stranger();
        }
        let denied = DENIED.with_borrow(|part| part.as_ref().is_some_and(|part| path.to_string_lossy().contains(part)));
        if denied && verb == "create" {
            return Err(Error::io(verb, path, Errno::EACCES));
        }
        match LEFT.get() {
            None => return Ok(()),
            Some((0, After::Dead)) => {}
            Some((0, After::Works)) => return Ok(()),
            Some((1, after)) => LEFT.set(Some((0, after))),
            Some((left, after)) => {
                LEFT.set(Some((left - 1, after)));
                return Ok(());
            }
        }
        Err(Error::io(verb, path, Errno::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let base = tempfile::tempdir().unwrap();
        let dir = Dir::open(base.path()).unwrap();
        for name in ["", ".", "..", "a/b", "/etc", "../x", "a\0"] {
            assert!(dir.create_file(name).is_err(), "{name:?}");
            assert!(dir.create_dir(name).is_err(), "{name:?}");
            assert!(dir.remove_file(name).is_err(), "{name:?}");
        }
        std::os::unix::fs::symlink("/etc", base.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", base.path().join("file")).unwrap();
        assert!(dir.open_dir("link").is_err());
        assert!(dir.open_file("file").is_err());
        assert!(dir.create_file("file").is_err());
    }

    #[test]
    fn removing_a_tree_leaves_what_its_links_point_to() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("tree/deep")).unwrap();
        std::fs::create_dir(base.path().join("other")).unwrap();
        std::fs::write(base.path().join("other/kept"), "x").unwrap();
        std::os::unix::fs::symlink(base.path().join("other"), base.path().join("tree/deep/link")).unwrap();
        Dir::open(base.path()).unwrap().remove_tree("tree").unwrap();
        assert!(!base.path().join("tree").exists());
        assert!(base.path().join("other/kept").exists());
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let base = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&base.path().join("pipe"), Mode::S_IRWXU).unwrap();
        let error = Dir::open(base.path()).unwrap().open_file("pipe").unwrap_err();
        assert_eq!(error.class(), Class::Damage);
    }
}
