//! What a server has promised: a transaction that it acknowledged is written down, however it ends (R36).

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use hyper::StatusCode;
use myelin_api::Peer;
use myelin_server::Assembled;
use myelin_storage::staged;
use ruma::OwnedServerName;

/// Where transactions go.
const SEND: &str = "/_matrix/federation/v1/send/";

/// The transactions that a server has acknowledged since it was started. Clones share them.
#[derive(Clone, Default)]
pub struct Promises(Arc<Mutex<Vec<(OwnedServerName, String)>>>);

/// What is answered to a transaction of which nothing is promised: no event in it was one to be judged.
const NOTHING: &[u8] = br#"{"pdus":{}}"#;

/// Answers a request, and remembers which transaction that acknowledges.
pub async fn remember(State(promises): State<Promises>, request: Request, next: Next) -> Response {
    let id = request.uri().path().strip_prefix(SEND).map(str::to_owned);
    // Servers are called by their addresses.
    let origin = request
        .extensions()
        .get::<Peer>()
        .map(|peer| peer.0.to_string());
    let origin = origin.and_then(|origin| OwnedServerName::try_from(origin).ok());
    let response = next.run(request).await;
    let (Some(id), Some(origin)) = (id, origin) else {
        return response;
    };
    let (parts, body) = response.into_parts();
    // It is in memory already.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if parts.status == StatusCode::OK && body != NOTHING {
        promises
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((origin, id));
    }
    Response::from_parts(parts, Body::from(body))
}

impl Promises {
    /// Looks whether a server that was started again knows what it has acknowledged before.
    ///
    /// # Errors
    /// Says what is lost, or why that can't be told.
    pub async fn are_kept(&self, server: &Assembled) -> Result<(), String> {
        let made = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (origin, id) in made {
            let asked = (origin.clone(), id.clone());
            let answer = server.database().look_up("transaction", move |tx| {
                Box::pin(async move { staged::transaction(tx, &asked.0, &asked.1).await })
            });
            if answer.await.map_err(|why| why.to_string())?.is_none() {
                return Err(format!(
                    "it has acknowledged transaction {id} of {origin} and lost it"
                ));
            }
        }
        Ok(())
    }
}
