//! Where the server's files are: its variables, gathered from everything that sets them.
//!
//! Option files come first, then the environment, then the server's own arguments, then what it told us itself: each beats
//! the one before. In one source the last setting counts, as it does in the server.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::Environment;
use super::print_defaults::Setting;
use crate::datadir::variables::ServerVariables;
use crate::wsrep::request::Request;

/// Whether an option's value may stand in the next argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// A value, after `=` or in the next argument.
    Value,
    /// A value after `=` or none.
    OptionalValue,
}

/// One variable: its name with dashes, the shortest beginning of it that the server takes for it, how its value is written,
/// and where it goes. No value means the option alone.
///
/// The server takes any beginning of a name that no other of its options has (`my_getopt`), with a warning that nobody
/// reads; a directory missed so would be missing in the backup. The shortest one is what MariaDB 10.11 takes (tried with
/// each, and with one letter less) or, for names that only MySQL 8.0 or RocksDB has, what its manual leaves no other name
/// for. Where a server has further options, such a beginning is ambiguous and ends it at its start. One that is the whole
/// name of another option, such as `general-log` or `innodb-doublewrite`, is that option, and shorter than ours.
struct Row(&'static str, &'static str, Takes, fn(&mut Gathered, Option<OsString>));

/// The variables, and what only decides about others.
#[derive(Default)]
struct Gathered {
    variables: ServerVariables,
    log_basename: Option<OsString>,
}

fn path(value: Option<OsString>) -> Option<std::path::PathBuf> {
    value.map(Into::into)
}

fn text(value: Option<OsString>) -> Option<String> {
    value.map(|value| value.to_string_lossy().into_owned())
}

/// The table. `datadir` is known to be skipped with its value: the server told us the real one.
const TABLE: &[Row] = &[
    Row("datadir", "data", Takes::Value, |_, _| ()),
    Row("innodb-data-home-dir", "innodb-data-h", Takes::Value, |all, value| {
        all.variables.innodb_data_home_dir = path(value)
    }),
    Row("innodb-data-file-path", "innodb-data-f", Takes::Value, |all, value| {
        all.variables.innodb_data_file_path = text(value)
    }),
    Row("innodb-temp-data-file-path", "innodb-te", Takes::Value, |all, value| {
        all.variables.innodb_temp_data_file_path = text(value)
    }),
    Row("innodb-log-group-home-dir", "innodb-log-g", Takes::Value, |all, value| {
        all.variables.innodb_log_group_home_dir = path(value)
    }),
    Row("innodb-undo-directory", "innodb-undo-d", Takes::Value, |all, value| {
        all.variables.innodb_undo_directory = path(value)
    }),
    Row("innodb-directories", "innodb-dir", Takes::Value, |all, value| all.variables.innodb_directories = text(value)),
    Row("innodb-doublewrite-dir", "innodb-doublewrite-d", Takes::Value, |all, value| {
        all.variables.innodb_doublewrite_dir = path(value)
    }),
    Row("rocksdb-datadir", "rocksdb-da", Takes::Value, |all, value| all.variables.rocksdb_datadir = path(value)),
    Row("rocksdb-wal-dir", "rocksdb-wal-d", Takes::Value, |all, value| all.variables.rocksdb_wal_dir = path(value)),
    Row("tmpdir", "tmpd", Takes::Value, |all, value| all.variables.tmpdir = value),
    Row("innodb-tmpdir", "innodb-tm", Takes::Value, |all, value| all.variables.innodb_tmpdir = path(value)),
    Row("slave-load-tmpdir", "slave-l", Takes::Value, |all, value| all.variables.slave_load_tmpdir = path(value)),
    Row("replica-load-tmpdir", "replica-l", Takes::Value, |all, value| all.variables.slave_load_tmpdir = path(value)),
    Row("aria-log-dir-path", "aria-log-d", Takes::Value, |all, value| all.variables.aria_log_dir_path = path(value)),
    Row("log-bin", "log-bin", Takes::OptionalValue, |all, value| {
        all.variables.log_bin = Some(value.unwrap_or_default().into());
    }),
    Row("skip-log-bin", "skip-log-bin", Takes::OptionalValue, |all, _| all.variables.log_bin = None),
    Row("disable-log-bin", "disable-log-bin", Takes::OptionalValue, |all, _| all.variables.log_bin = None),
    Row("log-bin-index", "log-bin-i", Takes::Value, |all, value| all.variables.log_bin_index = path(value)),
    Row("log-basename", "log-ba", Takes::Value, |all, value| all.log_basename = value),
    Row("relay-log", "relay-log", Takes::Value, |all, value| all.variables.relay_log = path(value)),
    Row("log-error", "log-e", Takes::OptionalValue, |all, value| all.variables.log_error = path(value)),
    Row("general-log-file", "general-log-", Takes::Value, |all, value| all.variables.general_log_file = path(value)),
    Row("slow-query-log-file", "slow-query-log-", Takes::Value, |all, value| {
        all.variables.slow_query_log_file = path(value)
    }),
    Row("log-slow-query-file", "log-slow-query-f", Takes::Value, |all, value| {
        all.variables.slow_query_log_file = path(value)
    }),
    Row("pid-file", "pi", Takes::Value, |all, value| all.variables.pid_file = path(value)),
    Row("socket", "soc", Takes::Value, |all, value| all.variables.socket = path(value)),
    Row("wsrep-data-home-dir", "wsrep-da", Takes::Value, |all, value| all.variables.wsrep_data_home_dir = path(value)),
    Row("wsrep-provider-options", "wsrep-provider-", Takes::Value, |all, value| {
        all.variables.wsrep_provider_options = text(value);
    }),
    Row("wsrep-cluster-name", "wsrep-cluster-n", Takes::Value, |all, value| {
        all.variables.wsrep_cluster_name = text(value)
    }),
    Row("wsrep-node-name", "wsrep-node-n", Takes::Value, |all, value| all.variables.wsrep_node_name = text(value)),
];

