//! What the resident says by itself: messages of its users, pushed to a server in the room.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use myelin_core::keys::KeyPair;
use myelin_core::pdu::Pdu;
use ruma::CanonicalJsonObject;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Resident, history};
use crate::http;

impl Resident {
    /// Lets a user write into the room, and sends that to a server which has joined. Answers the event
    /// ID if the server acknowledged it.
    pub async fn say(&self, server: &str, at: SocketAddr, text: &str) -> Option<String> {
        let message = self.room_of(server, |room| room.say(self.key(1), text));
        let id = message.event_id.to_string();
        let answer = self.push(server, at, &[message]).await?;
        // A server that is not in the room ignores what comes for it, and says so by leaving it out.
        let taken = answer[&id].as_object()?;
        assert!(taken.is_empty(), "{id} was refused: {answer}");
        Some(id)
    }

    /// Sends events to a server in a transaction of the second name. Answers what it says about each
    /// if it acknowledged them.
    pub async fn push(&self, server: &str, at: SocketAddr, events: &[Arc<Pdu>]) -> Option<Value> {
        let raw = |event: &Arc<Pdu>| RawValue::from_string(event.json.to_string()).unwrap();
        let pdus: Vec<Box<RawValue>> = events.iter().map(raw).collect();
        let content = json!({
            "origin": self.key(1).server_name(),
            "origin_server_ts": history::now(),
            "pdus": pdus,
        });
        let id = self.transactions.fetch_add(1, Ordering::SeqCst);
        let path = format!("/_matrix/federation/v1/send/t{id}");
        let (status, answer) = self
            .request(server, at, "PUT", &path, Some(content))
            .await?;
        (status == 200).then(|| answer["pdus"].clone())
    }

    /// Sends a signed request in the second name. Answers the status and the body, if there was an
    /// answer.
    pub async fn request(
        &self,
        server: &str,
        at: SocketAddr,
        method: &str,
        path: &str,
        content: Option<Value>,
    ) -> Option<(u16, Value)> {
        let sent = self.request_as(1, (server, at), (method, path), content);
        let answer = sent.await?;
        let body = serde_json::from_slice(answer.body()).unwrap_or_default();
        Some((answer.status().as_u16(), body))
    }

    /// Sends a request signed in one of the names to a server at an address. Answers what came, if
    /// anything did.
    pub async fn request_as(
        &self,
        number: usize,
        (server, at): (&str, SocketAddr),
        (method, path): (&str, &str),
        content: Option<Value>,
    ) -> Option<Response<Bytes>> {
        let request = self.signed(number, server, (method, path), content);
        http::send(at, request).await.ok()
    }

    /// A request to a server that is signed in one of the names.
    pub fn signed(
        &self,
        number: usize,
        server: &str,
        (method, path): (&str, &str),
        content: Option<Value>,
    ) -> Request<Full<Bytes>> {
        let header = authorization(self.key(number), server, (method, path), content.as_ref());
        let body = content.map(|content| content.to_string());
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", server)
            .header("content-type", "application/json")
            .header("authorization", header)
            .body(body.unwrap_or_default().into())
            .unwrap()
    }
}

/// The header that authenticates a request (server-server API, "Request Authentication").
fn authorization(
    key: &KeyPair,
    destination: &str,
    (method, path): (&str, &str),
    content: Option<&Value>,
) -> String {
    let origin = key.server_name();
    let key_id = key.key_id();
    let mut request = json!({
        "method": method,
        "uri": path,
        "origin": origin,
        "destination": destination,
    });
    if let Some(content) = content {
        request["content"] = content.clone();
    }
    let mut request: CanonicalJsonObject = serde_json::from_value(request).unwrap();
    key.sign_json(&mut request).unwrap();
    let signature = request["signatures"]
        .as_object()
        .and_then(|servers| servers[origin.as_str()].as_object())
        .and_then(|keys| keys[key_id.as_str()].as_str());
    let signature = signature.unwrap();
    format!(
        r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#
    )
}
