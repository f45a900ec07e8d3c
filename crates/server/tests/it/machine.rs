//! The machine that a server runs on: it can lose its power, and be started again.

use std::net::{Ipv4Addr, SocketAddr};

use myelin_env::{Env, Random};
use myelin_server::config::{
    Config, DatabaseConfig, FederationSection, ListenerConfig, RateLimitsSection,
    RegistrationSection,
};
use myelin_server::{Running, Server, StartError};
use myelin_storage::testing::{Loss, PostgresDatabase, PowerCut};
use myelin_storage::{Database, DatabaseUrl, params};
use ruma::OwnedServerName;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use crate::ca::Ca;
use crate::client::SHARED_SECRET;
use crate::engine;

/// A machine with a disk.
pub(crate) struct Machine {
    /// What becomes of its database on SQLite. PostgreSQL's has a machine of its own.
    pub(crate) power: PowerCut,
    config: Config,
    postgres: Option<PostgresDatabase>,
    /// Removed at the end.
    directory: TempDir,
}

/// A server from its start to its end.
pub(crate) struct Life {
    running: Running,
    threads: Threads,
}

/// The runtime of a server's tasks, until it is taken.
struct Threads(Option<Runtime>);

impl Drop for Threads {
    /// A test that does not end its servers ends without waiting for them.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What becomes of unsynced writes, alternately: all are lost, or some sectors of them.
pub(crate) fn loss(moment: u64) -> Loss {
    if moment.is_multiple_of(2) {
        Loss::Everything
    } else {
        Loss::Sectors(Random::seeded(moment))
    }
}

impl Machine {
    /// A machine on which a server of that name was never started. It trusts the authority, and asks
    /// the notary, if there is one, for keys.
    pub(crate) async fn new(
        name: &str,
        ca: &Ca,
        notary: Option<OwnedServerName>,
        loss: Loss,
    ) -> Self {
        log();
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        ca.write(&ca_file);
        let power = PowerCut::new(loss);
        let postgres = engine::postgres().await;
        let url = postgres.as_ref().map_or_else(
            || {
                let file = directory.path().join("myelin.db");
                format!("sqlite:{}?vfs={}", file.display(), power.vfs())
            },
            |database| database.url.clone(),
        );
        let config = Config {
            server_name: OwnedServerName::try_from(name).unwrap(),
            data_dir: directory.path().to_owned(),
            database: DatabaseConfig { url: Some(url) },
            listeners: vec![ListenerConfig {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                ..ListenerConfig::default()
            }],
            federation: FederationSection {
                extra_ca_certificates: vec![ca_file],
                allow_private_addresses: true,
                trusted_key_servers: notary.into_iter().collect(),
                ..FederationSection::default()
            },
            registration: RegistrationSection {
                enabled: true,
                guests: true,
                shared_secret: Some(SHARED_SECRET.to_owned()),
            },
            rate_limits: RateLimitsSection {
                enabled: false,
                ..RateLimitsSection::default()
            },
            ..Config::default()
        };
        Self {
            power,
            config,
            postgres,
            directory,
        }
    }

    /// The same with its database elsewhere.
    pub(crate) fn with_database(mut self, url: &str) -> Self {
        self.config.database.url = Some(url.to_owned());
        self
    }

    /// The server's name.
    pub(crate) fn name(&self) -> &str {
        self.config.server_name.as_str()
    }

    /// Starts the server on what is on the disk.
    pub(crate) async fn start(&self) -> Life {
        match self.try_start().await {
            Ok(life) => life,
            Err(why) => panic!("{} does not start: {why}", self.config.server_name),
        }
    }

    /// The same, where the power may go meanwhile.
    pub(crate) async fn try_start(&self) -> Result<Life, StartError> {
        self.start_in(Env::real()).await
    }

    /// The same with another clock, for example.
    pub(crate) async fn start_in(&self, env: Env) -> Result<Life, StartError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let start = Box::pin(Server::start(self.config.clone(), env));
        match runtime.spawn(start).await.unwrap() {
            Ok(running) => Ok(Life {
                running,
                threads: Threads(Some(runtime)),
            }),
            Err(why) => {
                end(runtime).await;
                Err(why)
            }
        }
    }

    /// Looks at the database while no server runs: it must be whole, and the statements must count
    /// nothing.
    pub(crate) async fn assert_at_rest(&self, none: &'static [&'static str]) {
        let url = match &self.postgres {
            Some(database) => DatabaseUrl::Postgres(database.url.clone()),
            None => self.power.url(self.directory.path().join("myelin.db")),
        };
        let database = Database::open(&url, &Env::real()).await.unwrap();
        if self.postgres.is_none() {
            let integrity = database.read("integrity", |tx| {
                Box::pin(async move {
                    let rows = tx.query("PRAGMA integrity_check", params![]).await?;
                    Ok(rows[0].text(0)?.to_owned())
                })
            });
            assert_eq!(integrity.await.unwrap(), "ok");
        }
        for statement in none {
            let count = database.read("count rows", move |tx| {
                Box::pin(async move { tx.query(statement, params![]).await?[0].int(0) })
            });
            assert_eq!(count.await.unwrap(), 0, "{statement}");
        }
        database.close().await;
        // The disk's content is in memory until the power goes.
        self.power.cut();
    }
}

impl Life {
    /// Where clients reach the server.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.addresses()[0]
    }

    /// Ends the server where it stands.
    pub(crate) async fn end(self) {
        let Self {
            running,
            mut threads,
        } = self;
        drop(running);
        end(threads.0.take().unwrap()).await;
    }

    /// Lets the server finish.
    pub(crate) async fn stop(self) {
        let Self {
            running,
            mut threads,
        } = self;
        let runtime = threads.0.take().unwrap();
        let stopping = Box::pin(running.stop());
        runtime.spawn(stopping).await.unwrap();
        end(runtime).await;
    }
}

/// What the servers log stands beside a test's failure. `RUST_LOG` says how much; warnings if it doesn't.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    // Another machine of the same test may have done it.
    builder.with_writer(std::io::stderr).try_init().ok();
}

/// Drops all of a server's tasks, and with them its connections to the database.
async fn end(runtime: Runtime) {
    tokio::task::spawn_blocking(move || drop(runtime))
        .await
        .unwrap();
}
