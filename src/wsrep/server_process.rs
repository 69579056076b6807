//! Which process is the server that runs us, held by a descriptor that can never mean another one.
//!
//! MariaDB and Codership run us through `sh -c` (`wsp::process` in `sql/wsrep_utils.cc`), so that our parent may be a
//! shell, which outlives the server and keeps our stdout open: its end would not be seen there.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::answer::read_bounded;
use crate::cancel::Cancel;
use crate::child::Program;
use crate::error::{Class, Error, Result, printable};
use crate::sys::Pidfd;

/// What `comm` says of a shell that may stand between the server and us.
const SHELLS: [&str; 5] = ["sh", "dash", "bash", "ash", "busybox"];

/// How often the ancestors are read again when they changed while they were read.
const ATTEMPTS: usize = 3;

/// `/proc/PID/stat` and `comm` are shorter; a command line may be long, and its first word is enough.
const PROC_BYTES: usize = 4096;

/// How long the server's program may take to print its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(5);

/// How much it may print.
const VERSION_BYTES: usize = 16 << 10;

/// The server that runs us.
#[derive(Debug)]
pub struct ServerProcess {
    pid: i32,
    pidfd: Pidfd,
}

/// One process of `/proc`.
#[derive(Debug, PartialEq, Eq)]
struct Ancestor {
    comm: String,
    parent: i32,
}

impl ServerProcess {
    /// Our parent, or the parent of the shell that is our parent.
    ///
    /// Errors: the server is gone already.
    pub fn find() -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let pid = server_of(nix::unistd::getppid().as_raw(), read_process)?;
            let Ok(pidfd) = Pidfd::open(pid) else { continue };
            // Only now does the number surely stand for the process that was looked at.
            if server_of(nix::unistd::getppid().as_raw(), read_process)? == pid {
                return Ok(Self { pid, pidfd });
            }
        }
        Err(gone())
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What it prints as its version, from running its program once more; `None` where that cannot be found out.
    pub fn version(&self, cancel: &Cancel) -> Option<String> {
        let program = server_program(Path::new(&format!("/proc/{}", self.pid)))?;
        let environment = vec![("LC_ALL".into(), "C".into())];
        let args = vec!["--no-defaults".into(), "--version".into()];
        let program = Program {
            path: &program,
            name: "mysqld",
            args,
            environment,
            deadline: VERSION_DEADLINE,
            output_bytes: VERSION_BYTES,
        };
        let finished = program.run(cancel).ok().filter(|finished| finished.status.success())?;
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        text.lines().next().map(version_in)
    }
}

impl AsFd for ServerProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn gone() -> Error {
    Error::new(Class::Server, "the server that asked for the backup is gone already")
}

/// The server among the ancestors, beginning with our parent.
fn server_of(parent: i32, read: impl Fn(i32) -> Option<Ancestor>) -> Result<i32> {
    let first = read(parent).ok_or_else(gone)?;
    let (pid, process) = if SHELLS.contains(&first.comm.as_str()) {
        (first.parent, read(first.parent).ok_or_else(gone)?)
    } else {
        (parent, first)
    };
    // Orphans go to process 1, which in a container may be the server itself.
    if pid <= 1 && !is_server_name(OsStr::new(&process.comm)) { Err(gone()) } else { Ok(pid) }
}

fn read_process(pid: i32) -> Option<Ancestor> {
    let stat = read_bounded(Path::new(&format!("/proc/{pid}/stat")), PROC_BYTES).ok()??;
    parse_stat(&String::from_utf8_lossy(&stat))
}

/// `PID (COMM) STATE PPID …`, where COMM may hold blanks and brackets.
fn parse_stat(stat: &str) -> Option<Ancestor> {
    let (start, rest) = stat.rsplit_once(')')?;
    let (_, comm) = start.split_once('(')?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Ancestor { comm: comm.to_owned(), parent })
}

fn is_server_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"mysqld") || name.as_bytes().starts_with(b"mariadbd")
}

