//! Server-server API, "Third-party invites".

use axum::extract::State;
use myelin_rooms::Ownership;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Api, ApiError,
    admission::Signed,
    request::{Json, Path},
};

/// How many invites an address may have that are told together. Anybody may send such a request, and each
/// invite makes this server ask another.
const MOST_INVITES: usize = 100;

#[derive(Deserialize)]
pub(crate) struct Binding {
    mxid: OwnedUserId,
    #[serde(default)]
    invites: Vec<Invite>,
}

#[derive(Deserialize)]
struct Invite {
    mxid: OwnedUserId,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    signed: Map<String, Value>,
}

/// An identity server says that an address which was invited is now one of our user's. What it says is
/// believed for its signatures only, so it needs no name.
pub(crate) async fn on_bind(
    State(api): State<Api>,
    Json(binding): Json<Binding>,
) -> Result<Json<Value>, ApiError> {
    if binding.mxid.server_name() != api.users().server_name() {
        return Err(ApiError::invalid_param("mxid: no user of this server"));
    }
    if binding.invites.len() > MOST_INVITES {
        return Err(ApiError::invalid_param("invites: too many"));
    }
    api.users().local_profile(&binding.mxid).await?;
    let mut outcome = Ok(());
    for invite in binding.invites {
        if invite.mxid != binding.mxid {
            let why = "invites: of another user than the address is bound to";
            outcome = outcome.and(Err(ApiError::invalid_param(why)));
            continue;
        }
        let ownership = Ownership {
            inviter: invite.sender,
            owner: invite.mxid,
            signed: invite.signed,
        };
        let rooms = api.rooms();
        let redeemed = rooms.redeem_third_party_invite(&invite.room_id, &ownership);
        // One that fails keeps no other from being redeemed.
        outcome = outcome.and(redeemed.await.map_err(ApiError::from));
    }
    outcome.map(|()| Json(json!({})))
}

pub(crate) async fn exchange(
    State(api): State<Api>,
    Path(room_id): Path<OwnedRoomId>,
    request: Signed,
) -> Result<Json<Value>, ApiError> {
    tracing::Span::current().record("room", room_id.as_str());
    let Signed { origin, body } = &request;
    let rooms = api.rooms();
    rooms
        .exchange_third_party_invite(origin, &room_id, body)
        .await?;
    Ok(Json(json!({})))
}
