//! The composition root: makes every part and hands each what it needs.

#[cfg(test)]
mod tests;

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use myelin_api::{Api, ApiConfig, ApiParts, router};
use myelin_env::Env;
use myelin_federation::{
    AddressPolicy, Federation, FederationConfig, KeyFileError, SetupError, SigningKeys, Waits,
};
use myelin_rooms::{Rooms, RoomsConfig};
use myelin_storage::{Database, DatabaseUrl, StorageError};
use myelin_sync::Sync;
use myelin_users::{UserError, Users, UsersConfig};
use tokio::net::TcpListener;

use crate::{config::Config, listener::Listener, telemetry, tls, workers};

/// What has begun is given this long to finish when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(4);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be made.
    #[error("{path}: {why}")]
    DataDirectory {
        /// `data_dir`.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The signing key can't be read or made.
    #[error("signing key: {0}")]
    SigningKey(#[from] KeyFileError),
    /// The database can't be opened.
    #[error("database {place:?}: {why}")]
    OpenDatabase {
        /// Where it is.
        place: DatabaseUrl,
        /// What is wrong.
        why: StorageError,
    },
    /// The database can't be used.
    #[error("database: {0}")]
    Database(#[from] StorageError),
    /// The server had another name before.
    #[error(
        "server_name is {configured:?}, but the database belongs to {stored:?}: the name is permanent"
    )]
    OtherName {
        /// What the configuration says.
        configured: String,
        /// What the database says.
        stored: String,
    },
    /// Requests to other servers can't be set up.
    #[error("federation: {0}")]
    Federation(#[from] SetupError),
    /// A listener's certificate or key can't be used.
    #[error("TLS: {path}: {why}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A port can't be opened.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        why: io::Error,
    },
    /// Something about the users.
    #[error(transparent)]
    Users(#[from] UserError),
}

/// The parts of a server that need no port.
pub(crate) struct Parts {
    pub(crate) database: Database,
    pub(crate) federation: Federation,
    pub(crate) users: Users,
}

impl Parts {
    /// Opens what is in the data directory, making it first if it is new.
    pub(crate) async fn open(config: &Config, env: &Env) -> Result<Self, StartError> {
        let path = &config.data_dir;
        fs::create_dir_all(path).map_err(|why| StartError::DataDirectory {
            path: path.clone(),
            why,
        })?;
        let key_file = config.signing_key_file();
        let keys = SigningKeys::load_or_create(&key_file, &config.server_name, &env.random)?;
        let url: DatabaseUrl = config.database_url().parse()?;
        let database = match Database::open(&url, env).await {
            Ok(database) => database,
            Err(why) => return Err(StartError::OpenDatabase { place: url, why }),
        };
        check_name(&database, config).await?;
        let federation = Federation::new(
            FederationConfig {
                extra_ca_certificates: config.federation.extra_ca_certificates.clone(),
                addresses: AddressPolicy {
                    allow_private: config.federation.allow_private_addresses,
                    blocked: config.federation.blocked_addresses.clone(),
                    allowed: config.federation.allowed_addresses.clone(),
                },
                trusted_key_servers: config.federation.trusted_key_servers.clone(),
                waits: Waits::default(),
            },
            env.clone(),
            database.clone(),
            Arc::new(keys),
        )?;
        let users = Users::open(
            UsersConfig {
                server_name: config.server_name.clone(),
                registration_enabled: config.registration.enabled,
                guests: config.registration.guests,
                shared_secret: config.registration.shared_secret.clone(),
                quotas: config.rate_limits.quotas(),
            },
            env.clone(),
            database.clone(),
            federation.clone(),
        )
        .await?;
        Ok(Self {
            database,
            federation,
            users,
        })
    }
}

/// A server that can be started.
#[derive(Debug)]
pub struct Server;

/// A server that works, and listens nowhere yet.
pub struct Assembled {
    env: Env,
    database: Database,
    users: Users,
    rooms: Rooms,
    api: Api,
}

/// A server that runs. It goes on until [`Running::stop`].
pub struct Running {
    env: Env,
    database: Database,
    users: Users,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts a server. It is ready when this returns.
    ///
    /// # Errors
    /// Any [`StartError`].
    pub async fn start(config: Config, env: Env) -> Result<Running, StartError> {
        let server = Self::assemble(&config, env).await?;
        let addresses = listen(&config, &server.api, &server.env).await?;
        server.start_workers();
        Ok(Running {
            env: server.env,
            database: server.database,
            users: server.users,
            addresses,
        })
    }

    /// Everything of [`Server::start`] but the ports and the work that is done again and again.
    ///
    /// # Errors
    /// Any [`StartError`].
    pub async fn assemble(config: &Config, env: Env) -> Result<Assembled, StartError> {
        let Parts {
            database,
            federation,
            users,
        } = Parts::open(config, &env).await?;
        let recorder = telemetry::recorder().filter(|_| config.metrics.enabled);
        let rooms = Rooms::start(
            RoomsConfig {
                server_name: config.server_name.clone(),
                default_room_version: config.default_room_version,
                allow_publishing: config.public_rooms.allow_publishing,
                presence: config.presence.enabled,
            },
            env.clone(),
            database.clone(),
            federation.clone(),
        )
        .await?;
        let api = Api::new(ApiParts {
            config: ApiConfig {
                default_room_version: config.default_room_version,
                public_base_url: config.public_base_url.clone(),
                trusted_proxies: config.trusted_proxies.clone(),
                metrics: recorder.map(
                    |recorder| -> Box<dyn Fn() -> String + Send + std::marker::Sync> {
                        Box::new(|| recorder.render())
                    },
                ),
            },
            env: env.clone(),
            sync: Sync::new(rooms.clone(), users.clone()),
            users: users.clone(),
            rooms: rooms.clone(),
            federation,
        });
        Ok(Assembled {
            env,
            database,
            users,
            rooms,
            api,
        })
    }
}

impl Assembled {
    /// Answers requests of clients and of other servers, wherever they come from.
    pub fn router(&self) -> Router {
        router(&self.api, true, true)
    }

    /// Begins with the work that is done again and again.
    pub fn start_workers(&self) {
        workers::start(&self.env, &self.database);
    }

    /// The server's database.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The server's users.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// The server's rooms.
    #[must_use]
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }
}

