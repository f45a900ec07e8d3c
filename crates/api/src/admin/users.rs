//! "User Admin API". Locked, suspended and shadow-banned accounts, and addresses of users at third
//! parties, are things that this server does not have.

use axum::extract::State;
use http::StatusCode;
use myelin_storage::account_list::{AccountDetails, AccountsWanted, Named, SortBy};
use myelin_users::AccountChange;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dir, must_be_local, nullable, row_limit};
use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct ListParameters {
    from: Option<u64>,
    limit: Option<u64>,
    user_id: Option<String>,
    name: Option<String>,
    deactivated: Option<bool>,
    admins: Option<bool>,
    guests: Option<bool>,
    order_by: Option<OrderBy>,
    dir: Option<Dir>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderBy {
    Name,
    Displayname,
    IsGuest,
    Admin,
    Deactivated,
    UserType,
    AvatarUrl,
    ShadowBanned,
    CreationTs,
    LastSeenTs,
    Locked,
}

impl From<OrderBy> for SortBy {
    fn from(order_by: OrderBy) -> Self {
        match order_by {
            OrderBy::Name => Self::Name,
            OrderBy::Displayname => Self::DisplayName,
            OrderBy::Admin => Self::Admin,
            OrderBy::IsGuest => Self::Guest,
            OrderBy::Deactivated => Self::Deactivated,
            OrderBy::AvatarUrl => Self::AvatarUrl,
            OrderBy::CreationTs => Self::Created,
            OrderBy::LastSeenTs => Self::LastSeen,
            OrderBy::UserType | OrderBy::ShadowBanned | OrderBy::Locked => Self::Nothing,
        }
    }
}

pub(crate) async fn list(
    State(api): State<Api>,
    Query(parameters): Query<ListParameters>,
) -> Result<Json<Value>, ApiError> {
    // Closed accounts beside the others, or none of them.
    let deactivated = match parameters.deactivated {
        Some(true) => None,
        Some(false) | None => Some(false),
    };
    list_of(&api, parameters, deactivated).await
}

pub(crate) async fn list_v3(
    State(api): State<Api>,
    Query(parameters): Query<ListParameters>,
) -> Result<Json<Value>, ApiError> {
    let deactivated = parameters.deactivated;
    list_of(&api, parameters, deactivated).await
}

async fn list_of(
    api: &Api,
    parameters: ListParameters,
    deactivated: Option<bool>,
) -> Result<Json<Value>, ApiError> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let named = match (given(parameters.name), given(parameters.user_id)) {
        (Some(name), _) => Named::Like(name),
        (None, Some(user_id)) => Named::WithId(user_id),
        (None, None) => Named::Anyhow,
    };
    let skip = parameters.from.unwrap_or(0);
    let wanted = AccountsWanted {
        named,
        deactivated,
        admins: parameters.admins,
        without_guests: parameters.guests == Some(false),
        sort_by: parameters.order_by.unwrap_or(OrderBy::Name).into(),
        descending: parameters.dir == Some(Dir::Backwards),
        skip,
        limit: row_limit(parameters.limit),
    };
    let (accounts, total) = api.users().accounts(wanted).await?;
    let next = skip + accounts.len() as u64;
    let users: Vec<Value> = accounts.iter().map(row).collect();
    let mut answer = json!({ "users": users, "total": total });
    if next < total {
        answer["next_token"] = json!(next.to_string());
    }
    Ok(Json(answer))
}

