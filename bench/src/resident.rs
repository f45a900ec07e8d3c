//! What being the resident of a large room costs: how long joins of other servers' users take, and the
//! state's answers, until their last byte; with the memory of the server's process.
//!
//! The room comes from a generated resident, which the server joins, and whose users then join it
//! through the server.

use std::{error::Error, io, sync::Arc, time::Duration};

use myelin_core::room_version::RoomVersion;
use myelin_env::Clock;
use myelin_testbed::{
    ca::Ca,
    client::{Client, encode},
    resident::{Resident, user},
};

use crate::{
    process::{NAME, Process},
    table::{given_or, median, milliseconds},
};

const DEFAULT_MEMBERS: [usize; 2] = [1_000, 50_000];

const VERSION: RoomVersion = RoomVersion::V10;

/// How often each request is made.
const TIMES: usize = 5;

type Failure = Box<dyn Error>;

/// Prints a row for each kind of request and number of members.
pub(crate) fn run(members: &[usize], out: &mut impl io::Write) -> Result<(), Failure> {
    let members = given_or(members, &DEFAULT_MEMBERS);
    writeln!(
        out,
        "{:>8} {:>24} {:>10} {:>10} {:>9} {:>8} {:>8}",
        "members", "request", "first ms", "median ms", "CPU ms", "MB", "peak +MB"
    )?;
    let runtime = tokio::runtime::Runtime::new()?;
    for members in members {
        runtime.block_on(Box::pin(measure(*members, out)))?;
    }
    Ok(())
}

/// What a request cost.
struct Cost {
    took: Duration,
    bytes: usize,
}

async fn measure(members: usize, out: &mut impl io::Write) -> Result<(), Failure> {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, VERSION, members).await;
    let process = Process::start(&ca, &resident)?;
    let alice = Client::register(process.address, "alice").await;
    alice.join(&resident.alias()).await;
    alice
        .until_members(resident.room_id().as_str(), members + 1)
        .await;

    let to = (NAME, process.address);
    let room = resident.room_id().as_str();
    let last = alice.say(room, "a message").await;
    let mut number = members;
    for (kind, query) in [
        ("send_join, omitting", "?omit_members=true"),
        ("send_join, full", ""),
    ] {
        let mut costs = Vec::new();
        let meter = Meter::start(&process)?;
        for _ in 0..TIMES {
            number += 1;
            let guest = user(number, resident.key(1));
            let visit = resident.visit_as(&guest, to, (room, VERSION), query).await;
            costs.push(Cost {
                took: visit.took,
                bytes: visit.answer.len(),
            });
        }
        meter.print((members, kind), &costs, out)?;
    }
    for endpoint in ["state_ids", "state"] {
        let path = format!(
            "/_matrix/federation/v1/{endpoint}/{}?event_id={}",
            encode(room),
            encode(&last)
        );
        let mut costs = Vec::new();
        let meter = Meter::start(&process)?;
        for _ in 0..TIMES {
            costs.push(ask(&resident, to, &path).await?);
        }
        meter.print((members, endpoint), &costs, out)?;
    }
    Ok(())
}

async fn ask(
    resident: &Arc<Resident>,
    to: (&str, std::net::SocketAddr),
    path: &str,
) -> Result<Cost, Failure> {
    let clock = Clock::real();
    let asked = clock.instant();
    let answer = resident.request_as(1, to, ("GET", path), None).await;
    let (answer, took) = (answer.ok_or("no answer")?, asked.elapsed(&clock));
    if answer.status() != 200 {
        return Err(format!("{path}: {:?}", answer.body()).into());
    }
    Ok(Cost {
        took,
        bytes: answer.body().len(),
    })
}

/// What the process takes while requests are made.
struct Meter<'a> {
    process: &'a Process,
    processor: Duration,
    memory_mb: f64,
}

impl<'a> Meter<'a> {
    fn start(process: &'a Process) -> Result<Self, Failure> {
        process.forget_peak()?;
        Ok(Self {
            process,
            processor: process.processor_time()?,
            memory_mb: process.memory_mb()?,
        })
    }

    fn print(
        self,
        (members, kind): (usize, &str),
        costs: &[Cost],
        out: &mut impl io::Write,
    ) -> Result<(), Failure> {
        let times: Vec<Duration> = costs.iter().map(|cost| cost.took).collect();
        let processor = self
            .process
            .processor_time()?
            .saturating_sub(self.processor);
        let bytes = costs.first().map_or(0, |cost| cost.bytes);
        writeln!(
            out,
            "{members:>8} {kind:>24} {:>10.1} {:>10.1} {:>9.1} {:>8.2} {:>8.1}",
            milliseconds(times.first().copied().unwrap_or_default()),
            milliseconds(median(&times)),
            milliseconds(processor) / costs.len() as f64,
            bytes as f64 / 1e6,
            self.process.peak_mb()? - self.memory_mb,
        )?;
        Ok(())
    }
}