impl Running {
    /// Where it listens, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The server's users.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Waits until this process may not go on, because another one has taken its database; then says so.
    pub async fn lost(&self) -> StartError {
        StartError::Database(self.database.lost().await)
    }

    /// Takes no more requests, finishes what has begun within four seconds, and closes the database.
    pub async fn stop(self) {
        if let Err(still_running) = self.env.tasks.shutdown(STOP_GRACE).await {
            tracing::warn!(%still_running, "stopped before everything had ended");
        }
        tracing::debug!("closing the database");
        self.database.close().await;
        tracing::info!("stopped");
    }
}

/// The name stands in every event, key and user ID: it can't be changed afterwards.
async fn check_name(database: &Database, config: &Config) -> Result<(), StartError> {
    let configured = config.server_name.to_string();
    let name = configured.clone();
    let stored = database
        .write(
            "server_name",
            myelin_storage::Priority::Interactive,
            move |tx| {
                Box::pin(async move {
                    myelin_storage::rooms::setting_or(tx, "server_name", name.as_bytes()).await
                })
            },
        )
        .await
        .map_err(StartError::Database)?;
    if stored == configured.as_bytes() {
        return Ok(());
    }
    Err(StartError::OtherName {
        configured,
        stored: String::from_utf8_lossy(&stored).into_owned(),
    })
}

/// Opens all ports before any is served, so that a wrong one stops the start.
async fn listen(config: &Config, api: &Api, env: &Env) -> Result<Vec<SocketAddr>, StartError> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for listener in &config.listeners {
        let failed = |why| StartError::Listen {
            address: listener.address,
            why,
        };
        let tls = listener.tls.as_ref().map(tls::acceptor).transpose()?;
        let socket = TcpListener::bind(listener.address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        tracing::info!(%address, tls = tls.is_some(), "listening");
        addresses.push(address);
        listeners.push(Listener {
            socket,
            tls,
            router: router(api, listener.client, listener.federation),
            proxies: config.trusted_proxies.clone(),
        });
    }
    for listener in listeners {
        // It is tracked; nobody waits for it.
        drop(env.tasks.spawn("listener", listener.serve(env.clone())));
    }
    Ok(addresses)
}
