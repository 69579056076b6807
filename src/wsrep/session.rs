//! The dialogue with the server on stdout, as a typestate: a line in the wrong order does not compile.
//!
//! `Idle` → [`freeze`](Session::freeze) → `Frozen` → [`thaw`](Session::thaw) → `Released` → [`done`](Session::done). Only
//! what is in this file writes to stdout, because one stray byte there makes the server abandon the backup. After a failure
//! nothing is written but the `continue` of [`abandon`](Session::abandon): the server then reads our exit status. It reads 128 bytes at a time
//! (`sst_donor_thread` in MariaDB's `sql/wsrep_sst.cc`), so that no line is longer than 127 with its newline.
//!
//! ```
//! use wsrep_sst_backup::{Result, cancel::Cancel, wsrep::{answer::Answers, session::{Idle, Session}}};
//! fn backup(session: Session<Idle, Vec<u8>>, answers: Answers, cancel: &Cancel) -> Result<()> {
//!     let frozen = session.freeze(answers, std::time::Duration::from_secs(600), cancel)?;
//!     frozen.recheck()?;
//!     frozen.thaw()?.done()
//! }
//! ```
//! `done` before the server was released is not possible:
//! ```compile_fail,E0599
//! use wsrep_sst_backup::wsrep::session::{Frozen, Session};
//! fn too_early(session: Session<Frozen, Vec<u8>>) {
//!     session.done();
//! }
//! ```
//! nor is `continue` without `flush tables`:
//! ```compile_fail,E0599
//! use wsrep_sst_backup::wsrep::session::{Idle, Session};
//! fn never_frozen(session: Session<Idle, Vec<u8>>) {
//!     session.thaw();
//! }
//! ```
//! nor a second `flush tables`, which would dead-lock the server:
//! ```compile_fail,E0382
//! use wsrep_sst_backup::wsrep::{answer::Answers, session::{Idle, Session}};
//! fn twice(session: Session<Idle, Vec<u8>>, answers: [Answers; 2]) {
//!     let cancel = Default::default();
//!     let [first, second] = answers;
//!     let first = session.freeze(first, std::time::Duration::ZERO, &cancel);
//!     let second = session.freeze(second, std::time::Duration::ZERO, &cancel);
//! }
//! ```

use std::io::{Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::answer::{Answer, Answers, Position};
use super::grastate::Agreement;
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};

/// How often the answer files are looked at: the server is frozen while we wait, so often.
const POLL: Duration = Duration::from_millis(2);

/// The longest line with its newline: the server's buffer less its zero byte.
const LONGEST_LINE: usize = 127;

/// Whether the server was told to go on: shared with the [last resort](super::last_resort), so that it is told once.
#[derive(Clone, Debug, Default)]
pub struct Continued(Arc<AtomicBool>);

