//! The first quest of a game, and the command that sends its first event.

use serde_json::json;

/// The longest name `init` takes: it becomes a studio id too.
const MAX_NAME: usize = 40;

/// Whether `name` can name a studio, a game and a file, and stand in a shell command unquoted.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// A definition file: the game and a first quest.
pub(crate) fn definitions(studio: &str, game: &str, title: &str) -> String {
    let file = json!({
        "games": [{"gameId": game, "studioId": studio, "name": title}],
        "quests": [{
            "gameId": game,
            "questId": "forest-hunter",
            "name": "Forest hunter",
            "description": "Defeat three enemies in the forest",
            "conditions": {
                "eventType": "enemy_killed",
                "filters": {"map": "forest"},
                "progressType": "count",
                "target": 3,
            },
            "rewards": [{"type": "coins", "amount": 100}],
        }],
    });
    format!("{file:#}\n")
}

/// What the parts of the file mean; definition files are JSON and hold no comments.
pub(crate) const EXPLAINED: &str =
    "  games       gameId is what events name; it belongs to the one studio at studioId; name is for
              people. Events of games that nobody defined are refused
  quests      questId is its own in the game at gameId; name and description are for people
  conditions  eventType (and eventName, if given) say which events count; filters compare fields
              of their metadata; `when` takes a CEL expression, such as event.metadata.level >= 3
  progress    progressType count adds 1, accumulate adds the number at valueField, unique counts
              different values at uniqueField; target completes the quest
  rewards     any objects with a `type`; the rest of each (here amount) is yours. Each is granted
              once, when the quest is completed
  dates       startDate and endDate, if given, bound when events count
  status      active, or archived: no event counts any more";

/// A command that posts an event which the quest of [`definitions`] counts. `key` is the client key.
pub(crate) fn curl(gateway: &str, key: Option<&str>, game: &str) -> String {
    let key = key.unwrap_or("YOUR_CLIENT_KEY");
    let event = format!(
        r#"{{\"eventType\":\"enemy_killed\",\"gameId\":\"{game}\",\"userId\":\"player-1\",\"timestamp\":\"$(date -u +%FT%TZ)\",\"eventId\":\"try-$(date +%s%N)\",\"metadata\":{{\"map\":\"forest\"}}}}"#
    );
    format!(
        "curl -sS {gateway}/v1/events -H 'x-api-key: {key}' -H 'content-type: application/json' \\\n  -d \"{event}\""
    )
}

/// Where the gateway is, for commands to be run on this machine: `BM_GATEWAY_URL`, else as it
/// listens.
pub(crate) fn gateway_url(vars: &bm_bootstrap::Vars) -> String {
    if let Some(url) = vars.get("BM_GATEWAY_URL") {
        return url.trim_end_matches('/').to_owned();
    }
    let address = vars
        .get("BM_LISTEN_ADDR")
        .unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]" | "", port)) => format!("http://127.0.0.1:{port}"),
        _ => format!("http://{address}"),
    }
}

#[cfg(test)]
mod tests {
    use bm_bootstrap::Vars;

    use super::*;

    #[test]
    fn the_first_definitions_are_without_fault() {
        let file = definitions("acme", "space-race", "Space Race");
        let read = bm_domain::definition::parse_file(file.as_bytes()).unwrap();
        assert_eq!(read.games.len(), 1);
        assert_eq!(read.quests.len(), 1);
    }

    #[test]
    fn every_field_of_the_first_definitions_is_explained() {
        fn names(value: &serde_json::Value, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(map) => {
                    for (name, value) in map {
                        found.push(name.clone());
                        // What stands in filters is the game's own.
                        if name != "filters" {
                            names(value, found);
                        }
                    }
                }
                serde_json::Value::Array(list) => list.iter().for_each(|v| names(v, found)),
                _ => {}
            }
        }
        let file = serde_json::from_str(&definitions("acme", "g", "G")).unwrap();
        let mut found = Vec::new();
        names(&file, &mut found);
        assert!(found.len() >= 15, "{found:?}");
        for name in found {
            let words = EXPLAINED.split(|c: char| !c.is_alphanumeric());
            assert!(words.into_iter().any(|word| word == name), "{name}");
        }
    }

    #[test]
    fn names_that_would_break_a_path_or_a_command_are_refused() {
        for good in ["a", "space-race", "Game_2"] {
            assert!(is_name(good), "{good}");
        }
        let long = "x".repeat(41);
        for bad in ["", "-x", "a b", "a/b", "..", "a'b", "é", "a:b", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_command_makes_its_own_time_and_event_id() {
        let command = curl("http://h:1", Some("bm_client_x"), "space-race");
        let run = std::process::Command::new("bash")
            .args(["-c", &command.replace("curl ", "printf '%s\\n' ")])
            .output()
            .unwrap();
        let text = String::from_utf8(run.stdout).unwrap();
        let arguments: Vec<&str> = text.lines().collect();
        assert_eq!(arguments[1], "http://h:1/v1/events");
        assert_eq!(arguments[3], "x-api-key: bm_client_x");
        let event: serde_json::Value = serde_json::from_str(arguments[7]).unwrap();
        assert_eq!(event["gameId"], "space-race");
        assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(event["eventId"].as_str().unwrap().len() <= 50);
    }

    #[test]
    fn the_gateway_is_addressed_as_it_listens() {
        let url = |vars: &[(&str, &str)]| gateway_url(&Vars::from_map(vars.iter().copied()));
        assert_eq!(url(&[]), "http://127.0.0.1:8080");
        assert_eq!(
            url(&[("BM_LISTEN_ADDR", "0.0.0.0:81")]),
            "http://127.0.0.1:81"
        );
        assert_eq!(
            url(&[("BM_LISTEN_ADDR", "10.0.0.2:81")]),
            "http://10.0.0.2:81"
        );
        assert_eq!(url(&[("BM_GATEWAY_URL", "https://x/")]), "https://x");
    }
}
