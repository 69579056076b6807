//! A running server's files, as settling wants to see them.

use std::time::Duration;

use super::fingerprint::Stamp;
use super::settle::Files;
use crate::cancel::Cancel;
use crate::datadir::inventory::Inventory;
use crate::datadir::survey::Datadir;
use crate::error::Result;

/// The donor's directories on this machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    datadir: &'a Datadir,
    cancel: &'a Cancel,
}

impl<'a> Live<'a> {
    /// The files of `datadir`; `cancel` ends surveys and waits.
    pub fn new(datadir: &'a Datadir, cancel: &'a Cancel) -> Self {
        Self { datadir, cancel }
    }
}

impl Files for Live<'_> {
    fn survey(&mut self) -> Result<Inventory> {
        self.datadir.survey(self.cancel)
    }

    fn now(&self) -> Stamp {
        Stamp::now()
    }

    fn wait(&mut self, time: Duration) -> Result<()> {
        self.cancel.sleep(time)
    }
}
