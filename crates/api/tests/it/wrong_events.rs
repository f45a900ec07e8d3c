//! Events that other servers hand over so that somebody is joined, left, knocked or invited, and that
//! are not what they should be: each is refused, and nothing of it remains.

use http::{Method, StatusCode};
use myelin_core::{
    build::{countersign, sign_template},
    keys::KeyPair,
    pdu::Pdu,
    room_version::RoomVersion,
    validate::MAX_PDU_BYTES,
};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{
    Site,
    peer::{Ask, US, known},
};

/// What takes events of other servers, but for the prefix.
const ENDPOINTS: [&str; 6] = [
    "v1/send_join",
    "v2/send_join",
    "v1/send_leave",
    "v2/send_leave",
    "v1/send_knock",
    "v2/invite",
];

const PEER: &str = "127.0.0.1:1";
const OTHER: &str = "127.0.0.1:2";
const BOB: &str = "@bob:127.0.0.1:1";
const CAROL: &str = "@carol:127.0.0.1:1";
const MALLORY: &str = "@mallory:127.0.0.1:2";

/// A room, and an event for it that an endpoint would take.
struct Scene {
    site: Site,
    endpoint: &'static str,
    version: RoomVersion,
    /// bob's server, which hands events over.
    peer: KeyPair,
    /// mallory's.
    other: KeyPair,
    room: String,
    /// The event before it is hashed and signed.
    draft: Value,
    /// What an invite tells of its room.
    told: Vec<Value>,
}

/// The event ID that a request names, and the event.
type Handed = (String, Value);

/// Hashes and signs an event.
fn sealed(version: RoomVersion, event: &Value, key: &KeyPair) -> (std::sync::Arc<Pdu>, Handed) {
    let event = serde_json::from_value(event.clone()).unwrap();
    let pdu = sign_template(version, &event, key).unwrap().into_pdu();
    let json = serde_json::from_str(&pdu.json).unwrap();
    let id = pdu.event_id.to_string();
    (pdu, (id, json))
}

impl Scene {
    async fn set(fresh: &Fresh, endpoint: &'static str, version: RoomVersion) -> Self {
        let mut scene = Self {
            site: Site::start(fresh).await,
            endpoint,
            version,
            peer: known(fresh, PEER).await,
            other: known(fresh, OTHER).await,
            room: String::new(),
            draft: Value::Null,
            told: Vec::new(),
        };
        match endpoint.split_once('_') {
            Some((_, kind)) => scene.open_room(kind).await,
            None => scene.open_foreign_room().await,
        }
        scene
    }

    /// A room of alice's, and what bob's server is offered to complete.
    async fn open_room(&mut self, kind: &str) {
        let token = self.site.token("alice").await;
        let rule = if kind == "knock" { "knock" } else { "public" };
        let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": rule } });
        let wish = json!({ "room_version": self.version.as_str(), "initial_state": [rules] });
        let create = "/_matrix/client/v3/createRoom";
        let created = self.site.call(Method::POST, create, Some(&token), wish);
        self.room = created.await.1["room_id"].as_str().unwrap().to_owned();
        if kind == "leave" {
            let draft = self.template("join").await;
            let (_, (id, join)) = sealed(self.version, &draft, &self.peer);
            let target = format!("/_matrix/federation/v2/send_join/{}/{id}", self.room);
            let joined = Ask::put(target, join).by(&self.peer, &self.site).await;
            assert_eq!(joined.0, StatusCode::OK, "{joined:?}");
        }
        self.draft = self.template(kind).await;
    }

    async fn template(&self, kind: &str) -> Value {
        let (room, version) = (&self.room, self.version.as_str());
        let target = format!("/_matrix/federation/v1/make_{kind}/{room}/{BOB}?ver={version}");
        let (status, mut answer) = Ask::get(target).by(&self.peer, &self.site).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["event"].take()
    }

    /// A room of bob's that we have never heard of, and an invite of alice to it.
    async fn open_foreign_room(&mut self) {
        self.site.token("alice").await;
        let by_hash = self.version.room_id_is_create_hash();
        let mut create = json!({
            "type": "m.room.create", "state_key": "", "sender": BOB, "room_id": "!strange:127.0.0.1:1",
            "content": { "room_version": self.version.as_str() },
            "prev_events": [], "auth_events": [], "depth": 1, "origin_server_ts": 1,
        });
        if by_hash {
            create.as_object_mut().unwrap().remove("room_id");
        }
        let (pdu, (id, create)) = sealed(self.version, &create, &self.peer);
        self.room = pdu.room_id.to_string();
        let cited = if by_hash { vec![] } else { vec![&id] };
        self.draft = json!({
            "type": "m.room.member", "state_key": "@alice:example.org", "sender": BOB,
            "room_id": self.room, "content": { "membership": "invite" },
            "prev_events": [id], "auth_events": cited, "depth": 2, "origin_server_ts": 2,
        });
        self.told = vec![create];
    }

    fn seal(&self, event: &Value) -> Handed {
        sealed(self.version, event, &self.peer).1
    }

    /// The request that hands an event over.
    fn handing(&self, (id, event): Handed) -> Ask {
        let target = format!("/_matrix/federation/{}/{}/{id}", self.endpoint, self.room);
        let body = match self.endpoint {
            "v2/invite" => json!({
                "event": event, "room_version": self.version.as_str(), "invite_room_state": self.told,
            }),
            _ => event,
        };
        Ask::put(target, body)
    }

