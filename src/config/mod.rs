//! Settings from flags, the environment and the server's option files, resolved once into one valid [`Config`].
//!
//! A flag beats the environment, the environment beats an option file, and that beats the default. A name that is not
//! known is refused: a misspelt `frozen-limit` must not leave the default in force unnoticed.

pub mod choice;
pub mod environment;
pub mod options;
pub mod print_defaults;
mod recipients;
pub mod server;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

pub use environment::Environment;

use crate::archive::codec::Codec;
use crate::archive::seal::{Recipient, Recipients};
use crate::datadir::binlog::Binlogs;
use crate::error::{Class, Error, Result, printable};
use crate::receiver::client::ReceiverSettings;
use crate::store::Policy;
use crate::store::location::{Location, absolute};
use crate::store::object::ObjectSettings;
use crate::wsrep::address::DestinationName;
use choice::{IoNice, Release, Reserve, SourceChoice};
use options::{Draft, Place, TABLE};
use print_defaults::Setting;

/// The group of option files that is ours.
pub const GROUP: &str = "wsrep_sst_backup";

/// What our variables begin with: `WSREP_SST_BACKUP_FROZEN_LIMIT`.
pub const VARIABLE_PREFIX: &str = "WSREP_SST_BACKUP_";

/// What the option of a named destination begins with.
const DESTINATION: &str = "destination.";

/// How much of a bad name or value a message shows, in characters.
const SHOWN: usize = 64;

/// How alike a known name must be to be suggested (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

/// Everything that can be set, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The default destination, the first of several.
    pub repository: Location,
    /// The others, which take the same backup.
    pub further: Vec<Location>,
    /// How many of them must hold it.
    pub policy: Policy,
    /// Destinations that an SST address can choose by name.
    pub destinations: BTreeMap<DestinationName, Location>,
    /// How new backups are compressed.
    pub codec: Codec,
    /// Who can read new backups; nobody: they are not encrypted.
    pub recipients: Vec<Recipient>,
    /// A file with more of them.
    pub recipients_file: Option<PathBuf>,
    /// Threads that read, hash and compress.
    pub workers: NonZeroUsize,
    /// Which binary logs go into a backup.
    pub binlogs: Binlogs,
    /// How long the server may be frozen.
    pub frozen_limit: Duration,
    /// How long the server may take to flush and lock its tables.
    pub flush_timeout: Duration,
    /// How the files are held still.
    pub source: SourceChoice,
    /// Free space that a clone should find.
    pub clone_reserve: Reserve,
    /// The most passes over the files before the server is frozen.
    pub precopy_passes: u32,
    /// How long a file must not have been written to be copied before that.
    pub precopy_quiet: Duration,
    /// When the node may join its cluster again.
    pub release: Release,
    /// Niceness of all threads after the frozen window.
    pub nice: u8,
    /// Class of all reads and writes after the frozen window.
    pub ionice: IoNice,
    /// Bytes read per second outside the frozen window.
    pub rate_limit: Option<NonZeroU64>,
    /// How receivers are spoken to, and which.
    pub receiver: ReceiverSettings,
    /// How object stores are spoken to.
    pub object: ObjectSettings,
}

/// Where a setting was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    OptionFile,
    Environment,
    Flag,
}

/// What is being resolved.
#[derive(Default)]
struct Resolving {
    draft: Draft,
    /// Where the recipients so far were written: those of a place that is nearer replace them.
    recipients_from: Option<Origin>,
    destinations: BTreeMap<DestinationName, Location>,
}

impl Config {
    /// Resolves the settings of group [`GROUP`] in the option files, the environment, and flags as name and value.
    ///
    /// Errors: an unknown name, a missing value, a value that is not allowed; each says where it was written.
    pub fn resolve(files: &[Setting], environment: &Environment, flags: &[(&str, OsString)]) -> Result<Self> {
        let mut resolving = Resolving::default();
        for setting in files {
            resolving.set(Origin::OptionFile, &setting.name, setting.value.as_deref())?;
        }
        for (name, value) in environment.with_prefix(VARIABLE_PREFIX) {
            resolving.set(Origin::Environment, &name.to_lowercase(), Some(value))?;
        }
        for (name, value) in flags {
            resolving.set(Origin::Flag, name, Some(value))?;
        }
        resolving.finish()
    }

