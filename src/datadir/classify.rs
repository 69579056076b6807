//! What every file in the server's directories is, and what is left out of a backup and why: one table.
//!
//! The first rule that fits decides. In a directory of the server what no rule knows is kept; in other directories
//! (`/var/log/mysql`, a log directory that others use as well) only what a rule knows is the server's. Table files in a
//! database stand at the top, so that no later rule, and no odd configuration, can leave one out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::place::{Named, Place, Roles};
use crate::archive::manifest::{EntryKind, FileClass, OWN_DIRECTORY};

/// What becomes of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs into the backup. The text says what it is; for [`FileClass::Unfrozen`], whose.
    Keep(FileClass, &'static str),
    /// It is the server's, but is left out for this reason. A directory stands for everything in it.
    Leave(&'static str),
    /// It is somebody else's.
    NotOurs,
}

/// One row of the table.
struct Rule {
    roles: Roles,
    kind: Option<EntryKind>,
    name: Name,
    verdict: Verdict,
}

/// Which names a rule fits.
enum Name {
    Any,
    Is(&'static [&'static str]),
    Starts(&'static [&'static str]),
    Ends(&'static [&'static str]),
    /// Starts with the one and ends with the other.
    Spans(&'static str, &'static str),
    /// One of these, then digits only.
    Numbered(&'static [&'static str]),
    Configured(Named),
    Fits(fn(&Place, &OsStr) -> bool),
}

use FileClass::{AriaLog, Binlog, Directory, Innodb, InnodbSystem, InnodbUndo, LogTable, Other, Redo, Unfrozen};
use Name::{Any, Configured, Ends, Fits, Is, Numbered, Spans, Starts};

const fn file(roles: Roles, name: Name, class: FileClass, what: &'static str) -> Rule {
    Rule { roles, kind: Some(EntryKind::File), name, verdict: Verdict::Keep(class, what) }
}

const fn directory(roles: Roles, name: Name, what: &'static str) -> Rule {
    Rule { roles, kind: Some(EntryKind::Directory), name, verdict: Verdict::Keep(Directory, what) }
}

const fn leave(roles: Roles, name: Name, why: &'static str) -> Rule {
    Rule { roles, kind: Some(EntryKind::File), name, verdict: Verdict::Leave(why) }
}

/// A rule that fits a directory as well as a file.
const fn leave_any(roles: Roles, name: Name, why: &'static str) -> Rule {
    Rule { roles, kind: None, name, verdict: Verdict::Leave(why) }
}

const DATADIR: Roles = Roles::DATADIR;
const DATABASE: Roles = Roles::DATABASE;
const GALERA: Roles = Roles::DATADIR.and(Roles::GALERA);
const WHOLE: Roles = Roles::WHOLE;

const ANSWER: &str = "the server's answer to a running state transfer";
const MARKER: &str = "a marker of a state transfer";
const MOUNT: &str = "belongs to the file system, not to the server";
const REPLICA: &str = "a replica's position: a restored node would connect to the primary as a second replica";
const RELAY: &str = "a relay log: a restored node would go on as a second replica";
const TEMPORARY: &str = "InnoDB's temporary tablespace: made anew at every start";
const TEMPORARY_FILE: &str = "the server's temporary files: they come and go with statements";
const GCACHE: &str = "Galera's cache of write sets: a restored node starts a new one";
const QUERY_LOG: &str = "a log that the server keeps writing";
const TRUNCATION: &str = "InnoDB's note about a truncation under way";

