//! The router: the table's routes, with what holds for all of them.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::{Method, header};
use metrics::Gauge;
use myelin_env::{Env, TaskFailed};
use myelin_users::Limit;
use tokio::sync::Semaphore;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{Any as AnyOrigin, CorsLayer},
};
use tracing::{Instrument as _, field::Empty};

use crate::{
    Api, ApiError,
    admission::admit,
    request::receive_body,
    routes::{Access, Effect, Resource, Route, routes},
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
            access: route.access,
            limit: route.limit,
            effect: route.effect,
            permits: api.permits().of(route.resource, route.effect),
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

/// How many requests are answered at the same time, once they are there whole; more wait for their turn.
/// Other servers can't take the turns of clients, nor what reads those of what changes something.
pub(crate) struct Permits {
    client_reads: Arc<Semaphore>,
    client_changes: Arc<Semaphore>,
    server_reads: Arc<Semaphore>,
    server_changes: Arc<Semaphore>,
}

impl Default for Permits {
    fn default() -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self {
            client_reads: permits(512),
            // Some of them, like joins, take long.
            client_changes: permits(2048),
            server_reads: permits(128),
            server_changes: permits(256),
        }
    }
}

impl Permits {
    /// Those for a route; requests that wait for something to read are not counted.
    fn of(&self, resource: Resource, effect: Effect) -> Option<Arc<Semaphore>> {
        let permits = match (resource, effect) {
            (_, Effect::Wait) => return None,
            (Resource::Federation, Effect::Read) => &self.server_reads,
            (Resource::Federation, Effect::Change) => &self.server_changes,
            (_, Effect::Read) => &self.client_reads,
            (_, Effect::Change) => &self.client_changes,
        };
        Some(Arc::clone(permits))
    }
}

/// What is known of a route when one of its requests comes.
#[derive(Clone)]
struct Observed {
    api: Api,
    method: Method,
    path: &'static str,
    access: Access,
    limit: Option<Limit>,
    effect: Effect,
    permits: Option<Arc<Semaphore>>,
}

/// Counts and times a request, lets it pass if whoever asks may, bounds how many run, and sees to it that what changes something runs
/// to its end: a handler's future is dropped when its client goes away, a task of `env` is not.
async fn observe(State(route): State<Observed>, request: Request, next: Next) -> Response {
    let Observed {
        api,
        method,
        path,
        access,
        limit,
        effect,
        permits,
    } = route;
    let span = tracing::info_span!(
        "request", %method, path,
        user = Empty, origin = Empty, room = Empty, event = Empty, status = Empty,
    );
    let clock = &api.env().clock;
    let begun = clock.instant();
    let _in_progress = InProgress::begin(&method, path);
    let asked = api.clone();
    // Boxed: it is moved through several futures from here on.
    let answer = Box::pin(async move {
        let admitted = match admit(&asked, access, limit, request).await {
            Ok(request) => receive_body(&asked, request).await,
            Err(refused) => Err(refused),
        };
        let request = match admitted {
            Ok(request) => request,
            Err(refused) => return refused.into_response(),
        };
        // Not before the request is there: who sends it slowly would keep others waiting.
        in_turn(permits, next.run(request)).await
    });
    let answer = carry_out(api.env(), effect, answer);
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

/// Counts a request as long as it exists: a handler may be dropped anywhere.
struct InProgress(Gauge);

impl InProgress {
    fn begin(method: &Method, path: &'static str) -> Self {
        let gauge = metrics::gauge!(
            "myelin_http_requests_in_progress", "method" => method.to_string(), "path" => path
        );
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Does something when it is its turn.
async fn in_turn<F: Future>(permits: Option<Arc<Semaphore>>, answer: F) -> F::Output {
    let _permit = match permits {
        // They are never closed, so an error cannot happen; a request too many would do no harm.
        Some(permits) => permits.acquire_owned().await.ok(),
        None => None,
    };
    answer.await
}

/// Answers a request as befits its effect.
async fn carry_out<F>(env: &Env, effect: Effect, answer: F) -> Result<F::Output, ApiError>
where
    F: Future<Output: Send> + Send + 'static,
{
    match effect {
        Effect::Read => Ok(answer.await),
        Effect::Wait => {
            let answered = env.tasks.stopping().run_until_cancelled_owned(answer);
            answered.await.ok_or_else(stopping)
        }
        Effect::Change => {
            let task = env.tasks.spawn("request", answer.in_current_span());
            task.await.map_err(|failed| match failed {
                TaskFailed::Panicked(_) => ApiError::internal(),
                TaskFailed::Stopped(_) => stopping(),
            })
        }
    }
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

#[cfg(test)]
mod tests {
    use super::{carry_out, in_turn, panicked};
    use crate::routes::Effect;
    use axum::{Router, body::Body, extract::Request, routing::get};
    use http::StatusCode;
    use myelin_env::Env;
    use std::{sync::Arc, time::Duration};
    use tokio::sync::{Semaphore, oneshot};
    use tower::ServiceExt as _;
    use tower_http::catch_panic::CatchPanicLayer;

    #[tokio::test]
    async fn a_change_goes_on_when_its_client_goes_away() {
        let env = Env::manual(0, 0);
        let (go, gone) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let change = async move {
            gone.await.unwrap();
            done.send("changed").unwrap();
        };
        let mut waiting = Box::pin(carry_out(&env, Effect::Change, change));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        go.send(()).unwrap();
        assert_eq!(is_done.await, Ok("changed"));
    }

    #[tokio::test]
    async fn a_read_ends_with_its_client_and_a_wait_with_the_server() {
        let env = Env::manual(0, 0);
        for effect in [Effect::Read, Effect::Wait] {
            let (held, released) = oneshot::channel::<()>();
            let read = async move {
                let _held = held;
                std::future::pending::<()>().await;
            };
            let mut waiting = Box::pin(carry_out(&env, effect, read));
            assert!(futures_util::poll!(&mut waiting).is_pending());
            drop(waiting);
            assert!(released.await.is_err(), "{effect:?}");
        }
        let waiting = carry_out(&env, Effect::Wait, std::future::pending::<()>());
        env.tasks.shutdown(Duration::ZERO).await.unwrap();
        assert!(waiting.await.is_err());
    }

    #[tokio::test]
    async fn no_more_run_than_are_permitted() {
        let permits = Arc::new(Semaphore::new(1));
        let forever = std::future::pending::<()>();
        let mut first = Box::pin(in_turn(Some(permits.clone()), forever));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(in_turn(Some(permits), async {}));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        second.await;
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let env = Env::manual(0, 0);
        let panicking = async { panic!("on purpose") };
        let error = carry_out(&env, Effect::Change, panicking).await;
        let error: Result<(), _> = error;
        assert!(format!("{:?}", error.unwrap_err()).contains("M_UNKNOWN"));
        let handler = || async {
            if true {
                panic!("on purpose")
            }
        };
        let router: Router = Router::new()
            .route("/", get(handler))
            .layer(CatchPanicLayer::custom(panicked));
        let answer = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
