//! Client-server API, "Profiles".

use axum::extract::State;
use myelin_users::{ProfileField, ProfileFields, Requester};
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
) -> Result<Json<ProfileFields>, ApiError> {
    Ok(Json(api.users().profile(&user).await?))
}

pub(crate) async fn profile_field(
    State(api): State<Api>,
    Path((user, name)): Path<(OwnedUserId, String)>,
) -> Result<Json<ProfileFields>, ApiError> {
    let field = ProfileField::from_name(&name)?;
    match api.users().profile_field(&user, &field).await? {
        Some(value) => Ok(Json(Map::from_iter([(name, value)]))),
        // Clients know these two for unset from before there were others.
        None if field.is_shown_in_rooms() => Ok(Json(Map::new())),
        None => Err(ApiError::not_found("The user has not set this field")),
    }
}

pub(crate) async fn set_profile_field(
    State(api): State<Api>,
    User(requester): User,
    Path((user, name)): Path<(OwnedUserId, String)>,
    Json(mut body): Json<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    let field = ProfileField::from_name(&name)?;
    let missing = || ApiError::missing_param(&name);
    let value = body.remove(field.name()).ok_or_else(missing)?;
    set_field(&api, &requester, user, field, Some(value)).await
}

pub(crate) async fn remove_profile_field(
    State(api): State<Api>,
    User(requester): User,
    Path((user, name)): Path<(OwnedUserId, String)>,
) -> Result<Json<Value>, ApiError> {
    let field = ProfileField::from_name(&name)?;
    set_field(&api, &requester, user, field, None).await
}

async fn set_field(
    api: &Api,
    requester: &Requester,
    user: OwnedUserId,
    field: ProfileField,
    value: Option<Value>,
) -> Result<Json<Value>, ApiError> {
    // Client-server API, "Guest access": a name is all that guests show of themselves.
    if requester.guest && field != ProfileField::DisplayName {
        return Err(ApiError::no_guests());
    }
    if requester.user_id != user {
        return Err(ApiError::forbidden("This is not your profile"));
    }
    let is_shown_in_rooms = field.is_shown_in_rooms();
    api.users().set_profile_field(user, field, value).await?;
    if is_shown_in_rooms {
        api.rooms().profile_changed();
    }
    Ok(Json(json!({})))
}