/// The variables of the server that made the request; `files` are the settings of the groups that it reads.
pub fn variables(request: &Request, files: &[Setting], environment: &Environment) -> ServerVariables {
    let mut all = Gathered::default();
    for setting in files {
        all.set(setting.name.as_bytes(), setting.value.clone());
    }
    // The server sets it for its SST scripts from its own variable.
    if let Some(home) = environment.get("INNODB_DATA_HOME_DIR") {
        all.variables.innodb_data_home_dir = Some(home.into());
    }
    all.take_arguments(&request.mysqld_args);
    all.name_logs_by_basename();
    // The server's own way to a directory for temporary files that nobody set (`init_tmpdir`).
    if all.variables.tmpdir.as_ref().is_none_or(|tmpdir| tmpdir.is_empty()) {
        all.variables.tmpdir = environment.get("TMPDIR").map(OsStr::to_owned);
    }
    let mut variables = all.variables;
    variables.datadir = request.datadir.clone();
    let said = [
        (&request.binlog, &mut variables.log_bin),
        (&request.binlog_index, &mut variables.log_bin_index),
        (&request.socket, &mut variables.socket),
    ];
    for (said, variable) in said {
        if said.is_some() {
            variable.clone_from(said);
        }
    }
    variables
}

impl Gathered {
    fn set(&mut self, name: &[u8], value: Option<OsString>) {
        if let Some(Row(_, _, takes, set)) = find(name)
            && (*takes == Takes::OptionalValue || value.is_some())
        {
            set(self, value);
        }
    }

    fn take_arguments(&mut self, args: &[OsString]) {
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(option) = arg.as_bytes().strip_prefix(b"--") else {
                // The only short option whose value could be taken for an option.
                if arg == "-h" {
                    args.next();
                }
                continue;
            };
            if let Some(at) = option.iter().position(|byte| *byte == b'=') {
                self.set(&option[..at], Some(OsStr::from_bytes(&option[at + 1..]).to_owned()));
            } else if find(option).is_some_and(|Row(_, _, takes, _)| *takes == Takes::Value) {
                self.set(option, args.next().cloned());
            } else {
                self.set(option, None);
            }
        }
    }

    /// MariaDB's `log-basename` names every log that has no name of its own.
    fn name_logs_by_basename(&mut self) {
        let Some(base) = self.log_basename.take() else { return };
        let named = |ending: &str| {
            let mut name = base.clone();
            name.push(ending);
            Some(name.into())
        };
        let variables = &mut self.variables;
        variables.log_bin = variables
            .log_bin
            .take()
            .and_then(|name| if name.as_os_str().is_empty() { named("-bin") } else { Some(name) });
        variables.relay_log = variables.relay_log.take().or_else(|| named("-relay-bin"));
        variables.general_log_file = variables.general_log_file.take().or_else(|| named(".log"));
        variables.slow_query_log_file = variables.slow_query_log_file.take().or_else(|| named("-slow.log"));
        variables.pid_file = variables.pid_file.take().or_else(|| named(".pid"));
    }
}

