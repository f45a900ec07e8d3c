//! A server without its network: rooms over a fresh database, and what a test asks of them.

use std::{
    collections::BTreeSet,
    slice::from_ref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use myelin_core::{
    event::{Event, Place, Verdict},
    keys::KeyPair,
    number::{EventNr, StreamPosition},
    room_version::RoomVersion,
    state::State,
};
use myelin_env::{Clock, Env};
use myelin_federation::{Federation, FederationConfig, SigningKeys};
use myelin_rooms::{
    CreateRoom, NewEvent, Preset, ReceiveError, Room, RoomError, Rooms, RoomsConfig,
};
use myelin_storage::{
    BoxFuture, Database, Priority, StorageError, Tx,
    events::{self, Direction},
    extremities,
    server_keys::{self, ServerKeyRow},
    staged,
    testing::{Fresh, START_MS},
};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId, server_name,
    user_id,
};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    peers::Peers,
    story::{Entries, Story, Words, bob, carol, foreign_servers, key_of, mallory, membership},
};

pub(crate) fn alice() -> &'static UserId {
    user_id!("@alice:x.example")
}

pub(crate) fn dora() -> &'static UserId {
    user_id!("@dora:x.example")
}

/// The server under test.
pub(crate) struct House {
    pub(crate) rooms: Rooms,
    pub(crate) fresh: Fresh,
    keys: Arc<SigningKeys>,
    transactions: AtomicU64,
}

impl House {
    pub(crate) async fn open(fresh: Fresh) -> Self {
        let name = server_name!("x.example").to_owned();
        let keys = Arc::new(SigningKeys::generate(name, &fresh.env.random));
        put_foreign_keys(&fresh.database).await;
        Self::start(fresh, keys).await
    }

    /// The same among servers that answer.
    pub(crate) async fn open_among(mut fresh: Fresh, peers: &Peers) -> Self {
        fresh.env.network = peers.network();
        Self::open(fresh).await
    }

    async fn start(fresh: Fresh, keys: Arc<SigningKeys>) -> Self {
        let (env, database) = (fresh.env.clone(), fresh.database.clone());
        let server_name = keys.server_name().to_owned();
        let config = FederationConfig {
            addresses: myelin_federation::AddressPolicy {
                allow_private: true,
                ..myelin_federation::AddressPolicy::default()
            },
            ..FederationConfig::default()
        };
        let federation =
            Federation::new(config, env.clone(), database.clone(), keys.clone()).unwrap();
        let config = RoomsConfig {
            server_name,
            default_room_version: RoomVersion::V11,
            allow_publishing: true,
            presence: true,
        };
        let rooms = Rooms::start(config, env, database, federation)
            .await
            .unwrap();
        Self {
            rooms,
            fresh,
            keys,
            transactions: AtomicU64::new(0),
        }
    }

    /// The key that this server signs with.
    pub(crate) fn key(&self) -> &KeyPair {
        self.keys.active()
    }

