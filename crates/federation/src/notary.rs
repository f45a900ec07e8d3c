//! As a notary: the keys of other servers, with this server's word that it heard them (server-server API,
//! "Querying Keys Through Another Server").
//!
//! Anybody may ask. So the servers themselves are asked and never other notaries: two that trust each
//! other would wait for one another. And what comes of it is kept apart from what this server remembers of
//! its own attempts, or strangers could keep it from finding a key that it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use myelin_env::Env;
use myelin_storage::{
    Database, StorageError,
    server_keys::{self, KeyDocumentRow},
};
use ruma::{CanonicalJsonObject, OwnedServerName, OwnedServerSigningKeyId, ServerName};
use tokio::sync::Semaphore;

use crate::{KeyRing, SigningKeys, attempts::Attempts, key_document::KeyDocument};

/// How many servers one query is answered about. Of more nothing is said, as of those that can't be reached.
const MOST_SERVERS: usize = 250;
/// For how many queries servers are asked at once, and how long one waits for its turn; then it is answered
/// with what is known.
const QUERIES_AT_ONCE: usize = 16;
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many servers are asked at once for one query, and after how long no more are.
const SERVERS_AT_ONCE: usize = 16;
const ASKING_TIMEOUT: Duration = Duration::from_secs(10);
/// However often it failed before.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What is asked about a server's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyQuery {
    /// Whose keys.
    pub server: OwnedServerName,
    /// Which of them, and how new.
    pub wanted: Vec<KeyCriterion>,
}

/// A key that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCriterion {
    /// `None`: whichever there are.
    pub key_id: Option<OwnedServerSigningKeyId>,
    /// Until when (Unix milliseconds) what is said about it should be valid. `None`: for a good while yet.
    pub minimum_valid_until_ms: Option<u64>,
}

/// Says what the keys of other servers are. Clones share everything.
#[derive(Clone)]
pub struct Notary(Arc<Inner>);

struct Inner {
    env: Env,
    database: Database,
    own: Arc<SigningKeys>,
    ring: KeyRing,
    attempts: Mutex<Attempts>,
    turns: Arc<Semaphore>,
}

/// A document that is known.
struct Held {
    document: KeyDocument,
    valid_until_ms: u64,
    heard_ms: u64,
}

impl fmt::Debug for Notary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Notary").finish_non_exhaustive()
    }
}

impl Notary {
    pub(crate) fn new(env: Env, database: Database, own: Arc<SigningKeys>, ring: KeyRing) -> Self {
        Self(Arc::new(Inner {
            env,
            database,
            own,
            ring,
            attempts: Mutex::new(Attempts::new()),
            turns: Arc::new(Semaphore::new(QUERIES_AT_ONCE)),
        }))
    }