    /// Everybody who can read new backups. Reads the file of recipients, if there is one.
    ///
    /// A file that cannot be used is an error: without it a backup would be readable for fewer people, or for everybody.
    pub fn recipients(&self) -> Result<Recipients> {
        let mut keys = self.recipients.clone();
        if let Some(path) = &self.recipients_file {
            keys.extend(recipients::read(path)?);
        }
        Recipients::new(keys)
    }

    /// The places of the destination that an SST address chooses; one at least.
    pub fn destination(&self, name: Option<&DestinationName>) -> Result<Vec<&Location>> {
        let Some(name) = name else { return Ok([&self.repository].into_iter().chain(&self.further).collect()) };
        self.named(name).map(|location| vec![location])
    }

    /// The one place that an operator means: a destination by its name, a URL, or a directory, which may be relative.
    pub fn place(&self, text: &OsStr) -> Result<Location> {
        let shown = text.to_string_lossy();
        if let Some(location) = shown.parse().ok().and_then(|name: DestinationName| self.destinations.get(&name)) {
            return Ok(location.clone());
        }
        let found = match text.to_str() {
            Some(url) if url.contains("://") => Location::parse(url),
            // A person may mean a directory below the one they stand in; a server never does.
            _ => std::path::absolute(text).ok().filter(|path| is_plain(path)).map(Location::Directory),
        };
        found.ok_or_else(|| {
            Error::new(Class::Config, format!("{} is neither a destination's name nor a path nor a URL", quote(shown)))
        })
    }

    fn named(&self, name: &DestinationName) -> Result<&Location> {
        self.destinations.get(name).ok_or_else(|| {
            Error::new(Class::Config, format!("there is no destination \"{name}\"")).hint(format!(
                "name it in an option file: `destination.{name} = /directory` or a URL in group [{GROUP}]"
            ))
        })
    }
}

impl Resolving {
    fn set(&mut self, origin: Origin, name: &str, value: Option<&OsStr>) -> Result<()> {
        let bad = |what: String| Error::new(Class::Config, format!("{what} ({})", origin.place(name)));
        let value = value.map(OsStr::to_string_lossy).unwrap_or_default();
        // A variable's name cannot hold the point, and no variable's name tells the case of a destination.
        if let Some(destination) = name.strip_prefix(DESTINATION).filter(|_| origin != Origin::Environment) {
            let destination = destination.parse().map_err(|cause: Error| bad(cause.to_string()))?;
            let location = Location::parse(&value).ok_or_else(|| {
                bad(format!("the value {} of {name} is neither an absolute path nor a URL", quote(&value)))
            })?;
            self.destinations.insert(destination, location);
            return Ok(());
        }
        let key = name.replace('_', "-");
        let Some(row) = TABLE.iter().find(|row| row.name == key) else {
            let error = bad(format!("there is no option {}", quote(name)));
            return Err(match nearest(&key) {
                Some(known) => error.hint(format!("did you mean `{known}`?")),
                None => error,
            });
        };
        if row.name == "recipient" && self.recipients_from.replace(origin) != Some(origin) {
            self.draft.recipients.clear();
        }
        (row.set)(&mut self.draft, &value).ok_or_else(|| {
            let what = if value.is_empty() { "no value".to_owned() } else { format!("the value {}", quote(&value)) };
            bad(format!("{} cannot have {what}: it takes {}", row.name, row.allowed))
        })
    }

    fn finish(self) -> Result<Config> {
        let Self { draft, destinations, .. } = self;
        if let Some(endpoint) = draft.object.endpoint.as_ref().filter(|_| !draft.object.allow_http)
            && endpoint.is_http()
        {
            let text = format!("the endpoint {} is spoken to in the clear", quote(endpoint.as_str()));
            return Err(Error::new(Class::Config, text).hint("use https, or say `allow-http = yes` if that is meant"));
        }
        let mut places = named_places(draft.repository, &destinations)?.into_iter();
        let none = || Error::new(Class::Config, "repository names no place");
        Ok(Config {
            repository: places.next().ok_or_else(none)?,
            further: places.collect(),
            policy: draft.policy,
            destinations,
            codec: Codec::new(&draft.compress, draft.compress_level)
                .map_err(|cause| Error::new(Class::Config, "compress and compress-level do not fit").because(cause))?,
            recipients: draft.recipients,
            recipients_file: draft.recipients_file,
            workers: draft.workers,
            binlogs: draft.binlogs,
            frozen_limit: draft.frozen_limit,
            flush_timeout: draft.flush_timeout,
            source: draft.source,
            clone_reserve: draft.clone_reserve,
            precopy_passes: draft.precopy_passes,
            precopy_quiet: draft.precopy_quiet,
            release: draft.release,
            nice: draft.nice,
            ionice: draft.ionice,
            rate_limit: draft.rate_limit,
            receiver: draft.receiver,
            object: draft.object,
        })
    }
}

