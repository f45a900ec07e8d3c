//! One message to the servers of a large room, a part of which are dead: some refuse connections,
//! some take them and never say anything. The message after it shows what dead servers cost that are
//! known to be so.

use std::{error::Error, io, sync::Arc, time::Duration};

use myelin_core::room_version::RoomVersion;
use myelin_env::Clock;
use myelin_testbed::{
    ca::Ca,
    client::Client,
    resident::{Reach, Resident},
};

use crate::{
    process::{NAME, Process},
    table::{given_or, milliseconds},
};

const DEFAULT_SERVERS: [usize; 2] = [400, 4_000];

/// Members of the room for each of its servers.
const MEMBERS_EACH: usize = 2;

/// For how long the process is watched once the living servers have the message: the dead ones are
/// given up meanwhile.
const AFTERWARDS: Duration = Duration::from_secs(75);

type Failure = Box<dyn Error>;

/// Prints two rows for each number of servers.
pub(crate) fn run(servers: &[usize], out: &mut impl io::Write) -> Result<(), Failure> {
    let servers = given_or(servers, &DEFAULT_SERVERS);
    writeln!(
        out,
        "{:>8} {:>7} {:>11} {:>9} {:>10} {:>10} {:>11} {:>9}",
        "servers",
        "dead",
        "message",
        "sent ms",
        "all after",
        "CPU s then",
        "CPU s later",
        "peak MB"
    )?;
    let runtime = tokio::runtime::Runtime::new()?;
    for servers in servers {
        runtime.block_on(Box::pin(measure(*servers, out)))?;
    }
    Ok(())
}

/// Three of ten servers are dead, in two ways.
fn reach(number: usize) -> Reach {
    match number % 20 {
        3 | 9 | 15 => Reach::Refused,
        5 | 11 | 17 => Reach::Silent,
        _ => Reach::Served,
    }
}

async fn measure(servers: usize, out: &mut impl io::Write) -> Result<(), Failure> {
    let names: Vec<Reach> = (0..servers).map(reach).collect();
    let living = names
        .iter()
        .filter(|reach| **reach == Reach::Served)
        .count();
    let ca = Ca::generate();
    let members = servers * MEMBERS_EACH;
    let resident = Resident::start_under(&ca, RoomVersion::V10, members, &names).await;
    let process = Process::start(&ca, &resident)?;
    let alice = Client::register(process.address, "alice").await;
    alice.join(&resident.alias()).await;
    let room = resident.room_id().as_str();
    alice.until_members(room, members + 1).await;
    for message in ["the first", "the second"] {
        let row = deliver(&process, &resident, (&alice, message), living).await?;
        writeln!(
            out,
            "{servers:>8} {:>7} {message:>11} {:>9.1} {:>8.2} s {:>10.2} {:>11.2} {:>9.1}",
            servers - living,
            milliseconds(row.sent),
            row.delivered.as_secs_f64(),
            row.processor.as_secs_f64(),
            row.later.as_secs_f64(),
            row.peak_mb,
        )?;
    }
    Ok(())
}

/// What a message cost.
struct Row {
    /// Until the client had its answer.
    sent: Duration,
    /// Until all living servers had it.
    delivered: Duration,
    /// Processor time until then.
    processor: Duration,
    /// Processor time afterwards.
    later: Duration,
    peak_mb: f64,
}

async fn deliver(
    process: &Process,
    resident: &Arc<Resident>,
    (alice, words): (&Client, &str),
    living: usize,
) -> Result<Row, Failure> {
    let clock = Clock::real();
    process.forget_peak()?;
    let before = process.processor_time()?;
    let began = clock.instant();
    alice.say(resident.room_id().as_str(), words).await;
    let sent = began.elapsed(&clock);
    resident.until_told(NAME, words, living).await;
    let delivered = began.elapsed(&clock);
    let then = process.processor_time()?;
    tokio::time::sleep(AFTERWARDS).await;
    Ok(Row {
        sent,
        delivered,
        processor: then.saturating_sub(before),
        later: process.processor_time()?.saturating_sub(then),
        peak_mb: process.peak_mb()?,
    })
}
