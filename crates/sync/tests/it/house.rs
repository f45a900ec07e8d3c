//! A homeserver without its network: rooms, and what clients read of them.

use std::{sync::Arc, time::Duration};

use myelin_core::{room_version::RoomVersion, state::Membership};
use myelin_federation::{Federation, FederationConfig, SigningKeys};
use myelin_rooms::{CreateRoom, NewEvent, Preset, Rooms, RoomsConfig};
use myelin_storage::{client_transactions::ClientTransaction, testing::Fresh};
use myelin_sync::{
    Asking, Direction, Filter, Messages, MessagesRequest, RoomEventFilter, Sync, SyncError,
    SyncRequest,
};
use myelin_users::{NewAccount, NewDevice, Requester, Users, UsersConfig};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId, server_name, user_id};
use serde_json::{Map, Value, json, value::to_raw_value};

pub(crate) fn alice() -> &'static UserId {
    user_id!("@alice:x.example")
}

pub(crate) fn bob() -> &'static UserId {
    user_id!("@bob:x.example")
}

pub(crate) fn carol() -> &'static UserId {
    user_id!("@carol:x.example")
}

/// A server.
#[derive(Clone)]
pub(crate) struct House {
    pub(crate) rooms: Rooms,
    pub(crate) users: Users,
    pub(crate) sync: Sync,
    pub(crate) fresh: Fresh,
}

impl House {
    pub(crate) async fn open(fresh: Fresh) -> Self {
        let server_name = server_name!("x.example").to_owned();
        let keys = SigningKeys::generate(server_name.clone(), &fresh.env.random);
        let (env, database) = (fresh.env.clone(), fresh.database.clone());
        let config = FederationConfig::default();
        let federation =
            Federation::new(config, env.clone(), database.clone(), Arc::new(keys)).unwrap();
        let config = UsersConfig {
            server_name: server_name.clone(),
            registration_enabled: false,
            guests: false,
            shared_secret: None,
            quotas: None,
        };
        let users = Users::open(config, env.clone(), database.clone(), federation.clone());
        let users = users.await.unwrap();
        let config = RoomsConfig {
            server_name,
            default_room_version: RoomVersion::V11,
            allow_publishing: true,
            presence: true,
        };
        let rooms = Rooms::start(config, env, database, federation)
            .await
            .unwrap();
        Self {
            sync: Sync::new(rooms.clone(), users.clone()),
            rooms,
            users,
            fresh,
        }
    }

    /// Gives a user an account with the device `PHONE`.
    pub(crate) async fn register(&self, user: &UserId) {
        let account = NewAccount {
            username: user.localpart().to_owned(),
            ..NewAccount::default()
        };
        let user_id = self.users.create_account(account).await.unwrap();
        let device = NewDevice {
            device_id: Some("PHONE".to_owned()),
            display_name: None,
            ..NewDevice::default()
        };
        self.users.start_session(user_id, device).await.unwrap();
    }

    /// Sends a message to all of a user's devices.
    pub(crate) async fn tell(&self, sender: &UserId, user: &UserId, words: &str) {
        let content = to_raw_value(&json!({ "words": words })).unwrap();
        let messages = [(user.to_string(), [("*".to_owned(), content)].into())].into();
        self.users
            .send_to_device(&viewer(sender), "org.example.tell", words, messages)
            .await
            .unwrap();
    }

    /// A public room of alice's.
    pub(crate) async fn room(&self) -> OwnedRoomId {
        self.room_of_version("11").await
    }

    pub(crate) async fn room_of_version(&self, version: &str) -> OwnedRoomId {
        self.room_made_with(version, Map::new()).await
    }

    /// The same with more in its create event.
    pub(crate) async fn room_made_with(
        &self,
        version: &str,
        creation_content: Map<String, Value>,
    ) -> OwnedRoomId {
        let wish = CreateRoom {
            version: Some(version.to_owned()),
            preset: Preset::Public,
            creation_content,
            alias_name: None,
            published: false,
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            initial_state: Vec::new(),
            power_level_override: Map::new(),
            profile: Map::new(),
        };
        self.rooms.create(alice(), wish).await.unwrap()
    }

