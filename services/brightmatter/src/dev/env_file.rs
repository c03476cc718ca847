//! The file that tells a developer's shell where everything is: `. .dev/env`.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::CliError;

/// Sets `entries` in the file, keeping what else is in it. The file holds keys, so it is its
/// owner's alone; readers see the old or the new, never half.
pub(super) fn write(path: &Path, entries: &[(String, String)]) -> Result<(), CliError> {
    replace(path, entries).map_err(|source| CliError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn replace(path: &Path, entries: &[(String, String)]) -> io::Result<()> {
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
        fs::create_dir_all(folder)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(merged(&before, entries).as_bytes())?;
    fs::rename(&beside, path)
}

fn merged(before: &str, entries: &[(String, String)]) -> String {
    let ours = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("export ").unwrap_or(line);
        line.split_once('=')
            .is_some_and(|(name, _)| entries.iter().any(|(ours, _)| ours == name.trim()))
    };
    let mut text = String::new();
    for line in before.lines().filter(|line| !ours(line)) {
        text.push_str(line);
        text.push('\n');
    }
    for (name, value) in entries {
        let quoted = value.replace('\'', r"'\''");
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "export {name}='{quoted}'");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn other_lines_stay_and_ours_are_renewed() {
        let before = "# mine\nexport REDIS_URL=redis://x\nexport BM_A='old'\nBM_B=old\n";
        let text = merged(before, &[entry("BM_A", "it's new"), entry("BM_B", "2")]);
        assert_eq!(
            text,
            "# mine\nexport REDIS_URL=redis://x\nexport BM_A='it'\\''s new'\nexport BM_B='2'\n"
        );
        assert_eq!(merged(&text, &[]), text);
    }

    #[test]
    fn the_file_is_its_owners_alone_and_nothing_is_left_beside_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".dev/env");
        write(&path, &[entry("A", "1")]).unwrap();
        write(&path, &[entry("A", "2")]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "export A='2'\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
