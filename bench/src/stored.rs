//! A generated room in SQLite, and a resolution that starts with nothing in memory, as that of a server
//! which has not used the room for long.

use std::{collections::BTreeSet, error::Error, sync::Arc, time::Duration};

use myelin_core::{
    desk::{Desk, Needed},
    event::Event,
    number::{EventNr, RoomNr, SnapshotNr},
    resolution::{ResolutionError, resolve},
    room_version::RoomVersion,
    state::State,
    state_codec,
    testing::{HASH_KEY, Room},
};
use myelin_env::Env;
use myelin_storage::{
    Database, DatabaseUrl, Priority, StorageError,
    events::{self, Known, NewEvent, RoomKey},
    rooms,
    snapshots::{self, Chunk, Link},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How many events are written in one transaction.
const WRITTEN_TOGETHER: usize = 1_000;

/// The snapshot that both branches start from; theirs are the next ones.
const START: SnapshotNr = SnapshotNr(1);

type Failure = Box<dyn Error>;

/// The database with the room in it.
pub(crate) struct Stored {
    url: DatabaseUrl,
    key: RoomKey,
    runtime: Runtime,
    _directory: TempDir,
}

/// What a resolution cost.
pub(crate) struct Cost {
    /// From nothing to the encoded result.
    pub(crate) whole: Duration,
    /// The part of it that loading the states took.
    pub(crate) states: Duration,
    /// The number of entries of the result.
    pub(crate) entries: usize,
}

impl Stored {
    /// Writes the room, the state where it forks as a base and those of the branches as deltas.
    pub(crate) fn write(room: &Room, start: &State, branches: &[State]) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("room.db");
        let url: DatabaseUrl = format!("sqlite:{}", path.display()).parse()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let first = room.event(EventNr(1));
        let key = RoomKey {
            room: RoomNr(1),
            room_id: first.pdu.room_id.clone(),
            version: room.version,
        };
        let stored = Self {
            url,
            key,
            runtime,
            _directory: directory,
        };
        stored
            .runtime
            .block_on(stored.fill(room, start, branches))?;
        Ok(stored)
    }

    async fn fill(&self, room: &Room, start: &State, branches: &[State]) -> Result<(), Failure> {
        let database = Database::open(&self.url, &Env::real()).await?;
        let key = self.key.clone();
        let links: Vec<_> = branches
            .iter()
            .map(|state| (state.hash(), state_codec::encode_delta(&start.diff(state))))
            .collect();
        let (hash, base) = (start.hash(), state_codec::encode_base(start));
        let written = database.write("room", Priority::Bulk, move |tx| {
            Box::pin(async move {
                rooms::put(tx, &key).await?;
                snapshots::put(tx, key.room, START, hash, &link(None)).await?;
                for chunk in base {
                    let chunk = Chunk {
                        members: chunk.members,
                        first_key: chunk.first_key,
                        entries: chunk.bytes,
                    };
                    snapshots::put_chunk(tx, START, &chunk).await?;
                }
                for (nr, (hash, delta)) in (START.0 + 1..).zip(links) {
                    let link = link(Some(delta));
                    snapshots::put(tx, key.room, SnapshotNr(nr), hash, &link).await?;
                }
                Ok::<_, StorageError>(())
            })
        });
        written.await?;
        let all: Vec<_> = (1..=room.len() as i64)
            .map(|nr| new_event(room, EventNr(nr)))
            .collect();
        for piece in all.chunks(WRITTEN_TOGETHER) {
            let (piece, nr) = (piece.to_vec(), self.key.room);
            let written = database.write("events", Priority::Bulk, move |tx| {
                Box::pin(async move { events::put(tx, nr, &piece).await })
            });
            written.await?;
        }
        database.close().await;
        Ok(())
    }

    /// Loads the branches' states and what else is needed, resolves them, and encodes the result as it
    /// would be stored.
    pub(crate) fn resolve(&self, room: &Room, branches: usize) -> Result<Cost, Failure> {
        self.runtime.block_on(async {
            let env = Env::real();
            // Opened anew, so that nothing is in SQLite's own cache.
            let database = Database::open(&self.url, &env).await?;
            let began = env.clock.instant();
            let (start, states) = self.load_states(&database, room, branches).await?;
            let loaded = began.elapsed(&env.clock);
            let resolved = self.resolve_loading(&database, room, &states).await?;
            let _delta = state_codec::encode_delta(&start.diff(&resolved));
            let whole = began.elapsed(&env.clock);
            database.close().await;
            Ok(Cost {
                whole,
                states: loaded,
                entries: resolved.len(),
            })
        })
    }

    /// The state where the branches fork, and theirs.
    async fn load_states(
        &self,
        database: &Database,
        room: &Room,
        branches: usize,
    ) -> Result<(State, Vec<State>), Failure> {
        let chunks = database.read("chunks", |tx| Box::pin(snapshots::chunks(tx, START)));
        let mut entries = Vec::new();
        for chunk in chunks.await? {
            entries.extend(state_codec::decode_chunk(&chunk.entries).map_err(corrupt)?);
        }
        let start = State::from_entries(HASH_KEY, &room.keys, entries);
        let mut states = Vec::new();
        for nr in (START.0 + 1..).take(branches).map(SnapshotNr) {
            let link = database.read("link", move |tx| Box::pin(snapshots::link(tx, nr)));
            let delta = link.await?.and_then(|link| link.delta).unwrap_or_default();
            let mut state = start.clone();
            for (key, entry) in state_codec::decode_delta(&delta).map_err(corrupt)? {
                state.set(&room.keys, key, entry);
            }
            states.push(state);
        }
        Ok((start, states))
    }

    async fn resolve_loading(
        &self,
        database: &Database,
        room: &Room,
        states: &[State],
    ) -> Result<State, Failure> {
        let mut desk = Desk::default();
        loop {
            match resolve(self.version(), &room.keys, &desk, states) {
                Ok(resolved) => return Ok(resolved),
                Err(ResolutionError::Incomplete) => self.load(database, &mut desk).await?,
                Err(error) => return Err(format!("{error:?}").into()),
            }
        }
    }

    fn version(&self) -> RoomVersion {
        self.key.version
    }

    /// Puts on the desk what was found missing.
    async fn load(&self, database: &Database, desk: &mut Desk) -> Result<(), StorageError> {
        let roots: Vec<EventNr> = desk.take_wanted_chains().into_iter().collect();
        let chain = database.read("chains", move |tx| {
            Box::pin(async move { events::auth_chain(tx, &roots).await })
        });
        let mut numbers: BTreeSet<EventNr> = chain.await?.into_iter().collect();
        let (mut ids, mut cited) = (Vec::new(), Vec::new());
        for needed in desk.take_missing() {
            match needed {
                Needed::EventById(id) => ids.push(id),
                Needed::Event(nr) => drop(numbers.insert(nr)),
                Needed::AuthChildren(nr) => cited.push(nr),
                Needed::Snapshot(nr) => {
                    return Err(StorageError::Corrupt(format!(
                        "nothing refers to snapshot {nr}"
                    )));
                }
            }
        }
        let key = self.key.clone();
        let (found, edges) = database
            .read("events", {
                let cited = cited.clone();
                move |tx| {
                    Box::pin(async move {
                        let numbers: Vec<_> = numbers.into_iter().collect();
                        let mut found = events::by_number(tx, &key, &numbers).await?;
                        let by_id = events::by_id(tx, &key, &ids).await?;
                        found.extend(by_id.into_iter().filter_map(|(_, known)| match known {
                            Known::Held(event) => Some(event),
                            Known::Referenced(_) => None,
                        }));
                        Ok((found, events::auth_children(tx, &cited).await?))
                    })
                }
            })
            .await?;
        for event in found {
            desk.put_event(event);
        }
        for nr in cited {
            let citing = edges.iter().filter(|(parent, _)| *parent == nr);
            desk.put_auth_children(nr, citing.map(|(_, child)| *child).collect());
        }
        Ok(())
    }
}

