//! A room on a server that nobody can reach, as a partial join, and then the resync, would write it.

use std::sync::Arc;

use myelin_core::{
    build::EventDraft,
    completeness::{Completeness, Question, StateRef},
    event::{Event, Place, Verdict},
    key_table::{KeyTable, StateKey},
    keys::KeyPair,
    number::{EventNr, RoomNr, SnapshotNr, StreamPosition},
    pdu::Pdu,
    room_version::RoomVersion,
    state::{Entry, HashKey, Membership, State},
    state_codec,
};
use myelin_storage::{
    Priority, StorageError, Tx,
    events::{self, NewEvent, RoomKey},
    extremities,
    joins::{self, PartialRoom},
    rooms as room_table,
    snapshots::{self, Chunk, Link},
    testing::Fresh,
};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedRoomId, UserId, room_id, server_name, uint};
use serde_json::{Value, json, value::to_raw_value};

use crate::house::{House, alice};

const VERSION: RoomVersion = RoomVersion::V11;
const ROOM: RoomNr = RoomNr(1);
const SECRET: [u8; 16] = [7; 16];

/// A room of charlie and derek, on a server that nobody can reach, which alice has joined. Derek wrote a
/// message after that.
pub(crate) struct Far {
    key: RoomKey,
    signer: KeyPair,
    table: KeyTable,
    pub(crate) events: Vec<Event>,
}

pub(crate) fn charlie() -> &'static UserId {
    ruma::user_id!("@charlie:127.0.0.1:1")
}

pub(crate) fn derek() -> &'static UserId {
    ruma::user_id!("@derek:127.0.0.1:1")
}

/// Numbers of the events, in the order in which [`Far::new`] makes them.
const CREATE: usize = 0;
const CHARLIE: usize = 1;
const DEREK: usize = 2;
const JOIN: usize = 3;
pub(crate) const MESSAGE: usize = 4;

impl Far {
    pub(crate) fn new() -> Self {
        let room_id = room_id!("!far:127.0.0.1:1").to_owned();
        let far = server_name!("127.0.0.1:1").to_owned();
        let mut room = Self {
            key: RoomKey {
                room: ROOM,
                room_id,
                version: VERSION,
            },
            signer: KeyPair::new(far, "a".try_into().unwrap(), [1; 32]),
            table: KeyTable::default(),
            events: Vec::new(),
        };
        let member = json!({"membership": "join"});
        room.make(
            charlie(),
            "m.room.create",
            Some(""),
            json!({"room_version": "11"}),
            &[],
        );
        room.make(
            charlie(),
            "m.room.member",
            Some(charlie().as_str()),
            member.clone(),
            &[CREATE],
        );
        room.make(
            derek(),
            "m.room.member",
            Some(derek().as_str()),
            member.clone(),
            &[CREATE],
        );
        room.make(
            alice(),
            "m.room.member",
            Some(alice().as_str()),
            member,
            &[CREATE],
        );
        room.make(
            derek(),
            "m.room.message",
            None,
            json!({"body": "hello"}),
            &[CREATE, DEREK],
        );
        room
    }

    fn make(
        &mut self,
        sender: &UserId,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
        auth_events: &[usize],
    ) {
        let id = |index: &usize| self.events[*index].id().to_owned();
        let draft = EventDraft {
            room_id: Some(self.key.room_id.clone()),
            sender: sender.to_owned(),
            event_type: event_type.into(),
            state_key: state_key.map(str::to_owned),
            content: to_raw_value(&content).unwrap(),
            prev_events: self
                .events
                .last()
                .map(|last| last.id().to_owned())
                .into_iter()
                .collect(),
            auth_events: auth_events.iter().map(id).collect(),
            depth: self.events.len() as i64 + 1,
            origin_server_ts: MilliSecondsSinceUnixEpoch(uint!(1)),
            redacts: None,
        };
        let pdu: Arc<Pdu> = draft.finish(VERSION, &self.signer).unwrap().into_pdu();
        if let Some(state_key) = state_key {
            self.table.intern(StateKey::new(event_type, state_key));
        }
        self.events.push(Event {
            nr: EventNr(self.events.len() as i64 + 1),
            pdu,
            verdict: Verdict::Accepted,
            place: Place::Outlier,
            redacted_by: None,
        });
    }

