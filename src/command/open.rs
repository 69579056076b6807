//! Opens the repository behind a location: here settings, secrets and stores meet.

use crate::cancel::Cancel;
use crate::config::{Config, Environment};
use crate::error::Result;
use crate::store::object::Credentials;
use crate::store::{Destination, LocalRepository, Location, ObjectRepository, Repository, Several};
use crate::wsrep::address::DestinationName;

/// The destination that an SST address chooses, or the default one, which may be several repositories.
pub fn destination(
    name: Option<&DestinationName>,
    config: &Config,
    environment: &Environment,
    cancel: &Cancel,
) -> Result<Box<dyn Destination>> {
    let locations = config.destination(name)?;
    if let [location] = locations.as_slice() {
        let one: Box<dyn Destination> = repository(location, config, environment, cancel)?;
        return Ok(one);
    }
    let open = |location: &&Location| (location.to_string(), repository(location, config, environment, cancel));
    Ok(Box::new(Several::new(config.policy, locations.iter().map(open).collect())?))
}

/// The repository at `location`. What opens a bucket comes from `credentials-file`, else from the environment.
pub fn repository(
    location: &Location,
    config: &Config,
    environment: &Environment,
    cancel: &Cancel,
) -> Result<Box<dyn Repository>> {
    let url = match location {
        Location::Directory(path) => return Ok(Box::new(LocalRepository::open(path)?)),
        Location::Object(url) => url,
    };
    let credentials = match &config.object.credentials_file {
        Some(path) => Credentials::read(path)?,
        None => {
            let text = environment.with_prefix("").filter_map(|(name, value)| Some((name, value.to_str()?)));
            Credentials::of_environment(text)
        }
    };
    Ok(Box::new(ObjectRepository::open(url, &config.object, &credentials, cancel)?))
}
