//! One snapshot of the process's environment, taken by `main` and handed down.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The environment as it was when the program started.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The value of a variable; an empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// All variables whose name begins with `prefix`, in order, without it; names that are not text are none of ours.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a OsStr)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.to_str()?.strip_prefix(prefix)?, value.as_os_str())))
    }

    /// Those of the variables `names` that are set, for a child process.
    pub fn subset(&self, names: &[&str]) -> Vec<(OsString, OsString)> {
        names.iter().filter_map(|name| Some((OsString::from(name), self.0.get(OsStr::new(name))?.clone()))).collect()
    }

    /// The first executable file of one of these names in `PATH`.
    ///
    /// Only absolute directories are looked at: the server runs us in its datadir, where nothing is a program.
    pub fn find_program(&self, names: &[&str]) -> Option<PathBuf> {
        let directories = std::env::split_paths(self.get("PATH")?).filter(|directory| directory.is_absolute());
        let mut candidates = directories.flat_map(|directory| names.iter().map(move |name| directory.join(name)));
        candidates.find(|path| {
            std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
    }
}

impl<Name: Into<OsString>, Value: Into<OsString>> FromIterator<(Name, Value)> for Environment {
    fn from_iter<I: IntoIterator<Item = (Name, Value)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_absolute_directories_only_and_must_be_executable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        std::fs::write(&path, "").unwrap();
        let path_variable = format!("relative::/nonexistent:{}", directory.path().display());
        let environment = Environment::from_iter([("PATH", path_variable)]);
        assert_eq!(environment.find_program(&["tool"]), None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(environment.find_program(&["other", "tool"]), Some(path));
        assert_eq!(Environment::default().find_program(&["tool"]), None);
    }
}
