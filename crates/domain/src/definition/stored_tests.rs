//! What a file says is what storage gives back for it, whatever JSONB makes of the text.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::quest;
use super::*;
use crate::fixture::jsonb;

/// A file's quest, as it is read back from the database.
fn read_back(file: &Value) -> (QuestDefinition, QuestDefinition) {
    let mut file = parse_file(file.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
    let definition = file.quests.remove(0);
    let stored = jsonb(&definition.to_stored());
    let read = QuestDefinition::from_stored(&stored).unwrap_or_else(|e| panic!("{stored}: {e}"));
    (definition, read)
}

#[test]
fn stored_paths_keep_their_meaning() {
    let filters = json!({"metadata.metadata.map": "a", "map": "b", "metadata.x": 1, "metadata.metadata.metadata.x": 2});
    let change = json!({"filters": filters, "progressType": "accumulate", "valueField": "metadata.metadata.x"});
    let (definition, read) = read_back(&json!({"quests": [quest(change)]}));
    assert_eq!(definition.conditions, read.conditions);
    let ProgressType::Accumulate(path) = read.conditions.progress else {
        panic!("accumulate");
    };
    assert_eq!(path.as_str(), "metadata.x");
}

#[test]
fn what_is_stored_is_read_whatever_the_limits_are_now() {
    let mut stored: Value = serde_json::from_str(
        &read_back(&json!({"quests": [quest(json!({}))]}))
            .0
            .to_stored(),
    )
    .unwrap();
    stored["name"] = "n".repeat(5_000).into();
    stored["rewards"] = vec![json!({"type": "x", "text": "y".repeat(20_000)}); 60].into();
    stored["conditions"]["target"] = json!(0.5);
    stored["conditions"]["when"] = "w".repeat(5_000).into();
    stored["conditions"]["filters"] = json!({"a..b": "v".repeat(5_000)});
    assert!(QuestDefinition::from_stored(&stored.to_string()).is_ok());
    // But what is not known is not taken for nothing.
    stored["conditions"]["max"] = 1.into();
    let error = QuestDefinition::from_stored(&stored.to_string()).unwrap_err();
    assert!(error.to_string().contains("unknown field max"), "{error}");
}

fn number() -> impl Strategy<Value = String> {
    (-999i64..999, 0..6u8, 0..300u16).prop_map(|(n, form, e)| match form {
        0 => format!("{n}"),
        1 => format!("{n}.00"),
        2 => format!("{n}e-{e}"),
        3 => format!("{n}.50E{e}"),
        4 => format!("{n}.5e-{e}"),
        _ => format!("{n}e{e}"),
    })
}

fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["metadata", "map", "a", "é \"", "x y"]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("."))
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        number().prop_map(|n| serde_json::from_str(&n).unwrap()),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        "[a-z\"\\\\\u{e9}\n]{0,5}".prop_map(Value::from),
    ]
}

fn any_quest() -> impl Strategy<Value = Value> {
    let progress = (0..3usize, path(), 1..1_000u32, 0..4u8);
    let filters = prop::collection::btree_map(path(), scalar(), 0..5);
    let rewards = prop::collection::vec(
        prop::collection::btree_map("[a-z]{1,12}", scalar(), 0..6),
        0..4,
    );
    let dates = (
        prop::option::of(0..1_000i64),
        prop::option::of(1_000..2_000i64),
    );
    (progress, filters, rewards, dates, any::<bool>()).prop_map(
        |((kind, field, target, form), filters, rewards, (start, end), named)| {
            let target = match form {
                0 => format!("{target}"),
                1 => format!("{target}.00"),
                2 => format!("{target}e0"),
                _ => format!("{target}0e-1"),
            };
            let target: Value = serde_json::from_str(&target).unwrap();
            let kinds = ["count", "accumulate", "unique"];
            let mut all =
                json!({"progressType": kinds[kind], "target": target, "filters": filters});
            if kind > 0 {
                all[["", "valueField", "uniqueField"][kind]] = field.into();
            }
            if named {
                all["eventName"] = "boss".into();
                all["when"] = "event.metadata.x > 1".into();
            }
            let mut quest = quest(all);
            quest["rewards"] = rewards
                .into_iter()
                .map(|mut reward| {
                    reward.insert("type".to_owned(), "x".into());
                    json!(reward)
                })
                .collect();
            for (name, date) in [("startDate", start), ("endDate", end)] {
                if let Some(date) = date {
                    quest[name] = Timestamp::clamped(date * 100_000_000).to_string().into();
                }
            }
            quest
        },
    )
}

proptest! {
    #[test]
    fn what_a_file_says_is_what_storage_gives_back(quest in any_quest()) {
        let file = json!({"quests": [quest]});
        // Two filters may name one place; nothing else is wrong with these.
        if let Err(faults) = parse_file(file.to_string().as_bytes()) {
            prop_assert!(faults.iter().all(|f| f.message.contains("another filter names")), "{faults:?}");
            return Ok(());
        }
        let (definition, read) = read_back(&file);
        prop_assert_eq!(&definition.conditions, &read.conditions);
        let texts = |d: &QuestDefinition| (d.game_id.clone(), d.quest_id.clone(), d.name.clone(), d.description.clone());
        prop_assert_eq!(texts(&definition), texts(&read));
        prop_assert_eq!((definition.start_date, definition.end_date), (read.start_date, read.end_date));
        prop_assert_eq!(jsonb(&definition.to_stored()), jsonb(&read.to_stored()));
        // And it is as long as it was measured to be.
        let value: Value = serde_json::from_str(&definition.to_stored()).unwrap();
        prop_assert_eq!(crate::json::jsonb_len(&value), jsonb(&definition.to_stored()).len());
    }
}
