//! The gateway's routes, and the way of a request through them.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bm_admission::{RATE_LIMIT, RATE_LIMIT_POLICY, rate_limit, rate_limit_policy};
use bm_contracts::EventId;
use bm_web::{ApiError, Code, CorrelationId, Cors, HttpStats};
use http::header::ALLOW;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::answer::{self, InLog, Many};
use crate::body::{self, Checked, MAX_EVENT_BYTES};
use crate::envelope;
use crate::gateway::{Gateway, Ready, Visit};
use crate::request::{self, MANY, ONE};

/// Routes of single events.
const ONE_ROUTES: [&str; 2] = ["/v1/events", "/api/events"];
/// Routes of batches.
const MANY_ROUTES: [&str; 2] = ["/v1/events/batch", "/api/events/batch"];

const CORS: Cors = Cors {
    methods: "POST, OPTIONS",
    request_headers: "x-api-key, content-type, idempotency-key, x-correlation-id, content-encoding, traceparent",
    exposed_headers: "x-correlation-id, retry-after, ratelimit, ratelimit-policy",
};

/// After so many events of a batch other requests get their turn.
const EVENTS_AT_A_TIME: usize = 32;

/// Everything a client of the gateway can ask, with our layers around it.
pub fn router(gateway: Arc<Gateway>) -> Router {
    let paths: Vec<&'static str> = ONE_ROUTES.into_iter().chain(MANY_ROUTES).collect();
    let stats = Arc::new(HttpStats::new("gateway", &paths));
    let mut router = Router::new();
    for route in ONE_ROUTES {
        router = router.route(route, post(one).options(options));
    }
    for route in MANY_ROUTES {
        router = router.route(route, post(many).options(options));
    }
    bm_web::dress(router.with_state(gateway), stats, CORS)
}

async fn options() -> Response {
    (StatusCode::NO_CONTENT, [(ALLOW, CORS.methods)]).into_response()
}

async fn one(
    State(gateway): State<Arc<Gateway>>,
    correlation: CorrelationId,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let mut visit = match gateway.authenticate(&headers, correlation).await {
        Ok(visit) => visit,
        Err(error) => return turned_away(&headers, body, error).await,
    };
    let outcome = take_one(&gateway, &mut visit, &headers, body).await;
    let response = match outcome {
        Ok((id, in_log)) => {
            gateway.stats.in_log(in_log);
            answer::one(&id, in_log)
        }
        Err(error) => {
            gateway.stats.refused(error.code(), 1);
            error.into_response()
        }
    };
    with_limits(response, &gateway, &visit)
}

async fn take_one(
    gateway: &Arc<Gateway>,
    visit: &mut Visit,
    headers: &HeaderMap,
    body: Body,
) -> Result<(EventId, InLog), ApiError> {
    let (bytes, _) = request::read(headers, body, &ONE, gateway.body_timeout).await?;
    let header_id = request::idempotency_key(headers)?;
    let parsed = body::parse(&bytes)?;
    let named = parsed.event_id().or_else(|| header_id.clone());
    let about_it = |error: ApiError| match &named {
        Some(id) => error.about(id.as_str()),
        None => error,
    };
    gateway.admit(visit, 1).await.map_err(about_it)?;
    let checked = parsed.check(header_id).map_err(about_it)?;
    let ready = gateway.prepare(visit, checked).await?;
    let id = ready.event_id().clone();
    let settled = gateway.settle(visit, vec![ready]).await.pop();
    let in_log = settled.unwrap_or_else(|| Err(ApiError::new(Code::Internal)))?;
    Ok((id, in_log))
}

async fn many(
    State(gateway): State<Arc<Gateway>>,
    correlation: CorrelationId,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let mut visit = match gateway.authenticate(&headers, correlation).await {
        Ok(visit) => visit,
        Err(error) => return turned_away(&headers, body, error).await,
    };
    let response = match take_many(&gateway, &mut visit, &headers, body).await {
        Ok(many) => many.into_response(),
        Err(error) => error.into_response(),
    };
    with_limits(response, &gateway, &visit)
}

async fn take_many(
    gateway: &Arc<Gateway>,
    visit: &mut Visit,
    headers: &HeaderMap,
    body: Body,
) -> Result<Many, ApiError> {
    let (bytes, form) = request::read(headers, body, &MANY, gateway.body_timeout).await?;
    let events = envelope::split(&bytes, form)?;
    gateway.stats.batch(events.len());
    let (admitted, refusal) = match gateway.admit(visit, events.len()).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            gateway.stats.refused(refusal.code(), events.len());
            return Err(refusal);
        }
    };
    // Of each event its id, and why it is not to be appended, if it is not.
    let mut judged: Vec<(Option<EventId>, Option<ApiError>)> = Vec::with_capacity(events.len());
    let mut ready = Vec::with_capacity(admitted);
    for (index, bytes) in events.iter().enumerate() {
        if index % EVENTS_AT_A_TIME == EVENTS_AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
        if index >= admitted {
            judged.push(match read_one(bytes) {
                // Sending it again would not help it.
                Err((id, error)) => (id, Some(error)),
                Ok(checked) => {
                    let id = gateway.event_id_of(&checked)?;
                    (Some(id), Some(refusal.clone()))
                }
            });
            continue;
        }
        match judge(gateway, visit, bytes).await {
            Ok(event) => {
                judged.push((Some(event.event_id().clone()), None));
                ready.push(event);
            }
            Err((id, error)) => judged.push((id, Some(error))),
        }
    }
    let mut settled = gateway.settle(visit, ready).await.into_iter();
    let mut answer = Many::default();
    for (id, refused) in judged {
        let outcome = refused.map_or_else(
            || {
                let missing = || Err(ApiError::new(Code::Internal));
                settled.next().unwrap_or_else(missing)
            },
            Err,
        );
        match &outcome {
            Ok(in_log) => gateway.stats.in_log(*in_log),
            Err(error) => gateway.stats.refused(error.code(), 1),
        }
        answer.push(id.as_ref(), &outcome);
    }
    Ok(answer)
}

/// One event of a batch; a refused one with its id, once it has one.
async fn judge(
    gateway: &Gateway,
    visit: &Visit,
    bytes: &[u8],
) -> Result<Ready, (Option<EventId>, ApiError)> {
    let checked = read_one(bytes)?;
    gateway.prepare(visit, checked).await.map_err(|error| {
        let id = error.event_id().and_then(|id| EventId::new(id).ok());
        (id, error)
    })
}

/// Reads one event of a batch; a refused one comes with its id, if it names one.
fn read_one(bytes: &[u8]) -> Result<Checked<'_>, (Option<EventId>, ApiError)> {
    if bytes.len() > MAX_EVENT_BYTES {
        let sentence = format!("Event must be at most {} KiB", MAX_EVENT_BYTES / 1024);
        return Err((None, ApiError::with(Code::TooLarge, sentence)));
    }
    let parsed = body::parse(bytes).map_err(|error| (None, error))?;
    let named = parsed.event_id();
    parsed.check(None).map_err(|error| (named, error))
}

async fn turned_away(headers: &HeaderMap, body: Body, error: ApiError) -> Response {
    request::discard(headers, body).await;
    error.into_response()
}

fn with_limits(mut response: Response, gateway: &Gateway, visit: &Visit) -> Response {
    let quotas = gateway.quotas(visit);
    for (name, value) in [
        (RATE_LIMIT, rate_limit(&quotas)),
        (RATE_LIMIT_POLICY, rate_limit_policy(&quotas)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            let headers = response.headers_mut();
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