/// The row of a name or of a beginning that is enough, written with `_` or `-`, with or without `loose-` in front.
fn find(name: &[u8]) -> Option<&'static Row> {
    let name = std::str::from_utf8(name).ok()?.replace('_', "-");
    let name = name.strip_prefix("loose-").unwrap_or(&name);
    let whole = TABLE.iter().find(|Row(known, ..)| *known == name);
    whole.or_else(|| TABLE.iter().find(|Row(known, least, ..)| known.starts_with(name) && name.starts_with(least)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const GTID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002:1";

    fn gather(files: &[(&str, Option<&str>)], environment: &[(&str, &str)], args: &[&str]) -> ServerVariables {
        let args = ["--role", "donor", "--datadir", "/real/", "--gtid", GTID].iter().chain(args);
        let request = Request::parse(args.map(OsString::from)).unwrap();
        let setting =
            |(name, value): &(&str, Option<&str>)| Setting { name: (*name).to_owned(), value: value.map(Into::into) };
        let files: Vec<Setting> = files.iter().map(setting).collect();
        variables(&request, &files, &Environment::from_iter(environment.iter().copied()))
    }

    fn some(path: &str) -> Option<PathBuf> {
        Some(path.into())
    }

    #[test]
    fn what_nobody_set_is_not_there() {
        assert_eq!(gather(&[], &[], &[]), ServerVariables { datadir: "/real/".into(), ..ServerVariables::default() });
    }

    #[test]
    fn each_source_beats_the_one_before_and_the_last_of_one_source_counts() {
        let files = [
            ("datadir", Some("/file")),
            ("innodb_undo_directory", Some("/u1")),
            ("innodb-undo-directory", Some("/u2")),
            ("innodb_log_group_home_dir", Some("/l-file")),
            ("innodb_data_home_dir", Some("/i-file")),
            ("aria_log_dir_path", Some("/a-file")),
        ];
        let args = [
            "--mysqld-args",
            "--datadir",
            "/elsewhere",
            "--innodb-log-group-home-dir=/l1",
            "--innodb_log_group_home_dir",
            "/l2",
        ];
        let variables = gather(&files, &[("INNODB_DATA_HOME_DIR", "/i-env")], &args);
        assert_eq!(variables.datadir, PathBuf::from("/real/"));
        assert_eq!(variables.innodb_undo_directory, some("/u2"));
        assert_eq!(variables.innodb_log_group_home_dir, some("/l2"));
        assert_eq!(variables.innodb_data_home_dir, some("/i-env"));
        assert_eq!(variables.aria_log_dir_path, some("/a-file"));
        let variables =
            gather(&files, &[("INNODB_DATA_HOME_DIR", "/i-env")], &["--mysqld-args", "--innodb-data-home-dir="]);
        assert_eq!(variables.innodb_data_home_dir, some(""));
    }

    #[test]
    fn forms_of_the_servers_arguments_are_understood() {
        let args = [
            "--mysqld-args",
            "-h",
            "--socket",
            "--loose-innodb_doublewrite_dir=/dw",
            "--relay-log",
            "--log-bin=x",
            "--unknown",
            "--log-error",
            "--skip-name-resolve",
            "--wsrep_node_name=n 1",
            "stray",
            "--innodb-data-file-path=a:12M;b:1M:autoextend",
        ];
        let variables = gather(&[("socket", Some("/s"))], &[], &args);
        assert_eq!(variables.socket, some("/s"));
        assert_eq!(variables.innodb_doublewrite_dir, some("/dw"));
        // The server too takes the next argument for the value of an option that needs one.
        assert_eq!((variables.relay_log, variables.log_bin), (some("--log-bin=x"), None));
        assert_eq!(variables.log_error, None);
        assert_eq!(variables.wsrep_node_name.as_deref(), Some("n 1"));
        assert_eq!(variables.innodb_data_file_path.as_deref(), Some("a:12M;b:1M:autoextend"));
    }

    #[test]
    fn a_beginning_of_a_name_that_the_server_takes_for_it_is_taken_for_it_here() {
        let files = [("innodb_undo_dir", Some("/u")), ("wsrep-data", Some("/w")), ("log-bin-ind", Some("i"))];
        let args = ["--mysqld-args", "--innodb-log-group-home=/l", "--loose-innodb_data_home", "/h", "--pid=p"];
        let variables = gather(&files, &[], &args);
        assert_eq!(variables.innodb_undo_directory, some("/u"));
        assert_eq!(variables.wsrep_data_home_dir, some("/w"));
        assert_eq!(variables.log_bin_index, some("i"));
        assert_eq!(variables.innodb_log_group_home_dir, some("/l"));
        assert_eq!(variables.innodb_data_home_dir, some("/h"));
        assert_eq!(variables.pid_file, some("p"));
    }

    #[test]
    fn what_is_another_option_or_could_be_one_is_no_beginning_of_ours() {
        let nothing = ServerVariables { datadir: "/real/".into(), ..ServerVariables::default() };
        let names = [
            "innodb",
            "innodb-log",
            "innodb-undo",
            "innodb-data",
            "innodb-doublewrite",
            "innodb-undo-directory-x",
            "log",
            "log-b",
            "log-bin-",
            "general-log",
            "slow-query-log",
            "log-slow-query",
            "relay-lo",
            "tmp",
            "s",
            "wsrep-provider",
            "",
        ];
        for name in names {
            assert_eq!(gather(&[(name, Some("/x"))], &[], &[]), nothing, "{name}");
        }
        // One beginning never stands for two of ours.
        for Row(name, least, ..) in TABLE {
            assert!(name.starts_with(least), "{name}");
            let others: Vec<_> = TABLE.iter().filter(|row| row.0 != *name && row.0.starts_with(least)).collect();
            assert!(others.is_empty() || least == name, "{least} could be {}", others[0].0);
        }
    }

    #[test]
    fn temporary_files_are_where_the_option_or_the_environment_says() {
        let tmpdir = |files: &[(&str, Option<&str>)]| gather(files, &[("TMPDIR", "/env")], &[]).tmpdir;
        assert_eq!(tmpdir(&[("tmpdir", Some("/a:/b"))]), Some("/a:/b".into()));
        assert_eq!(tmpdir(&[("tmpdir", Some(""))]), Some("/env".into()));
        assert_eq!(tmpdir(&[]), Some("/env".into()));
    }

    #[test]
    fn binary_logs_are_on_off_or_named() {
        let log_bin = |files: &[(&str, Option<&str>)], args: &[&str]| gather(files, &[], args).log_bin;
        let on = [("log_bin", None)];
        assert_eq!(log_bin(&on, &[]), some(""));
        assert_eq!(log_bin(&[("log-bin", Some("b"))], &[]), some("b"));
        assert_eq!(log_bin(&on, &["--mysqld-args", "--skip-log-bin"]), None);
        assert_eq!(log_bin(&on, &["--mysqld-args", "--log-bin=c"]), some("c"));
        assert_eq!(log_bin(&on, &["--binlog", "mybin", "--mysqld-args", "--log-bin=c"]), some("mybin"));
        assert_eq!(log_bin(&[("log-basename", Some("base")), on[0]], &[]), some("base-bin"));
        assert_eq!(log_bin(&[("log-basename", Some("base"))], &[]), None);
        let indexed = gather(&[("log-bin-index", Some("i1"))], &[], &["--binlog-index", "i2"]);
        assert_eq!(indexed.log_bin_index, some("i2"));
    }

    #[test]
    fn the_base_name_of_logs_names_those_without_a_name() {
        let variables = gather(&[("log-basename", Some("/v/n")), ("general-log-file", Some("g.log"))], &[], &[]);
        assert_eq!(variables.general_log_file, some("g.log"));
        assert_eq!(variables.slow_query_log_file, some("/v/n-slow.log"));
        assert_eq!(variables.pid_file, some("/v/n.pid"));
        assert_eq!(variables.relay_log, some("/v/n-relay-bin"));
    }
}
