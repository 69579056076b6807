//! Several repositories that take the same backup in one pass.
//!
//! What is written goes to one after the other, piece by piece: nothing is kept for a slow one, so memory does not grow, and the
//! slowest sets the pace of all. With [`Policy::All`] every one seals the backup before the first label goes out, and if a
//! later label fails, the backups that have theirs are removed again. With [`Policy::Any`] one that fails is given up at once,
//! and the others go on.

#[cfg(test)]
mod tests;
mod upload;

use std::fmt;
use std::sync::Arc;

use tracing::warn;

use super::{Begun, Destination, Repository};
use crate::archive::label::BackupId;
use crate::error::{Class, Error, Result, one_line};

/// How many of several repositories must hold a backup for a run to succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Every one of them; else none does.
    #[default]
    All,
    /// One at least.
    Any,
}

impl Policy {
    /// Reads `all` or `any`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "all" => Some(Policy::All),
            "any" => Some(Policy::Any),
            _ => None,
        }
    }
}

/// A destination that writes every backup into several repositories.
#[derive(Debug)]
pub struct Several {
    policy: Policy,
    members: Vec<Member>,
}

/// One of them.
#[derive(Clone)]
struct Member {
    place: String,
    /// None of one that could not even be opened.
    store: Option<Arc<dyn Repository>>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl Several {
    /// Takes repositories, each with its place, as they could be opened or not.
    ///
    /// Errors: the first one's that was not opened; with [`Policy::Any`] only if none was.
    pub fn new(policy: Policy, opened: Vec<(String, Result<Box<dyn Repository>>)>) -> Result<Self> {
        let mut failures = Failures::new(policy);
        let mut members = Vec::new();
        for (place, store) in opened {
            let store = failures.pass(&place, store)?.map(Arc::from);
            members.push(Member { place, store });
        }
        let several = Self { policy, members };
        failures.unless(several.stores().next().is_some())?;
        Ok(several)
    }

    fn stores(&self) -> impl Iterator<Item = (&Member, &Arc<dyn Repository>)> {
        self.members.iter().filter_map(|member| Some((member, member.store.as_ref()?)))
    }
}

impl Destination for Several {
    fn place(&self) -> String {
        self.members.iter().map(|member| &*member.place).collect::<Vec<_>>().join("\", \"")
    }

    fn probe_writable(&self) -> Result<()> {
        let mut failures = Failures::new(self.policy);
        let mut writable = 0;
        for (member, store) in self.stores() {
            writable += usize::from(failures.pass(&member.place, store.probe_writable())?.is_some());
        }
        failures.unless(writable > 0)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let mut failures = Failures::new(self.policy);
        let mut free = Vec::new();
        for (member, store) in self.stores() {
            free.extend(failures.pass(&member.place, store.free_bytes())?);
        }
        Ok(match self.policy {
            Policy::All => free.into_iter().flatten().min(),
            // Where nobody knows there may be enough.
            Policy::Any => free.into_iter().collect::<Option<Vec<u64>>>().and_then(|free| free.into_iter().max()),
        })
    }

    fn begin(&self, id: &BackupId, archive_name: &'static str, expected_bytes: u64) -> Result<Begun> {
        let mut failures = Failures::new(self.policy);
        let mut copies = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            let Some(store) = &member.store else { continue };
            let begun = store.begin(id, archive_name, expected_bytes);
            if let Some((upload, sink)) = failures.pass(&member.place, begun)? {
                copies.push(upload::Copy::new(number, &member.place, upload, sink));
            }
        }
        failures.unless(!copies.is_empty())?;
        Ok(upload::begin(self.policy, self.members.clone(), copies))
    }
}

/// What becomes of failures under a policy: they end everything, or are told and kept until it shows that none succeeded.
#[derive(Debug)]
struct Failures {
    policy: Policy,
    first: Option<Error>,
}

impl Failures {
    fn new(policy: Policy) -> Self {
        Self { policy, first: None }
    }

    /// The result of one of several; an error is that all of them fail.
    fn pass<T>(&mut self, place: &str, result: Result<T>) -> Result<Option<T>> {
        match (result, self.policy) {
            (Ok(value), _) => Ok(Some(value)),
            (Err(error), Policy::All) => Err(error),
            (Err(error), Policy::Any) => {
                warn!("\"{place}\" is given up: {}", one_line(&error));
                self.first.get_or_insert(error);
                Ok(None)
            }
        }
    }

    /// The first failure, unless one at least succeeded.
    fn unless(self, succeeded: bool) -> Result<()> {
        let none = || Error::new(Class::Io, "no repository is left that could take the backup");
        if succeeded { Ok(()) } else { Err(self.first.unwrap_or_else(none)) }
    }
}
