//! Chooses how the files are held still, while nobody waits: tries to clone on every file system, and looks at its space.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use tracing::{info, warn};

use super::space::Space;
use crate::archive::label::Source;
use crate::archive::manifest::EntryKind;
use crate::command::human;
use crate::config::Config;
use crate::config::choice::{Reserve, SourceChoice};
use crate::datadir::inventory::{Found, Inventory};
use crate::datadir::survey::Datadir;
use crate::error::{Class, Error, Result};
use crate::source::clone::{self, Clones};

/// With less than this part of the reserve left the clone is given up.
const FLOOR_PART: u64 = 4;

/// How the files of this run are held still.
#[derive(Debug)]
pub(super) struct Plan {
    /// What the label says.
    pub(super) source: Source,
    /// Where files are cloned.
    pub(super) clones: Clones,
    /// The most passes before the window, for what is not cloned.
    pub(super) passes_ahead: u32,
    /// What has to be looked after while clones are held.
    pub(super) spaces: Vec<Space>,
}

/// The files of one file system.
struct Device<'a> {
    bytes: u64,
    largest: &'a Found,
    roots: Vec<u32>,
}

impl Plan {
    /// What `config` asks for, as far as the file systems can do it. One line of the log says what it is.
    pub(super) fn choose(config: &Config, datadir: &Datadir, inventory: &Inventory) -> Result<Self> {
        let mut plan = Self { source: Source::Locked, clones: Clones::default(), passes_ahead: 0, spaces: Vec::new() };
        let mut reasons = Vec::new();
        if matches!(config.source, SourceChoice::Auto | SourceChoice::Clone) {
            for (number, device) in &devices(inventory) {
                if let Some(why) = plan.try_clone(*number, device, config.clone_reserve, datadir)? {
                    reasons.push(format!("{} cannot be cloned ({why})", names(device, inventory)));
                }
            }
        }
        if config.source == SourceChoice::Clone && plan.clones.is_empty() {
            let text = format!("the source clone is not possible here: {}", reasons.join(", "));
            return Err(Error::new(Class::Config, text).hint("say `source = auto`, or `precopy`"));
        }
        plan.source = match config.source {
            SourceChoice::Locked => Source::Locked,
            _ if !plan.clones.is_empty() => Source::Clone,
            _ => Source::Precopy,
        };
        plan.passes_ahead = match config.source {
            SourceChoice::Auto | SourceChoice::Precopy => config.precopy_passes,
            SourceChoice::Clone | SourceChoice::Locked => 0,
        };
        plan.tell(config.source, &reasons);
        Ok(plan)
    }

    /// Prepares for clones on a file system; says why not, if they are not possible.
    fn try_clone(
        &mut self,
        number: u64,
        device: &Device<'_>,
        reserve: Reserve,
        datadir: &Datadir,
    ) -> Result<Option<String>> {
        let directory = directory_on(number, device, datadir)?;
        let sample = if device.bytes == 0 { None } else { datadir.open_if_there(device.largest)? };
        // Smaller than a block, it shows nothing.
        let sample = sample.filter(|_| device.largest.bytes() >= clone::LARGEST_BLOCK);
        let file = match self.clones.add(number, &directory, sample.as_ref())? {
            Ok(file) => file,
            Err(cause) => return Ok(Some(cause.desc().to_owned())),
        };
        let reserve = reserve.of(device.bytes);
        let space = Space::new(directory, file, reserve / FLOOR_PART)?;
        let free = space.free_bytes()?;
        let (shown, wanted) = (human::size(free), human::size(reserve));
        if space.has_quota()? && free < device.bytes.saturating_add(reserve) {
            self.clones.remove(number);
            return Ok(Some(format!("{shown} left of a quota, which counts every block of a clone")));
        }
        if free < space.floor {
            self.clones.remove(number);
            return Ok(Some(format!("only {shown} free, clone-reserve is {wanted}")));
        }
        if free < reserve {
            let directory = &space.directory;
            warn!("{directory:?} has {shown} free while clones are held, less than clone-reserve ({wanted})");
        }
        self.spaces.push(space);
        Ok(None)
    }

    fn tell(&self, asked: SourceChoice, reasons: &[String]) {
        let name = match self.source {
            Source::Clone => "clone",
            Source::Precopy => "precopy",
            Source::Locked => "locked",
        };
        let chosen = if asked == SourceChoice::Auto { " (chosen by auto)" } else { "" };
        let rest = match (self.source, self.passes_ahead) {
            (Source::Clone, 0) if !reasons.is_empty() => ", and is copied inside the window",
            (Source::Clone, 1..) => ", and is copied before the window and inside it",
            _ => "",
        };
        let why = if reasons.is_empty() { String::new() } else { format!(": {}{rest}", reasons.join(", ")) };
        info!("source {name}{chosen}{why}");
    }
}

/// The file systems that hold files, by the number of their device.
fn devices(inventory: &Inventory) -> BTreeMap<u64, Device<'_>> {
    let mut devices: BTreeMap<u64, Device<'_>> = BTreeMap::new();
    for found in inventory.files.iter().filter(|found| found.kind == EntryKind::File) {
        let device = devices.entry(found.print.dev).or_insert(Device { bytes: 0, largest: found, roots: Vec::new() });
        device.bytes = device.bytes.saturating_add(found.bytes());
        if found.bytes() > device.largest.bytes() {
            device.largest = found;
        }
        if !device.roots.contains(&found.root) {
            device.roots.push(found.root);
        }
    }
    devices
}

/// A directory of the server on that device: of a root, or that of the largest file.
fn directory_on(number: u64, device: &Device<'_>, datadir: &Datadir) -> Result<PathBuf> {
    for root in &device.roots {
        let path = datadir.root_path(*root)?;
        let metadata = path.metadata().map_err(|cause| Error::io("look at", &path, cause))?;
        if metadata.dev() == number {
            return Ok(path);
        }
    }
    let mut path = datadir.full_path(device.largest);
    path.pop();
    Ok(path)
}

fn names(device: &Device<'_>, inventory: &Inventory) -> String {
    let root = |root: &u32| inventory.roots.get(*root as usize).map(|root| root.name.to_string());
    device.roots.iter().filter_map(root).collect::<Vec<_>>().join(", ")
}
