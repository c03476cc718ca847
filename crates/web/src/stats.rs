//! Request metrics, with every handle made once.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram};

use crate::error::Code;

/// Label of requests that match no route.
const NO_ROUTE: &str = "none";
/// Statuses of answers that are no [`crate::ApiError`]; others are counted as `other`.
const PLAIN: [&str; 3] = ["200", "204", "other"];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With an error of the table.
    Refused(Code),
    /// With any other answer.
    Answered(StatusCode),
    /// The client went away before.
    Gone,
}

/// The request metrics of one service.
#[derive(Debug)]
pub struct HttpStats {
    in_flight: Gauge,
    routes: Vec<RouteStats>,
    other: RouteStats,
}

impl HttpStats {
    /// Metrics of a service that has these routes (as they are given to the router).
    pub fn new(service: &'static str, routes: &[&'static str]) -> Self {
        metrics::describe_counter!(
            "bm_http_requests_total",
            "Requests by service, route, status and error code."
        );
        metrics::describe_histogram!(
            "bm_http_request_seconds",
            metrics::Unit::Seconds,
            "From a request's head to its answer."
        );
        metrics::describe_gauge!("bm_http_requests_in_flight", "Requests under way.");
        Self {
            in_flight: metrics::gauge!("bm_http_requests_in_flight", "service" => service),
            routes: routes
                .iter()
                .map(|route| RouteStats::new(service, route))
                .collect(),
            other: RouteStats::new(service, NO_ROUTE),
        }
    }

    pub(crate) fn in_flight(&self) -> &Gauge {
        &self.in_flight
    }

    pub(crate) fn of(&self, route: Option<&str>) -> &RouteStats {
        let known = route.and_then(|route| self.routes.iter().find(|one| one.route == route));
        known.unwrap_or(&self.other)
    }
}

#[derive(Debug)]
pub(crate) struct RouteStats {
    service: &'static str,
    route: &'static str,
    seconds: Histogram,
    refused: Vec<OnceLock<Counter>>,
    plain: [OnceLock<Counter>; PLAIN.len()],
    gone: OnceLock<Counter>,
}

impl RouteStats {
    fn new(service: &'static str, route: &'static str) -> Self {
        Self {
            service,
            route,
            seconds: metrics::histogram!(
                "bm_http_request_seconds", "service" => service, "route" => route
            ),
            refused: Code::ALL.iter().map(|_| OnceLock::new()).collect(),
            plain: Default::default(),
            gone: OnceLock::new(),
        }
    }

    pub(crate) fn route(&self) -> &'static str {
        self.route
    }

    pub(crate) fn record(&self, outcome: Outcome, took: Duration) {
        self.seconds.record(took.as_secs_f64());
        let counter = match outcome {
            Outcome::Refused(code) => self.refused[code as usize]
                .get_or_init(|| self.counter(code.status().as_str().to_owned(), code.as_str())),
            Outcome::Answered(status) => {
                let place = PLAIN.iter().position(|one| *one == status.as_str());
                let place = place.unwrap_or(PLAIN.len() - 1);
                self.plain[place].get_or_init(|| self.counter(PLAIN[place].to_owned(), ""))
            }
            Outcome::Gone => self
                .gone
                .get_or_init(|| self.counter("none".to_owned(), "client_gone")),
        };
        counter.increment(1);
    }

    fn counter(&self, status: String, code: &'static str) -> Counter {
        metrics::counter!(
            "bm_http_requests_total",
            "service" => self.service, "route" => self.route, "status" => status, "code" => code
        )
    }
}
