//! Events outside the graph: auth events and states that other servers sent, stored in bulk.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use myelin_core::{
    event::{Event, Verdict},
    key_table::StateKey,
    number::KeyNr,
    receive::{Decision, Placement},
    state::{Entry, State},
    validate::{DropReason, ValidPdu},
};
use myelin_federation::{FederationError, PduList, PduStream, StreamedPdu};
use ruma::OwnedEventId;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::{
    RoomError, Rooms,
    room::Room,
    turn::{Candidate, Turn},
};

/// How many PDUs are validated together.
const VALIDATED_TOGETHER: usize = 1_000;

/// How many are written in one transaction: some ten milliseconds of the writer's time.
const WRITTEN_TOGETHER: usize = 500;

/// How many such lots are verified before they are stored.
const VERIFIED_AHEAD: usize = 2;

/// An event of an answer after checks 1 to 3, and the ID of one that failed them.
type Checked = (
    PduList,
    Result<ValidPdu, (Option<OwnedEventId>, DropReason)>,
);

/// Takes the events of one answer, in any order, and stores those whose auth events are known.
pub(crate) struct Outliers<'a> {
    rooms: &'a Rooms,
    room: &'a Arc<Room>,
    received: Vec<(PduList, Box<RawValue>)>,
    /// Valid events that wait for an auth event, by how they were listed.
    waiting: Vec<(PduList, ValidPdu)>,
    stored: HashSet<OwnedEventId>,
    state: HashMap<KeyNr, Entry>,
    /// The events that may be part of the state; any if there are none.
    expected: Option<HashSet<OwnedEventId>>,
    /// What came and failed checks 1 to 3.
    dropped: Vec<Option<OwnedEventId>>,
}

impl<'a> Outliers<'a> {
    pub(crate) fn new(rooms: &'a Rooms, room: &'a Arc<Room>) -> Self {
        Self {
            rooms,
            room,
            received: Vec::new(),
            waiting: Vec::new(),
            stored: HashSet::new(),
            state: HashMap::new(),
            expected: None,
            dropped: Vec::new(),
        }
    }

    /// For an answer of which it is known what it lists as state. What it lists besides is no part
    /// of the state.
    pub(crate) fn expecting(mut self, state: &[OwnedEventId]) -> Self {
        self.expected = Some(state.iter().cloned().collect());
        self
    }

    /// Takes one event as it came.
    pub(crate) async fn push(
        &mut self,
        list: PduList,
        json: Box<RawValue>,
    ) -> Result<(), RoomError> {
        self.received.push((list, json));
        if self.received.len() >= VALIDATED_TOGETHER {
            self.take_received().await
        } else {
            Ok(())
        }
    }

    /// Takes all events of a stream. The next ones are read and verified while the last are stored.
    pub(crate) async fn read(&mut self, mut stream: PduStream) -> Result<(), RoomError> {
        let (sender, mut verified) = mpsc::channel(VERIFIED_AHEAD);
        let (rooms, room) = (self.rooms.clone(), self.room.clone());
        let reading = self.rooms.env().tasks.spawn("read events", async move {
            loop {
                let mut received = Vec::with_capacity(VALIDATED_TOGETHER);
                while received.len() < VALIDATED_TOGETHER {
                    match stream.next().await.map_err(remote)? {
                        Some(StreamedPdu { list, json }) => received.push((list, json)),
                        None => break,
                    }
                }
                let at_end = received.len() < VALIDATED_TOGETHER;
                let checked = rooms.validate_listed(&room, received).await;
                // Who stored them has failed; nobody needs the rest.
                if sender.send(checked).await.is_err() || at_end {
                    return Ok(());
                }
            }
        });
        while let Some(checked) = verified.recv().await {
            self.take_checked(checked).await?;
        }
        reading
            .await
            .map_err(|error| RoomError::Internal(error.to_string()))?
    }

    /// Stores what can be stored, and tells the state that the answer listed. Events that could not
    /// be verified, or whose auth events nobody sent, are left out with all that depend on them
    /// (R69, R90).
    pub(crate) async fn finish(mut self) -> Result<ListedState, RoomError> {
        self.take_received().await?;
        let waiting = std::mem::take(&mut self.waiting);
        let left = waiting.len();
        self.store_ready(waiting).await?;
        let unplaceable = self.waiting.len();
        if unplaceable > 0 || !self.dropped.is_empty() {
            tracing::warn!(
                room = %self.room.key.room_id,
                dropped = self.dropped.len(),
                unplaceable,
                of_late = left,
                "events of an answer were left out"
            );
        }
        let unplaceable = self
            .waiting
            .into_iter()
            .map(|(_, pdu)| pdu.event_id.clone());
        Ok(ListedState {
            entries: self.state,
            left_out: self
                .dropped
                .into_iter()
                .flatten()
                .chain(unplaceable)
                .collect(),
            stored: self.stored,
        })
    }

    async fn take_received(&mut self) -> Result<(), RoomError> {
        let received = std::mem::take(&mut self.received);
        let checked = self.rooms.validate_listed(self.room, received).await;
        self.take_checked(checked).await
    }

    async fn take_checked(&mut self, checked: Vec<Checked>) -> Result<(), RoomError> {
        let mut valid = Vec::with_capacity(checked.len());
        for (list, result) in checked {
            match result {
                Ok(pdu) => valid.push((list, pdu)),
                Err((id, error)) => {
                    self.dropped.push(id);
                    tracing::debug!(room = %self.room.key.room_id, %error, "an event was left out");
                }
            }
        }
        self.store_ready(valid).await
    }

