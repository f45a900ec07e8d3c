//! Whom to ask for keys: their servers, or notaries that have asked them before.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::Method;
use myelin_core::keys::KeySet;
use myelin_env::Env;
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use serde_json::{json, value::RawValue};
use tokio::sync::Semaphore;

use crate::{
    Urgency,
    error::FederationError,
    flight::Flights,
    key_document::KeyDocument,
    key_ring::{KeyRing, Wanted},
    transport::{Call, Transport},
};

/// From how many servers on notaries are asked first.
const MANY: usize = 10;
/// How many servers' keys are asked of a notary at once, and how many such questions wait.
const BATCH: usize = 100;
const BATCHES: usize = 8;
/// How many servers are asked at once.
const AT_ONCE: usize = 64;
/// For one server, and for one batch.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);
/// A document has a few keys; a batch some documents of each server.
const LARGEST_DOCUMENT: usize = 64 * 1024;
const LARGEST_BATCH: usize = 16 * 1024 * 1024;
/// How long a notary's own keys are used before they are asked for again.
const NOTARY_KEYS_PERIOD: Duration = Duration::from_secs(3600);

/// Asks for keys.
pub(crate) struct KeyFetch {
    env: Env,
    transport: Transport,
    notaries: Vec<OwnedServerName>,
    /// Requests that wait for keys have places of their own, so that a large join doesn't stop them.
    background: Semaphore,
    interactive: Semaphore,
    /// Servers that are being asked.
    asked: Flights<OwnedServerName>,
    /// Notaries' own keys, and when they were heard.
    notary_keys: Mutex<BTreeMap<OwnedServerName, (Arc<KeySet>, u64)>>,
}

impl KeyFetch {
    pub(crate) fn new(env: Env, transport: Transport, notaries: Vec<OwnedServerName>) -> Self {
        Self {
            env,
            transport,
            notaries,
            background: Semaphore::new(AT_ONCE),
            interactive: Semaphore::new(AT_ONCE / 2),
            asked: Flights::default(),
            notary_keys: Mutex::default(),
        }
    }

    /// Finds what is wanted, as far as it can be found. One server is asked directly, because what it
    /// says itself is newest; for many, notaries are much faster, and dead servers cost nothing.
    pub(crate) async fn run(&self, ring: &KeyRing, wanted: Vec<Wanted>, urgency: Urgency) {
        let left = if wanted.len() >= MANY && !self.notaries.is_empty() {
            let left = self.ask_notaries(ring, wanted).await;
            self.ask_servers(ring, left, urgency).await
        } else {
            let left = self.ask_servers(ring, wanted, urgency).await;
            self.ask_notaries(ring, left).await
        };
        ring.give_up(left);
    }

    async fn ask_servers(
        &self,
        ring: &KeyRing,
        wanted: Vec<Wanted>,
        urgency: Urgency,
    ) -> Vec<Wanted> {
        let places = match urgency {
            Urgency::Interactive => &self.interactive,
            Urgency::Background => &self.background,
        };
        let asking = stream::iter(wanted).map(|wanted| async move {
            // Never closed; and one too many would do no harm.
            let _place = places.acquire().await.ok();
            self.ask_origin(ring, &wanted.server).await;
            ring.settle(vec![wanted])
        });
        asking.buffer_unordered(AT_ONCE).concat().await
    }

    /// Asks a server for its own keys and takes them in; who comes while that goes on waits for the same
    /// answer. Whether there was one, as far as this caller knows.
    pub(crate) async fn ask_origin(&self, ring: &KeyRing, server: &ServerName) -> bool {
        let (arrival, landing) = self.asked.join(&server.to_owned());
        let Some(_landing) = landing else {
            arrival.wait().await;
            return true;
        };
        match self.ask_server(server).await {
            Ok(document) => {
                ring.accept(vec![document]).await;
                true
            }
            Err(error) => {
                tracing::debug!(%server, %error, "no keys from it");
                false
            }
        }
    }

    /// How many wait for a server's own answer.
    #[cfg(test)]
    pub(crate) fn joined(&self, server: &ServerName) -> usize {
        self.asked.joined(&server.to_owned())
    }

    /// A server's own document, verified.
    async fn ask_server(&self, server: &ServerName) -> Result<KeyDocument, FederationError> {
        let call = Call {
            endpoint: "key_server",
            method: Method::GET,
            target: "/_matrix/key/v2/server".to_owned(),
            body: None,
            authorization: None,
            timeout: SERVER_TIMEOUT,
        };
        let fetching = self.transport.fetch(server, call, LARGEST_DOCUMENT);
        let document = parse(&fetching.await?)?;
        document.verify(server).map_err(invalid)?;
        Ok(document)
    }

