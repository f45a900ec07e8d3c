//! The exchange with a resident server that makes a join: its template completed, its answer checked
//! and stored.

use std::sync::Arc;

use myelin_core::{
    completeness::Completeness,
    event::Verdict,
    receive::{Decision, KnownState, Placement, RemoteNeed},
    room_version::RoomVersion,
    state::Membership,
    validate::ValidPdu,
};
use myelin_federation::{PduList, SendJoinRest, StreamedPdu, Template};
use myelin_storage::{Priority, joins::PartialRoom};
use ruma::{OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    RoomError, Rooms,
    commit::JoinOutcome,
    completion::Wanted,
    outliers::{ListedState, Outliers, remote},
    room::Room,
    turn::{Candidate, Turn},
};

/// How many servers an answer may name: our events would go to all of them.
const MOST_SERVERS: usize = 100_000;

/// A join that is signed and ready to be sent.
pub(crate) struct Handshake<'a> {
    rooms: &'a Rooms,
    pub(crate) room: Arc<Room>,
    user: OwnedUserId,
    join: ValidPdu,
    /// The server that must authorise a restricted join.
    authorising: Option<OwnedServerName>,
}

impl<'a> Handshake<'a> {
    /// Completes a template.
    pub(crate) async fn new(
        rooms: &'a Rooms,
        room_id: &RoomId,
        user: &UserId,
        template: &Template,
        content: Map<String, Value>,
    ) -> Result<Handshake<'a>, RoomError> {
        let wanted = Wanted {
            room_id,
            user,
            membership: Membership::Join,
        };
        let completed = rooms.complete_template(wanted, template, content)?;
        let room = rooms.room_of_version(room_id, completed.version).await?;
        Ok(Handshake {
            rooms,
            room,
            user: user.to_owned(),
            join: completed.pdu,
            authorising: completed.authorising,
        })
    }

    /// Sends the join and takes the answer. When this returns the user is in the room.
    pub(crate) async fn send(&self, template_from: &ServerName) -> Result<(), RoomError> {
        let server = self.authorising.as_deref().unwrap_or(template_from);
        let in_room = self.room.has_server(self.rooms.server_name());
        // A partial event may not be stored in a room whose state is full (R99, R113).
        let omit_members = !in_room || self.room.is_partial();
        let pdu: &RawValue = serde_json::from_str(&self.join.json)
            .map_err(|error| RoomError::Internal(error.to_string()))?;
        let room_id = &self.room.key.room_id;
        let mut stream = self
            .rooms
            .federation()
            .send_join_stream(server, room_id, &self.join.event_id, pdu, omit_members)
            .await
            .map_err(remote)?;
        let mut outliers = Outliers::new(self.rooms, &self.room);
        let mut creates = 0;
        while let Some(StreamedPdu { list, json }) = stream.next().await.map_err(remote)? {
            creates += usize::from(list == PduList::State && is_create_event(&json));
            if list == PduList::AuthChain && is_create_event(&json) {
                self.check_create_in_chain(&json).await?;
            }
            outliers.push(list, json).await?;
        }
        let rest = stream.finish().await.map_err(remote)?;
        let listed = outliers.finish().await?;
        if creates != 1 {
            return Err(RoomError::NoServer(format!(
                "{server} sent {creates} create events"
            )));
        }
        let partial = self.check_rest(server, omit_members, &rest)?;
        let join = self.signed_join(&rest).await?;
        self.take(join, listed, partial, in_room).await
    }

    /// The create event may stand in the auth chain too, but there is only one (R89).
    async fn check_create_in_chain(&self, json: &RawValue) -> Result<(), RoomError> {
        let key = &self.room.key;
        let pdus = vec![json.to_owned()];
        let valid = self.rooms.validate(key.version, &key.room_id, pdus).await;
        for pdu in valid.iter().flatten() {
            let declared = RoomVersion::of_create_event(pdu.pdu());
            if declared.map(RoomVersion::as_str).ok() != Some(key.version.as_str()) {
                return Err(RoomError::NoServer(
                    "the create event is of another version".into(),
                ));
            }
        }
        Ok(())
    }

    /// The record of a partial join, if the answer is one.
    fn check_rest(
        &self,
        server: &ServerName,
        omit_members: bool,
        rest: &SendJoinRest,
    ) -> Result<Option<Vec<OwnedServerName>>, RoomError> {
        if !rest.members_omitted {
            return Ok(None);
        }
        let servers = rest.servers_in_room.clone().unwrap_or_default();
        if servers.is_empty() || !omit_members || servers.len() > MOST_SERVERS {
            return Err(RoomError::NoServer(format!(
                "{server} sent an invalid partial answer"
            )));
        }
        Ok(Some(
            servers.into_iter().chain([server.to_owned()]).collect(),
        ))
    }

    /// The join as the resident has it: a restricted join bears its signature.
    async fn signed_join(&self, rest: &SendJoinRest) -> Result<ValidPdu, RoomError> {
        let Some(event) = &rest.event else {
            return Ok(self.join.clone());
        };
        let key = &self.room.key;
        let mut valid = self
            .rooms
            .validate(key.version, &key.room_id, vec![event.clone()])
            .await;
        match valid.pop() {
            Some(Ok(pdu)) if pdu.event_id == self.join.event_id => Ok(pdu),
            _ if self.authorising.is_none() => Ok(self.join.clone()),
            _ => Err(RoomError::NoServer(
                "the answer has another join than was sent".into(),
            )),
        }
    }

    /// Stores the join in its place, with the record of a partial join, in one transaction.
    async fn take(
        &self,
        join: ValidPdu,
        listed: ListedState,
        partial: Option<Vec<OwnedServerName>>,
        in_room: bool,
    ) -> Result<(), RoomError> {
        let completeness = if partial.is_some() {
            Completeness::PARTIAL
        } else {
            Completeness::FULL
        };
        let state = listed.into_state(&self.room);
        if state
            .get_named(&self.room.keys(), "m.room.create", "")
            .is_none()
        {
            return Err(RoomError::NoServer(
                "the answer has no valid create event".into(),
            ));
        }
        let mut turn = Turn::take(self.rooms, &self.room).await?;
        if !in_room {
            // Nothing of an earlier stay is built upon (R92).
            turn.graph.extremities.clear();
        }
        let before = KnownState {
            state,
            completeness,
        };
        let placement = Placement::RemoteJoin { before };
        let plan = match turn.decide(Candidate::new(join, placement)).await? {
            Decision::Done(plan) => plan,
            Decision::NeedRemote(RemoteNeed::AuthEvents(missing)) => {
                return Err(RoomError::NoServer(format!("the answer lacks {missing:?}")));
            }
            // A repaired join that had been stored.
            Decision::Drop(_) => return self.forget_record().await,
            other => return Err(RoomError::Internal(format!("a join ended in {other:?}"))),
        };
        if plan.verdict != Verdict::Accepted {
            return Err(RoomError::Forbidden(plan.reason.unwrap_or_default()));
        }
        let event = turn.accept(plan).await?;
        let served_by = partial.as_ref().and_then(|servers| servers.last()).cloned();
        let partial = served_by
            .zip(partial)
            .map(|(served_by, servers)| PartialRoom {
                room: self.room.key.room,
                join_event: event.nr,
                served_by,
                servers,
                attempts: 0,
                next_try_ms: 0,
                last_error: None,
            });
        turn.batch.joined(JoinOutcome {
            room_id: self.room.key.room_id.clone(),
            user_id: self.user.clone(),
            partial,
        });
        Ok(turn.commit().await?)
    }

    async fn forget_record(&self) -> Result<(), RoomError> {
        let (room_id, user) = (self.room.key.room_id.clone(), self.user.clone());
        self.rooms
            .database()
            .write("a join was done", Priority::Interactive, move |tx| {
                Box::pin(
                    async move { myelin_storage::joins::delete_join(tx, &room_id, &user).await },
                )
            })
            .await
            .map_err(RoomError::Storage)
    }
}

fn is_create_event(json: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct TypeOnly<'a> {
        #[serde(rename = "type", borrow)]
        event_type: std::borrow::Cow<'a, str>,
    }
    json.get().contains("m.room.create")
        && serde_json::from_str::<TypeOnly<'_>>(json.get())
            .is_ok_and(|event| event.event_type == "m.room.create")
}
