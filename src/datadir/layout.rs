//! Where the server's directories are and what its variables call the files in them.
//!
//! Directories are known by their canonical paths: two variables that name one directory by different ways name it once.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::binlog::{BinlogFiles, Selection, base_name, index_name};
use super::place::{Named, Place, Roles};
use super::variables::ServerVariables;
use crate::archive::manifest::RootKind;
use crate::error::{Class, Error, Result};

/// What the configuration says about the server's directories.
#[derive(Debug)]
pub(super) struct Layout {
    /// The datadir, canonical.
    pub datadir: PathBuf,
    /// The other directories that the configuration names and that are outside the datadir, in a fixed order.
    pub external: Vec<External>,
    /// The binary logs, if they are on.
    pub binlogs: Option<BinlogFiles>,
    /// The files of InnoDB's system tablespace, as the variables name them.
    pub system_files: Vec<PathBuf>,
    /// The directory of InnoDB's redo log, canonical.
    pub redo: PathBuf,
    /// What the operator should know about this configuration.
    pub warnings: Vec<String>,
    /// Paths that are left out because the caller says so.
    pub left_out: HashSet<PathBuf>,
    places: HashMap<PathBuf, Place>,
}

/// A configured directory outside the datadir.
#[derive(Debug)]
pub(super) struct External {
    /// What for.
    pub kind: RootKind,
    /// What the operator calls it.
    pub name: String,
    /// Canonical.
    pub path: PathBuf,
}

impl Layout {
    /// Resolves `variables`.
    pub(super) fn new(variables: &ServerVariables, left_out: &[PathBuf]) -> Result<Self> {
        let datadir = directory("datadir", &variables.datadir)?;
        let mut layout = Self {
            datadir: datadir.clone(),
            external: Vec::new(),
            binlogs: None,
            system_files: Vec::new(),
            redo: datadir.clone(),
            warnings: Vec::new(),
            left_out: left_out.iter().map(|path| canonical(path)).collect(),
            places: HashMap::new(),
        };
        if layout.left_out.contains(&datadir) {
            return Err(Error::new(Class::Config, format!("{datadir:?} is the datadir and cannot hold the backups")));
        }
        layout.place(&datadir).roles = Roles::DATADIR.and(Roles::WHOLE);
        layout.innodb(variables)?;
        let aria = layout.special("aria_log_dir_path", variables.aria_log_dir_path.as_deref(), Roles::ARIA)?;
        layout.outside(RootKind::AriaLog, "aria-log", aria);
        layout.binary_logs(variables)?;
        layout.galera(variables);
        layout.rocksdb(variables);
        layout.temporary(variables);
        layout.relay_logs(variables);
        layout.server_files(variables);
        Ok(layout)
    }

    /// What the directory at `path`, below a known root, is; `inherited` is what its place in the parent says.
    pub(super) fn look_up(&self, path: &Path, inherited: Roles, binlogs: Option<&Arc<Selection>>) -> Place {
        let mut place = self.places.get(path).cloned().unwrap_or_default();
        place.roles = place.roles.and(inherited);
        if place.roles.any_of(Roles::BINLOG) {
            place.binlogs = binlogs.cloned();
        }
        place
    }

    fn place(&mut self, directory: &Path) -> &mut Place {
        self.places.entry(directory.to_owned()).or_default()
    }

