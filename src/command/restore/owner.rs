//! Who owns what is restored: decided for every file before the first is written.
//!
//! Root gives files to the owners by the names that they had on the donor, since numbers differ between hosts; anybody
//! else owns what he writes.

use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid};

use crate::archive::manifest::{Entry, Manifest, Owner};
use crate::error::{Class, Error, Result};

/// The owner of each file.
#[derive(Debug)]
pub enum Owners {
    /// Whoever runs the program.
    Caller,
    /// The same for all.
    Fixed(u32, u32),
    /// By name, as on the donor.
    Donor {
        /// Numbers of the users' names here.
        users: HashMap<String, u32>,
        /// Numbers of the groups' names here.
        groups: HashMap<String, u32>,
    },
}

impl Owners {
    /// Decides; `chosen` is the `USER[:GROUP]` of `--owner`. A name that this host does not know is an error.
    pub fn resolve(manifest: &Manifest, chosen: Option<&str>) -> Result<Self> {
        match chosen {
            Some(chosen) => Self::fixed(chosen),
            None if geteuid().is_root() => Self::donor(manifest),
            None => Ok(Owners::Caller),
        }
    }

    /// The numbers of `entry`'s owner and group, or none if they are the caller's anyway.
    pub fn of(&self, entry: &Entry) -> Option<(u32, u32)> {
        self.numbers((&entry.user, entry.uid), (&entry.group, entry.gid))
    }

    /// The same for a root's own directory.
    pub fn of_root(&self, owner: &Owner) -> Option<(u32, u32)> {
        self.numbers((&owner.user, owner.uid), (&owner.group, owner.gid))
    }

    fn numbers(&self, (user, uid): (&str, u32), (group, gid): (&str, u32)) -> Option<(u32, u32)> {
        match self {
            Owners::Caller => None,
            Owners::Fixed(uid, gid) => Some((*uid, *gid)),
            Owners::Donor { users, groups } => {
                Some((users.get(user).copied().unwrap_or(uid), groups.get(group).copied().unwrap_or(gid)))
            }
        }
    }

    fn fixed(chosen: &str) -> Result<Self> {
        let (user, group) = match chosen.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (chosen, None),
        };
        let found = find_user(user)?;
        let (uid, own_group) = match (&found, user.parse::<u32>()) {
            (Some(found), _) => (found.uid.as_raw(), Some(found.gid.as_raw())),
            (None, Ok(number)) => (number, primary_group(number)?),
            (None, Err(_)) => return Err(unknown("user", &[user.to_owned()])),
        };
        let gid = match group {
            None => own_group.ok_or_else(|| {
                Error::new(Class::Usage, format!("the user {uid} has no group here")).hint("write --owner USER:GROUP")
            })?,
            Some(group) => match (find_group(group)?, group.parse::<u32>()) {
                (Some(gid), _) => gid,
                (None, Ok(number)) => number,
                (None, Err(_)) => return Err(unknown("group", &[group.to_owned()])),
            },
        };
        let own = (geteuid().as_raw(), getegid().as_raw()) == (uid, gid);
        if !own && !geteuid().is_root() {
            return Err(Error::new(Class::Refused, format!("only root can give files to {chosen:?}")));
        }
        Ok(Owners::Fixed(uid, gid))
    }

    fn donor<'a>(manifest: &'a Manifest) -> Result<Self> {
        let (mut users, mut groups) = (HashMap::new(), HashMap::new());
        let (mut no_users, mut no_groups) = (Vec::new(), Vec::new());
        let of_entry = |entry: &'a Entry| ((&*entry.user, entry.uid), (&*entry.group, entry.gid));
        let of_root = |owner: &'a Owner| ((&*owner.user, owner.uid), (&*owner.group, owner.gid));
        let roots = manifest.roots.iter().filter_map(|root| root.owner.as_ref()).map(of_root);
        for ((user, uid), (group, gid)) in manifest.files.iter().map(of_entry).chain(roots) {
            if !user.is_empty() && !users.contains_key(user) {
                let found = find_user(user)?;
                found.is_none().then(|| no_users.push(user.to_owned()));
                users.insert(user.to_owned(), found.map_or(uid, |user| user.uid.as_raw()));
            }
            if !group.is_empty() && !groups.contains_key(group) {
                let found = find_group(group)?;
                found.is_none().then(|| no_groups.push(group.to_owned()));
                groups.insert(group.to_owned(), found.unwrap_or(gid));
            }
        }
        if !no_users.is_empty() {
            return Err(unknown("user", &no_users));
        }
        if !no_groups.is_empty() {
            return Err(unknown("group", &no_groups));
        }
        Ok(Owners::Donor { users, groups })
    }
}

fn unknown(what: &str, names: &[String]) -> Error {
    let plural = if names.len() == 1 { "" } else { "s" };
    Error::new(Class::Config, format!("this host has no {what}{plural} {}", names.join(", ")))
        .hint("say who shall own everything: --owner mysql:mysql")
}

fn find_user(name: &str) -> Result<Option<User>> {
    User::from_name(name).map_err(|errno| Error::io("look up the user", name, errno))
}

fn find_group(name: &str) -> Result<Option<u32>> {
    let found = Group::from_name(name).map_err(|errno| Error::io("look up the group", name, errno))?;
    Ok(found.map(|group| group.gid.as_raw()))
}

fn primary_group(uid: u32) -> Result<Option<u32>> {
    let found = User::from_uid(Uid::from_raw(uid));
    let found = found.map_err(|errno| Error::io("look up the user", uid.to_string(), errno))?;
    Ok(found.map(|user| user.gid).map(Gid::as_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_name_or_a_number_and_must_be_known() {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        assert!(matches!(Owners::fixed(&format!("{uid}:{gid}")).unwrap(), Owners::Fixed(u, g) if (u, g) == (uid, gid)));
        let error = Owners::fixed("no-such-user-here").unwrap_err();
        assert_eq!(error.to_string(), "this host has no user no-such-user-here");
        assert!(Owners::fixed(&format!("{uid}:no-such-group-here")).is_err());
        assert_eq!(Owners::fixed("4000000001").unwrap_err().class(), Class::Usage);
    }
}
