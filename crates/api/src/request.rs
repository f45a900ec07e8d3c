//! What handlers take from a request: parameters and JSON bodies; and JSON answers.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody as _, to_bytes},
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header, request::Parts};
use myelin_rooms::PduAnswer;
use myelin_storage::StorageError;
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};

use crate::{Api, ApiError};

/// The most a client may send at once: events are at most 64 KiB, key uploads and room creations
/// some times that.
const MAX_CLIENT_BODY: usize = 4 * 1024 * 1024;

/// The most another server may send at once: 50 PDUs and 100 EDUs of 64 KiB each, with room to spare.
pub(crate) const MAX_FEDERATION_BODY: usize = 16 * 1024 * 1024;

/// A body has to arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Parameters in the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, api).await {
            Ok(axum::extract::Path(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(ApiError::invalid_param(rejection.body_text())),
        }
    }
}

/// Parameters behind the question mark.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        match axum::extract::Query::from_request_parts(parts, api).await {
            Ok(axum::extract::Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(ApiError::invalid_param(rejection.body_text())),
        }
    }
}

/// A JSON body, of a request or of an answer.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let body = read_body(request.into_body(), MAX_CLIENT_BODY, api).await?;
        from_json(&body).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => json_response(body),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written as JSON");
                ApiError::internal().into_response()
            }
        }
    }
}

/// A JSON body that may be left out where everything in it is optional.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let body = read_body(request.into_body(), MAX_CLIENT_BODY, api).await?;
        let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
        from_json(body).map(Self)
    }
}

/// An answer that is JSON already.
pub(crate) fn json_response(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// An answer that is read while it is sent. If that fails, the connection breaks off: a part of it is
/// no answer.
pub(crate) fn pdu_response(answer: PduAnswer) -> Response {
    let pieces = stream::try_unfold(answer, |mut answer| async move {
        let piece = answer.next().await?;
        Ok::<_, StorageError>(piece.map(|piece| (piece, answer)))
    });
    json_response(Body::from_stream(pieces))
}

/// Waits until the whole of a request is there.
pub(crate) async fn receive_body(api: &Api, request: Request) -> Result<Request, ApiError> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let body = read_body(body, MAX_CLIENT_BODY, api).await?;
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_body(body: Body, limit: usize, api: &Api) -> Result<Bytes, ApiError> {
    let read = api.env().clock.timeout(BODY_TIMEOUT, to_bytes(body, limit));
    match read.await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let source = std::error::Error::source(&error);
            if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
                Err(ApiError::too_large())
            } else {
                Err(ApiError::not_json(format!("The body broke off: {error}")))
            }
        }
        Err(_) => Err(ApiError::timed_out("The body did not arrive in time")),
    }
}

/// Reads a body.
pub(crate) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = expect_object(body)?;
    // Whether it is JSON is another question than whether this could be read from it: half a surrogate
    // pair, for instance, is none only where a text is expected.
    let other = |error: serde_json::Error| ApiError::bad_json(error.to_string());
    serde_json::from_str(body).map_err(|error| not_json(body).unwrap_or_else(|| other(error)))
}

/// All bodies are objects. Without this, a list of values would pass for an object's fields. What is no
/// UTF-8 is no JSON, wherever it stands.
pub(crate) fn expect_object(body: &[u8]) -> Result<&str, ApiError> {
    let body = str::from_utf8(body).map_err(|error| ApiError::not_json(error.to_string()))?;
    if body.trim_ascii_start().starts_with('{') {
        return Ok(body);
    }
    let other = || ApiError::bad_json("The body is not a JSON object");
    Err(not_json(body).unwrap_or_else(other))
}

/// Why a text is no JSON, if it is none.
fn not_json(body: &str) -> Option<ApiError> {
    let read = serde_json::from_str::<IgnoredAny>(body);
    Some(ApiError::not_json(read.err()?.to_string()))
}
