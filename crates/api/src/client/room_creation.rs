//! Client-server API, "Creation".

use axum::extract::State;
use myelin_rooms::{CreateRoom, Preset};
use myelin_users::Limit;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::membership::{Invite3pid, own_profile};
use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson},
};

#[derive(Deserialize)]
pub(crate) struct CreateRequest {
    visibility: Option<Visibility>,
    room_alias_name: Option<String>,
    name: Option<String>,
    topic: Option<String>,
    #[serde(default)]
    invite: Vec<OwnedUserId>,
    #[serde(default)]
    invite_3pid: Vec<Invite3pid>,
    room_version: Option<String>,
    #[serde(default)]
    creation_content: Map<String, Value>,
    #[serde(default)]
    initial_state: Vec<InitialState>,
    preset: Option<WrittenPreset>,
    #[serde(default)]
    is_direct: bool,
    #[serde(default)]
    power_level_content_override: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    Public,
    Private,
}

#[derive(Clone, Copy, Deserialize)]
enum WrittenPreset {
    #[serde(rename = "private_chat")]
    Private,
    #[serde(rename = "trusted_private_chat")]
    TrustedPrivate,
    #[serde(rename = "public_chat")]
    Public,
}

#[derive(Deserialize)]
struct InitialState {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

pub(crate) async fn create(
    State(api): State<Api>,
    User(requester): User,
    OptionalJson(request): OptionalJson<CreateRequest>,
) -> Result<Json<Value>, ApiError> {
    let third_parties = request.invite_3pid.into_iter();
    let third_parties: Vec<_> = third_parties
        .map(Invite3pid::third_party)
        .collect::<Result<_, _>>()?;
    let invites = request.invite.len() + third_parties.len();
    let invites = u32::try_from(invites).unwrap_or(u32::MAX);
    api.take(Limit::Invites, &requester, invites)?;
    let preset = match (request.preset, request.visibility) {
        (Some(WrittenPreset::Private), _) => Preset::Private,
        (Some(WrittenPreset::TrustedPrivate), _) => Preset::TrustedPrivate,
        (Some(WrittenPreset::Public), _) | (None, Some(Visibility::Public)) => Preset::Public,
        (None, _) => Preset::Private,
    };
    let initial_state = request.initial_state.into_iter();
    let wish = CreateRoom {
        version: request.room_version,
        preset,
        creation_content: request.creation_content,
        alias_name: request.room_alias_name,
        published: request.visibility == Some(Visibility::Public),
        name: request.name,
        topic: request.topic,
        invite: request.invite,
        is_direct: request.is_direct,
        initial_state: initial_state
            .map(|event| (event.event_type, event.state_key, event.content))
            .collect(),
        power_level_override: request.power_level_content_override,
        profile: own_profile(&api, &requester.user_id).await?,
    };
    let room_id = api.rooms().create(&requester.user_id, wish).await?;
    tracing::Span::current().record("room", room_id.as_str());
    if !third_parties.is_empty() {
        let inviter = &requester.user_id;
        let inviting = api
            .rooms()
            .invite_third_parties(inviter, &room_id, third_parties);
        inviting.await;
    }
    Ok(Json(json!({ "room_id": room_id })))
}
