//! The server's answer to `flush tables`: files that it writes into its datadir.
//!
//! MariaDB writes `tables_flushed` twice (`sst_flush_tables` in `sql/wsrep_sst.cc`), so it may come back after it was
//! deleted, and a stale one would be believed: hence [`Answers`] removes them before and after a run, whatever happens.
//! The second one may still be on its way when a quick run has closed the window, and without its temporary file the server
//! calls the transfer failed: so those are removed only before the server is asked.
//! Files are read without following links and never more than a fixed number of bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::grastate;
use crate::error::{Class, Error, Result, printable};
use crate::gtid::Gtid;

/// The most that an answer may have; the servers write at most 100 bytes.
const LONGEST: usize = 512;

/// The first line must fit, after `done `, into the 128-byte buffer of the server with newline and zero byte.
const LONGEST_LINE: usize = 121;

/// Codership 8.0 builds its answer in `char content[100]` and may cut it there, newline and all.
const CUT_AT: usize = 99;

/// The files by which the server answers.
const FILES: [&str; 2] = ["tables_flushed", "sst_error"];

/// Those through which it makes them.
const TEMPORARY: [&str; 2] = ["tables_flushed.tmp", "sst_error.tmp"];

/// The exact position of the server's files, as its answer states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    gtid: Gtid,
    rest: String,
}

/// What the server has said so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet, or not all of it.
    Pending,
    /// The tables are flushed and locked, at this position.
    Flushed(Position),
    /// The server could not do it.
    Failed,
}

/// The answer files of one run; dropping it removes them.
#[derive(Debug)]
pub struct Answers {
    files: AnswerFiles,
}

/// Where the answers and the saved position are, and what was asked.
#[derive(Clone, Debug)]
pub(super) struct AnswerFiles {
    datadir: PathBuf,
    grastate: PathBuf,
    asked: Gtid,
}

impl Position {
    /// A position that the server gave on the command line, for a joiner that needs no files.
    pub fn asked(gtid: Gtid, domain: Option<u32>) -> Self {
        Self { gtid, rest: domain.map_or_else(String::new, |domain| domain.to_string()) }
    }

    /// Reads the content of `tables_flushed`; `None` if more of it is to come.
    pub fn parse(content: &[u8]) -> Result<Option<Self>> {
        let cut = content.len() == CUT_AT && content.contains(&b' ');
        let line = match content.iter().position(|byte| *byte == b'\n') {
            Some(end) => &content[..end],
            None if cut || content.len() > LONGEST_LINE => content,
            None => return Ok(None),
        };
        let malformed = |why: &str| {
            let shown = printable(String::from_utf8_lossy(&content[..content.len().min(CUT_AT)]));
            Error::new(
                Class::Protocol,
                format!("the server's answer \"{shown}\" in tables_flushed is malformed: {why}"),
            )
        };
        let printable_ascii = |byte: &u8| (b' '..=b'~').contains(byte);
        let line = std::str::from_utf8(line).ok().filter(|line| line.bytes().all(|byte| printable_ascii(&byte)));
        let line = line.ok_or_else(|| malformed("it is not plain text"))?;
        if line.len() > LONGEST_LINE {
            return Err(malformed("it is too long"));
        }
        let (gtid, rest) = line.split_once(' ').unwrap_or((line, ""));
        let gtid = gtid.parse().map_err(|cause| malformed("it does not begin with a GTID").because(cause))?;
        Ok(Some(Self { gtid, rest: rest.trim().to_owned() }))
    }

    /// The position.
    pub fn gtid(&self) -> Gtid {
        self.gtid
    }

    /// MariaDB's GTID domain, if that is what follows the position.
    pub fn domain(&self) -> Option<u32> {
        self.rest.parse().ok()
    }

    /// The line that ends the dialogue, without its newline.
    pub fn done_line(&self) -> String {
        format!("done {} {}", self.gtid, self.rest).trim_end().to_owned()
    }
}

impl Answers {
    /// The answers to a request at `asked` of the server whose datadir this is; `grastate` is the directory of `grastate.dat`.
    pub fn new(datadir: &Path, grastate: &Path, asked: Gtid) -> Self {
        let files = AnswerFiles { datadir: datadir.to_owned(), grastate: grastate.to_owned(), asked };
        Self { files }
    }

    /// Removes whatever answer files are there, before the server is asked.
    pub fn clear(&self) -> Result<()> {
        self.files.remove(&TEMPORARY)?;
        self.files.clear()
    }

    pub(super) fn files(&self) -> &AnswerFiles {
        &self.files
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if let Err(error) = self.files.clear() {
            tracing::warn!("{}", crate::error::one_line(&error));
        }
    }
}

impl AnswerFiles {
    /// Removes the answers, and not what the server may still be writing.
    pub(super) fn clear(&self) -> Result<()> {
        self.remove(&FILES)
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        for name in names {
            let path = self.datadir.join(name);
            match std::fs::remove_file(&path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", path, cause)),
                _ => (),
            }
        }
        Ok(())
    }

    /// What the server has said so far. A position before the one asked for, or of another cluster, is an error.
    pub(super) fn read(&self) -> Result<Answer> {
        if let Some(content) = read_bounded(&self.datadir.join("tables_flushed"), LONGEST)?
            && let Some(position) = Position::parse(&content)?
        {
            self.check(position.gtid)?;
            return Ok(Answer::Flushed(position));
        }
        let failed = std::fs::symlink_metadata(self.datadir.join("sst_error")).is_ok();
        Ok(if failed { Answer::Failed } else { Answer::Pending })
    }