    /// The state of some of the events.
    fn state(&self, events: &[usize]) -> State {
        let mut state = State::empty(HashKey(SECRET));
        for index in events {
            let Event { nr, pdu, .. } = &self.events[*index];
            let state_key = pdu.state_key.as_deref().unwrap();
            let key = self
                .table
                .number(&pdu.event_type.to_string(), state_key)
                .unwrap();
            state.set(&self.table, key, Some(Entry::new(*nr, pdu.membership)));
        }
        state
    }

    /// What the resync, or before it the join, has to store.
    fn stored(self, completeness: Completeness) -> Stored {
        let is_partial = completeness == Completeness::PARTIAL;
        let offset = if is_partial { 0 } else { 2 };
        let members: &[usize] = if is_partial {
            &[CREATE]
        } else {
            &[CREATE, CHARLIE, DEREK]
        };
        let before = self.state(members);
        let after = self.state(&[members, &[JOIN]].concat());
        let reference = |nr| StateRef::new(SnapshotNr(nr + offset), completeness);
        let mut events = self.events.clone();
        for (index, at) in [(JOIN, 1), (MESSAGE, 2)] {
            events[index].place = Place::Timeline {
                before: reference(at),
                position: StreamPosition(at),
            };
        }
        Stored {
            far: self,
            events,
            states: [(reference(1), before), (reference(2), after)],
        }
    }
}

/// A room as it is written to the database.
struct Stored {
    far: Far,
    events: Vec<Event>,
    states: [(StateRef, State); 2],
}

impl Stored {
    async fn write(self, fresh: &Fresh, at: StreamPosition) {
        let write = fresh
            .database
            .write("a far room", Priority::Interactive, move |tx| {
                Box::pin(async move { self.put(tx, at).await })
            });
        let written: Result<(), StorageError> = write.await;
        written.unwrap();
    }

    async fn put(&self, tx: &mut Tx, at: StreamPosition) -> Result<(), StorageError> {
        room_table::set_setting(tx, "state_hash_key", &SECRET).await?;
        // It is there already when more of it is written.
        room_table::put(tx, &self.far.key).await?;
        for (reference, state) in &self.states {
            let partial = reference.answering(Question::AllMembers).is_none();
            let link = Link {
                base: None,
                depth: 0,
                delta: None,
                partial,
            };
            snapshots::put(tx, ROOM, reference.snapshot(), state.hash(), &link).await?;
            for chunk in state_codec::encode_base(state) {
                let chunk = Chunk {
                    members: chunk.members,
                    first_key: chunk.first_key,
                    entries: chunk.bytes,
                };
                snapshots::put_chunk(tx, reference.snapshot(), &chunk).await?;
            }
        }
        for event in &self.events {
            let id = event.id();
            events::put_reference(tx, ROOM, event.nr, id).await?;
            let new = NewEvent {
                event: event.clone(),
                reason: None,
                auth_events: Vec::new(),
                prev_events: Vec::new(),
            };
            events::put(tx, ROOM, &[new]).await?;
            if let Some(state_key) = &event.pdu.state_key {
                let name = StateKey::new(event.pdu.event_type.to_string(), state_key);
                let key = self
                    .far
                    .table
                    .number(&name.event_type, &name.state_key)
                    .unwrap();
                room_table::put_state_key(tx, ROOM, key, &name).await?;
            }
        }
        let current = self.states[1].0;
        room_table::put_state_at(tx, ROOM, at, current).await?;
        let join = &self.events[JOIN];
        room_table::put_local_membership(
            tx,
            ROOM,
            &join.pdu.sender,
            Membership::Join,
            join.nr,
            StreamPosition(1),
        )
        .await?;
        let row = room_table::by_number(tx, ROOM).await?.unwrap();
        room_table::update(tx, ROOM, row.revision, Some(current), 1).await?;
        Ok(())
    }
}