    async fn ask_notaries(&self, ring: &KeyRing, mut wanted: Vec<Wanted>) -> Vec<Wanted> {
        for notary in &self.notaries {
            if wanted.is_empty() {
                break;
            }
            let keys = match self.keys_of_notary(notary).await {
                Ok(keys) => keys,
                Err(error) => {
                    tracing::warn!(%notary, %error, "a trusted key server has no keys itself");
                    continue;
                }
            };
            let mut batches = Vec::new();
            while !wanted.is_empty() {
                let rest = wanted.split_off(wanted.len().min(BATCH));
                batches.push(std::mem::replace(&mut wanted, rest));
            }
            let asking = stream::iter(batches).map(|batch| {
                let keys = Arc::clone(&keys);
                async move {
                    match self.ask_notary(notary, &keys, &batch).await {
                        Ok(documents) => {
                            ring.accept(documents).await;
                            ring.settle(batch)
                        }
                        Err(error) => {
                            tracing::warn!(%notary, %error, "a trusted key server gave no answer");
                            batch
                        }
                    }
                }
            });
            wanted = asking.buffer_unordered(BATCHES).concat().await;
        }
        wanted
    }

    async fn keys_of_notary(&self, notary: &ServerName) -> Result<Arc<KeySet>, FederationError> {
        let now_ms = self.env.clock.now_ms();
        if let Some((keys, heard_ms)) = self.lock_notary_keys().get(notary) {
            let age = Duration::from_millis(now_ms.saturating_sub(*heard_ms));
            if age < NOTARY_KEYS_PERIOD {
                return Ok(Arc::clone(keys));
            }
        }
        let document = self.ask_server(notary).await?;
        let mut keys = KeySet::default();
        for published in document.published(now_ms) {
            keys.insert(notary.to_owned(), published.key_id, published.key);
        }
        let keys = Arc::new(keys);
        let entry = (Arc::clone(&keys), now_ms);
        self.lock_notary_keys().insert(notary.to_owned(), entry);
        Ok(keys)
    }

    /// A notary's documents about the wanted servers, verified both as the notary's word and as the
    /// servers' own. Bad ones are left out.
    async fn ask_notary(
        &self,
        notary: &ServerName,
        keys: &KeySet,
        batch: &[Wanted],
    ) -> Result<Vec<KeyDocument>, FederationError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            server_keys: Vec<Box<RawValue>>,
        }
        let now_ms = self.env.clock.now_ms();
        let call = Call {
            endpoint: "key_query",
            method: Method::POST,
            target: "/_matrix/key/v2/query".to_owned(),
            body: Some(query(batch, now_ms)),
            authorization: None,
            timeout: BATCH_TIMEOUT,
        };
        let answer = self.transport.fetch(notary, call, LARGEST_BATCH).await?;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|error| FederationError::InvalidAnswer(error.to_string()))?;
        let believed = |document: &KeyDocument| {
            let asked = batch.iter().any(|wanted| wanted.server == document.server);
            let verified = document
                .verify_notary(notary, keys, now_ms)
                .and_then(|()| document.verify(&document.server));
            if let Err(error) = &verified {
                tracing::warn!(%notary, server = %document.server, %error, "bad key document");
            }
            asked && verified.is_ok()
        };
        let documents = answer.server_keys.iter();
        Ok(documents
            .filter_map(|raw| parse(raw.get().as_bytes()).ok())
            .filter(believed)
            .collect())
    }

    fn lock_notary_keys(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<OwnedServerName, (Arc<KeySet>, u64)>> {
        // Whole at every point a panic could strike.
        self.notary_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a notary query.
fn query(batch: &[Wanted], now_ms: u64) -> Bytes {
    let servers = batch.iter().map(|wanted| {
        let keys = wanted.keys.iter().map(|(key_id, at_ms)| {
            // What was signed in the future can't be asked for; today's keys may do later.
            let at_ms = (*at_ms).min(now_ms);
            (key_id.to_string(), json!({"minimum_valid_until_ts": at_ms}))
        });
        let keys: serde_json::Map<_, _> = keys.collect();
        (wanted.server.to_string(), keys.into())
    });
    let servers: serde_json::Map<String, serde_json::Value> = servers.collect();
    Bytes::from(json!({"server_keys": servers}).to_string())
}

fn parse(bytes: &[u8]) -> Result<KeyDocument, FederationError> {
    let object: CanonicalJsonObject = serde_json::from_slice(bytes)
        .map_err(|error| FederationError::InvalidAnswer(error.to_string()))?;
    KeyDocument::parse(object).map_err(invalid)
}

fn invalid(error: crate::key_document::DocumentError) -> FederationError {
    FederationError::InvalidAnswer(format!("key document: {error}"))
}
