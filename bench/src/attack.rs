//! What an ordinary client waits for while the server is attacked: the time of its sends, of `whoami` and of
//! `/sync`, and the server's memory.
//!
//! The client and the attacking server are in the same room, where the client talks. What the attacker sends is
//! made and signed before the time counts; it shares the machine with the server all the same. Rates are not
//! limited here: with the limits that a server has by default less of it would come through.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use myelin_core::room_version::RoomVersion;
use myelin_env::Clock;
use myelin_testbed::{
    ca::Ca,
    client::{Client, LAZY},
    http::Kept,
    resident::Resident,
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpSocket, task::JoinSet};

use crate::{
    process::{NAME, Process},
    table::{given_or, milliseconds, quantile},
};

/// How long each attack lasts, in seconds.
const DEFAULT_SECONDS: [usize; 1] = [8];

const MEMBERS: usize = 100;

const VERSION: RoomVersion = RoomVersion::V11;

/// How many connections send what was prepared.
const SENDERS: usize = 4;

/// How many transactions of a flood are prepared. Those of EDUs and of unknown rooms are sent again and again,
/// which costs the server what new ones cost.
const PREPARED: usize = 200;

/// A flood of extremities has this many events; then it is over.
const EXTREMITIES: usize = 10_000;

/// Connections that say nothing, that don't end their requests, and that don't read their answers.
const IDLE: usize = 500;
const UNFINISHED: usize = 500;
const UNREAD: usize = 50;

type Failure = Box<dyn Error>;

#[derive(Clone, Copy)]
enum Attack {
    None,
    Edus,
    UnknownRooms,
    Extremities,
    SlowClients,
    BadJson,
}

const ATTACKS: [(Attack, &str); 6] = [
    (Attack::None, "none"),
    (Attack::Edus, "EDUs"),
    (Attack::UnknownRooms, "unknown rooms"),
    (Attack::Extremities, "extremities"),
    (Attack::SlowClients, "slow clients"),
    (Attack::BadJson, "nested, oversized"),
];

/// Prints a row for each attack. If a number is given, each lasts so many seconds.
pub(crate) fn run(seconds: &[usize], out: &mut impl io::Write) -> Result<(), Failure> {
    let seconds = given_or(seconds, &DEFAULT_SECONDS)[0];
    let lasting = Duration::from_secs(seconds as u64);
    writeln!(
        out,
        "{:>17} {:>9} {:>7} {:>23} {:>23} {:>23} {:>8}",
        "attack",
        "attacks/s",
        "sends/s",
        "send p50 p99 max ms",
        "whoami p50 p99 max ms",
        "sync p50 p99 max ms",
        "peak MB"
    )?;
    let runtime = tokio::runtime::Runtime::new()?;
    for (attack, name) in ATTACKS {
        let row = runtime.block_on(Box::pin(measure(attack, lasting)))?;
        writeln!(
            out,
            "{name:>17} {:>9.0} {:>7.0} {:>23} {:>23} {:>23} {:>8.0}",
            row.attacks as f64 / row.took.as_secs_f64(),
            row.times.sends.len() as f64 / row.took.as_secs_f64(),
            figures(&row.times.sends),
            figures(&row.times.whoamis),
            figures(&row.times.syncs),
            row.peak_mb,
        )?;
        out.flush()?;
    }
    Ok(())
}

fn figures(durations: &[Duration]) -> String {
    let at = |part| milliseconds(quantile(durations, part));
    format!("{:.1} {:.1} {:.1}", at(0.5), at(0.99), at(1.0))
}

/// What was measured.
struct Row {
    attacks: usize,
    times: Times,
    took: Duration,
    peak_mb: f64,
}

/// How long the client waited for each kind of request.
#[derive(Default)]
struct Times {
    sends: Vec<Duration>,
    whoamis: Vec<Duration>,
    syncs: Vec<Duration>,
}

async fn measure(attack: Attack, lasting: Duration) -> Result<Row, Failure> {
    let clock = Clock::real();
    let ca = Ca::generate();
    let resident = Resident::start(&ca, VERSION, MEMBERS).await;
    let process = Process::start(&ca, &resident)?;
    let alice = process.register("alice").await;
    alice.join(&resident.alias()).await;
    let room = resident.room_id().to_string();
    alice.until_members(&room, MEMBERS + 1).await;
    let mut attackers = begin(attack, &resident, &process, &alice).await?;
    process.forget_peak()?;
    let began = clock.instant();
    let times = live(&alice, &room, lasting, &clock).await;
    let took = began.elapsed(&clock);
    let peak_mb = process.peak_mb()?;
    attackers.over.send_replace(true);
    let mut attacks = 0;
    while let Some(made) = attackers.tasks.join_next().await {
        attacks += made?;
    }
    Ok(Row {
        attacks,
        times,
        took,
        peak_mb,
    })
}

