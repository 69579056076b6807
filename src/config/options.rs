//! The table of options: every setting has one row, whether it is written as a flag, a variable or a line of an option file.

use std::net::IpAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::choice::{self, IoNice, Release, Reserve, SourceChoice};
use crate::archive::seal::Recipient;
use crate::datadir::binlog::Binlogs;
use crate::receiver::client::ReceiverSettings;
use crate::store::Policy;
use crate::store::location::{Location, absolute};
use crate::store::object::settings::{Endpoint, LEAST_PART_BYTES, MOST_PARALLEL, MOST_PART_BYTES, ObjectSettings};
use crate::wsrep::address::DestinationName;

/// How long it takes, in seconds, to reach the bound of every duration here: 30 days.
const LONGEST_SECONDS: u64 = 30 * 24 * 3600;

/// The most workers; a memory budget of 16 MiB for each is promised.
const MOST_WORKERS: usize = 256;

/// Workers beyond this many read faster than storage gives, and take the processors from the server.
const DEFAULT_WORKERS: usize = 16;

/// With fewer than two one part could not be in flight while the next one is made.
const LEAST_PARALLEL: usize = 2;

/// A request that failed so often fails.
const MOST_RETRIES: usize = 100;

/// More passes than this chase a server that never rests.
const MOST_PRECOPY_PASSES: u32 = 100;

/// The values as they are collected, each already valid by itself.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) repository: Vec<Place>,
    pub(super) policy: Policy,
    pub(super) compress: String,
    pub(super) compress_level: Option<u8>,
    pub(super) recipients: Vec<Recipient>,
    pub(super) recipients_file: Option<PathBuf>,
    pub(super) workers: NonZeroUsize,
    pub(super) binlogs: Binlogs,
    pub(super) frozen_limit: Duration,
    pub(super) flush_timeout: Duration,
    pub(super) source: SourceChoice,
    pub(super) clone_reserve: Reserve,
    pub(super) precopy_passes: u32,
    pub(super) precopy_quiet: Duration,
    pub(super) release: Release,
    pub(super) nice: u8,
    pub(super) ionice: IoNice,
    pub(super) rate_limit: Option<NonZeroU64>,
    pub(super) object: ObjectSettings,
    pub(super) receiver: ReceiverSettings,
}

/// Where a backup goes: a place, or the name of one.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Location(Location),
    Name(DestinationName),
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        Location::parse(text).map(Self::Location).or_else(|| text.parse().ok().map(Self::Name))
    }
}

/// One option.
#[derive(Debug)]
pub struct Row {
    /// Its name, as a long flag without the dashes.
    pub name: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// What it may be.
    pub allowed: &'static str,
    /// What it is when nobody says anything.
    pub default: &'static str,
    /// Takes a value; `None` if it is not allowed.
    pub(super) set: fn(&mut Draft, &str) -> Option<()>,
}

