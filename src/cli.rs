//! The operator's command line.
//!
//! Flags that are also options of the group `[wsrep_sst_backup]` have the same spelling there.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{choice, options};

/// Consistent backups of a Galera node, asked for with `garbd --sst backup`.
///
/// mysqld runs this program itself when a backup is asked for (`--role donor ...`). The commands below are for you.
#[derive(Debug, Parser)]
#[command(name = "wsrep_sst_backup", version, disable_help_subcommand = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  wsrep_sst_backup list
  wsrep_sst_backup verify latest
  wsrep_sst_backup restore latest --target /var/lib/mysql

Exit status: 0 done, 1 the system refused something, 2 wrong command line, 3 wrong configuration, 4 no such backup,
5 damage found, 6 unknown format version, 7 busy, 8 refused because it would overwrite something, 13 interrupted,
14 encrypted and not to be opened with the keys that were given.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// The directory or the bucket that holds the backups, or a destination's name [default: the option file's, the first of
    /// several, else /var/backups/wsrep_sst_backup].
    #[arg(long, global = true, value_name = "DIR|URL|NAME")]
    pub repository: Option<PathBuf>,
    /// Print one JSON document instead of tables and sentences.
    #[arg(long, global = true)]
    pub json: bool,
    /// Draw no progress bar.
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Threads that read, check and write [default: one for each processor].
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Read only this option file of the server.
    #[arg(long, global = true, value_name = "FILE")]
    pub defaults_file: Option<OsString>,
    /// Read this option file after the server's usual ones.
    #[arg(long, global = true, value_name = "FILE")]
    pub defaults_extra_file: Option<OsString>,
    /// Read also the groups whose names end with this.
    #[arg(long, global = true, value_name = "SUFFIX")]
    pub defaults_group_suffix: Option<OsString>,
}

/// What the operator wants.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show which backups there are.
    #[command(after_help = "Example:
  wsrep_sst_backup list --repository /mnt/backups")]
    List,
    /// Show everything that is known about one backup: position, times, sizes, directories, what was left out.
    #[command(after_help = "Example:
  wsrep_sst_backup show latest")]
    Show(ShowArgs),
    /// Read backups completely and report every damage, by file and offset.
    ///
    /// Of an encrypted backup only the stored bytes are proved, unless its key is given.
    #[command(after_help = "Examples:
  wsrep_sst_backup verify             the latest backup
  wsrep_sst_backup verify --all
  wsrep_sst_backup verify 20261122T100946Z-node2-7f3a && echo good")]
    Verify(VerifyArgs),
    /// Make a data directory out of a backup: checked while it is written, whole or not at all.
    #[command(after_help = "Examples:
  Bring a node back (it joins by IST if the cluster still has the write sets):
      systemctl stop mariadb
      mv /var/lib/mysql /var/lib/mysql.old
      wsrep_sst_backup restore latest --target /var/lib/mysql
      systemctl start mariadb
  The whole cluster is lost; this becomes its first node:
      wsrep_sst_backup restore latest --target /var/lib/mysql --bootstrap
      galera_new_cluster
  Look into an old state without any cluster:
      wsrep_sst_backup restore 20261122T10 --target /srv/look --standalone")]
    Restore(RestoreArgs),
    /// Take a database, a table or a file out of a backup.
    #[command(after_help = "Examples:
  wsrep_sst_backup extract latest shop.orders --to /tmp/orders
  wsrep_sst_backup extract latest shop --to /tmp/shop
  wsrep_sst_backup extract latest ibdata1 mysql/user.frm --to /tmp/files")]
    Extract(ExtractArgs),
    /// Copy a backup into another repository, as it is stored: an encrypted one needs no key.
    #[command(after_help = "Examples:
  wsrep_sst_backup copy latest --to offsite
  wsrep_sst_backup copy 20261122T10 --from s3://backups/galera --to /mnt/backups")]
    Copy(CopyArgs),
    /// Wait for backups that donors stream to this host, and put them into the repository.
    #[command(after_help = "Examples:
  openssl rand -hex 32 | install -m 0600 /dev/stdin /etc/wsrep_sst_backup.token
  wsrep_sst_backup receive --listen 10.1.0.9:4569 --repository /srv/backups \\
      --tls-cert host.pem --tls-key host.key --token-file /etc/wsrep_sst_backup.token
  Then ask for one: garbd --sst backup:HOST:4569 ... The donor must have `allow-receiver` and `receiver-ca`.")]
    Receive(ReceiveArgs),
}

/// Arguments of `show`.
#[derive(Args, Clone, Debug, Default)]
pub struct ShowArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    #[arg(value_name = "ID|latest")]
    pub id: String,
    /// Keys for an encrypted backup.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// Arguments of `verify`.
