//! "Room Admin API", but for deleting rooms.

use std::cmp::Ordering;

use axum::extract::State;
use myelin_core::state::Membership;
use myelin_sync::RoomDetails;
use ruma::{OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Dir, must_be_local, row_limit};
use crate::{
    Api, ApiError,
    admission::User,
    client::membership::{own_profile, via},
    request::{Json, OptionalJson, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct ListParameters {
    from: Option<usize>,
    limit: Option<u64>,
    order_by: Option<OrderBy>,
    dir: Option<Dir>,
    search_term: Option<String>,
    public_rooms: Option<bool>,
    empty_rooms: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderBy {
    Alphabetical,
    Name,
    Size,
    JoinedMembers,
    CanonicalAlias,
    JoinedLocalMembers,
    Version,
    Creator,
    Encryption,
    Federatable,
    Public,
    JoinRules,
    GuestAccess,
    HistoryVisibility,
    StateEvents,
}

impl OrderBy {
    /// The order of two rooms. Numbers, versions and flags begin with the greatest.
    fn compare(self, one: &RoomDetails, other: &RoomDetails) -> Ordering {
        match self {
            Self::Alphabetical | Self::Name => one.name.cmp(&other.name),
            Self::Size | Self::JoinedMembers => other.joined_members.cmp(&one.joined_members),
            Self::CanonicalAlias => one.canonical_alias.cmp(&other.canonical_alias),
            Self::JoinedLocalMembers => other.joined_local_members.cmp(&one.joined_local_members),
            Self::Version => other.version.cmp(&one.version),
            Self::Creator => one.creator.cmp(&other.creator),
            Self::Encryption => one.encryption.cmp(&other.encryption),
            Self::Federatable => one.federatable.cmp(&other.federatable),
            Self::Public => one.public.cmp(&other.public),
            Self::JoinRules => one.join_rules.cmp(&other.join_rules),
            Self::GuestAccess => one.guest_access.cmp(&other.guest_access),
            Self::HistoryVisibility => one.history_visibility.cmp(&other.history_visibility),
            Self::StateEvents => other.state_events.cmp(&one.state_events),
        }
    }
}

impl ListParameters {
    /// Whether a room is among those that are looked for: by part of its name, of its main alias's local
    /// part, or by its ID.
    fn wants(&self, room: &RoomDetails) -> bool {
        let is_found = |term: &str| {
            let term = term.to_lowercase();
            let name = room.name.as_ref().map(|name| name.to_lowercase());
            let alias = room.canonical_alias.as_deref().map(str::to_lowercase);
            let local = alias.as_deref().and_then(|alias| alias.split(':').next());
            name.is_some_and(|name| name.contains(&term))
                || local.is_some_and(|local| local.contains(&term))
                || room.room_id.as_str().to_lowercase() == term
        };
        self.search_term.as_deref().is_none_or(is_found)
            && self.public_rooms.is_none_or(|wanted| room.public == wanted)
            && self
                .empty_rooms
                .is_none_or(|wanted| (room.joined_members == 0) == wanted)
    }
}

pub(crate) async fn list(
    State(api): State<Api>,
    Query(parameters): Query<ListParameters>,
) -> Result<Json<Value>, ApiError> {
    if parameters.search_term.as_deref() == Some("") {
        let why = "search_term cannot be an empty string";
        return Err(ApiError::invalid_param(why));
    }
    let mut rooms = api.sync().all_rooms().await?;
    rooms.retain(|room| parameters.wants(room));
    let order_by = parameters.order_by.unwrap_or(OrderBy::Name);
    let order = |one: &RoomDetails, other: &RoomDetails| {
        let order = order_by.compare(one, other);
        order.then_with(|| one.room_id.cmp(&other.room_id))
    };
    rooms.sort_by(order);
    if parameters.dir == Some(Dir::Backwards) {
        rooms.reverse();
    }
    let from = parameters.from.unwrap_or(0);
    let limit = usize::try_from(row_limit(parameters.limit)).unwrap_or(usize::MAX);
    let total = rooms.len();
    let page: Vec<RoomDetails> = rooms.into_iter().skip(from).take(limit).collect();
    let next = from + page.len();
    let mut answer = json!({ "rooms": page, "offset": from, "total_rooms": total });
    if next < total {
        answer["next_batch"] = json!(next);
    }
    if from > 0 {
        answer["prev_batch"] = json!(from.saturating_sub(limit));
    }
    Ok(Json(answer))
}

pub(crate) async fn details(
    State(api): State<Api>,
    Path(room): Path<OwnedRoomId>,
) -> Result<Json<RoomDetails>, ApiError> {
    Ok(Json(api.sync().room_details(&room).await?))
}

pub(crate) async fn members(
    State(api): State<Api>,
    Path(room): Path<OwnedRoomId>,
) -> Result<Json<Value>, ApiError> {
    let members = api.sync().all_members(&room).await?;
    Ok(Json(json!({ "total": members.len(), "members": members })))
}

#[derive(Deserialize)]
pub(crate) struct StateParameters {
    #[serde(rename = "type")]
    event_type: Option<String>,
}

pub(crate) async fn state(
    State(api): State<Api>,
    User(requester): User,
    Path(room): Path<OwnedRoomId>,
    Query(parameters): Query<StateParameters>,
) -> Result<Json<Value>, ApiError> {
    let event_type = parameters.event_type.as_deref();
    let state = api.sync().all_state(&requester, &room, event_type).await?;
    Ok(Json(json!({ "state": state })))
}

pub(crate) async fn forward_extremities(
    State(api): State<Api>,
    Path(room): Path<OwnedRoomOrAliasId>,
) -> Result<Json<Value>, ApiError> {
    let (room, _) = resolved(&api, room).await?;
    let ends = api.sync().forward_extremities(&room).await?;
    Ok(Json(json!({ "count": ends.len(), "results": ends })))
}

/// The room, and the servers through which an alias leads to it.
async fn resolved(
    api: &Api,
    target: OwnedRoomOrAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), ApiError> {
    match OwnedRoomId::try_from(target) {
        Ok(room) => Ok((room, Vec::new())),
        Err(alias) => Ok(api.rooms().resolve_alias(&alias).await?),
    }
}

#[derive(Default, Deserialize)]
pub(crate) struct NewAdmin {
    user_id: Option<OwnedUserId>,
}

pub(crate) async fn make_admin(
    State(api): State<Api>,
    User(requester): User,
    Path(room): Path<OwnedRoomOrAliasId>,
    OptionalJson(wish): OptionalJson<NewAdmin>,
) -> Result<Json<Value>, ApiError> {
    let (room, _) = resolved(&api, room).await?;
    let user = wish.user_id.unwrap_or(requester.user_id);
    match api.rooms().make_room_admin(&room, &user).await? {
        true => Ok(Json(json!({}))),
        false => Err(ApiError::unknown("No local admin user in room")),
    }
}

pub(crate) async fn blocked(
    State(api): State<Api>,
    Path(room): Path<OwnedRoomId>,
) -> Result<Json<Value>, ApiError> {
    let answer = match api.rooms().blocked_by(&room).await? {
        Some(user) => json!({ "block": true, "user_id": user }),
        None => json!({ "block": false }),
    };
    Ok(Json(answer))
}

#[derive(Deserialize)]
pub(crate) struct Blocking {
    block: Option<bool>,
}

pub(crate) async fn block(
    State(api): State<Api>,
    User(requester): User,
    Path(room): Path<OwnedRoomId>,
    Json(wish): Json<Blocking>,
) -> Result<Json<Value>, ApiError> {
    let missing = || ApiError::missing_param("block");
    let block = wish.block.ok_or_else(missing)?;
    match block {
        true => api.rooms().block(&room, &requester.user_id).await?,
        false => api.rooms().unblock(&room).await?,
    }
    Ok(Json(json!({ "block": block })))
}

#[derive(Deserialize)]
pub(crate) struct Guest {
    user_id: Option<OwnedUserId>,
}

/// Lets a user join a room. The administrator invites the user, unless anybody may join.
pub(crate) async fn join(
    State(api): State<Api>,
    User(requester): User,
    Path(target): Path<OwnedRoomOrAliasId>,
    Query(parameters): Query<Vec<(String, String)>>,
    Json(guest): Json<Guest>,
) -> Result<Json<Value>, ApiError> {
    let missing = || ApiError::missing_param("user_id");
    let user = guest.user_id.ok_or_else(missing)?;
    must_be_local(
        &api,
        &user,
        "This endpoint can only be used with local users",
    )?;
    let details = api.users().account_details(&user).await?;
    let content: Map<String, Value> = own_profile(&api, &details.user_id).await?;
    let mut via = via(&parameters)?;
    let rooms = api.rooms();
    let (room, servers) = resolved(&api, target).await?;
    via.extend(servers);
    let known = match rooms.room(&room).await? {
        Some(_) => api.sync().room_details(&room).await.ok(),
        None => None,
    };
    if known.is_some_and(|room| room.join_rules.as_deref() != Some("public")) {
        let inviter = &requester.user_id;
        rooms
            .set_membership(inviter, &room, &user, Membership::Invite, None)
            .await?;
    }
    let room_id = rooms.join(&user, (&*room).into(), via, content).await?;
    Ok(Json(json!({ "room_id": room_id })))
}
