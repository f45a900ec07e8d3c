//! What our users are to rooms that this server is not in: invited, knocking, or not any more. Such an
//! event is known by itself; the room has no say in it here.

use std::sync::Arc;

use myelin_core::{
    event::{Event, Place, Verdict},
    pdu::Pdu,
    state::Membership,
    validate::Unverified,
};
use myelin_storage::{
    StorageError,
    out_of_band::{self, OutOfBand},
};
use ruma::{OwnedServerName, RoomId, UserId};
use serde_json::value::RawValue;

use crate::{Rooms, commit::LocalMembership, room::Room, turn::Turn};

impl Rooms {
    /// What one of our users is to a room from outside, if this server knows it no better.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn out_of_band(
        &self,
        room: &Room,
        user: &UserId,
    ) -> Result<Option<OutOfBand>, StorageError> {
        let (key, user) = (room.key.clone(), user.to_owned());
        self.database()
            .look_up("out-of-band membership", move |tx| {
                Box::pin(async move { out_of_band::of_user(tx, &key, &user).await })
            })
            .await
    }

    /// Notes what one of our users is to a room from outside, and tells the user.
    pub(crate) async fn put_out_of_band(
        &self,
        room: &Arc<Room>,
        pdu: Arc<Pdu>,
        stripped_state: Vec<Box<RawValue>>,
        via: OwnedServerName,
    ) -> Result<(), StorageError> {
        let mut turn = Turn::take(self, room).await?;
        turn.put_out_of_band(pdu, stripped_state, via).await?;
        turn.commit().await
    }

    /// Looks among events of a room that we are not in for one that takes an invite of our user back
    /// (R46). Nobody but the inviter can do so: what others may do in the room is not known here.
    pub(crate) async fn take_rescissions(
        &self,
        room_id: &RoomId,
        pdus: &[Box<RawValue>],
    ) -> Result<(), StorageError> {
        let Some(room) = self.room(room_id).await? else {
            return Ok(());
        };
        for json in pdus {
            let version = room.key.version;
            let Ok(parsed) = Unverified::parse(version, json.get(), Some(room_id)) else {
                continue;
            };
            let Some(invite) = self.rescinded(&room, parsed.pdu()).await? else {
                continue;
            };
            let mut valid = self.validate(version, room_id, vec![json.clone()]).await;
            if let Some(Ok(leave)) = valid.pop() {
                let leave = leave.into_pdu();
                self.put_out_of_band(&room, leave, invite.stripped_state, invite.via)
                    .await?;
            }
        }
        Ok(())
    }

    /// The invite that an event takes back.
    async fn rescinded(&self, room: &Room, pdu: &Pdu) -> Result<Option<OutOfBand>, StorageError> {
        let ends = matches!(pdu.membership, Some(Membership::Leave | Membership::Ban));
        let target = pdu.state_key.as_deref().filter(|_| ends);
        let Some(Ok(target)) = target.map(<&UserId>::try_from) else {
            return Ok(None);
        };
        if !self.is_local(target) {
            return Ok(None);
        }
        let known = self.out_of_band(room, target).await?;
        Ok(known.filter(|known| {
            known.event.pdu.membership == Some(Membership::Invite)
                && known.event.pdu.sender == pdu.sender
                && pdu.auth_events.contains(&known.event.pdu.event_id)
        }))
    }
}

impl Turn<'_> {
    async fn put_out_of_band(
        &mut self,
        pdu: Arc<Pdu>,
        stripped_state: Vec<Box<RawValue>>,
        via: OwnedServerName,
    ) -> Result<(), StorageError> {
        let target = pdu.state_key.as_deref().map(UserId::parse);
        let (Some(membership), Some(Ok(user))) = (pdu.membership, target) else {
            return Err(StorageError::Bug("that is no membership".into()));
        };
        let is_held = self.look_up(&pdu.event_id).await?.is_some();
        let event = self.number_of(&pdu.event_id);
        if !is_held {
            self.batch.put_reference(event, &pdu.event_id);
        }
        let position = self.batch.next_position();
        self.batch.put_local_membership(LocalMembership {
            user,
            membership,
            event,
            position,
        });
        self.batch.put_out_of_band(OutOfBand {
            event: Arc::new(Event {
                nr: event,
                pdu,
                verdict: Verdict::Accepted,
                place: Place::Outlier,
                redacted_by: None,
            }),
            stripped_state,
            via,
        });
        Ok(())
    }
}