    /// Stops the server and starts it again on what it had written.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            rooms,
            mut fresh,
            keys,
            transactions,
        } = self;
        fresh
            .env
            .tasks
            .shutdown(Duration::from_secs(1))
            .await
            .unwrap();
        drop(rooms);
        fresh.database.close().await;
        let restarts = fresh.env.clock.now_ms() - START_MS + 1;
        fresh.env = Env {
            network: fresh.env.network,
            ..Env::manual(START_MS + restarts, restarts)
        };
        fresh.database = Database::open(&fresh.url, &fresh.env).await.unwrap();
        Self {
            transactions,
            ..Self::start(fresh, keys).await
        }
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, StorageError>>
        + Send
        + 'static,
    ) -> T {
        self.fresh.database.read("test", question).await.unwrap()
    }

    /// Changes what is stored behind the server's back.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, StorageError>>
        + Send
        + 'static,
    ) -> T {
        let database = &self.fresh.database;
        let written = database.write("test", Priority::Interactive, change).await;
        written.unwrap()
    }

    /// A public room of alice's.
    pub(crate) async fn create(&self, version: &str) -> OwnedRoomId {
        self.rooms.create(alice(), wish(version)).await.unwrap()
    }

    /// A public room of alice's in which bob, carol and mallory are too. Bob has power over state.
    pub(crate) async fn shared_room(&self) -> (Story, OwnedEventId) {
        self.shared_room_of("11").await
    }

    /// The same in another room version.
    pub(crate) async fn shared_room_of(&self, version: &str) -> (Story, OwnedEventId) {
        let mut wish = wish(version);
        wish.power_level_override.insert(
            "users".into(),
            json!({ alice().as_str(): 100, bob().as_str(): 50 }),
        );
        let room_id = self.rooms.create(alice(), wish).await.unwrap();
        let mut story = self.story(&room_id).await;
        let start = self.tip(&room_id).await;
        let joins = [bob(), carol(), mallory()].map(|user| membership(user, user, "join"));
        let ids = story.chain(&start, joins);
        self.push_all(&story, bob(), &ids).await;
        let tip = ids.last().unwrap().clone();
        assert_eq!(self.tip(&room_id).await, tip);
        (story, tip)
    }

    /// What this server knows of a room, as a story.
    pub(crate) async fn story(&self, room_id: &RoomId) -> Story {
        let room = self.room(room_id).await;
        let mut story = Story::new(room.key.version, room_id.to_owned(), START_MS);
        self.tell(&mut story).await;
        story
    }

    /// Adds what this server's users have written to a story.
    pub(crate) async fn tell(&self, story: &mut Story) {
        let room = self.room(&story.room_id).await;
        for id in self.timeline(&story.room_id).await {
            if !story.knows(&id) {
                let event = room.event_by_id(&self.rooms, &id).await.unwrap().unwrap();
                story.read(event.pdu.clone());
            }
        }
    }

    pub(crate) async fn room(&self, room_id: &RoomId) -> Arc<Room> {
        self.rooms.room(room_id).await.unwrap().unwrap()
    }

    /// Hands a transaction over, as from the server of `origin`.
    pub(crate) async fn transact(
        &self,
        origin: &UserId,
        pdus: Vec<Value>,
    ) -> Result<Value, ReceiveError> {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed);
        let txn_id = format!("t{number}");
        let answer = self.transact_as((origin.server_name(), &txn_id), raw(&pdus));
        Ok(serde_json::from_str(answer.await?.get()).unwrap())
    }

    /// Hands over a transaction of a server with an ID.
    pub(crate) async fn transact_as(
        &self,
        (origin, txn_id): (&ServerName, &str),
        pdus: Vec<Box<RawValue>>,
    ) -> Result<Box<RawValue>, ReceiveError> {
        let taking = self.rooms.begin_taking(origin, txn_id).await?;
        self.rooms.receive_transaction(&taking, pdus).await
    }

    /// Pushes events of a story in one transaction; the answer's `pdus`. They may be judged later.
    pub(crate) async fn push(&self, story: &Story, from: &UserId, ids: &[&OwnedEventId]) -> Value {
        let pdus = ids.iter().map(|id| story.json(id)).collect();
        self.transact(from, pdus).await.unwrap()["pdus"].take()
    }

    /// Pushes events of a story, and waits until all are judged.
    pub(crate) async fn push_all(&self, story: &Story, from: &UserId, ids: &[OwnedEventId]) {
        for piece in ids.chunks(50) {
            let piece: Vec<_> = piece.iter().collect();
            self.push(story, from, &piece).await;
        }
        self.settled(&story.room_id).await;
    }

    /// Writes one event, pushes it and waits until it is judged.
    pub(crate) async fn says(
        &self,
        story: &mut Story,
        parents: &[&OwnedEventId],
        words: Words,
    ) -> OwnedEventId {
        let id = story.write(parents, words);
        let sender = story.pdu(&id).sender.clone();
        self.push_all(story, &sender, from_ref(&id)).await;
        id
    }

    /// Alice says who has which power, and nothing else of it.
    pub(crate) async fn set_power(&self, story: &mut Story, users: Value) -> OwnedEventId {
        let (kind, content) = ("m.room.power_levels", json!({ "users": users }));
        let sent = self.send(&story.room_id, alice(), kind, Some(""), content);
        let id = sent.await.unwrap();
        self.tell(story).await;
        id
    }

    /// Waits until every event that was acknowledged is judged.
    pub(crate) async fn settled(&self, room_id: &RoomId) {
        until(async || self.staged(room_id).await == 0).await;
        self.caught_up().await;
    }

    /// Waits until what was committed can be read.
    async fn caught_up(&self) {
        let stream = self.rooms.events_stream();
        let allocation = stream.allocate(1);
        let last = allocation.positions().next().unwrap();
        drop(allocation);
        let mut readable = stream.listen();
        readable
            .wait_for(|readable| *readable >= last)
            .await
            .unwrap();
    }

    /// How many acknowledged events are not judged yet.
    pub(crate) async fn staged(&self, room_id: &RoomId) -> u64 {
        let room = self.room(room_id).await.key.room;
        self.read(move |tx| Box::pin(staged::count(tx, room))).await
    }

    pub(crate) async fn event(&self, room_id: &RoomId, id: &EventId) -> Option<Arc<Event>> {
        let room = self.room(room_id).await;
        room.event_by_id(&self.rooms, id).await.unwrap()
    }

    /// What became of an event of a story; `None` if it isn't held.
    pub(crate) async fn verdict(&self, story: &Story, id: &EventId) -> Option<Verdict> {
        Some(self.event(&story.room_id, id).await?.verdict)
    }

    /// The events that clients are shown, in order.
    pub(crate) async fn timeline(&self, room_id: &RoomId) -> Vec<OwnedEventId> {
        let room = self.room(room_id).await;
        let nr = room.key.room;
        let all = (StreamPosition(i64::MIN), StreamPosition(i64::MAX));
        let numbers = self
            .read(move |tx| Box::pin(events::timeline(tx, nr, Direction::Forward, all, 100_000)))
            .await;
        let mut ids = Vec::with_capacity(numbers.len());
        for piece in numbers.chunks(1_000) {
            let held = room
                .events(&self.rooms, piece.iter().copied())
                .await
                .unwrap();
            ids.extend(piece.iter().map(|nr| held[nr].pdu.event_id.clone()));
        }
        ids
    }

    pub(crate) async fn extremities(&self, room_id: &RoomId) -> BTreeSet<OwnedEventId> {
        let room = self.room(room_id).await;
        let nr = room.key.room;
        let numbers = self
            .read(move |tx| Box::pin(extremities::forward(tx, nr)))
            .await;
        let held = room.events(&self.rooms, numbers).await.unwrap();
        held.values()
            .map(|event| event.pdu.event_id.clone())
            .collect()
    }

    /// The only forward extremity.
    pub(crate) async fn tip(&self, room_id: &RoomId) -> OwnedEventId {
        let extremities = self.extremities(room_id).await;
        assert_eq!(extremities.len(), 1, "{extremities:?}");
        extremities.into_iter().next().unwrap()
    }

    /// The current state.
    pub(crate) async fn current(&self, room_id: &RoomId) -> Entries {
        let room = self.room(room_id).await;
        let current = room.current().unwrap();
        self.entries(&room, &current.state).await
    }

    /// The state before an event.
    pub(crate) async fn state_before(&self, room_id: &RoomId, id: &EventId) -> Entries {
        let room = self.room(room_id).await;
        let event = self.event(room_id, id).await.unwrap();
        let snapshot = event.before().unwrap().snapshot();
        let state = room.state(&self.rooms, snapshot).await.unwrap();
        self.entries(&room, &state).await
    }

    pub(crate) async fn entries(&self, room: &Arc<Room>, state: &State) -> Entries {
        let numbers = state.entries().map(|(_, entry)| entry.event());
        let held = room.events(&self.rooms, numbers).await.unwrap();
        let keys = room.keys();
        let named = |(key, entry): (_, myelin_core::state::Entry)| {
            let name = keys.name(key).unwrap();
            let name = (name.event_type.clone(), name.state_key.clone());
            (name, held[&entry.event()].pdu.event_id.clone())
        };
        state.entries().map(named).collect()
    }

    /// Whether a server was asked for something, in vain.
    pub(crate) async fn was_asked(&self, server: &ServerName) -> bool {
        let federation = self.rooms.federation();
        federation.backoff(server).await.unwrap().is_some()
    }

    /// Puts an event of a story into the database as an outlier, as the answer of another server
    /// might have.
    pub(crate) async fn put_outlier(&self, story: &Story, id: &EventId) {
        static NUMBER: AtomicU64 = AtomicU64::new(1_000_000);
        let nr = EventNr(NUMBER.fetch_add(1, Ordering::Relaxed) as i64);
        self.put_event(Event {
            nr,
            pdu: story.pdu(id).clone(),
            verdict: Verdict::Accepted,
            place: Place::Outlier,
            redacted_by: None,
        })
        .await;
    }

    /// Puts an event into the database, or replaces what is there of it.
    pub(crate) async fn put_event(&self, event: Event) {
        let room = self.room(&event.pdu.room_id).await.key.room;
        let row = events::NewEvent {
            event,
            reason: None,
            auth_events: Vec::new(),
            prev_events: Vec::new(),
        };
        self.write(move |tx| Box::pin(async move { events::put(tx, room, &[row]).await }))
            .await;
    }

    pub(crate) async fn send(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Result<OwnedEventId, RoomError> {
        let event = new_event(sender, event_type, state_key, &content);
        self.rooms.send(room_id, event).await
    }

    pub(crate) async fn say(&self, room_id: &RoomId, sender: &UserId, body: &str) -> OwnedEventId {
        let content = json!({"body": body, "msgtype": "m.text"});
        self.send(room_id, sender, "m.room.message", None, content)
            .await
            .unwrap()
    }

    pub(crate) async fn join(&self, room_id: &RoomId, user: &UserId) {
        let joined = self
            .rooms
            .join(user, room_id.into(), Vec::new(), Map::new());
        joined.await.unwrap();
    }
}

