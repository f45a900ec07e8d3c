//! The keys of other servers: server-server API, "Retrieving server keys".

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use myelin_core::keys::{KeySet, ServerKey, verifying_key};
use myelin_env::Env;
use myelin_storage::{
    Database, Priority,
    server_keys::{self, KeyDocumentRow, ServerKeyRow},
};
use ruma::{
    CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
};

use crate::{
    SigningKeys, Urgency,
    attempts::Attempts,
    flight::{Flights, Landing},
    key_document::{KeyDocument, Published},
    key_fetch::KeyFetch,
    recent::Recent,
};

/// How many servers' keys are held in memory.
const CAPACITY: usize = 20_000;
/// How long requests that wait for a key leave a server alone at most: one that comes back must not be
/// shut out.
const INTERACTIVE_WAIT: Duration = Duration::from_secs(10);
/// A document that is larger is used, and not kept to be passed on: as a notary this server keeps those of
/// whichever servers strangers name.
const LARGEST_KEPT_DOCUMENT: usize = 16 * 1024;

/// A key that something was signed with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyNeed {
    /// Whose key.
    pub server: OwnedServerName,
    /// Which of them.
    pub key_id: OwnedServerSigningKeyId,
    /// When it was signed (Unix milliseconds); the key must have been valid then. 0 for events of
    /// room versions 1 to 4, where validity doesn't count.
    pub at_ms: u64,
}

/// Knows or finds the keys of other servers. Clones share everything.
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    env: Env,
    database: Database,
    own: Arc<SigningKeys>,
    fetch: KeyFetch,
    memory: Mutex<Memory>,
    flights: Flights<OwnedServerName>,
}

struct Memory {
    /// Everything the database has of a server.
    keys: Recent<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, Known>>,
    attempts: Attempts,
}

#[derive(Clone, Copy)]
struct Known {
    key: ServerKey,
    document_ms: u64,
}

/// A server to be asked, the keys that are wanted of it, and who wait for them.
pub(crate) struct Wanted {
    pub(crate) server: OwnedServerName,
    /// With the last moment at which they must be valid.
    pub(crate) keys: BTreeMap<OwnedServerSigningKeyId, u64>,
    landing: Landing<OwnedServerName>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyRing").finish_non_exhaustive()
    }
}

impl KeyRing {
    pub(crate) fn new(
        env: Env,
        database: Database,
        own: Arc<SigningKeys>,
        fetch: KeyFetch,
    ) -> Self {
        Self(Arc::new(Ring {
            env,
            database,
            own,
            fetch,
            memory: Mutex::new(Memory {
                keys: Recent::new(CAPACITY),
                attempts: Attempts::new(),
            }),
            flights: Flights::default(),
        }))
    }

    /// Finds keys: in memory, in the database, then from their servers and notaries, which are
    /// asked once however many want the same, and not again soon if they had no answer. Returns
    /// what was found within `deadline`; what comes later is remembered for the next time. Failures
    /// mean absence, and are in the log.
    pub async fn keys_for(&self, needs: &[KeyNeed], deadline: Duration) -> KeySet {
        self.find(needs, deadline, Urgency::Background).await
    }

    pub(crate) async fn find(
        &self,
        needs: &[KeyNeed],
        deadline: Duration,
        urgency: Urgency,
    ) -> KeySet {
        let mut found = KeySet::default();
        let mut missing = self.look_up(needs.to_vec(), &mut found);
        if missing.is_empty() {
            return found;
        }
        self.load(&missing).await;
        missing = self.look_up(missing, &mut found);
        let finding = self.fetch(&missing, urgency);
        if self.0.env.clock.timeout(deadline, finding).await.is_err() {
            tracing::debug!(missing = missing.len(), "out of time looking for keys");
        }
        self.look_up(missing, &mut found);
        found
    }

    /// Moves what is in memory to `found`; returns what is not there, or not valid long enough.
    fn look_up(&self, needs: Vec<KeyNeed>, found: &mut KeySet) -> Vec<KeyNeed> {
        let mut memory = self.lock();
        let mut missing = Vec::new();
        for need in needs {
            let key = match self.own(&need) {
                Some(own) => Some(own),
                None => {
                    let known = memory.keys.get(&need.server);
                    known.and_then(|known| known.get(&need.key_id).map(|known| known.key))
                }
            };
            match key {
                Some(key) if need.at_ms <= key.valid_until_ms => {
                    found.insert(need.server, need.key_id, key);
                }
                // Old enough to count for other things signed by it.
                Some(key) => {
                    found.insert(need.server.clone(), need.key_id.clone(), key);
                    missing.push(need);
                }
                None => missing.push(need),
            }
        }
        missing
    }

