//! How long a local message takes until it is acknowledged, over HTTP and durably on SQLite: while the
//! server has nothing else to do, and while it joins a large room of another server and loads it.
//!
//! The other server runs in the same process and takes its share of the machine, more than a remote
//! one would.

use std::{error::Error, io, net::Ipv4Addr, net::SocketAddr, sync::Arc, time::Duration};

use myelin_core::room_version::RoomVersion;
use myelin_env::{Clock, Env};
use myelin_server::{
    Running, Server,
    config::{Config, FederationSection, ListenerConfig, RateLimitsSection, RegistrationSection},
};
use myelin_testbed::{
    ca::Ca,
    client::{Client, SHARED_SECRET},
    resident::Resident,
};
use serde_json::json;
use tempfile::TempDir;

use crate::table::{given_or, median, milliseconds, quantile};

const DEFAULT_MEMBERS: [usize; 1] = [20_000];

/// How many messages are sent while nothing else happens.
const IDLE_SENDS: usize = 500;

/// Prints two rows for each number of members.
pub(crate) fn run(members: &[usize], out: &mut impl io::Write) -> Result<(), Box<dyn Error>> {
    let members = given_or(members, &DEFAULT_MEMBERS);
    writeln!(
        out,
        "{:>8} {:>12} {:>10} {:>7} {:>9} {:>9} {:>9}",
        "members", "meanwhile", "seconds", "sends", "p50 ms", "p99 ms", "max ms"
    )?;
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
    };
    for members in members {
        // Threads of its own, so that neither waits for the other's tasks.
        let (elsewhere, here) = (runtime()?, runtime()?);
        let ca = Ca::generate();
        let resident = elsewhere.block_on(Resident::start(&ca, RoomVersion::V10, *members));
        let measured = here.block_on(Box::pin(measure(&ca, &resident)))?;
        for (meanwhile, phase) in measured {
            writeln!(
                out,
                "{members:>8} {meanwhile:>12} {:>10.1} {:>7} {:>9.2} {:>9.2} {:>9.2}",
                phase.took.as_secs_f64(),
                phase.latencies.len(),
                milliseconds(median(&phase.latencies)),
                milliseconds(quantile(&phase.latencies, 0.99)),
                milliseconds(quantile(&phase.latencies, 1.0)),
            )?;
        }
    }
    Ok(())
}

/// What was measured while something went on.
struct Phase {
    took: Duration,
    latencies: Vec<Duration>,
}

async fn measure(
    ca: &Ca,
    resident: &Arc<Resident>,
) -> Result<[(&'static str, Phase); 2], Box<dyn Error>> {
    let clock = Clock::real();
    let directory = tempfile::tempdir()?;
    let server = start(ca, resident, &directory).await?;
    let address = server.addresses()[0];
    let alice = Client::register(address, "alice").await;
    let room = alice.create_room(json!({})).await;
    let mut left = IDLE_SENDS;
    let idle = send_while(&alice, &room, &clock, || {
        left = left.saturating_sub(1);
        left > 0
    });
    let idle = idle.await;

    let bob = Client::register(address, "bob").await;
    let loading = tokio::spawn(join_and_load(
        bob,
        resident.alias(),
        resident.members().len(),
    ));
    let loaded = send_while(&alice, &room, &clock, || !loading.is_finished()).await;
    loading.await?;
    server.stop().await;
    Ok([("nothing", idle), ("join, resync", loaded)])
}

async fn start(
    ca: &Ca,
    resident: &Resident,
    directory: &TempDir,
) -> Result<Running, Box<dyn Error>> {
    let ca_file = directory.path().join("ca.pem");
    ca.write(&ca_file);
    let config = Config {
        server_name: "bench.test".try_into()?,
        data_dir: directory.path().to_owned(),
        listeners: vec![ListenerConfig {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..ListenerConfig::default()
        }],
        federation: FederationSection {
            extra_ca_certificates: vec![ca_file],
            allow_private_addresses: true,
            trusted_key_servers: vec![resident.name()],
            ..FederationSection::default()
        },
        registration: RegistrationSection {
            enabled: true,
            guests: false,
            shared_secret: Some(SHARED_SECRET.to_owned()),
        },
        rate_limits: RateLimitsSection {
            enabled: false,
            ..RateLimitsSection::default()
        },
        ..Config::default()
    };
    Ok(Box::pin(Server::start(config, Env::real())).await?)
}

/// Sends one message after the other as long as there is reason to.
async fn send_while(
    client: &Client,
    room: &str,
    clock: &Clock,
    mut go_on: impl FnMut() -> bool,
) -> Phase {
    let began = clock.instant();
    let mut latencies = Vec::new();
    while go_on() {
        let sent = clock.instant();
        client.say(room, "a message").await;
        latencies.push(sent.elapsed(clock));
    }
    Phase {
        took: began.elapsed(clock),
        latencies,
    }
}

/// Joins and waits until all members are known.
async fn join_and_load(client: Client, alias: String, members: usize) {
    let room = client.join(&alias).await;
    client.until_members(&room, members + 1).await;
}
