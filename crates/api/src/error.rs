//! The one error type of the API: the specification's "standard error response".

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

/// After how many milliseconds a request may be repeated; the header says the same in seconds.
const RETRY_AFTER_MS: &str = "retry_after_ms";

/// An answer that is an error: a status, an error code of the specification, a text for people, and
/// fields that some codes carry beside these.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    /// The answer to an unfinished authentication has none.
    errcode: Option<String>,
    message: String,
    extra: Map<String, Value>,
}

impl ApiError {
    /// An error with this status, code and text.
    pub fn new(status: StatusCode, errcode: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status,
            errcode: Some(errcode.into()),
            message: message.into(),
            extra: Map::new(),
        }
    }

    /// Adds a field to the answer.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(field.to_owned(), value.into());
        self
    }

    /// 401: user-interactive authentication has to go on. The caller adds how.
    pub(crate) fn challenge() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            errcode: None,
            message: String::new(),
            extra: Map::new(),
        }
    }

    /// 401: the last stage of user-interactive authentication did not count. The caller adds how it
    /// goes on.
    pub(crate) fn forbidden_stage(why: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_FORBIDDEN", why)
    }

    /// 400: a parameter or field is not what it has to be.
    pub fn invalid_param(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", message)
    }

    /// 400: a parameter or field that has to be there is missing.
    pub fn missing_param(name: &str) -> Self {
        let message = format!("Missing {name}");
        Self::new(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", message)
    }

    /// 400: understood, but this server does not do that.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", message)
    }

    /// 400: JSON, but not of the expected form.
    pub fn bad_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_BAD_JSON", message)
    }

    /// 400: not JSON at all.
    pub fn not_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_NOT_JSON", message)
    }

    /// 408: the request took too long to arrive.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", message)
    }

    /// 413: more than the server takes.
    pub fn too_large() -> Self {
        let message = "The request is larger than this server takes";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
    }

    /// 401: nothing says who is asking.
    pub fn missing_token() -> Self {
        let message = "An access token is needed";
        Self::new(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", message)
    }

    /// 401: the token was never given out, or has ended.
    pub fn unknown_token() -> Self {
        let message = "The access token is not valid (any more)";
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", message).with("soft_logout", false)
    }

    /// 401: the token has ended; another one for the same device can be had.
    pub fn session_ended(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", message).with("soft_logout", true)
    }

    /// 401: another server did not prove who it is.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", message)
    }

    /// 403: known, but not allowed.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", message)
    }

    /// 403: this is for who administers the server.
    pub fn no_admin() -> Self {
        Self::forbidden("You are not a server admin")
    }

    /// 403: guests may not do this.
    pub fn no_guests() -> Self {
        Self::guests_forbidden("Guests may not do this")
    }

    /// 403: something that is for guests, or for them too, is not had here.
    pub fn guests_forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", message)
    }

    /// 404: no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message)
    }

    /// 404: no such endpoint.
    pub fn unrecognized() -> Self {
        let message = "This server has no such endpoint";
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", message)
    }

    /// 405: the endpoint has no such method.
    pub fn method_not_allowed() -> Self {
        let message = "This endpoint does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", message)
    }

    /// 429: too often. Client-server API, "Rate limiting".
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        Self::new(status, "M_LIMIT_EXCEEDED", "Too many requests")
            .with(RETRY_AFTER_MS, retry_after_ms.saturating_add(1))
    }

    /// 500: the fault is on this side. What it was stands in the log only.
    pub fn internal() -> Self {
        let message = "Internal server error";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", message)
    }

    /// 503: it may work if asked again later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message)
    }

    /// 502: other servers could not be asked, or gave no usable answer.
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = self.extra;
        let retry_after_ms = body.get(RETRY_AFTER_MS).and_then(Value::as_u64);
        if let Some(errcode) = self.errcode {
            body.insert("errcode".to_owned(), json!(errcode));
            body.insert("error".to_owned(), json!(self.message));
        }
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(ms) = retry_after_ms {
            let seconds = HeaderValue::from(ms.div_ceil(1000));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
