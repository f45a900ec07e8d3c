//! A small Matrix client, the same for every homeserver.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use sha1::Sha1;

use crate::http;

/// What every server is told, so that the same tests can register users on all.
pub const SHARED_SECRET: &str = "the tests' own secret";

/// How long a test waits for what must happen. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Every registered user's password.
pub const PASSWORD: &str = "correct horse battery staple";

/// `filter` parameters of `/sync`.
pub const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":50}}}"#;
pub const EAGER: &str = r#"{"room":{"timeline":{"limit":50}}}"#;

/// A logged-in user.
#[derive(Clone)]
pub struct Client {
    pub user_id: String,
    address: SocketAddr,
    token: Arc<str>,
}

/// Percent-encodes one segment of a path, or one value of a query.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Client {
    /// Registers through the shared-secret API, which logs in too.
    pub async fn register(address: SocketAddr, user: &str) -> Self {
        Self::register_as(address, user, false).await
    }

    /// The same, for who administers the server.
    pub async fn register_admin(address: SocketAddr, user: &str) -> Self {
        Self::register_as(address, user, true).await
    }

    async fn register_as(address: SocketAddr, user: &str, admin: bool) -> Self {
        const PATH: &str = "/_synapse/admin/v1/register";
        let nobody = Self {
            user_id: String::new(),
            address,
            token: "".into(),
        };
        let nonce = nobody.get(PATH).await["nonce"].clone();
        let nonce = nonce.as_str().unwrap();
        let mut mac = Hmac::<Sha1>::new_from_slice(SHARED_SECRET.as_bytes()).unwrap();
        let kind = if admin { "admin" } else { "notadmin" };
        mac.update([nonce, user, PASSWORD, kind].join("\0").as_bytes());
        let mac: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let body = json!({ "nonce": nonce, "username": user, "password": PASSWORD, "admin": admin, "mac": mac });
        let answer = nobody.post(PATH, body).await;
        let text = |key: &str| answer[key].as_str().unwrap().to_owned();
        Self {
            user_id: text("user_id"),
            address,
            token: text("access_token").into(),
        }
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> hyper::Request<http_body_util::Full<bytes::Bytes>> {
        hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.map(|body| body.to_string()).unwrap_or_default().into())
            .unwrap()
    }

    /// A request without a body as it goes over a connection, for who does not wait for the answer.
    pub fn written_request(&self, method: &str, path: &str) -> String {
        let Self { address, token, .. } = self;
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n"
        )
    }

    /// Sends a request; answers status and JSON body.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.request(method, path, body);
        let answer = tokio::time::timeout(PATIENCE * 2, http::send(self.address, request)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{method} {path}: no answer"));
        let answer = answer.unwrap_or_else(|why| panic!("{method} {path}: {why}"));
        let text = String::from_utf8_lossy(answer.body());
        let json = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
        (answer.status().as_u16(), json)
    }

    /// The same user at a server that has moved to another port.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self {
            address,
            ..self.clone()
        }
    }

    /// Sends a request to a server that may go away meanwhile; answers nothing if it does.
    pub async fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let request = self.request(method, path, body);
        let answer = http::send(self.address, request).await.ok()?;
        let body = serde_json::from_slice(answer.body()).ok()?;
        Some((answer.status().as_u16(), body))
    }

    /// The same user over a connection that is kept.
    pub async fn keep(&self) -> KeptClient {
        KeptClient {
            connection: http::Kept::open(self.address).await.unwrap(),
            client: self.clone(),
        }
    }

    async fn succeed(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert_eq!(status, 200, "{} {method} {path}: {answer}", self.user_id);
        answer
    }

    pub async fn get(&self, path: &str) -> Value {
        self.succeed("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.succeed("POST", path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.succeed("PUT", path, Some(body)).await
    }

    /// The room's ID.
    pub async fn create_room(&self, request: Value) -> String {
        text(
            &self.post("/_matrix/client/v3/createRoom", request).await,
            "room_id",
        )
    }

    /// Joins by ID or alias; answers the room's ID.
    pub async fn join(&self, room: &str) -> String {
        let path = format!("/_matrix/client/v3/join/{}", encode(room));
        text(&self.post(&path, json!({})).await, "room_id")
    }

    pub async fn leave(&self, room: &str) {
        self.post(&in_room(room, "leave"), json!({})).await;
    }

    /// Joins a room, by its ID, that this server is in, as far as the client knows.
    pub async fn join_via(&self, room: &str, server: &str) {
        let (status, answer) = self.try_join(room, server).await;
        assert_eq!(status, 200, "{}: {answer}", self.user_id);
    }

    /// The same where it may be refused; answers status and body.
    pub async fn try_join(&self, room: &str, server: &str) -> (u16, Value) {
        let (room, server) = (encode(room), encode(server));
        let path = format!("/_matrix/client/v3/join/{room}?via={server}&server_name={server}");
        self.call("POST", &path, Some(json!({}))).await
    }

    /// Knocks upon a room that this server is in, as far as the client knows.
    pub async fn knock(&self, room: &str, server: &str) {
        let (room, server) = (encode(room), encode(server));
        let path = format!("/_matrix/client/v3/knock/{room}?via={server}&server_name={server}");
        self.post(&path, json!({ "reason": "please" })).await;
    }

    pub async fn forget(&self, room: &str) {
        self.post(&in_room(room, "forget"), json!({})).await;
    }

    pub async fn invite(&self, room: &str, user: &str) {
        self.change(room, "invite", user).await;
    }

    /// Invites whoever owns an address; `invitation` says which, and what identity server knows.
    pub async fn invite_by_address(&self, room: &str, invitation: Value) {
        self.post(&in_room(room, "invite"), invitation).await;
    }

    pub async fn kick(&self, room: &str, user: &str) {
        self.change(room, "kick", user).await;
    }

    pub async fn ban(&self, room: &str, user: &str) {
        self.change(room, "ban", user).await;
    }

    pub async fn unban(&self, room: &str, user: &str) {
        self.change(room, "unban", user).await;
    }

    async fn change(&self, room: &str, action: &str, user: &str) {
        let body = json!({ "user_id": user, "reason": "a test" });
        self.post(&in_room(room, action), body).await;
    }

    /// Sends a text message; answers its event ID.
    pub async fn say(&self, room: &str, words: &str) -> String {
        let path = in_room(room, &format!("send/m.room.message/{}", transaction_id()));
        text(
            &self
                .put(&path, json!({ "msgtype": "m.text", "body": words }))
                .await,
            "event_id",
        )
    }

    /// The same, where the server may go away meanwhile; answers nothing unless it acknowledged.
    pub async fn try_say(&self, room: &str, words: &str) -> Option<String> {
        let path = in_room(room, &format!("send/m.room.message/{}", transaction_id()));
        let body = json!({ "msgtype": "m.text", "body": words });
        let answer = http::send(self.address, self.request("PUT", &path, Some(body)))
            .await
            .ok()?;
        let answer: Value = serde_json::from_slice(answer.body()).ok()?;
        answer["event_id"].as_str().map(str::to_owned)
    }

    pub async fn set_state(&self, room: &str, kind: &str, key: &str, content: Value) -> String {
        let path = in_room(room, &format!("state/{kind}/{}", encode(key)));
        text(&self.put(&path, content).await, "event_id")
    }

    /// The content of one state event.
    pub async fn state_content(&self, room: &str, kind: &str, key: &str) -> Value {
        self.get(&in_room(room, &format!("state/{kind}/{}", encode(key))))
            .await
    }

    /// All state events.
    pub async fn state(&self, room: &str) -> Vec<Value> {
        array(&self.get(&in_room(room, "state")).await)
    }

    /// All membership events.
    pub async fn members(&self, room: &str) -> Vec<Value> {
        array(&self.get(&in_room(room, "members")).await["chunk"])
    }

    pub async fn joined_members(&self, room: &str) -> Value {
        self.get(&in_room(room, "joined_members")).await["joined"].clone()
    }

    /// Waits until a room has so many members, as it has when it is known whole.
    ///
    /// # Panics
    /// If it gets more.
    pub async fn until_members(&self, room: &str, members: usize) {
        let path = format!("/_matrix/client/v3/rooms/{}/joined_members", encode(room));
        loop {
            // The server waits for its members, but not for ever.
            let (status, answer) = self.call("GET", &path, None).await;
            if status == 200 {
                let known = answer["joined"].as_object().map_or(0, Map::len);
                assert_eq!(known, members, "the room is loaded whole");
                return;
            }
        }
    }

    pub async fn event(&self, room: &str, event: &str) -> Value {
        self.get(&in_room(room, &format!("event/{}", encode(event))))
            .await
    }

    pub async fn redact(&self, room: &str, event: &str) -> String {
        let path = in_room(
            room,
            &format!("redact/{}/{}", encode(event), transaction_id()),
        );
        text(&self.put(&path, json!({})).await, "event_id")
    }

    pub async fn set_display_name(&self, name: &str) {
        self.set_profile("displayname", name).await;
    }

    pub async fn set_profile(&self, field: &str, value: &str) {
        let user = encode(&self.user_id);
        let path = format!("/_matrix/client/v3/profile/{user}/{field}");
        self.put(&path, json!({ (field): value })).await;
    }

    /// Another user's profile.
    pub async fn profile(&self, user: &str) -> Value {
        self.get(&format!("/_matrix/client/v3/profile/{}", encode(user)))
            .await
    }

    /// One field of another user's profile, as the only one of an object.
    pub async fn profile_field(&self, user: &str, field: &str) -> Value {
        let user = encode(user);
        self.get(&format!("/_matrix/client/v3/profile/{user}/{field}"))
            .await
    }

    /// One `/sync`, which nobody notices: it would have other servers told that the user is there.
    pub async fn sync(&self, filter: &str, since: Option<&str>, timeout: Duration) -> Value {
        self.get(&sync_path(filter, since, timeout)).await
    }

    /// The room's events from the newest back to the first, or until `enough` of those so far.
    pub async fn history(&self, room: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        let mut from = String::new();
        for _ in 0..100 {
            let page = self
                .get(&in_room(room, &format!("messages?dir=b&limit=100{from}")))
                .await;
            events.extend(array(&page["chunk"]));
            let Some(end) = page["end"].as_str().filter(|_| !enough(&events)) else {
                return events;
            };
            from = format!("&from={}", encode(end));
        }
        panic!("the history of {room} does not end");
    }

    /// Follows the user's rooms from now on (and what a first sync shows).
    pub fn watch(&self) -> Watch {
        Watch {
            client: self.clone(),
            since: None,
            events: Vec::new(),
        }
    }
}