/// The options of group `[wsrep_sst_backup]`, besides `destination.NAME`.
pub const TABLE: &[Row] = &[
    Row {
        name: "repository",
        help: "directory that holds the backups, or a part of a bucket; several take the same backup",
        allowed: "an absolute path, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or the NAME of a destination.NAME; several separated by commas",
        default: "/var/backups/wsrep_sst_backup",
        set: |draft, text| {
            draft.repository = text.split(',').map(|place| Place::parse(place.trim())).collect::<Option<_>>()?;
            Some(())
        },
    },
    Row {
        name: "repository-policy",
        help: "how many of several repositories must hold a backup for the run to succeed",
        allowed: "all or any",
        default: "all",
        set: |draft, text| Policy::parse(text).map(|policy| draft.policy = policy),
    },
    Row {
        name: "compress",
        help: "compression of new backups",
        allowed: "zstd, gzip or none",
        default: "zstd",
        set: |draft, text| ["zstd", "gzip", "none"].contains(&text).then(|| draft.compress = text.to_owned()),
    },
    Row {
        name: "compress-level",
        help: "level of the compression",
        allowed: "1 to 19 for zstd, 1 to 9 for gzip",
        default: "1 for zstd, 6 for gzip",
        set: |draft, text| text.parse().ok().map(|level| draft.compress_level = Some(level)),
    },
    Row {
        name: "recipient",
        help: "who can read new backups, which are encrypted if there is any",
        allowed: "none, or public keys of age (age1...) separated by commas; several lines add up",
        default: "none",
        set: |draft, text| {
            if text == "none" {
                draft.recipients.clear();
                return Some(());
            }
            let keys = text.split(',').map(|key| key.trim().parse().ok()).collect::<Option<Vec<Recipient>>>()?;
            draft.recipients.extend(keys);
            Some(())
        },
    },
    Row {
        name: "recipients-file",
        help: "file with more recipients, one a line",
        allowed: "none, or an absolute path",
        default: "none",
        set: |draft, text| {
            draft.recipients_file = if text == "none" { None } else { Some(absolute(text)?) };
            Some(())
        },
    },
    Row {
        name: "workers",
        help: "threads that read, hash and compress",
        allowed: "a number from 1 to 256",
        default: "the number of processors, at most 16",
        set: |draft, text| {
            let workers = text.parse::<NonZeroUsize>().ok().filter(|workers| workers.get() <= MOST_WORKERS)?;
            draft.workers = workers;
            Some(())
        },
    },
    Row {
        name: "binlogs",
        help: "binary logs that go into a backup",
        allowed: "none, last or all",
        default: "last",
        set: |draft, text| binlogs(text).map(|binlogs| draft.binlogs = binlogs),
    },
    Row {
        name: "frozen-limit",
        help: "longest time that the server may be frozen, past which the run fails",
        allowed: "a time such as 90s, 15min or 1h, at most 30d; a number alone means seconds",
        default: "1h",
        set: |draft, text| duration(text).map(|limit| draft.frozen_limit = limit),
    },
    Row {
        name: "flush-timeout",
        help: "longest time that the server may take to flush and lock its tables",
        allowed: "a time such as 90s, 15min or 1h, at most 30d; a number alone means seconds",
        default: "10min",
        set: |draft, text| duration(text).map(|limit| draft.flush_timeout = limit),
    },
    Row {
        name: "source",
        help: "how the files are held still",
        allowed: "auto, clone, precopy or locked",
        default: "auto",
        set: |draft, text| SourceChoice::parse(text).map(|source| draft.source = source),
    },
    Row {
        name: "clone-reserve",
        help: "free space that a clone should find, for what the server overwrites while it is held",
        allowed: "a part of the data such as 5%, or bytes such as 10G",
        default: "5%",
        set: |draft, text| Reserve::parse(text).map(|reserve| draft.clone_reserve = reserve),
    },
    Row {
        name: "precopy-passes",
        help: "the most passes over the files before the server is frozen",
        allowed: "a number from 1 to 100",
        default: "5",
        set: |draft, text| {
            draft.precopy_passes = text.parse().ok().filter(|passes| (1..=MOST_PRECOPY_PASSES).contains(passes))?;
            Some(())
        },
    },
    Row {
        name: "precopy-quiet",
        help: "how long a file must not have been written to be copied before the server is frozen",
        allowed: "a time such as 5s or 1min, at most 30d; longer than a write to the disk may ever take",
        default: "30s",
        set: |draft, text| duration(text).map(|quiet| draft.precopy_quiet = quiet),
    },
    Row {
        name: "release",
        help: "when the node may join its cluster again: when the backup is stored, or when its files are held",
        allowed: "stored or held",
        default: "stored",
        set: |draft, text| Release::parse(text).map(|release| draft.release = release),
    },
    Row {
        name: "nice",
        help: "niceness of the processor's time after the frozen window",
        allowed: "a number from 0 to 19",
        default: "0",
        set: |draft, text| {
            draft.nice = text.parse().ok().filter(|nice| *nice <= 19)?;
            Some(())
        },
    },
    Row {
        name: "ionice",
        help: "class of reads and writes after the frozen window",
        allowed: "none, idle or best-effort:0 to best-effort:7",
        default: "none",
        set: |draft, text| IoNice::parse(text).map(|ionice| draft.ionice = ionice),
    },
    Row {
        name: "rate-limit",
        help: "bytes read per second outside the frozen window",
        allowed: "none, or bytes such as 500K, 80M or 1G",
        default: "none",
        set: |draft, text| {
            draft.rate_limit = if text == "none" { None } else { Some(NonZeroU64::new(choice::bytes(text)?)?) };
            Some(())
        },
    },
    Row {
        name: "endpoint",
        help: "URL of an object store that is not the provider's own; buckets are addressed by path there",
        allowed: "none, or a URL such as https://minio.example:9000",
        default: "none",
        set: |draft, text| optional(text, Endpoint::parse).map(|endpoint| draft.object.endpoint = endpoint),
    },
    Row {
        name: "allow-http",
        help: "whether the endpoint may be spoken to in the clear",
        allowed: "yes or no",
        default: "no",
        set: |draft, text| either(text, "no", "yes").map(|set| draft.object.allow_http = set),
    },
    Row {
        name: "region",
        help: "region of an S3 bucket; without it AWS_REGION, AWS_DEFAULT_REGION, us-east-1",
        allowed: "none, or a region such as eu-central-1",
        default: "none",
        set: |draft, text| optional(text, region).map(|region| draft.object.region = region),
    },
    Row {
        name: "ca-file",
        help: "certificates in PEM that an object store's must come from, in place of the system's",
        allowed: "none, or an absolute path",
        default: "none",
        set: |draft, text| optional(text, absolute).map(|path| draft.object.ca_file = path),
    },
    Row {
        name: "credentials-file",
        help: "file that opens the object store, in lines NAME=VALUE; mode 0600 or 0400, of this user or root",
        allowed: "none, or an absolute path",
        default: "none",
        set: |draft, text| optional(text, absolute).map(|path| draft.object.credentials_file = path),
    },
    Row {
        name: "part-size",
        help: "bytes of a part of an upload; so many times parallel-parts are in memory",
        allowed: "bytes from 5M to 1G",
        default: "16M",
        set: |draft, text| {
            let fits = |bytes: &u64| (LEAST_PART_BYTES..=MOST_PART_BYTES).contains(bytes);
            draft.object.part_bytes = choice::bytes(text).filter(fits)?;
            Some(())
        },
    },
    Row {
        name: "parallel-parts",
        help: "parts of an upload, or ranges of a download, under way at once",
        allowed: "a number from 2 to 64",
        default: "4",
        set: |draft, text| {
            let fits = |parallel: &NonZeroUsize| (LEAST_PARALLEL..=MOST_PARALLEL).contains(&parallel.get());
            draft.object.parallel = text.parse().ok().filter(fits)?;
            Some(())
        },
    },
    Row {
        name: "request-timeout",
        help: "longest time that one request to an object store may take, a whole part included",
        allowed: "a time such as 90s, 15min or 1h, at most 30d; a number alone means seconds",
        default: "1min",
        set: |draft, text| duration(text).map(|timeout| draft.object.request_timeout = timeout),
    },
    Row {
        name: "stall-timeout",
        help: "longest time that no part of an upload may arrive, or one range be waited for, retries included",
        allowed: "a time such as 90s, 15min or 1h, at most 30d; a number alone means seconds",
        default: "5min",
        set: |draft, text| duration(text).map(|timeout| draft.object.stall_timeout = timeout),
    },
    Row {
        name: "retries",
        help: "how often a request to an object store is tried again",
        allowed: "a number from 0 to 100",
        default: "10",
        set: |draft, text| {
            draft.object.retries = text.parse().ok().filter(|retries| *retries <= MOST_RETRIES)?;
            Some(())
        },
    },
    Row {
        name: "allow-receiver",
        help: "networks of the hosts that an SST address HOST:PORT may stream to",
        allowed: "none, or networks and addresses such as 10.1.0.0/16, fd00::7, separated by commas",
        default: "none",
        set: |draft, text| networks(text).map(|allowed| draft.receiver.allowed = allowed),
    },
    Row {
        name: "receiver-tls",
        help: "whether receivers must prove who they are, and everything is encrypted on its way",
        allowed: "on or off",
        default: "on",
        set: |draft, text| either(text, "off", "on").map(|set| draft.receiver.tls = set),
    },
    Row {
        name: "receiver-ca",
        help: "certificates of the authorities that sign those of receivers, in PEM",
        allowed: "none, or an absolute path",
        default: "none",
        set: |draft, text| optional(text, absolute).map(|path| draft.receiver.ca = path),
    },
    Row {
        name: "receiver-token-file",
        help: "file of the token that a receiver is shown, of mode 0600 or 0400",
        allowed: "none, or an absolute path",
        default: "none",
        set: |draft, text| optional(text, absolute).map(|path| draft.receiver.token_file = path),
    },
    Row {
        name: "receiver-cert",
        help: "certificate that a receiver is shown, in PEM",
        allowed: "none, or an absolute path",
        default: "none",
        set: |draft, text| optional(text, absolute).map(|path| draft.receiver.certificate = path),
    },
    Row {
        name: "receiver-key",
        help: "key of that certificate, in PEM",
        allowed: "none, or an absolute path",
        default: "none",
        set: |draft, text| optional(text, absolute).map(|path| draft.receiver.key = path),
    },
    Row {
        name: "receiver-stall-timeout",
        help: "longest time that a receiver may take for anything: a piece of the archive, an answer, its disk's sync",
        allowed: "a time such as 90s, 15min or 1h, at most 30d; a number alone means seconds",
        default: "5min",
        set: |draft, text| duration(text).map(|limit| draft.receiver.stall_timeout = limit),
    },
];

