//! "Registration Tokens". Nothing is set aside for a registration that has only begun, so no use is pending.

use axum::extract::State;
use myelin_storage::registration_tokens::RegistrationToken;
use myelin_users::NewToken;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::nullable;
use crate::{
    Api, ApiError,
    request::{Json, Path, Query},
};

/// A token as administrators see it.
#[derive(Serialize)]
pub(crate) struct Shown {
    token: String,
    uses_allowed: Option<u64>,
    pending: u64,
    completed: u64,
    expiry_time: Option<u64>,
}

impl From<RegistrationToken> for Shown {
    fn from(token: RegistrationToken) -> Self {
        Self {
            token: token.token,
            uses_allowed: token.uses_left.map(|left| left + token.completed),
            pending: 0,
            completed: token.completed,
            expiry_time: token.expires_ms,
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct ListParameters {
    valid: Option<bool>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    Query(parameters): Query<ListParameters>,
) -> Result<Json<Value>, ApiError> {
    let tokens = api.users().registration_tokens(parameters.valid).await?;
    let tokens: Vec<Shown> = tokens.into_iter().map(Shown::from).collect();
    Ok(Json(json!({ "registration_tokens": tokens })))
}

/// Values are read one by one, since each has an error of its own.
#[derive(Deserialize)]
pub(crate) struct Wish {
    token: Option<Value>,
    length: Option<Value>,
    #[serde(default, deserialize_with = "nullable")]
    uses_allowed: Option<Option<Value>>,
    #[serde(default, deserialize_with = "nullable")]
    expiry_time: Option<Option<Value>>,
}

impl Wish {
    fn uses_allowed(&self) -> Result<Option<Option<u64>>, ApiError> {
        let why = "uses_allowed must be a non-negative integer or null";
        number(self.uses_allowed.as_ref(), why)
    }

    fn expiry_time(&self) -> Result<Option<Option<u64>>, ApiError> {
        let why = "expiry_time must be an integer or null";
        number(self.expiry_time.as_ref(), why)
    }
}

/// A number that may be `null`, or missing.
fn number(value: Option<&Option<Value>>, why: &str) -> Result<Option<Option<u64>>, ApiError> {
    // What the database could not hold is no number either.
    let read = |value: &Value| value.as_u64().filter(|value| i64::try_from(*value).is_ok());
    let read = |value: &Option<Value>| match value {
        None => Ok(None),
        Some(value) => read(value)
            .map(Some)
            .ok_or_else(|| ApiError::invalid_param(why)),
    };
    value.map(read).transpose()
}

pub(crate) async fn create(
    State(api): State<Api>,
    Json(wish): Json<Wish>,
) -> Result<Json<Shown>, ApiError> {
    let (uses_allowed, expires_ms) = (
        wish.uses_allowed()?.flatten(),
        wish.expiry_time()?.flatten(),
    );
    let token = match wish.token {
        None => None,
        Some(Value::String(token)) => Some(token),
        Some(_) => return Err(ApiError::invalid_param("token must be a string")),
    };
    let length = match wish.length.as_ref().map(Value::as_u64) {
        None => None,
        Some(Some(length)) => Some(usize::try_from(length).unwrap_or(usize::MAX)),
        Some(None) => return Err(ApiError::invalid_param("length must be an integer")),
    };
    let wish = NewToken {
        token,
        length,
        uses_allowed,
        expires_ms,
    };
    Ok(Json(
        api.users().make_registration_token(wish).await?.into(),
    ))
}

pub(crate) async fn one(
    State(api): State<Api>,
    Path(token): Path<String>,
) -> Result<Json<Shown>, ApiError> {
    Ok(Json(api.users().registration_token(token).await?.into()))
}

pub(crate) async fn update(
    State(api): State<Api>,
    Path(token): Path<String>,
    Json(wish): Json<Wish>,
) -> Result<Json<Shown>, ApiError> {
    let (uses_allowed, expires_ms) = (wish.uses_allowed()?, wish.expiry_time()?);
    let users = api.users();
    let changed = users.change_registration_token(token, uses_allowed, expires_ms);
    Ok(Json(changed.await?.into()))
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(token): Path<String>,
) -> Result<Json<Value>, ApiError> {
    api.users().remove_registration_token(token).await?;
    Ok(Json(json!({})))
}
