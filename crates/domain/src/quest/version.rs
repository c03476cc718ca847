//! One version of a quest as events meet it: compiled, or broken and known by what can be read of it.

use std::collections::HashMap;
use std::sync::Arc;

use bm_contracts::{EventType, GameId, QuestId, StudioId};
use bm_engine::Poison;
use uuid::Uuid;

use super::{QuestStatus, StoredQuest};
use crate::cel::{CelRule, Compiler};
use crate::definition::{QuestDefinition, events_of_stored};

/// Expressions compiled already, by their texts: versions and quests share them.
pub(super) type Expressions = HashMap<String, Arc<CelRule>>;

/// One version of a quest.
#[derive(Debug)]
pub struct QuestVersion {
    id: Uuid,
    studio_id: StudioId,
    game_id: GameId,
    quest_id: QuestId,
    version: i32,
    config_seq: i64,
    status: QuestStatus,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Rule(Box<QuestRule>),
    Broken {
        why: String,
        /// All of it but its expression, where that alone is what cannot be used.
        definition: Option<Box<QuestDefinition>>,
        /// The type and name of the events it asks for.
        events: Option<(EventType, Option<String>)>,
    },
}

/// What a version asks of events, compiled.
#[derive(Debug)]
pub struct QuestRule {
    definition: QuestDefinition,
    when: Option<Arc<CelRule>>,
}

impl QuestRule {
    /// As the studio defined it.
    pub fn definition(&self) -> &QuestDefinition {
        &self.definition
    }

    /// `conditions.when`, compiled.
    pub fn when(&self) -> Option<&CelRule> {
        self.when.as_deref()
    }
}

impl QuestVersion {
    /// `quests.id`.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whose quest.
    pub fn studio_id(&self) -> &StudioId {
        &self.studio_id
    }

    /// In which game.
    pub fn game_id(&self) -> &GameId {
        &self.game_id
    }

    /// The studio's name of the quest.
    pub fn quest_id(&self) -> &QuestId {
        &self.quest_id
    }

    /// From 1.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// The config counter's value when it was saved.
    pub fn config_seq(&self) -> i64 {
        self.config_seq
    }

    /// Of this version.
    pub fn status(&self) -> QuestStatus {
        self.status
    }

    /// What it asks of events; `Err` where it is broken. The dead letter of code `broken_definition`
    /// says why: this software, or this version of it, cannot make a rule of it.
    pub fn rule(&self) -> Result<&QuestRule, Poison> {
        match &self.body {
            Body::Rule(rule) => Ok(rule),
            Body::Broken { why, .. } => Err(Poison::new(
                "broken_definition",
                format!(
                    "version {} of the quest cannot be used: {why}",
                    self.version
                ),
            )),
        }
    }

    /// Why it is broken; `None` when it is not.
    pub fn broken(&self) -> Option<&str> {
        match &self.body {
            Body::Rule(_) => None,
            Body::Broken { why, .. } => Some(why),
        }
    }

    /// Its definition, as far as all of it can be read.
    pub(super) fn definition(&self) -> Option<&QuestDefinition> {
        match &self.body {
            Body::Rule(rule) => Some(&rule.definition),
            Body::Broken { definition, .. } => definition.as_deref(),
        }
    }

    /// The one type and the one name (`None`: any) of the events it asks for; `None` when it is not
    /// known that it asks for any.
    pub(super) fn events(&self) -> Option<(EventType, Option<&str>)> {
        if let Some(definition) = self.definition() {
            let conditions = &definition.conditions;
            return Some((conditions.event_type, conditions.event_name.as_deref()));
        }
        match &self.body {
            Body::Broken {
                events: Some((event_type, name)),
                ..
            } => Some((*event_type, name.as_deref())),
            _ => None,
        }
    }

    /// Makes a rule of a stored version, or keeps it as broken.
    pub(super) fn compile(
        stored: StoredQuest,
        compiler: &Compiler,
        expressions: &mut Expressions,
    ) -> Self {
        let body = match QuestDefinition::from_stored(stored.definition.get()) {
            Err(why) => Body::Broken {
                why: why.to_string(),
                definition: None,
                events: events_of_stored(stored.definition.get()),
            },
            Ok(definition)
                if (&definition.game_id, &definition.quest_id)
                    != (&stored.game_id, &stored.quest_id) =>
            {
                broken("its definition names another quest or game", definition)
            }
            Ok(definition) => match when(&definition, compiler, expressions) {
                Ok(when) => Body::Rule(Box::new(QuestRule { definition, when })),
                Err(why) => broken(&format!("when: {why}"), definition),
            },
        };
        Self {
            id: stored.id,
            studio_id: stored.studio_id,
            game_id: stored.game_id,
            quest_id: stored.quest_id,
            version: stored.version,
            config_seq: stored.config_seq,
            status: stored.status,
            body,
        }
    }

    /// Adds its compiled expression to those to be shared.
    pub(super) fn share(&self, expressions: &mut Expressions) {
        if let Body::Rule(rule) = &self.body
            && let (Some(text), Some(when)) = (&rule.definition.conditions.when, &rule.when)
            && !expressions.contains_key(text)
        {
            expressions.insert(text.clone(), Arc::clone(when));
        }
    }
}

fn broken(why: &str, definition: QuestDefinition) -> Body {
    Body::Broken {
        why: why.to_owned(),
        definition: Some(Box::new(definition)),
        events: None,
    }
}

fn when(
    definition: &QuestDefinition,
    compiler: &Compiler,
    expressions: &mut Expressions,
) -> Result<Option<Arc<CelRule>>, crate::cel::CelFault> {
    let Some(text) = &definition.conditions.when else {
        return Ok(None);
    };
    if let Some(known) = expressions.get(text) {
        return Ok(Some(Arc::clone(known)));
    }
    let when = Arc::new(compiler.compile(text)?);
    expressions.insert(text.clone(), Arc::clone(&when));
    Ok(Some(when))
}
