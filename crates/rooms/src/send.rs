//! Events of this server's own users.

use std::{collections::BTreeMap, sync::Arc};

use myelin_core::{
    auth,
    build::{BuildError, EventDraft},
    completeness::{Question, StateRef},
    event::{Event, Verdict},
    event_type::EventType,
    key_table::MEMBER,
    receive::{Decision, Plan, Recommendation, RemoteNeed},
    room_version::RoomVersion,
    state::Membership,
    validate::reference_hash,
};
use myelin_storage::{
    StorageError,
    client_transactions::{self, ClientTransaction},
    outbox::OutboxRow,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, UInt, UserId,
    events::TimelineEventType,
};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::{
    RoomError, Rooms,
    alias::CANONICAL_ALIAS,
    containment::contained,
    new_event::{NewEvent, SendError, Unsigned, Waiting},
    room::Room,
    trace::Trace,
    turn::{Candidate, Turn},
};

/// How many local events share one transaction.
const LONGEST_RUN: usize = 100;

/// How many parents a new event names.
const MOST_PARENTS: usize = 10;

impl Rooms {
    /// Sends an event into a room. When this returns the event is durable, and on its way to other
    /// servers. A state event that would change nothing is not sent again.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] for an unknown room, [`RoomError::Forbidden`] if the room's rules don't
    /// permit it, [`RoomError::BadJson`] and [`RoomError::TooLarge`] for what no event may be,
    /// [`RoomError::BadAlias`] and [`RoomError::InvalidParam`] for aliases that are not the room's.
    pub async fn send(&self, room_id: &RoomId, event: NewEvent) -> Result<OwnedEventId, RoomError> {
        let room = self.known_room(room_id).await?;
        if let Some(same) = self.unchanged_state(&room, &event).await? {
            return Ok(same);
        }
        self.check_blocked(room_id, &event).await?;
        self.check_guest(&room, &event).await?;
        if event.event_type == CANONICAL_ALIAS && event.state_key.as_deref() == Some("") {
            self.check_announced(&room, &event.content).await?;
        }
        match self.remote_invitee(&event) {
            Some(target) => self.invite_remotely(&room, event, &target).await,
            None => self.send_in_turn(&room, event).await,
        }
    }

    /// Refuses a guest who comes into a room that lets none in.
    async fn check_guest(&self, room: &Arc<Room>, event: &NewEvent) -> Result<(), RoomError> {
        let is_join = event.event_type == MEMBER
            && event.state_key.as_deref() == Some(event.sender.as_str())
            && membership(&event.content) == Some(Membership::Join);
        if !is_join || self.membership_of(room, &event.sender) == Some(Membership::Join) {
            return Ok(());
        }
        let content = serde_json::from_str(event.content.get());
        let content = content.map_err(|error| RoomError::BadJson(error.to_string()))?;
        self.must_let_in(room, &content).await
    }

    /// Whom an event invites, if that is a user of another server.
    pub(crate) fn remote_invitee(&self, event: &NewEvent) -> Option<OwnedUserId> {
        let is_invite =
            event.event_type == MEMBER && membership(&event.content) == Some(Membership::Invite);
        let target = event.state_key.as_deref().filter(|_| is_invite)?;
        let target = UserId::parse(target).ok()?;
        (!self.is_local(&target)).then_some(target)
    }

    /// The current state event, if the new one says the same.
    async fn unchanged_state(
        &self,
        room: &Arc<Room>,
        event: &NewEvent,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(state_key) = &event.state_key else {
            return Ok(None);
        };
        let Some(current) = room.current() else {
            return Ok(None);
        };
        let entry = current
            .state
            .get_named(&room.keys(), &event.event_type, state_key);
        let Some(entry) = entry else { return Ok(None) };
        let held = room.events(self, [entry.event()]).await?;
        Ok(held
            .get(&entry.event())
            .filter(|held| held.pdu.sender == event.sender)
            .filter(|held| same_json(&held.pdu.content, &event.content))
            .map(|held| held.pdu.event_id.clone()))
    }

