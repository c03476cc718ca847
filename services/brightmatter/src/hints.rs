//! What to type next: this tool's own path, and the file that holds the addresses of `make dev`.

use std::path::{Path, PathBuf};

use bm_bootstrap::Vars;

/// How this tool was called, for commands that are printed: it need not be on PATH.
pub(crate) fn me() -> String {
    match std::env::current_exe() {
        Ok(path) => near(&path),
        Err(_) => "brightmatter".to_owned(),
    }
}

/// The path as one would type it here.
pub(crate) fn near(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// What to do when an address is not set.
pub(crate) fn addresses(vars: &Vars) -> String {
    let folder = vars.get("BM_DEV_DIR").unwrap_or_else(|| ".dev".to_owned());
    let file = PathBuf::from(folder).join("env");
    let shown = near(&file);
    if file.is_file() {
        format!("`make dev` has written its addresses to {shown}: type `. {shown}` first")
    } else {
        format!(
            "`make dev` starts servers and writes their addresses to {shown}, for `. {shown}`; for \
             servers of your own set it in the environment or in .env (.env.example explains it)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_forgot_the_file_of_make_dev_is_told_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let vars = Vars::from_map([("BM_DEV_DIR", path.as_str())]);
        assert!(addresses(&vars).starts_with("`make dev` starts servers"));
        std::fs::write(folder.path().join("env"), "").unwrap();
        let hint = addresses(&vars);
        assert!(
            hint.ends_with(&format!("type `. {path}/env` first")),
            "{hint}"
        );
    }
}
