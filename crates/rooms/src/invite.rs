//! Invitations between servers (server-server API, "Inviting to a room").

use std::sync::Arc;

use myelin_core::{
    build,
    event::Verdict,
    pdu::Pdu,
    receive::{Decision, DropReason, Recommendation},
    room_version::RoomVersion,
    state::Membership,
    validate::ValidPdu,
};
use myelin_federation::Invite;
use myelin_storage::timelines;
use ruma::{OwnedEventId, UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    RoomError, Rooms, ServeError, new_event::NewEvent, outliers::remote, resident::Handed,
    room::Room, send::accepted, stripped::Told, trace::Trace, turn::Turn,
};

/// The body of a request to invite.
#[derive(Deserialize)]
struct Body {
    room_version: String,
    event: Box<RawValue>,
    #[serde(default)]
    invite_room_state: Value,
}

impl Rooms {
    /// `PUT /invite`: another server invites one of our users. When this returns, the user is told.
    /// Returns the invite with our signature, in the form of the answer.
    ///
    /// # Errors
    /// Any [`ServeError`]. Then nothing was stored, and the signature stays here.
    pub async fn receive_invite(&self, handed: Handed<'_>) -> Result<Value, ServeError> {
        let body: Body = serde_json::from_slice(handed.body)
            .map_err(|error| ServeError::BadJson(error.to_string()))?;
        let version = RoomVersion::parse(&body.room_version)
            .map_err(|_| ServeError::IncompatibleVersion(body.room_version.clone()))?;
        if self.blocked_by(handed.room_id).await?.is_some() {
            return Err(ServeError::Forbidden(
                "This room has been blocked on this server".into(),
            ));
        }
        let signed = build::countersign(version, body.event.get(), self.key())
            .map_err(|error| ServeError::InvalidParam(error.to_string()))?;
        let invite = self
            .validate_whole(version, handed.room_id, &signed, |pdu| {
                self.check_invite(handed, pdu)
            })
            .await?;
        let told = match body.invite_room_state {
            Value::Array(events) => events,
            _ => Vec::new(),
        };
        let told = told.iter().map(crate::new_event::raw).collect();
        let Told { stripped, problem } = self.told(version, handed.room_id, told).await;
        if let Some(problem) = problem {
            let problem = format!("invite_room_state: {problem}");
            if version.room_id_is_create_hash() {
                return Err(ServeError::InvalidParam(problem));
            }
            tracing::warn!(origin = %handed.origin, room = %handed.room_id, problem, "an invite");
        }
        let room = self.room_of_version(handed.room_id, version).await;
        let room = room.map_err(|error| ServeError::InvalidParam(error.to_string()))?;
        if !self.allows(&room, handed.origin).await? {
            return Err(ServeError::Forbidden(
                "the room's server ACL keeps your server out".into(),
            ));
        }
        if !self.is_invited_in_room(&room, &invite).await? {
            self.put_out_of_band(
                &room,
                invite.pdu().clone(),
                stripped,
                handed.origin.to_owned(),
            )
            .await?;
        }
        let event: Value = serde_json::from_str(&signed)
            .map_err(|error| ServeError::Internal(error.to_string()))?;
        Ok(json!({ "event": event }))
    }

    /// That the event is an invite of one of our users by one of the asking server's.
    fn check_invite(&self, handed: Handed<'_>, pdu: &Pdu) -> Result<(), ServeError> {
        let refuse = |why: &str| Err(ServeError::InvalidParam(why.to_owned()));
        if pdu.event_type != TimelineEventType::RoomMember
            || pdu.membership != Some(Membership::Invite)
        {
            return refuse("the event is no invite");
        }
        if pdu.sender.server_name() != handed.origin {
            return refuse("the event was sent by a user of another server");
        }
        let target = pdu.state_key.as_deref().map(<&UserId>::try_from);
        if !matches!(target, Some(Ok(target)) if self.is_local(target)) {
            return refuse("the event invites a user of another server");
        }
        if pdu.event_id != handed.event_id {
            return refuse("the event has another ID than the request names");
        }
        Ok(())
    }