    /// The documents in which the wanted keys are published, signed by their servers and by this one: the
    /// newest that are known. If they are not new enough their servers are asked first, but none too
    /// often. What can't be had is left out.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn answer(
        &self,
        mut queries: Vec<KeyQuery>,
    ) -> Result<Vec<CanonicalJsonObject>, StorageError> {
        queries.truncate(MOST_SERVERS);
        let mut answer = Vec::new();
        let now_ms = self.0.env.clock.now_ms();
        let is_own = |query: &KeyQuery| query.server == self.0.own.server_name();
        if queries.iter().any(is_own) {
            answer.push(self.0.own.document(now_ms));
            queries.retain(|query| !is_own(query));
        }
        let mut known = self.load(queries.iter()).await?;
        let mut outdated = queries.clone();
        outdated.retain(|query| {
            let held = known.get(&query.server);
            !held.is_some_and(|held| is_answered(query, held, now_ms))
        });
        if !outdated.is_empty() {
            self.ask(outdated.iter().map(|query| query.server.clone()).collect())
                .await;
            known.extend(self.load(outdated.iter()).await?);
        }
        for query in &queries {
            let held = known.remove(&query.server).unwrap_or_default();
            let named: BTreeSet<usize> = query
                .wanted
                .iter()
                .filter_map(|w| newest(w, &held))
                .collect();
            let named = held
                .iter()
                .enumerate()
                .filter(|(index, _)| named.contains(index));
            answer.extend(named.filter_map(|(_, held)| self.sign(&held.document)));
        }
        Ok(answer)
    }

    /// What is known of servers, the newest of each first.
    async fn load(
        &self,
        queries: impl Iterator<Item = &KeyQuery>,
    ) -> Result<BTreeMap<OwnedServerName, Vec<Held>>, StorageError> {
        let names: Vec<String> = queries.map(|query| query.server.to_string()).collect();
        let rows = self.0.database.look_up("key documents", move |tx| {
            Box::pin(async move { server_keys::documents_of_servers(tx, &names).await })
        });
        let mut known = BTreeMap::<OwnedServerName, Vec<Held>>::new();
        for row in rows.await? {
            match Held::read(&row) {
                Some(held) => known
                    .entry(held.document.server.clone())
                    .or_default()
                    .push(held),
                None => tell_corrupt(&row.server),
            }
        }
        Ok(known)
    }

    /// Asks servers for their keys, as far as they may be asked, and waits for it for a bounded time.
    async fn ask(&self, servers: Vec<OwnedServerName>) {
        let clock = &self.0.env.clock;
        let turn = Arc::clone(&self.0.turns).acquire_owned();
        let Ok(Ok(turn)) = clock.timeout(TURN_TIMEOUT, turn).await else {
            return;
        };
        // A task, since others may wait for the same answers when whoever asked goes away.
        let (notary, stopping) = (self.clone(), self.0.env.tasks.stopping());
        let asking = self
            .0
            .env
            .tasks
            .spawn("ask servers as a notary", async move {
                let _turn = turn;
                stopping.run_until_cancelled(notary.ask_all(&servers)).await;
            });
        // If it failed, that stands in the log, and what is known has to do.
        let _ = asking.await;
    }

    async fn ask_all(&self, servers: &[OwnedServerName]) {
        let clock = &self.0.env.clock;
        let begun = clock.instant();
        for servers in servers.chunks(SERVERS_AT_ONCE) {
            if begun.elapsed(clock) >= ASKING_TIMEOUT {
                return;
            }
            join_all(servers.iter().map(|server| self.ask_one(server))).await;
        }
    }

    async fn ask_one(&self, server: &ServerName) {
        let now_ms = self.0.env.clock.now_ms();
        if !self.attempts().may_ask(server, now_ms, LONGEST_WAIT) {
            return;
        }
        let has_answered = self.0.ring.ask_origin(server).await;
        let (mut attempts, now_ms) = (self.attempts(), self.0.env.clock.now_ms());
        if has_answered {
            attempts.succeeded(server.to_owned(), now_ms);
        } else {
            attempts.failed(server.to_owned(), now_ms);
        }
    }

    /// A document with this server's signature. `None` if there is no place for it: that was verified before it
    /// was stored, so what is stored is not what it was.
    fn sign(&self, document: &KeyDocument) -> Option<CanonicalJsonObject> {
        let mut object = document.as_signed_by_its_server();
        let signed = self.0.own.sign_json(&mut object);
        signed
            .inspect_err(|_| tell_corrupt(document.server.as_str()))
            .ok()?;
        Some(object)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        // Whole at every point a panic could strike.
        let attempts = self.0.attempts.lock();
        attempts.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn read(row: &KeyDocumentRow) -> Option<Self> {
        let object = serde_json::from_str(&row.document).ok()?;
        Some(Self {
            document: KeyDocument::parse(object).ok()?,
            valid_until_ms: row.document_ms,
            heard_ms: row.heard_ms,
        })
    }

    /// Whether it has what is wanted.
    fn has(&self, wanted: &KeyCriterion) -> bool {
        let key_id = wanted.key_id.as_ref();
        key_id.is_none_or(|key_id| self.document.has(key_id))
    }

    /// Whether its server need not be asked again. By itself that is so for the first half of the time for
    /// which it is valid, so that who gets it can rely on it for a while.
    fn is_new_enough(&self, minimum_ms: Option<u64>, now_ms: u64) -> bool {
        match minimum_ms {
            Some(minimum_ms) => minimum_ms <= self.valid_until_ms,
            None => now_ms <= self.heard_ms.midpoint(self.valid_until_ms),
        }
    }
}

fn tell_corrupt(server: &str) {
    tracing::error!(server, "stored key document is corrupt");
}

/// The newest document with a key.
fn newest(wanted: &KeyCriterion, held: &[Held]) -> Option<usize> {
    held.iter().position(|held| held.has(wanted))
}

fn is_answered(query: &KeyQuery, held: &[Held], now_ms: u64) -> bool {
    query.wanted.iter().all(|wanted| {
        let newest = newest(wanted, held);
        newest.is_some_and(|index| held[index].is_new_enough(wanted.minimum_valid_until_ms, now_ms))
    })
}

#[cfg(test)]
mod tests;
