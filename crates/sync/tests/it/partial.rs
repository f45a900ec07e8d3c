//! Rooms whose members are still being fetched.

use std::{sync::Arc, time::Duration};

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
    BoxFuture, Priority, StorageError, Tx,
    events::{self, NewEvent, RoomKey},
    joins::{self, PartialRoom},
    rooms as room_table,
    snapshots::{self, Chunk, Link},
    testing::{Fresh, on_each_engine},
};
use myelin_sync::{Direction, MembersRequest, SyncError, SyncRequest};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedRoomId, UserId, room_id, server_name, uint};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    house::{House, alice, filtered, joined, lazy, request, said, since, sorted, viewer},
    relations::{all, related},
};

const VERSION: RoomVersion = RoomVersion::V11;
const ROOM: RoomNr = RoomNr(1);
const SECRET: [u8; 16] = [7; 16];

/// A room of charlie and derek, on a server that nobody can reach, which alice has joined. Derek wrote a
/// message after that.
struct Far {
    key: RoomKey,
    signer: KeyPair,
    table: KeyTable,
    events: Vec<Event>,
}

fn charlie() -> &'static UserId {
    ruma::user_id!("@charlie:127.0.0.1:1")
}

fn derek() -> &'static UserId {
    ruma::user_id!("@derek:127.0.0.1:1")
}

/// Numbers of the events, in the order in which [`Far::new`] makes them.
const CREATE: usize = 0;
const CHARLIE: usize = 1;
const DEREK: usize = 2;
const JOIN: usize = 3;
const MESSAGE: usize = 4;

impl Far {
    fn new() -> Self {
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
            events::put(tx, ROOM, &new).await?;
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
async fn house_with_partial_room(fresh: Fresh) -> (House, OwnedRoomId) {
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
async fn complete(house: &House) {
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
async fn rewrite_message(fresh: &Fresh, verdict: Verdict, parents: Vec<EventNr>) {
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
                    events::put_backward_extremity(tx, ROOM, *parent, event.pdu.depth).await?;
                }
                let new = NewEvent {
                    event,
                    reason: None,
                    auth_events: Vec::new(),
                    prev_events: parents,
                };
                events::put(tx, ROOM, &new).await
            })
        })
        .await;
    written.unwrap();
}

fn both() -> Vec<String> {
    [charlie(), derek()]
        .iter()
        .map(|user| format!("{user} join"))
        .collect()
}

/// Who is among the events.
fn members(events: &Value) -> Vec<String> {
    sorted(
        said(events)
            .into_iter()
            .filter(|event| event.ends_with(" join"))
            .collect(),
    )
}

#[tokio::test]
async fn an_eager_sync_omits_a_partial_room_and_later_sends_it_whole() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let first = house.first_sync(alice()).await;
        assert_eq!(first["rooms"]["join"], json!({}));
        let second = house.next_sync(alice(), &first).await;
        assert_eq!(second["rooms"]["join"], json!({}));
        complete(&house).await;
        for answer in [
            house.next_sync(alice(), &second).await,
            house.first_sync(alice()).await,
        ] {
            let section = joined(&answer, &room);
            let timeline = said(&section["timeline"]["events"]);
            assert_eq!(timeline, ["@alice:x.example join", "hello"]);
            assert_eq!(section["timeline"]["limited"], true);
            assert_eq!(members(&section["state"]["events"]), both());
            assert_eq!(section["summary"]["m.joined_member_count"], 3);
        }
        let third = house.next_sync(alice(), &second).await;
        let fourth = house.next_sync(alice(), &third).await;
        assert_eq!(fourth["rooms"]["join"], json!({}));
    })
    .await;
}

#[tokio::test]
async fn a_waiting_eager_sync_wakes_when_the_resync_ends() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let first = house.first_sync(alice()).await;
        let patient = SyncRequest {
            timeout: Duration::from_secs(10),
            ..since(request(alice()), &first)
        };
        let sync = house.fresh.env.tasks.spawn("a test's sync", {
            let house = house.clone();
            async move { house.synced(&patient).await }
        });
        // The clock stands still: only the end of the resync can end the wait.
        complete(&house).await;
        let second = sync.await.unwrap();
        assert_eq!(members(&joined(&second, &room)["state"]["events"]), both());
    })
    .await;
}

