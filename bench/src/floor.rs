//! What a message of another server costs at least: the steps that no homeserver can leave out, each done for
//! all messages of a room before the next one, with nothing else to do. Processor time of this process, and of
//! PostgreSQL, for each message.
//!
//! `parse` has canonical JSON and both hashes in it, `auth` one check of three, `store` a row of the event and one
//! of its parent, committed by the hundred.

use std::{collections::HashMap, env, error::Error, io, sync::Arc, time::Duration};

use myelin_core::{
    auth::{check_against, check_claimed},
    completeness::{Completeness, StateRef},
    event::{Event, Place, Verdict},
    keys::{KeyPair, KeySet, ServerKey},
    number::{EventNr, RoomNr, SnapshotNr, StreamPosition},
    pdu::Pdu,
    room_version::RoomVersion,
    validate::Unverified,
};
use myelin_env::Env;
use myelin_storage::{
    Database, DatabaseUrl, Priority,
    events::{self, NewEvent, RoomKey},
    rooms,
    testing::{POSTGRES_VARIABLE, PostgresDatabase},
};
use myelin_testbed::resident::History;
use ruma::{OwnedServerName, ServerSigningKeyVersion};
use tokio::runtime::Runtime;

use crate::{process::own_time, table::given_or};

const DEFAULT_MESSAGES: [usize; 1] = [20_000];
const MEMBERS: usize = 10;

/// As many as the server commits together at most.
const TOGETHER: usize = 100;

/// Makes events of about 1 kB.
const TEXT_BYTES: usize = 400;

const VERSION: RoomVersion = RoomVersion::V10;

type Failure = Box<dyn Error>;