impl Continued {
    /// True for the first who wants to tell the server to go on, and for nobody after that.
    pub fn claim(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// The dialogue with the server in one of its states.
#[derive(Debug)]
pub struct Session<State, Out: Write = Stdout> {
    out: Out,
    progress: u32,
    /// Whether `continue` was said, by whomever.
    continued: Continued,
    state: State,
}

/// Nothing has been said.
#[derive(Debug)]
pub struct Idle(());

/// The server holds its files still.
#[derive(Debug)]
pub struct Frozen {
    answers: Answers,
    position: Position,
}

/// The server goes on; only `done` is left to say.
#[derive(Debug)]
pub struct Released {
    /// Removed before `done`: from then on such files are another transfer's.
    answers: Option<Answers>,
    position: Position,
}

impl Session<Idle> {
    /// Takes stdout; `progress` is the request's level.
    pub fn on_stdout(progress: u32) -> Self {
        Self::new(std::io::stdout(), progress)
    }
}

impl<Out: Write> Session<Idle, Out> {
    /// A dialogue on any writer.
    pub fn new(out: Out, progress: u32) -> Self {
        Self { out, progress, continued: Continued::default(), state: Idle(()) }
    }

    /// Asks the server to hold its files still, and waits until it does.
    ///
    /// Stale answers are removed first. Errors: the server failed, said nonsense, or said nothing for `deadline`; a signal.
    pub fn freeze(mut self, answers: Answers, deadline: Duration, cancel: &Cancel) -> Result<Session<Frozen, Out>> {
        answers.clear()?;
        cancel.check()?;
        self.say("flush tables")?;
        let asked = Instant::now();
        let position = loop {
            match answers.files().read()? {
                Answer::Flushed(position) => break position,
                Answer::Failed => {
                    return Err(Error::new(Class::Server, "the server could not flush and lock its tables")
                        .hint("its error log says why, before this line"));
                }
                Answer::Pending => (),
            }
            let Some(left) = deadline.checked_sub(asked.elapsed()).filter(|left| !left.is_zero()) else {
                return Err(no_answer(deadline));
            };
            cancel.sleep(left.min(POLL))?;
        };
        let session = Session {
            out: self.out,
            progress: self.progress,
            continued: self.continued,
            state: Frozen { answers, position },
        };
        session.cross_check()?;
        Ok(session)
    }

    /// Tells the server that a joiner needs no files: all is left to incremental transfer.
    pub fn bypass(mut self, position: Position) -> Result<Session<Released, Out>> {
        self.say("continue")?;
        Ok(Session {
            out: self.out,
            progress: self.progress,
            continued: self.continued,
            state: Released { answers: None, position },
        })
    }
}

impl<Out: Write> Session<Frozen, Out> {
    /// The exact position of the files that stand still.
    pub fn position(&self) -> &Position {
        &self.state.position
    }

    /// For whoever lets the server go if this thread cannot.
    pub fn continued(&self) -> Continued {
        self.continued.clone()
    }

    /// Asks both witnesses again: the server's answer and `grastate.dat` must still say the same position.
    pub fn recheck(&self) -> Result<Agreement> {
        match self.state.answers.files().read()? {
            Answer::Flushed(position) if position == self.state.position => self.cross_check(),
            Answer::Flushed(position) => Err(Error::new(
                Class::Protocol,
                format!(
                    "the server's answer changed while its files were copied: {} became {}",
                    self.state.position.gtid(),
                    position.gtid()
                ),
            )),
            Answer::Failed => {
                Err(Error::new(Class::Server, "the server reported a failure while its files were copied"))
            }
            Answer::Pending => Err(Error::new(
                Class::Protocol,
                "the server's answer tables_flushed vanished while its files were copied",
            )),
        }
    }

    /// Lets the server go on.
    pub fn thaw(mut self) -> Result<Session<Released, Out>> {
        if !self.continued.claim() {
            return Err(Error::new(Class::Deadline, "the server was let go by force"));
        }
        self.say("continue")?;
        let Frozen { answers, position } = self.state;
        answers.files().clear()?;
        Ok(Session {
            out: self.out,
            progress: self.progress,
            continued: self.continued,
            state: Released { answers: Some(answers), position },
        })
    }

    /// Lets the server go on although there will be no backup: without `done` and with our exit status it counts the
    /// transfer as failed, whenever that exit comes.
    ///
    /// The server would go on when this process ends; but a process that waits for a dead disk does not end.
    pub fn abandon(mut self) {
        if !self.continued.claim() {
            return;
        }
        // If the server does not listen, or its files cannot be removed, the failure that led here is the one to tell.
        if self.say("continue").and_then(|()| self.state.answers.files().clear()).is_err() {
            tracing::debug!("the server could not be told to go on");
        }
    }

    fn cross_check(&self) -> Result<Agreement> {
        self.state.answers.files().cross_check(self.state.position.gtid())
    }
}

impl<Out: Write> Session<Released, Out> {
    /// The position that `done` will say.
    pub fn position(&self) -> &Position {
        &self.state.position
    }

    /// Tells the server and the whole cluster that there is a backup: to be called when nothing can fail any more.
    pub fn done(mut self) -> Result<()> {
        drop(self.state.answers.take());
        let line = self.state.position.done_line();
        self.say(&line)
    }
}

impl<State, Out: Write> Session<State, Out> {
    /// Announces how many bytes there will be; says nothing to servers that would abandon the backup for it.
    pub fn total(&mut self, bytes: u64) -> Result<()> {
        if self.progress > 0 { self.say(&format!("total {bytes}")) } else { Ok(()) }
    }

    /// Says how many bytes are done; says nothing to servers that would abandon the backup for it.
    pub fn complete(&mut self, bytes: u64) -> Result<()> {
        if self.progress > 0 { self.say(&format!("complete {bytes}")) } else { Ok(()) }
    }

    /// One line, in one write.
    fn say(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        if line.len() > LONGEST_LINE {
            return Err(Error::new(
                Class::Protocol,
                format!("the line for the server is too long: {} bytes", line.len()),
            ));
        }
        let said = self.out.write_all(line.as_bytes()).and_then(|()| self.out.flush());
        said.map_err(|cause| Error::new(Class::Server, "the server does not listen any more").because(cause))
    }
}

fn no_answer(deadline: Duration) -> Error {
    Error::new(
        Class::Deadline,
        format!("the server did not answer `flush tables` within flush-timeout ({} s)", deadline.as_secs_f32()),
    )
    .hint("a long statement may keep the server from locking its tables: look at its process list")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Reason;
    use crate::gtid::Gtid;
    use crate::wsrep::grastate;
    use std::io;
    use std::path::Path;
    use std::sync::Mutex;

    const UUID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002";
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A server that answers as soon as it has read `flush tables`.
    #[derive(Clone, Debug)]
    struct Server {
        said: Arc<Mutex<Vec<u8>>>,
        answer: (std::path::PathBuf, String),
    }

    impl Write for Server {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.said.lock().unwrap().extend(bytes);
            if bytes == b"flush tables\n" {
                std::fs::write(&self.answer.0, &self.answer.1)?;
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Server {
        fn answering(datadir: &Path, file: &str, content: impl Into<String>) -> Self {
            Self { said: Arc::default(), answer: (datadir.join(file), content.into()) }
        }

        fn said(&self) -> String {
            String::from_utf8(self.said.lock().unwrap().clone()).unwrap()
        }
    }

    fn gtid(seqno: u64) -> Gtid {
        Gtid { uuid: UUID.parse().unwrap(), seqno }
    }

    fn names(datadir: &Path) -> Vec<String> {
        std::fs::read_dir(datadir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn answers(datadir: &Path) -> Answers {
        Answers::new(datadir, datadir, gtid(5))
    }

    fn freeze(server: &Server, answers: Answers, deadline: Duration) -> Result<Session<Frozen, Server>> {
        Session::new(server.clone(), 0).freeze(answers, deadline, &Cancel::default())
    }

    #[test]
    fn a_whole_dialogue_says_three_lines_and_leaves_no_answer_behind() {
        let datadir = tempfile::tempdir().unwrap();
        let answers = answers(datadir.path());
        std::fs::write(datadir.path().join("tables_flushed"), format!("{UUID}:99 0\n")).unwrap();
        std::fs::write(datadir.path().join("sst_error"), "").unwrap();
        let server = Server::answering(datadir.path(), "tables_flushed", format!("{UUID}:7 3\n\n"));
        let session = freeze(&server, answers, PATIENCE).unwrap();
        assert_eq!(session.position().gtid(), gtid(7));
        assert_eq!(session.recheck().unwrap(), Agreement::Unknown);
        let session = session.thaw().unwrap();
        assert!(names(datadir.path()).is_empty());
        session.done().unwrap();
        assert_eq!(server.said(), format!("flush tables\ncontinue\ndone {UUID}:7 3\n"));
    }

    #[test]
    fn a_failure_of_the_server_or_nonsense_ends_without_another_line() {
        let malformed = ("tables_flushed", "nonsense\n".to_owned(), Class::Protocol);
        let stale = ("tables_flushed", format!("{UUID}:4 0\n"), Class::Protocol);
        let foreign = ("tables_flushed", format!("7{}:9 0\n", &UUID[1..]), Class::Protocol);
        let unfinished = ("tables_flushed", format!("{UUID}:9"), Class::Deadline);
        for (file, content, class) in
            [("sst_error", String::new(), Class::Server), malformed, stale, foreign, unfinished]
        {
            let datadir = tempfile::tempdir().unwrap();
            let server = Server::answering(datadir.path(), file, content);
            let error = freeze(&server, answers(datadir.path()), Duration::from_millis(20)).unwrap_err();
            assert_eq!(error.class(), class, "{error}");
            assert_eq!(server.said(), "flush tables\n");
        }
    }

    #[test]
    fn a_grastate_that_disagrees_is_seen_at_once_and_one_that_agrees_at_the_end_too() {
        let datadir = tempfile::tempdir().unwrap();
        let save =
            |seqno| std::fs::write(datadir.path().join("grastate.dat"), grastate::render(gtid(seqno), false)).unwrap();
        let server = Server::answering(datadir.path(), "tables_flushed", format!("{UUID}:7 0\n"));
        save(8);
        assert_eq!(freeze(&server, answers(datadir.path()), PATIENCE).unwrap_err().class(), Class::Protocol);
        save(7);
        let session = freeze(&server, answers(datadir.path()), PATIENCE).unwrap();
        assert_eq!(session.recheck().unwrap(), Agreement::Agrees);
        save(8);
        assert_eq!(session.recheck().unwrap_err().class(), Class::Protocol);
    }

    #[test]
    fn an_answer_that_changes_or_vanishes_inside_the_window_is_a_failure() {
        let datadir = tempfile::tempdir().unwrap();
        let answers = answers(datadir.path());
        let answer = datadir.path().join("tables_flushed");
        let server = Server::answering(datadir.path(), "tables_flushed", format!("{UUID}:7 0\n\n"));
        let session = freeze(&server, answers, PATIENCE).unwrap();
        std::fs::write(&answer, format!("{UUID}:7 0\n")).unwrap();
        session.recheck().unwrap();
        std::fs::write(&answer, format!("{UUID}:8 0\n")).unwrap();
        assert_eq!(session.recheck().unwrap_err().class(), Class::Protocol);
        std::fs::remove_file(&answer).unwrap();
        assert_eq!(session.recheck().unwrap_err().class(), Class::Protocol);
        std::fs::write(datadir.path().join("sst_error"), "").unwrap();
        assert_eq!(session.recheck().unwrap_err().class(), Class::Server);
    }

    #[test]
    fn an_answer_that_the_server_writes_a_second_time_can_still_be_finished_after_the_window() {
        let datadir = tempfile::tempdir().unwrap();
        let [answer, temporary] = ["tables_flushed", "tables_flushed.tmp"].map(|name| datadir.path().join(name));
        let server = Server::answering(datadir.path(), "tables_flushed", format!("{UUID}:7 0\n\n"));
        let session = freeze(&server, answers(datadir.path()), PATIENCE).unwrap();
        std::fs::write(&temporary, format!("{UUID}:7 0\n")).unwrap();
        let session = session.thaw().unwrap();
        std::fs::rename(temporary, &answer).unwrap();
        session.done().unwrap();
        assert!(names(datadir.path()).is_empty());
    }

    #[test]
    fn a_server_that_gets_no_backup_is_let_go_all_the_same() {
        let datadir = tempfile::tempdir().unwrap();
        let server = Server::answering(datadir.path(), "tables_flushed", format!("{UUID}:7 0\n"));
        let answers = answers(datadir.path());
        freeze(&server, answers, PATIENCE).unwrap().abandon();
        assert_eq!(server.said(), "flush tables\ncontinue\n");
        assert!(names(datadir.path()).is_empty());
    }

    #[test]
    fn what_was_let_go_by_force_is_not_let_go_again() {
        let datadir = tempfile::tempdir().unwrap();
        let server = Server::answering(datadir.path(), "tables_flushed", format!("{UUID}:7 0\n"));
        let frozen = || freeze(&server, answers(datadir.path()), PATIENCE).unwrap();
        let session = frozen();
        assert!(session.continued().claim() && !session.continued().claim());
        assert_eq!(session.thaw().unwrap_err().class(), Class::Deadline);
        let session = frozen();
        assert!(session.continued().claim());
        session.abandon();
        assert_eq!(server.said(), "flush tables\nflush tables\n");
    }

    #[test]
    fn a_signal_ends_the_wait() {
        let datadir = tempfile::tempdir().unwrap();
        let answers = answers(datadir.path());
        let cancel = Cancel::default();
        let other = cancel.clone();
        let waiting =
            std::thread::spawn(move || Session::new(Vec::new(), 0).freeze(answers, PATIENCE, &other).map(drop));
        cancel.raise(Reason::Signal("SIGTERM"));
        assert_eq!(waiting.join().unwrap().unwrap_err().class(), Class::Cancelled);
    }

    #[test]
    fn a_bypass_freezes_nothing() {
        let server = Server::answering(Path::new("/nowhere"), "", "");
        let session = Session::new(server.clone(), 0).bypass(Position::asked(gtid(5), Some(1))).unwrap();
        session.done().unwrap();
        assert_eq!(server.said(), format!("continue\ndone {UUID}:5 1\n"));
    }

    #[test]
    fn progress_is_for_servers_that_asked_for_it() {
        for (level, said) in [(0, ""), (1, "total 10\ncomplete 5\n")] {
            let server = Server::answering(Path::new("/nowhere"), "", "");
            let mut session = Session::new(server.clone(), level);
            session.total(10).unwrap();
            session.complete(5).unwrap();
            assert_eq!(server.said(), said);
        }
    }

    #[test]
    fn a_server_that_hung_up_is_a_failure_with_its_cause() {
        let mut full = [0u8; 4];
        let session = Session::new(&mut full[..], 0).bypass(Position::asked(gtid(5), None));
        assert_eq!(session.unwrap_err().class(), Class::Server);
    }
}