#[derive(Args, Clone, Debug, Default)]
pub struct VerifyArgs {
    /// The backups: ids, beginnings of ids, or `latest` [default: latest].
    #[arg(value_name = "ID|latest", conflicts_with = "all")]
    pub ids: Vec<String>,
    /// Every backup of the repository.
    #[arg(long)]
    pub all: bool,
    /// Keys for encrypted backups.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// Arguments of `restore`.
#[derive(Args, Clone, Debug, Default)]
pub struct RestoreArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    #[arg(value_name = "ID|latest")]
    pub id: String,
    /// The new data directory: it must be absent or empty.
    #[arg(long, value_name = "DIR")]
    pub target: PathBuf,
    /// Where another directory of the server goes, e.g. innodb-undo=/ssd/undo; `show` lists them.
    #[arg(long = "root", value_name = "NAME=PATH")]
    pub roots: Vec<RootMapping>,
    /// Owner of everything, instead of the owners on the donor.
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<String>,
    /// The node is to be the first of a new cluster: safe_to_bootstrap is 1 in grastate.dat.
    #[arg(long, conflicts_with = "standalone")]
    pub bootstrap: bool,
    /// The server is to run without a cluster: no grastate.dat is written.
    #[arg(long)]
    pub standalone: bool,
    /// Leave out the binary logs.
    #[arg(long)]
    pub without_binlogs: bool,
    /// Keys for an encrypted backup.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// Arguments of `extract`.
#[derive(Args, Clone, Debug, Default)]
pub struct ExtractArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    #[arg(value_name = "ID|latest")]
    pub id: String,
    /// A database, a database.table, a path in the data directory, or ROOT:path in another one.
    #[arg(value_name = "WHAT", required = true)]
    pub what: Vec<String>,
    /// Where to put it: files that are there already are never overwritten.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Keys for an encrypted backup.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// Arguments of `copy`.
#[derive(Args, Clone, Debug, Default)]
pub struct CopyArgs {
    /// The backup: its id, the beginning of it, or `latest`.
    #[arg(value_name = "ID|latest")]
    pub id: String,
    /// Where it is [default: the repository].
    #[arg(long, value_name = "DIR|URL|NAME", conflicts_with = "repository")]
    pub from: Option<PathBuf>,
    /// Where it is to be as well: never in the place of a backup of that name.
    #[arg(long, value_name = "DIR|URL|NAME")]
    pub to: PathBuf,
}

/// The private keys of a command.
#[derive(Args, Clone, Debug, Default)]
pub struct KeyArgs {
    /// File with the private key of an encrypted backup, as age-keygen writes it.
    #[arg(long = "identity", value_name = "FILE")]
    pub identities: Vec<PathBuf>,
}

impl Command {
    /// The files with private keys that were named.
    pub fn identities(&self) -> &[PathBuf] {
        match self {
            Command::List | Command::Copy(_) | Command::Receive(_) => &[],
            Command::Show(args) => &args.keys.identities,
            Command::Verify(args) => &args.keys.identities,
            Command::Restore(args) => &args.keys.identities,
            Command::Extract(args) => &args.keys.identities,
        }
    }
}

/// Arguments of `receive`.
#[derive(Args, Clone, Debug)]
pub struct ReceiveArgs {
    /// Where to listen; port 0 takes any that is free.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Our certificate, and those between it and its authority, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The key of our certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Donors must show a certificate that an authority in this file has signed.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,
    /// Donors must show the token in this file, which has mode 0600 or 0400.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Whoever reaches the port may store a backup: neither --token-file nor --client-ca is needed.
    #[arg(long, conflicts_with_all = ["token_file", "client_ca"])]
    pub no_token: bool,
    /// Backups and the token come in the clear, also from other hosts.
    #[arg(long, conflicts_with = "tls_cert")]
    pub no_tls: bool,
    /// End when one backup has come.
    #[arg(long)]
    pub once: bool,
    /// Take no archive that is larger, e.g. 500G [default: what the disk has room for].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub max_size: Option<u64>,
    /// Uploads at once.
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub max_uploads: u32,
    /// How long an upload may stand still: longer than the donor's flush-timeout.
    #[arg(long, value_name = "TIME", default_value = "15min", value_parser = duration)]
    pub stall_timeout: Duration,
    /// How long anything else may take: a TLS handshake, a request's head, a label.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,
}

fn bytes(text: &str) -> Result<u64, String> {
    choice::bytes(text).ok_or_else(|| "it takes bytes such as 500M, 80G or 2T".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    options::duration(text).ok_or_else(|| "it takes a time such as 90s, 15min or 1h, at most 30d".to_owned())
}

/// `NAME=PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootMapping {
    /// The root's name in the backup.
    pub name: String,
    /// Where it goes.
    pub path: PathBuf,
}

impl std::str::FromStr for RootMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("it is written NAME=PATH, e.g. innodb-undo=/ssd/undo")?;
        if name.is_empty() || path.is_empty() {
            return Err("both NAME and PATH are needed, e.g. innodb-undo=/ssd/undo".to_owned());
        }
        Ok(Self { name: name.to_owned(), path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_may_stand_on_either_side_of_the_command() {
        for line in ["w --repository /r --json list", "w list --json --repository /r"] {
            let cli = parse(line).unwrap();
            assert!(cli.global.json);
            assert_eq!(cli.global.repository, Some("/r".into()));
        }
    }

    #[test]
    fn a_restore_takes_several_roots() {
        let cli = parse("w restore latest --target /t --root a=/x --root b=/y=z").unwrap();
        let Command::Restore(args) = cli.command else { panic!("not a restore") };
        assert_eq!(args.roots[1], RootMapping { name: "b".into(), path: "/y=z".into() });
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "w restore latest --target /t --bootstrap --standalone",
            "w verify --all latest",
            "w restore latest",
            "w restore latest --target /t --root x",
            "w extract latest --to /t",
            "w list --workers 0",
            "w receive",
            "w receive --listen host",
            "w receive --listen 127.0.0.1:0 --tls-cert c",
            "w receive --listen 127.0.0.1:0 --client-ca c",
            "w receive --listen 127.0.0.1:0 --no-token --token-file t",
            "w receive --listen 127.0.0.1:0 --no-tls --tls-cert c --tls-key k",
            "w receive --listen 127.0.0.1:0 --max-uploads 0",
            "w receive --listen 127.0.0.1:0 --max-size some",
            "w receive --listen 127.0.0.1:0 --stall-timeout 0",
            "w copy latest",
            "w copy latest --from /a --to /b --repository /c",
            "w",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_after_help().is_some(), "{}", command.get_name());
        }
    }
}
