//! Users of one server who talk as fast as they can, each waiting for the answer before the next
//! message, while others wait in `/sync`: how many messages are taken a second, how long a sender and a
//! reader wait, and what it costs.
//!
//! The server is a process of its own; the clients share the machine with it. Myelin on SQLite, on
//! PostgreSQL if `MYELIN_TEST_POSTGRES` names a server (one that syncs to its disk, if its figures shall
//! mean anything), and Synapse on SQLite if `MYELIN_TEST_SYNAPSE` names where it is installed.

use std::{collections::HashMap, env, error::Error, io, sync::Arc, time::Duration};

use myelin_env::{Clock, Moment};
use myelin_storage::testing::POSTGRES_VARIABLE;
use myelin_testbed::{client::Client, synapse};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    process::{Engine, Process},
    table::{given_or, milliseconds, quantile},
};

const DEFAULT_SENDERS: [usize; 3] = [1, 8, 64];

const ROOMS: [usize; 2] = [1, 64];

/// Each follows a part of the rooms, or all of them if there are fewer rooms than readers.
const READERS: usize = 4;

/// For how long is sent.
const LASTING: Duration = Duration::from_secs(10);

/// How long a reader goes on after the last message.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What a reader asks for.
const FILTER: &str = r#"{"room":{"timeline":{"limit":500},"state":{"lazy_load_members":true}},"presence":{"types":[]}}"#;

type Failure = Box<dyn Error>;

/// Prints a row for each server, number of senders, and number of rooms.
pub(crate) fn run(senders: &[usize], out: &mut impl io::Write) -> Result<(), Failure> {
    let senders = given_or(senders, &DEFAULT_SENDERS);
    writeln!(
        out,
        "{:>17} {:>7} {:>5} {:>8} {:>12} {:>12} {:>12} {:>12} {:>7} {:>10} {:>8}",
        "server",
        "senders",
        "rooms",
        "sends/s",
        "send p50 ms",
        "send p99 ms",
        "wake p50 ms",
        "wake p99 ms",
        "seen %",
        "CPU ms per",
        "peak MB"
    )?;
    let runtime = tokio::runtime::Runtime::new()?;
    for senders in senders {
        for rooms in ROOMS {
            for engine in engines() {
                let load = Load {
                    senders: *senders,
                    rooms,
                };
                let row = runtime.block_on(Box::pin(load.measure(&engine)))?;
                row.write(&engine, &load, out)?;
            }
        }
    }
    Ok(())
}

/// What can be measured here.
fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::Sqlite];
    engines.extend(env::var(POSTGRES_VARIABLE).ok().map(Engine::Postgres));
    if env::var_os(synapse::VARIABLE).is_some() {
        engines.push(Engine::Synapse);
    }
    engines
}

/// How many talk where.
struct Load {
    senders: usize,
    rooms: usize,
}

/// What was measured.
struct Row {
    sends: Vec<Duration>,
    wakes: Vec<Duration>,
    /// How many readers should have seen a message, for all messages.
    expected: usize,
    took: Duration,
    processor: Duration,
    peak_mb: f64,
}

/// A message that was acknowledged.
struct Sent {
    event_id: String,
    began: Moment,
    answered: Moment,
}

impl Load {
    async fn measure(&self, engine: &Engine) -> Result<Row, Failure> {
        let clock = Clock::real();
        let process = Process::start_on(engine).await?;
        let (talkers, readers) = self.meet(&process).await;
        let over = Arc::new(Notify::new());
        let mut reading = JoinSet::new();
        for reader in readers {
            let mut position = reader.sync(FILTER, None, Duration::ZERO).await;
            // A server may answer a first sync from before the last change.
            position = reader
                .sync(FILTER, next_batch(&position), Duration::ZERO)
                .await;
            reading.spawn(read(reader, position, Arc::clone(&over), clock.clone()));
        }
        process.forget_peak()?;
        let (began, before) = (clock.instant(), process.processor_time()?);
        let mut sending = JoinSet::new();
        for (talker, rooms) in talkers {
            sending.spawn(talk(talker, rooms, clock.clone()));
        }
        let sent: Vec<Sent> = sending.join_all().await.into_iter().flatten().collect();
        let took = began.elapsed(&clock);
        let processor = process.processor_time()?.saturating_sub(before);
        tokio::time::sleep(AFTERWARDS).await;
        over.notify_waiters();
        let seen = reading.join_all().await;
        Ok(Row {
            wakes: wakes(&sent, seen.iter().flatten()),
            expected: sent.len() * if self.rooms == 1 { READERS } else { 1 },
            sends: sent
                .iter()
                .map(|sent| sent.answered.since(sent.began))
                .collect(),
            took,
            processor,
            peak_mb: process.peak_mb()?,
        })
    }

