//! Who is asking. Each route's row in the table says who may; the handler gets to know who it was.

use std::net::IpAddr;

use axum::{
    body::Body,
    extract::{FromRequestParts, Request},
};
use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, header, request::Parts};
use ipnet::IpNet;
use myelin_users::{Limit, Requester, Who};
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

/// The other end of the connection that a request came on. Listeners note it in each.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Lets a request pass if whoever sent it may ask, and not too often, and notes in it who that was.
pub(crate) async fn admit(
    api: &Api,
    access: Access,
    limit: Option<Limit>,
    request: Request,
) -> Result<Request, ApiError> {
    match access {
        Access::Public => admit_anybody(api, limit, request),
        Access::Guest | Access::User | Access::Admin => {
            admit_user(api, access, limit, request).await
        }
        Access::Server => admit_server(api, request).await,
    }
}

fn admit_anybody(api: &Api, limit: Option<Limit>, request: Request) -> Result<Request, ApiError> {
    let address = address_of(api, request.extensions(), request.headers());
    if let (Some(limit), Some(address)) = (limit, address) {
        let limits = api.users().rate_limits();
        limits.take(limit, Who::at(address), 1)?;
    }
    Ok(request)
}

async fn admit_user(
    api: &Api,
    access: Access,
    limit: Option<Limit>,
    request: Request,
) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let token = access_token(&parts).ok_or_else(ApiError::missing_token)?;
    let requester = api.users().authenticate(&token).await?;
    let requester = requester.ok_or_else(ApiError::unknown_token)?;
    tracing::Span::current().record("user", requester.user_id.as_str());
    match access {
        Access::User | Access::Admin if requester.guest => return Err(ApiError::no_guests()),
        Access::Admin if !requester.admin => return Err(ApiError::no_admin()),
        _ => {}
    }
    if let Some(limit) = limit {
        api.take(limit, &requester, 1)?;
    }
    let user_agent = parts.headers.get(header::USER_AGENT);
    let user_agent = user_agent.and_then(|value| value.to_str().ok());
    let address = address_of(api, &parts.extensions, &parts.headers);
    api.users().note_use(&requester, user_agent, address);
    parts.extensions.insert(User(requester));
    Ok(Request::from_parts(parts, body))
}

fn address_of(api: &Api, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let trusted = &api.config().trusted_proxies;
    client_address(extensions.get(), headers, trusted)
}

/// Where a request comes from. Reverse proxies that the operator trusts say it in `X-Forwarded-For`, to
/// which each adds whom it was asked by; what stands before that may be anybody's claim.
fn client_address(peer: Option<&Peer>, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let Peer(peer) = *peer?;
    let mut address = peer.to_canonical();
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let mut earlier = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.rsplit(','))
        .map_while(|part| part.trim().parse::<IpAddr>().ok());
    while is_trusted(&address) {
        match earlier.next() {
            Some(before) => address = before.to_canonical(),
            None => break,
        }
    }
    Some(address)
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
    let limits = api.users().rate_limits();
    limits.take(Limit::Federation, Who::Server(origin.clone()), 1)?;
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, HeaderName, HeaderValue};
    use ipnet::IpNet;

    use super::{Peer, client_address};

    #[test]
    fn only_trusted_proxies_say_where_a_request_comes_from() {
        let trusted = ["127.0.0.0/8", "::1/128", "10.0.0.0/24"];
        let trusted = trusted.map(|network| network.parse::<IpNet>().unwrap());
        let cases: [(&str, &[&str], &str); 10] = [
            ("192.0.2.1", &[], "192.0.2.1"),
            ("192.0.2.1", &["198.51.100.1"], "192.0.2.1"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::1", &["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
            ("::1", &["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
            (
                "127.0.0.1",
                &["203.0.113.9, 198.51.100.1,10.0.0.7"],
                "198.51.100.1",
            ),
            ("127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", &["198.51.100.1, nobody"], "127.0.0.1"),
        ];
        for (peer, lines, expected) in cases {
            let name = HeaderName::from_static("x-forwarded-for");
            let lines = lines
                .iter()
                .map(|line| HeaderValue::from_str(line).unwrap());
            let headers: HeaderMap = lines.map(|line| (name.clone(), line)).collect();
            let peer = Peer(peer.parse().unwrap());
            let found = client_address(Some(&peer), &headers, &trusted);
            assert_eq!(
                found,
                expected.parse::<IpAddr>().ok(),
                "{peer:?} {headers:?}"
            );
        }
    }
}
