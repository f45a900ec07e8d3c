//! Floods: transactions that are as full as they may be, of what a server should not have to keep.

use myelin_core::build::EventDraft;
use myelin_core::keys::KeyPair;
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use super::{Resident, history};

/// How many EDUs and events a transaction has at most.
const EDUS: usize = 100;
const PDUS: usize = 50;

impl Resident {
    /// The body of a transaction of one of the names with EDUs of all kinds for a server that has joined. Most
    /// are of users who are not in the room, or about rooms that nobody knows, or of types that nobody knows.
    pub fn flood_of_edus(&self, name: usize, server: &str, number: usize) -> Value {
        let key = self.key(name);
        let member = self.room_of(server, |room| room.speaker(key));
        let (room, origin) = (self.room_id().as_str(), key.server_name().as_str());
        let edus = (number * EDUS..(number + 1) * EDUS).map(|id| {
            let (edu_type, content) = edu(id, (room, member.as_str()), (origin, server));
            json!({ "edu_type": edu_type, "content": content })
        });
        body(key, Vec::new(), edus.collect())
    }

    /// The body of a transaction of one of the names with events of as many rooms, of which nobody knows any.
    pub fn flood_of_unknown_rooms(&self, name: usize, number: usize) -> Value {
        let key = self.key(name);
        let events = (number * PDUS..(number + 1) * PDUS).map(|id| {
            let room = format!("!unknown{id}:{}", key.server_name());
            let unknown = |what: &str| OwnedEventId::try_from(format!("${what}{id}")).unwrap();
            let draft = EventDraft {
                room_id: Some(OwnedRoomId::try_from(room).unwrap()),
                state_key: None,
                sender: history::user(name, key),
                event_type: "m.room.message".to_owned(),
                content: to_raw_value(&json!({ "body": "is anybody there?" })).unwrap(),
                prev_events: vec![unknown("parent")],
                auth_events: vec![unknown("auth")],
                depth: 10,
                origin_server_ts: history::now(),
                redacts: None,
            };
            let event = draft.finish(self.room.version, key).unwrap().into_pdu();
            serde_json::from_str(&event.json).unwrap()
        });
        body(key, events.collect(), Vec::new())
    }

    /// The body of a transaction of one of the names with messages for a server that has joined, each of which
    /// follows the last event of the room and none of the others.
    pub fn flood_of_branches(&self, name: usize, server: &str, number: usize) -> Value {
        let key = self.key(name);
        let events = (number * PDUS..(number + 1) * PDUS).map(|id| {
            let content = json!({ "msgtype": "m.text", "body": format!("branch {id}") });
            let draft = self.room_of(server, |room| {
                room.draft(&room.speaker(key), "m.room.message", None, &content)
            });
            let event = draft.finish(self.room.version, key).unwrap().into_pdu();
            serde_json::from_str(&event.json).unwrap()
        });
        body(key, events.collect(), Vec::new())
    }
}

fn body(key: &KeyPair, pdus: Vec<Value>, edus: Vec<Value>) -> Value {
    json!({
        "origin": key.server_name(),
        "origin_server_ts": history::now(),
        "pdus": pdus,
        "edus": edus,
    })
}

/// One of the EDUs, by its number: its type and content.
fn edu(id: usize, (room, member): (&str, &str), (origin, server): (&str, &str)) -> (String, Value) {
    let stranger = format!("@stranger{id}:{origin}");
    let nowhere = format!("!unknown{id}:{origin}");
    let types = |room: &str, user: &str| json!({ "room_id": room, "user_id": user, "typing": id % 20 < 10 });
    let reads = |room: &str, user: &str| {
        let data = json!({ "ts": 5, "thread_id": format!("$thread{id}") });
        json!({ room: { "m.read": { user: { "data": data, "event_ids": ["$unknown"] } } } })
    };
    let nobody = format!("@nobody{id}:{server}");
    let (edu_type, content) = match id % 10 {
        0 => ("m.typing", types(room, member)),
        1 => ("m.typing", types(room, &stranger)),
        2 => ("m.typing", types(&nowhere, member)),
        3 => ("m.receipt", reads(room, member)),
        4 => ("m.receipt", reads(room, &stranger)),
        5 => ("m.receipt", reads(&nowhere, member)),
        6 => {
            let presence = json!({ "user_id": stranger, "presence": "online" });
            ("m.presence", json!({ "push": [presence] }))
        }
        7 => {
            let messages = json!({ nobody: { "*": { "words": id } } });
            let message = json!({
                "sender": member, "type": "org.example.tell", "message_id": id.to_string(),
                "messages": messages,
            });
            ("m.direct_to_device", message)
        }
        8 => {
            let change = json!({ "user_id": member, "device_id": id.to_string(), "stream_id": id });
            ("m.device_list_update", change)
        }
        _ => return (format!("org.example.unknown{id}"), json!({ "nothing": id })),
    };
    (edu_type.to_owned(), content)
}
