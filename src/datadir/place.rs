//! What is known about a directory before its files are looked at: the grounds on which they are classified.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::binlog::Selection;

/// What a directory is for the server; one directory can be several things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u16);

impl Roles {
    /// The datadir itself.
    pub const DATADIR: Self = Self(1);
    /// A database, or any other directory in the datadir.
    pub const DATABASE: Self = Self(1 << 1);
    /// The database `mysql`.
    pub const MYSQL: Self = Self(1 << 2);
    /// Where the InnoDB system tablespace is.
    pub const DATA_HOME: Self = Self(1 << 3);
    /// Where the InnoDB redo log is.
    pub const REDO: Self = Self(1 << 4);
    /// MySQL's `#innodb_redo`.
    pub const REDO_FILES: Self = Self(1 << 5);
    /// Where InnoDB undo tablespaces are.
    pub const UNDO: Self = Self(1 << 6);
    /// Where MySQL's doublewrite files are.
    pub const DOUBLEWRITE: Self = Self(1 << 7);
    /// Where Aria's log is.
    pub const ARIA: Self = Self(1 << 8);
    /// Where the binary logs are.
    pub const BINLOG: Self = Self(1 << 9);
    /// A directory of `innodb_directories`, or below one.
    pub const TABLESPACES: Self = Self(1 << 10);
    /// Files of an engine that the server does not freeze.
    pub const UNFROZEN: Self = Self(1 << 11);
    /// Everything in it is the server's; elsewhere only what is recognised.
    pub const WHOLE: Self = Self(1 << 12);
    /// `wsrep_data_home_dir`.
    pub const GALERA: Self = Self(1 << 13);
    /// Where the server puts temporary files.
    pub const TEMPORARY: Self = Self(1 << 14);
    /// Where RocksDB's files are, outside the datadir or beside others.
    pub const ROCKSDB: Self = Self(1 << 15);
    /// Any directory.
    pub const ANY: Self = Self(u16::MAX);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the directory is any of `wanted`.
    pub fn any_of(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0 || wanted == Self::ANY
    }

    /// Those of `kept` that the directory is.
    pub fn only(self, kept: Self) -> Self {
        Self(self.0 & kept.0)
    }
}

/// What the configuration says about one name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A file of `innodb_data_file_path`.
    System,
    /// A file of `innodb_temp_data_file_path`.
    Temporary,
    /// `log_error`.
    ErrorLog,
    /// `general_log_file` or `slow_query_log_file`.
    QueryLog,
    /// `pid_file`.
    PidFile,
    /// `socket`.
    Socket,
    /// `log_bin_index`.
    BinlogIndex,
    /// `gcache.name` of `wsrep_provider_options`.
    Gcache,
}

/// A directory, as far as it decides what its files are.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// What it is for the server.
    pub roles: Roles,
    /// What the configuration says about single names in it.
    pub named: Vec<(OsString, Named)>,
    /// The binary logs, where they are in this directory.
    pub binlogs: Option<Arc<Selection>>,
    /// The base name of the relay logs, where they are in this directory.
    pub relay_base: Option<OsString>,
}

impl Place {
    /// What the configuration says about `name`.
    pub fn named(&self, name: &OsStr) -> Option<Named> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, named)| *named)
    }

    /// What a directory `name` in this one is, as far as its place says.
    pub fn roles_below(&self, name: &OsStr) -> Roles {
        let inherited = Roles::DATABASE.and(Roles::UNFROZEN).and(Roles::WHOLE).and(Roles::TABLESPACES);
        let mut roles = self.roles.only(inherited);
        if self.roles.any_of(Roles::DATADIR) {
            roles = roles.and(match name.as_bytes() {
                b"mysql" => Roles::DATABASE.and(Roles::MYSQL),
                b"#rocksdb" | b".rocksdb" => Roles::UNFROZEN,
                _ => Roles::DATABASE,
            });
        }
        if self.roles.any_of(Roles::REDO) && name == "#innodb_redo" {
            roles = roles.and(Roles::REDO_FILES);
        }
        roles
    }
}