/// Prints a row for each number of messages.
pub(crate) fn run(messages: &[usize], out: &mut impl io::Write) -> Result<(), Failure> {
    let steps = ["parse", "verify", "auth", "SQLite", "PostgreSQL"];
    write!(out, "{:>8} {:>7}", "messages", "bytes")?;
    for step in steps {
        write!(out, " {:>13}", format!("{step} µs"))?;
    }
    writeln!(out)?;
    for messages in given_or(messages, &DEFAULT_MESSAGES) {
        let line = Line::of(*messages)?;
        let bytes = line.events.iter().map(|event| event.pdu.json.len());
        let bytes = bytes.sum::<usize>() / line.events.len();
        write!(out, "{messages:>8} {bytes:>7}")?;
        let runtime = Runtime::new()?;
        let postgres = env::var(POSTGRES_VARIABLE).ok();
        let times = [
            Some(line.parse()?),
            Some(line.verify()?),
            Some(line.auth()?),
            Some(runtime.block_on(line.store_in_sqlite())?),
            match postgres {
                Some(server) => Some(runtime.block_on(line.store_in_postgres(&server))?),
                None => None,
            },
        ];
        for time in times {
            let micros = time.map(|time| time.as_secs_f64() * 1e6 / line.events.len() as f64);
            let micros = micros.map_or_else(|| "-".to_owned(), |micros| format!("{micros:.1}"));
            write!(out, " {micros:>13}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A room whose events are one line, most of them messages.
struct Line {
    keys: KeySet,
    events: Vec<Arc<Event>>,
    numbers: HashMap<String, EventNr>,
}

impl Line {
    fn of(messages: usize) -> Result<Self, Failure> {
        let name = OwnedServerName::try_from("floor.test")?;
        let key = KeyPair::new(name, <&ServerSigningKeyVersion>::try_from("a")?, [1; 32]);
        let mut history = History::generate(VERSION, MEMBERS, std::slice::from_ref(&key));
        for number in 0..messages {
            history.say(&key, &format!("{number:.>TEXT_BYTES$}"));
        }
        let events: Vec<_> = (1..).zip(history.events()).map(stored).collect();
        let numbers = events
            .iter()
            .map(|event| (event.id().to_string(), event.nr));
        Ok(Self {
            numbers: numbers.collect(),
            keys: keys_of(&key),
            events,
        })
    }

    fn parse_all(&self) -> Result<Vec<Unverified>, Failure> {
        let room = &self.events[0].pdu.room_id;
        let parsed = self.events.iter().map(|event| {
            let parsed = Unverified::parse(VERSION, &event.pdu.json, Some(room))?;
            assert!(parsed.hash_matches() && parsed.event_id() == event.id());
            Ok(parsed)
        });
        parsed.collect()
    }

    fn parse(&self) -> Result<Duration, Failure> {
        let before = own_time(false)?;
        let parsed = self.parse_all()?;
        let time = own_time(false)? - before;
        drop(parsed);
        Ok(time)
    }

    fn verify(&self) -> Result<Duration, Failure> {
        let parsed = self.parse_all()?;
        let before = own_time(false)?;
        for event in parsed {
            event.verify(&self.keys)?;
        }
        Ok(own_time(false)? - before)
    }

    /// The events that an event names.
    fn named<'a>(&'a self, ids: impl Iterator<Item = &'a str>) -> impl Iterator<Item = EventNr> {
        ids.filter_map(|id| self.numbers.get(id).copied())
    }

    fn cited(&self, pdu: &Pdu) -> Vec<EventNr> {
        let ids = pdu.auth_events.iter().map(|id| id.as_str());
        self.named(ids).collect()
    }

    fn auth(&self) -> Result<Duration, Failure> {
        let held = |nr: EventNr| self.events[nr.0 as usize - 1].clone();
        let create = &self.events[0];
        let before = own_time(false)?;
        for event in &self.events[1..] {
            let cited: Vec<_> = self.cited(&event.pdu).into_iter().map(held).collect();
            check_claimed(VERSION, &event.pdu, &cited, Some(create))?;
            check_against(VERSION, &event.pdu, |event_type, key| {
                let mut cited = cited.iter();
                cited
                    .find(|event| event.pdu.is_state(event_type, key))
                    .cloned()
            })?;
        }
        Ok((own_time(false)? - before) / 2)
    }

    async fn store_in_sqlite(&self) -> Result<Duration, Failure> {
        let directory = tempfile::tempdir()?;
        let url = format!("sqlite:{}", directory.path().join("floor.db").display());
        self.store(&url.parse()?, false).await
    }

    async fn store_in_postgres(&self, server: &str) -> Result<Duration, Failure> {
        let database = PostgresDatabase::create(server).await;
        self.store(&database.url.parse()?, true).await
    }

    async fn store(&self, url: &DatabaseUrl, is_postgres: bool) -> Result<Duration, Failure> {
        let database = Database::open(url, &Env::real()).await?;
        let room = RoomKey {
            room: RoomNr(1),
            room_id: self.events[0].pdu.room_id.clone(),
            version: VERSION,
        };
        let put_room = database.write("room", Priority::Bulk, move |tx| {
            Box::pin(async move { rooms::put(tx, &room).await })
        });
        put_room.await?;
        let rows: Vec<NewEvent> = self.events.iter().map(|event| self.row(event)).collect();
        let before = own_time(is_postgres)?;
        for together in rows.chunks(TOGETHER) {
            let together = together.to_vec();
            let put = database.write("events", Priority::Bulk, move |tx| {
                Box::pin(async move { events::put(tx, RoomNr(1), &together).await })
            });
            put.await?;
        }
        let time = own_time(is_postgres)? - before;
        database.close().await;
        Ok(time)
    }

    fn row(&self, event: &Arc<Event>) -> NewEvent {
        let parents = event.pdu.prev_events.iter().map(|id| id.as_str());
        NewEvent {
            event: Event::clone(event),
            reason: None,
            auth_events: self.cited(&event.pdu),
            prev_events: self.named(parents).collect(),
        }
    }
}

fn stored((nr, pdu): (i64, &Arc<Pdu>)) -> Arc<Event> {
    Arc::new(Event {
        nr: EventNr(nr),
        pdu: pdu.clone(),
        verdict: Verdict::Accepted,
        place: Place::Timeline {
            before: StateRef::new(SnapshotNr(1), Completeness::FULL),
            position: StreamPosition(nr),
        },
        redacted_by: None,
    })
}

fn keys_of(key: &KeyPair) -> KeySet {
    let mut keys = KeySet::default();
    let server_key = ServerKey {
        key: key.verifying_key(),
        valid_until_ms: u64::MAX,
    };
    keys.insert(
        key.server_name().to_owned(),
        key.key_id().to_owned(),
        server_key,
    );
    keys
}