/// What `repository` lists, each once.
fn named_places(listed: Vec<Place>, destinations: &BTreeMap<DestinationName, Location>) -> Result<Vec<Location>> {
    let mut places: Vec<Location> = Vec::new();
    for place in listed {
        let location = match place {
            Place::Location(location) => location,
            Place::Name(name) => destinations.get(&name).cloned().ok_or_else(|| {
                let text = format!("repository names {}, and there is no destination.{name}", quote(&name));
                Error::new(Class::Config, text).hint("it takes an absolute path, a URL, or the NAME of a destination")
            })?,
        };
        if places.contains(&location) {
            return Err(Error::new(Class::Config, format!("repository names {} twice", quote(&location))));
        }
        places.push(location);
    }
    Ok(places)
}

/// Without `..` and without characters that would disturb a message.
fn is_plain(path: &std::path::Path) -> bool {
    path.to_str().is_none_or(|text| absolute(text).is_some())
}

impl Origin {
    /// Where the reader of a message finds the setting.
    fn place(self, name: &str) -> String {
        let name = printable(name.chars().take(SHOWN).collect::<String>());
        match self {
            Origin::OptionFile => format!("group [{GROUP}] of the option files"),
            Origin::Environment => format!("environment variable {VARIABLE_PREFIX}{}", name.to_uppercase()),
            Origin::Flag => format!("flag --{name}"),
        }
    }
}

/// The known name that is most like `name`, if any is.
fn nearest(name: &str) -> Option<&'static str> {
    let name: String = name.chars().take(SHOWN).collect();
    let known = TABLE.iter().map(|row| row.name).chain([DESTINATION]);
    let alike = known.map(|known| (strsim::jaro_winkler(known, &name), known)).filter(|(alike, _)| *alike >= ALIKE);
    alike.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

