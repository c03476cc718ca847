//! `.env.example`: nothing is read that it does not explain.

/// Names that are written for shells, and not read.
const WRITTEN: [&str; 5] = [
    "BM_OPS_URL",
    "BM_DEMO_STUDIO",
    "BM_DEMO_GAME",
    "BM_DEMO_CLIENT_KEY",
    "BM_DEMO_SECRET_KEY",
];

#[test]
fn every_variable_that_is_read_is_explained() {
    let top = bm_testkit::process::workspace();
    let explained = std::fs::read_to_string(top.join(".env.example")).unwrap();
    let mut folders = Vec::new();
    for members in ["crates", "services"] {
        for member in std::fs::read_dir(top.join(members)).unwrap() {
            folders.push(member.unwrap().path().join("src"));
        }
    }
    let mut missing = std::collections::BTreeSet::new();
    while let Some(folder) = folders.pop() {
        // The variables of tests are not for users.
        if folder.ends_with("crates/testkit/src") {
            continue;
        }
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().ends_with("tests.rs"))
            {
                continue;
            }
            let code = std::fs::read_to_string(&path).unwrap();
            let code = code.split("#[cfg(test)]").next().unwrap();
            missing.extend(
                code.split('"')
                    .filter(|text| is_variable(text) && !WRITTEN.contains(text))
                    .filter(|name| !explained.contains(&format!("\n#{name}=")))
                    .map(str::to_owned),
            );
        }
    }
    assert!(missing.is_empty(), "not in .env.example: {missing:?}");
}

fn is_variable(text: &str) -> bool {
    let ours = [
        "BM_",
        "REDPANDA_",
        "RDS_",
        "REDIS_",
        "FIRESTORE_",
        "CONSUMER_",
    ];
    ours.iter()
        .any(|prefix| text.len() > prefix.len() && text.starts_with(prefix))
        && text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}
