//! What operators ask a process over HTTP: `/healthz`, `/readyz`, `/metrics`.

use std::net::SocketAddr;

use axum::Json;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::health::Health;
use crate::metrics::MetricsHandle;
use crate::run::Context;
use crate::serve::{self, BindError, ServeConfig};
use crate::vars::VarsError;

/// Why the operators' server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// Its address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its settings make no sense.
    #[error(transparent)]
    Vars(#[from] VarsError),
}

/// The routes `/healthz` (200 while the process can answer at all), `/readyz` (200 or 503, with
/// every check's outcome) and `/metrics` (Prometheus text).
pub fn router(service: &'static str, health: Health, metrics: MetricsHandle) -> Router {
    let healthz = move || async move {
        Json(json!({"status": "ok", "service": service, "version": crate::VERSION}))
    };
    let readyz = move || async move { ready(&health).await };
    let rendered = move || async move {
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], metrics.render())
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(rendered))
}

async fn ready(health: &Health) -> Response {
    let report = health.report().await;
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(report)).into_response()
}

/// Where a service's operators' server listens unless `BM_OPS_ADDR` says otherwise.
pub fn default_address(service: &str) -> &'static str {
    match service {
        "event-router" => "0.0.0.0:9101",
        "quest-processor" => "0.0.0.0:9102",
        "leaderboard-processor" => "0.0.0.0:9103",
        "tournament-processor" => "0.0.0.0:9104",
        "battlepass-processor" => "0.0.0.0:9105",
        "reward-processor" => "0.0.0.0:9106",
        _ => "0.0.0.0:9100",
    }
}

/// A running server of operators' routes; stops when dropped.
#[derive(Debug)]
pub struct OpsServer {
    address: SocketAddr,
    _stop: DropGuard,
    _task: JoinHandle<usize>,
}

impl OpsServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves the operators' routes of a service that has no others, on `BM_OPS_ADDR`, until the
/// returned server is dropped: not merely until shutdown, for draining is worth watching too.
pub async fn start(ctx: &Context) -> Result<OpsServer, OpsError> {
    let configured = ctx.vars.get("BM_OPS_ADDR");
    let address = configured
        .as_deref()
        .unwrap_or_else(|| default_address(ctx.service));
    let config = ServeConfig::from_vars(&ctx.vars)?;
    let listener = serve::bind(address).await?;
    let address = listener.local_addr().map_err(|source| BindError {
        address: address.to_owned(),
        source,
    })?;
    ctx.announce(address);
    let stop = CancellationToken::new();
    let router = router(ctx.service, ctx.health.clone(), ctx.metrics.clone());
    let task = tokio::spawn(serve::serve(listener, router, config, stop.clone()));
    let latch = (ctx.health.clone(), ctx.shutdown.clone());
    tokio::spawn(async move {
        let (health, shutdown) = latch;
        shutdown.tripped().await;
        health.drain();
    });
    Ok(OpsServer {
        address,
        _stop: stop.drop_guard(),
        _task: task,
    })
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::Clock;
    use crate::health::{Need, Outcome};

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_operators_routes_answer() {
        let metrics = crate::metrics::install("test", &Clock::system()).unwrap();
        let health = Health::new();
        let router = router("event-router", health.clone(), metrics);
        let (status, body) = ask(&router, "/healthz").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains(r#""service":"event-router""#), "{body}");
        assert_eq!(ask(&router, "/readyz").await.0, StatusCode::OK);
        health.register(
            "postgres",
            Need::Required,
            std::time::Duration::from_secs(1),
            || async { Outcome::failed("connection refused") },
        );
        let (status, body) = ask(&router, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            body,
            r#"{"ready":false,"checks":{"postgres":{"ok":false,"detail":"connection refused"}}}"#
        );
        let (status, body) = ask(&router, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("bm_build_info"), "{body}");
    }
}