/// A user whose requests go one after the other over one connection.
pub struct KeptClient {
    client: Client,
    connection: http::Kept,
}

impl KeptClient {
    /// Sends a request that has to succeed; answers the body.
    pub async fn succeed(&mut self, method: &str, path: &str, body: Option<Value>) -> Value {
        let request = self.client.request(method, path, body);
        let answer = self.connection.send(request).await;
        let answer = answer.unwrap_or_else(|why| panic!("{method} {path}: {why}"));
        let text = String::from_utf8_lossy(answer.body());
        assert!(answer.status().is_success(), "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("{method} {path}: {why}"))
    }

    /// Sends a text message; answers its event ID.
    pub async fn say(&mut self, room: &str, words: &str) -> String {
        let path = in_room(room, &format!("send/m.room.message/{}", transaction_id()));
        let content = json!({ "msgtype": "m.text", "body": words });
        text(&self.succeed("PUT", &path, Some(content)).await, "event_id")
    }

    /// One `/sync`, as [`Client::sync`].
    pub async fn sync(&mut self, filter: &str, since: Option<&str>, timeout: Duration) -> Value {
        self.succeed("GET", &sync_path(filter, since, timeout), None)
            .await
    }
}

/// A lazy-loading client's `/sync` loop, which remembers what it was shown.
pub struct Watch {
    client: Client,
    since: Option<String>,
    events: Vec<(String, Value)>,
}

impl Watch {
    /// Waits until `/sync` has shown an event of the room which `wanted` accepts.
    pub async fn until(
        &mut self,
        room: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let found = |events: &[(String, Value)]| {
            events
                .iter()
                .find(|(id, event)| id == room && wanted(event))
                .map(|(_, event)| event.clone())
        };
        let user = self.client.user_id.clone();
        let search = async {
            loop {
                if let Some(event) = found(&self.events) {
                    return event;
                }
                self.step(Duration::from_secs(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("{user} was not shown {what}"))
    }

    /// Waits for the event with an ID.
    pub async fn until_event(&mut self, room: &str, event_id: &str) -> Value {
        self.until(room, event_id, |event| event["event_id"] == event_id)
            .await
    }

    /// Waits until a user's membership is as given.
    pub async fn until_member(&mut self, room: &str, user: &str, membership: &str) -> Value {
        let what = format!("{user} {membership}");
        let wanted = |event: &Value| {
            event["type"] == "m.room.member"
                && event["state_key"] == user
                && event["content"]["membership"] == membership
        };
        self.until(room, &what, wanted).await
    }

    /// Forgets what was shown so far: what is waited for from now on has to come anew.
    pub async fn start_anew(&mut self) {
        // A server may answer a first sync with what it answered some time ago.
        for _ in 0..20 {
            let before = self.since.clone();
            self.step(Duration::ZERO).await;
            if self.since == before {
                break;
            }
        }
        self.events.clear();
    }

    async fn step(&mut self, timeout: Duration) {
        let answer = self.client.sync(LAZY, self.since.as_deref(), timeout).await;
        self.since = Some(text(&answer, "next_batch"));
        for section in ["join", "leave"] {
            for (room, part) in answer["rooms"][section].as_object().into_iter().flatten() {
                let events = array(&part["state"]["events"])
                    .into_iter()
                    .chain(array(&part["timeline"]["events"]));
                self.events
                    .extend(events.map(|event| (room.clone(), event)));
            }
        }
        for (section, key) in [("invite", "invite_state"), ("knock", "knock_state")] {
            for (room, part) in answer["rooms"][section].as_object().into_iter().flatten() {
                let events = array(&part[key]["events"]).into_iter();
                self.events
                    .extend(events.map(|event| (room.clone(), event)));
            }
        }
    }
}

fn sync_path(filter: &str, since: Option<&str>, timeout: Duration) -> String {
    let since = since
        .map(|since| format!("&since={}", encode(since)))
        .unwrap_or_default();
    format!(
        "/_matrix/client/v3/sync?set_presence=offline&filter={}&timeout={}{since}",
        encode(filter),
        timeout.as_millis()
    )
}

fn in_room(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", encode(room))
}

fn text(value: &Value, key: &str) -> String {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
        .to_owned()
}

fn array(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn transaction_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
