//! The server variables that say where its files are.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the server was configured with, as far as it decides where its files are and what they are called.
///
/// Values are as the operator wrote them: relative ones are relative to the datadir. `None` means the server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerVariables {
    /// `datadir`, absolute.
    pub datadir: PathBuf,
    /// `innodb_data_home_dir`; an empty value means that `innodb_data_file_path` holds absolute paths.
    pub innodb_data_home_dir: Option<PathBuf>,
    /// `innodb_data_file_path`: `ibdata1:12M:autoextend` by default.
    pub innodb_data_file_path: Option<String>,
    /// `innodb_temp_data_file_path`: `ibtmp1:12M:autoextend` by default.
    pub innodb_temp_data_file_path: Option<String>,
    /// `innodb_log_group_home_dir`.
    pub innodb_log_group_home_dir: Option<PathBuf>,
    /// `innodb_undo_directory`.
    pub innodb_undo_directory: Option<PathBuf>,
    /// `innodb_directories` (MySQL 8.0): where tablespaces outside the datadir are looked for, by `;`.
    pub innodb_directories: Option<String>,
    /// `innodb_doublewrite_dir` (MySQL 8.0).
    pub innodb_doublewrite_dir: Option<PathBuf>,
    /// `rocksdb_datadir`: `#rocksdb` in the datadir by default.
    pub rocksdb_datadir: Option<PathBuf>,
    /// `rocksdb_wal_dir`: by default that of `rocksdb_datadir`.
    pub rocksdb_wal_dir: Option<PathBuf>,
    /// `tmpdir`: directories by `:`, which the server uses in turn.
    pub tmpdir: Option<OsString>,
    /// `innodb_tmpdir`.
    pub innodb_tmpdir: Option<PathBuf>,
    /// `slave_load_tmpdir`.
    pub slave_load_tmpdir: Option<PathBuf>,
    /// `aria_log_dir_path`.
    pub aria_log_dir_path: Option<PathBuf>,
    /// `log_bin`: the base name, if binary logs are on. An empty value means on, under the default name.
    pub log_bin: Option<PathBuf>,
    /// `log_bin_index`.
    pub log_bin_index: Option<PathBuf>,
    /// `relay_log`.
    pub relay_log: Option<PathBuf>,
    /// `log_error`.
    pub log_error: Option<PathBuf>,
    /// `general_log_file`.
    pub general_log_file: Option<PathBuf>,
    /// `slow_query_log_file` (MariaDB also `log_slow_query_file`).
    pub slow_query_log_file: Option<PathBuf>,
    /// `pid_file`.
    pub pid_file: Option<PathBuf>,
    /// `socket`.
    pub socket: Option<PathBuf>,
    /// `wsrep_data_home_dir`: where `grastate.dat` is; the datadir by default.
    pub wsrep_data_home_dir: Option<PathBuf>,
    /// `wsrep_provider_options`: `NAME=VALUE` by `;`.
    pub wsrep_provider_options: Option<String>,
    /// `wsrep_cluster_name`.
    pub wsrep_cluster_name: Option<String>,
    /// `wsrep_node_name`; the host name by default.
    pub wsrep_node_name: Option<String>,
}

impl ServerVariables {
    /// A value of `wsrep_provider_options`, such as that of `gcache.name`; the last one counts, as it does for Galera.
    pub fn provider_option(&self, name: &str) -> Option<&str> {
        let options = self.wsrep_provider_options.as_deref()?.split(';').rev();
        let mut values = options.filter_map(|option| option.split_once('='));
        let value = values.find(|(known, _)| known.trim() == name)?.1.trim();
        (!value.is_empty()).then_some(value)
    }

    /// Where Galera keeps `grastate.dat`.
    pub fn grastate_directory(&self) -> PathBuf {
        // An absolute path takes the place of what it is joined to.
        self.wsrep_data_home_dir.as_ref().map_or_else(|| self.datadir.clone(), |home| self.datadir.join(home))
    }
}
