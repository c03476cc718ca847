//! Expressions that would take long, and texts meant to confuse: bounded, refused, and never the end of
//! the process.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{cel, compile, evaluate, on_small_stack};
use super::*;

/// As much metadata as an event of 64 KiB holds, of each kind.
fn largest() -> Value {
    let mut state = 1u64;
    let bits: String = (0..60_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005);
            state = state.wrapping_add(1_442_695_040_888_963_407);
            if (state >> 40) & 1 == 0 { '0' } else { '1' }
        })
        .collect();
    let list: Vec<_> = (0..30_000).map(|n| n % 7).collect();
    let maps: Vec<_> = (0..7_000).map(|n| json!({"a": n % 7})).collect();
    json!({"list": list, "maps": maps, "text": bits, "few": [1, 2]})
}

/// A part of [`largest`], with one kind alone so that its work is not hidden by the others'.
fn part_of_largest(largest: &Value, only: Option<&str>, halvings: usize) -> Value {
    let mut part = json!({"list": [1], "maps": [{"a": 1}], "text": "0", "few": [1, 2]});
    for (name, value) in largest.as_object().unwrap() {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        part[name] = match value {
            Value::Array(list) => list[..(list.len() >> halvings).max(1)].to_vec().into(),
            Value::String(text) => text[..(text.len() >> halvings).max(1)].into(),
            other => other.clone(),
        };
    }
    part
}

/// Expressions that do as much as may be written of each kind of work.
fn heavy() -> Vec<String> {
    let times = |part: &str, between: &str| {
        let count = (MAX_BYTES - 150) / (part.len() + between.len());
        vec![part; count.min(250)].join(between)
    };
    let sum = |place: &str| vec![place; 17].join(" + ");
    let m = "event.metadata";
    let mut all = vec![
        format!("size([{}]) > 0", times("event", ",")),
        format!("size([{}]) > 0", times("event.metadata.list", ",")),
        format!("[{}] == []", times("event.metadata.maps", ",")),
        format!("{{{}}} == {{}}", times("1: event", ",")),
        times("event == event", " && "),
        times("event.metadata.maps == event.metadata.maps", " && "),
        times("event < 1", " || "),
        times("9 in event.metadata.list", " || "),
        times("event.metadata.text.contains('0123')", " || "),
        times("size(event.metadata.text) < 0", " || "),
        format!("size(event + 1) > 1 || {}", times("event == 1", " || ")),
        format!("size({}) > 1", sum("event.metadata.list")),
        format!("size({}) > 1", sum("event.metadata.text")),
        format!("{m}.list.all(x, x in {m}.list)"),
        format!("{m}.list.all(x, ({m}.list + {m}.list).size() > x)"),
        format!("{m}.maps.all(x, {m}.maps == {m}.maps)"),
        format!("{m}.list.all(x, {})", times("x < 9", " && ")),
        format!("{m}.maps.all(x, {})", times("x == x", " && ")),
        format!(
            "size({m}.maps.filter(x, {})) == 1",
            times("x.a < 9", " && ")
        ),
        vec![format!("{m}.list.all(x, x < 9)"); 4].join(" && "),
        vec![format!("{m}.maps.all(x, x.a < 9)"); 4].join(" && "),
        format!("{m}.list.exists(x, {m}.text.matches('[01]*1[01]{{50}}2'))"),
        format!(
            "[{}].exists(x, x.matches('[01]*1[01]{{50}}2'))",
            times("event.metadata.text", ",")
        ),
        format!(
            "({}).matches('[01]*1[01]{{50}}2')",
            sum("event.metadata.text")
        ),
    ];
    for pattern in [
        "[01]*1[01]{700}2",
        "[01]*1[01]{50}2",
        "[01]*1[01]{10}2",
        r"\\w+2",
        "(0|1|01)*2",
        "2",
    ] {
        all.push(vec![format!("{m}.text.matches('{pattern}')"); 4].join(" || "));
    }
    all
}