    /// Events of their author's making that are something else than the endpoint takes.
    fn of_another_kind(&self) -> Vec<(&'static str, Handed)> {
        let with = |name, field: &str, value: Value| {
            let mut event = self.draft.clone();
            *event.pointer_mut(field).unwrap() = value;
            (name, self.seal(&event))
        };
        let without = |name, field: &str| {
            let mut event = self.draft.clone();
            event.as_object_mut().unwrap().remove(field);
            (name, self.seal(&event))
        };
        let mut all = vec![
            with("another type", "/type", json!("m.room.name")),
            with("another membership", "/content/membership", json!("ban")),
            with("no membership", "/content", json!({})),
            with("another room", "/room_id", json!("!other:example.org")),
            with("a user of a third server", "/state_key", json!(MALLORY)),
            with("nobody in particular", "/state_key", json!("")),
            without("no state key", "state_key"),
        ];
        if self.endpoint != "v2/invite" {
            all.push(with("another user", "/state_key", json!(CAROL)));
            all.push(with("another sender", "/sender", json!(CAROL)));
        }
        let mut event = self.draft.clone();
        event["sender"] = json!(MALLORY);
        if self.endpoint != "v2/invite" {
            event["state_key"] = json!(MALLORY);
        }
        all.push((
            "a third server's",
            sealed(self.version, &event, &self.other).1,
        ));
        all
    }

    /// Events that were changed after they were made.
    fn falsified(&self) -> Vec<(&'static str, Handed)> {
        let good = self.seal(&self.draft);
        let changed = |name, change: &dyn Fn(&mut Value)| {
            let (id, mut event) = good.clone();
            change(&mut event);
            (name, (id, event))
        };
        let by_other = |mut event: Value| -> Value {
            event["signatures"] = json!({});
            let signed = countersign(self.version, &event.to_string(), &self.other);
            serde_json::from_str(&signed.unwrap()).unwrap()
        };
        let other_id = format!("${}", "A".repeat(43));
        vec![
            ("another event's ID", (other_id, good.1.clone())),
            changed("no signature", &|event| event["signatures"] = json!({})),
            changed("no signatures", &|event| {
                event.as_object_mut().unwrap().remove("signatures");
            }),
            changed("a third server's signature", &|event| {
                *event = by_other(event.take());
            }),
            changed("a wrong signature", &|event| {
                event["signatures"][PEER]["ed25519:a"] = "A".repeat(86).into();
            }),
            changed("a signature by an unknown key", &|event| {
                let signature = event["signatures"][PEER]["ed25519:a"].take();
                event["signatures"][PEER] = json!({ "ed25519:b": signature });
            }),
            // Redaction would take this away, so the ID and the signatures are still right.
            changed("a wrong hash", &|event| {
                event["content"]["reason"] = "fun".into();
            }),
            changed("no hash", &|event| event["hashes"] = json!({})),
            changed("nothing in it", &|event| *event = json!({})),
            changed("a negative depth", &|event| event["depth"] = (-1).into()),
            changed("parents that are no list", &|event| {
                event["prev_events"] = "$one".into();
            }),
            changed("too large", &|event| pad(event, MAX_PDU_BYTES + 1)),
        ]
    }
}

/// Makes an event as large as that by a signature that is nobody's: neither hash nor ID change.
fn pad(event: &mut Value, bytes: usize) {
    event["signatures"]["127.0.0.1:3"] = json!({ "ed25519:a": "" });
    let missing = bytes - event.to_string().len();
    event["signatures"]["127.0.0.1:3"]["ed25519:a"] = "A".repeat(missing).into();
}

/// Bodies that are no event.
const NO_OBJECTS: [(&[u8], &str); 5] = [
    (b"", "M_NOT_JSON"),
    (b"{", "M_NOT_JSON"),
    (b"{\"type\":\"\xff\"}", "M_NOT_JSON"),
    (b"[]", "M_BAD_JSON"),
    (b"\"event\"", "M_BAD_JSON"),
];

/// Hands over everything that is wrong, and then what is right.
async fn wrong_then_right(scene: Scene) {
    let Scene { site, endpoint, .. } = &scene;
    let before = site.stored().await;
    let wrong = [scene.of_another_kind(), scene.falsified()].concat();
    for (name, handed) in wrong {
        let (status, answer) = scene.handing(handed).by(&scene.peer, site).await;
        let found = (status.as_u16(), &answer["errcode"]);
        let expected = (400, &json!("M_INVALID_PARAM"));
        assert_eq!(found, expected, "{endpoint}, {name}: {answer}");
    }
    let mut good = scene.seal(&scene.draft);
    for (body, errcode) in NO_OBJECTS {
        // What is no JSON cannot be signed.
        let signed = serde_json::from_slice(body).unwrap_or_default();
        let ask = Ask::put(scene.handing(good.clone()).target, signed);
        let header = ask.signed(&scene.peer, US);
        let (status, answer) = ask.send_bytes(site, &[header], body.to_vec()).await;
        let found = (status.as_u16(), &answer["errcode"]);
        assert_eq!(
            found,
            (400, &json!(errcode)),
            "{endpoint}, {body:?}: {answer}"
        );
    }
    assert_eq!(site.stored().await, before, "{endpoint}");
    // All of that was for the mistakes' sake. An invite has to leave room for our signature.
    let largest = if *endpoint == "v2/invite" {
        MAX_PDU_BYTES - 200
    } else {
        MAX_PDU_BYTES
    };
    pad(&mut good.1, largest);
    let (status, answer) = scene.handing(good).by(&scene.peer, site).await;
    assert_eq!(status, StatusCode::OK, "{endpoint}: {answer}");
    assert_ne!(site.stored().await, before, "{endpoint}");
}

#[tokio::test]
async fn wrong_events_get_the_specified_error_and_leave_nothing_behind() {
    for endpoint in ENDPOINTS {
        for version in [RoomVersion::V11, RoomVersion::V12] {
            on_each_engine(|fresh| async move {
                wrong_then_right(Scene::set(&fresh, endpoint, version).await).await;
            })
            .await;
        }
    }
}
