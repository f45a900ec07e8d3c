//! The router: the table's routes, with what holds for all of them.

use std::{any::Any, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::{Method, header};
use myelin_env::TaskFailed;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{Any as AnyOrigin, CorsLayer},
};
use tracing::{Instrument as _, field::Empty};

use crate::{
    Api, ApiError,
    routes::{Effect, Resource, Route, routes},
};

/// Browsers may remember for a day that they are allowed to ask.
const PREFLIGHT_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The router of a listener that serves the client-server API, the server-server API, or both.
pub fn router(api: &Api, client: bool, federation: bool) -> Router {
    let served = |resource: Resource| match resource {
        Resource::Client => client,
        Resource::Federation => federation,
        Resource::Both => true,
    };
    let mut router = Router::new();
    for route in routes() {
        if !served(route.resource) {
            continue;
        }
        let observed = Observed {
            api: api.clone(),
            method: route.method.clone(),
            path: route.path,
            effect: route.effect,
        };
        let legacy = route.legacy_path();
        let Route { path, handler, .. } = route;
        let handler = handler.layer(from_fn_with_state(observed, observe));
        if let Some(legacy) = legacy {
            router = router.route(&legacy, handler.clone());
        }
        router = router.route(path, handler);
    }
    let router = router
        .fallback(|| async { ApiError::unrecognized() })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(CatchPanicLayer::custom(panicked));
    let router = if client { router.layer(cors()) } else { router };
    router.with_state(api.clone())
}

/// What is known of a route when one of its requests comes.
#[derive(Clone)]
struct Observed {
    api: Api,
    method: Method,
    path: &'static str,
    effect: Effect,
}

/// Counts and times a request, bounds how many run, and sees to it that what changes something runs
/// to its end: a handler's future is dropped when its client goes away, a task of `env` is not.
async fn observe(State(route): State<Observed>, request: Request, next: Next) -> Response {
    let Observed {
        api,
        method,
        path,
        effect,
    } = route;
    let span = tracing::info_span!(
        "request", %method, path,
        user = Empty, origin = Empty, room = Empty, event = Empty, status = Empty,
    );
    let clock = &api.env().clock;
    let begun = clock.instant();
    let answer = async {
        let tasks = &api.env().tasks;
        match effect {
            Effect::Wait => {
                let answered = tasks
                    .stopping()
                    .run_until_cancelled_owned(next.run(request));
                answered.await.ok_or_else(stopping)
            }
            Effect::Read => {
                let _permit = api.reads().acquire().await;
                Ok(next.run(request).await)
            }
            Effect::Change => {
                let changes = api.clone();
                let change = async move {
                    let _permit = changes.changes().acquire().await;
                    next.run(request).await
                };
                match tasks.spawn("request", change.in_current_span()).await {
                    Ok(response) => Ok(response),
                    Err(TaskFailed::Panicked(_)) => Err(ApiError::internal()),
                    Err(TaskFailed::Stopped(_)) => Err(stopping()),
                }
            }
        }
    };
    let response = answer.instrument(span.clone()).await.into_response();
    let status = response.status().as_u16();
    span.record("status", status);
    let took = begun.elapsed(clock);
    let labels = [("method", method.to_string()), ("path", path.to_owned())];
    metrics::histogram!("myelin_http_request_duration_seconds", &labels).record(took.as_secs_f64());
    let [method, path] = labels;
    let labels = [method, path, ("status", status.to_string())];
    metrics::counter!("myelin_http_requests_total", &labels).increment(1);
    span.in_scope(|| tracing::debug!(took_ms = took.as_millis() as u64, "answered"));
    response
}

fn stopping() -> ApiError {
    ApiError::unavailable("The server is stopping")
}

fn panicked(_payload: Box<dyn Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    ApiError::internal().into_response()
}

/// Client-server API, "Web browser clients".
fn cors() -> CorsLayer {
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let requested_with = header::HeaderName::from_static("x-requested-with");
    let headers = [
        requested_with,
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        header::DATE,
    ];
    CorsLayer::new()
        .allow_origin(AnyOrigin)
        .allow_methods(methods)
        .allow_headers(headers)
        .max_age(PREFLIGHT_LIFETIME)
}
