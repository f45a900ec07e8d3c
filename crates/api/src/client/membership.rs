//! Client-server API, "Room membership".

use axum::extract::State;
use myelin_core::state::Membership;
use myelin_federation::ThirdPartyId;
use myelin_rooms::{Ownership, ThirdParty, mark_as_guest};
use myelin_users::{Limit, Requester, shown_in_rooms};
use ruma::{
    OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId,
    RoomOrAliasId, UserId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson, Path, Query},
};

/// The only part of a request to leave and the like that this server uses.
#[derive(Deserialize)]
pub(crate) struct Reason {
    reason: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct JoinRequest {
    reason: Option<String>,
    third_party_signed: Option<ThirdPartySigned>,
}

/// What an identity server gave to the owner of an address that was invited.
#[derive(Deserialize, Serialize)]
struct ThirdPartySigned {
    sender: OwnedUserId,
    mxid: OwnedUserId,
    token: String,
    signatures: Value,
}

pub(crate) async fn join(
    State(api): State<Api>,
    User(requester): User,
    Path(target): Path<OwnedRoomOrAliasId>,
    Query(parameters): Query<Vec<(String, String)>>,
    OptionalJson(body): OptionalJson<JoinRequest>,
) -> Result<Json<Value>, ApiError> {
    let via = via(&parameters)?;
    tracing::Span::current().record("room", target.as_str());
    take_if_remote(&api, &requester, &target).await?;
    let user = &requester.user_id;
    let mut content = own_profile(&api, user).await?;
    if let Some(reason) = body.reason {
        content.insert("reason".to_owned(), reason.into());
    }
    let rooms = api.rooms();
    let room_id = match body.third_party_signed {
        None => rooms.join(user, &target, via, content).await?,
        Some(signed) => {
            let ownership = ownership(user, signed)?;
            let join = rooms.join_as_owner(&target, via, content, &ownership);
            join.await?
        }
    };
    Ok(Json(json!({ "room_id": room_id })))
}

/// Where other servers have to be asked, to find the room or to get into it, less is allowed.
async fn take_if_remote(
    api: &Api,
    requester: &Requester,
    target: &RoomOrAliasId,
) -> Result<(), ApiError> {
    let rooms = api.rooms();
    let asks_others = match (
        <&RoomId>::try_from(target),
        <&RoomAliasId>::try_from(target),
    ) {
        (Ok(room_id), _) => match rooms.room(room_id).await? {
            Some(room) => room.local_users().is_empty(),
            None => true,
        },
        (_, Ok(alias)) => alias.server_name() != rooms.server_name(),
        _ => false,
    };
    match asks_others {
        true => api.take(Limit::RemoteJoins, requester, 1),
        false => Ok(()),
    }
}

fn ownership(user: &UserId, signed: ThirdPartySigned) -> Result<Ownership, ApiError> {
    if signed.mxid != user {
        return Err(ApiError::forbidden("The address is another user's"));
    }
    let Ok(Value::Object(statement)) = serde_json::to_value(&signed) else {
        return Err(ApiError::internal());
    };
    Ok(Ownership {
        inviter: signed.sender,
        owner: signed.mxid,
        signed: statement,
    })
}

/// The servers that the client thinks are in the room.
pub(crate) fn via(parameters: &[(String, String)]) -> Result<Vec<OwnedServerName>, ApiError> {
    // `server_name` is what `via` was called before version 1.12 of the specification.
    let via = parameters
        .iter()
        .filter(|(name, _)| name == "via" || name == "server_name");
    via.map(|(_, server)| OwnedServerName::try_from(server.as_str()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ApiError::invalid_param(format!("via: {error}")))
}

pub(crate) async fn knock(
    State(api): State<Api>,
    User(requester): User,
    Path(target): Path<OwnedRoomOrAliasId>,
    Query(parameters): Query<Vec<(String, String)>>,
    OptionalJson(body): OptionalJson<Reason>,
) -> Result<Json<Value>, ApiError> {
    let via = via(&parameters)?;
    tracing::Span::current().record("room", target.as_str());
    take_if_remote(&api, &requester, &target).await?;
    let mut content = own_profile(&api, &requester.user_id).await?;
    if let Some(reason) = body.reason {
        content.insert("reason".to_owned(), reason.into());
    }
    let rooms = api.rooms();
    let room_id = rooms
        .knock(&requester.user_id, &target, via, content)
        .await?;
    Ok(Json(json!({ "room_id": room_id })))
}

pub(crate) async fn forget(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<Value>, ApiError> {
    api.rooms().forget(&requester.user_id, &room_id).await?;
    Ok(Json(json!({})))
}

/// What the user shows of itself, for its membership events.
pub(crate) async fn own_profile(api: &Api, user: &UserId) -> Result<Map<String, Value>, ApiError> {
    let profile = api.users().local_profile(user).await?;
    let mut shown = shown_in_rooms(&profile);
    if profile.guest {
        mark_as_guest(&mut shown);
    }
    Ok(shown)
}

pub(crate) async fn leave(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
    OptionalJson(body): OptionalJson<Reason>,
) -> Result<Json<Value>, ApiError> {
    tracing::Span::current().record("room", room_id.as_str());
    api.rooms()
        .leave(&requester.user_id, &room_id, body.reason)
        .await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
pub(crate) struct Target {
    user_id: OwnedUserId,
    reason: Option<String>,
}

/// Whom to invite: a user, or somebody who is known by an address.
#[derive(Deserialize)]
pub(crate) struct Invitation {
    user_id: Option<OwnedUserId>,
    reason: Option<String>,
    #[serde(flatten)]
    by_address: Invite3pid,
}

/// Somebody who is known by an address. All must be there.
#[derive(Deserialize)]
pub(crate) struct Invite3pid {
    id_server: Option<String>,
    id_access_token: Option<String>,
    medium: Option<String>,
    address: Option<String>,
}

impl Invite3pid {
    fn is_empty(&self) -> bool {
        self.medium.is_none() && self.address.is_none()
    }

    pub(crate) fn third_party(self) -> Result<ThirdParty, ApiError> {
        let given = |name, value: Option<String>| value.ok_or(ApiError::missing_param(name));
        Ok(ThirdParty {
            id: ThirdPartyId {
                medium: given("medium", self.medium)?,
                address: given("address", self.address)?,
            },
            identity_server: given("id_server", self.id_server)?,
            access_token: given("id_access_token", self.id_access_token)?,
        })
    }
}

pub(crate) async fn invite(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
    Json(invitation): Json<Invitation>,
) -> Result<Json<Value>, ApiError> {
    let sender = &requester.user_id;
    let Invitation {
        user_id,
        reason,
        by_address,
    } = invitation;
    if user_id.is_none() && !by_address.is_empty() {
        tracing::Span::current().record("room", room_id.as_str());
        let invitee = by_address.third_party()?;
        let rooms = api.rooms();
        rooms.invite_third_party(sender, &room_id, &invitee).await?;
        return Ok(Json(json!({})));
    }
    let user_id = user_id.ok_or_else(|| ApiError::missing_param("user_id"))?;
    let target = Target { user_id, reason };
    set(&api, sender, &room_id, target, Membership::Invite).await
}

pub(crate) async fn kick(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
    Json(target): Json<Target>,
) -> Result<Json<Value>, ApiError> {
    tracing::Span::current().record("room", room_id.as_str());
    let Target { user_id, reason } = target;
    let rooms = api.rooms();
    rooms
        .kick(&requester.user_id, &room_id, &user_id, reason)
        .await?;
    Ok(Json(json!({})))
}

pub(crate) async fn ban(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
    Json(target): Json<Target>,
) -> Result<Json<Value>, ApiError> {
    set(&api, &requester.user_id, &room_id, target, Membership::Ban).await
}

pub(crate) async fn unban(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
    Json(target): Json<Target>,
) -> Result<Json<Value>, ApiError> {
    tracing::Span::current().record("room", room_id.as_str());
    let Target { user_id, reason } = target;
    let rooms = api.rooms();
    rooms
        .unban(&requester.user_id, &room_id, &user_id, reason)
        .await?;
    Ok(Json(json!({})))
}

async fn set(
    api: &Api,
    sender: &UserId,
    room_id: &RoomId,
    target: Target,
    membership: Membership,
) -> Result<Json<Value>, ApiError> {
    tracing::Span::current().record("room", room_id.as_str());
    let Target { user_id, reason } = target;
    let rooms = api.rooms();
    rooms
        .set_membership(sender, room_id, &user_id, membership, reason)
        .await?;
    Ok(Json(json!({})))
}

pub(crate) async fn joined_rooms(
    State(api): State<Api>,
    User(requester): User,
) -> Result<Json<Value>, ApiError> {
    let joined = api.sync().joined_rooms(&requester.user_id).await?;
    Ok(Json(json!({ "joined_rooms": joined })))
}
