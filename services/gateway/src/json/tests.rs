//! What the strict look takes and refuses.

use proptest::prelude::*;

use super::*;

fn fault(text: &str) -> Option<FaultKind> {
    check(text, 3).err().map(|fault| fault.kind)
}

#[test]
fn json_is_taken_and_anything_else_is_not() {
    for good in [
        "null",
        " true ",
        "-0",
        "0",
        "[]",
        "{}",
        "[1 , 2]",
        r#"{"a":[{"b":"c"}],"d":false}"#,
        r#""\"\\\/\b\f\n\r\t\u0001\ud83d\ude00é""#,
        "1.5e-3",
        "[[[]]]",
    ] {
        assert_eq!(fault(good), None, "{good}");
    }
    for bad in [
        "",
        " ",
        "nul",
        "truee",
        "01",
        "1.",
        "-",
        "1e",
        ".5",
        "+1",
        "[1,]",
        "[1 2]",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":1,}"#,
        "{a:1}",
        "[",
        "{",
        "]",
        "[}",
        "\"",
        "\"a\nb\"",
        r#""\x""#,
        r#""\u12""#,
        "1 2",
        "NaN",
        "'a'",
        "\u{feff}1",
    ] {
        assert_eq!(fault(bad), Some(FaultKind::Syntax), "{bad}");
    }
}

#[test]
fn keys_are_distinct_in_each_object_however_they_are_written() {
    assert_eq!(fault(r#"[{"a":1},{"a":1}]"#), None);
    assert_eq!(fault(r#"{"a":{"a":{"a":1}}}"#), None);
    for twice in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"\u0061":3}"#] {
        assert_eq!(fault(twice), Some(FaultKind::DuplicateKey("a".to_owned())));
    }
    let many: Vec<String> = (0..40).map(|n| format!("\"k{n}\":0")).collect();
    assert_eq!(fault(&format!("{{{}}}", many.join(","))), None);
    let twice = format!("{{{},\"k3\":1}}", many.join(","));
    assert_eq!(
        fault(&twice),
        Some(FaultKind::DuplicateKey("k3".to_owned()))
    );
}

#[test]
fn what_cannot_be_stored_or_read_alike_is_refused() {
    for nul in [r#""a\u0000b""#, r#"{"\u0000":1}"#] {
        assert_eq!(fault(nul), Some(FaultKind::Nul), "{nul}");
    }
    for lone in [
        r#""\ud83d""#,
        r#""\ude00""#,
        r#""\ud83dx""#,
        r#""\ud83d\u0041""#,
        r#""\ud83d\ud83d""#,
    ] {
        assert_eq!(fault(lone), Some(FaultKind::LoneSurrogate), "{lone}");
    }
    let reserved = r#"{"x":{"$serde_json::private::Number":"1"}}"#;
    assert_eq!(fault(reserved), Some(FaultKind::ReservedKey));
}

#[test]
fn numbers_fit_64_bits_or_a_double() {
    for good in [
        "9223372036854775807",
        "-9223372036854775808",
        "1e308",
        "1.7976931348623157e308",
        "0.1000000000000000055511151231257827",
        "5e-324",
        "0e999999",
        "-0.0",
    ] {
        assert_eq!(fault(good), None, "{good}");
    }
    let long = format!("0.{}", "1".repeat(2_000));
    for bad in [
        "9223372036854775808",
        "-9223372036854775809",
        "1e309",
        "-1e400",
        "1e-400",
        "100000000000000000000000",
        long.as_str(),
    ] {
        assert_eq!(fault(bad), Some(FaultKind::Number), "{bad}");
    }
}

#[test]
fn depth_is_counted_in_objects_and_arrays() {
    assert_eq!(fault(r#"{"a":[[1]]}"#), None);
    assert_eq!(fault(r#"{"a":[[[]]]}"#), Some(FaultKind::TooDeep));
    let deep = "[".repeat(1_000_000);
    assert_eq!(fault(&deep), Some(FaultKind::TooDeep));
}

#[test]
fn the_outermost_field_is_named() {
    let field = |text| check(text, 9).unwrap_err().field;
    assert_eq!(
        field(r#"{"ok":1,"metadata":{"a":[1e999]}}"#).as_deref(),
        Some("metadata")
    );
    assert_eq!(field(r"[1e999]"), None);
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[^\u{0}]{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[^\u{0}]{0,4}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_our_library_writes_is_taken_field_by_field(value in any_json()) {
        for text in [value.to_string(), format!(" {value:#} ")] {
            let fields = check(&text, 64).unwrap();
            prop_assert_eq!(fields.len(), value.as_object().map_or(0, serde_json::Map::len));
            for (name, json) in fields {
                prop_assert_eq!(json, json.trim_ascii());
                let read: serde_json::Value = serde_json::from_str(json).unwrap();
                prop_assert_eq!(&read, &value[name.as_ref()]);
            }
        }
    }

    #[test]
    fn what_is_taken_our_library_reads(text in r#"[\[\]{}:,"\\a0-9eE+.u tn-]{0,24}"#) {
        if check(&text, 64).is_ok() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }
}
