//! Client-server API, "Profiles".

use axum::extract::State;
use myelin_users::{Profile, ProfileField};
use ruma::OwnedUserId;
use serde_json::{Map, Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

pub(crate) async fn profile(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let profile = api.users().profile(&user).await?;
    Ok(Json(profile_fields(&profile, &ProfileField::ALL)))
}

pub(crate) async fn profile_field(
    State(api): State<Api>,
    Path((user, field)): Path<(OwnedUserId, String)>,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let field = known_field(&field)?;
    let profile = api.users().profile(&user).await?;
    Ok(Json(profile_fields(&profile, &[field])))
}

pub(crate) async fn set_profile_field(
    State(api): State<Api>,
    User(requester): User,
    Path((user, field)): Path<(OwnedUserId, String)>,
    Json(body): Json<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    let field = known_field(&field)?;
    let value = match body.get(field.name()) {
        Some(Value::String(value)) => Some(value.clone()),
        Some(Value::Null) => None,
        Some(_) => {
            return Err(ApiError::bad_json(format!(
                "{} is not a string",
                field.name()
            )));
        }
        None => return Err(ApiError::missing_param(field.name())),
    };
    set_field(&api, &requester.user_id, user, field, value).await
}

pub(crate) async fn remove_profile_field(
    State(api): State<Api>,
    User(requester): User,
    Path((user, field)): Path<(OwnedUserId, String)>,
) -> Result<Json<Value>, ApiError> {
    let field = known_field(&field)?;
    set_field(&api, &requester.user_id, user, field, None).await
}

async fn set_field(
    api: &Api,
    requester: &ruma::UserId,
    user: OwnedUserId,
    field: ProfileField,
    value: Option<String>,
) -> Result<Json<Value>, ApiError> {
    if requester != user {
        return Err(ApiError::forbidden("This is not your profile"));
    }
    api.users().set_profile_field(user, field, value).await?;
    api.rooms().profile_changed();
    Ok(Json(json!({})))
}

fn known_field(name: &str) -> Result<ProfileField, ApiError> {
    ProfileField::from_name(name)
        .ok_or_else(|| ApiError::not_found("This server does not keep such a field"))
}

/// What is set of `fields`, by name.
pub(crate) fn profile_fields(profile: &Profile, fields: &[ProfileField]) -> Map<String, Value> {
    let set = |field: &ProfileField| Some((field.name().to_owned(), field.of(profile)?.into()));
    fields.iter().filter_map(set).collect()
}