    fn name(&mut self, path: &Path, named: Named) {
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
            self.place(&canonical(directory)).named.push((name.to_owned(), named));
        }
    }

    fn outside(&mut self, kind: RootKind, name: &str, path: PathBuf) {
        if path.starts_with(&self.datadir) || self.external.iter().any(|known| known.path == path) {
            return;
        }
        let like = |known: &&External| known.name == name || known.name.starts_with(&format!("{name}-"));
        let name = match self.external.iter().filter(like).count() {
            0 => name.to_owned(),
            more => format!("{name}-{}", more + 1),
        };
        self.external.push(External { kind, name, path });
    }

    /// The directory that `variable` names, the datadir by default, with a role.
    fn special(&mut self, variable: &str, value: Option<&Path>, role: Roles) -> Result<PathBuf> {
        let path = match value {
            Some(path) if !path.as_os_str().is_empty() => directory(variable, &self.datadir.join(path))?,
            _ => self.datadir.clone(),
        };
        let place = self.place(&path);
        place.roles = place.roles.and(role);
        Ok(path)
    }

    fn innodb(&mut self, variables: &ServerVariables) -> Result<()> {
        let home = variables.innodb_data_home_dir.as_deref();
        let home_path = self.special("innodb_data_home_dir", home, Roles::DATA_HOME.and(Roles::DOUBLEWRITE))?;
        let given = variables.innodb_data_file_path.as_deref().filter(|path| !path.trim().is_empty());
        for name in data_files("innodb_data_file_path", given.unwrap_or("ibdata1:12M:autoextend"))? {
            let path = place_of(&home_path, name);
            let parent = path.parent().unwrap_or(&home_path);
            let parent = directory("innodb_data_file_path", parent)?;
            self.outside(RootKind::InnodbDataHome, "innodb-data-home", parent);
            self.name(&path, Named::System);
            self.system_files.push(path);
        }
        let temporary = variables.innodb_temp_data_file_path.as_deref().unwrap_or("ibtmp1:12M:autoextend");
        for name in data_files("innodb_temp_data_file_path", temporary)? {
            self.name(&place_of(&home_path, name), Named::Temporary);
        }
        let redo = self.special(
            "innodb_log_group_home_dir",
            variables.innodb_log_group_home_dir.as_deref(),
            Roles::REDO.and(Roles::UNDO),
        )?;
        self.redo.clone_from(&redo);
        self.outside(RootKind::InnodbLogGroupHome, "innodb-log-group-home", redo);
        let undo = self.special("innodb_undo_directory", variables.innodb_undo_directory.as_deref(), Roles::UNDO)?;
        self.outside(RootKind::InnodbUndo, "innodb-undo", undo);
        let doublewrite = variables.innodb_doublewrite_dir.as_deref();
        let doublewrite = self.special("innodb_doublewrite_dir", doublewrite, Roles::DOUBLEWRITE)?;
        self.outside(RootKind::InnodbDoublewrite, "innodb-doublewrite", doublewrite);
        for path in variables.innodb_directories.iter().flat_map(|paths| paths.split(';')).map(str::trim) {
            let more = self.special("innodb_directories", Some(Path::new(path)), Roles::TABLESPACES)?;
            self.outside(RootKind::Tablespace, "innodb-directory", more);
        }
        Ok(())
    }

    fn binary_logs(&mut self, variables: &ServerVariables) -> Result<()> {
        let Some(log_bin) = &variables.log_bin else { return Ok(()) };
        let path = self.datadir.join(log_bin);
        let (parent, wanted) = match path.file_name() {
            Some(name) if !log_bin.as_os_str().is_empty() => (path.parent(), vec![name.to_owned()]),
            // Without a value: MariaDB's and older MySQL's default, MariaDB's where the host has no name, MySQL 8.0's.
            _ => (None, vec![host_name("-bin"), "mysql-bin".into(), "binlog".into()]),
        };
        let directory = directory("log_bin", parent.unwrap_or(&self.datadir))?;
        let base = base_name(&directory, &wanted).unwrap_or_default();
        let index = match &variables.log_bin_index {
            Some(index) if index.extension().is_some() => self.datadir.join(index),
            Some(index) if !index.as_os_str().is_empty() => self.datadir.join(index).with_extension("index"),
            _ => directory.join(index_name(&base)),
        };
        let place = self.place(&directory);
        place.roles = place.roles.and(Roles::BINLOG);
        self.outside(RootKind::Binlog, "binlog", directory.clone());
        let index = canonical(index.parent().unwrap_or(&directory)).join(index.file_name().unwrap_or_default());
        self.outside(RootKind::Binlog, "binlog-index", canonical(index.parent().unwrap_or(&directory)));
        self.name(&index, Named::BinlogIndex);
        self.binlogs = Some(BinlogFiles { directory, base, index });
        Ok(())
    }

    fn galera(&mut self, variables: &ServerVariables) {
        let home = canonical(&variables.grastate_directory());
        let place = self.place(&home);
        place.roles = place.roles.and(Roles::GALERA);
        if home != self.datadir {
            self.warnings.push(format!(
                "wsrep_data_home_dir is {home:?}: after a restore move grastate.dat there, or the node asks for a full SST"
            ));
        }
        if let Some(name) = variables.provider_option("gcache.name") {
            let directory = variables.provider_option("gcache.dir").map_or(home, |path| self.datadir.join(path));
            self.name(&directory.join(name), Named::Gcache);
        }
    }

    /// Directories that are not there are those of an engine that is not there.
    fn rocksdb(&mut self, variables: &ServerVariables) {
        for (name, value) in [("rocksdb", &variables.rocksdb_datadir), ("rocksdb-wal", &variables.rocksdb_wal_dir)] {
            let Some(value) = value.as_ref().filter(|path| !path.as_os_str().is_empty()) else { continue };
            let Ok(path) = directory(name, &self.datadir.join(value)) else { continue };
            let place = self.place(&path);
            place.roles = place.roles.and(Roles::ROCKSDB);
            self.outside(RootKind::Rocksdb, name, path);
        }
    }

    fn temporary(&mut self, variables: &ServerVariables) {
        let listed = variables.tmpdir.iter().flat_map(|paths| paths.as_bytes().split(|byte| *byte == b':'));
        let single = [&variables.innodb_tmpdir, &variables.slave_load_tmpdir].into_iter().flatten();
        let paths = listed.map(OsStr::from_bytes).map(Path::new).chain(single.map(PathBuf::as_path));
        for path in paths.filter(|path| !path.as_os_str().is_empty()) {
            let place = self.place(&canonical(&self.datadir.join(path)));
            place.roles = place.roles.and(Roles::TEMPORARY);
        }
    }

    fn relay_logs(&mut self, variables: &ServerVariables) {
        let path = self.datadir.join(variables.relay_log.as_deref().unwrap_or(Path::new("")));
        let named = variables.relay_log.is_some().then(|| path.file_name()).flatten();
        let base = named.map_or_else(|| host_name("-relay-bin"), OsStr::to_owned);
        let directory = named.and_then(|_| path.parent()).map_or_else(|| self.datadir.clone(), canonical);
        self.place(&directory).relay_base = Some(base);
    }

    /// Logs, the pid file and the socket.
    fn server_files(&mut self, variables: &ServerVariables) {
        let files = [
            (&variables.log_error, Named::ErrorLog, "err"),
            (&variables.general_log_file, Named::QueryLog, ""),
            (&variables.slow_query_log_file, Named::QueryLog, ""),
            (&variables.pid_file, Named::PidFile, "pid"),
            (&variables.socket, Named::Socket, ""),
        ];
        for (value, named, suffix) in files {
            let Some(path) = value.as_ref().filter(|path| !path.as_os_str().is_empty()) else { continue };
            let path = self.datadir.join(path);
            self.name(&path, named);
            if named == Named::Socket {
                let mut lock = path.clone().into_os_string();
                lock.push(".lock");
                self.name(Path::new(&lock), named);
            }
            if path.extension().is_none() && !suffix.is_empty() {
                self.name(&path.with_extension(suffix), named);
            }
        }
    }
}

