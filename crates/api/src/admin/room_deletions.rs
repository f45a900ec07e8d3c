//! "Delete Room API".

use std::time::Duration;

use axum::extract::State;
use myelin_rooms::{DeleteRoom, Deletion, Replacement, ShutDown};
use myelin_storage::room_deletions::Status;
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::must_be_local;
use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

/// How long a request waits for the end of a deletion.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

const USUAL_NAME: &str = "Content Violation Notification";
const USUAL_MESSAGE: &str = "Sharing illegal content on this server is not permitted and rooms in violation will be \
    blocked.";

#[derive(Deserialize)]
pub(crate) struct Wish {
    #[serde(default)]
    block: bool,
    /// As elsewhere, who says nothing wants it.
    #[serde(default = "yes")]
    purge: bool,
    #[serde(default)]
    force_purge: bool,
    new_room_user_id: Option<OwnedUserId>,
    room_name: Option<String>,
    message: Option<String>,
}

fn yes() -> bool {
    true
}

impl Wish {
    fn read(self, api: &Api, requester: OwnedUserId) -> Result<DeleteRoom, ApiError> {
        if let Some(user) = &self.new_room_user_id {
            must_be_local(api, user, &format!("User must be our own: {user}"))?;
        }
        let replacement = self.new_room_user_id.map(|user| Replacement {
            user,
            name: self.room_name.unwrap_or_else(|| USUAL_NAME.to_owned()),
            message: self.message.unwrap_or_else(|| USUAL_MESSAGE.to_owned()),
        });
        Ok(DeleteRoom {
            requester,
            block: self.block,
            purge: self.purge,
            force_purge: self.force_purge,
            replacement,
        })
    }
}

async fn begin(api: &Api, room: &RoomId, wish: DeleteRoom) -> Result<String, ApiError> {
    let begun = api.rooms().delete_room(room, wish).await?;
    begun.ok_or_else(|| ApiError::unknown(format!("Purge already in progress for {room}")))
}

/// Deletes a room, and answers when that is done.
pub(crate) async fn delete(
    State(api): State<Api>,
    User(requester): User,
    Path(room): Path<OwnedRoomId>,
    Json(wish): Json<Wish>,
) -> Result<Json<ShutDown>, ApiError> {
    let wish = wish.read(&api, requester.user_id)?;
    if !wish.block && api.rooms().room(&room).await?.is_none() {
        return Err(ApiError::not_found("Room not found"));
    }
    let id = begin(&api, &room, wish).await?;
    let clock = &api.rooms().env().clock;
    let ended = clock.timeout(LONGEST_WAIT, api.rooms().deletion_ended(&id));
    let deletion = match ended.await {
        Ok(ended) => ended?.ok_or_else(ApiError::internal)?,
        // What goes on for longer is seen by its status.
        Err(_) => of_id(&api, &id).await?,
    };
    match deletion.error {
        Some(error) => Err(ApiError::unknown(error)),
        None => Ok(Json(deletion.shutdown)),
    }
}

/// Begins to delete a room.
pub(crate) async fn begin_to_delete(
    State(api): State<Api>,
    User(requester): User,
    Path(room): Path<OwnedRoomId>,
    Json(wish): Json<Wish>,
) -> Result<Json<Value>, ApiError> {
    let wish = wish.read(&api, requester.user_id)?;
    let id = begin(&api, &room, wish).await?;
    Ok(Json(json!({ "delete_id": id })))
}

pub(crate) async fn of_room(
    State(api): State<Api>,
    Path(room): Path<OwnedRoomId>,
) -> Result<Json<Value>, ApiError> {
    let deletions = api.rooms().deletions_of(&room).await?;
    if deletions.is_empty() {
        let why = format!("No delete task for room_id '{room}' found");
        return Err(ApiError::not_found(why));
    }
    let results: Vec<Value> = deletions.iter().map(shown).collect();
    Ok(Json(json!({ "results": results })))
}

pub(crate) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(shown(&of_id(&api, &id).await?)))
}

async fn of_id(api: &Api, id: &str) -> Result<Deletion, ApiError> {
    let found = api.rooms().deletion(id).await?;
    found.ok_or_else(|| ApiError::not_found(format!("delete id '{id}' not found")))
}

fn shown(deletion: &Deletion) -> Value {
    let mut answer = json!({
        "delete_id": deletion.id,
        "room_id": deletion.room_id,
        "status": deletion.status.name(),
        "shutdown_room": deletion.shutdown,
    });
    if deletion.status == Status::Failed {
        answer["error"] = json!(deletion.error);
    }
    answer
}
