//! A room's turn: events are decided one after the other over what the earlier ones changed, and
//! committed together in one transaction.

mod judged_again;
mod loading;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use myelin_core::{
    desk::Desk,
    event::{Event, Place},
    key_table::StateKey,
    number::{EventNr, SnapshotNr, StreamPosition},
    receive::{self, Decision, Incoming, KnownState, Placement, Plan, Recommendation, RoomFacts},
    state::{Change, Membership},
    validate::ValidPdu,
};
use myelin_storage::StorageError;
use ruma::{OwnedEventId, UserId};
use tokio::sync::OwnedMutexGuard;

use crate::{
    Rooms,
    commit::{Batch, LocalMembership},
    notifications::Telling,
    room::{CurrentState, Graph, Room},
    states::Unstored,
};

/// How often a decision may ask for more. A resolution that walks a long chain of power levels asks
/// once for each.
const MOST_ROUNDS: usize = 10_000;

/// The room as it was committed last, held by whoever has the turn.
type Committed = OwnedMutexGuard<Option<Graph>>;

/// The turn. Dropping it forgets what was accepted and not committed.
pub(crate) struct Turn<'r> {
    /// Before the turn itself: who comes next must not find what is forgotten.
    unstored: Unstored,
    pub(crate) rooms: &'r Rooms,
    pub(crate) room: &'r Arc<Room>,
    committed: Committed,
    /// The room as it is with everything that was accepted in this turn.
    pub(crate) graph: Graph,
    pub(crate) desk: Desk,
    pub(crate) batch: Batch,
    /// Numbers of events that are held, or referred to, or new in this turn.
    numbers: HashMap<OwnedEventId, EventNr>,
    /// Events that others referred to before they were held.
    referred_to: HashSet<EventNr>,
}

/// An event to be decided.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) pdu: ValidPdu,
    pub(crate) placement: Placement,
    pub(crate) recommendation: Recommendation,
}

impl Candidate {
    /// An event about which the policy server hasn't been asked.
    pub(crate) fn new(pdu: ValidPdu, placement: Placement) -> Self {
        Self {
            pdu,
            placement,
            recommendation: Recommendation::NotAsked,
        }
    }

    /// An event that was pushed, or made here.
    pub(crate) fn live(pdu: ValidPdu) -> Self {
        Self::new(pdu, Placement::Live)
    }
}

