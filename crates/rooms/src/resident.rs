//! Membership events that users of other servers send into rooms through this one (server-server API,
//! "Joining rooms", "Leaving rooms", "Knocking upon a room": the second step of the handshake).

use std::sync::Arc;

use myelin_core::{
    build,
    completeness::Question,
    event::{Event, Verdict},
    pdu::Pdu,
    receive::{Decision, DropReason},
    state::{Membership, State},
    validate::ValidPdu,
    visibility::TYING,
};
use ruma::{EventId, OwnedUserId, RoomId, ServerName, UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    RoomError, Rooms, ServeError,
    new_event::{NewEvent, SendError, raw},
    pdu_answer::PduAnswer,
    restricted::Condition,
    room::Room,
    template::not_let_in,
    turn::Turn,
};

/// How many users are tried in turn to tie extremities.
const MOST_TYING: usize = 10;

/// A membership event that another server hands over.
#[derive(Clone, Copy, Debug)]
pub struct Handed<'a> {
    /// The server.
    pub origin: &'a ServerName,
    /// The room, as the request names it.
    pub room_id: &'a RoomId,
    /// The event, as the request names it.
    pub event_id: &'a EventId,
    /// The event itself.
    pub body: &'a [u8],
}

impl Rooms {
    /// `PUT /send_join`: takes the join, passes it on to the other servers, and answers with the state
    /// before it; with `omit_members` without most memberships (MSC3706).
    ///
    /// # Errors
    /// Any [`ServeError`]. Then the join was not taken.
    pub async fn send_join(
        &self,
        handed: Handed<'_>,
        omit_members: bool,
    ) -> Result<PduAnswer, ServeError> {
        let (room, join) = self.take_membership(handed, Membership::Join).await?;
        let before = join
            .before()
            .and_then(|before| before.answering(Question::ForeignServer))
            .ok_or(ServeError::Partial)?;
        let state = room.state(self, before).await?;
        self.join_answer(&room, &join, &state, omit_members).await
    }

    /// `PUT /send_leave`.
    ///
    /// # Errors
    /// Any [`ServeError`]. Then the leave was not taken.
    pub async fn send_leave(&self, handed: Handed<'_>) -> Result<(), ServeError> {
        self.take_membership(handed, Membership::Leave).await?;
        Ok(())
    }

