//! The names of users and groups, each looked up once: the look-up may ask a server on the network.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::unistd::{Gid, Group, Uid, User};

use crate::archive::manifest::Owner;

/// The names that were looked up.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, Arc<str>>,
    groups: HashMap<u32, Arc<str>>,
}

impl Owners {
    /// The names of a file's owner and group, empty where they have none.
    pub(super) fn names(&mut self, metadata: &Metadata) -> (Arc<str>, Arc<str>) {
        let user = self.users.entry(metadata.uid()).or_insert_with_key(|uid| {
            let user = User::from_uid(Uid::from_raw(*uid)).ok().flatten();
            user.map_or("".into(), |user| user.name.into())
        });
        let group = self.groups.entry(metadata.gid()).or_insert_with_key(|gid| {
            let group = Group::from_gid(Gid::from_raw(*gid)).ok().flatten();
            group.map_or("".into(), |group| group.name.into())
        });
        (user.clone(), group.clone())
    }

    /// Whose a directory is, and its mode.
    pub(super) fn of(&mut self, metadata: &Metadata) -> Owner {
        let (user, group) = self.names(metadata);
        Owner {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            user: user.to_string(),
            group: group.to_string(),
        }
    }
}