    pub(crate) async fn send(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> OwnedEventId {
        let event = NewEvent {
            sender: sender.to_owned(),
            event_type: event_type.to_owned(),
            state_key: state_key.map(str::to_owned),
            content: to_raw_value(&content).unwrap(),
            redacts: None,
            transaction: None,
        };
        self.rooms.send(room_id, event).await.unwrap()
    }

    /// Sends a message with the device `PHONE` and the transaction `t`.
    pub(crate) async fn say(&self, room_id: &RoomId, sender: &UserId, body: &str) -> OwnedEventId {
        let event = NewEvent {
            sender: sender.to_owned(),
            event_type: "m.room.message".to_owned(),
            state_key: None,
            content: to_raw_value(&json!({"body": body, "msgtype": "m.text"})).unwrap(),
            redacts: None,
            transaction: Some(ClientTransaction {
                device_id: "PHONE".to_owned(),
                path: format!("/rooms/{room_id}/send/m.room.message/{body}"),
            }),
        };
        self.rooms.send(room_id, event).await.unwrap()
    }

    pub(crate) async fn redact(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        redacts: &OwnedEventId,
    ) -> OwnedEventId {
        let event = NewEvent {
            sender: sender.to_owned(),
            event_type: "m.room.redaction".to_owned(),
            state_key: None,
            content: to_raw_value(&json!({"reason": "spam"})).unwrap(),
            redacts: Some(redacts.clone()),
            transaction: None,
        };
        self.rooms.send(room_id, event).await.unwrap()
    }

    pub(crate) async fn topic(&self, room_id: &RoomId, topic: &str) -> OwnedEventId {
        self.send(
            room_id,
            alice(),
            "m.room.topic",
            Some(""),
            json!({"topic": topic}),
        )
        .await
    }

    pub(crate) async fn join(&self, room_id: &RoomId, user: &UserId) {
        self.rooms
            .join(user, room_id.into(), Vec::new(), Map::new())
            .await
            .unwrap();
    }

    pub(crate) async fn leave(&self, room_id: &RoomId, user: &UserId) {
        self.rooms.leave(user, room_id, None).await.unwrap();
    }

    pub(crate) async fn set_membership(
        &self,
        room_id: &RoomId,
        user: &UserId,
        membership: Membership,
    ) {
        self.rooms
            .set_membership(alice(), room_id, user, membership, None)
            .await
            .unwrap();
    }

    pub(crate) async fn synced(&self, request: &SyncRequest) -> Value {
        serde_json::to_value(self.sync.sync(request).await.unwrap()).unwrap()
    }

    /// A first sync, with all state.
    pub(crate) async fn first_sync(&self, user: &UserId) -> Value {
        self.synced(&request(user)).await
    }

    /// A sync that goes on from another.
    pub(crate) async fn next_sync(&self, user: &UserId, last: &Value) -> Value {
        self.synced(&since(request(user), last)).await
    }

    pub(crate) async fn messages(
        &self,
        room_id: &RoomId,
        user: &UserId,
        direction: Direction,
        from: Option<&str>,
    ) -> Result<Messages, SyncError> {
        self.sync
            .messages(&messages_request(room_id, user, direction, from))
            .await
    }
}

pub(crate) fn messages_request(
    room_id: &RoomId,
    user: &UserId,
    direction: Direction,
    from: Option<&str>,
) -> MessagesRequest {
    MessagesRequest {
        asking: Asking::AsUser,
        viewer: viewer(user),
        room_id: room_id.to_owned(),
        direction,
        from: from.map(str::to_owned),
        to: None,
        limit: Some(4),
        filter: RoomEventFilter::default(),
    }
}

pub(crate) fn viewer(user: &UserId) -> Requester {
    Requester {
        user_id: user.to_owned(),
        device_id: "PHONE".into(),
        admin: false,
        guest: false,
    }
}

/// A first sync that doesn't wait.
pub(crate) fn request(user: &UserId) -> SyncRequest {
    SyncRequest {
        viewer: viewer(user),
        since: None,
        filter: Filter::default(),
        full_state: false,
        use_state_after: false,
        timeout: Duration::ZERO,
    }
}

pub(crate) fn since(request: SyncRequest, last: &Value) -> SyncRequest {
    let token = last["next_batch"].as_str().unwrap().parse().unwrap();
    SyncRequest {
        since: Some(token),
        ..request
    }
}

pub(crate) fn filtered(request: SyncRequest, filter: &Value) -> SyncRequest {
    SyncRequest {
        filter: Filter::parse(&filter.to_string()).unwrap(),
        ..request
    }
}

/// A filter with lazy loading.
pub(crate) fn lazy() -> Value {
    json!({"room": {"state": {"lazy_load_members": true}}})
}

/// What the events of a list say, in short: a message's body, or type and state key.
pub(crate) fn said(events: &Value) -> Vec<String> {
    let events = events.as_array().expect("a list of events");
    events.iter().map(in_short).collect()
}

fn in_short(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let event_type = text(&event["type"]);
    match event.get("state_key") {
        _ if event_type == "m.room.message" => text(&event["content"]["body"]),
        Some(key) if event_type == "m.room.member" => {
            format!("{} {}", text(key), text(&event["content"]["membership"]))
        }
        _ => event_type,
    }
}

/// The section of a room where the user is.
pub(crate) fn joined<'a>(answer: &'a Value, room_id: &RoomId) -> &'a Value {
    &answer["rooms"]["join"][room_id.as_str()]
}

/// A list in alphabetical order.
pub(crate) fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list
}
