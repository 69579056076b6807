//! `grastate.dat`, where Galera keeps a node's saved position.
//!
//! While the provider is paused (the frozen window) it shows the exact position: `Replicator::pause` stores it, `resume`
//! sets it back to -1 (Galera 4, `galera/src/saved_state.cpp` and `replicator_smm.cpp`). So it is a second, independent
//! witness of what `tables_flushed` says.

use std::path::Path;

use super::answer::read_bounded;
use crate::error::{Class, Error, Result, printable};
use crate::gtid::{ClusterUuid, Gtid};

/// The file's name.
pub const FILE_NAME: &str = "grastate.dat";

/// Galera writes at most 256 bytes, padded with blanks; a person may have added a comment.
const LONGEST: usize = 4096;

/// A node's saved position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grastate {
    /// The cluster history; `None` if the file holds zeroes, which mean that it belongs to none.
    pub uuid: Option<ClusterUuid>,
    /// The position; `None` is Galera's -1: not known from this file.
    pub seqno: Option<u64>,
    /// Whether the node may found the cluster anew.
    pub safe_to_bootstrap: bool,
}

/// What `grastate.dat` says about a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The same.
    Agrees,
    /// The file is not there, or holds no position.
    Unknown,
}

impl Grastate {
    /// Reads the file of that directory; `None` if there is none.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE_NAME);
        let Some(bytes) = read_bounded(&path, LONGEST)? else { return Ok(None) };
        let malformed = |why: &str| Error::new(Class::Protocol, format!("{path:?} is malformed: {why}"));
        if bytes.len() > LONGEST {
            return Err(malformed("it is too long"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed("it is not text"))?;
        Self::parse(text).map_err(|why| malformed(&why)).map(Some)
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let (mut uuid, mut seqno, mut safe_to_bootstrap) = (None, None, false);
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let bad = || format!("{}: \"{}\"", key.trim(), printable(value.chars().take(64).collect::<String>()));
            match key.trim() {
                "uuid" => uuid = Some(parse_uuid(value).ok_or_else(bad)?),
                "seqno" => seqno = Some(parse_seqno(value).ok_or_else(bad)?),
                "safe_to_bootstrap" => safe_to_bootstrap = value == "1",
                _ => (),
            }
        }
        let uuid = uuid.ok_or("it has no uuid")?;
        Ok(Self { uuid, seqno: seqno.ok_or("it has no seqno")?, safe_to_bootstrap })
    }

    /// Compares the position with `gtid`; another one is an error.
    pub fn agrees(self, gtid: Gtid) -> Result<Agreement> {
        let Some(seqno) = self.seqno else { return Ok(Agreement::Unknown) };
        if self.uuid == Some(gtid.uuid) && seqno == gtid.seqno {
            return Ok(Agreement::Agrees);
        }
        let uuid = self.uuid.map_or_else(|| "no history".to_owned(), |uuid| uuid.to_string());
        Err(Error::new(
            Class::Protocol,
            format!("grastate.dat says that the node stands at {uuid}:{seqno}, the server answered {gtid}"),
        ))
    }
}

/// Whether the file of that directory agrees with `gtid`; another position there is an error.
pub fn cross_check(directory: &Path, gtid: Gtid) -> Result<Agreement> {
    match Grastate::read(directory)? {
        Some(saved) => saved.agrees(gtid),
        None => Ok(Agreement::Unknown),
    }
}

/// The file of a node that stands at `gtid`, as Galera writes it.
pub fn render(gtid: Gtid, safe_to_bootstrap: bool) -> String {
    format!(
        "# GALERA saved state\nversion: 2.1\nuuid:    {}\nseqno:   {}\nsafe_to_bootstrap: {}\n",
        gtid.uuid,
        gtid.seqno,
        u8::from(safe_to_bootstrap)
    )
}

/// The inner `None` is the UUID of zeroes.
fn parse_uuid(value: &str) -> Option<Option<ClusterUuid>> {
    if value == "00000000-0000-0000-0000-000000000000" { Some(None) } else { value.parse().ok().map(Some) }
}

/// The inner `None` is -1.
fn parse_seqno(value: &str) -> Option<Option<u64>> {
    let number = value.parse::<i64>().ok()?;
    if number == -1 { Some(None) } else { u64::try_from(number).ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002";

    fn gtid(seqno: u64) -> Gtid {
        Gtid { uuid: UUID.parse().unwrap(), seqno }
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let text = render(gtid(7), true);
        assert_eq!(
            text,
            format!("# GALERA saved state\nversion: 2.1\nuuid:    {UUID}\nseqno:   7\nsafe_to_bootstrap: 1\n")
        );
        std::fs::write(directory.path().join(FILE_NAME), format!("{text}{}\n", " ".repeat(90))).unwrap();
        let saved = Grastate::read(directory.path()).unwrap().unwrap();
        assert_eq!(saved, Grastate { uuid: Some(gtid(7).uuid), seqno: Some(7), safe_to_bootstrap: true });
    }

    #[test]
    fn only_another_position_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let check = |text: String| {
            std::fs::write(directory.path().join(FILE_NAME), text).unwrap();
            cross_check(directory.path(), gtid(7))
        };
        assert_eq!(cross_check(directory.path(), gtid(7)).unwrap(), Agreement::Unknown);
        assert_eq!(check(render(gtid(7), false)).unwrap(), Agreement::Agrees);
        assert_eq!(check(format!("uuid: {UUID}\nseqno: -1\n")).unwrap(), Agreement::Unknown);
        assert_eq!(check(render(gtid(8), false)).unwrap_err().class(), Class::Protocol);
        let foreign = render(gtid(7), false).replace("6d3f", "7d3f");
        assert_eq!(check(foreign).unwrap_err().class(), Class::Protocol);
        assert!(check("uuid: 00000000-0000-0000-0000-000000000000\nseqno: 7\n".into()).is_err());
    }

    #[test]
    fn a_malformed_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for text in [
            "",
            "uuid: x\nseqno: 1\n",
            &format!("uuid: {UUID}\nseqno: -2\n"),
            &format!("uuid: {UUID}\n"),
            &"x".repeat(5000),
        ] {
            std::fs::write(directory.path().join(FILE_NAME), text).unwrap();
            let error = Grastate::read(directory.path()).unwrap_err().to_string();
            assert!(error.contains("grastate.dat") && error.contains("malformed"), "{error}");
        }
    }
}
