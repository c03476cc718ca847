//! What the documents show: every definition file in them is one that `apply` takes.

use bm_domain::cel;
use serde_json::json;

use crate::bench::{Bench, game};

/// The blocks of that language in a document, each with its first line's number.
fn blocks(document: &str, language: &str) -> Vec<(usize, String)> {
    let path = bm_testkit::process::workspace().join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let fence = format!("```{language}");
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line == fence => open = Some((number + 2, String::new())),
            None => {}
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    assert!(!blocks.is_empty(), "{document} shows no {language}");
    blocks
}

#[tokio::test]
async fn every_definition_file_that_is_shown_is_applied() {
    let bench = Bench::new().await;
    // The games that `make dev` and `init space-race` make.
    let games = [
        game("demo-game", "demo-studio"),
        game("space-race", "space-race"),
    ];
    bench.write("games.json", &json!({"games": games}));
    assert!(bench.run(&["apply", "games.json"]).await.ok);
    for document in ["README.md", "docs/definitions.md"] {
        for (line, block) in blocks(document, "json") {
            std::fs::write(bench.path("shown.json"), &block).unwrap();
            let ran = bench.run(&["apply", "shown.json"]).await;
            assert!(ran.ok, "{document}, line {line}: {ran:?}");
            assert!(
                ran.out.contains("quest  "),
                "{document}, line {line}: {ran:?}"
            );
        }
    }
}

#[test]
fn every_expression_that_is_shown_compiles() {
    for (line, block) in blocks("docs/definitions.md", "cel") {
        for expression in block.lines().filter(|line| !line.is_empty()) {
            let compiled = cel::with_compiler(|compiler| compiler.compile(expression));
            if let Err(fault) = compiled.unwrap() {
                panic!("docs/definitions.md, line {line}: {expression}: {fault}");
            }
        }
    }
}