#[tokio::test]
async fn a_lazy_sync_shows_a_partial_room_with_its_senders() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let dereks = [format!("{} join", derek())];
        let first = house.synced(&filtered(request(alice()), &lazy())).await;
        let section = joined(&first, &room);
        let timeline = said(&section["timeline"]["events"]);
        assert_eq!(timeline, ["@alice:x.example join", "hello"]);
        assert_eq!(members(&section["state"]["events"]), dereks);
        // Limited to the message, and since before it.
        let few = json!({
            "room": {"state": {"lazy_load_members": true}, "timeline": {"limit": 1}},
        });
        let whole = house.synced(&filtered(request(alice()), &few)).await;
        let section = joined(&whole, &room);
        assert_eq!(said(&section["timeline"]["events"]), ["hello"]);
        assert_eq!(section["timeline"]["limited"], true);
        let state = members(&section["state"]["events"]);
        assert_eq!(
            state,
            ["@alice:x.example join".to_owned(), dereks[0].clone()]
        );
        let mut since_join = filtered(request(alice()), &lazy());
        since_join.since = Some("s1_1".parse().unwrap());
        let incremental = house.synced(&since_join).await;
        let section = joined(&incremental, &room);
        assert_eq!(said(&section["timeline"]["events"]), ["hello"]);
        assert_eq!(members(&section["state"]["events"]), dereks);
    })
    .await;
}

#[tokio::test]
async fn a_lazy_client_is_not_sent_all_members_when_the_resync_ends() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let first = house.synced(&filtered(request(alice()), &lazy())).await;
        complete(&house).await;
        let next = filtered(since(request(alice()), &first), &lazy());
        let second = house.synced(&next).await;
        let section = joined(&second, &room);
        assert_eq!(section["summary"]["m.joined_member_count"], 3);
        // Charlie is named as a hero now; derek's membership came with his message.
        let state = said(&section["state"]["events"]);
        assert_eq!(state, [format!("{} join", charlie())]);
        assert_eq!(section["timeline"]["events"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn a_timeline_begins_after_the_last_gap_in_it() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        rewrite_message(&house.fresh, Verdict::Accepted, vec![EventNr(99)]).await;
        let mut since_join = filtered(request(alice()), &lazy());
        for since in [None, Some("s1_1".parse().unwrap())] {
            since_join.since = since;
            let answer = house.synced(&since_join).await;
            let timeline = &joined(&answer, &room)["timeline"];
            assert_eq!(said(&timeline["events"]), ["hello"]);
            assert_eq!(timeline["limited"], true);
            assert_eq!(timeline["prev_batch"], "s1_1");
        }
    })
    .await;
}

#[tokio::test]
async fn history_that_nobody_can_give_is_no_error_and_no_end() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        rewrite_message(&house.fresh, Verdict::Accepted, vec![EventNr(99)]).await;
        let read = async |from: Option<String>| {
            let from = from.as_deref();
            let page = house
                .messages(&room, alice(), Direction::Backward, from)
                .await
                .unwrap();
            (said(&serde_json::to_value(&page.chunk).unwrap()), page.end)
        };
        let (chunk, end) = read(None).await;
        assert_eq!(chunk, ["hello", "@alice:x.example join"]);
        assert!(end.is_some());
        assert_eq!(read(end).await, (Vec::new(), None));
    })
    .await;
}

#[tokio::test]
async fn rejected_and_soft_failed_events_are_shown_to_nobody() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let message = Far::new().events[MESSAGE].id().to_owned();
        let me = viewer(alice());
        assert!(house.sync.event(&me, &room, &message).await.is_ok());
        for verdict in [Verdict::Rejected, Verdict::SoftFailed] {
            rewrite_message(&house.fresh, verdict, Vec::new()).await;
            let house = House::open(house.fresh.clone()).await;
            let answer = house.synced(&filtered(request(alice()), &lazy())).await;
            let timeline = said(&joined(&answer, &room)["timeline"]["events"]);
            assert_eq!(timeline, ["@alice:x.example join"], "{verdict:?}");
            for direction in [Direction::Backward, Direction::Forward] {
                let page = house
                    .messages(&room, alice(), direction, None)
                    .await
                    .unwrap();
                let chunk = said(&serde_json::to_value(&page.chunk).unwrap());
                assert_eq!(chunk, ["@alice:x.example join"], "{verdict:?}");
            }
            let event = house.sync.event(&me, &room, &message).await;
            assert!(
                matches!(event, Err(SyncError::NotFound(_))),
                "{verdict:?} {event:?}"
            );
        }
    })
    .await;
}

