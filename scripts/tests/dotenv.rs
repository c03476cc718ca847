//! The scripts read `.env` as the services do.

#![expect(
    clippy::unwrap_used,
    reason = "a test says by a panic that something is not as it should be"
)]

use std::path::Path;
use std::process::{Command, Output};

use bm_bootstrap::vars::Vars;

/// What `dotenv_file` of the scripts makes of the file.
fn by_script(script: &str, file: &Path, environment: &[(&str, &str)]) -> Output {
    Command::new("bash")
        .args([
            "-c",
            &format!(
                "set -euo pipefail; . '{}/lib.sh'; {script}",
                env!("CARGO_MANIFEST_DIR")
            ),
            "test",
        ])
        .arg(file)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// The value of `BM_TRY`, empty for none; `None` where the file is refused.
fn value(output: &Output) -> Option<String> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    output
        .status
        .success()
        .then(|| text.strip_suffix('\n').unwrap_or(text).to_owned())
}

#[test]
fn a_file_says_the_same_to_scripts_and_to_services() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("env");
    for text in [
        "",
        "BM_TRY=plain",
        "BM_TRY=first\nBM_TRY=second\n",
        "BM_TRY=\nBM_TRY=second\n",
        "  export BM_TRY = spaced out\n",
        "  export\tBM_TRY = spaced \t\n",
        "BM_TRY=value # a comment\n",
        "BM_TRY=value#no-comment\n",
        "BM_TRY=# nothing\n",
        "BM_TRY= # nothing\n",
        "#BM_TRY=commented\n # BM_TRY=too\nBM_TRYING=another\n",
        "BM_TRY='a b#c$d\"e' # f\n",
        "BM_TRY=\"a b#c'd\" # f\n",
        "BM_TRY=\"a\\nb\\\"c\\$d\\\\e\"\n",
        "BM_TRY=a\\ b\\#c\n",
        "BM_TRY=a\\ b\\\\c\\'\n",
        "BM_TRY=one'two three'\"four five\"six\n",
        "BM_TRY='of\ntwo lines' # and a comment\nBM_TRY=second\n",
        "BM_OTHER=\"of\n BM_TRY=no\n\"\nBM_TRY=yes\n",
        "BM_TRY='never ends\n",
        "BM_TRY=two words\n",
        "BM_TRY='a' b\n",
        "BM_TRY=good\nnonsense\n",
        "BM_TRY=good\nBM_BAD=two words\n",
        "BM_TRY\n",
        "1BM_TRY=x\n",
        "BM_TRY=crlf\r\nBM_NEXT=x\r\n",
        "BM_TRY=postgres://u:p%20w@h:5432/d?sslmode=require\n",
        "BM_TRY=\"bad \\escape\"\n",
        "export=x\nBM_TRY=y\n",
        "BM_TRY=x\\\n",
        "BM_TRY=last line without end",
    ] {
        std::fs::write(&file, text).unwrap();
        let script = by_script("dotenv_file \"$1\" BM_TRY", &file, &[]);
        let service = Vars::load_with_file(&file)
            .ok()
            .map(|vars| vars.get("BM_TRY").unwrap_or_default());
        assert_eq!(value(&script), service, "{text:?}: {script:?}");
    }
}

#[test]
fn what_the_services_would_replace_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("env");
    for text in ["BM_A=1\nBM_TRY=a$BM_A\n", "BM_A=1\nBM_TRY=\"${BM_A}\"\n"] {
        std::fs::write(&file, text).unwrap();
        let script = by_script("dotenv_file \"$1\" BM_TRY", &file, &[]);
        assert_eq!(value(&script), None, "{script:?}");
        let said = String::from_utf8(script.stderr).unwrap();
        assert!(said.contains("env, line 2: not NAME=value"), "{said}");
    }
}

#[test]
fn the_environment_wins_and_an_empty_value_there_unsets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".env");
    std::fs::write(&file, "BM_TRY=file\n").unwrap();
    let ask = |environment: &[(&str, &str)]| {
        let script = "REPO=\"$(dirname -- \"$1\")\"; dotenv BM_TRY";
        value(&by_script(script, &file, environment)).unwrap()
    };
    assert_eq!(ask(&[]), "file");
    assert_eq!(ask(&[("BM_TRY", "shell")]), "shell");
    // As with `Vars`: the environment has said that there is none.
    assert_eq!(ask(&[("BM_TRY", "")]), "");
}