/// A server with the room in its partial phase.
pub(crate) async fn house_with_partial_room(fresh: Fresh) -> (House, OwnedRoomId) {
    let far = Far::new();
    let room_id = far.key.room_id.clone();
    far.stored(Completeness::PARTIAL)
        .write(&fresh, StreamPosition(1))
        .await;
    let record = PartialRoom {
        room: ROOM,
        join_event: EventNr(JOIN as i64 + 1),
        served_by: server_name!("127.0.0.1:1").to_owned(),
        servers: vec![server_name!("127.0.0.1:1").to_owned()],
        attempts: 0,
        next_try_ms: 0,
        last_error: None,
    };
    let written: Result<(), StorageError> = fresh
        .database
        .write("a partial room", Priority::Interactive, move |tx| {
            Box::pin(async move { joins::put_partial(tx, &record).await })
        })
        .await;
    written.unwrap();
    (House::open(fresh).await, room_id)
}

/// Stores what the resync would.
pub(crate) async fn complete(house: &House) {
    let allocation = house.rooms.events_stream().allocate(1);
    let position = allocation.positions().next().unwrap();
    Far::new()
        .stored(Completeness::FULL)
        .write(&house.fresh, position)
        .await;
    let written: Result<(), StorageError> = house
        .fresh
        .database
        .write("no partial room", Priority::Interactive, |tx| {
            Box::pin(async move { joins::delete_partial(tx, ROOM).await })
        })
        .await;
    written.unwrap();
    drop(allocation);
    house.rooms.waking().wake([alice()], position);
}

/// Writes the message once more, with another verdict or other parents.
pub(crate) async fn rewrite_message(fresh: &Fresh, verdict: Verdict, parents: Vec<EventNr>) {
    let mut event = Far::new()
        .stored(Completeness::PARTIAL)
        .events
        .remove(MESSAGE);
    event.verdict = verdict;
    let written: Result<(), StorageError> = fresh
        .database
        .write("the message", Priority::Interactive, move |tx| {
            Box::pin(async move {
                for parent in &parents {
                    let id = ruma::event_id!("$missing");
                    events::put_reference(tx, ROOM, *parent, id).await?;
                    extremities::put_backward(tx, ROOM, *parent, event.pdu.depth).await?;
                }
                let new = NewEvent {
                    event,
                    reason: None,
                    auth_events: Vec::new(),
                    prev_events: parents,
                };
                events::put(tx, ROOM, &[new]).await
            })
        })
        .await;
    written.unwrap();
}

/// Stores a reply of derek's in a thread, as the next event of the room.
pub(crate) async fn put_reply(house: &House) {
    let mut far = Far::new();
    let relates_to = json!({"rel_type": "m.thread", "event_id": far.events[MESSAGE].id()});
    let content = json!({"body": "reply", "m.relates_to": relates_to});
    far.make(derek(), "m.room.message", None, content, &[CREATE, DEREK]);
    let mut events = far.stored(Completeness::PARTIAL).events;
    let mut event = events.pop().unwrap();
    let before = events[MESSAGE].before().unwrap();
    let allocation = house.rooms.events_stream().allocate(1);
    let position = allocation.positions().next().unwrap();
    event.place = Place::Timeline { before, position };
    let write = house
        .fresh
        .database
        .write("a reply", Priority::Interactive, |tx| {
            Box::pin(async move {
                events::put_reference(tx, ROOM, event.nr, event.id()).await?;
                let new = NewEvent {
                    event,
                    reason: None,
                    auth_events: Vec::new(),
                    prev_events: Vec::new(),
                };
                events::put(tx, ROOM, &[new]).await
            })
        });
    let written: Result<(), StorageError> = write.await;
    written.unwrap();
    drop(allocation);
}
