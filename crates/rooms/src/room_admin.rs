//! Giving a user the greatest power over a room that one of our users can give, on the word of an
//! administrator of the server.

use myelin_core::{power_levels::Level, state::Membership};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{RoomError, Rooms, new_event::NewEvent};

const POWER_LEVELS: &str = "m.room.power_levels";

/// What a creator gives whose own power is beyond numbers.
const ADMIN_LEVEL: i64 = 100;

impl Rooms {
    /// Gives a user the power of the mightiest of our users in a room, and invites the user if need be. False
    /// if none of ours can.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] for an unknown room, and as [`Rooms::send`].
    pub async fn make_room_admin(
        &self,
        room_id: &RoomId,
        user: &UserId,
    ) -> Result<bool, RoomError> {
        let room = self.known_room(room_id).await?;
        let Some(current) = room.current() else {
            return Ok(false);
        };
        let Some(levels) = self.power_levels(&room, &current.state).await? else {
            return Ok(false);
        };
        let mut admins = room.local_users();
        admins.retain(|admin| self.membership_of(&room, admin) == Some(Membership::Join));
        admins.retain(|admin| levels.may_send(admin, &POWER_LEVELS.into(), true));
        let Some(admin) = admins.iter().max_by_key(|admin| levels.level_of(admin)) else {
            return Ok(false);
        };
        let level = match levels.level_of(admin) {
            Level::Finite(level) => level,
            Level::Infinite => ADMIN_LEVEL,
        };
        if levels.level_of(user) < Level::Finite(level) {
            let content = self.current_content(&room, POWER_LEVELS).await?;
            let content = content.and_then(|content| serde_json::from_str(content.get()).ok());
            // Without such an event the creator has its power from nowhere else.
            let content = content.unwrap_or_else(|| {
                Map::from_iter([("users".to_owned(), json!({ (admin.as_str()): level }))])
            });
            let content = with_level(content, user, level);
            self.send(room_id, NewEvent::state(admin, POWER_LEVELS, content))
                .await?;
        }
        let is_near = matches!(
            self.membership_of(&room, user),
            Some(Membership::Join | Membership::Invite)
        );
        if !is_near && !self.is_open(&room).await? {
            let invite = self.set_membership(admin, room_id, user, Membership::Invite, None);
            invite.await?;
        }
        Ok(true)
    }

    /// Whether anybody may join.
    async fn is_open(&self, room: &std::sync::Arc<crate::Room>) -> Result<bool, RoomError> {
        let rules = self.current_content(room, "m.room.join_rules").await?;
        let rules: Option<Value> = rules.and_then(|rules| serde_json::from_str(rules.get()).ok());
        Ok(rules.is_some_and(|rules| rules["join_rule"] == "public"))
    }
}

/// Power levels by which a user has a level.
fn with_level(mut content: Map<String, Value>, user: &UserId, level: i64) -> Value {
    let users = content.entry("users").or_insert_with(|| json!({}));
    if let Value::Object(users) = users {
        users.insert(user.as_str().to_owned(), level.into());
    }
    Value::Object(content)
}
