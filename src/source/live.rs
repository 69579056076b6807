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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::path::PathBuf;

    use super::*;
    use crate::datadir::inventory::{Found, Key};
    use crate::datadir::survey::Options;
    use crate::datadir::variables::ServerVariables;
    use crate::source::settle::{Copied, Held, Rules, settle};

    /// Copies that disturb the files once, as a server does that is not quite frozen.
    struct Disturbed<'a> {
        datadir: &'a Datadir,
        copies: Vec<(String, Vec<u8>)>,
        disturb: Option<Box<dyn FnOnce() + 'a>>,
    }

    impl Held for Disturbed<'_> {
        fn copy(&mut self, found: &Found) -> Result<Copied> {
            let Ok(file) = self.datadir.open_file(found) else { return Ok(Copied::Vanished) };
            let mut bytes = Vec::new();
            file.take(found.bytes()).read_to_end(&mut bytes).unwrap();
            self.copies.push((found.path.to_string(), bytes));
            Ok(Copied::Begun)
        }

        fn drop_copy(&mut self, key: &Key) -> Result<()> {
            self.copies.retain(|(path, _)| *path != key.1.to_string());
            Ok(())
        }

        fn barrier(&mut self) -> Result<Vec<Key>> {
            if let Some(disturb) = self.disturb.take() {
                disturb();
            }
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_change_of_a_real_file_that_keeps_its_size_and_time_is_copied_again() {
        let there = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { there.path().join(name) };
        fs::write(path("ibdata1"), "old").unwrap();
        fs::write(path("gone"), "gone").unwrap();
        fs::write(path("ib_logfile0"), "redo").unwrap();
        let variables = ServerVariables { datadir: there.path().to_owned(), ..ServerVariables::default() };
        let datadir = Datadir::open(&variables, &Options::default()).unwrap();
        let cancel = Cancel::default();
        let disturb = || {
            let modified = path("ibdata1").metadata().unwrap().modified().unwrap();
            let file = fs::File::options().write(true).open(path("ibdata1")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"new", 0).unwrap();
            file.set_modified(modified).unwrap();
            fs::remove_file(path("gone")).unwrap();
        };
        let mut held = Disturbed { datadir: &datadir, copies: Vec::new(), disturb: Some(Box::new(disturb)) };
        let rules = Rules::locked();
        let settled = settle(&mut Live::new(&datadir, &cancel), &mut held, &rules, &cancel).unwrap();
        assert_eq!((settled.passes, settled.copied_again_bytes), (3, 3));
        let last = held.copies.iter().rev().find(|(path, _)| path == "ibdata1").unwrap();
        assert_eq!(last.1, b"new");
        let names: Vec<String> = settled.inventory.files.iter().map(|found| found.path.to_string()).collect();
        assert_eq!(names, ["ibdata1", "ib_logfile0"]);
        assert!(!held.copies.iter().any(|(path, _)| path == "gone"));
    }
}
