//! Puts the messages of a listen stream together to consistent sets of documents. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::firestore::gcloud_sdk::google::firestore::v1::TargetChange;
use ::firestore::gcloud_sdk::google::firestore::v1::listen_response::ResponseType;
use ::firestore::gcloud_sdk::google::firestore::v1::target_change::TargetChangeType;

use super::value;
use crate::document::StudioDocument;

/// The target that is the collection.
pub(super) const STUDIOS: i32 = 1;

/// What to do after a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read on.
    Wait,
    /// The set is the collection as it was at one moment: take it.
    Take,
    /// The stream is of no more use: begin a new one.
    Restart(String),
}

/// The collection as far as the stream has told it.
///
/// The documents are whole only at the points the stream marks: a message for all targets with a
/// read time, after the target was reported current. In between, above all after a reset, when the
/// full set is sent again, the set before it still counts.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// By resource name; `None` is a broken document, counted but not used.
    documents: BTreeMap<String, Option<Arc<StudioDocument>>>,
    current: bool,
    /// The last of other targets that was reported current.
    reached: i32,
}

impl Assembly {
    /// The studios of the set, in the order of their names.
    pub(super) fn documents(&self) -> Vec<Arc<StudioDocument>> {
        self.documents.values().flatten().cloned().collect()
    }

    /// Whether that target, not of studios, was reported current: the next snapshot of the stream is
    /// not older than its adding.
    pub(super) fn has_reached(&self, target: i32) -> bool {
        self.reached == target
    }

    /// Takes one message in.
    pub(super) fn apply(&mut self, message: ResponseType) -> Step {
        match message {
            ResponseType::TargetChange(change) => self.target(&change),
            ResponseType::DocumentChange(change) => {
                let others = !change.target_ids.is_empty() && !change.target_ids.contains(&STUDIOS);
                if let Some(document) = change.document.filter(|_| !others) {
                    if change.target_ids.is_empty() {
                        self.documents.remove(&document.name);
                    } else {
                        let read = StudioDocument::read_or_report(
                            value::document_id(&document.name),
                            &value::document_json(&document),
                        );
                        self.documents.insert(document.name, read.map(Arc::new));
                    }
                }
                Step::Wait
            }
            ResponseType::DocumentDelete(gone) => {
                self.documents.remove(&gone.document);
                Step::Wait
            }
            ResponseType::DocumentRemove(gone) => {
                self.documents.remove(&gone.document);
                Step::Wait
            }
            ResponseType::Filter(filter) if filter.target_id != STUDIOS => Step::Wait,
            ResponseType::Filter(filter) => {
                let count = usize::try_from(filter.count).unwrap_or_default();
                if count == self.documents.len() {
                    Step::Wait
                } else {
                    Step::Restart(format!(
                        "the mirror holds {} studios and Firestore {count}",
                        self.documents.len()
                    ))
                }
            }
        }
    }