    /// What `grastate.dat` says about the position.
    pub(super) fn cross_check(&self, gtid: Gtid) -> Result<grastate::Agreement> {
        grastate::cross_check(&self.grastate, gtid)
    }

    fn check(&self, gtid: Gtid) -> Result<()> {
        if gtid.uuid == self.asked.uuid && gtid.seqno >= self.asked.seqno {
            return Ok(());
        }
        Err(Error::new(
            Class::Protocol,
            format!("the answer {gtid} in tables_flushed is stale or foreign: the request was made at {}", self.asked),
        ))
    }
}

/// At most `limit` bytes of a plain file, and one more if it is longer; `None` if there is no such file.
pub(super) fn read_bounded(path: &Path, limit: usize) -> Result<Option<Vec<u8>>> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Error::io("open", path, cause)),
    };
    let read = |file: File| -> io::Result<Vec<u8>> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a plain file"));
        }
        let mut content = Vec::with_capacity(limit.min(LONGEST));
        file.take(limit as u64 + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    read(file).map(Some).map_err(|cause| Error::io("read", path, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002";

    fn parsed(content: &str) -> Position {
        Position::parse(content.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn the_answers_of_every_server_family_are_understood() {
        let mariadb_first = parsed(&format!("{UUID}:24755 7\n\n"));
        assert_eq!((mariadb_first.gtid().seqno, mariadb_first.domain()), (24755, Some(7)));
        assert_eq!(mariadb_first.done_line(), format!("done {UUID}:24755 7"));
        assert_eq!(parsed(&format!("{UUID}:24755 7\n")), mariadb_first);
        let percona = parsed(&format!("{UUID}:24755\n"));
        assert_eq!((percona.domain(), percona.done_line()), (None, format!("done {UUID}:24755")));
        let codership = parsed(&format!("{UUID}:24755 {UUID}:12 1\n"));
        assert_eq!(codership.done_line(), format!("done {UUID}:24755 {UUID}:12 1"));
        assert_eq!(codership.domain(), None);
    }

    #[test]
    fn only_an_answer_cut_where_codership_cuts_it_needs_no_newline() {
        let mut cut = format!("{UUID}:9223372036854775807 {UUID}:9223372036854775807 1");
        cut.truncate(CUT_AT);
        assert_eq!(parsed(&cut).gtid().seqno, i64::MAX as u64);
        assert!(parsed(&cut).done_line().len() < 127);
        cut.pop();
        assert_eq!(Position::parse(cut.as_bytes()).unwrap(), None);
        assert_eq!(Position::parse(b"").unwrap(), None);
        assert_eq!(Position::parse(format!("{UUID}:1").as_bytes()).unwrap(), None);
    }

    #[test]
    fn a_malformed_answer_is_shown_escaped_and_bounded() {
        let long = format!("{UUID}:1 {}\n", "x".repeat(100));
        for content in
            ["\n", " \n", "\n\n", "hello\n", &format!("{UUID}:-1\n"), &format!("{UUID}:1\t\n"), &"x".repeat(513), &long]
        {
            let error = Position::parse(content.as_bytes()).unwrap_err();
            assert_eq!(error.class(), Class::Protocol);
            let message = error.to_string();
            assert!(message.len() < 300 && !message.contains(['\n', '\t']), "{message}");
        }
        assert!(Position::parse(format!("{UUID}:1 \u{7f}\n").as_bytes()).is_err());
        assert!(Position::parse(b"\xff\xfe\n").is_err());
    }

    #[test]
    fn a_bypass_says_what_the_command_line_said() {
        let gtid = format!("{UUID}:5").parse().unwrap();
        assert_eq!(Position::asked(gtid, Some(3)).done_line(), format!("done {UUID}:5 3"));
        assert_eq!(Position::asked(gtid, None).done_line(), format!("done {UUID}:5"));
    }

    #[test]
    fn answer_files_are_removed_by_hand_and_on_drop_but_then_not_what_is_being_written() {
        let datadir = tempfile::tempdir().unwrap();
        let all = || FILES.iter().chain(&TEMPORARY);
        let fill = || all().for_each(|name| std::fs::write(datadir.path().join(name), "x").unwrap());
        let left = || std::fs::read_dir(datadir.path()).unwrap().count();
        let answers = Answers::new(datadir.path(), datadir.path(), format!("{UUID}:5").parse().unwrap());
        fill();
        answers.clear().unwrap();
        assert_eq!(left(), 0);
        fill();
        drop(answers);
        assert_eq!(left(), TEMPORARY.len());
    }

    #[test]
    fn a_link_in_place_of_an_answer_is_not_followed() {
        let datadir = tempfile::tempdir().unwrap();
        std::fs::write(datadir.path().join("elsewhere"), format!("{UUID}:9\n")).unwrap();
        std::os::unix::fs::symlink("elsewhere", datadir.path().join("tables_flushed")).unwrap();
        let answers = Answers::new(datadir.path(), datadir.path(), format!("{UUID}:5").parse().unwrap());
        assert_eq!(answers.files().read().unwrap_err().class(), Class::Io);
    }

    proptest! {
        #[test]
        fn no_content_panics_and_no_done_line_is_too_long(content in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some(position)) = Position::parse(&content) {
                prop_assert!(position.done_line().len() < 127);
            }
        }
    }
}