/// Waits until a question is answered with yes.
///
/// # Panics
/// If it isn't for a minute.
pub(crate) async fn until(mut question: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !question().await {
            tokio::task::yield_now().await;
        }
    };
    let clock = Clock::real();
    let answered = clock.timeout(Duration::from_secs(60), asking).await;
    answered.expect("it happens within a minute");
}

/// The PDUs of a transaction.
pub(crate) fn raw(pdus: &[Value]) -> Vec<Box<RawValue>> {
    pdus.iter().map(|pdu| to_raw_value(pdu).unwrap()).collect()
}

pub(crate) fn new_event(
    sender: &UserId,
    event_type: &str,
    state_key: Option<&str>,
    content: &Value,
) -> NewEvent {
    NewEvent {
        sender: OwnedUserId::from(sender),
        event_type: event_type.to_owned(),
        state_key: state_key.map(str::to_owned),
        content: to_raw_value(content).unwrap(),
        redacts: None,
        transaction: None,
    }
}

/// A public room without anything special.
pub(crate) fn wish(version: &str) -> CreateRoom {
    CreateRoom {
        version: Some(version.to_owned()),
        preset: Preset::Public,
        creation_content: Map::new(),
        alias_name: None,
        published: false,
        name: None,
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        initial_state: Vec::new(),
        power_level_override: Map::new(),
        profile: Map::new(),
    }
}

async fn put_foreign_keys(database: &Database) {
    let rows = foreign_servers().map(|server| {
        let key = key_of(server);
        ServerKeyRow {
            server: server.to_string(),
            key_id: key.key_id().to_string(),
            public_key: key.verifying_key().to_bytes().to_vec(),
            valid_until_ms: START_MS + 1_000_000_000,
            document_ms: START_MS + 1_000_000_000,
        }
    });
    let put: Result<(), StorageError> = database
        .write("keys", Priority::Bulk, move |tx| {
            Box::pin(async move { server_keys::put(tx, &rows).await })
        })
        .await;
    put.unwrap();
}