fn quote(text: impl fmt::Display) -> String {
    let text = text.to_string();
    // Put where a public key belongs, it must not get into the server's log.
    if text.to_uppercase().contains("AGE-SECRET-KEY") {
        return "that is a private key".to_owned();
    }
    format!("\"{}\"", printable(text.chars().take(SHOWN).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, value: &str) -> Setting {
        Setting { name: name.to_owned(), value: Some(value.into()) }
    }

    fn directory(path: &str) -> Location {
        Location::Directory(path.into())
    }

    fn from_file(settings: &[(&str, &str)]) -> Result<Config> {
        let settings: Vec<Setting> = settings.iter().map(|(name, value)| file(name, value)).collect();
        Config::resolve(&settings, &Environment::default(), &[])
    }

    #[test]
    fn without_any_setting_the_defaults_hold() {
        let config = from_file(&[]).unwrap();
        assert_eq!(config.repository, directory("/var/backups/wsrep_sst_backup"));
        assert_eq!((config.codec, config.binlogs), (Codec::Zstd(1), Binlogs::Last));
        assert_eq!((config.frozen_limit.as_secs(), config.flush_timeout.as_secs()), (3600, 600));
    }

    #[test]
    fn a_flag_beats_the_environment_and_that_an_option_file() {
        let files = [file("workers", "2"), file("repository", "/from-file"), file("frozen_limit", "1min")];
        let environment = Environment::from_iter([
            ("WSREP_SST_BACKUP_WORKERS", "3"),
            ("WSREP_SST_BACKUP_REPOSITORY", "/from-environment"),
            ("WSREP_SST_OPT_AUTH", ""),
        ]);
        let config = Config::resolve(&files, &environment, &[("repository", "/from-flag".into())]).unwrap();
        assert_eq!(config.repository, directory("/from-flag"));
        assert_eq!((config.workers.get(), config.frozen_limit.as_secs()), (3, 60));
    }

    #[test]
    fn the_last_line_of_a_file_wins_and_both_spellings_are_one() {
        let config = from_file(&[("compress_level", "9"), ("compress-level", "3"), ("compress", "gzip")]).unwrap();
        assert_eq!(config.codec, Codec::Gzip(3));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_known_one_and_its_place() {
        let error = from_file(&[("frozen-limt", "1h")]).unwrap_err();
        assert_eq!(error.class(), Class::Config);
        assert!(error.to_string().contains("frozen-limt") && error.to_string().contains("group [wsrep_sst_backup]"));
        assert_eq!(error.advice(), Some("did you mean `frozen-limit`?"));
        let environment = Environment::from_iter([("WSREP_SST_BACKUP_REPO", "/x")]);
        let error = Config::resolve(&[], &environment, &[]).unwrap_err();
        assert!(error.to_string().contains("WSREP_SST_BACKUP_REPO"), "{error}");
        assert_eq!(error.advice(), Some("did you mean `repository`?"));
        assert_eq!(from_file(&[("zzz", "1")]).unwrap_err().advice(), None);
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (name, value, allowed) in [
            ("workers", "0", "1 to 256"),
            ("workers", "257", "1 to 256"),
            ("binlogs", "some", "none, last or all"),
            ("compress", "lz4", "zstd, gzip or none"),
            ("compress-level", "x", "1 to 19"),
            ("frozen-limit", "soon", "a time such as"),
            ("repository", "./relative", "an absolute path"),
            ("source", "snapshot", "auto, clone, precopy or locked"),
            ("clone-reserve", "101%", "a part of the data such as 5%"),
            ("precopy-passes", "0", "1 to 100"),
            ("release", "early", "stored or held"),
            ("nice", "20", "0 to 19"),
            ("ionice", "best-effort:8", "best-effort:7"),
            ("rate-limit", "0", "bytes such as 500K"),
            ("allow-receiver", "everybody", "none, or networks"),
            ("receiver-tls", "maybe", "on or off"),
            ("receiver-ca", "ca.pem", "an absolute path"),
            ("repository", "s3://Bucket", "s3://BUCKET/PREFIX"),
            ("endpoint", "https://me:secret@host", "https://minio"),
            ("allow-http", "maybe", "yes or no"),
            ("region", "eu central", "eu-central-1"),
            ("ca-file", "ca.pem", "an absolute path"),
            ("credentials-file", "secrets", "an absolute path"),
            ("part-size", "4M", "5M to 1G"),
            ("parallel-parts", "1", "2 to 64"),
            ("request-timeout", "0", "a time such as 90s"),
            ("stall-timeout", "0", "a time such as 90s"),
            ("retries", "101", "0 to 100"),
        ] {
            let message = from_file(&[(name, value)]).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(value) && message.contains(allowed), "{message}");
        }
        let without = Setting { name: "workers".to_owned(), value: None };
        let message = Config::resolve(&[without], &Environment::default(), &[]).unwrap_err().to_string();
        assert!(message.contains("no value"), "{message}");
        assert!(from_file(&[("compress", "gzip"), ("compress-level", "10")]).is_err());
        assert!(from_file(&[("compress", "none"), ("compress-level", "1")]).is_err());
    }

    #[test]
    fn recipients_add_up_within_one_place_and_a_nearer_place_replaces_them() {
        let one = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
        let two = "age1crlcnjste9resrk73dplhqemjhs2pqmdg2lxrgfxy7z34y53x4ns452ttf";
        let lines = [file("recipient", one), file("recipient", two)];
        let resolve = |environment: &Environment| Config::resolve(&lines, environment, &[]).unwrap();
        assert_eq!(resolve(&Environment::default()).recipients().unwrap().iter().count(), 2);
        let nearer = Environment::from_iter([("WSREP_SST_BACKUP_RECIPIENT", format!("{two}, {two}"))]);
        let found = resolve(&nearer).recipients().unwrap();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [two]);
        let nobody = Environment::from_iter([("WSREP_SST_BACKUP_RECIPIENT", "none")]);
        assert!(resolve(&nobody).recipients().unwrap().is_empty());
        for bad in ["", "age1", &format!("{one},"), &format!("{one} {two}")] {
            assert!(from_file(&[("recipient", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_private_key_in_the_place_of_a_recipient_is_refused_and_not_repeated() {
        let secret = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
        for name in ["recipient", "recipients-file", "repository", secret] {
            let message = from_file(&[(name, secret)]).unwrap_err().to_string();
            assert!(message.contains("a private key") && !message.contains("GQ9778"), "{message}");
        }
    }

    #[test]
    fn an_endpoint_in_the_clear_must_be_meant() {
        let http = ("endpoint", "http://127.0.0.1:9000");
        let error = from_file(&[http]).unwrap_err();
        assert!(error.advice().unwrap().contains("allow-http"), "{:?}", error.advice());
        assert!(from_file(&[http, ("allow-http", "yes")]).is_ok());
        assert!(from_file(&[("endpoint", "https://127.0.0.1:9000")]).is_ok());
    }

    #[test]
    fn destinations_have_names_and_the_address_chooses_among_them() {
        let config =
            from_file(&[("destination.far_1", "/mnt/far"), ("destination.Near", "s3://near/galera/")]).unwrap();
        let name = |text: &str| text.parse::<DestinationName>().unwrap();
        assert_eq!(config.destination(Some(&name("far_1"))).unwrap(), [&directory("/mnt/far")]);
        assert_eq!(config.destination(Some(&name("Near"))).unwrap()[0].to_string(), "s3://near/galera");
        assert_eq!(config.destination(None).unwrap(), [&config.repository]);
        assert_eq!(config.destination(Some(&name("near"))).unwrap_err().class(), Class::Config);
        for (key, value) in [
            ("destination.", "/x"),
            ("destination.a/b", "/x"),
            ("destination.a", "x"),
            ("destination.a", "s3://x"),
            ("destination", "/x"),
        ] {
            assert_eq!(from_file(&[(key, value)]).unwrap_err().class(), Class::Config, "{key}");
        }
    }

    #[test]
    fn a_repository_may_be_several_places_and_names_among_them() {
        let config = from_file(&[
            ("destination.far", "s3://far/galera"),
            ("repository", "/near, far,gs://third"),
            ("repository-policy", "any"),
        ]);
        let config = config.unwrap();
        let places: Vec<String> = config.destination(None).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(places, ["/near", "s3://far/galera", "gs://third"]);
        assert_eq!(config.policy, Policy::Any);
        assert_eq!(from_file(&[]).unwrap().policy, Policy::All);
        for (repository, says) in [
            ("/near,", "repository cannot have the value"),
            ("/near,absent", "there is no destination.absent"),
            ("/near,/near", "names \"/near\" twice"),
            ("s3://far/galera,far", "names \"s3://far/galera\" twice"),
        ] {
            let error = from_file(&[("destination.far", "s3://far/galera"), ("repository", repository)]).unwrap_err();
            assert!(error.class() == Class::Config && error.to_string().contains(says), "{error}");
        }
        assert!(from_file(&[("repository-policy", "most")]).is_err());
    }

    #[test]
    fn an_operator_names_a_destination_a_url_or_a_directory() {
        let config = from_file(&[("destination.far", "s3://far/galera")]).unwrap();
        let place = |text: &str| config.place(OsStr::new(text)).map(|location| location.to_string());
        assert_eq!(place("far").unwrap(), "s3://far/galera");
        assert_eq!(place("gs://bucket").unwrap(), "gs://bucket");
        assert_eq!(place("/srv").unwrap(), "/srv");
        let below = std::path::absolute("near").unwrap();
        assert_eq!(place("near").unwrap(), below.to_str().unwrap());
        for wrong in ["", "ftp://x/y", "s3://X", "/srv/../etc", "a\nb"] {
            assert_eq!(place(wrong).unwrap_err().class(), Class::Config, "{wrong}");
        }
    }

    #[test]
    fn the_example_option_file_names_every_option_with_a_value_that_is_allowed() {
        let example = include_str!("../../packaging/60-wsrep_sst_backup.cnf");
        let lines = example.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = "));
        let lines: Vec<(&str, &str)> = lines.filter(|(name, _)| !name.contains(' ')).collect();
        for row in TABLE {
            assert_eq!(lines.iter().filter(|(name, _)| *name == row.name).count(), 1, "{}", row.name);
        }
        let set = |(name, value): &(&str, &str)| Setting { name: (*name).to_owned(), value: Some((*value).into()) };
        Config::resolve(&lines.iter().map(set).collect::<Vec<_>>(), &Environment::default(), &[]).unwrap();
    }
}
