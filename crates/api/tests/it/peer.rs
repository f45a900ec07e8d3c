//! Other servers, as far as they send requests: names, and keys that the server under test knows.

use axum::{body::Body, extract::Request};
use http::{Method, StatusCode, header};
use myelin_core::keys::KeyPair;
use myelin_storage::{
    Priority, StorageError,
    server_keys::{self, ServerKeyRow},
    testing::{Fresh, START_MS},
};
use ruma::{CanonicalJsonObject, ServerSigningKeyVersion};
use serde_json::{Value, json};

use crate::{Site, read};

/// The server under test.
pub(crate) const US: &str = "example.org";

/// A server's key. Nobody can be reached under these names, and no resolver has to be asked for them.
pub(crate) fn key(server: &str, version: &str) -> KeyPair {
    let seed = [server, version].concat().bytes().fold(1, u8::wrapping_add);
    let version = <&ServerSigningKeyVersion>::try_from(version).unwrap();
    KeyPair::new(server.try_into().unwrap(), version, [seed; 32])
}

/// Lets the server under test know keys, each with the end of its validity in Unix milliseconds.
pub(crate) async fn publish(fresh: &Fresh, keys: &[(&KeyPair, u64)]) {
    let row = |(key, valid_until_ms): &(&KeyPair, u64)| ServerKeyRow {
        server: key.server_name().to_string(),
        key_id: key.key_id().to_string(),
        public_key: key.verifying_key().to_bytes().to_vec(),
        valid_until_ms: *valid_until_ms,
        document_ms: *valid_until_ms,
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    let put: Result<(), StorageError> = fresh
        .database
        .write("keys", Priority::Bulk, move |tx| {
            Box::pin(async move { server_keys::put(tx, &rows).await })
        })
        .await;
    put.unwrap();
}

/// A key of a server of that name that counts for a long time.
pub(crate) async fn known(fresh: &Fresh, server: &str) -> KeyPair {
    let key = key(server, "a");
    publish(fresh, &[(&key, START_MS + 1_000_000_000)]).await;
    key
}

/// A request of another server.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) target: String,
    /// `null`: none.
    pub(crate) body: Value,
}

impl Ask {
    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self::new(Method::GET, target, Value::Null)
    }

    pub(crate) fn put(target: impl Into<String>, body: Value) -> Self {
        Self::new(Method::PUT, target, body)
    }

    pub(crate) fn new(method: Method, target: impl Into<String>, body: Value) -> Self {
        let target = target.into();
        Self {
            method,
            target,
            body,
        }
    }

    /// The header that proves that the owner of the key sends this (server-server API, "Request
    /// Authentication").
    pub(crate) fn signed(&self, key: &KeyPair, to: &str) -> String {
        let (origin, key_id) = (key.server_name(), key.key_id());
        let mut signed = json!({
            "method": self.method.as_str(), "uri": self.target, "origin": origin, "destination": to,
        });
        if !self.body.is_null() {
            signed["content"] = self.body.clone();
        }
        let mut signed: CanonicalJsonObject = serde_json::from_value(signed).unwrap();
        key.sign_json(&mut signed).unwrap();
        let signed = serde_json::to_value(signed).unwrap();
        let signature = signed["signatures"][origin.as_str()][key_id.as_str()].as_str();
        let signature = signature.unwrap();
        format!(r#"X-Matrix origin="{origin}",destination="{to}",key="{key_id}",sig="{signature}""#)
    }

    /// Sends it as the owner of the key.
    pub(crate) async fn by(&self, key: &KeyPair, site: &Site) -> (StatusCode, Value) {
        self.send(site, &[self.signed(key, US)]).await
    }

    /// Sends it with these `Authorization` headers.
    pub(crate) async fn send(&self, site: &Site, headers: &[String]) -> (StatusCode, Value) {
        let body = match &self.body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        self.send_bytes(site, headers, body.into_bytes()).await
    }

    /// The same with a body that is none.
    pub(crate) async fn send_bytes(
        &self,
        site: &Site,
        headers: &[String],
        body: Vec<u8>,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.target);
        for value in headers {
            request = request.header(header::AUTHORIZATION, value);
        }
        read(site.send(request.body(Body::from(body)).unwrap()).await).await
    }
}