    /// Stores the events whose auth events are held or among them, auth events first; the others
    /// wait on.
    async fn store_ready(&mut self, valid: Vec<(PduList, ValidPdu)>) -> Result<(), RoomError> {
        let mut ordered = order(valid, &self.stored);
        while !ordered.is_empty() {
            let piece: Vec<_> = ordered
                .drain(..ordered.len().min(WRITTEN_TOGETHER))
                .collect();
            self.store(piece).await?;
        }
        Ok(())
    }

    async fn store(&mut self, piece: Vec<(PduList, ValidPdu)>) -> Result<(), RoomError> {
        self.intern(&piece);
        let mut turn = Turn::take(self.rooms, self.room).await?;
        turn.batch.set_bulk();
        turn.look_up_all(piece.iter().map(|(_, pdu)| pdu), false)
            .await?;
        let mut accepted = Vec::new();
        for (list, pdu) in piece {
            let candidate = Candidate::new(pdu.clone(), Placement::Outlier);
            match turn.decide(candidate).await? {
                Decision::Done(plan) => {
                    let event = turn.accept(plan).await?;
                    accepted.push((list, event));
                }
                Decision::Drop(_) => {
                    // Held already, perhaps as a timeline event.
                    if let Some(event) = turn.look_up(&pdu.event_id).await? {
                        accepted.push((list, event));
                    }
                }
                _ => self.waiting.push((list, pdu)),
            }
        }
        turn.commit().await?;
        for (list, event) in accepted {
            self.note(list, &event);
        }
        Ok(())
    }

    fn intern(&self, piece: &[(PduList, ValidPdu)]) {
        let keys = piece.iter().filter_map(|(_, pdu)| {
            Some(StateKey::new(
                pdu.event_type.to_string(),
                pdu.state_key.clone()?,
            ))
        });
        self.room.intern(keys);
    }

    fn note(&mut self, list: PduList, event: &Event) {
        self.stored.insert(event.pdu.event_id.clone());
        let expected = self.expected.as_ref();
        if list != PduList::State
            || event.verdict == Verdict::Rejected
            || expected.is_some_and(|expected| !expected.contains(&event.pdu.event_id))
        {
            return;
        }
        let Some(state_key) = &event.pdu.state_key else {
            return;
        };
        let key = self
            .room
            .keys()
            .number(&event.pdu.event_type.to_string(), state_key);
        if let Some(key) = key {
            self.state
                .insert(key, Entry::new(event.nr, event.pdu.membership));
        }
    }
}

/// The state that an answer listed, as far as its events could be stored.
pub(crate) struct ListedState {
    pub(crate) entries: HashMap<KeyNr, Entry>,
    /// The events of the answer that are held now, of whatever list.
    pub(crate) stored: HashSet<OwnedEventId>,
    /// Those that came but could not be verified, or placed.
    pub(crate) left_out: HashSet<OwnedEventId>,
}

impl ListedState {
    pub(crate) fn into_state(self, room: &Room) -> State {
        let mut entries: Vec<_> = self.entries.into_iter().collect();
        entries.sort_unstable();
        State::from_entries(room.hash_key, &room.keys(), entries)
    }
}

/// Puts auth events before those that cite them. Those in a cycle come last, and find their auth
/// events missing (R71).
fn order(
    valid: Vec<(PduList, ValidPdu)>,
    stored: &HashSet<OwnedEventId>,
) -> Vec<(PduList, ValidPdu)> {
    let index: HashMap<OwnedEventId, usize> = valid
        .iter()
        .enumerate()
        .map(|(place, (_, pdu))| (pdu.event_id.clone(), place))
        .collect();
    let mut waits_for = vec![0_usize; valid.len()];
    let mut cited_by: Vec<Vec<usize>> = vec![Vec::new(); valid.len()];
    for (place, (_, pdu)) in valid.iter().enumerate() {
        for id in pdu.auth_events.iter().filter(|id| !stored.contains(*id)) {
            if let Some(&auth) = index.get(id).filter(|auth| **auth != place) {
                waits_for[place] += 1;
                cited_by[auth].push(place);
            }
        }
    }
    let mut ready: VecDeque<usize> = (0..valid.len())
        .filter(|place| waits_for[*place] == 0)
        .collect();
    let mut ordered = Vec::with_capacity(valid.len());
    while let Some(place) = ready.pop_front() {
        ordered.push(place);
        for citing in &cited_by[place] {
            waits_for[*citing] -= 1;
            if waits_for[*citing] == 0 {
                ready.push_back(*citing);
            }
        }
    }
    let mut slots: Vec<_> = valid.into_iter().map(Some).collect();
    let mut result: Vec<_> = ordered
        .into_iter()
        .filter_map(|place| slots[place].take())
        .collect();
    result.extend(slots.into_iter().flatten());
    result
}

pub(crate) fn remote(error: FederationError) -> RoomError {
    RoomError::Remote(error)
}

impl Rooms {
    async fn validate_listed(
        &self,
        room: &Room,
        received: Vec<(PduList, Box<RawValue>)>,
    ) -> Vec<Checked> {
        let (lists, pdus): (Vec<_>, Vec<_>) = received.into_iter().unzip();
        let results = self
            .validate_each(room.key.version, &room.key.room_id, pdus)
            .await;
        let checked = results
            .into_iter()
            .map(|(id, result)| result.map_err(|reason| (id, reason)));
        lists.into_iter().zip(checked).collect()
    }
}