pub(crate) async fn one(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Value>, ApiError> {
    must_be_local(&api, &user, "Can only look up local users")?;
    details(&api, &user).await
}

async fn details(api: &Api, user: &UserId) -> Result<Json<Value>, ApiError> {
    let account = api.users().account_details(user).await?;
    let mut details = row(&account);
    details["threepids"] = json!([]);
    details["external_ids"] = json!([]);
    details["suspended"] = json!(false);
    Ok(Json(details))
}

/// An account as administrators see it.
fn row(account: &AccountDetails) -> Value {
    json!({
        "name": account.user_id,
        "user_type": null,
        "is_guest": account.guest,
        "admin": account.admin,
        "deactivated": account.deactivated,
        "shadow_banned": false,
        "locked": false,
        "erased": account.erased,
        "displayname": account.display_name,
        "avatar_url": account.avatar_url,
        "creation_ts": account.created_ms,
        "last_seen_ts": account.last_seen_ms,
    })
}

#[derive(Deserialize)]
pub(crate) struct Put {
    password: Option<String>,
    #[serde(default = "yes")]
    logout_devices: bool,
    #[serde(default, deserialize_with = "nullable")]
    displayname: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    avatar_url: Option<Option<String>>,
    admin: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
    user_type: Option<String>,
    threepids: Option<Vec<Value>>,
    external_ids: Option<Vec<Value>>,
}

fn yes() -> bool {
    true
}

impl Put {
    /// Refuses what this server does not have.
    fn check(&self) -> Result<(), ApiError> {
        if self.user_type.is_some() {
            return Err(ApiError::unknown("Invalid user type"));
        }
        let some = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
        if some(&self.threepids) || some(&self.external_ids) {
            let why = "This server keeps no addresses of users at third parties";
            return Err(ApiError::unknown(why));
        }
        match self.locked {
            Some(true) => Err(ApiError::unknown("This server does not lock accounts")),
            _ => Ok(()),
        }
    }
}

pub(crate) async fn put(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
    Json(wish): Json<Put>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    must_be_local(
        &api,
        &user,
        "This endpoint can only be used with local users",
    )?;
    wish.check()?;
    if wish.admin == Some(false) {
        must_be_another(&requester.user_id, &user)?;
    }
    let (is_closed, is_shown_otherwise) = (
        wish.deactivated == Some(true),
        wish.displayname.is_some() || wish.avatar_url.is_some(),
    );
    let change = AccountChange {
        password: wish.password,
        log_out: wish.logout_devices,
        display_name: wish.displayname,
        avatar_url: wish.avatar_url,
        admin: wish.admin,
        deactivated: wish.deactivated,
    };
    let is_new = api.users().put_account(user.clone(), change).await?;
    if is_shown_otherwise {
        api.rooms().profile_changed();
    }
    if is_closed {
        api.rooms().account_closed();
    }
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, details(&api, &user).await?))
}

fn must_be_another(requester: &UserId, user: &UserId) -> Result<(), ApiError> {
    match requester == user {
        true => Err(ApiError::unknown("You may not demote yourself.")),
        false => Ok(()),
    }
}

/// The same text for both methods.
const ONLY_LOCAL_ADMINS: &str = "Only local users can be admins of this homeserver";

pub(crate) async fn is_admin(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Value>, ApiError> {
    must_be_local(&api, &user, ONLY_LOCAL_ADMINS)?;
    let account = api.users().account_details(&user).await?;
    Ok(Json(json!({ "admin": account.admin })))
}

#[derive(Deserialize)]
pub(crate) struct AdminFlag {
    admin: Option<bool>,
}

pub(crate) async fn set_admin(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
    Json(flag): Json<AdminFlag>,
) -> Result<Json<Value>, ApiError> {
    let missing = || ApiError::missing_param("admin");
    let admin = flag.admin.ok_or_else(missing)?;
    must_be_local(&api, &user, ONLY_LOCAL_ADMINS)?;
    if !admin {
        must_be_another(&requester.user_id, &user)?;
    }
    api.users().set_admin(user, admin).await?;
    Ok(Json(json!({})))
}

#[derive(Default, Deserialize)]
pub(crate) struct LogInAs {
    valid_until_ms: Option<u64>,
}

pub(crate) async fn log_in_as(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
    OptionalJson(wish): OptionalJson<LogInAs>,
) -> Result<Json<Value>, ApiError> {
    must_be_local(&api, &user, "Only local users can be logged in as")?;
    if requester.user_id == user {
        let why = "Cannot use admin API to login as self";
        return Err(ApiError::unknown(why));
    }
    let token = api.users().log_in_as(user, wish.valid_until_ms).await?;
    Ok(Json(json!({ "access_token": token })))
}

pub(crate) async fn joined_rooms(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Value>, ApiError> {
    must_be_local(&api, &user, "Can only look up local users")?;
    let rooms = api.sync().joined_rooms(&user).await?;
    Ok(Json(json!({ "total": rooms.len(), "joined_rooms": rooms })))
}

#[derive(Deserialize)]
pub(crate) struct NewPassword {
    new_password: Option<String>,
    #[serde(default = "yes")]
    logout_devices: bool,
}

pub(crate) async fn reset_password(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
    Json(wish): Json<NewPassword>,
) -> Result<Json<Value>, ApiError> {
    let missing = || ApiError::missing_param("new_password");
    let password = wish.new_password.ok_or_else(missing)?;
    let users = api.users();
    users
        .reset_password(user, password, wish.logout_devices)
        .await?;
    Ok(Json(json!({})))
}

#[derive(Default, Deserialize)]
pub(crate) struct Deactivation {
    #[serde(default)]
    erase: bool,
}

pub(crate) async fn deactivate(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
    OptionalJson(wish): OptionalJson<Deactivation>,
) -> Result<Json<Value>, ApiError> {
    must_be_local(&api, &user, "Can only deactivate local users")?;
    api.users().close_account(user, wish.erase).await?;
    api.rooms().account_closed();
    // This server never binds addresses of its users to an identity server.
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}
