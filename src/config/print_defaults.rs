//! The server's option files, read by the program that the server's packages bring for it.
//!
//! `my_print_defaults` knows which files there are, includes, groups and suffixes; the stock SST scripts use it too. It gets
//! the `--defaults-*` options that the server itself was started with, so that several servers on one host each have
//! their own settings.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Environment, GROUP};
use crate::cancel::Cancel;
use crate::child::Program;
use crate::error::{Class, Error, Result, printable};

/// The program's names, the oldest and most common first.
const NAMES: [&str; 2] = ["my_print_defaults", "mariadb-print-defaults"];

/// How long it may take; it only reads a few small files.
const DEADLINE: Duration = Duration::from_secs(10);

/// How much it may print.
const OUTPUT_BYTES: usize = 1 << 20;

/// How much of its complaint a message shows, in characters.
const SHOWN: usize = 400;

/// What it looks at besides its arguments.
const VARIABLES: [&str; 5] = ["HOME", "MYSQL_HOME", "MARIADB_HOME", "MYSQL_GROUP_SUFFIX", "MARIADB_GROUP_SUFFIX"];

/// The groups that a server reads, for a program without `--mysqld`: that of MySQL.
const SERVER_GROUPS: [&str; 6] = ["mysql_cluster", "mysqld", "server", "mysqld-5.7", "mysqld-8.0", "mysqld-8.4"];

/// One line of an option file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name as it was written, without dashes in front.
    pub name: String,
    /// What follows the equals sign, if there is one.
    pub value: Option<OsString>,
}

/// The option files of one server.
#[derive(Debug)]
pub struct OptionFiles<'a> {
    program: Option<PathBuf>,
    environment: &'a Environment,
    first: Vec<OsString>,
}

/// Which option files, as the options that every program of the server understands say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// `--defaults-file`: only this file.
    pub file: Option<OsString>,
    /// `--defaults-extra-file`: this file too.
    pub extra_file: Option<OsString>,
    /// `--defaults-group-suffix`: also the groups whose names end so.
    pub group_suffix: Option<OsString>,
}

impl Defaults {
    /// The options, in the form and place in which a program takes them: first.
    fn options(&self) -> Vec<OsString> {
        let named = [
            ("--defaults-file=", &self.file),
            ("--defaults-extra-file=", &self.extra_file),
            ("--defaults-group-suffix=", &self.group_suffix),
        ];
        named.into_iter().filter_map(|(option, value)| Some(joined(option, value.as_deref()?))).collect()
    }
}

impl<'a> OptionFiles<'a> {
    /// Those of a server that makes a request. Errors: there is no program to read them.
    pub fn of_server(environment: &'a Environment, defaults: &Defaults) -> Result<Self> {
        let program = environment.find_program(&NAMES).ok_or_else(|| {
            Error::new(Class::Config, "there is no my_print_defaults in PATH, which reads the option files")
                .hint("it comes with the server's packages")
        })?;
        Ok(Self { program: Some(program), environment, first: defaults.options() })
    }

    /// Those of this host. Where no program can read them there are none.
    pub fn of_host(environment: &'a Environment, defaults: &Defaults) -> Self {
        let program = environment.find_program(&NAMES);
        if program.is_none() {
            tracing::debug!("there is no my_print_defaults in PATH: no option file is read");
        }
        Self { program, environment, first: defaults.options() }
    }

    /// The settings of our own group.
    pub fn own(&self, cancel: &Cancel) -> Result<Vec<Setting>> {
        match self.print(&[GROUP], cancel)? {
            Printed::Settings(settings) => Ok(settings),
            Printed::Failed(complaint) => Err(failed(&complaint)),
        }
    }

    /// The settings of the groups that the server itself reads.
    pub fn server(&self, cancel: &Cancel) -> Result<Vec<Setting>> {
        let by_flag = match self.print(&["--mysqld"], cancel)? {
            Printed::Settings(settings) => return Ok(settings),
            Printed::Failed(complaint) => complaint,
        };
        // MySQL's program has no such flag, and complains of it in its own words.
        if !by_flag.contains("unknown option") {
            return Err(failed(&by_flag));
        }
        match self.print(&SERVER_GROUPS, cancel)? {
            Printed::Settings(settings) => Ok(settings),
            Printed::Failed(complaint) => Err(failed(&complaint)),
        }
    }

    fn print(&self, groups: &[&str], cancel: &Cancel) -> Result<Printed> {
        let Some(path) = &self.program else { return Ok(Printed::Settings(Vec::new())) };
        let mut environment = self.environment.subset(&VARIABLES);
        environment.push(("LC_ALL".into(), "C".into()));
        let args = self.first.iter().cloned().chain(groups.iter().map(OsString::from)).collect();
        let program =
            Program { path, name: NAMES[0], args, environment, deadline: DEADLINE, output_bytes: OUTPUT_BYTES };
        let finished = program.run(cancel)?;
        let complaint = String::from_utf8_lossy(&finished.stderr).trim().replace('\n', "; ");
        let complaint = printable(complaint.chars().take(SHOWN).collect::<String>());
        if !finished.status.success() {
            let status = finished.status;
            return Ok(Printed::Failed(if complaint.is_empty() { status.to_string() } else { complaint }));
        }
        if !complaint.is_empty() {
            tracing::warn!("my_print_defaults says: {complaint}");
        }
        Ok(Printed::Settings(settings(&finished.stdout)))
    }
}