    /// Queues an event for the room's turn. Whoever gets the turn takes all that wait along.
    pub(crate) async fn send_in_turn(
        &self,
        room: &Arc<Room>,
        event: NewEvent,
    ) -> Result<OwnedEventId, RoomError> {
        let transaction = event.transaction.clone();
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut sends = room.sends();
            sends.push_back(Waiting {
                event,
                trace: Trace::begin(&room.key.room_id),
                answer,
            });
            sends.len() == 1
        };
        // Otherwise somebody waits for the turn who takes this one along.
        if is_first {
            self.begin_sending(room);
        }
        match answered.await {
            Ok(Ok(event_id)) => Ok(event_id),
            Ok(Err(SendError::Room(error))) => Err(error),
            Ok(Err(SendError::Unsigned(unsigned))) => {
                self.send_recommended(room, *unsigned, transaction).await
            }
            Err(_) => Err(stopping()),
        }
    }

    /// Sends what waits in a room, in a task: those who are taken along still wait when the first of them has
    /// gone away. As long as something waits there is one such task that has not had its turn.
    fn begin_sending(&self, room: &Arc<Room>) {
        let (rooms, room) = (self.clone(), room.clone());
        let sending = async move { rooms.send_waiting(&room).await };
        drop(self.env().tasks.spawn("send events", sending));
    }

    /// Takes the room's turn and sends what waits.
    async fn send_waiting(&self, room: &Arc<Room>) {
        let turn = contained("send events", Turn::take(self, room)).await;
        let (run, is_more): (Vec<Waiting>, bool) = {
            let mut sends = room.sends();
            let length = sends.len().min(LONGEST_RUN);
            let run = sends.drain(..length).collect();
            (run, !sends.is_empty())
        };
        if is_more {
            self.begin_sending(room);
        }
        match turn {
            Ok(turn) => send_run(turn, run).await,
            Err(error) => {
                for Waiting { answer, .. } in run {
                    drop(answer.send(Err(error.clone().into())));
                }
            }
        }
    }
}

fn stopping() -> RoomError {
    RoomError::Internal("the server is stopping".into())
}

