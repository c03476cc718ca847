//! Studios as documents in the Firestore emulator, in a project nobody else uses.

use bm_testkit::{TestEnv, unique};
use firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
use firestore::gcloud_sdk::google::firestore::v1::{
    ArrayValue, DeleteDocumentRequest, Document, MapValue, UpdateDocumentRequest, Value,
};
use firestore::gcloud_sdk::google_cloud_auth::credentials::anonymous;
use firestore::{FirestoreDb, FirestoreDbOptions};
use serde_json::Value as Json;

/// The collection `studios` of a project.
pub struct Studios {
    project: String,
    db: FirestoreDb,
}

impl Studios {
    /// An empty collection.
    pub async fn new() -> Self {
        let project = unique("e2e");
        let options = FirestoreDbOptions::new(project.clone())
            .with_firebase_api_url(format!("http://{}", TestEnv::get().firestore));
        let db = FirestoreDb::with_options_auth(options, anonymous::Builder::new().build()).await;
        Self {
            project,
            db: db.expect("the Firestore emulator can be reached"),
        }
    }

    /// The project's id.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Writes the document of studio `id`.
    pub async fn put(&self, id: &str, document: &Json) {
        let Some(ValueType::MapValue(map)) = value(document).value_type else {
            panic!("a document is an object");
        };
        let request = UpdateDocumentRequest {
            document: Some(Document {
                name: self.name(id),
                fields: map.fields,
                ..Document::default()
            }),
            ..UpdateDocumentRequest::default()
        };
        let written = self.db.client().get().update_document(request).await;
        written.expect("a document can be written");
    }

    /// Deletes the document of studio `id`.
    pub async fn delete(&self, id: &str) {
        let request = DeleteDocumentRequest {
            name: self.name(id),
            ..DeleteDocumentRequest::default()
        };
        let deleted = self.db.client().get().delete_document(request).await;
        deleted.expect("a document can be deleted");
    }

    fn name(&self, id: &str) -> String {
        format!("{}/studios/{id}", self.db.get_documents_path())
    }
}

fn value(json: &Json) -> Value {
    let value_type = match json {
        Json::Null => ValueType::NullValue(0),
        Json::Bool(value) => ValueType::BooleanValue(*value),
        Json::Number(number) => {
            ValueType::IntegerValue(number.as_i64().expect("the tests' numbers are whole"))
        }
        Json::String(text) => ValueType::StringValue(text.clone()),
        Json::Array(items) => ValueType::ArrayValue(ArrayValue {
            values: items.iter().map(value).collect(),
        }),
        Json::Object(fields) => ValueType::MapValue(MapValue {
            fields: fields
                .iter()
                .map(|(name, item)| (name.clone(), value(item)))
                .collect(),
        }),
    };
    Value {
        value_type: Some(value_type),
    }
}