    fn own(&self, need: &KeyNeed) -> Option<ServerKey> {
        let own = &self.0.own;
        if need.server != own.server_name() {
            return None;
        }
        let current = own.pairs().find(|pair| pair.key_id() == need.key_id);
        let current = current.map(|pair| ServerKey {
            key: pair.verifying_key(),
            valid_until_ms: u64::MAX,
        });
        let old = || own.old().iter().find(|old| old.key_id == need.key_id);
        current.or_else(|| {
            old().map(|old| ServerKey {
                key: old.key,
                valid_until_ms: old.expired_ms,
            })
        })
    }

    /// Reads what the database has of servers that memory has nothing of.
    async fn load(&self, needs: &[KeyNeed]) {
        let servers: BTreeSet<&OwnedServerName> = {
            let mut memory = self.lock();
            let absent = |server: &&OwnedServerName| memory.keys.get(*server).is_none();
            needs
                .iter()
                .map(|need| &need.server)
                .filter(absent)
                .collect()
        };
        if servers.is_empty() {
            return;
        }
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let rows = self
            .0
            .database
            .look_up("server keys", move |tx| {
                Box::pin(async move { server_keys::of_servers(tx, &names).await })
            })
            .await;
        let rows = rows.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read the keys of servers");
            Vec::new()
        });
        let mut memory = self.lock();
        for row in rows {
            let Some((server, published)) = believe(&row) else {
                tracing::error!(
                    server = row.server,
                    key = row.key_id,
                    "stored key is corrupt"
                );
                continue;
            };
            memory.learn(server, published);
        }
    }

    /// Asks the network, in tasks of its own, and waits for them.
    async fn fetch(&self, needs: &[KeyNeed], urgency: Urgency) {
        let mut arrivals = Vec::new();
        let mut wanted: BTreeMap<&ServerName, Wanted> = BTreeMap::new();
        for need in needs {
            if let Some(wanted) = wanted.get_mut(&*need.server) {
                wanted.want(need);
                continue;
            }
            if need.server == self.0.own.server_name() || !self.may_ask(&need.server, urgency) {
                continue;
            }
            let (arrival, landing) = self.0.flights.join(&need.server);
            arrivals.push(arrival.wait());
            if let Some(landing) = landing {
                let mut new = Wanted {
                    server: need.server.clone(),
                    keys: BTreeMap::new(),
                    landing,
                };
                new.want(need);
                wanted.insert(&need.server, new);
            }
        }
        let wanted: Vec<Wanted> = wanted.into_values().collect();
        if !wanted.is_empty() {
            let ring = self.clone();
            self.0.env.tasks.spawn("fetch server keys", async move {
                let stopping = ring.0.env.tasks.stopping();
                let fetching = ring.0.fetch.run(&ring, wanted, urgency);
                stopping.run_until_cancelled(fetching).await;
            });
        }
        join_all(arrivals).await;
    }

    fn may_ask(&self, server: &ServerName, urgency: Urgency) -> bool {
        let longest = match urgency {
            Urgency::Interactive => INTERACTIVE_WAIT,
            Urgency::Background => Duration::MAX,
        };
        let now_ms = self.0.env.clock.now_ms();
        self.lock().attempts.may_ask(server, now_ms, longest)
    }

    /// Asks a server for its keys, and nobody else. Whether it had an answer, as far as can be told.
    pub(crate) async fn ask_origin(&self, server: &ServerName) -> bool {
        self.0.fetch.ask_origin(self, server).await
    }

    /// How many wait for a server's own answer.
    #[cfg(test)]
    pub(crate) fn asking(&self, server: &ServerName) -> usize {
        self.0.fetch.joined(server)
    }

    /// Takes in documents that were verified.
    pub(crate) async fn accept(&self, documents: Vec<KeyDocument>) {
        if documents.is_empty() {
            return;
        }
        let now_ms = self.0.env.clock.now_ms();
        let mut keys = Vec::new();
        {
            let mut memory = self.lock();
            for document in &documents {
                for published in document.published(now_ms) {
                    keys.push(store(&document.server, &published));
                    memory.learn(document.server.clone(), published);
                }
            }
        }
        let documents: Vec<KeyDocumentRow> = documents
            .iter()
            .filter_map(|document| keep(document, now_ms))
            .collect();
        let written = self.0.database.write("server keys", Priority::Bulk, |tx| {
            Box::pin(async move {
                server_keys::put(tx, &keys).await?;
                server_keys::put_documents(tx, &documents).await
            })
        });
        // They are in memory, so this process can go on without.
        if let Err(error) = written.await {
            tracing::error!(%error, "cannot store the keys of servers");
        }
    }

    /// Ends the waits for those of `wanted` that are there now. Returns the others.
    pub(crate) fn settle(&self, wanted: Vec<Wanted>) -> Vec<Wanted> {
        let now_ms = self.0.env.clock.now_ms();
        let mut left = Vec::new();
        for wanted in wanted {
            if self.has_all(&wanted.server, &wanted.keys) {
                self.lock().attempts.succeeded(wanted.server, now_ms);
                drop(wanted.landing);
            } else {
                left.push(wanted);
            }
        }
        left
    }

    /// Gives up on servers for a while.
    pub(crate) fn give_up(&self, wanted: Vec<Wanted>) {
        let now_ms = self.0.env.clock.now_ms();
        for wanted in wanted {
            let server = wanted.server;
            let wait = self.lock().attempts.failed(server.clone(), now_ms);
            tracing::debug!(%server, ?wait, "its keys are not to be had");
            drop(wanted.landing);
        }
    }

    fn has_all(&self, server: &ServerName, keys: &BTreeMap<OwnedServerSigningKeyId, u64>) -> bool {
        let mut memory = self.lock();
        let known = memory.keys.get(server);
        known.is_some_and(|known| {
            let has = |(key_id, at_ms): (&OwnedServerSigningKeyId, &u64)| {
                let known = known.get(key_id);
                known.is_some_and(|known| *at_ms <= known.key.valid_until_ms)
            };
            keys.iter().all(has)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Whole at every point a panic could strike.
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// An older document must not bring back what a newer one ended.
    fn learn(&mut self, server: OwnedServerName, published: Published) {
        let known = Known {
            key: published.key,
            document_ms: published.document_ms,
        };
        match self.keys.get(&server) {
            Some(keys) => {
                let newest = keys
                    .get(&published.key_id)
                    .is_none_or(|before| before.document_ms <= known.document_ms);
                if newest {
                    keys.insert(published.key_id, known);
                }
            }
            None => {
                let keys = BTreeMap::from([(published.key_id, known)]);
                self.keys.insert(server, keys);
            }
        }
    }
}

impl Wanted {
    fn want(&mut self, need: &KeyNeed) {
        let at_ms = self.keys.entry(need.key_id.clone()).or_default();
        *at_ms = need.at_ms.max(*at_ms);
    }
}

fn store(server: &ServerName, published: &Published) -> ServerKeyRow {
    ServerKeyRow {
        server: server.to_string(),
        key_id: published.key_id.to_string(),
        public_key: published.key.key.to_bytes().to_vec(),
        valid_until_ms: published.key.valid_until_ms,
        document_ms: published.document_ms,
    }
}

fn keep(document: &KeyDocument, heard_ms: u64) -> Option<KeyDocumentRow> {
    let signed = CanonicalJsonValue::Object(document.as_signed_by_its_server()).to_string();
    (signed.len() <= LARGEST_KEPT_DOCUMENT).then(|| KeyDocumentRow {
        server: document.server.to_string(),
        document_ms: document.valid_until_ms(heard_ms),
        heard_ms,
        document: signed,
    })
}

fn believe(row: &ServerKeyRow) -> Option<(OwnedServerName, Published)> {
    let published = Published {
        key_id: <&ServerSigningKeyId>::try_from(row.key_id.as_str())
            .ok()?
            .to_owned(),
        key: ServerKey {
            key: verifying_key(&row.public_key).ok()?,
            valid_until_ms: row.valid_until_ms,
        },
        document_ms: row.document_ms,
    };
    Some((row.server.as_str().try_into().ok()?, published))
}

#[cfg(test)]
mod tests;