/// Sends a run of events in one transaction, and answers their authors after it. Who doesn't listen
/// any more has given up the request.
async fn send_run(mut turn: Turn<'_>, run: Vec<Waiting>) {
    let mut sent = Vec::with_capacity(run.len());
    let mut run = run.into_iter();
    let mut failed = None;
    for waiting in run.by_ref() {
        let Waiting {
            event,
            trace,
            answer,
        } = waiting;
        match turn.send_traced(event, trace).await {
            Ok(event_id) => sent.push((answer, event_id)),
            Err(SendError::Room(RoomError::Storage(error))) => {
                drop(answer.send(Err(error.clone().into())));
                failed = Some(error);
                break;
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    }
    let committed = match failed {
        None => turn.commit().await,
        // The event may have been taken by half.
        Some(error) => Err(error),
    };
    for (answer, event_id) in sent {
        let result = committed
            .clone()
            .map(|()| event_id)
            .map_err(SendError::from);
        drop(answer.send(result));
    }
    if let Err(error) = committed {
        for Waiting { answer, .. } in run {
            drop(answer.send(Err(error.clone().into())));
        }
    }
}

fn same_json(left: &RawValue, right: &RawValue) -> bool {
    let parse = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
    parse(left) == parse(right)
}

impl Turn<'_> {
    /// Makes a local event, judges it and takes it into the turn, to be sent to the other servers.
    pub(crate) async fn send(&mut self, event: NewEvent) -> Result<OwnedEventId, SendError> {
        let trace = Trace::begin(&self.room.key.room_id);
        self.send_traced(event, trace).await
    }

    /// The same with an event that has waited.
    async fn send_traced(
        &mut self,
        event: NewEvent,
        mut trace: Trace,
    ) -> Result<OwnedEventId, SendError> {
        trace.step("decide");
        let transaction = event.transaction.clone();
        let sender = event.sender.clone();
        if let Some(transaction) = &transaction
            && let Some(event_id) = self.sent_before(&sender, transaction).await?
        {
            return Ok(event_id);
        }
        // Others are told that they are not in the room, and nothing of its events.
        if self.is_joined(&sender) {
            self.check_relation(&event).await?;
            self.check_redaction(&event).await?;
        }
        let plan = self.propose(event, Recommendation::NotAsked).await?;
        Ok(self.take_sent(plan, transaction, trace).await?)
    }

    /// Whether a user is in the room, by the current state.
    fn is_joined(&self, user: &UserId) -> bool {
        let keys = self.room.keys();
        let current = self.graph.current.as_ref();
        let entry = current.and_then(|of| of.state.get_named(&keys, MEMBER, user.as_str()));
        entry.is_some_and(|entry| entry.membership() == Some(Membership::Join))
    }

    /// Takes a local event that was judged into the turn.
    pub(crate) async fn take_sent(
        &mut self,
        plan: Plan,
        transaction: Option<ClientTransaction>,
        trace: Trace,
    ) -> Result<OwnedEventId, StorageError> {
        let target_server = self.target_server(&plan);
        let sent = self.accept(plan).await?;
        self.batch.trace(&sent, trace);
        self.deliver(&sent, target_server);
        if let Some(transaction) = transaction {
            self.batch
                .put_transaction(&sent.pdu.sender, transaction, sent.id());
        }
        Ok(sent.pdu.event_id.clone())
    }

    /// The event that the same request made before.
    pub(crate) async fn sent_before(
        &self,
        user: &UserId,
        transaction: &ClientTransaction,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        if let Some(event_id) = self.batch.transaction(user, transaction) {
            return Ok(Some(event_id));
        }
        let (user, transaction) = (user.to_owned(), transaction.clone());
        Ok(self
            .rooms
            .database()
            .look_up("client transaction", move |tx| {
                Box::pin(async move { client_transactions::event(tx, &user, &transaction).await })
            })
            .await?)
    }

    /// Makes an event that the room permits, and takes it nowhere.
    pub(crate) async fn propose(
        &mut self,
        event: NewEvent,
        recommendation: Recommendation,
    ) -> Result<Plan, SendError> {
        let (draft, hashes) = self.draft(event).await?;
        let pdu = draft
            .finish_referring(self.room.key.version, self.rooms.key(), &hashes)
            .map_err(not_built)?;
        let candidate = Candidate {
            recommendation,
            ..Candidate::live(pdu.clone())
        };
        match self.decide(candidate).await? {
            Decision::NeedRemote(RemoteNeed::PolicySignature(server)) => {
                let unsigned = Unsigned { pdu, server };
                Err(SendError::Unsigned(Box::new(unsigned)))
            }
            decision => Ok(accepted(decision)?),
        }
    }

    /// The server of the user whom a membership event is about. It is told though it may not be in the room
    /// (R138), but not of the end of a ban: that would end the next invite, if it arrived after it.
    pub(crate) fn target_server(&self, plan: &Plan) -> Option<OwnedServerName> {
        let before = &plan.timeline.as_ref()?.before.state;
        plan.pdu.membership?;
        let target = <&UserId>::try_from(plan.pdu.state_key.as_deref()?).ok()?;
        let member = before.get_named(&self.room.keys(), MEMBER, target.as_str());
        let was = member.and_then(|member| member.membership());
        (was != Some(Membership::Ban)).then(|| target.server_name().to_owned())
    }

    /// Queues an event for the other servers in the room, and one more. The room before the event counts:
    /// who leaves is told so, and who joins gets the event with the join.
    pub(crate) fn deliver(&mut self, event: &Event, one_more: Option<OwnedServerName>) {
        let (Some(before), Some(position)) = (event.before(), event.position()) else {
            return;
        };
        let mut further = self.room.servers_at_join().to_vec();
        further.extend(one_more.map(|server| server.to_string()));
        // Who sent it has it: an event of another server's user is passed on here.
        let author = event.pdu.sender.server_name().as_str();
        further.retain(|server| server != self.rooms.server_name().as_str() && server != author);
        if further.is_empty() && self.is_alone_at(before) {
            return;
        }
        self.batch.send(OutboxRow {
            position,
            event: event.nr,
            room: self.room.key.room,
            snapshot: before.snapshot(),
            further,
            made_ms: self.rooms.env().clock.now_ms(),
        });
    }

    /// Whether only this server's users are in the room by a state, as far as that is known without a look.
    fn is_alone_at(&self, at: StateRef) -> bool {
        let current = self.graph.current.as_ref();
        let known = current.filter(|current| {
            current.reference == at && at.answering(Question::AllMembers).is_some()
        });
        known.is_some_and(|current| {
            let mut servers = current.state.servers();
            servers.all(|(name, _)| **name == *self.rooms.server_name().as_str())
        })
    }

    /// An event on top of the room, with the hashes that go with what it refers to.
    async fn draft(&mut self, event: NewEvent) -> Result<(EventDraft, Hashes), RoomError> {
        let event_type = EventType::from(event.event_type.as_str());
        if event.event_type == MEMBER && membership(&event.content).is_none() {
            return Err(RoomError::BadJson(
                "the content needs a valid `membership`".into(),
            ));
        }
        let keys = auth::auth_keys_for(
            self.room.key.version,
            &event_type,
            &event.sender,
            event.state_key.as_deref(),
            &event.content,
        )
        .map_err(|error| RoomError::BadJson(error.to_string()))?;
        let auth_numbers: Vec<_> = match &self.graph.current {
            None => Vec::new(),
            Some(current) => {
                let numbering = self.room.keys();
                keys.iter()
                    .filter_map(|key| {
                        current
                            .state
                            .get_named(&numbering, &key.event_type, &key.state_key)
                    })
                    .map(|entry| entry.event())
                    .collect()
            }
        };
        let auth_events = self.held(auth_numbers).await?;
        let parents = self.parents().await?;
        let hashes = reference_hashes(self.room.key.version, parents.iter().chain(&auth_events))?;
        let depth = parents
            .iter()
            .map(|parent| parent.pdu.depth)
            .max()
            .unwrap_or(0);
        // The format has an upper limit, and a malicious event may have used it up.
        let depth = (depth + 1).min((1 << 53) - 1);
        let is_create = event_type == TimelineEventType::RoomCreate;
        let room_id = (!is_create || !self.room.key.version.room_id_is_create_hash())
            .then(|| self.room.key.room_id.clone());
        let draft = EventDraft {
            room_id,
            sender: event.sender,
            event_type: event.event_type,
            state_key: event.state_key,
            content: event.content,
            prev_events: ids_of(&parents),
            auth_events: ids_of(&auth_events),
            depth,
            origin_server_ts: timestamp(self.rooms),
            redacts: event.redacts,
        };
        Ok((draft, hashes))
    }

    /// The parents of a new event: the forward extremities, the deepest if there are many.
    async fn parents(&mut self) -> Result<Vec<Arc<Event>>, RoomError> {
        let numbers: Vec<_> = self.graph.extremities.iter().copied().collect();
        let mut parents = self.held(numbers).await?;
        parents.sort_by_key(|parent| std::cmp::Reverse((parent.pdu.depth, parent.nr)));
        parents.truncate(MOST_PARENTS);
        Ok(parents)
    }

    /// Events by number, those of this turn included, in the order asked for.
    pub(crate) async fn held(
        &mut self,
        numbers: Vec<myelin_core::number::EventNr>,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let missing: Vec<_> = numbers
            .iter()
            .copied()
            .filter(|nr| self.desk.event(*nr).is_none())
            .collect();
        self.desk.take_missing();
        for event in self.room.events(self.rooms, missing).await?.into_values() {
            self.desk.put_event(event);
        }
        let held = numbers
            .iter()
            .filter_map(|nr| self.desk.event(*nr).cloned())
            .collect();
        self.desk.take_missing();
        Ok(held)
    }
}

/// The reference hashes of events, by ID.
type Hashes = BTreeMap<OwnedEventId, String>;

/// The hashes that go with the IDs of events where the room version wants them.
fn reference_hashes<'e>(
    version: RoomVersion,
    events: impl Iterator<Item = &'e Arc<Event>>,
) -> Result<Hashes, RoomError> {
    if !version.has_ids_in_events() {
        return Ok(Hashes::new());
    }
    let hashes = events.map(|event| {
        let hash = reference_hash(version, &event.pdu);
        let hash = hash.map_err(|error| RoomError::Internal(error.to_string()))?;
        Ok((event.pdu.event_id.clone(), hash))
    });
    hashes.collect()
}

