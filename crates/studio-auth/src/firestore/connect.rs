//! Connecting to Firestore, or to an emulator named by configuration rather than by the process's environment.

use ::firestore::gcloud_sdk::google_cloud_auth::credentials::{
    CacheableResource, Credentials, CredentialsProvider, EntityTag,
};
use ::firestore::gcloud_sdk::google_cloud_auth::errors::CredentialsError;
use ::firestore::{FirestoreDb, FirestoreDbOptions, FirestoreResult};
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderValue};

use crate::config::FirestoreConfig;

/// A client, once the server can be reached.
pub(super) async fn connect(config: &FirestoreConfig) -> FirestoreResult<FirestoreDb> {
    // Retries are decided by the callers: a question must be one request, and a session that
    // fails is begun again as a whole.
    let options = FirestoreDbOptions::new(config.project_id.clone()).with_max_retries(0);
    match &config.emulator_host {
        None => FirestoreDb::with_options(options).await,
        Some(host) => {
            let options = options.with_firebase_api_url(format!("http://{host}"));
            let credentials = Credentials::from(EmulatorCredentials(EntityTag::new()));
            FirestoreDb::with_options_auth(options, credentials).await
        }
    }
}

/// An error as one line, with what caused it.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// What emulators take for an administrator, whatever rules they were given.
#[derive(Debug)]
struct EmulatorCredentials(EntityTag);

impl CredentialsProvider for EmulatorCredentials {
    async fn headers(
        &self,
        known: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        if known.get::<EntityTag>() == Some(&self.0) {
            return Ok(CacheableResource::NotModified);
        }
        let owner = (AUTHORIZATION, HeaderValue::from_static("Bearer owner"));
        Ok(CacheableResource::New {
            entity_tag: self.0.clone(),
            data: HeaderMap::from_iter([owner]),
        })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}