fn corrupt(error: state_codec::CorruptState) -> StorageError {
    StorageError::Corrupt(error.to_string())
}

/// A base, or a delta after it.
fn link(delta: Option<Vec<u8>>) -> Link {
    Link {
        base: delta.is_some().then_some(START),
        depth: delta.is_some().into(),
        delta,
        partial: false,
    }
}

/// An event as a server stores it: of about the size that real ones have.
fn new_event(room: &Room, nr: EventNr) -> NewEvent {
    let event = room.event(nr);
    let pdu = &event.pdu;
    let json = json!({
        "auth_events": pdu.auth_events,
        "content": pdu.content,
        "depth": pdu.depth,
        "hashes": { "sha256": "h".repeat(43) },
        "origin_server_ts": pdu.origin_server_ts,
        "prev_events": pdu.prev_events,
        "room_id": pdu.room_id,
        "sender": pdu.sender,
        "signatures": { pdu.sender.server_name().as_str(): { "ed25519:a_key": "s".repeat(86) } },
        "state_key": pdu.state_key,
        "type": pdu.event_type.to_string(),
    });
    let mut written = (**pdu).clone();
    written.json = json.to_string().into();
    let cited = pdu.auth_events.iter().filter_map(|id| room.event_by_id(id));
    NewEvent {
        auth_events: cited.map(|event| event.nr).collect(),
        event: Event {
            pdu: Arc::new(written),
            ..(**event).clone()
        },
        reason: None,
        prev_events: Vec::new(),
    }
}