/// The program to run for the version, if it is a server's by its name.
///
/// `exe` cannot be read where the server was started as root and changed its user; then the first word of its command line
/// serves, if that is a whole path.
fn server_program(proc: &Path) -> Option<PathBuf> {
    let named = |path: &Path| path.file_name().is_some_and(is_server_name);
    let exe = proc.join("exe");
    match std::fs::read_link(&exe) {
        Ok(target) => Some(exe).filter(|_| named(&target)),
        Err(_) => {
            let line = read_bounded(&proc.join("cmdline"), PROC_BYTES).ok()??;
            let first = line.split(|byte| *byte == 0).next()?;
            Some(PathBuf::from(OsString::from_vec(first.to_vec()))).filter(|path| path.is_absolute() && named(path))
        }
    }
}

/// `/usr/sbin/mysqld  Ver 8.0 for …` without the name in front.
fn version_in(line: &str) -> String {
    let version = line.split_once("Ver ").map_or(line, |(_, version)| version);
    printable(version.trim().chars().take(200).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(comm: &str, parent: i32) -> Option<Ancestor> {
        Some(Ancestor { comm: comm.to_owned(), parent })
    }

    #[test]
    fn the_server_is_the_parent_or_the_parent_of_the_shell() {
        let tree = |pid| match pid {
            1 => process("systemd", 0),
            10 => process("mariadbd", 1),
            20 => process("sh", 10),
            30 => process("dash", 1),
            _ => None,
        };
        assert_eq!(server_of(10, tree).unwrap(), 10);
        assert_eq!(server_of(20, tree).unwrap(), 10);
        for orphan in [1, 30, 99] {
            assert_eq!(server_of(orphan, tree).unwrap_err().class(), Class::Server, "{orphan}");
        }
    }

    #[test]
    fn in_a_container_the_server_may_be_process_1() {
        let tree = |pid| if pid == 1 { process("mysqld", 0) } else { process("bash", 1) };
        assert_eq!(server_of(1, tree).unwrap(), 1);
        assert_eq!(server_of(7, tree).unwrap(), 1);
        let outside = |pid| if pid == 0 { None } else { process("sh", 0) };
        assert!(server_of(7, outside).is_err());
    }

    #[test]
    fn a_process_name_with_blanks_and_brackets_does_not_mislead() {
        assert_eq!(parse_stat("7 (a) S 9 (x) b) S 12 7 7"), process("a) S 9 (x) b", 12));
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_process_that_runs_this_test_is_found_or_its_shell_passed() {
        let found = ServerProcess::find();
        let parent = nix::unistd::getppid().as_raw();
        match read_process(parent) {
            Some(ancestor) if SHELLS.contains(&ancestor.comm.as_str()) => {
                assert!(found.is_err() || found.is_ok_and(|server| server.pid() == ancestor.parent));
            }
            _ => assert!(found.is_err() || found.is_ok_and(|server| server.pid() == parent)),
        }
    }

    #[test]
    fn only_a_program_with_a_servers_name_is_run_for_its_version() {
        let proc = tempfile::tempdir().unwrap();
        let exe = proc.path().join("exe");
        let cmdline = |text: &str| std::fs::write(proc.path().join("cmdline"), text).unwrap();
        cmdline("/usr/sbin/mariadbd\0--datadir=/d\0");
        assert_eq!(server_program(proc.path()), Some("/usr/sbin/mariadbd".into()));
        cmdline("mariadbd\0");
        assert_eq!(server_program(proc.path()), None);
        cmdline("/usr/bin/python3\0mariadbd");
        assert_eq!(server_program(proc.path()), None);
        std::os::unix::fs::symlink("/usr/bin/python3", &exe).unwrap();
        assert_eq!(server_program(proc.path()), None);
        std::fs::remove_file(&exe).unwrap();
        std::os::unix::fs::symlink("/opt/mysqld-debug (deleted)", &exe).unwrap();
        assert_eq!(server_program(proc.path()), Some(exe));
    }

    #[test]
    fn the_version_is_what_follows_the_name() {
        let line = "/proc/7/exe  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        assert_eq!(version_in(line), "10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)");
        assert_eq!(version_in("odd\u{1b}[2J"), "odd\\u{1b}[2J");
    }
}