/// The path of a data file: InnoDB puts the home directory before the name; an absolute name counts if that does not exist.
fn place_of(home: &Path, name: &str) -> PathBuf {
    let below = home.join(name.trim_start_matches('/'));
    if name.starts_with('/') && below.symlink_metadata().is_err() { PathBuf::from(name) } else { below }
}

/// The names in a value such as `ibdata1:12M;extra/ibdata2:50M:autoextend:max:1G`.
fn data_files<'a>(variable: &str, value: &'a str) -> Result<Vec<&'a str>> {
    let wrong = |part: &str| Error::new(Class::Config, format!("cannot understand \"{part}\" in {variable}"));
    let mut names = Vec::new();
    for part in value.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, size) = part.split_once(':').ok_or_else(|| wrong(part))?;
        let (size, rest) = size.split_once(':').unwrap_or((size, ""));
        let (number, unit) = size.split_at(size.bytes().take_while(u8::is_ascii_digit).count());
        if unit.ends_with("raw") || rest.split(':').any(|word| word == "raw" || word == "newraw") {
            return Err(Error::new(Class::Refused, format!("{variable} names the raw device \"{name}\""))
                .hint("InnoDB on raw devices cannot be backed up by copying files"));
        }
        let known = matches!(unit, "" | "K" | "M" | "G" | "k" | "m" | "g");
        if name.is_empty() || number.is_empty() || !known || name.ends_with('/') {
            return Err(wrong(part));
        }
        names.push(name);
    }
    Ok(names)
}

