//! One backup on its way into several repositories.
//!
//! The uploads belong to whoever writes at the moment: the sink takes them out, writes, and puts them back, so that one that
//! fails is aborted there and then, and giving all of them up does not wait for a write that hangs.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::{Failures, Member, Policy};
use crate::archive::label::Label;
use crate::error::{Class, Error, Result, one_line};
use crate::store::{ArchiveSink, Begun, Sealed, Upload};

/// How long giving up waits for a write under way; after that its own thread aborts the uploads when it is over.
const WRITE_GRACE: Duration = Duration::from_secs(5);

/// The backup as one of the repositories gets it.
pub(super) struct Copy {
    /// Its number among the members.
    member: usize,
    place: String,
    // Fields are dropped in this order: no write comes after the abort.
    sink: ArchiveSink,
    upload: Box<dyn Upload>,
}

/// What the sink and the upload share.
#[derive(Debug)]
struct Shared {
    policy: Policy,
    state: Mutex<State>,
    put_back: Condvar,
}

#[derive(Debug)]
struct State {
    /// None while they are being written to.
    copies: Option<Vec<Copy>>,
    /// Nothing may be written any more.
    over: bool,
}

#[derive(Debug)]
struct SeveralUpload {
    members: Vec<Member>,
    shared: Arc<Shared>,
}

/// The archive's way into all of them.
struct Sink(Arc<Shared>);

/// A backup that lacks nothing but its labels.
#[derive(Debug)]
struct SeveralSealed {
    policy: Policy,
    members: Vec<Member>,
    label: Label,
    sealed: Vec<(usize, Box<dyn Sealed>)>,
}

impl Copy {
    pub(super) fn new(member: usize, place: &str, upload: Box<dyn Upload>, sink: ArchiveSink) -> Self {
        Self { member, place: place.to_owned(), sink, upload }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(|cause| {
            let inner = cause.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            let class = inner.map_or(Class::Io, Error::class);
            Error::new(class, format!("cannot write the backup to \"{}\"", self.place)).because(cause)
        })
    }
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.upload.fmt(f)
    }
}

/// Begins, where `copies` are begun.
pub(super) fn begin(policy: Policy, members: Vec<Member>, copies: Vec<Copy>) -> Begun {
    let state = Mutex::new(State { copies: Some(copies), over: false });
    let shared = Arc::new(Shared { policy, state, put_back: Condvar::new() });
    let sink = Box::new(Sink(Arc::clone(&shared)));
    (Box::new(SeveralUpload { members, shared }), sink)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the uploads away for good, when no write is under way or it ends soon.
    fn end(&self) -> Option<Vec<Copy>> {
        let mut state = self.lock();
        state.over = true;
        let waited = self.put_back.wait_timeout_while(state, WRITE_GRACE, |state| state.copies.is_none());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // Whoever still writes must find that there is no place to put them back.
        state.copies.replace(Vec::new())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let over = || Error::new(Class::Io, "the backup into several repositories is over");
        let mut state = self.lock();
        if state.over {
            return Err(over());
        }
        let mut copies = state.copies.take().ok_or_else(over)?;
        drop(state);
        let written = self.write_to(&mut copies, bytes);
        let mut state = self.lock();
        if state.copies.is_none() {
            state.copies = Some(copies);
        } else {
            drop(state);
            drop(copies);
        }
        self.put_back.notify_all();
        written
    }

    fn write_to(&self, copies: &mut Vec<Copy>, bytes: &[u8]) -> Result<()> {
        let mut failures = Failures::new(self.policy);
        let mut going = Vec::with_capacity(copies.len());
        for mut copy in copies.drain(..) {
            let written = copy.write(bytes);
            if failures.pass(&copy.place, written)?.is_some() {
                going.push(copy);
            }
        }
        *copies = going;
        failures.unless(!copies.is_empty())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for SeveralUpload {
    fn seal(self: Box<Self>, manifest_stored: &[u8], label: &Label) -> Result<Box<dyn Sealed>> {
        let mut failures = Failures::new(self.shared.policy);
        let mut sealed = Vec::new();
        for Copy { member, place, sink, upload } in self.shared.end().unwrap_or_default() {
            drop(sink);
            let result = upload.seal(manifest_stored, label);
            sealed.extend(failures.pass(&place, result)?.map(|sealed| (member, sealed)));
        }
        failures.unless(!sealed.is_empty())?;
        let (policy, members) = (self.shared.policy, self.members.clone());
        Ok(Box::new(SeveralSealed { policy, members, label: label.clone(), sealed }))
    }
}

impl Drop for SeveralUpload {
    /// The sink may outlive the upload, and must not hold the uploads.
    fn drop(&mut self) {
        drop(self.shared.end());
    }
}

impl Sealed for SeveralSealed {
    fn publish(self: Box<Self>) -> Result<()> {
        let Self { policy, members, label, sealed } = *self;
        let mut failures = Failures::new(policy);
        let mut holding: Vec<usize> = Vec::new();
        for (number, sealed) in sealed {
            let place = members.get(number).map_or("", |member| &*member.place);
            match failures.pass(place, sealed.publish()) {
                Ok(published) => holding.extend(published.map(|()| number)),
                Err(error) => return Err(withdraw(error, &label, &members, &holding)),
            }
        }
        failures.unless(!holding.is_empty())?;
        for (number, Member { place, .. }) in members.iter().enumerate() {
            match holding.contains(&number) {
                true => info!("\"{place}\" holds the backup {}", label.id),
                false => warn!("\"{place}\" does not hold the backup {}", label.id),
            }
        }
        Ok(())
    }
}

/// Takes back what was published before `error`: with [`Policy::All`] there is a backup everywhere or nowhere.
fn withdraw(error: Error, label: &Label, members: &[Member], holding: &[usize]) -> Error {
    let mut left = Vec::new();
    for member in holding.iter().filter_map(|number| members.get(*number)) {
        let removed = member.store.as_ref().map_or(Ok(()), |store| store.remove(label));
        if let Err(cause) = removed {
            warn!("the backup {} cannot be removed from \"{}\": {}", label.id, member.place, one_line(&cause));
            left.push(format!("\"{}\"", member.place));
        }
    }
    if left.is_empty() {
        return error;
    }
    error.hint(format!("{} may be left in {}: remove it there by hand", label.id, left.join(" and ")))
}