impl<'r> Turn<'r> {
    /// Waits for the turn.
    ///
    /// # Errors
    /// [`StorageError::Gone`] for a room that was deleted; any storage error, if the last write failed and the
    /// room must be read again.
    pub(crate) async fn take(
        rooms: &'r Rooms,
        room: &'r Arc<Room>,
    ) -> Result<Turn<'r>, StorageError> {
        let mut committed = room.turn.clone().lock_owned().await;
        if room.has_ended() {
            return Err(StorageError::Gone);
        }
        let graph = match &*committed {
            Some(graph) => graph.clone(),
            None => {
                let graph = room.read_again(rooms).await?;
                committed.insert(graph).clone()
            }
        };
        let mut desk = Desk::default();
        if let Some(current) = &graph.current {
            desk.put_snapshot(current.reference.snapshot(), current.state.clone());
        }
        Ok(Self {
            rooms,
            room,
            committed,
            graph,
            desk,
            batch: Batch::default(),
            numbers: HashMap::new(),
            referred_to: HashSet::new(),
            unstored: Unstored::new(room),
        })
    }

    /// Decides about an event, loading what the decision asks for.
    pub(crate) async fn decide(
        &mut self,
        candidate: Candidate,
    ) -> Result<Decision<Plan>, StorageError> {
        let Candidate {
            pdu,
            placement,
            recommendation,
        } = candidate;
        if let Some(state_key) = &pdu.state_key {
            self.room
                .intern([StateKey::new(pdu.event_type.to_string(), state_key)]);
        }
        let with_parents = !matches!(placement, Placement::Outlier);
        self.look_up_all([&pdu], with_parents).await?;
        let referred_to = self.numbers.contains_key(&pdu.event_id);
        let nr = self.number_of(&pdu.event_id);
        let is_built_upon = referred_to && self.is_built_upon(nr, nr).await?;
        let incoming = Incoming {
            nr,
            pdu,
            placement,
            is_built_upon,
            recommendation,
        };
        let decision = self
            .ask(|facts, desk| receive::decide(facts, desk, &incoming))
            .await?;
        metrics::counter!("myelin_decisions_total", "outcome" => decision.name()).increment(1);
        Ok(decision)
    }

    /// Asks `core` a question until nothing is missing.
    pub(crate) async fn ask<T>(
        &mut self,
        question: impl Fn(&RoomFacts<'_>, &Desk) -> Decision<T>,
    ) -> Result<Decision<T>, StorageError> {
        let empty = self.room.empty_state();
        let servers_at_join = self.room.servers_at_join();
        for _ in 0..MOST_ROUNDS {
            let current = self.graph.current.as_ref().map(CurrentState::known);
            let decision = {
                let keys = self.room.keys();
                let facts = RoomFacts {
                    version: self.room.key.version,
                    keys: &keys,
                    extremities: &self.graph.extremities,
                    current: current.as_ref(),
                    min_depth: self.graph.min_depth,
                    empty: &empty,
                    servers_at_join: &servers_at_join,
                };
                question(&facts, &self.desk)
            };
            match decision {
                Decision::NeedLocal(needed) => self.load(needed).await?,
                Decision::NeedKeys(keys) => self.room.intern(keys),
                other => return Ok(other),
            }
        }
        Err(StorageError::Bug(
            "a decision asked for more again and again".into(),
        ))
    }

    /// Takes a decided event into the turn: what is decided next sees it.
    pub(crate) async fn accept(&mut self, plan: Plan) -> Result<Arc<Event>, StorageError> {
        // An outlier is not tied to its parents.
        let ids = match &plan.timeline {
            Some(_) => plan.pdu.prev_events.clone(),
            None => Vec::new(),
        };
        self.find(ids.iter().cloned()).await?;
        let prev_events: Vec<EventNr> = ids.iter().map(|id| self.number_of(id)).collect();
        let place = match &plan.timeline {
            None => Place::Outlier,
            Some(timeline) => {
                let before = self.store_state(&timeline.before).await?.reference;
                let position = if timeline.backfilled {
                    self.rooms.numbers().backfilled()
                } else {
                    self.batch.next_position()
                };
                Place::Timeline { before, position }
            }
        };
        let was_redacted = self
            .desk
            .event_by_id(&plan.pdu.event_id)
            .and_then(|event| event.redacted_by);
        self.desk.take_missing();
        let event = Arc::new(Event {
            nr: plan.nr,
            pdu: plan.pdu,
            verdict: plan.verdict,
            place,
            redacted_by: was_redacted,
        });
        self.desk.put_event(event.clone());
        metrics::counter!("myelin_events_total", "verdict" => event.verdict.name()).increment(1);
        if event.in_timeline() {
            self.note_parents(&event, &ids, &prev_events);
        }
        self.batch
            .put_event(event.clone(), plan.reason, plan.auth_events, prev_events);
        if let Some(moves) = plan.timeline.and_then(|timeline| timeline.moves) {
            self.move_on(moves.extremities, &moves.current, &event)
                .await?;
        }
        self.note_redactions(&event).await?;
        Ok(event)
    }

    /// Parents that aren't in the timeline become backward extremities; the event stops being one.
    fn note_parents(&mut self, event: &Event, ids: &[OwnedEventId], numbers: &[EventNr]) {
        for (id, nr) in ids.iter().zip(numbers) {
            match self.desk.event_by_id(id) {
                Some(parent) if parent.in_timeline() => {}
                Some(_) => self.batch.put_backward_extremity(*nr, event.pdu.depth),
                None => {
                    self.batch.put_reference(*nr, id);
                    self.batch.put_backward_extremity(*nr, event.pdu.depth);
                }
            }
        }
        self.desk.take_missing();
        self.batch.delete_backward_extremity(event.nr);
        if self.graph.current.is_none() || self.graph.min_depth > event.pdu.depth {
            self.graph.min_depth = event.pdu.depth;
        }
    }

    async fn move_on(
        &mut self,
        extremities: BTreeSet<EventNr>,
        current: &KnownState,
        event: &Arc<Event>,
    ) -> Result<(), StorageError> {
        let current = self.store_state(current).await?;
        let before = self.graph.current.replace(current.clone());
        self.graph.extremities = extremities;
        let empty = self.room.empty_state();
        let old = before.as_ref().map_or(&empty, |before| &before.state);
        let changed = before
            .as_ref()
            .is_none_or(|before| before.reference != current.reference);
        let changes = old.diff(&current.state);
        let Some(position) = event.position() else {
            return Ok(());
        };
        if changed {
            self.batch.put_current(position, current.reference);
        }
        self.note_memberships(&changes, position);
        Ok(())
    }

    /// What changed for this server's own users. One whose membership a resolution undid has left.
    pub(crate) fn note_memberships(&mut self, changes: &[Change], position: StreamPosition) {
        let keys = self.room.keys();
        for change in changes {
            let Some(name) = keys.name(change.key) else {
                continue;
            };
            if name.member_server() != Some(self.rooms.server_name().as_str()) {
                continue;
            }
            let now = match (change.old, change.new) {
                (_, Some(new)) => new.membership().map(|membership| (membership, new.event())),
                (Some(old), None) => Some((Membership::Leave, old.event())),
                (None, None) => None,
            };
            if let (Some((membership, event)), Ok(user)) = (now, UserId::parse(&name.state_key)) {
                self.batch.put_local_membership(LocalMembership {
                    user,
                    membership,
                    event,
                    position,
                });
            }
        }
    }

    /// Finds or makes the stored form of a state.
    pub(crate) async fn store_state(
        &mut self,
        known: &KnownState,
    ) -> Result<CurrentState, StorageError> {
        let predecessor: Option<SnapshotNr> = self.graph.last_snapshot;
        let (nr, new) = self
            .room
            .place_state(self.rooms, known, predecessor)
            .await?;
        if let Some(new) = new {
            self.graph.last_snapshot = Some(nr);
            self.unstored.add(nr);
            self.batch.put_snapshot(new);
        }
        self.desk.put_snapshot(nr, known.state.clone());
        let reference = myelin_core::completeness::StateRef::new(nr, known.completeness);
        Ok(CurrentState {
            reference,
            state: known.state.clone(),
        })
    }

    /// Writes what was accepted in one transaction. When this returns, it is durable, and whoever
    /// waits for news of the room is awake. Once begun, it goes on whether or not anybody waits for it.
    ///
    /// # Errors
    /// Any storage error. Then it may have been written all the same, and the next turn finds out.
    pub(crate) async fn commit(self) -> Result<(), StorageError> {
        let writing = Writing {
            rooms: self.rooms.clone(),
            room: self.room.clone(),
            committed: self.committed,
            graph: self.graph,
            batch: self.batch,
            unstored: self.unstored,
        };
        let tasks = &self.rooms.env().tasks;
        tasks.spawn("commit", writing.run()).await?
    }
}

