//! Whether a binary was built from the sources that are there now.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// A source that `binary` was built from and that has changed since; `None` too where cargo's list
/// of its sources is not there. Looks once per test process.
pub(crate) fn changed_since_built(binary: &Path) -> Option<PathBuf> {
    static LOOKED: Mutex<Option<HashMap<PathBuf, Option<PathBuf>>>> = Mutex::new(None);
    let mut looked = LOOKED.lock().unwrap_or_else(PoisonError::into_inner);
    looked
        .get_or_insert_default()
        .entry(binary.to_owned())
        .or_insert_with(|| look(binary))
        .clone()
}

/// Cargo notes beside a binary all sources of the workspace that went into it, and no others: a
/// change elsewhere does not make it older than it should be.
fn look(binary: &Path) -> Option<PathBuf> {
    let built = modified(binary)?;
    let list = fs::read_to_string(binary.with_extension("d")).ok()?;
    let (_, sources) = list.split_once(": ")?;
    let changed = sources_in(sources).filter_map(|source| {
        // One that is gone was named by another, which has changed.
        let at = modified(&source).filter(|at| *at > built)?;
        Some((at, source))
    });
    Some(changed.max()?.1)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// The paths of a make rule, where spaces in names are escaped.
fn sources_in(rule: &str) -> impl Iterator<Item = PathBuf> {
    let marked = rule.replace("\\ ", "\0");
    let paths: Vec<PathBuf> = marked
        .split_whitespace()
        .map(|path| PathBuf::from(path.replace('\0', " ")))
        .collect();
    paths.into_iter()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_a_later_change_of_a_source_that_went_into_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let put = |name: &str, seconds: u64| {
            let file = File::create(path(name)).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(at).unwrap();
        };
        put("gateway", 100);
        put("its own.rs", 50);
        put("another.rs", 150);
        let escaped = |name: &str| path(name).display().to_string().replace(' ', "\\ ");
        let rule = format!(
            "{}: {} {}\n",
            escaped("gateway"),
            escaped("its own.rs"),
            escaped("gone.rs")
        );
        assert_eq!(look(&path("gateway")), None, "nothing is known");
        fs::write(path("gateway.d"), rule).unwrap();
        assert_eq!(look(&path("gateway")), None);
        put("its own.rs", 101);
        assert_eq!(look(&path("gateway")), Some(path("its own.rs")));
    }
}
