//! Events as clients may send them, at the edges of what a gateway lets pass.

use bm_contracts::GameEvent;
use proptest::prelude::*;
use serde_json::Value;

use crate::support::NOW;

/// The text of a number, at the edges of what a gateway lets pass and around where quests look.
fn number() -> impl Strategy<Value = String> {
    const EDGES: [&str; 34] = [
        "0",
        "-0",
        "0.0",
        "-0.0",
        "0e5",
        "5",
        "5.0",
        "5.00",
        "0.5",
        "0.50",
        "5e-1",
        "50E-1",
        "0.05e1",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "9007199254740993",
        "18446744073709551615",
        "1.7976931348623157e308",
        "-1.7976931348623157E+308",
        "2.2250738585072014e-308",
        "5e-324",
        "4.9406564584124654e-324",
        "1e22",
        "1e23",
        "1E+2",
        "0.1",
        "0.10000000000000000000000000000000001",
        "0.30000000000000004",
        "1e-36",
        "1e-37",
        "123456789012345678901234567890123456",
        "1234567890123456789012345678901234567",
        "1.000e2",
    ];
    prop_oneof![
        2 => prop::sample::select(EDGES.as_slice()).prop_map(str::to_owned),
        3 => (-3_i64..40, 0..6_u8).prop_map(|(n, form)| match form {
            0 => format!("{n}"),
            1 => format!("{n}.00"),
            2 => format!("{n}e-1"),
            3 => format!("{n}.5E1"),
            4 => format!("{n}.250"),
            _ => format!("{n}e2"),
        }),
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => any::<f64>().prop_filter("JSON has no infinities", |x| x.is_finite()).prop_map(|x| format!("{x:e}")),
    ]
}

/// The text of a string of JSON; some of the same words are written in different ways.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(
            [
                r#""forest""#,
                r#""Caf\u00e9 \ud83d\udc09""#,
                "\"Caf\u{e9} \u{1f409}\"",
                // The same to the eye, and other characters.
                "\"Cafe\u{301} \u{1f409}\"",
                r#""a\/b""#,
                r#""a/b\n\t\u001f\"\\""#,
                r#""""#,
                r#""5.0""#,
                "null",
                "true",
            ]
            .as_slice()
        )
        .prop_map(str::to_owned),
        "[^\\x00]{0,12}".prop_map(|text| Value::from(text).to_string()),
    ]
}

fn metadata() -> impl Strategy<Value = String> {
    (number(), number(), number(), word(), word(), 0..4_u8).prop_map(
        |(n, dup, x, place, key, form)| {
            let key = if key.starts_with('"') { key } else { r#""key""#.to_owned() };
            match form {
                // Members in one order and another, blanks, a member twice, arrays in arrays.
                0 => format!(r#"{{"stats":{{"n":{n},"long name":null}},"place":{place},"dup":1,"dup":{dup},"deep":{{"list":[{x},2],"o":{{}}}}}}"#),
                1 => format!("{{ \"dup\" : {dup} ,\n\"place\":{place}, \"deep\":{{\"list\":[[{x}],{x}],{key}:{x}}},\"stats\":{{\"n\": {n}}} }}"),
                2 => format!(r#"{{"stats":{{"n":[{n}]}},"dup":{place},"place":{x},"":{{"":[[[{n}]]]}}}}"#),
                _ => format!(r#"{{"stats":{{"n":0,"n":{n}}},"place":{place},{key}:{{"a":{{"b":{{"c":[{dup},{place}]}}}}}}}}"#),
            }
        },
    )
}

fn extra() -> impl Strategy<Value = String> {
    (number(), word(), any::<bool>()).prop_map(|(id, tag, more)| {
        let more = if more {
            r#","Build\u002d":1.50,"\u00fc":[{}]"#
        } else {
            ""
        };
        format!(r#","session":{{"id":{id},"tags":[{tag},{tag}]}}{more}"#)
    })
}

/// An event that a player's client sends.
#[derive(Debug, Clone)]
pub(crate) struct Played {
    user: usize,
    id: usize,
    days_late: i64,
    metadata: Option<String>,
    extra: String,
    /// 0: the event before it comes again, byte for byte.
    pub(crate) repeats: u8,
}

pub(crate) fn played() -> impl Strategy<Value = Played> {
    let metadata = prop::option::weighted(0.95, metadata());
    (
        0..3_usize,
        0..60_usize,
        0..4_i64,
        metadata,
        extra(),
        0..6_u8,
    )
        .prop_map(|(user, id, days_late, metadata, extra, repeats)| Played {
            user,
            id,
            days_late,
            metadata,
            extra,
            repeats,
        })
}

impl Played {
    pub(crate) fn event(&self, game: &str) -> GameEvent {
        let at = NOW.as_millis() - self.days_late * 86_400_000;
        let (user, id, extra) = (self.user, self.id, &self.extra);
        let metadata = self
            .metadata
            .as_ref()
            .map_or_else(String::new, |m| format!(r#","metadata":{m}"#));
        let text = format!(
            r#"{{"eventType":"enemy_killed","userId":"player {user} é","gameId":"{game}","eventId":"e{id}","timestamp":{at},"studioId":"studio","studioTier":"pro"{metadata}{extra}}}"#
        );
        GameEvent::from_json(text.as_bytes()).unwrap()
    }
}