/// On SQLite only: PostgreSQL's connections take their time, on the clock that is wound forward here.
#[tokio::test]
async fn members_wait_for_the_resync_but_not_for_ever() {
    let (house, room) = house_with_partial_room(Fresh::sqlite().await).await;
    let request = MembersRequest {
        room_id: room.clone(),
        at: None,
        membership: None,
        not_membership: None,
    };
    let (me, sync, clock) = (viewer(alice()), &house.sync, &house.fresh.env.clock);
    let waits: [BoxFuture<'_, Option<SyncError>>; 4] = [
        Box::pin(async { sync.members(&me, &request).await.err() }),
        Box::pin(async { sync.joined_members(&me, &room).await.err() }),
        Box::pin(async { sync.state(&me, &room).await.err() }),
        Box::pin(async {
            let entry = sync.state_entry(&me, &room, "m.room.member", derek().as_str());
            entry.await.err()
        }),
    ];
    for wait in waits {
        let begun = clock.instant();
        let wind = async {
            loop {
                clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        };
        let answer = tokio::select! { answer = wait => answer, never = wind => never };
        assert!(
            matches!(answer, Some(SyncError::StillPartial)),
            "{answer:?}"
        );
        assert!(begun.elapsed(clock) >= Duration::from_secs(30), "it waited");
    }
}

#[tokio::test]
async fn what_a_partial_state_knows_is_answered_at_once() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let me = viewer(alice());
        let own = house
            .sync
            .state_entry(&me, &room, "m.room.member", alice().as_str())
            .await;
        assert!(own.is_ok(), "{own:?}");
        let create = house
            .sync
            .state_entry(&me, &room, "m.room.create", "")
            .await;
        assert!(create.is_ok(), "{create:?}");
        let topic = house.sync.state_entry(&me, &room, "m.room.topic", "").await;
        assert!(matches!(topic, Err(SyncError::NotFound(_))), "{topic:?}");
        assert_eq!(house.sync.joined_rooms(alice()).await.unwrap(), [room]);
    })
    .await;
}

#[tokio::test]
async fn members_as_of_the_partial_phase_are_whole_after_it() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let then = house.synced(&filtered(request(alice()), &lazy())).await;
        complete(&house).await;
        let house = House::open(house.fresh).await;
        for at in [None, then["next_batch"].as_str().map(str::to_owned)] {
            let request = MembersRequest {
                room_id: room.clone(),
                at,
                membership: None,
                not_membership: None,
            };
            let found = house
                .sync
                .members(&viewer(alice()), &request)
                .await
                .unwrap();
            let found = members(&serde_json::to_value(&found).unwrap());
            let mut expected = vec!["@alice:x.example join".to_owned()];
            expected.extend(both());
            assert_eq!(found, expected);
        }
    })
    .await;
}

/// Stores a reply of derek's in a thread, as the next event of the room.
async fn put_reply(house: &House) {
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
                events::put(tx, ROOM, &new).await
            })
        });
    let written: Result<(), StorageError> = write.await;
    written.unwrap();
    drop(allocation);
}

#[tokio::test]
async fn what_relates_to_an_event_is_known_in_a_partial_room() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let message = Far::new().events[MESSAGE].id().to_owned();
        put_reply(&house).await;
        let found = related(&house, &all(&room, alice(), &message)).await;
        assert_eq!(said(&found["chunk"]), ["reply"]);
        let answer = house.synced(&filtered(request(alice()), &lazy())).await;
        let events = joined(&answer, &room)["timeline"]["events"]
            .as_array()
            .unwrap();
        let is_message = |event: &&Value| event["event_id"] == message.as_str();
        let shown = events.iter().find(is_message).unwrap();
        let thread = &shown["unsigned"]["m.relations"]["m.thread"];
        assert_eq!(thread["count"], 1);
        assert_eq!(thread["current_user_participated"], false);
    })
    .await;
}