/// What became of one call.
enum Printed {
    Settings(Vec<Setting>),
    /// With what the program complained of.
    Failed(String),
}

fn failed(complaint: &str) -> Error {
    Error::new(Class::Config, format!("cannot read the option files: {complaint}"))
}

fn joined(option: &str, value: &OsStr) -> OsString {
    let mut joined = OsString::from(option);
    joined.push(value);
    joined
}

/// The lines `--name`, `--name=value`. A line that begins otherwise goes on with the value before it, which held a newline.
fn settings(printed: &[u8]) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    for line in printed.strip_suffix(b"\n").unwrap_or(printed).split(|byte| *byte == b'\n') {
        match line.strip_prefix(b"--") {
            Some(option) => settings.push(setting(option)),
            None => {
                if let Some(value) = settings.last_mut().and_then(|setting| setting.value.as_mut()) {
                    value.push("\n");
                    value.push(OsStr::from_bytes(line));
                }
            }
        }
    }
    settings
}

fn setting(option: &[u8]) -> Setting {
    let (name, value) = match option.iter().position(|byte| *byte == b'=') {
        Some(at) => (&option[..at], Some(OsStr::from_bytes(&option[at + 1..]).to_owned())),
        None => (option, None),
    };
    Setting { name: String::from_utf8_lossy(name).into_owned(), value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn plain(name: &str, value: &str) -> Setting {
        Setting { name: name.to_owned(), value: Some(value.into()) }
    }

    /// A `my_print_defaults` that does what `script` says.
    fn program(directory: &Path, script: &str) -> Environment {
        let path = directory.join("my_print_defaults");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Environment::from_iter([("PATH", directory.as_os_str()), ("WSREP_SST_OPT_AUTH", OsStr::new("secret"))])
    }

    #[test]
    fn the_servers_own_defaults_options_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let environment =
            program(directory.path(), "for a; do echo \"--arg=$a\"; done; echo \"--auth=$WSREP_SST_OPT_AUTH\"");
        let defaults = Defaults { file: Some("/f".into()), extra_file: None, group_suffix: Some("_n".into()) };
        let printed = OptionFiles::of_server(&environment, &defaults).unwrap().own(&Cancel::default()).unwrap();
        let args = ["--defaults-file=/f", "--defaults-group-suffix=_n", "wsrep_sst_backup"];
        let expected: Vec<Setting> = args.iter().map(|arg| plain("arg", arg)).chain([plain("auth", "")]).collect();
        assert_eq!(printed, expected);
    }

    #[test]
    fn where_the_flag_for_the_servers_groups_is_unknown_they_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let script = "[ \"$1\" = --mysqld ] && { echo \"$0: [ERROR] unknown option '--mysqld'.\" >&2; exit 1; }; echo \"--groups=$*\"";
        let environment = program(directory.path(), script);
        let printed = OptionFiles::of_host(&environment, &Defaults::default()).server(&Cancel::default()).unwrap();
        assert_eq!(printed, [plain("groups", &SERVER_GROUPS.join(" "))]);
    }

    #[test]
    fn a_failure_is_told_in_the_programs_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let environment = program(directory.path(), "echo 'Could not open /f' >&2; echo Aborted >&2; exit 1");
        let files = OptionFiles::of_server(&environment, &Defaults::default()).unwrap();
        for error in [files.own(&Cancel::default()).unwrap_err(), files.server(&Cancel::default()).unwrap_err()] {
            assert_eq!(error.class(), Class::Config);
            assert!(error.to_string().contains("Could not open /f; Aborted"), "{error}");
        }
    }

    #[test]
    fn without_the_program_a_donor_fails_and_an_operator_has_no_option_files() {
        let environment = Environment::default();
        assert_eq!(OptionFiles::of_server(&environment, &Defaults::default()).unwrap_err().class(), Class::Config);
        assert_eq!(OptionFiles::of_host(&environment, &Defaults::default()).own(&Cancel::default()).unwrap(), []);
    }

    #[test]
    fn a_value_may_hold_a_newline_and_a_name_may_have_none() {
        let printed = settings(b"--a=b=c\n--multi=x\ny\n--flag\n--empty=\n");
        let flag = Setting { name: "flag".to_owned(), value: None };
        assert_eq!(printed, [plain("a", "b=c"), plain("multi", "x\ny"), flag, plain("empty", "")]);
        assert_eq!(settings(b""), []);
    }
}
