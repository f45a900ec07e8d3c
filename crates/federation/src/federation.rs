//! The way to other servers, put together.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use myelin_core::keys::KeySet;
use myelin_env::Env;
use myelin_storage::{
    Database, StorageError,
    destinations::{Destination, DestinationsWanted},
};
use ruma::{OwnedServerName, ServerName};

use crate::{
    AddressPolicy, KeyNeed, KeyRing, Notary, Resolver, SetupError, SigningKeys, SystemResolver,
    Urgency, Waits,
    connector::Connector,
    destinations::Destinations,
    discovery::Discovery,
    http_client::HttpClient,
    key_fetch::KeyFetch,
    tls,
    transport::Transport,
    well_known::{HTTPS_PORT, WellKnown},
};

/// What an operator can decide about requests to other servers.
#[derive(Clone, Debug, Default)]
pub struct FederationConfig {
    /// PEM files with certificates to be believed beside the platform's roots.
    pub extra_ca_certificates: Vec<PathBuf>,
    /// Which addresses to connect to.
    pub addresses: AddressPolicy,
    /// Notaries: servers that are believed about the keys of others.
    pub trusted_key_servers: Vec<OwnedServerName>,
    /// How long failing servers are left alone.
    pub waits: Waits,
}

/// Sends requests to other servers, and checks who sent theirs. Clones share connections, caches
/// and memory of failures.
#[derive(Clone)]
pub struct Federation {
    inner: Arc<Inner>,
    /// In place of what is usual for each request.
    urgency: Option<Urgency>,
    timeout: Option<Duration>,
}

/// Where names lead.
pub(crate) struct Names {
    pub(crate) resolver: Arc<dyn Resolver>,
    /// Where `.well-known` is.
    pub(crate) https_port: u16,
}

struct Inner {
    env: Env,
    keys: Arc<SigningKeys>,
    transport: Transport,
    destinations: Destinations,
    key_ring: KeyRing,
    notary: Notary,
}

impl fmt::Debug for Federation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Federation")
            .field("server_name", &self.server_name())
            .finish_non_exhaustive()
    }
}

impl Federation {
    /// Sets everything up; sends nothing.
    ///
    /// # Errors
    /// [`SetupError`] if certificates can't be read.
    pub fn new(
        config: FederationConfig,
        env: Env,
        database: Database,
        keys: Arc<SigningKeys>,
    ) -> Result<Self, SetupError> {
        let resolver = Arc::new(SystemResolver::default());
        Self::with_resolver(config, env, database, keys, resolver)
    }

    /// Like [`Federation::new`], with names resolved elsewhere than by the system.
    ///
    /// # Errors
    /// [`SetupError`] if certificates can't be read.
    pub fn with_resolver(
        config: FederationConfig,
        env: Env,
        database: Database,
        keys: Arc<SigningKeys>,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self, SetupError> {
        let names = Names {
            resolver,
            https_port: HTTPS_PORT,
        };
        Self::assemble(config, env, database, keys, names)
    }

    pub(crate) fn assemble(
        config: FederationConfig,
        env: Env,
        database: Database,
        keys: Arc<SigningKeys>,
        names: Names,
    ) -> Result<Self, SetupError> {
        let tls = if env.network.is_within_process() {
            None
        } else {
            Some(Arc::new(tls::client_config(&config.extra_ca_certificates)?))
        };
        let http = HttpClient::new(Connector {
            env: env.clone(),
            discovery: Discovery::new(names.resolver, env.random.clone()),
            tls,
            addresses: config.addresses,
        });
        let transport = Transport {
            clock: env.clock.clone(),
            well_known: WellKnown::new(env.clone(), http.clone(), names.https_port),
            http,
        };
        let mut notaries = config.trusted_key_servers;
        notaries.retain(|notary| *notary != keys.server_name());
        let fetch = KeyFetch::new(env.clone(), transport.clone(), notaries);
        let key_ring = KeyRing::new(env.clone(), database.clone(), Arc::clone(&keys), fetch);
        let notary = Notary::new(
            env.clone(),
            database.clone(),
            Arc::clone(&keys),
            key_ring.clone(),
        );
        let inner = Inner {
            destinations: Destinations::new(env.clone(), database, config.waits),
            env,
            keys,
            transport,
            key_ring,
            notary,
        };
        Ok(Self {
            inner: Arc::new(inner),
            urgency: None,
            timeout: None,
        })
    }

    /// The same with another urgency for all requests. By itself, what a person waits for (join,
    /// leave, knock, invite, directory, profile) is [`Urgency::Interactive`] and the rest is
    /// [`Urgency::Background`].
    #[must_use]
    pub fn with_urgency(&self, urgency: Urgency) -> Self {
        let urgency = Some(urgency);
        Self {
            urgency,
            ..self.clone()
        }
    }

    /// The same with another time limit for each request, in place of 60 seconds, or 10 minutes for
    /// `send_join`, `state`, `state_ids` and `event_auth`. While a stream is read, only waiting counts.
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Self {
        let timeout = Some(timeout);
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// The name of this server.
    #[must_use]
    pub fn server_name(&self) -> &ServerName {
        self.inner.keys.server_name()
    }

    /// The keys this server signs with.
    #[must_use]
    pub fn signing_keys(&self) -> &Arc<SigningKeys> {
        &self.inner.keys
    }

    /// The keys of other servers.
    #[must_use]
    pub fn key_ring(&self) -> &KeyRing {
        &self.inner.key_ring
    }

    /// What this server says of the keys of others.
    #[must_use]
    pub fn notary(&self) -> &Notary {
        &self.inner.notary
    }

    /// See [`KeyRing::keys_for`].
    pub async fn keys_for(&self, needs: &[KeyNeed], deadline: Duration) -> KeySet {
        self.inner.key_ring.keys_for(needs, deadline).await
    }

    /// Notes that a server sent a request, so that it is there, whatever was thought of it before
    /// (R134).
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn mark_alive(&self, server: &ServerName) -> Result<(), StorageError> {
        self.inner.destinations.succeeded(server).await
    }

    /// Part of the list of servers to which requests have failed, lately or long ago, and how many it has in
    /// all.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn destination_list(
        &self,
        wanted: DestinationsWanted,
    ) -> Result<(Vec<Destination>, u64), StorageError> {
        self.inner.destinations.list(wanted).await
    }

    /// One of these servers.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn destination(
        &self,
        server: &ServerName,
    ) -> Result<Option<Destination>, StorageError> {
        self.inner.destinations.by_name(server).await
    }

    /// Waits until a server may be asked in the background: until [`Federation::backoff`] is over, or
    /// until it shows that it is there by a request or an answer.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn until_due(&self, server: &ServerName) -> Result<(), StorageError> {
        self.inner.destinations.until_due(server).await
    }

    /// Until when (Unix milliseconds) a server is left alone; `None` if it may be asked now.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn backoff(&self, server: &ServerName) -> Result<Option<u64>, StorageError> {
        let failing = self.inner.destinations.failing(server).await?;
        let until_ms = failing.map(|failing| failing.retry_at_ms);
        Ok(until_ms.filter(|until_ms| self.inner.env.clock.now_ms() < *until_ms))
    }

    pub(crate) fn env(&self) -> &Env {
        &self.inner.env
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    pub(crate) fn destinations(&self) -> &Destinations {
        &self.inner.destinations
    }

    pub(crate) fn urgency_of(&self, usual: Urgency) -> Urgency {
        self.urgency.unwrap_or(usual)
    }

    pub(crate) fn timeout_of(&self, usual: Duration) -> Duration {
        self.timeout.unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests;
