//! What happens before the server is asked to hold still: whatever would fail fails here, while nobody waits.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tracing::warn;

use super::plan::Plan;
use crate::archive::codec::Codec;
use crate::archive::label::Source;
use crate::archive::seal::Recipients;
use crate::cancel::Cancel;
use crate::command::{human, open};
use crate::config::choice::Release;
use crate::config::print_defaults::OptionFiles;
use crate::config::{Config, Environment, server};
use crate::datadir::inventory::Inventory;
use crate::datadir::survey::{Datadir, Options};
use crate::datadir::variables::ServerVariables;
use crate::error::{Class, Error, Result};
use crate::receiver::client::Receiver;
use crate::store::{Destination, Location};
use crate::wsrep::address::{Address, Target};
use crate::wsrep::request::Request;

/// Nothing compresses a whole datadir to less than this part of it: with less free space a run can only fail.
const HOPELESS_PART: u64 = 20;

/// With less free space than this part of the datadir a run may well fail: zstd leaves about 40 % of usual tables.
const DOUBTFUL_PART: u64 = 2;

/// How often the first look at the files may fail because they move.
const SURVEYS: u32 = 3;

/// How long to wait after such a look.
const BETWEEN_SURVEYS: Duration = Duration::from_millis(200);

/// What was asked for and configured.
pub(super) struct Settings {
    pub(super) address: Address,
    pub(super) config: Config,
    pub(super) variables: ServerVariables,
}

impl Settings {
    /// Reads the address and the option files.
    pub(super) fn read(request: &Request, environment: &Environment, cancel: &Cancel) -> Result<Self> {
        let address = Address::parse(&request.address)?;
        let files = OptionFiles::of_server(environment, &request.defaults)?;
        let config = Config::resolve(&files.own(cancel)?, environment, &[])?;
        let variables = server::variables(request, &files.server(cancel)?, environment);
        Ok(Self { address, config, variables })
    }
}

/// Everything that a run needs before the window.
pub(super) struct Prepared {
    pub(super) address: Address,
    pub(super) config: Config,
    /// Who can read the backup.
    pub(super) recipients: Recipients,
    pub(super) variables: ServerVariables,
    pub(super) datadir: Datadir,
    pub(super) destination: Box<dyn Destination>,
    /// The files as they are before the window: for progress, for space, and to see that all of them can be read.
    pub(super) inventory: Inventory,
    /// How the files are held still.
    pub(super) plan: Plan,
    _only_run: Flock<File>,
}

impl Prepared {
    /// Whether the server hears `done` when its files are held, not when they are stored.
    pub(super) fn is_released_early(&self) -> bool {
        self.config.release == Release::Held && self.plan.source == Source::Clone
    }

    /// Takes the lock, tries the repository, and looks at every file.
    pub(super) fn make(settings: Settings, environment: &Environment, cancel: &Cancel) -> Result<Self> {
        let Settings { address, config, variables } = settings;
        let recipients = config.recipients()?;
        let only_run = lock(&variables.datadir)?;
        let destination = choose(&address.target, &config, environment, cancel)?;
        destination.probe_writable()?;
        let options = Options { binlogs: config.binlogs, leave_out: of_backups(&config, &*destination) };
        let datadir = Datadir::open(&variables, &options)?;
        let inventory = survey(&datadir, cancel)?;
        datadir.check_complete(&inventory)?;
        datadir.check_readable(&inventory, cancel)?;
        check_space(&*destination, config.codec, inventory.total_bytes())?;
        inventory.warnings.iter().for_each(|warning| warn!("{warning}"));
        let plan = Plan::choose(&config, &datadir, &inventory)?;
        if config.release == Release::Held && plan.source != Source::Clone {
            warn!("release = held needs a clone: the node is released when the backup is stored");
        }
        Ok(Self { address, config, recipients, variables, datadir, destination, inventory, plan, _only_run: only_run })
    }
}

/// What the SST address chooses, as far as the configuration allows it.
fn choose(
    target: &Target,
    config: &Config,
    environment: &Environment,
    cancel: &Cancel,
) -> Result<Box<dyn Destination>> {
    let name = match target {
        Target::Default => None,
        Target::Named(name) => Some(name),
        Target::Receiver(receiver) => return Ok(Box::new(Receiver::open(receiver, &config.receiver, cancel)?)),
    };
    open::destination(name, config, environment, cancel)
}

/// The server may be moving what is looked at: then once more.
fn survey(datadir: &Datadir, cancel: &Cancel) -> Result<Inventory> {
    for _ in 1..SURVEYS {
        match datadir.survey(cancel) {
            Ok(inventory) => return Ok(inventory),
            Err(_) => cancel.sleep(BETWEEN_SURVEYS)?,
        }
    }
    datadir.survey(cancel)
}

/// The directories that hold backups, wherever this one goes: a backup of backups grows with every run.
fn of_backups(config: &Config, chosen: &dyn Destination) -> Vec<PathBuf> {
    let configured = config.destinations.values().chain([&config.repository]).chain(&config.further);
    let directory = |location: &Location| match location {
        // As it is written, and as it is found: a link may lead into the datadir.
        Location::Directory(path) => [Some(path.clone()), path.canonicalize().ok()],
        Location::Object(_) => [None, None],
    };
    configured.flat_map(directory).flatten().chain(chosen.local_path().map(Path::to_owned)).collect()
}

/// One run at a time: a lock on the datadir's own descriptor makes no file and goes with the process.
fn lock(datadir: &Path) -> Result<Flock<File>> {
    let directory = File::open(datadir).map_err(|cause| Error::io("open", datadir, cause))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, cause)| match cause {
        Errno::EWOULDBLOCK => Error::new(Class::Busy, "another backup of this server is running"),
        cause => Error::io("lock", datadir, cause),
    })
}

fn check_space(destination: &dyn Destination, codec: Codec, bytes: u64) -> Result<()> {
    let Some(free) = destination.free_bytes()? else { return Ok(()) };
    let least = if codec == Codec::None { bytes } else { bytes / HOPELESS_PART };
    let text = || {
        let (free, bytes) = (human::size(free), human::size(bytes));
        format!("\"{}\" has {free} free for a backup of {bytes}", destination.place())
    };
    if free < least {
        return Err(Error::io("write the backup to", destination.place(), Errno::ENOSPC).hint(text()));
    }
    if free < bytes / DOUBTFUL_PART {
        warn!("{}: that may be too little", text());
    }
    Ok(())
}