    fn target(&mut self, change: &TargetChange) -> Step {
        if !change.target_ids.is_empty() && !change.target_ids.contains(&STUDIOS) {
            if change.target_change_type() == TargetChangeType::Current {
                self.reached = change
                    .target_ids
                    .iter()
                    .copied()
                    .fold(self.reached, i32::max);
            }
            return Step::Wait;
        }
        match TargetChangeType::try_from(change.target_change_type) {
            Ok(TargetChangeType::Remove) => {
                let cause = change.cause.as_ref();
                let cause = cause.map_or("no reason given", |status| status.message.as_str());
                return Step::Restart(format!("Firestore ended the listening: {cause}"));
            }
            Ok(TargetChangeType::Reset) => {
                self.documents.clear();
                self.current = false;
            }
            Ok(TargetChangeType::Current) => self.current = true,
            Ok(TargetChangeType::NoChange | TargetChangeType::Add) | Err(_) => {}
        }
        if self.current && change.target_ids.is_empty() && change.read_time.is_some() {
            Step::Take
        } else {
            Step::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use ::firestore::FirestoreDocument;
    use ::firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
    use ::firestore::gcloud_sdk::google::firestore::v1::{
        DocumentChange, DocumentDelete, DocumentRemove, ExistenceFilter, Value,
    };
    use ::firestore::gcloud_sdk::prost_types;

    use super::*;

    fn name(id: &str) -> String {
        format!("projects/p/databases/(default)/documents/studios/{id}")
    }

    fn set(id: &str, tier: &str) -> ResponseType {
        let field = |text: &str| Value {
            value_type: Some(ValueType::StringValue(text.to_owned())),
        };
        let fields = [("tier", tier), ("subscriptionStatus", "active")];
        ResponseType::DocumentChange(DocumentChange {
            document: Some(FirestoreDocument {
                name: name(id),
                fields: fields
                    .iter()
                    .map(|(name, text)| ((*name).to_owned(), field(text)))
                    .collect(),
                ..FirestoreDocument::default()
            }),
            target_ids: vec![1],
            removed_target_ids: vec![],
        })
    }

    fn target(kind: TargetChangeType, whole: bool) -> ResponseType {
        ResponseType::TargetChange(TargetChange {
            target_change_type: kind.into(),
            target_ids: if whole { vec![] } else { vec![1] },
            read_time: Some(prost_types::Timestamp::default()),
            ..TargetChange::default()
        })
    }

    fn ids(assembly: &Assembly) -> Vec<String> {
        let documents = assembly.documents();
        documents.iter().map(|d| d.studio.id.to_string()).collect()
    }

    fn begun() -> Assembly {
        let mut assembly = Assembly::default();
        for message in [
            target(TargetChangeType::Add, false),
            set("a", "pro"),
            set("b", "pro"),
            target(TargetChangeType::NoChange, true),
            target(TargetChangeType::Current, false),
        ] {
            assert_eq!(assembly.apply(message), Step::Wait);
        }
        assembly
    }

    const SNAPSHOT: (TargetChangeType, bool) = (TargetChangeType::NoChange, true);

    fn snapshot() -> ResponseType {
        target(SNAPSHOT.0, SNAPSHOT.1)
    }

    #[test]
    fn the_first_set_is_taken_when_it_is_whole() {
        let mut assembly = begun();
        assert_eq!(assembly.apply(snapshot()), Step::Take);
        assert_eq!(ids(&assembly), ["a", "b"]);
    }

    #[test]
    fn documents_come_change_and_go() {
        let mut assembly = begun();
        assembly.apply(ResponseType::DocumentDelete(DocumentDelete {
            document: name("a"),
            ..DocumentDelete::default()
        }));
        assembly.apply(set("c", "pro"));
        assembly.apply(set("b", "gold"));
        assert_eq!(assembly.apply(snapshot()), Step::Take);
        assert_eq!(ids(&assembly), ["c"], "b is broken now");
        assembly.apply(ResponseType::DocumentRemove(DocumentRemove {
            document: name("c"),
            ..DocumentRemove::default()
        }));
        assert_eq!(ids(&assembly), Vec::<String>::new());
    }

    #[test]
    fn after_a_reset_nothing_is_taken_before_the_set_is_whole_again() {
        let mut assembly = begun();
        assembly.apply(snapshot());
        assert_eq!(
            assembly.apply(target(TargetChangeType::Reset, false)),
            Step::Wait
        );
        assert_eq!(assembly.apply(snapshot()), Step::Wait);
        assembly.apply(set("b", "pro"));
        assembly.apply(target(TargetChangeType::Current, false));
        assert_eq!(assembly.apply(snapshot()), Step::Take);
        assert_eq!(ids(&assembly), ["b"]);
    }

    #[test]
    fn other_targets_change_nothing_but_are_told_when_reached() {
        let mut assembly = begun();
        assembly.apply(snapshot());
        let of_probe = |kind: TargetChangeType| {
            ResponseType::TargetChange(TargetChange {
                target_change_type: kind.into(),
                target_ids: vec![2],
                ..TargetChange::default()
            })
        };
        assert_eq!(assembly.apply(of_probe(TargetChangeType::Add)), Step::Wait);
        assert!(!assembly.has_reached(2));
        let ResponseType::DocumentChange(mut change) = set("c", "pro") else {
            panic!("a change");
        };
        change.target_ids = vec![2];
        assembly.apply(ResponseType::DocumentChange(change));
        assembly.apply(of_probe(TargetChangeType::Current));
        assert!(assembly.has_reached(2));
        assert_eq!(assembly.apply(snapshot()), Step::Take);
        for kind in [TargetChangeType::Reset, TargetChangeType::Remove] {
            assert_eq!(assembly.apply(of_probe(kind)), Step::Wait);
        }
        assert_eq!(ids(&assembly), ["a", "b"]);
        assert_eq!(assembly.apply(snapshot()), Step::Take);
    }

    #[test]
    fn a_count_that_differs_and_an_ended_target_begin_a_new_stream() {
        let mut assembly = begun();
        let filter = |count| {
            ResponseType::Filter(ExistenceFilter {
                target_id: 1,
                count,
                unchanged_names: None,
            })
        };
        assert_eq!(assembly.apply(filter(2)), Step::Wait);
        assert!(matches!(assembly.apply(filter(1)), Step::Restart(_)));
        let ended = assembly.apply(target(TargetChangeType::Remove, false));
        assert!(matches!(ended, Step::Restart(_)));
    }
}