    /// Puts an invite to a room that this server is in where it belongs. False if this server is not
    /// in the room, or lacks what the invite builds upon: then the user is told all the same.
    async fn is_invited_in_room(
        &self,
        room: &Arc<Room>,
        invite: &ValidPdu,
    ) -> Result<bool, ServeError> {
        if !room.has_server(self.server_name()) {
            return Ok(false);
        }
        let (mut turn, decision) = self.decide_recommended(room, invite.clone()).await?;
        match decision {
            Decision::Done(plan) if plan.verdict == Verdict::Accepted => {
                turn.accept(plan).await?;
                turn.commit().await?;
                Ok(true)
            }
            Decision::Done(plan) => Err(ServeError::Forbidden(plan.reason.unwrap_or_default())),
            Decision::Drop(DropReason::Known) => Ok(true),
            _ => Ok(false),
        }
    }

    /// Invites a user of another server, which has to sign the invite first. The room goes on
    /// meanwhile.
    pub(crate) async fn invite_remotely(
        &self,
        room: &Arc<Room>,
        event: NewEvent,
        target: &UserId,
    ) -> Result<OwnedEventId, RoomError> {
        let (invite, telling) = {
            let mut turn = Turn::take(self, room).await?;
            let plan = turn.propose(event, Recommendation::NotWanted).await?;
            let before = plan.timeline.map(|timeline| timeline.before.state);
            let telling = before.map(|state| room.telling_events(&state, &plan.pdu.sender));
            (plan.pdu, telling.unwrap_or_default())
        };
        let invite = self.recommended(room, invite).await?;
        let texts = self.database().look_up("events as text", move |tx| {
            Box::pin(async move { timelines::event_jsons(tx, &telling).await })
        });
        let told = texts.await?.into_iter();
        let told: Vec<_> = told
            .filter_map(|event| RawValue::from_string(event.json).ok())
            .collect();
        let json: &RawValue = serde_json::from_str(&invite.json)
            .map_err(|error| RoomError::Internal(error.to_string()))?;
        let asked = Invite {
            room_version: room.key.version.as_str(),
            event: json,
            invite_room_state: &told,
        };
        let server = target.server_name();
        let room_id = &room.key.room_id;
        let answer = self
            .federation()
            .invite(server, room_id, &invite.event_id, &asked)
            .await
            .map_err(remote)?;
        self.take_signed_invite(room, &invite, answer.get()).await
    }

    /// Takes the invite with both signatures.
    async fn take_signed_invite(
        &self,
        room: &Arc<Room>,
        invite: &Pdu,
        answer: &str,
    ) -> Result<OwnedEventId, RoomError> {
        let signed = self
            .validate_whole(room.key.version, &room.key.room_id, answer, |pdu| {
                match pdu.event_id == invite.event_id {
                    true => Ok(()),
                    false => Err(Unsigned("it is another event".to_owned())),
                }
            })
            .await
            .map_err(|Unsigned(why)| {
                RoomError::NoServer(format!("the invite came back altered: {why}"))
            })?;
        let mut trace = Trace::begin(&room.key.room_id);
        trace.step("decide");
        let (mut turn, decision) = self.decide_recommended(room, signed).await?;
        // The room heard of it from the other server.
        if matches!(decision, Decision::Drop(DropReason::Known)) {
            return Ok(invite.event_id.clone());
        }
        let event_id = turn.take_sent(accepted(decision)?, None, trace).await?;
        turn.commit().await?;
        Ok(event_id)
    }
}

/// Why the other server's answer can't be taken.
struct Unsigned(String);

impl From<myelin_core::validate::DropReason> for Unsigned {
    fn from(reason: myelin_core::validate::DropReason) -> Self {
        Self(reason.to_string())
    }
}