    /// Senders with their rooms, and readers who are in theirs.
    async fn meet(&self, process: &Process) -> (Vec<(Client, Vec<String>)>, Vec<Client>) {
        let mut readers = Vec::new();
        for number in 0..READERS {
            readers.push(process.register(&format!("reader{number}")).await);
        }
        let mut talkers = Vec::new();
        for number in 0..self.senders {
            let talker = process.register(&format!("sender{number}")).await;
            talkers.push((talker, Vec::new()));
        }
        for number in 0..self.rooms {
            let room = talkers[number % self.senders]
                .0
                .create_room(json!({ "preset": "public_chat" }));
            let room = room.await;
            for (index, (talker, rooms)) in talkers.iter_mut().enumerate() {
                if index % self.rooms == number % self.senders {
                    talker.join(&room).await;
                    rooms.push(room.clone());
                }
            }
            for (index, reader) in readers.iter().enumerate() {
                if self.rooms == 1 || number % READERS == index {
                    reader.join(&room).await;
                }
            }
        }
        (talkers, readers)
    }
}

async fn talk(talker: Client, rooms: Vec<String>, clock: Clock) -> Vec<Sent> {
    let mut talker = talker.keep().await;
    let start = clock.instant();
    let mut sent = Vec::new();
    for room in rooms.iter().cycle() {
        let began = clock.instant();
        if start.elapsed(&clock) >= LASTING {
            break;
        }
        let event_id = talker
            .say(room, "a message of some words, as people write them")
            .await;
        sent.push(Sent {
            event_id,
            began,
            answered: clock.instant(),
        });
    }
    sent
}

/// Follows the reader's rooms until it is over; answers what was seen when.
async fn read(
    reader: Client,
    first: Value,
    over: Arc<Notify>,
    clock: Clock,
) -> Vec<(String, Moment)> {
    let mut connection = reader.keep().await;
    let mut seen = Vec::new();
    let mut since = next_batch(&first).map(str::to_owned);
    let ended = over.notified();
    tokio::pin!(ended);
    loop {
        let answer = tokio::select! {
            answer = connection.sync(FILTER, since.as_deref(), Duration::from_secs(30)) => answer,
            () = &mut ended => return seen,
        };
        let now = clock.instant();
        since = next_batch(&answer).map(str::to_owned);
        for room in answer["rooms"]["join"].as_object().into_iter().flatten() {
            let events = room.1["timeline"]["events"].as_array();
            let ids = events
                .into_iter()
                .flatten()
                .filter_map(|event| event["event_id"].as_str());
            seen.extend(ids.map(|id| (id.to_owned(), now)));
        }
    }
}

fn next_batch(answer: &Value) -> Option<&str> {
    answer["next_batch"].as_str()
}

/// How long after the sender's answer each reader saw the message; nothing if it was before.
fn wakes<'a>(sent: &[Sent], seen: impl Iterator<Item = &'a (String, Moment)>) -> Vec<Duration> {
    let answered: HashMap<&str, Moment> = sent
        .iter()
        .map(|sent| (sent.event_id.as_str(), sent.answered))
        .collect();
    seen.filter_map(|(id, at)| Some(at.since(*answered.get(id.as_str())?)))
        .collect()
}

impl Row {
    fn write(&self, engine: &Engine, load: &Load, out: &mut impl io::Write) -> io::Result<()> {
        let sends = self.sends.len() as f64;
        writeln!(
            out,
            "{:>17} {:>7} {:>5} {:>8.0} {:>12.2} {:>12.2} {:>12.2} {:>12.2} {:>7.1} {:>10.2} {:>8.0}",
            engine.name(),
            load.senders,
            load.rooms,
            sends / self.took.as_secs_f64(),
            milliseconds(quantile(&self.sends, 0.5)),
            milliseconds(quantile(&self.sends, 0.99)),
            milliseconds(quantile(&self.wakes, 0.5)),
            milliseconds(quantile(&self.wakes, 0.99)),
            100.0 * self.wakes.len() as f64 / self.expected as f64,
            milliseconds(self.processor) / sends,
            self.peak_mb,
        )
    }
}
