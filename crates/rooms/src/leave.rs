//! Leaving rooms, and declining invitations to those that this server is not in (server-server API,
//! "Leaving rooms"; client-server API, "Leaving rooms").

use std::{sync::Arc, time::Duration};

use myelin_core::{build::EventDraft, key_table::MEMBER, pdu::Pdu, state::Membership};
use myelin_storage::{Priority, out_of_band::OutOfBand, rooms as room_table};
use ruma::{RoomId, ServerName, UserId};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    RoomError, Rooms,
    completion::Wanted,
    new_event::raw,
    outliers::remote,
    room::Room,
    send::{not_built, timestamp},
};

/// How long a server is asked to let a user leave who has left anyway.
const LONGEST_FAREWELL: Duration = Duration::from_secs(20);

impl Rooms {
    /// Leaves a room, declines an invitation, or takes a knock back. Leaving twice is no error.
    ///
    /// # Errors
    /// As [`Rooms::send`].
    pub async fn leave(
        &self,
        user: &UserId,
        room_id: &RoomId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let room = self.known_room(room_id).await?;
        let is_in = room.has_server(self.server_name());
        let membership = self.membership_of(&room, user);
        let from_outside = match membership.filter(|_| is_in) {
            None | Some(Membership::Leave) => self.seen_from_outside(&room, user).await?,
            Some(_) => None,
        };
        let standing = match &from_outside {
            Some(known) => known.event.pdu.membership,
            None => membership,
        };
        match (standing, from_outside) {
            (Some(Membership::Leave), _) => Ok(()),
            (None, _) => Err(RoomError::Forbidden(format!("{user} is not in the room"))),
            (Some(Membership::Invite | Membership::Knock), Some(known)) => {
                self.leave_from_outside(&room, user, known, reason).await
            }
            _ => {
                let leave = self.set_membership(user, room_id, user, Membership::Leave, reason);
                leave.await.map(drop)
            }
        }
    }

    /// What a user is to a room that can't be told of a change here: as other servers said, or as it was
    /// when the last of us left.
    async fn seen_from_outside(
        &self,
        room: &Arc<Room>,
        user: &UserId,
    ) -> Result<Option<OutOfBand>, RoomError> {
        if let Some(known) = self.out_of_band(room, user).await? {
            return Ok(Some(known));
        }
        let current = room.current();
        let Some(current) = current.filter(|_| !room.has_server(self.server_name())) else {
            return Ok(None);
        };
        let entry = current.state.get_named(&room.keys(), MEMBER, user.as_str());
        let held = room.events(self, entry.map(|entry| entry.event())).await?;
        let Some(event) = held.into_values().next() else {
            return Ok(None);
        };
        let inviter = event.pdu.sender.server_name().to_owned();
        let others = [inviter].into_iter().chain(self.others_in(&current.state));
        let via = self.candidates(others).into_iter().next();
        Ok(Some(OutOfBand {
            event,
            stripped_state: Vec::new(),
            via: via.unwrap_or_else(|| self.server_name().to_owned()),
        }))
    }

    /// Declines an invitation, or takes a knock back, through a server in the room. If that fails, the
    /// user is out all the same, and the room doesn't know (R95).
    async fn leave_from_outside(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        known: OutOfBand,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let mut content = Map::new();
        content.extend(reason.map(|reason| ("reason".to_owned(), Value::from(reason))));
        let through = self.leave_through(room, user, &known.via, content.clone());
        let leave = match self.env().clock.timeout(LONGEST_FAREWELL, through).await {
            Ok(Ok(leave)) => leave,
            failed => {
                let why = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer in time".to_owned(),
                };
                tracing::info!(server = %known.via, %user, why, "the room is not told of a leave");
                self.leave_alone(room, user, &known, content)?
            }
        };
        let OutOfBand {
            stripped_state,
            via,
            ..
        } = known;
        self.put_out_of_band(room, leave, stripped_state, via)
            .await?;
        Ok(())
    }

    async fn leave_through(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        server: &ServerName,
        content: Map<String, Value>,
    ) -> Result<Arc<Pdu>, RoomError> {
        let room_id = &room.key.room_id;
        let wanted = Wanted {
            room_id,
            user,
            membership: Membership::Leave,
        };
        let template = self.federation().make_leave(server, room_id, user).await;
        let leave = self
            .complete_template(wanted, &template.map_err(remote)?, content)?
            .pdu;
        let json: &RawValue = serde_json::from_str(&leave.json)
            .map_err(|error| RoomError::Internal(error.to_string()))?;
        self.federation()
            .send_leave(server, room_id, &leave.event_id, json)
            .await
            .map_err(remote)?;
        Ok(leave.into_pdu())
    }

    /// A leave that only this server knows of.
    fn leave_alone(
        &self,
        room: &Room,
        user: &UserId,
        known: &OutOfBand,
        mut content: Map<String, Value>,
    ) -> Result<Arc<Pdu>, RoomError> {
        content.insert("membership".into(), Membership::Leave.name().into());
        let before = &known.event.pdu;
        let draft = EventDraft {
            room_id: Some(room.key.room_id.clone()),
            sender: user.to_owned(),
            event_type: "m.room.member".into(),
            state_key: Some(user.as_str().to_owned()),
            content: raw(&Value::Object(content)),
            prev_events: vec![before.event_id.clone()],
            auth_events: vec![before.event_id.clone()],
            depth: before.depth.saturating_add(1).min((1 << 53) - 1),
            origin_server_ts: timestamp(self),
            redacts: None,
        };
        let leave = draft.finish(room.key.version, self.key());
        Ok(leave.map_err(not_built)?.into_pdu())
    }

    /// Makes a user's rooms not list one any more that the user is out of.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] for an unknown room, [`RoomError::StillInRoom`].
    pub async fn forget(&self, user: &UserId, room_id: &RoomId) -> Result<(), RoomError> {
        let nr = self.known_room(room_id).await?.key.room;
        let forgetful = user.to_owned();
        let forgotten = self
            .database()
            .write("forget a room", Priority::Interactive, move |tx| {
                Box::pin(async move { room_table::forget(tx, &forgetful, nr).await })
            })
            .await
            .map_err(RoomError::Storage)?;
        if forgotten {
            Ok(())
        } else {
            Err(RoomError::StillInRoom(format!(
                "{user} has not left the room"
            )))
        }
    }
}
