//! What this server speaks and offers. Client-server API, "API standards", "Capabilities
//! negotiation" and "Well-known URIs".

use std::sync::LazyLock;

use axum::extract::State;
use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};

use crate::{Api, ApiError, admission::User, request::Json};

/// The versions whose meaning of the endpoints in the route table is this server's too. None of
/// them is covered whole: the rest answers `M_UNRECOGNIZED`, as the specification wants.
const VERSIONS: [&str; 14] = [
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
    "v1.11", "v1.12", "v1.13",
];

/// What clients use of versions that this server does not name yet.
static UNSTABLE_FEATURES: LazyLock<Value> = LazyLock::new(|| {
    json!({
        // MSC4133: profiles with any fields.
        "uk.tcpip.msc4133.stable": true,
    })
});

pub(crate) async fn versions() -> Json<Value> {
    Json(json!({ "versions": VERSIONS, "unstable_features": *UNSTABLE_FEATURES }))
}

pub(crate) async fn capabilities(State(api): State<Api>, _user: User) -> Json<Value> {
    let available: serde_json::Map<_, _> = RoomVersion::supported()
        .map(|version| (version.as_str().to_owned(), json!("stable")))
        .collect();
    Json(json!({ "capabilities": {
        "m.room_versions": {
            "default": api.config().default_room_version.as_str(),
            "available": available,
        },
        "m.profile_fields": { "enabled": true },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.change_password": { "enabled": true },
        "m.3pid_changes": { "enabled": false },
        "m.get_login_token": { "enabled": true },
    } }))
}

pub(crate) async fn well_known(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let base_url = api.config().public_base_url.as_deref();
    let base_url =
        base_url.ok_or_else(|| ApiError::not_found("No public address is configured"))?;
    Ok(Json(json!({ "m.homeserver": { "base_url": base_url } })))
}
