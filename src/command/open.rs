//! Opens the repository behind a location: here settings, secrets and stores meet.

use crate::cancel::Cancel;
use crate::config::{Config, Environment};
use crate::error::Result;
use crate::store::object::Credentials;
use crate::store::{LocalRepository, Location, ObjectRepository, Repository};

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