impl Default for Draft {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            repository: vec![Place::Location(Location::Directory("/var/backups/wsrep_sst_backup".into()))],
            policy: Policy::default(),
            compress: "zstd".to_owned(),
            compress_level: None,
            recipients: Vec::new(),
            recipients_file: None,
            workers: NonZeroUsize::new(processors.min(DEFAULT_WORKERS)).unwrap_or(NonZeroUsize::MIN),
            binlogs: Binlogs::default(),
            frozen_limit: Duration::from_secs(3600),
            flush_timeout: Duration::from_secs(600),
            source: SourceChoice::Auto,
            clone_reserve: Reserve::Percent(5),
            precopy_passes: 5,
            precopy_quiet: Duration::from_secs(30),
            release: Release::Stored,
            nice: 0,
            ionice: IoNice::None,
            rate_limit: None,
            object: ObjectSettings::default(),
            receiver: ReceiverSettings::default(),
        }
    }
}

/// A value, or `none`; the outer `None` is for one that is not allowed.
fn optional<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "none" { Some(None) } else { parse(text).map(Some) }
}

fn region(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
}

/// Networks and single addresses, or the word for none of them.
fn networks(text: &str) -> Option<Vec<IpNet>> {
    if text == "none" {
        return Some(Vec::new());
    }
    let network = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    text.split(',').map(|text| network(text.trim())).collect()
}