/// The canonical path of an existing directory.
fn directory(variable: &str, path: &Path) -> Result<PathBuf> {
    let canonical = path.canonicalize().map_err(|error| {
        Error::io("open", path, error).hint(format!("the server's variable {variable} names this directory"))
    })?;
    if !canonical.is_dir() {
        return Err(Error::new(Class::Config, format!("{path:?} is not a directory, but {variable} names it")));
    }
    Ok(canonical)
}

/// `path` without links as far as it exists.
pub(super) fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => path.to_owned(),
    })
}

/// The host's name followed by `suffix`: the server's default for several names.
fn host_name(suffix: &str) -> OsString {
    let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut name = OsStr::from_bytes(host.trim_ascii()).to_owned();
    name.push(suffix);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_file_paths_are_taken_apart() {
        let names = |value| data_files("innodb_data_file_path", value);
        assert_eq!(names("ibdata1:12M:autoextend").unwrap(), ["ibdata1"]);
        assert_eq!(names("a/b:10M;/c d:1G:autoextend:max:2G;").unwrap(), ["a/b", "/c d"]);
        for bad in ["ibdata1", ":12M", "ibdata1:", "ibdata1:big", "ibdata1:12X", "dir/:12M"] {
            assert_eq!(names(bad).unwrap_err().class(), Class::Config, "{bad}");
        }
        for raw in ["/dev/sdb:3Gnewraw", "/dev/sdb:3Graw", "ibdata1:1M;/dev/sdb:3G:raw"] {
            assert_eq!(names(raw).unwrap_err().class(), Class::Refused, "{raw}");
        }
    }

    #[test]
    fn a_directory_that_two_variables_name_by_different_ways_is_one_root() {
        let there = tempfile::tempdir().unwrap();
        let path = |name: &str| there.path().canonicalize().unwrap().join(name);
        std::fs::create_dir(path("data")).unwrap();
        std::fs::create_dir(path("fast")).unwrap();
        std::os::unix::fs::symlink(path("fast"), path("alias")).unwrap();
        let variables = ServerVariables {
            datadir: path("data"),
            innodb_log_group_home_dir: Some(path("fast")),
            innodb_undo_directory: Some("../alias/".into()),
            aria_log_dir_path: Some("../data/./".into()),
            ..ServerVariables::default()
        };
        let layout = Layout::new(&variables, &[]).unwrap();
        let external: Vec<_> = layout.external.iter().map(|known| (known.name.as_str(), &known.path)).collect();
        assert_eq!(external, [("innodb-log-group-home", &path("fast"))]);
        assert!(layout.look_up(&path("fast"), Roles::default(), None).roles.any_of(Roles::UNDO));
    }

    #[test]
    fn a_configured_directory_that_is_missing_is_named_with_its_variable() {
        let there = tempfile::tempdir().unwrap();
        let variables = ServerVariables {
            datadir: there.path().to_owned(),
            innodb_undo_directory: Some("undo".into()),
            ..ServerVariables::default()
        };
        let error = Layout::new(&variables, &[]).unwrap_err();
        assert!(error.to_string().contains("/undo") && error.advice().unwrap().contains("innodb_undo_directory"));
    }

    #[test]
    fn the_datadir_cannot_be_the_repository() {
        let there = tempfile::tempdir().unwrap();
        let variables = ServerVariables { datadir: there.path().to_owned(), ..ServerVariables::default() };
        let error = Layout::new(&variables, &[there.path().join(".")]).unwrap_err();
        assert_eq!(error.class(), Class::Config);
    }
}