/// The table.
const RULES: &[Rule] = &[
    // Tried on 10.11: of what it makes there only `#sql` keeps a name; `SQL_LOAD-` is a replica's (`PREFIX_SQL_LOAD`). No
    // table's file is called so: its name would hold `@0023` and `@002d` instead.
    leave_any(Roles::TEMPORARY, Starts(&["#sql", "SQL_LOAD-"]), TEMPORARY_FILE),
    // Tables. The server writes its log tables inside the frozen window too.
    file(Roles::MYSQL, Fits(is_log_table), LogTable, "a log table: copied last, may hold newer rows"),
    file(DATADIR.and(DATABASE).and(Roles::TABLESPACES), Ends(&[".ibd"]), Innodb, "an InnoDB tablespace"),
    file(DATABASE, Ends(&[".frm", ".MYD", ".MYI", ".MAD", ".MAI", ".CSV", ".CSM"]), Other, "a table"),
    file(DATABASE, Ends(&[".isl", ".par", ".MRG", ".TRG", ".TRN"]), Other, "of a table"),
    file(DATABASE, Is(&["db.opt"]), Other, "a database's options"),
    file(DATABASE.and(DATADIR), Ends(&[".tokudb"]), Unfrozen, "TokuDB"),
    // What is not the server's at all, and what this program left.
    leave_any(WHOLE, Is(&["lost+found", ".zfs", ".snapshot", ".fseventsd", ".Trashes"]), MOUNT),
    leave_any(DATADIR, Starts(&[OWN_DIRECTORY]), "of this program"),
    // Galera and state transfers.
    // `gcache.dir` may be any directory, and the file changes as long as the cluster writes.
    leave(GALERA.and(WHOLE), Is(&["galera.cache"]), GCACHE),
    leave(GALERA.and(WHOLE), Starts(&["gcache.page."]), GCACHE),
    leave(Roles::ANY, Configured(Named::Gcache), GCACHE),
    leave(
        GALERA,
        Starts(&["gvwstate.dat"]),
        "the donor's view of its cluster: a restored node would take the donor's identity and stay out of the cluster",
    ),
    leave(GALERA, Is(&["grastate.dat"]), "written anew, with the exact position of the backup"),
    leave(DATADIR, Spans("GRA_", ".log"), "Galera's dump of a write set that failed"),
    leave(DATADIR, Starts(&["tables_flushed", "sst_error"]), ANSWER),
    leave(DATADIR, Starts(&["sst_in_progress"]), MARKER),
    leave(DATADIR, Is(&["backup_sst_complete", "rsync_sst_complete", "wsrep_sst_binlog.tar"]), MARKER),
    leave(DATADIR, Is(&["rsync_sst.conf", "stunnel.conf"]), MARKER),
    leave_any(DATADIR, Is(&[".sst"]), MARKER),
    // What identifies this one node.
    leave(DATADIR, Is(&["auto.cnf"]), "the server's UUID: two nodes must not share one"),
    leave(DATADIR, Ends(&[".pem"]), "a key or certificate of this node: a restored node has its own"),
    // Binary logs.
    file(Roles::BINLOG, Fits(is_kept_binlog), Binlog, "a binary log"),
    leave(Roles::BINLOG, Fits(is_binlog), "a binary log that the setting `binlogs` leaves out"),
    leave(Roles::ANY, Configured(Named::BinlogIndex), "the list of binary logs: written anew for those in the backup"),
    // Tried on 10.11: removed at start, written at shutdown, believed if no log is there; else the last log is scanned.
    leave(
        Roles::BINLOG,
        Fits(is_binlog_state),
        "the binary logs' state at an earlier shutdown: a restored server would believe it",
    ),
    leave(Roles::BINLOG, Fits(is_binlog_leftover), "a leftover of purging binary logs"),
    // Replication from outside the cluster.
    leave(DATADIR, Is(&["master.info", "multi-master.info"]), REPLICA),
    leave(DATADIR, Spans("master-", ".info"), REPLICA),
    leave(DATADIR, Spans("relay-log", ".info"), REPLICA),
    leave(Roles::ANY, Fits(is_relay_log), RELAY),
    // InnoDB.
    file(Roles::ANY, Configured(Named::System), InnodbSystem, "the InnoDB system tablespace"),
    leave(Roles::ANY, Configured(Named::Temporary), TEMPORARY),
    leave(Roles::DATA_HOME.and(DATADIR), Starts(&["ibtmp"]), TEMPORARY),
    leave_any(DATADIR, Is(&["#innodb_temp"]), "InnoDB's temporary tables"),
    file(Roles::REDO, Starts(&["ib_logfile"]), Redo, "an InnoDB redo log"),
    directory(Roles::REDO, Is(&["#innodb_redo"]), "the InnoDB redo log"),
    file(Roles::REDO_FILES, Starts(&["#ib_redo"]), Redo, "an InnoDB redo log"),
    file(Roles::UNDO, Numbered(&["undo", "undo_"]), InnodbUndo, "an InnoDB undo tablespace"),
    file(Roles::UNDO.and(DATADIR).and(Roles::TABLESPACES), Ends(&[".ibu"]), InnodbUndo, "an InnoDB undo tablespace"),
    file(Roles::UNDO.and(Roles::REDO), Spans("undo_", "_trunc.log"), InnodbUndo, TRUNCATION),
    file(Roles::REDO, Spans("ib_", "_trunc.log"), Innodb, TRUNCATION),
    file(Roles::DOUBLEWRITE, Spans("#ib_", "dblwr"), Innodb, "an InnoDB doublewrite file"),
    file(Roles::DOUBLEWRITE, Spans("ib_", "dblwr"), Innodb, "an InnoDB doublewrite file"),
    file(Roles::DOUBLEWRITE, Is(&["xb_doublewrite"]), Innodb, "an InnoDB doublewrite file"),
    leave(DATADIR, Numbered(&["innodb_status."]), "InnoDB's monitor output, written again every 15 seconds"),
    leave(DATADIR, Is(&["ib_buffer_pool.incomplete"]), "a half-written list of cached pages"),
    // Other engines.
    file(Roles::ARIA, Is(&["aria_log_control"]), AriaLog, "Aria's control file"),
    file(Roles::ARIA, Numbered(&["aria_log."]), AriaLog, "Aria's log"),
    file(Roles::UNFROZEN, Any, Unfrozen, "RocksDB"),
    file(Roles::ROCKSDB, Fits(is_rocksdb), Unfrozen, "RocksDB"),
    file(DATADIR, Starts(&["tokudb.", "__tokudb_"]), Unfrozen, "TokuDB"),
    file(DATADIR, Spans("log", ".tokulog29"), Unfrozen, "TokuDB"),
    file(DATADIR, Fits(is_mroonga), Unfrozen, "Mroonga"),
    // What the running server writes for people.
    leave(Roles::ANY, Configured(Named::ErrorLog), "the error log"),
    leave(DATADIR, Ends(&[".err"]), "the error log"),
    leave(Roles::ANY, Configured(Named::QueryLog), QUERY_LOG),
    leave(Roles::ANY, Configured(Named::PidFile), "the number of the running server's process"),
    leave(DATADIR, Ends(&[".pid"]), "the number of a process"),
    leave(Roles::ANY, Configured(Named::Socket), "a socket"),
    leave(DATADIR, Ends(&[".sock", ".sock.lock"]), "a socket"),
    leave(DATADIR, Is(&["core"]), "a core dump"),
    leave(DATADIR, Numbered(&["core."]), "a core dump"),
    file(DATADIR, Spans("ddl_", ".log"), Other, "the log of DDL statements under way"),
    file(DATADIR, Is(&["tc.log"]), Other, "the log of the transaction coordinator"),
    leave(DATADIR, Ends(&[".log"]), QUERY_LOG),
    // Whatever else is there. A directory for temporary files may be a database too: its tables were kept above.
    leave_any(Roles::TEMPORARY, Fits(is_in_tmpdir), TEMPORARY_FILE),
    directory(WHOLE.and(Roles::TABLESPACES), Any, "a directory"),
    file(WHOLE, Any, Other, "a file"),
];

