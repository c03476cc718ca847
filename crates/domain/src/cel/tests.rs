//! What expressions mean, and what is refused before it does harm.

use bm_contracts::GameEvent;
use serde_json::{Value, json};

use super::*;

fn event(metadata: &Value) -> GameEvent {
    let text = json!({
        "eventType": "custom", "eventName": "boss", "userId": "u", "gameId": "g",
        "timestamp": "2026-01-02T03:04:05.678Z", "eventId": "e", "studioId": "s",
        "studioTier": "pro", "metadata": metadata, "session": {"n": 7},
    });
    GameEvent::from_json(text.to_string().as_bytes()).unwrap()
}

pub(super) fn cel(metadata: &Value) -> CelEvent {
    CelEvent::new(&event(metadata), Some(metadata))
}

pub(super) fn compile(text: &str) -> Result<CelRule, CelFault> {
    with_compiler(|compiler| compiler.compile(text)).unwrap()
}

pub(super) fn evaluate(text: &str, metadata: &Value) -> Result<bool, String> {
    compile(text)
        .unwrap_or_else(|e| panic!("{text}: {e}"))
        .evaluate(&cel(metadata))
}

/// Runs on a stack of 2 MiB, as tokio's workers have.
pub(super) fn on_small_stack<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn_scoped(scope, run)
            .unwrap()
            .join()
            .unwrap()
    })
}

fn refused(text: &str, why: &str) {
    let fault = on_small_stack(|| compile(text)).unwrap_err();
    assert!(
        !why.is_empty() && fault.message.contains(why),
        "{text}: {fault}"
    );
}

#[test]
fn a_compiled_rule_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<CelRule>();
    shared::<CelEvent>();
}

#[test]
fn expressions_see_the_event() {
    let metadata = serde_json::from_str(
        r#"{"n": 3, "f": 2.5, "whole": 2.0, "e": 1e2, "zero": -0.0, "s": "sword", "list": [1, 2, 3],
            "items": [{"rare": true}, {"rare": false}], "deep": {"a": {"b": null}}}"#,
    )
    .unwrap();
    for text in [
        "event.eventType == 'custom' && event.eventName == 'boss'",
        "event.userId == 'u' && event.gameId == 'g' && event.eventId == 'e'",
        "event.timestamp == '2026-01-02T03:04:05.678Z' && event.timestamp > '2026'",
        "event.session.n == 7",
        "event.metadata.n + 1 == 4",
        "event.metadata.e + 1 == 101",
        "event.metadata.f * 2.0 == 5.0",
        "event.metadata.n == 3.0 && event.metadata.whole == 2",
        "event.metadata.n > 2.5",
        "1.0 / event.metadata.zero > 0.0",
        "event['metadata']['s'].startsWith('sw')",
        "event.metadata.s in ['sword', 'axe']",
        "has(event.metadata.n) && !has(event.metadata.none)",
        "event.metadata.deep.a.b == null",
        "event.metadata.list.all(x, x > 0) && event.metadata.list.exists(x, x == event.metadata.n)",
        "event.metadata.items.exists(i, i.rare)",
        "size(event.metadata.items.filter(i, i.rare)) == 1",
        "event.metadata.list.filter(x, x > 1).size() == 2",
        "4 in event.metadata.list.map(x, x + 1)",
        "event.metadata.list.exists_one(x, x == 2)",
        "event.metadata.deep.all(k, k == 'a')",
        "event.metadata.s.matches('^sw.rd$') && matches(event.metadata.s, 'w')",
        "['ab', 'b'].exists(x, x.matches('^a'))",
        "size(event.metadata.s) == 5 && event.metadata.s.size() == 5",
        "int('3') == event.metadata.n && string(event.metadata.n) == '3'",
        "type(event.metadata.n) == int && type(event.metadata.f) == double",
        "event.metadata.n > 2 ? true : false",
        "{'a': 1}.a == 1",
    ] {
        assert_eq!(evaluate(text, &metadata), Ok(true), "{text}");
    }
}

#[test]
fn an_event_without_metadata_has_an_empty_map() {
    let rule = compile("!has(event.metadata.x) && event.metadata.size() == 0").unwrap();
    assert_eq!(
        rule.evaluate(&CelEvent::new(&event(&json!({})), None)),
        Ok(true)
    );
}

