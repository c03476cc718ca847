//! What the events of a run are like: kinds of events by weight, with values drawn at random.
//!
//! `{"events": [{"weight": 3, "eventType": "enemy_killed", "eventName": "boss", "metadata": {…}}]}`.
//! Anywhere in `metadata` an object with one of these keys stands for a value that is drawn anew for
//! each event: `{"$int": [1, 6]}`, `{"$decimal": [0, 10, 2]}` (digits behind the point), and
//! `{"$choice": ["a", "b"]}`.

use bm_contracts::EventType;
use rand::Rng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Kinds of events, and how often each comes.
#[derive(Debug, Clone)]
pub struct Mix {
    kinds: Vec<Kind>,
    weights: WeightedIndex<f64>,
}

/// A mix that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MixError {
    /// Not JSON, or not of the form.
    #[error("not a mix of events: {0}")]
    Form(#[from] serde_json::Error),
    /// An event type that there is not.
    #[error("{0} is no eventType")]
    EventType(String),
    /// A weight that is negative or not a number, or no weight at all.
    #[error("weights must be positive numbers, and there must be one event at least")]
    Weights,
    /// A drawn value is not of its form.
    #[error("events[{event}].metadata.{path}: {why}")]
    Draw {
        /// Which event.
        event: usize,
        /// Where in its metadata.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MixFile {
    events: Vec<KindFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct KindFile {
    #[serde(default = "one")]
    weight: f64,
    event_type: String,
    event_name: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

fn one() -> f64 {
    1.0
}

#[derive(Debug, Clone)]
struct Kind {
    event_type: EventType,
    event_name: Option<String>,
    metadata: Vec<(String, Draw)>,
}

/// A value, or how to draw one.
#[derive(Debug, Clone)]
enum Draw {
    Fixed(Value),
    Object(Vec<(String, Draw)>),
    Array(Vec<Draw>),
    Int(i64, i64),
    Decimal(f64, f64, usize),
    Choice(Vec<Value>),
}

/// What an event says besides who, where and when.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// `eventType`.
    pub event_type: EventType,
    /// `eventName`.
    pub event_name: Option<String>,
    /// `metadata`.
    pub metadata: Value,
}

impl Mix {
    /// Reads a mix; see the module for its form.
    pub fn parse(json: &[u8]) -> Result<Self, MixError> {
        let file: MixFile = serde_json::from_slice(json)?;
        let weights = WeightedIndex::new(file.events.iter().map(|event| event.weight))
            .map_err(|_| MixError::Weights)?;
        let kinds = file.events.into_iter().enumerate().map(|(event, kind)| {
            let fault = |(path, why)| MixError::Draw { event, path, why };
            let event_type = EventType::parse(&kind.event_type);
            Ok(Kind {
                event_type: event_type.ok_or(MixError::EventType(kind.event_type))?,
                event_name: kind.event_name,
                metadata: fields(kind.metadata, "").map_err(fault)?,
            })
        });
        Ok(Self {
            kinds: kinds.collect::<Result<_, MixError>>()?,
            weights,
        })
    }

    /// What the next event says.
    pub fn draw(&self, random: &mut impl Rng) -> Drawn {
        let kind = &self.kinds[self.weights.sample(random)];
        Drawn {
            event_type: kind.event_type,
            event_name: kind.event_name.clone(),
            metadata: object(&kind.metadata, random),
        }
    }
}

type Fault = (String, &'static str);

fn fields(map: Map<String, Value>, path: &str) -> Result<Vec<(String, Draw)>, Fault> {
    map.into_iter()
        .map(|(name, value)| {
            let path = format!("{path}{}{name}", if path.is_empty() { "" } else { "." });
            let draw = read(value, &path)?;
            Ok((name, draw))
        })
        .collect()
}

fn read(value: Value, path: &str) -> Result<Draw, Fault> {
    let fault = |why| (path.to_owned(), why);
    match value {
        Value::Object(map) => {
            let Some((name, argument)) = map
                .iter()
                .next()
                .filter(|(name, _)| map.len() == 1 && name.starts_with('$'))
            else {
                return fields(map, path).map(Draw::Object);
            };
            match name.as_str() {
                "$int" => {
                    let [low, high] = numbers(argument, Value::as_i64)
                        .filter(|[low, high]| low <= high)
                        .ok_or_else(|| fault("$int takes [lowest, highest], whole numbers"))?;
                    Ok(Draw::Int(low, high))
                }
                "$decimal" => {
                    let why = "$decimal takes [lowest, highest, digits behind the point up to 9]";
                    let [low, high, digits] = numbers(argument, Value::as_f64)
                        .filter(|[low, high, digits]| {
                            low <= high && digits.fract() == 0.0 && (0.0..=9.0).contains(digits)
                        })
                        .ok_or_else(|| fault(why))?;
                    Ok(Draw::Decimal(low, high, digits as usize))
                }
                "$choice" => match argument {
                    Value::Array(values) if !values.is_empty() => Ok(Draw::Choice(values.clone())),
                    _ => Err(fault("$choice takes a list of values")),
                },
                _ => Err(fault("only $int, $decimal and $choice are known")),
            }
        }
        Value::Array(values) => values
            .into_iter()
            .enumerate()
            .map(|(index, value)| read(value, &format!("{path}[{index}]")))
            .collect::<Result<_, _>>()
            .map(Draw::Array),
        value => Ok(Draw::Fixed(value)),
    }
}

fn numbers<const N: usize, T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<[T; N]> {
    let values = value
        .as_array()?
        .iter()
        .map(read)
        .collect::<Option<Vec<T>>>()?;
    values.try_into().ok()
}

fn object(fields: &[(String, Draw)], random: &mut impl Rng) -> Value {
    let fields = fields
        .iter()
        .map(|(name, draw)| (name.clone(), value(draw, random)));
    Value::Object(fields.collect())
}

fn value(draw: &Draw, random: &mut impl Rng) -> Value {
    match draw {
        Draw::Fixed(value) => value.clone(),
        Draw::Object(fields) => object(fields, random),
        Draw::Array(draws) => draws.iter().map(|draw| value(draw, random)).collect(),
        Draw::Int(low, high) => random.random_range(*low..=*high).into(),
        Draw::Decimal(low, high, digits) => {
            let drawn = random.random_range(*low..=*high);
            // As text: 1.10 shall stay 1.10. What `format!` makes of a number is a number.
            let text = format!("{drawn:.digits$}");
            serde_json::from_str(&text).unwrap_or(Value::Null)
        }
        Draw::Choice(values) => values[random.random_range(0..values.len())].clone(),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn events_come_by_weight_with_values_drawn_anew() {
        let mix = Mix::parse(
            br#"{"events": [
                {"weight": 3, "eventType": "enemy_killed", "metadata": {
                    "map": {"$choice": ["forest", "desert"]}, "damage": {"$int": [1, 6]},
                    "at": [{"$decimal": [0, 2, 1]}], "fixed": {"a": null}}},
                {"eventType": "custom", "eventName": "boss"}]}"#,
        )
        .unwrap();
        let mut random = StdRng::seed_from_u64(7);
        let drawn: Vec<Drawn> = (0..4_000).map(|_| mix.draw(&mut random)).collect();
        let kills: Vec<&Drawn> = drawn
            .iter()
            .filter(|drawn| drawn.event_type == EventType::EnemyKilled)
            .collect();
        assert!((2_800..3_200).contains(&kills.len()), "{}", kills.len());
        for kill in &kills {
            let damage = kill.metadata["damage"].as_i64().unwrap();
            assert!((1..=6).contains(&damage));
            assert_eq!(kill.metadata["at"][0].to_string().len(), 3);
            assert_eq!(kill.metadata["fixed"], serde_json::json!({"a": null}));
        }
        let deserts = kills.iter().filter(|kill| kill.metadata["map"] == "desert");
        assert!((1_000..2_000).contains(&deserts.count()));
    }

    #[test]
    fn a_mix_that_cannot_be_drawn_from_says_where() {
        let fault = |metadata: &str| {
            let json = format!(r#"{{"events":[{{"eventType":"custom","metadata":{metadata}}}]}}"#);
            Mix::parse(json.as_bytes()).unwrap_err().to_string()
        };
        assert_eq!(
            fault(r#"{"a":{"b":[{"$int":[2,1]}]}}"#),
            "events[0].metadata.a.b[0]: $int takes [lowest, highest], whole numbers"
        );
        assert!(fault(r#"{"a":{"$choice":[]}}"#).contains("$choice takes"));
        assert!(fault(r#"{"a":{"$half":1}}"#).contains("only $int"));
        for bad in [
            r#"{"events":[]}"#,
            r#"{"events":[{"eventType":"custom","weight":-1}]}"#,
        ] {
            assert!(
                matches!(Mix::parse(bad.as_bytes()), Err(MixError::Weights)),
                "{bad}"
            );
        }
        assert!(Mix::parse(br#"{"events":[{"eventType":"jump"}]}"#).is_err());
    }
}