/// What the file or directory `name` in `place` is, and whether it belongs into the backup.
pub fn classify(place: &Place, name: &OsStr, kind: EntryKind) -> Verdict {
    RULES.iter().find(|rule| rule.fits(place, name, kind)).map_or(Verdict::NotOurs, |rule| rule.verdict)
}

impl Rule {
    fn fits(&self, place: &Place, name: &OsStr, kind: EntryKind) -> bool {
        place.roles.any_of(self.roles) && self.kind.is_none_or(|wanted| wanted == kind) && self.name.fits(place, name)
    }
}

impl Name {
    fn fits(&self, place: &Place, name: &OsStr) -> bool {
        let bytes = name.as_bytes();
        match self {
            Any => true,
            Is(names) => names.iter().any(|known| bytes == known.as_bytes()),
            Starts(starts) => starts.iter().any(|start| bytes.starts_with(start.as_bytes())),
            Ends(ends) => ends.iter().any(|end| bytes.ends_with(end.as_bytes())),
            Spans(start, end) => {
                bytes.strip_prefix(start.as_bytes()).is_some_and(|rest| rest.ends_with(end.as_bytes()))
            }
            Numbered(starts) => starts.iter().any(|start| bytes.strip_prefix(start.as_bytes()).is_some_and(digits)),
            Configured(named) => place.named(name) == Some(*named),
            Fits(fits) => fits(place, name),
        }
    }
}

