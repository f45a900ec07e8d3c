//! Who is asking. Each route's row in the table says who may; the handler gets to know who it was.

use axum::{
    body::Body,
    extract::{FromRequestParts, Request},
};
use bytes::Bytes;
use http::{Method, header, request::Parts};
use myelin_users::Requester;
use ruma::{OwnedServerName, UserId};

use crate::{
    Api, ApiError,
    request::{MAX_FEDERATION_BODY, expect_object, read_body},
    routes::Access,
};

/// The user whose access token the request carries.
#[derive(Clone)]
pub(crate) struct User(pub(crate) Requester);

/// The same for a request that shows that a person is there, and not only a program.
pub(crate) struct Active(pub(crate) Requester);

/// A request of another server, which has proved its name over everything in it.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) origin: OwnedServerName,
    pub(crate) body: Bytes,
}

/// Lets a request pass if whoever sent it may ask, and notes in it who that was.
pub(crate) async fn admit(
    api: &Api,
    access: Access,
    request: Request,
) -> Result<Request, ApiError> {
    match access {
        Access::Public => Ok(request),
        Access::User => admit_user(api, request).await,
        Access::Server => admit_server(api, request).await,
    }
}

async fn admit_user(api: &Api, request: Request) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let token = access_token(&parts).ok_or_else(ApiError::missing_token)?;
    let requester = api.users().authenticate(&token).await?;
    let requester = requester.ok_or_else(ApiError::unknown_token)?;
    tracing::Span::current().record("user", requester.user_id.as_str());
    let user_agent = parts.headers.get(header::USER_AGENT);
    let user_agent = user_agent.and_then(|value| value.to_str().ok());
    api.users().note_use(&requester, user_agent);
    parts.extensions.insert(User(requester));
    Ok(Request::from_parts(parts, body))
}

/// The token in the `Authorization` header, or in the query as older clients send it.
fn access_token(parts: &Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty())
            .then(|| token.to_owned());
    }
    let mut pairs = parts.uri.query()?.split('&');
    let token = pairs.find_map(|pair| pair.strip_prefix("access_token="))?;
    let token = percent_encoding::percent_decode_str(token)
        .decode_utf8()
        .ok()?;
    (!token.is_empty()).then(|| token.into_owned())
}

/// The signature covers the body, so it is read here, once.
async fn admit_server(api: &Api, request: Request) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    if !parts.headers.contains_key(header::AUTHORIZATION) {
        let message = "The Authorization header is missing";
        return Err(ApiError::unauthorized(message));
    }
    let body = read_body(body, MAX_FEDERATION_BODY, api).await?;
    let federation = api.federation();
    let (method, uri, headers) = (&parts.method, &parts.uri, &parts.headers);
    let origin = federation.authenticate(method, uri, headers, &body).await?;
    tracing::Span::current().record("origin", origin.as_str());
    federation.mark_alive(&origin).await?;
    if !body.is_empty() || matches!(parts.method, Method::PUT | Method::POST) {
        expect_object(&body)?;
    }
    parts.extensions.insert(Signed { origin, body });
    Ok(Request::from_parts(parts, Body::empty()))
}

impl FromRequestParts<Api> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _api: &Api) -> Result<Self, ApiError> {
        admitted(parts)
    }
}

impl FromRequestParts<Api> for Active {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let User(requester) = admitted(parts)?;
        api.rooms().acts(device(&requester));
        Ok(Self(requester))
    }
}

impl FromRequestParts<Api> for Signed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _api: &Api) -> Result<Self, ApiError> {
        admitted(parts)
    }
}

/// What [`admit`] noted. A route whose row says otherwise than its handler takes lets nobody in.
fn admitted<T: Clone + Send + Sync + 'static>(parts: &Parts) -> Result<T, ApiError> {
    parts.extensions.get().cloned().ok_or_else(|| {
        tracing::error!(uri = %parts.uri.path(), "the table of routes does not say who may ask");
        ApiError::internal()
    })
}

/// With what a user asks.
pub(crate) fn device(requester: &Requester) -> (&UserId, &str) {
    (&requester.user_id, requester.device_id.as_str())
}
