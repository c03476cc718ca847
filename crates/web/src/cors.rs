//! CORS for browsers: any origin may call, because the key is in a header and not in a cookie.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderValue, Method, StatusCode};

/// What a browser may send and see.
#[derive(Debug, Clone)]
pub struct Cors {
    /// Methods, separated by commas.
    pub methods: &'static str,
    /// Request headers, separated by commas.
    pub request_headers: &'static str,
    /// Headers of the answer a page may read, separated by commas.
    pub exposed_headers: &'static str,
}

/// Two hours: the longest any browser but Firefox honours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Answers preflights, on any path and without a key, and marks every other answer.
pub(crate) async fn cors(State(cors): State<Arc<Cors>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let preflight = request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let answer = response.headers_mut();
        let methods = HeaderValue::from_static(cors.methods);
        let request_headers = HeaderValue::from_static(cors.request_headers);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, request_headers);
        answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        response
    } else {
        next.run(request).await
    };
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    let exposed = HeaderValue::from_static(cors.exposed_headers);
    answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}
