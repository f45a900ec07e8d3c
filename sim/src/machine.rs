//! A whole server on its machine: it is started, it crashes, and is started again on what was committed.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use axum::middleware::from_fn_with_state;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use myelin_api::Peer;
use myelin_core::room_version::RoomVersion;
use myelin_env::{Clock, Env, Network, Random};
use myelin_server::{Assembled, Server, config::Config};
use ruma::OwnedServerName;
use tower_http::add_extension::AddExtension;

use crate::{
    lies::{self, Lies},
    network::{Arrival, Fabric},
    promises::{self, Promises},
    trace::Trace,
    view::Server as Parts,
};

/// A machine. Its name is its address, so that no name has to be resolved.
pub struct Machine {
    address: IpAddr,
    directory: PathBuf,
    version: RoomVersion,
    fabric: Fabric,
    clock: Clock,
    seed: u64,
    lies: Lies,
    promises: Promises,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    /// Counts the starts.
    starts: u64,
    running: Option<Running>,
}

struct Running {
    env: Env,
    server: Assembled,
}

/// What a simulation has in common for all its machines.
#[derive(Clone)]
pub struct World {
    /// The time of all.
    pub clock: Clock,
    /// What is between them.
    pub fabric: Fabric,
    /// Where each has a directory.
    pub directory: PathBuf,
    /// The version of new rooms.
    pub version: RoomVersion,
    /// What everything follows from.
    pub seed: u64,
    /// What happens.
    pub trace: Trace,
}

impl Machine {
    /// A machine that is off, the `number`th of its world.
    ///
    /// # Panics
    /// If its directory can't be made.
    #[must_use]
    pub fn new(world: &World, number: u8) -> Self {
        let directory = world.directory.join(number.to_string());
        let clock = world.clock.of_another_machine();
        let seed = world.seed.wrapping_mul(1_000_003) + u64::from(number);
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        Self {
            address: Ipv4Addr::new(10, 0, 0, number + 1).into(),
            directory,
            version: world.version,
            fabric: world.fabric.clone(),
            lies: Lies::new(Random::seeded(seed), clock.clone(), world.trace.clone()),
            promises: Promises::default(),
            clock,
            seed,
            life: Mutex::default(),
        }
    }

    /// Sets its clock forward or back.
    pub fn set_clock(&self, by_ms: i64) {
        self.clock.set_by_ms(by_ms);
    }

    /// Has it lie to those who ask, or tell the truth again.
    pub fn lie(&self, told: bool) {
        self.lies.tell(told);
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> OwnedServerName {
        let name = self.address.to_string();
        OwnedServerName::try_from(name).expect("an address is a server's name")
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.lock().running.is_some()
    }

    /// Does something with the server, if it runs.
    pub fn with_server<T>(&self, look: impl FnOnce(&Assembled) -> T) -> Option<T> {
        self.lock()
            .running
            .as_ref()
            .map(|running| look(&running.server))
    }

    /// Starts the server on what it has committed before.
    ///
    /// # Errors
    /// Says why it does not start, or what it has lost.
    pub async fn start(&self) -> Result<(), String> {
        let starts = {
            let mut life = self.lock();
            life.starts += 1;
            life.starts
        };
        let network = Network::simulated(self.fabric.from(self.address));
        let seed = self.seed.wrapping_mul(31).wrapping_add(starts);
        let env = Env::simulated(self.clock.clone(), seed, network);
        let assembled = Server::assemble(&self.config(), env.clone()).await;
        let server = assembled.map_err(|why| format!("it does not start: {why}"))?;
        self.promises.are_kept(&server).await?;
        server.start_workers();
        self.lies.set_server(Some(Parts::of(&server)));
        let router = server
            .router()
            .layer(from_fn_with_state(self.lies.clone(), lies::answer))
            .layer(from_fn_with_state(
                self.promises.clone(),
                promises::remember,
            ));
        let serving = serve(self.fabric.listen(self.address), router, env.clone());
        // It is tracked; nobody waits for it.
        drop(env.tasks.spawn("listener", serving));
        self.lock().running = Some(Running { env, server });
        Ok(())
    }

    /// Ends the server where it stands: what it has not committed is lost.
    pub async fn crash(&self) {
        let running = self.lock().running.take();
        self.lies.set_server(None);
        self.fabric.disconnect(self.address);
        if let Some(Running { env, server }) = running {
            env.tasks.kill().await;
            drop(server);
        }
    }

    fn config(&self) -> Config {
        let mut config = Config {
            server_name: self.name(),
            data_dir: self.directory.clone(),
            default_room_version: self.version,
            ..Config::default()
        };
        config.federation.allow_private_addresses = true;
        config.federation.trusted_key_servers.clear();
        config.registration.enabled = true;
        config.rate_limits.enabled = false;
        config.metrics.enabled = false;
        config
    }

    /// Where the database is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers whoever connects.
async fn serve(
    mut arrivals: tokio::sync::mpsc::UnboundedReceiver<Arrival>,
    router: axum::Router,
    env: Env,
) {
    while let Some((stream, peer)) = arrivals.recv().await {
        let service = AddExtension::new(router.clone(), Peer(peer));
        let service = TowerToHyperService::new(service);
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // It is tracked. That it breaks off is what simulations are about.
        drop(
            env.tasks
                .spawn("connection", async move { drop(connection.await) }),
        );
    }
}