    /// `PUT /send_knock`: takes the knock, and answers with what the user may know of the room.
    ///
    /// # Errors
    /// Any [`ServeError`]. Then the knock was not taken.
    pub async fn send_knock(&self, handed: Handed<'_>) -> Result<PduAnswer, ServeError> {
        let (room, knock) = self.take_membership(handed, Membership::Knock).await?;
        let before = knock.before().ok_or(ServeError::Partial)?;
        let state = room.state(self, before.snapshot()).await?;
        let mut answer = PduAnswer::new(self);
        answer.text(r#"{"knock_room_state":["#);
        answer.pdus(room.telling_events(&state, knock.pdu.sender.as_ref()));
        answer.text("]}");
        Ok(answer)
    }

    /// Judges a membership event by itself and by the room. Unlike a pushed event it is not kept if
    /// it fails: its author is told.
    async fn take_membership(
        &self,
        handed: Handed<'_>,
        membership: Membership,
    ) -> Result<(Arc<Room>, Arc<Event>), ServeError> {
        let room = self.room_to_change(handed.origin, handed.room_id).await?;
        let body = std::str::from_utf8(handed.body)
            .map_err(|error| ServeError::BadJson(error.to_string()))?;
        let signed = match membership {
            Membership::Join => self.authorise(&room, body)?,
            _ => None,
        };
        let pdu = self
            .validate_whole(
                room.key.version,
                &room.key.room_id,
                signed.as_deref().unwrap_or(body),
                |pdu| check_form(handed, membership, pdu),
            )
            .await?;
        let event = self.take(&room, pdu).await?;
        Ok((room, event))
    }

    /// Puts our signature on a join that one of our users authorises. Whether that user, and the one
    /// who joins, may do so is seen when the join is judged; before that nobody gets the signature.
    fn authorise(&self, room: &Room, body: &str) -> Result<Option<String>, ServeError> {
        #[derive(Deserialize)]
        struct Join {
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            join_authorised_via_users_server: Option<OwnedUserId>,
        }
        let version = room.key.version;
        if !version.authorization().restricted_join_rule {
            return Ok(None);
        }
        let join: Join = serde_json::from_str(body)
            .map_err(|error| ServeError::InvalidParam(format!("the join: {error}")))?;
        let Some(authoriser) = join.content.join_authorised_via_users_server else {
            return Ok(None);
        };
        if !self.is_local(&authoriser) {
            return Err(ServeError::InvalidParam(format!(
                "{authoriser} is no user of this server"
            )));
        }
        build::countersign(version, body, self.key())
            .map(Some)
            .map_err(|error| ServeError::InvalidParam(error.to_string()))
    }

    /// Judges the event and writes it, to be passed on to the other servers.
    async fn take(&self, room: &Arc<Room>, pdu: ValidPdu) -> Result<Arc<Event>, ServeError> {
        let event_id = pdu.event_id.clone();
        let is_join = pdu.membership == Some(Membership::Join);
        let (mut turn, decision) = self.decide_recommended(room, pdu).await?;
        let plan = match decision {
            Decision::Done(plan) => plan,
            // The answer was lost, and the request came again.
            Decision::Drop(DropReason::Known) => {
                let known = turn.look_up(&event_id).await?;
                return known
                    .filter(|event| event.verdict == Verdict::Accepted)
                    .ok_or_else(|| ServeError::Forbidden("the event was refused".into()));
            }
            // Another server prepared it, and what it builds upon has not arrived here.
            Decision::NeedRemote(_) | Decision::Drop(_) => {
                return Err(ServeError::Behind(
                    "this server does not have the events before this one".into(),
                ));
            }
            other => return Err(ServeError::Internal(format!("it needs {other:?}"))),
        };
        // What would fail softly is refused as well: only this server has seen it.
        if plan.verdict != Verdict::Accepted {
            return Err(ServeError::Forbidden(plan.reason.unwrap_or_default()));
        }
        if let Some(timeline) = plan.timeline.as_ref().filter(|_| is_join) {
            let user = &plan.pdu.sender;
            match self.condition(room, &timeline.before.state, user).await? {
                Condition::None | Condition::Met => {}
                Condition::Unknown => return Err(ServeError::UnableToAuthorise),
                Condition::NotMet => return Err(not_let_in(user)),
            }
        }
        let target_server = turn.target_server(&plan);
        let event = turn.accept(plan).await?;
        turn.deliver(&event, target_server);
        if is_join {
            turn.tie_extremities().await?;
        }
        turn.commit().await?;
        Ok(event)
    }

    /// The state before a join (server-server API, "Joining rooms").
    async fn join_answer(
        &self,
        room: &Arc<Room>,
        join: &Event,
        state: &State,
        omit_members: bool,
    ) -> Result<PduAnswer, ServeError> {
        let listed: Vec<_> = if omit_members {
            room.without_members(state, &join.pdu.sender)
        } else {
            state.entries().map(|(_, entry)| entry.event()).collect()
        };
        // The join's own chain too: the membership of whoever authorised it is not in a state without
        // members.
        let mut roots = listed.clone();
        let cited = join.pdu.auth_events.iter().cloned();
        let cited = room.held_numbers(self, cited).await?;
        roots.extend(&cited);
        let mut chain = self.auth_chain(room, &roots).await?;
        chain.extend(cited);
        chain.sort_unstable();
        chain.dedup();
        if omit_members {
            chain.retain(|nr| !listed.contains(nr));
        }
        let servers = state.servers().map(|(server, _)| Value::from(&**server));
        let servers = match omit_members {
            true => format!(r#""servers_in_room":{},"#, servers.collect::<Value>()),
            false => String::new(),
        };
        let (origin, join) = (self.server_name(), &join.pdu.json);
        let mut answer = PduAnswer::new(self);
        answer.text(format!(
            r#"{{"members_omitted":{omit_members},"origin":"{origin}",{servers}"event":{join},"state":["#
        ));
        answer.pdus(listed);
        answer.text(r#"],"auth_chain":["#);
        answer.pdus(chain);
        answer.text("]}");
        Ok(answer)
    }
}

/// That the event is what the request says, before anything is asked of other servers (R83).
fn check_form(handed: Handed<'_>, membership: Membership, pdu: &Pdu) -> Result<(), ServeError> {
    let refuse = |why: &str| Err(ServeError::InvalidParam(why.to_owned()));
    if pdu.event_type != TimelineEventType::RoomMember || pdu.membership != Some(membership) {
        return refuse("the event is of another kind than the endpoint takes");
    }
    if pdu.sender.server_name() != handed.origin {
        return refuse("the event was sent by a user of another server");
    }
    if pdu.state_key.as_deref() != Some(pdu.sender.as_str()) {
        return refuse("the event is about another user than its sender");
    }
    if pdu.event_id != handed.event_id {
        return refuse("the event has another ID than the request names");
    }
    Ok(())
}

impl Room {
    /// What a partial answer lists of a state (MSC3706, MSC3943): everything but memberships, and of
    /// those the joining user's own and, if the room has no name, those that it is named after.
    fn without_members(&self, state: &State, user: &UserId) -> Vec<myelin_core::number::EventNr> {
        let keys = self.keys();
        let mut listed: Vec<_> = state.others().map(|(_, entry)| entry.event()).collect();
        let own = keys.number(myelin_core::key_table::MEMBER, user.as_str());
        let own_entry = own.and_then(|own| state.get(own));
        listed.extend(own_entry.map(|entry| entry.event()));
        let is_named = ["m.room.name", "m.room.canonical_alias"]
            .iter()
            .any(|of| state.get_named(&keys, of, "").is_some());
        if !is_named {
            listed.extend(state.heroes(own).into_iter().map(|(_, event)| event));
        }
        listed
    }
}

impl Turn<'_> {
    /// If the room has several forward extremities, names all of them as parents of one event: the
    /// server that joined gets that, and so learns of what was sent between the two steps of its join
    /// (R98). Without a user here who may send it, the next event of anybody will have to do.
    async fn tie_extremities(&mut self) -> Result<(), ServeError> {
        if self.graph.extremities.len() < 2 {
            return Ok(());
        }
        for user in self.room.local_users().into_iter().take(MOST_TYING) {
            let event = NewEvent {
                sender: user,
                event_type: TYING.to_owned(),
                state_key: None,
                content: raw(&json!({})),
                redacts: None,
                transaction: None,
            };
            match self.send(event).await {
                Ok(_) => return Ok(()),
                Err(SendError::Room(RoomError::Storage(error))) => return Err(error.into()),
                Err(error) => tracing::debug!(?error, "a user can't tie the extremities"),
            }
        }
        Ok(())
    }
}