#[test]
fn an_unknown_field_does_not_replace_a_known_one() {
    let mut event = event(&json!({}));
    event.extra.push((
        "eventId".to_owned(),
        serde_json::value::to_raw_value("x").unwrap(),
    ));
    let rule = compile("event.eventId == 'e'").unwrap();
    assert_eq!(rule.evaluate(&CelEvent::new(&event, None)), Ok(true));
}

#[test]
fn what_cannot_be_evaluated_gives_a_reason() {
    let metadata = json!({"s": "x", "zero": 0, "big": i64::MAX, "long": "x".repeat(5_000)});
    for (text, why) in [
        ("event.metadata.none == 1", "none"),
        ("event.metadata.s + 1 == 2", "add"),
        ("1 / event.metadata.zero == 1", "zero"),
        ("event.metadata.big + 1 > 0", "verflow"),
        ("event.metadata.s", "not a boolean"),
        ("event.metadata.s.all(x, x)", "iterable"),
        ("event.metadata.none.all(x, x)", "none"),
        ("int(event.metadata.s) == 1", "parse"),
    ] {
        let reason = evaluate(text, &metadata).unwrap_err();
        assert!(!why.is_empty() && reason.contains(why), "{text}: {reason}");
    }
    let reason = evaluate("event.metadata.long < 1", &metadata).unwrap_err();
    assert!(reason.chars().count() <= MAX_REASON_CHARS + 1);
}

#[test]
fn what_is_no_expression_is_refused_with_its_place() {
    for (text, line, column) in [
        ("event.metadata.x ==", 1, 20),
        ("event.metadata.x == 1 &&\n  ) 2", 2, 3),
        ("player.level > 1", 1, 1),
        ("event.metadata.x > 1 &&\n  level > 2", 2, 3),
        ("event.metadata.é > 1", 1, 16),
        ("true && event.metadata.x.foo()", 1, 29),
    ] {
        let fault = compile(text).unwrap_err();
        assert_eq!(fault.position, Position { line, column }, "{text}: {fault}");
    }
    refused("", "Syntax error");
    refused("player.level > 1", "knows no player");
    refused("[1].exists(x, y > 1)", "knows no y");
    refused("[1].exists(x, true) && x > 1", "knows no x");
    refused(".event.eventId == ''", "knows no .event");
    refused("now() > 1", "knows no function now");
    refused(
        "event.metadata.x.lowerAscii() == ''",
        "knows no function lowerAscii",
    );
    refused("event.?metadata == 1", "unsupported");
    refused("optional.of(1) == 1", "knows no");
    refused("event.metadata.x.matches('(')", "pattern");
    refused("event.metadata.x.matches(event.metadata.y)", "in quotes");
    refused("[event].exists(event, true)", "another meaning");
}

#[test]
fn abuse_is_refused_and_does_not_end_the_process() {
    refused(
        &format!("{}true{}", "(".repeat(20), ")".repeat(20)),
        "nested",
    );
    refused(
        &format!("{}true{}", "(".repeat(1_000), ")".repeat(1_000)),
        "nested",
    );
    refused(&format!("{}1{}", "[".repeat(17), "]".repeat(17)), "nested");
    refused(&format!("{}true", "!".repeat(300)), "signs");
    refused(&format!("{}1 == 1", "-".repeat(300)), "signs");
    refused(&format!("{}true", "!-".repeat(300)), "signs");
    refused(&format!("true{}", " && true".repeat(400)), "bytes");
    refused(
        &format!("{}true", "true ? true : ".repeat(100)),
        "conditionals",
    );
    refused(&format!("1{} > 1", "+1".repeat(900)), "+");
    refused(&format!("1{} > 1", "*1".repeat(900)), "inside one another");
    refused(&format!("1{}", "<1".repeat(900)), "inside one another");
    refused(
        &format!("event{} == 1", ".a".repeat(900)),
        "inside one another",
    );
    refused(
        &format!("event{} == 1", "[0]".repeat(600)),
        "inside one another",
    );
    refused(
        &format!("event{} == 1", ".size()".repeat(250)),
        "inside one another",
    );
    refused(&format!("size([{}]) > 1", "1,".repeat(300)), "elements");
    refused(&format!("{}'", "'".repeat(999)), "does not end");
    refused("[1].all(x, [2].all(y, x > y))", "inside another");
    refused("[1].map(x, x).all(y, true)", "only on a field");
    refused("([1] + [2]).all(y, true)", "only on a field");
    refused(&["[1].all(x, true)"; 5].join(" && "), "more than 4");
    refused("event.metadata.map(k, k)[0] == 'a'", "inside size");
    refused("event.metadata.filter(k, true) == ['a']", "inside size");
    refused(r"event.metadata.x.matches('\\w{1000}')", "pattern");
    refused(
        &format!("event.metadata.x.matches('{}')", "a".repeat(300)),
        "pattern",
    );
    refused(
        &["event.userId.matches('a')"; 5].join(" && "),
        "more than 4",
    );
}