#[test]
fn no_expression_takes_long_whatever_the_event() {
    let largest = largest();
    let mut worst = Vec::new();
    for text in heavy() {
        let rule = compile(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        for only in [None, Some("list"), Some("maps"), Some("text")] {
            if only.is_some_and(|only| !text.contains(only)) {
                continue;
            }
            // The largest event that it is evaluated on.
            for halvings in 0..16 {
                let event = cel(&part_of_largest(&largest, only, halvings));
                let mut took = std::time::Duration::MAX;
                let mut result = Ok(false);
                // The machine may be busy: the best of three is the work itself.
                for _ in 0..if cfg!(debug_assertions) { 1 } else { 3 } {
                    let started = std::time::Instant::now();
                    result = on_small_stack(|| rule.evaluate(&event));
                    took = took.min(started.elapsed());
                }
                let refused = matches!(&result, Err(why) if why.contains("too long"));
                worst.push((took, refused, only, halvings, text.clone()));
                if !refused {
                    break;
                }
                assert!(halvings < 15, "{text}");
            }
        }
    }
    worst.sort();
    for (took, refused, only, halvings, text) in worst.iter().rev().take(12) {
        println!("{took:?} refused {refused}, 1/2^{halvings} of {only:?}: {text:.70}");
    }
    // What a debug build on a busy machine may take; the figure at MAX_WORK is a release build's.
    let longest = worst.last().unwrap();
    assert!(longest.0.as_secs() < 5, "{longest:?}");
}

#[test]
fn what_is_too_much_for_its_event_is_not_begun() {
    let largest = largest();
    for text in [
        "event.metadata.list.all(x, x in event.metadata.list)",
        "event.metadata.list.all(x, (event.metadata.list + event.metadata.list).size() > x)",
        &format!("size([{}]) > 0", ["event"; 256].join(",")),
        &["event.metadata.text.matches('[01]*1[01]{700}$')"; 4].join(" || "),
    ] {
        let reason = evaluate(text, &largest).unwrap_err();
        assert!(reason.contains("too long"), "{reason}");
    }
    // A gateway takes no more than this.
    let largest = part_of_largest(&largest, None, 2);
    for text in [
        "event.metadata.list.all(x, x >= 0)",
        "event.metadata.few.all(x, x in event.metadata.list)",
        "event.metadata.text.matches('^[01]+$')",
        "event.metadata.maps.all(m, m.a < 7)",
        &["event.metadata.few[0] == 1"; 60].join(" && "),
    ] {
        assert_eq!(evaluate(text, &largest), Ok(true), "{text}");
    }
}

/// Texts of what confuses lexers, and then a run that exhausts a parser if it gets there.
fn confusing() -> impl Strategy<Value = String> {
    const STARTS: [&str; 4] = ["", "event.metadata.", "event.metadata.a == ", "a + "];
    const PIECES: [&str; 40] = [
        "(", ")", "[", "]", "{", "}", "'", "\"", "'''", "\"\"\"", "\\", "`", "/", "//", "\n", "\r",
        "?", ":", "!", "-", ".", ",", "=", "==", "&", "&&", "|", " ", "+", "r'", "br\"", "b'", "a",
        "1", "0x", "u", "e5", "\\q", "\\'", "é",
    ];
    const TRICKS: [&str; 14] = [
        "`//`",
        "`a'`",
        "'\\q'",
        "'\\x4'",
        "\"\\u12\"",
        "='",
        "&'",
        "|\"",
        "1ur'\\'",
        "0xbr'\\'",
        "1e5r\"\\\"",
        "''''",
        "r'''",
        "'''\\'''",
    ];
    const RUNS: [&str; 6] = ["[", "(1+", "{1:", "a?1:", "!(", "a("];
    let piece = prop::sample::select(&PIECES[..]);
    let part = prop_oneof![
        2 => piece.prop_map(ToOwned::to_owned),
        1 => prop::sample::select(&TRICKS[..]).prop_map(ToOwned::to_owned),
        1 => prop::sample::select(&[" == ", " '", "+"][..]).prop_map(ToOwned::to_owned),
    ];
    let start = prop::sample::select(&STARTS[..]);
    let run = (prop::sample::select(&RUNS[..]), 17..1_900usize);
    (
        start,
        prop::collection::vec(part, 0..4),
        run,
        "['\"`)\\]]{0,2}",
    )
        .prop_map(|(start, parts, (run, times), end)| {
            let mut text = start.to_owned() + &parts.concat();
            let room = (MAX_BYTES - text.len() - end.len()) / run.len();
            text.push_str(&run.repeat(times.min(room)));
            text + &end
        })
}

/// Texts that are tokens at least, and nested as deep as they may be.
fn nested() -> impl Strategy<Value = String> {
    const PIECES: [&str; 40] = [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "(",
        "[",
        "{1:",
        "? 1 :",
        "?",
        ":",
        "!",
        "-",
        "- ",
        ".",
        ",",
        "==",
        "&&",
        "||",
        "+",
        "*",
        "<",
        " in ",
        "'a'",
        "r'\\'",
        "'''b'''",
        "event",
        ".a",
        "[0]",
        "1",
        "1.5",
        "true",
        "has(",
        "size(",
        ".size()",
        "[1].all(x,",
        ".matches('a*')",
        "a{",
        "x",
    ];
    let times = prop_oneof![3 => Just(1), 1 => 2..16usize];
    let piece = (prop::sample::select(&PIECES[..]), times);
    prop::collection::vec(piece, 0..200).prop_map(|pieces| {
        let mut text = String::new();
        for (piece, times) in pieces {
            for _ in 0..times {
                if text.len() + piece.len() <= MAX_BYTES {
                    text.push_str(piece);
                }
            }
        }
        text
    })
}

fn compiled_or_refused(text: &str) {
    if let Ok(rule) = compile(text) {
        let _ = on_small_stack(|| rule.evaluate(&cel(&json!({"a": 1}))));
    }
}

fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    // An abort ends the test run. For longer: PROPTEST_CASES=100000.
    #[test]
    fn any_text_is_compiled_or_refused(text in confusing()) {
        compiled_or_refused(&text);
    }

    #[test]
    fn any_tokens_are_compiled_or_refused(text in nested()) {
        compiled_or_refused(&text);
    }

    #[test]
    fn a_number_is_the_same_to_cel_in_all_its_forms(n in -1_000i64..1_000) {
        for form in [format!("{n}"), format!("{n}.0"), format!("{n}e0"), format!("{}e-1", n * 10)] {
            let metadata: Value = serde_json::from_str(&format!("{{\"n\": {form}}}")).unwrap();
            prop_assert_eq!(evaluate(&format!("event.metadata.n == {n}"), &metadata), Ok(true));
        }
    }
}