/// Whether `bytes` is a number.
pub(super) fn digits(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

/// `log_output=TABLE`: CSV unless the operator altered them to MyISAM or Aria.
fn is_log_table(_: &Place, name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.split_once('.'));
    parts.is_some_and(|(table, suffix)| {
        matches!(table, "general_log" | "slow_log") && matches!(suffix, "CSV" | "CSM" | "MYD" | "MYI" | "MAD" | "MAI")
    })
}

fn is_kept_binlog(place: &Place, name: &OsStr) -> bool {
    place.binlogs.as_ref().is_some_and(|binlogs| binlogs.keeps(name))
}

fn is_binlog(place: &Place, name: &OsStr) -> bool {
    place.binlogs.as_ref().is_some_and(|binlogs| binlogs.number(name).is_some())
}

fn is_binlog_state(place: &Place, name: &OsStr) -> bool {
    place.binlogs.as_ref().is_some_and(|binlogs| binlogs.suffix(name) == Some(b".state"))
}

fn is_binlog_leftover(place: &Place, name: &OsStr) -> bool {
    let leftovers: [&[u8]; 3] = [b".~rec~", b".index_crash_safe", b".index"];
    place.binlogs.as_ref().and_then(|binlogs| binlogs.suffix(name)).is_some_and(|suffix| leftovers.contains(&suffix))
}

/// `BASE.000001`, `BASE-CONNECTION.000001`, `BASE.index`; in the datadir also under any host's default name.
fn is_relay_log(place: &Place, name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let base = place.relay_base.as_ref().map(|base| base.as_bytes());
    let Some(dot) = bytes.iter().rposition(|byte| *byte == b'.') else { return false };
    let (stem, suffix) = (&bytes[..dot], &bytes[dot + 1..]);
    let configured =
        base.is_some_and(|base| stem.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"-")));
    let default = place.roles.any_of(Roles::DATADIR) && stem.windows(10).any(|part| part == b"-relay-bin");
    (configured || default) && (suffix == b"index" || digits(suffix))
}

/// In a directory of the server for temporary files everything, but in the datadir itself only what is called so.
fn is_in_tmpdir(place: &Place, _: &OsStr) -> bool {
    place.roles.any_of(WHOLE) && !place.roles.any_of(DATADIR)
}

/// The names of RocksDB's `file/filename.cc`: in a directory of its own that others may use as well.
fn is_rocksdb(_: &Place, name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let numbered = |stem: &str| digits(stem.as_bytes());
    let log = name.strip_prefix("LOG.old.").or_else(|| name.strip_prefix("MANIFEST-"));
    matches!(name, "CURRENT" | "IDENTITY" | "LOCK" | "LOG")
        || log.is_some_and(numbered)
        || name.strip_prefix("OPTIONS-").is_some_and(|rest| numbered(rest.trim_end_matches(".dbtmp")))
        || name
            .split_once('.')
            .is_some_and(|(stem, suffix)| numbered(stem) && matches!(suffix, "log" | "sst" | "ldb" | "blob" | "dbtmp"))
}

/// Mroonga keeps a database's index in `NAME.mrn` and `NAME.mrn.0000101` beside the databases.
fn is_mroonga(_: &Place, name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".mrn") || name.as_bytes().windows(5).any(|part| part == b".mrn.")
}

#[cfg(test)]
mod tests;