/// A turn that is being written.
struct Writing {
    /// Before the turn itself: who comes next must not find what is forgotten.
    unstored: Unstored,
    rooms: Rooms,
    room: Arc<Room>,
    committed: Committed,
    graph: Graph,
    batch: Batch,
}

impl Writing {
    async fn run(mut self) -> Result<(), StorageError> {
        // A turn in which everything was refused writes nothing, and so is no revision.
        if self.batch.is_empty() {
            return Ok(());
        }
        // Whatever happens from here on, nobody builds upon what may have been overtaken.
        let before = self.committed.take().unwrap_or_default();
        self.graph.revision = before.revision + 1;
        Telling {
            rooms: &self.rooms,
            room: &self.room,
            before: before.current.as_ref(),
            after: self.graph.current.as_ref(),
        }
        .note(&mut self.batch)
        .await?;
        let after = self.graph.current.as_ref();
        self.rooms
            .note_guests(&self.room, after, &mut self.batch)
            .await?;
        let written = self
            .batch
            .write(&self.rooms, &self.room, &before, &self.graph)
            .await?;
        self.unstored.are_stored();
        self.room.publish(self.graph.current.clone());
        *self.committed = Some(self.graph);
        drop(self.committed);
        written.announce(&self.rooms, &self.room).await;
        Ok(())
    }
}
