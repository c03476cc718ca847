//! What an event costs on the hot paths, in allocations and instructions: the program `counts` does
//! the work, alone for allocations and under callgrind for instructions.
//!
//! Callgrind's processor has no instructions for SHA-256, so hashes look dearer than they are.

use std::path::Path;
use std::process::{Command, Stdio};

use bm_testkit::process::binary;
use serde_json::Value;

use crate::figures::{Figures, Goal};

/// The program's name for it, ours, and how many rounds callgrind watches.
const WORKS: [(&str, &str, u32); 5] = [
    ("gateway-single", "gateway single", 100),
    ("gateway-named", "gateway single with eventId", 100),
    ("gateway-batch", "gateway batch of 100", 10),
    ("router-fold", "router fold", 3),
    ("quest-fold", "quest fold", 3),
];

/// Allocations of each, and instructions where valgrind is there.
pub(crate) fn run(figures: &mut Figures) {
    let program = binary("counts");
    for (work, name, _) in WORKS {
        let counted = answer(Command::new(&program).arg(work));
        for (field, what) in [
            ("allocations", "allocations per event"),
            ("bytes", "bytes allocated per event"),
        ] {
            let value = counted[field].as_f64().expect("a count is a number");
            figures.add(format!("{name}: {what}"), value, "", Goal::None);
        }
    }
    if Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        figures.leave_out("instructions per event", "valgrind is not installed");
        return;
    }
    for (work, name, rounds) in WORKS {
        let value = instructions(&program, work, rounds);
        let name = format!("{name}: instructions per event");
        figures.add(name, value, "", Goal::None);
    }
}

fn instructions(program: &Path, work: &str, rounds: u32) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let out = folder.path().join("callgrind.out");
    let mut command = Command::new("valgrind");
    command
        .args([
            "-q",
            "--tool=callgrind",
            "--toggle-collect=*counts*measured*",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args([work, "--rounds", &rounds.to_string()]);
    let events = answer(&mut command)["events"].as_f64();
    let profile = std::fs::read_to_string(&out).expect("callgrind has written what it saw");
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok())
        .filter(|total| *total > 0.0)
        .expect("callgrind has seen the work");
    total / events.expect("events are counted")
}

/// What the program prints.
fn answer(command: &mut Command) -> Value {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}