/// The ordinary client: sends, asks and syncs, one after the other.
async fn live(alice: &Client, room: &str, lasting: Duration, clock: &Clock) -> Times {
    let began = clock.instant();
    let mut times = Times::default();
    let mut connection = alice.keep().await;
    let mut since: Option<String> = None;
    while began.elapsed(clock) < lasting {
        let at = clock.instant();
        connection.say(room, "a message of some words").await;
        times.sends.push(at.elapsed(clock));
        let at = clock.instant();
        connection
            .succeed("GET", "/_matrix/client/v3/account/whoami", None)
            .await;
        times.whoamis.push(at.elapsed(clock));
        let at = clock.instant();
        let answer = connection
            .sync(LAZY, since.as_deref(), Duration::ZERO)
            .await;
        // The first is another thing than those that follow.
        if since.is_some() {
            times.syncs.push(at.elapsed(clock));
        }
        since = answer["next_batch"].as_str().map(str::to_owned);
    }
    times
}

/// Those who attack. Each answers how often it did.
struct Attackers {
    tasks: JoinSet<usize>,
    over: tokio::sync::watch::Sender<bool>,
}

async fn begin(
    attack: Attack,
    resident: &Arc<Resident>,
    process: &Process,
    alice: &Client,
) -> Result<Attackers, Failure> {
    let mut attackers = Attackers {
        tasks: JoinSet::new(),
        over: tokio::sync::watch::Sender::new(false),
    };
    match attack {
        Attack::None => {}
        Attack::Edus => {
            let bodies = (0..PREPARED).map(|number| resident.flood_of_edus(1, NAME, number));
            attackers.send(process, signed(resident, bodies), true);
        }
        Attack::UnknownRooms => {
            let bodies = (0..PREPARED).map(|number| resident.flood_of_unknown_rooms(1, number));
            attackers.send(process, signed(resident, bodies), true);
        }
        Attack::Extremities => {
            let bodies =
                (0..EXTREMITIES / 50).map(|number| resident.flood_of_branches(1, NAME, number));
            attackers.send(process, signed(resident, bodies), false);
        }
        Attack::BadJson => attackers.send(process, bad_requests(), true),
        Attack::SlowClients => {
            let answer = alice.written_request("GET", "/_matrix/client/v3/sync");
            for number in 0..IDLE + UNFINISHED + UNREAD {
                let said = match number {
                    ..IDLE => String::new(),
                    number if number < IDLE + UNFINISHED => {
                        "POST /_matrix/client/v3/login HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{".to_owned()
                    }
                    _ => answer.repeat(50),
                };
                attackers.stay(process, said).await?;
            }
        }
    }
    Ok(attackers)
}

impl Attackers {
    /// Sends requests as fast as they are answered, over some connections; all of them once, or again and again.
    fn send(&mut self, process: &Process, requests: Vec<Request<Full<Bytes>>>, again: bool) {
        let requests = Arc::new(requests);
        for sender in 0..SENDERS {
            let (address, over) = (process.address, self.over.subscribe());
            let requests = requests.clone();
            self.tasks.spawn(async move {
                let own = requests.iter().skip(sender).step_by(SENDERS);
                let mut connection = None;
                let mut sent = 0;
                let rounds = if again { usize::MAX } else { 1 };
                for request in own
                    .cycle()
                    .take((requests.len() / SENDERS).saturating_mul(rounds))
                {
                    if *over.borrow() {
                        break;
                    }
                    // A connection may be closed after a request that is refused.
                    let mut kept = match connection.take() {
                        Some(kept) => kept,
                        None => Kept::open(address).await.expect("the server listens"),
                    };
                    if kept.send(request.clone()).await.is_ok() {
                        connection = Some(kept);
                    }
                    sent += 1;
                }
                sent
            });
        }
    }

    /// Keeps a connection over which this is said, and nothing is read.
    async fn stay(&mut self, process: &Process, said: String) -> Result<(), Failure> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        let mut stream = socket.connect(process.address).await?;
        stream.write_all(said.as_bytes()).await?;
        let mut over = self.over.subscribe();
        self.tasks.spawn(async move {
            over.wait_for(|over| *over).await.ok();
            drop(stream);
            1
        });
        Ok(())
    }
}

/// Transactions of the resident's second name, as they are sent.
fn signed(resident: &Resident, bodies: impl Iterator<Item = Value>) -> Vec<Request<Full<Bytes>>> {
    let requests = bodies.enumerate().map(|(number, body)| {
        let path = format!("/_matrix/federation/v1/send/attack{number}");
        resident.signed(1, NAME, ("PUT", &path), Some(body))
    });
    requests.collect()
}

/// Requests with bodies that are nested deep or too large, for anybody, for users and for servers.
fn bad_requests() -> Vec<Request<Full<Bytes>>> {
    let nested = |bytes: usize| Bytes::from(format!("{{\"a\":{}", "[".repeat(bytes)));
    let mut requests = Vec::new();
    for (path, bytes) in [
        ("/_matrix/client/v3/login", 1_000_000),
        ("/_matrix/client/v3/login", 5_000_000),
        ("/_matrix/federation/v1/send/bad", 1_000_000),
        ("/_matrix/federation/v1/send/bad", 17_000_000),
    ] {
        let method = if path.ends_with("login") {
            "POST"
        } else {
            "PUT"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", NAME)
            .header(
                "authorization",
                r#"X-Matrix origin="127.0.0.1:1",key="ed25519:a",sig="AAAA""#,
            )
            .body(Full::from(nested(bytes)))
            .expect("the parts are valid");
        // Enough for every sender to have some of each.
        requests.extend(vec![request; SENDERS]);
    }
    requests
}
