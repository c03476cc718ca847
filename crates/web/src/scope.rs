//! The layers around a router: correlation, access log, metrics, errors in one form, panics, CORS.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method};
use tower_http::catch_panic::CatchPanicLayer;

use crate::correlation::{self, CorrelationId};
use crate::cors::{Cors, cors};
use crate::error::{ApiError, Code};
use crate::stats::{HttpStats, Outcome, RouteStats};

/// Puts around every route of `router`, and around what matches none: a correlation id, one access
/// log line and one count per request, errors (404, 405 and panics too) in our form, and CORS.
pub fn dress(router: Router, stats: Arc<HttpStats>, policy: Cors) -> Router {
    router
        .fallback(|| async { ApiError::new(Code::NotFound) })
        .method_not_allowed_fallback(|| async { ApiError::new(Code::MethodNotAllowed) })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::new(policy), cors))
        .layer(middleware::from_fn_with_state(stats, scope))
}

/// The panic hook has logged the payload.
fn panicked(_payload: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::new(Code::Internal).into_response()
}

/// Counts a request that is dropped before its answer: the client went away.
struct Underway<'a> {
    stats: &'a HttpStats,
    route: &'a RouteStats,
    since: Instant,
    ended: bool,
}

impl<'a> Underway<'a> {
    fn begin(stats: &'a HttpStats, route: &'a RouteStats) -> Self {
        stats.in_flight().increment(1.0);
        Self {
            stats,
            route,
            since: Instant::now(),
            ended: false,
        }
    }

    fn end(mut self, outcome: Outcome) -> f64 {
        let took = self.since.elapsed();
        self.ended = true;
        self.route.record(outcome, took);
        took.as_secs_f64() * 1e3
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.stats.in_flight().decrement(1.0);
        if !self.ended {
            self.route.record(Outcome::Gone, self.since.elapsed());
        }
    }
}

async fn scope(State(http): State<Arc<HttpStats>>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let route = http.of(matched.map(MatchedPath::as_str));
    let underway = Underway::begin(&http, route);
    let correlation = CorrelationId::of(request.headers());
    request.extensions_mut().insert(correlation.clone());
    let method = request.method().clone();

    let mut response = next.run(request).await;

    let error = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &error {
        write_error(&mut response, error, &correlation, &method);
    }
    response
        .headers_mut()
        .insert(correlation::HEADER, correlation.header_value());
    let status = response.status();
    let outcome = match error.as_ref().map(ApiError::code) {
        None => Outcome::Answered(status),
        Some(Code::ClientGone) => Outcome::Gone,
        Some(code) => Outcome::Refused(code),
    };
    let name = route.route();
    let millis = underway.end(outcome);
    log(
        &method,
        name,
        status.as_u16(),
        millis,
        error.as_ref(),
        &correlation,
    );
    response
}

fn write_error(
    response: &mut Response,
    error: &ApiError,
    correlation: &CorrelationId,
    method: &Method,
) {
    let body = error.body(correlation);
    // axum notes the empty body's length when the error becomes a response.
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if method != Method::HEAD {
        *response.body_mut() = Body::from(body);
    }
}

