//! Which entries of a manifest the operator means, by the names that SQL or the file system gives them.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use crate::archive::manifest::{Entry, EntryKind, Manifest, RootKind};
use crate::error::{Class, Error, Result};
use crate::relpath::escape;

/// How many near names an error tells.
const NEAREST: usize = 3;

/// The files that `what` means, as indices into [`Manifest::files`]: a path, `ROOT:path`, a database, or `database.table`.
pub(super) fn choose(manifest: &Manifest, what: &str) -> Result<Vec<usize>> {
    let ways = [by_path, by_root_and_path, by_database, by_table];
    for way in ways {
        let mut chosen = way(manifest, what);
        chosen.retain(|index| manifest.files.get(*index).is_some_and(|entry| entry.kind == EntryKind::File));
        if !chosen.is_empty() {
            return Ok(chosen);
        }
    }
    let error = Error::new(Class::NotFound, format!("the backup has no {what:?}"));
    let near = nearest(manifest, what);
    Err(if near.is_empty() { error } else { error.hint(format!("near names: {}", near.join(", "))) })
}

fn select(manifest: &Manifest, wanted: impl Fn(&Entry) -> bool) -> Vec<usize> {
    let entries = manifest.files.iter().enumerate();
    entries.filter(|(_, entry)| wanted(entry)).map(|(index, _)| index).collect()
}

fn by_path(manifest: &Manifest, what: &str) -> Vec<usize> {
    // A directory without a slash is a database, whose files may lie in several roots.
    select(manifest, |entry| entry.root == 0 && (is_path(entry, what) || (what.contains('/') && is_below(entry, what))))
}

fn by_root_and_path(manifest: &Manifest, what: &str) -> Vec<usize> {
    let Some((name, path)) = what.split_once(':') else { return Vec::new() };
    let root = manifest.roots.iter().position(|root| root.name.as_str() == name);
    let of_root = |entry: &Entry| root == Some(entry.root as usize);
    select(manifest, |entry| of_root(entry) && (path.is_empty() || is_path(entry, path) || is_below(entry, path)))
}

fn by_database(manifest: &Manifest, what: &str) -> Vec<usize> {
    let names = spellings(what);
    select(manifest, |entry| database(manifest, entry).is_some_and(|name| names.iter().any(|other| name == other)))
}

fn by_table(manifest: &Manifest, what: &str) -> Vec<usize> {
    // Both names may hold points: the first place that gives files wins.
    let splits = what.match_indices('.').map(|(at, _)| (&what[..at], &what[at + 1..]));
    for (database_name, table) in splits {
        let (databases, tables) = (spellings(database_name), spellings(table));
        let chosen = select(manifest, |entry| {
            let in_database = database(manifest, entry).is_some_and(|name| databases.iter().any(|other| name == other));
            in_database && tables.iter().any(|table| is_of_table(entry, table))
        });
        if !chosen.is_empty() {
            return chosen;
        }
    }
    Vec::new()
}

fn is_path(entry: &Entry, path: &str) -> bool {
    entry.path.as_bytes() == path.as_bytes() || entry.path.to_string() == path
}

fn is_below(entry: &Entry, directory: &str) -> bool {
    let directory = directory.trim_end_matches('/').as_bytes();
    entry.path.as_bytes().strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

/// The name of the database that a file belongs to, as the file system spells it.
fn database<'a>(manifest: &'a Manifest, entry: &'a Entry) -> Option<&'a [u8]> {
    let root = manifest.roots.get(entry.root as usize)?;
    if let Some(link) = &root.link {
        return Some(link.as_bytes());
    }
    let parent = entry.path.as_path().parent().filter(|parent| !parent.as_os_str().is_empty());
    match (root.kind, parent) {
        (RootKind::Datadir, Some(_)) => entry.path.as_path().iter().next().map(OsStrExt::as_bytes),
        // DATA DIRECTORY makes a directory of the database's name in the directory that the operator named.
        (RootKind::Tablespace, Some(parent)) => parent.file_name().map(OsStrExt::as_bytes),
        (RootKind::Tablespace, None) => root.path.file_name().map(OsStrExt::as_bytes),
        _ => None,
    }
}

/// `orders.ibd`, `orders.frm`, and the partitions `orders#P#p0.ibd`.
fn is_of_table(entry: &Entry, table: &[u8]) -> bool {
    let rest = entry.path.file_name().as_bytes().strip_prefix(table);
    rest.is_some_and(|rest| [b".".as_slice(), b"#P#", b"#p#"].iter().any(|next| rest.starts_with(next)))
}

/// A name as it was written, and as the server spells it in the file system.
fn spellings(name: &str) -> [Vec<u8>; 2] {
    [name.as_bytes().to_vec(), file_name(name).into_bytes()]
}

/// The server's spelling of an identifier in a file name: every ASCII character but letters, digits and `_` is `@` and four
/// hexadecimal digits. Other characters have a table of their own in the server; they are left as they are.
fn file_name(identifier: &str) -> String {
    let mut name = String::with_capacity(identifier.len());
    for c in identifier.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_' {
            name.push_str(&format!("@{:04x}", u32::from(c)));
        } else {
            name.push(c);
        }
    }
    name
}

/// The names in the backup that look most like `what`.
fn nearest(manifest: &Manifest, what: &str) -> Vec<String> {
    let mut names = BTreeSet::new();
    for entry in manifest.files.iter().filter(|entry| entry.kind == EntryKind::File) {
        let file = escape(entry.path.file_name().as_bytes());
        match database(manifest, entry) {
            Some(database) => {
                let table = file.split(['.', '#']).next().unwrap_or(&file);
                names.insert(format!("{}.{table}", escape(database)));
                names.insert(escape(database));
            }
            None => {
                names.insert(entry.path.to_string());
            }
        }
    }
    let mut ranked: Vec<(f64, String)> = names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&name, what), name))
        .filter(|(like, _)| *like > 0.6)
        .collect();
    ranked.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    ranked.into_iter().take(NEAREST).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_spelled_as_the_server_spells_it() {
        assert_eq!(file_name("my-table"), "my@002dtable");
        assert_eq!(file_name("a b$c_d9"), "a@0020b@0024c_d9");
        assert_eq!(file_name("plain"), "plain");
    }
}