fn ids_of(events: &[Arc<Event>]) -> Vec<OwnedEventId> {
    let id = |event: &Arc<Event>| event.pdu.event_id.clone();
    events.iter().map(id).collect()
}

/// What was decided about a local event, if the room permits it.
pub(crate) fn accepted(decision: Decision<Plan>) -> Result<Plan, RoomError> {
    match decision {
        Decision::Done(plan) if plan.verdict == Verdict::Accepted => Ok(plan),
        Decision::Done(plan) => Err(RoomError::Forbidden(plan.reason.unwrap_or_default())),
        Decision::Drop(reason) => Err(RoomError::Internal(reason.to_string())),
        other => Err(RoomError::Internal(format!(
            "a local event needs {other:?}"
        ))),
    }
}

/// The time for a new event.
pub(crate) fn timestamp(rooms: &Rooms) -> MilliSecondsSinceUnixEpoch {
    let now = UInt::new_saturating(rooms.env().clock.now_ms());
    MilliSecondsSinceUnixEpoch(now)
}

/// What a membership event's content says.
pub(crate) fn membership(content: &RawValue) -> Option<Membership> {
    #[derive(serde::Deserialize)]
    struct Content {
        membership: String,
    }
    let content: Content = serde_json::from_str(content.get()).ok()?;
    Membership::from_name(&content.membership)
}

pub(crate) fn not_built(error: BuildError) -> RoomError {
    match error {
        BuildError::Content(error) => RoomError::BadJson(error.to_string()),
        BuildError::Invalid(reason) => {
            if matches!(reason, myelin_core::validate::DropReason::TooLarge(_)) {
                RoomError::TooLarge(reason.to_string())
            } else {
                RoomError::BadJson(reason.to_string())
            }
        }
    }
}