/// Faults of ours are errors, what we cannot do for want of others is a warning, refusals are
/// information, and what went well, or was given up by its client, only matters to whoever looks
/// for it.
fn log(
    method: &Method,
    route: &str,
    status: u16,
    millis: f64,
    error: Option<&ApiError>,
    correlation: &CorrelationId,
) {
    let correlation = correlation.as_str();
    let method = method.as_str();
    let millis = (millis * 1e3).round() / 1e3;
    match error {
        Some(error) if error.code() == Code::Internal => tracing::error!(
            correlation.id = correlation,
            http.method = method,
            http.route = route,
            http.status = status,
            error.code = error.code().as_str(),
            duration.ms = millis,
            "request failed"
        ),
        Some(error) if error.code() == Code::Unavailable => tracing::warn!(
            correlation.id = correlation,
            http.method = method,
            http.route = route,
            http.status = status,
            error.code = error.code().as_str(),
            error.cause = error.cause(),
            event.id = error.event_id(),
            duration.ms = millis,
            "request cannot be served"
        ),
        Some(error) if error.code() == Code::ClientGone => tracing::debug!(
            correlation.id = correlation,
            http.method = method,
            http.route = route,
            error.cause = error.cause(),
            duration.ms = millis,
            "client went away"
        ),
        Some(error) => tracing::info!(
            correlation.id = correlation,
            http.method = method,
            http.route = route,
            http.status = status,
            error.code = error.code().as_str(),
            error.sentence = error.sentence(),
            event.id = error.event_id(),
            duration.ms = millis,
            "request refused"
        ),
        None => tracing::debug!(
            correlation.id = correlation,
            http.method = method,
            http.route = route,
            http.status = status,
            duration.ms = millis,
            "request answered"
        ),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use bm_testkit::Logged;
    use http::StatusCode;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    fn router() -> Router {
        async fn breaks() -> Response {
            panic!("in a handler");
        }
        async fn lacks() -> ApiError {
            ApiError::new(Code::Unavailable).because("no broker")
        }
        let router = Router::new()
            .route("/thing", post(|| async { "done" }))
            .route("/gone", get(|| async { ApiError::new(Code::ClientGone) }))
            .route("/lacks", get(lacks))
            .route("/breaks", get(breaks));
        let policy = Cors {
            methods: "POST, OPTIONS",
            request_headers: "x-api-key",
            exposed_headers: "x-correlation-id",
        };
        let stats = HttpStats::new("test", &["/thing", "/breaks"]);
        dress(router, Arc::new(stats), policy)
    }

    async fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> (Response<()>, String) {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            Response::from_parts(parts, ()),
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn an_unknown_route_is_404_in_our_form() {
        let (answer, body) = ask("GET", "/nothing", &[("x-correlation-id", "c-1")]).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(answer.headers()["x-correlation-id"], "c-1");
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(
            body,
            r#"{"error":"Not found","code":"not_found","correlationId":"c-1"}"#
        );
    }

    #[tokio::test]
    async fn another_method_is_405_and_names_the_allowed_one() {
        let (answer, body) = ask("GET", "/thing", &[]).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()["allow"], "POST");
        assert!(body.contains("method_not_allowed"), "{body}");
        let (answer, body) = ask("HEAD", "/thing", &[]).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(body, "");
    }

    #[tokio::test]
    async fn a_panic_is_500_in_our_form() {
        let (answer, body) = ask("GET", "/breaks", &[("x-correlation-id", "c-2")]).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            body,
            r#"{"error":"Internal error","code":"internal","correlationId":"c-2"}"#
        );
    }

    #[test]
    fn an_error_that_is_answered_outside_any_router_can_be_found_in_the_log() {
        let logged = Logged::here();
        let body = crate::error::standalone_body(Code::Timeout);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let log = logged.text();
        assert!(
            log.contains(body["correlationId"].as_str().unwrap()),
            "{log}"
        );
    }

    #[tokio::test]
    async fn what_we_cannot_do_is_a_warning_with_its_cause_and_what_we_refuse_is_not() {
        let logged = Logged::here();
        let (answer, body) = ask("GET", "/lacks", &[]).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!body.contains("broker"), "{body}");
        ask("GET", "/nothing", &[]).await;
        ask("GET", "/gone", &[]).await;
        let log = logged.text();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(
            lines[0].contains(" WARN ") && lines[0].contains(r#"error.cause="no broker""#),
            "{log}"
        );
        assert!(
            lines[1].contains(" INFO ") && lines[1].contains("not_found"),
            "{log}"
        );
    }

    #[tokio::test]
    async fn a_good_answer_is_left_alone_and_marked_for_browsers() {
        let (answer, body) = ask("POST", "/thing", &[("origin", "https://game")]).await;
        assert_eq!((answer.status(), body.as_str()), (StatusCode::OK, "done"));
        let headers = answer.headers();
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["access-control-expose-headers"], "x-correlation-id");
        assert!(CorrelationId::parse(headers["x-correlation-id"].to_str().unwrap()).is_some());
    }

    #[tokio::test]
    async fn a_preflight_is_answered_on_any_path() {
        let headers = [
            ("origin", "https://game"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x-api-key"),
        ];
        for path in ["/thing", "/nothing"] {
            let (answer, body) = ask("OPTIONS", path, &headers).await;
            assert_eq!(
                (answer.status(), body.as_str()),
                (StatusCode::NO_CONTENT, "")
            );
            let headers = answer.headers();
            assert_eq!(headers["access-control-allow-methods"], "POST, OPTIONS");
            assert_eq!(headers["access-control-allow-headers"], "x-api-key");
            assert_eq!(headers["access-control-allow-origin"], "*");
        }
    }
}
