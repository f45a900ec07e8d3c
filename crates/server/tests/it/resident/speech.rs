//! What the resident says by itself: messages of its users, pushed to a server in the room.

use std::net::SocketAddr;

use myelin_core::keys::KeyPair;
use ruma::CanonicalJsonObject;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Resident, history};
use crate::http;

impl Resident {
    /// Lets a user write into the room, and sends that to a server which has joined. Answers the event
    /// ID if the server acknowledged it.
    pub(crate) async fn say(&self, server: &str, at: SocketAddr, text: &str) -> Option<String> {
        let key = &self.keys[1];
        let message = self.room_of(server, |room| room.say(key, text));
        let id = message.event_id.to_string();
        let pdu: Box<RawValue> = RawValue::from_string(message.json.to_string()).unwrap();
        let content = json!({
            "origin": key.server_name(),
            "origin_server_ts": history::now(),
            "pdus": [pdu],
        });
        let path = format!("/_matrix/federation/v1/send/{}", id.trim_start_matches('$'));
        let request = hyper::Request::put(&path)
            .header("host", server)
            .header("content-type", "application/json")
            .header("authorization", authorization(key, server, &path, &content))
            .body(content.to_string().into())
            .unwrap();
        let answer = http::send(at, request).await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        // A server that is not in the room ignores what comes for it, and says so by leaving it out.
        let taken = answer["pdus"][&id].as_object()?;
        assert!(taken.is_empty(), "{id} was refused: {answer}");
        Some(id)
    }
}

/// The header that authenticates a request (server-server API, "Request Authentication").
fn authorization(key: &KeyPair, destination: &str, path: &str, content: &Value) -> String {
    let origin = key.server_name();
    let key_id = key.key_id();
    let request = json!({
        "method": "PUT",
        "uri": path,
        "origin": origin,
        "destination": destination,
        "content": content,
    });
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
