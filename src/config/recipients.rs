//! The file of recipients: who can read new backups.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::archive::seal::{Recipient, Recipients};
use crate::error::{Class, Error, Result};

/// The longest file of recipients: there are at most 64, and room for a word about each.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The recipients in the file at `path`: a regular file that not everybody may write.
pub(super) fn read(path: &Path) -> Result<Vec<Recipient>> {
    let bad = |what: &str| Error::new(Class::Config, format!("the recipients-file {path:?} {what}"));
    let cannot = |cause: std::io::Error| bad("cannot be read").because(cause);
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let found = std::fs::metadata(path).map_err(cannot)?;
    if !found.is_file() {
        return Err(bad("is not a regular file"));
    }
    if found.permissions().mode() & 0o002 != 0 {
        return Err(bad("can be written by everybody, who could then read every backup").hint("chmod o-w it"));
    }
    let mut text = String::new();
    File::open(path).map_err(cannot)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(bad("is too long"));
    }
    Recipients::parse_file(&text).map_err(|cause| {
        let advice = cause.advice().map(str::to_owned);
        advice.into_iter().fold(bad("cannot be used").because(cause), Error::hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::one_line;

    const KEY: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

    #[test]
    fn a_file_that_cannot_be_used_is_never_passed_over() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("team");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            super::read(&path)
        };
        assert_eq!(read(&format!("# us\n{KEY}\n")).unwrap().len(), 1);
        for (text, told) in [("", "no recipient"), ("age1x\n", "line 1"), (&"#".repeat(70_000), "too long")] {
            let error = read(text).unwrap_err();
            assert_eq!(error.class(), Class::Config);
            assert!(one_line(&error).contains(told), "{}", one_line(&error));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(one_line(&super::read(&path).unwrap_err()).contains("cannot be read"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(one_line(&super::read(&path).unwrap_err()).contains("is not a regular file"));
    }

    #[test]
    fn nobody_else_may_add_a_recipient() {
        let base = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(base.path(), KEY).unwrap();
        std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o646)).unwrap();
        let error = read(base.path()).unwrap_err();
        assert!(error.to_string().contains("written by everybody"), "{error}");
    }
}
