//! What the server asked for: the argument list of a donor run, of every server family.
//!
//! Servers differ in the options they pass, leave stray empty arguments where a value was not there, and MariaDB appends
//! its own command line after `--mysqld-args`. So nothing here depends on order, an option that is not known is ignored
//! together with its value, and only what a donor cannot do without is required. A known option takes the next argument
//! whatever it looks like: a hostile SST address such as `--bypass` stays an address.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::config::print_defaults::Defaults;
use crate::error::{Class, Error, Result, printable};
use crate::gtid::Gtid;

/// How much of a bad value a message shows, in characters.
const SHOWN: usize = 64;

/// The longest SST address that is kept: what is longer is cut here and refused by its parser, which names this length.
pub const ADDRESS_BYTES: usize = 16 << 10;

/// What a server asks a donor for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `--datadir`: the server's own idea of where its files are.
    pub datadir: PathBuf,
    /// `--gtid`: a lower bound of the backup's position.
    pub gtid: Gtid,
    /// `--gtid-domain-id` of MariaDB.
    pub gtid_domain: Option<u32>,
    /// `--address`, unchecked: whoever reaches the cluster's port can write it.
    pub address: OsString,
    /// `--bypass`: the joiner needs no files.
    pub bypass: bool,
    /// `--progress`: above 0 the server understands progress lines.
    pub progress: u32,
    /// The option files that the server itself was started with.
    pub defaults: Defaults,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--binlog`: the base name of the binary logs, if they are on.
    pub binlog: Option<PathBuf>,
    /// `--binlog-index`.
    pub binlog_index: Option<PathBuf>,
    /// `--mysqld-version`, of Codership 8.0 and PXC.
    pub mysqld_version: Option<OsString>,
    /// The server's own arguments, without the program's name.
    pub mysqld_args: Vec<OsString>,
}

/// The raw values, as they are found.
#[derive(Default)]
struct Raw {
    values: [Option<OsString>; KNOWN.len()],
    bypass: bool,
    mysqld_args: Vec<OsString>,
}

/// The options with a value that mean something here.
const KNOWN: [&str; 13] = [
    "role",
    "datadir",
    "gtid",
    "gtid-domain-id",
    "address",
    "progress",
    "defaults-file",
    "defaults-extra-file",
    "defaults-group-suffix",
    "socket",
    "binlog",
    "binlog-index",
    "mysqld-version",
];

impl Request {
    /// Reads the arguments that follow the program's name.
    ///
    /// Errors: no role or an unknown one, a joiner (there is nothing to receive), no datadir, no position, a number out of range.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut raw = Raw::read(args)?;
        raw.check_role()?;
        let mut address = raw.take("address").unwrap_or_default().into_vec();
        address.truncate(ADDRESS_BYTES);
        Ok(Self {
            datadir: raw.required("datadir")?.into(),
            gtid: raw.gtid()?,
            gtid_domain: raw.gtid_domain()?,
            address: OsString::from_vec(address),
            bypass: raw.bypass,
            progress: raw.progress()?,
            defaults: Defaults {
                file: raw.take("defaults-file"),
                extra_file: raw.take("defaults-extra-file"),
                group_suffix: raw.take("defaults-group-suffix"),
            },
            socket: raw.take("socket").map(Into::into),
            binlog: raw.take("binlog").map(Into::into),
            binlog_index: raw.take("binlog-index").map(Into::into),
            mysqld_version: raw.take("mysqld-version"),
            mysqld_args: raw.mysqld_args,
        })
    }

    /// Whether `args` (without the program's name) come from a server rather than from a person.
    pub fn is_asked_by_a_server(args: &[OsString]) -> bool {
        args.iter().any(|arg| arg == "--role" || arg.as_bytes().starts_with(b"--role="))
    }
}

impl Raw {
    fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut raw = Self::default();
        let mut args = args.into_iter().peekable();
        while let Some(arg) = args.next() {
            let (name, value) = split(&arg);
            match name {
                b"--mysqld-args" => {
                    raw.mysqld_args = args.collect();
                    break;
                }
                b"--bypass" => raw.bypass = true,
                _ => match KNOWN.iter().position(|known| name.strip_prefix(b"--") == Some(known.as_bytes())) {
                    Some(at) => {
                        raw.values[at] = Some(value.or_else(|| args.next()).ok_or_else(|| without_value(&arg))?)
                    }
                    None if name.starts_with(b"-") => {
                        if value.is_none() {
                            args.next_if(|next| !next.as_bytes().starts_with(b"-"));
                        }
                    }
                    None if arg.is_empty() => (),
                    None => tracing::warn!("ignoring the argument \"{}\", which belongs to no option", shown(&arg)),
                },
            }
        }
        Ok(raw)
    }

    /// The value of `--name`; an empty one counts as absent.
    fn take(&mut self, name: &str) -> Option<OsString> {
        let at = KNOWN.iter().position(|known| *known == name)?;
        self.values[at].take().filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> Result<OsString> {
        self.take(name)
            .ok_or_else(|| Error::new(Class::Usage, format!("--{name} is missing, without which there is no backup")))
    }

    fn check_role(&mut self) -> Result<()> {
        let Some(role) = self.take("role") else {
            return Err(Error::new(Class::Usage, "--role is missing: donor is the only role there is"));
        };
        match role.as_bytes() {
            b"donor" => Ok(()),
            b"joiner" => Err(Error::new(Class::Refused, "a joiner receives nothing from this program, which makes backups")
                .hint("choose another wsrep_sst_method for joining nodes; a backup is brought back with `wsrep_sst_backup restore`")),
            _ => Err(Error::new(Class::Usage, format!("there is no role \"{}\": donor is the only one", shown(&role)))),
        }
    }

    /// A position of -1 is refused with `--bypass` too: a donor without a position has no write sets to send either.
    fn gtid(&mut self) -> Result<Gtid> {
        let text = self.required("gtid")?;
        text.to_string_lossy().parse()
    }

    /// MariaDB 10.7 prints the unsigned domain with `%d`, so that a large one arrives negative.
    fn gtid_domain(&mut self) -> Result<Option<u32>> {
        let Some(text) = self.take("gtid-domain-id") else { return Ok(None) };
        let number = text.to_str().and_then(|text| text.parse::<i64>().ok());
        let domain =
            number.and_then(|n| u32::try_from(n).ok().or_else(|| i32::try_from(n).ok().map(i32::cast_unsigned)));
        domain.map(Some).ok_or_else(|| bad_number("gtid-domain-id", &text))
    }

    fn progress(&mut self) -> Result<u32> {
        let Some(text) = self.take("progress") else { return Ok(0) };
        text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| bad_number("progress", &text))
    }
}

/// `--name=value` in two; anything else has no value.
fn split(arg: &OsStr) -> (&[u8], Option<OsString>) {
    let bytes = arg.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if bytes.starts_with(b"--") => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
        _ => (bytes, None),
    }
}

fn shown(value: &OsStr) -> String {
    let bytes = value.as_bytes();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]).into_owned();
    printable(text.chars().take(SHOWN).collect::<String>())
}

fn without_value(option: &OsStr) -> Error {
    Error::new(Class::Usage, format!("the option {} stands at the end, without its value", shown(option)))
}

fn bad_number(name: &str, value: &OsStr) -> Error {
    Error::new(Class::Usage, format!("--{name} is not a number in range: \"{}\"", shown(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GTID: &str = "6d3f9a04-1234-11ef-8000-0242ac120002:24755";

    fn parse(args: &[&str]) -> Result<Request> {
        Request::parse(args.iter().map(OsString::from))
    }

    fn message(args: &[&str]) -> String {
        parse(args).unwrap_err().to_string()
    }

    #[test]
    fn a_line_of_mariadb_10_11_is_understood() {
        let request = parse(&[
            "--role",
            "donor",
            "--address",
            "far/r-1",
            "--local-port",
            "4444",
            "--socket",
            "/run/m.sock",
            "--progress",
            "1",
            "--datadir",
            "/var/lib/mysql/",
            "--defaults-file",
            "/etc/n.cnf",
            "--defaults-extra-file",
            "/etc/x.cnf",
            "--defaults-group-suffix",
            "_n2",
            "--gtid",
            GTID,
            "--gtid-domain-id",
            "7",
            "--binlog",
            "mybin",
            "--binlog-index",
            "myidx",
            "--mysqld-args",
            "--datadir=/elsewhere",
            "--role",
            "joiner",
            "--bypass",
            "--gtid",
            "x",
            "",
        ])
        .unwrap();
        assert_eq!(
            request,
            Request {
                datadir: "/var/lib/mysql/".into(),
                gtid: GTID.parse().unwrap(),
                gtid_domain: Some(7),
                address: "far/r-1".into(),
                bypass: false,
                progress: 1,
                defaults: Defaults {
                    file: Some("/etc/n.cnf".into()),
                    extra_file: Some("/etc/x.cnf".into()),
                    group_suffix: Some("_n2".into()),
                },
                socket: Some("/run/m.sock".into()),
                binlog: Some("mybin".into()),
                binlog_index: Some("myidx".into()),
                mysqld_version: None,
                mysqld_args: ["--datadir=/elsewhere", "--role", "joiner", "--bypass", "--gtid", "x", ""]
                    .map(Into::into)
                    .into(),
            }
        );
    }

    #[test]
    fn lines_of_codership_and_percona_are_understood() {
        let cs57 = parse(&[
            "--role",
            "donor",
            "--address",
            "",
            "--local-port",
            "0",
            "--socket",
            "/s",
            "--datadir",
            "/d/",
            "--defaults-file",
            "",
            "--defaults-group-suffix",
            "",
            "",
            "--gtid",
            GTID,
            "--bypass",
        ])
        .unwrap();
        assert!(cs57.bypass && cs57.address.is_empty() && cs57.progress == 0);
        assert_eq!((cs57.defaults, cs57.gtid_domain), (Defaults::default(), None));
        let cs80 = parse(&[
            "--role",
            "donor",
            "--address",
            "",
            "--local-port",
            "0",
            "--socket",
            "/s",
            "--datadir",
            "/d/",
            "--defaults-file",
            "",
            "--mysqld-version",
            "8.0.36",
            "--plugin-dir",
            "/p",
            "",
            "",
            "--gtid",
            GTID,
            "--local-gtid",
            GTID,
            "--server-id",
            "1",
        ])
        .unwrap();
        assert_eq!(cs80.mysqld_version, Some("8.0.36".into()));
        assert_eq!(cs80.gtid, GTID.parse().unwrap());
        let pxc80 = parse(&[
            "--role",
            "donor",
            "--address",
            "far",
            "--socket",
            "/s",
            "--datadir",
            "/d/",
            "--basedir",
            "/usr",
            "--plugindir",
            "/p",
            "--defaults-file",
            "/f",
            "--mysqld-version",
            "8.0.36",
            "",
            "--debug",
            "d:t",
            "--gtid",
            GTID,
        ])
        .unwrap();
        assert_eq!((pxc80.datadir, pxc80.socket), ("/d/".into(), Some("/s".into())));
    }

    #[test]
    fn order_and_form_do_not_matter() {
        let request = parse(&[
            "--debug",
            "--gtid-domain-id=3",
            "--unknown",
            "value",
            "--flag",
            "",
            &format!("--gtid={GTID}"),
            "-x",
            "stray",
            "--datadir=/a=b",
            "--debug=1",
            "--role=donor",
        ])
        .unwrap();
        assert_eq!((request.gtid_domain, request.datadir), (Some(3), "/a=b".into()));
        assert!(!request.bypass);
    }

    #[test]
    fn an_address_that_looks_like_an_option_stays_an_address() {
        let request = parse(&["--role", "donor", "--datadir", "/d", "--gtid", GTID, "--address", "--bypass"]).unwrap();
        assert_eq!(request.address, "--bypass");
        assert!(!request.bypass);
    }

    #[test]
    fn what_a_donor_cannot_do_without_is_required() {
        let gtid = ["--gtid", GTID];
        assert!(message(&["--datadir", "/d", gtid[0], gtid[1]]).contains("--role is missing"));
        assert!(message(&["--role", "", "--datadir", "/d", gtid[0], gtid[1]]).contains("--role is missing"));
        assert!(message(&["--role", "arbiter\n"]).contains("no role \"arbiter\\n\""));
        assert!(message(&["--role", "donor", gtid[0], gtid[1]]).contains("--datadir is missing"));
        assert!(message(&["--role", "donor", "--datadir", "/d"]).contains("--gtid is missing"));
        assert!(message(&["--role", "donor", "--datadir"]).contains("without its value"));
        assert_eq!(parse(&["--role", "joiner", "--datadir", "/d"]).unwrap_err().class(), Class::Refused);
    }

    #[test]
    fn a_position_that_is_none_is_refused_even_with_bypass() {
        for seqno in ["-1", "", "1x", "99999999999999999999"] {
            let gtid = format!("6d3f9a04-1234-11ef-8000-0242ac120002:{seqno}");
            assert!(
                message(&["--role", "donor", "--datadir", "/d", "--gtid", &gtid, "--bypass"])
                    .contains("not a Galera GTID")
            );
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_and_a_wrapped_domain_is_unwrapped() {
        let with = |name, value| parse(&["--role", "donor", "--datadir", "/d", "--gtid", GTID, name, value]);
        assert!(with("--progress", "-1").is_err());
        assert!(with("--progress", "4294967296").is_err());
        assert!(with("--gtid-domain-id", "4294967296").is_err());
        assert!(with("--gtid-domain-id", "-2147483649").is_err());
        assert!(with("--gtid-domain-id", "x").is_err());
        assert_eq!(with("--gtid-domain-id", "-1").unwrap().gtid_domain, Some(u32::MAX));
        assert_eq!(with("--gtid-domain-id", "4294967295").unwrap().gtid_domain, Some(u32::MAX));
        assert_eq!(with("--progress", "").unwrap().progress, 0);
    }

    #[test]
    fn a_server_is_told_from_a_person_by_the_role() {
        let asked = |args: &[&str]| Request::is_asked_by_a_server(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(asked(&["--datadir", "/d", "--role", "donor"]) && asked(&["--role=donor"]));
        assert!(!asked(&["list", "--repository", "/r"]) && !asked(&[]));
    }

    proptest! {
        #[test]
        fn no_argument_list_panics(args in prop::collection::vec(any::<Vec<u8>>(), 0..12)) {
            let named = [b"--role".to_vec(), b"donor".to_vec()];
            let _ = Request::parse(named.into_iter().chain(args).map(OsString::from_vec));
        }
    }
}
