//! Keys in order, from directories that have none.

use std::io;
use std::path::Path;

/// The first `limit` keys under `prefix` after `after`. Memory use is bounded by the largest directories on one path.
pub(super) fn list(root: &Path, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Vec<String>> {
    let mut keys = Vec::new();
    walk(root, prefix, after, limit, &mut keys)?;
    Ok(keys)
}

fn walk(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    keys: &mut Vec<String>,
) -> io::Result<()> {
    for key in entries(&root.join(prefix), prefix)? {
        if keys.len() >= limit {
            return Ok(());
        }
        // A directory's keys all begin with `key`, so that they are all skipped unless `after` does so too or is less.
        let skipped =
            after.is_some_and(|after| after >= key.as_str() && !(is_dir(&key) && after.starts_with(&key)));
        if skipped {
            continue;
        }
        if is_dir(&key) {
            walk(root, &key, after, limit, keys)?;
        } else {
            keys.push(key);
        }
    }
    Ok(())
}

fn is_dir(key: &str) -> bool {
    key.ends_with('/')
}

/// What a directory holds, in the order of keys, directories with their closing slash. A directory that is not there
/// holds nothing.
fn entries(path: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let directory = match std::fs::read_dir(path) {
        Ok(directory) => directory,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for entry in directory {
        let entry = entry?;
        // Neither temporary files nor what somebody else put there is an object.
        let Some(name) = entry
            .file_name()
            .to_str()
            .filter(|name| !name.starts_with('.'))
            .map(str::to_owned)
        else {
            continue;
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            entries.push(format!("{prefix}{name}/"));
        } else if kind.is_file() {
            entries.push(format!("{prefix}{name}"));
        }
    }
    entries.sort_unstable();
    Ok(entries)
}