/// One of two words: whether it is `yes`.
fn either(text: &str, no: &str, yes: &str) -> Option<bool> {
    if text == yes { Some(true) } else { (text == no).then_some(false) }
}

fn binlogs(text: &str) -> Option<Binlogs> {
    match text {
        "none" => Some(Binlogs::None),
        "last" => Some(Binlogs::Last),
        "all" => Some(Binlogs::All),
        _ => None,
    }
}

/// A number and a unit; more than none.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let scale_ms: u64 = match unit.trim_start() {
        "ms" => 1,
        "" | "s" | "sec" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 24 * 3_600_000,
        _ => return None,
    };
    let milliseconds = number.checked_mul(scale_ms)?;
    (1..=LONGEST_SECONDS * 1000).contains(&milliseconds).then(|| Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        for (text, seconds) in [
            ("90", 90.0),
            ("90s", 90.0),
            ("15min", 900.0),
            ("2m", 120.0),
            ("1h", 3600.0),
            ("250ms", 0.25),
            ("1 d", 86_400.0),
        ] {
            assert_eq!(duration(text).unwrap().as_secs_f64(), seconds, "{text}");
        }
        for text in ["", "0", "0s", "s", "-1", "1.5h", "1w", "31d", "99999999999999999999h", "1h30", "1 h x"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn networks_are_networks_or_addresses() {
        let shown = |text: &str| networks(text).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(shown("none"), Some(Vec::new()));
        let all = ["10.1.0.0/16", "192.0.2.7/32", "fd00::/8", "::1/128"];
        assert_eq!(shown("10.1.0.0/16, 192.0.2.7,fd00::/8 ,::1"), Some(all.map(str::to_owned).to_vec()));
        for text in
            ["", "all", "10.1.0.0/33", "10.1.0.0/16,", "10.1.0.0 /16", "host", "10.1/16", "10.1.0.0/16 10.2.0.0/16"]
        {
            assert_eq!(networks(text), None, "{text}");
        }
    }

    #[test]
    fn the_defaults_in_the_table_are_the_defaults() {
        let draft = Draft::default();
        let mut again = Draft { workers: NonZeroUsize::MIN, ..Draft::default() };
        for row in TABLE.iter().filter(|row| !matches!(row.name, "compress-level" | "workers")) {
            (row.set)(&mut again, row.default).unwrap();
        }
        again.workers = draft.workers;
        assert_eq!(format!("{again:?}"), format!("{draft:?}"));
        assert!((1..=DEFAULT_WORKERS).contains(&draft.workers.get()));
    }
}
