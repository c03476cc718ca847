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
use crate::gateway::{Gateway, Visit};
use crate::memory::EVENT_BYTES;
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

/// After so many events of a batch other requests get their turn,
const EVENTS_AT_A_TIME: usize = 32;
/// or after so many bytes.
const BYTES_AT_A_TIME: usize = 64 * 1024;

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
    let mut held = gateway.memory.hold();
    let (bytes, _) = request::read(headers, body, &ONE, gateway.body_timeout, &mut held).await?;
    held.grow(EVENT_BYTES)?;
    let header_id = request::idempotency_key(headers)?;
    let parsed = body::parse(&bytes)?;
    let named = parsed.event_id().or_else(|| header_id.clone());
    let about_it = |error: ApiError| match &named {
        Some(id) => error.about(id.as_str()),
        None => error,
    };
    gateway.admit(visit, 1).await.map_err(about_it)?;
    let checked = parsed.check(header_id).map_err(about_it)?;
    let games = gateway.games(visit, &[&checked.game_id]).await;
    let ready = gateway.prepare(visit, &games, &checked)?;
    drop(bytes);
    let id = ready.id.clone();
    let settled = gateway.settle(vec![ready], held).await.pop();
    let fate = settled.unwrap_or_else(|| Err(ApiError::new(Code::Internal)));
    // Whatever went wrong, a retry under this id is the same event.
    let in_log = fate.map_err(|error| error.about(id.as_str()))?;
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
    let mut held = gateway.memory.hold();
    let patience = gateway.body_timeout;
    let (bytes, form) = request::read(headers, body, &MANY, patience, &mut held).await?;
    if headers.contains_key(request::IDEMPOTENCY_KEY) {
        let why = "is for single events; give each event of a batch its eventId";
        return Err(ApiError::with(
            Code::InvalidField,
            format!("Idempotency-Key {why}"),
        ));
    }
    let events = envelope::split(bytes, form).await?;
    held.grow(events.len() * EVENT_BYTES)?;
    gateway.stats.batch(events.len());
    let (admitted, refusal) = match gateway.admit(visit, events.len()).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            gateway.stats.refused(refusal.code(), events.len());
            return Err(refusal);
        }
    };
    let mut pace = Pace::default();
    let mut read = Vec::with_capacity(events.len());
    for bytes in &events {
        pace.step(bytes.len()).await;
        read.push(read_one(bytes));
    }
    // One question for all of them, and none for those that do not come in.
    let named = read[..admitted].iter().flatten();
    let named: Vec<_> = named.map(|checked| &checked.game_id).collect();
    let games = gateway.games(visit, &named).await;
    // Of each event its id, and why it is not to be appended, if it is not.
    let mut judged: Vec<(Option<EventId>, Option<ApiError>)> = Vec::with_capacity(events.len());
    let mut ready = Vec::with_capacity(admitted);
    for (index, read) in read.into_iter().enumerate() {
        pace.step(events[index].len()).await;
        let checked = match read {
            Ok(checked) => checked,
            // Sending it again would not help it, admitted or not.
            Err((id, error)) => {
                judged.push((id, Some(error)));
                continue;
            }
        };
        if index >= admitted {
            let id = gateway.event_id_of(&checked)?;
            judged.push((Some(id), Some(refusal.clone())));
            continue;
        }
        match gateway.prepare(visit, &games, &checked) {
            Ok(event) => {
                judged.push((Some(event.id.clone()), None));
                ready.push(event);
            }
            Err(error) => {
                let id = error.event_id().and_then(|id| EventId::new(id).ok());
                judged.push((id, Some(error)));
            }
        }
    }
    drop(events);
    let mut settled = gateway.settle(ready, held).await.into_iter();
    let mut answer = Many::default();
    let mut cause = None;
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
            Err(error) => {
                gateway.stats.refused(error.code(), 1);
                cause = cause.or_else(|| error.cause().map(str::to_owned));
            }
        }
        answer.push(id.as_ref(), &outcome);
    }
    if let Some(cause) = cause {
        tracing::warn!(
            correlation.id = visit.origin.correlation.as_str(),
            studio.id = visit.origin.studio.as_str(),
            error.cause = cause,
            "events of a batch cannot be taken now"
        );
    }
    Ok(answer)
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

/// Lets other requests have their turn now and then.
#[derive(Default)]
struct Pace {
    events: usize,
    bytes: usize,
}

impl Pace {
    async fn step(&mut self, bytes: usize) {
        self.events += 1;
        self.bytes += bytes;
        if self.events >= EVENTS_AT_A_TIME || self.bytes >= BYTES_AT_A_TIME {
            *self = Self::default();
            tokio::task::yield_now().await;
        }
    }
}

async fn turned_away(headers: &HeaderMap, body: Body, error: ApiError) -> Response {
    request::discard_unread(headers, body).await;
    error.into_response()
}

fn with_limits(mut response: Response, gateway: &Gateway, visit: &Visit) -> Response {
    let quotas = gateway.quotas(visit);
    for (name, value) in [
        (RATE_LIMIT, rate_limit(&quotas)),
        (RATE_LIMIT_POLICY, rate_limit_policy(&quotas)),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            let headers = response.headers_mut();
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