#[test]
fn the_most_that_is_allowed_compiles_and_runs_on_a_small_stack() {
    let metadata = json!({"x": 1});
    for text in [
        format!("{}true{}", "(".repeat(16), ")".repeat(16)),
        format!("{}true", "!".repeat(16)),
        format!("{}true", "true ? true : ".repeat(16)),
        format!("1{} > 0", "*1".repeat(35)),
        format!("true{}", " && true".repeat(200)),
        format!("event.metadata.x == 1{}", " || true".repeat(200)),
        format!("size({}1{}) == 1", "[".repeat(15), "]".repeat(15)),
    ] {
        let result = on_small_stack(|| evaluate(&text, &metadata));
        assert_eq!(result, Ok(true), "{text}");
    }
}

#[test]
fn what_the_lexer_might_cut_otherwise_does_not_end_the_process() {
    let (list, open) = ("[".repeat(1_500), "(1+".repeat(600));
    for text in [
        format!("event.metadata.`//` == {list}"),
        format!("event.metadata.`//` == {open}1"),
        format!(r"'\q' '+{list}"),
        format!("a =' + {list}"),
        format!(r"1ur'\' + {list} + '"),
    ] {
        let fault = on_small_stack(|| compile(&text)).unwrap_err();
        assert!(!fault.message.contains("nested"), "{text}: {fault}");
    }
    // The parser keeps a limit of its own, should the look before it be mistaken.
    let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    let parser = || ENV.parser().max_recursion_depth(MAX_PARSER_DEPTH);
    let parsed = with_compiler(|_| parser().parse(&deep).is_ok());
    assert!(!parsed.unwrap());
}

#[test]
fn a_guard_keeps_a_loop_from_its_event() {
    let without = json!({"kind": "x"});
    for (text, answer) in [
        (
            "!has(event.metadata.tags) || event.metadata.tags.exists(t, t == 'x')",
            true,
        ),
        (
            "has(event.metadata.tags) && event.metadata.tags.exists(t, t == 'x')",
            false,
        ),
        (
            "has(event.metadata.tags) ? event.metadata.tags.all(t, t == 'x') : true",
            true,
        ),
        (
            "event.metadata.kind == 'x' || event.metadata.tags.exists(t, t == 'x')",
            true,
        ),
        (
            "event.metadata.tags.exists(t, t == 'x') || event.metadata.kind == 'x'",
            true,
        ),
        (
            "type(event.metadata.kind) == list && event.metadata.kind.exists(t, t == 'x')",
            false,
        ),
        (
            "[event.metadata.none].exists(t, t == 'x') || event.metadata.kind == 'x'",
            true,
        ),
    ] {
        assert_eq!(evaluate(text, &without), Ok(answer), "{text}");
    }
    let with = json!({"kind": "y", "tags": ["w", "x"]});
    let text = "!has(event.metadata.tags) || event.metadata.tags.exists(t, t == 'x')";
    assert_eq!(evaluate(text, &with), Ok(true));
    let text = "event.metadata.none.exists(t, t == 'x')";
    let reason = evaluate(text, &without).unwrap_err();
    assert!(reason.contains("No such key: none"), "{reason}");
}
