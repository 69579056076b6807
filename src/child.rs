//! A short-lived program of the system, run to its end without a shell.
//!
//! It gets no stdin, none of our descriptors and only the environment that is named; it has a deadline, hears
//! cancellation by being killed, and its output is bounded. Nothing of it outlives the call.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};

/// How long one poll waits before cancellation is looked at.
const SLICE_MS: u16 = 50;

/// What is run, and what it may cost.
#[derive(Debug)]
pub struct Program<'a> {
    /// The file to execute.
    pub path: &'a Path,
    /// What it sees as its own name.
    pub name: &'a str,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// How long it may run.
    pub deadline: Duration,
    /// How many bytes it may write to stdout and to stderr, each.
    pub output_bytes: usize,
}

/// What a program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: Vec<u8>,
}

/// Kills the child unless it was waited for.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program<'_> {
    /// Runs it to its end. A status other than success is not an error here.
    pub fn run(self, cancel: &Cancel) -> Result<Finished> {
        let started = Instant::now();
        let mut command = Command::new(self.path);
        command.arg0(self.name).args(&self.args).env_clear().envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
        let mut child = Killed(command.spawn().map_err(|cause| Error::io("run", self.path, cause))?);
        let mut pipes = [Collected::of(child.0.stdout.take()), Collected::of(child.0.stderr.take())];
        while pipes.iter().any(|pipe| pipe.source.is_some()) {
            self.check(started, cancel)?;
            self.collect(&mut pipes)?;
        }
        let status = loop {
            if let Some(status) = child.0.try_wait().map_err(|cause| Error::io("wait for", self.path, cause))? {
                break status;
            }
            self.check(started, cancel)?;
            cancel.sleep(Duration::from_millis(1))?;
        };
        let [stdout, stderr] = pipes.map(|pipe| pipe.bytes);
        Ok(Finished { status, stdout, stderr })
    }

    fn check(&self, started: Instant, cancel: &Cancel) -> Result<()> {
        if started.elapsed() > self.deadline {
            let text = format!("{:?} did not end within {} s", self.path, self.deadline.as_secs_f32());
            return Err(Error::new(Class::Deadline, text));
        }
        cancel.check()
    }

    fn collect(&self, pipes: &mut [Collected]) -> Result<()> {
        let mut ready: Vec<PollFd> = pipes
            .iter()
            .filter_map(|pipe| pipe.source.as_ref())
            .map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut ready, PollTimeout::from(SLICE_MS)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => (),
            Err(cause) => return Err(Error::io("wait for", self.path, cause)),
        }
        let ready: Vec<bool> = ready.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let open = pipes.iter_mut().filter(|pipe| pipe.source.is_some());
        for (pipe, _) in open.zip(ready).filter(|(_, ready)| *ready) {
            pipe.read_some(self.output_bytes).map_err(|cause| Error::io("read the output of", self.path, cause))?;
        }
        Ok(())
    }
}

trait Pipe: Read + AsFd {}
impl<P: Read + AsFd> Pipe for P {}

/// One pipe of the child, until its end.
struct Collected {
    source: Option<Box<dyn Pipe>>,
    bytes: Vec<u8>,
}

impl Collected {
    fn of(source: Option<impl Pipe + 'static>) -> Self {
        Self { source: source.map(|source| Box::new(source) as Box<dyn Pipe>), bytes: Vec::new() }
    }

    fn read_some(&mut self, limit: usize) -> io::Result<()> {
        let Some(source) = &mut self.source else { return Ok(()) };
        let mut buffer = [0; 4096];
        let count = source.read(&mut buffer)?;
        if count == 0 {
            self.source = None;
        }
        self.bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if self.bytes.len() > limit {
            Err(io::Error::other(format!("it is longer than {limit} bytes")))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Reason;

    fn program<'a>(path: &'a Path, args: &[&str], deadline: Duration) -> Program<'a> {
        let args = args.iter().map(Into::into).collect();
        Program { path, name: "test", args, environment: vec![("A".into(), "b".into())], deadline, output_bytes: 100 }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_gets_only_its_environment_and_its_outputs_come_apart() {
        let shell = Path::new("/bin/sh");
        let run = program(shell, &["-c", "env -i true; echo $A$HOME; echo bad >&2; exit 3"], LONG)
            .run(&Cancel::default())
            .unwrap();
        assert_eq!((run.stdout, run.stderr, run.status.code()), (b"b\n".to_vec(), b"bad\n".to_vec(), Some(3)));
    }

    #[test]
    fn a_program_that_hangs_is_killed_by_the_deadline_or_by_cancellation() {
        let sleep = Path::new("/bin/sleep");
        let error = program(sleep, &["1000"], Duration::from_millis(20)).run(&Cancel::default()).unwrap_err();
        assert_eq!(error.class(), Class::Deadline);
        let cancel = Cancel::default();
        cancel.raise(Reason::ServerGone);
        assert_eq!(program(sleep, &["1000"], LONG).run(&cancel).unwrap_err().class(), Class::Server);
    }

    #[test]
    fn a_program_that_floods_is_an_error_and_so_is_one_that_is_not_there() {
        let error = program(Path::new("/usr/bin/yes"), &[], LONG).run(&Cancel::default()).unwrap_err();
        assert_eq!(error.class(), Class::Io);
        assert_eq!(
            program(Path::new("/nonexistent"), &[], LONG).run(&Cancel::default()).unwrap_err().os_error(),
            Some(2)
        );
    }
}
