//! EDUs on their way to servers that do not always take them (R133), and in partial rooms (R149).

use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};

use super::{newcomer::Newcomer, resync::partial};
use crate::ca::Ca;
use crate::client::{LAZY, encode};
use crate::resident::{Asked, Conduct, Resident};

/// The first pause after a failure.
const PAUSE: Duration = Duration::from_secs(600);

async fn newcomer() -> Newcomer {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 10).await;
    Newcomer::start(&resident, &ca, "newcomer.test").await
}

impl Newcomer {
    /// Sends a message to the devices of a user of the resident's second name.
    pub(super) async fn tell(&self, words: &str) {
        let path = format!("/_matrix/client/v3/sendToDevice/org.example.tell/{words}");
        let user = format!("@somebody:{}", self.resident.names(1));
        let body = json!({ "messages": { user: { "*": { "words": words } } } });
        self.client.put(&path, body).await;
    }

    /// The transactions that the resident was sent.
    fn transactions(&self) -> Vec<Asked> {
        self.resident.asked(self.name(), "send")
    }

    async fn until_sent(&self, times: usize) {
        self.until_sent_after(PAUSE, times).await;
    }

    /// Until the resident was sent so many transactions, the next of them after a pause.
    async fn until_sent_after(&self, pause: Duration, times: usize) {
        let sent = self.resident.until_asked(self.name(), "send", times);
        self.wait_out(pause, sent).await;
    }
}

impl Newcomer {
    /// Fails if anything is sent again after so many transactions.
    async fn has_delivered(self, transactions: usize) {
        self.tell("more").await;
        self.until_sent(transactions + 1).await;
        assert_eq!(edus(&self.transactions()[transactions]).len(), 1);
        self.stop().await;
    }
}

fn edus(transaction: &Asked) -> &[Value] {
    transaction.body["edus"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

#[tokio::test]
async fn a_transaction_with_edus_is_repeated_as_it_was() {
    let newcomer = newcomer().await;
    newcomer
        .resident
        .misbehave(None, "send", Conduct::Error(500, "M_UNKNOWN"));
    newcomer.tell("first").await;
    newcomer.until_sent(1).await;
    newcomer.tell("second").await;
    newcomer.until_sent(2).await;
    newcomer.resident.behave();
    newcomer.until_sent_after(2 * PAUSE, 4).await;
    let sent = newcomer.transactions();
    for repeated in &sent[1..3] {
        assert_eq!(repeated.path, sent[0].path);
        assert_eq!(repeated.body, sent[0].body);
    }
    let words = |edu: &Value| {
        let content = &edu["content"];
        let of_user = content["messages"].as_object().unwrap().values().next();
        (
            edu["edu_type"].clone(),
            of_user.unwrap()["*"]["words"].clone(),
        )
    };
    let kind = json!("m.direct_to_device");
    assert_eq!(edus(&sent[0]).len(), 1);
    assert_eq!(words(&edus(&sent[0])[0]), (kind.clone(), json!("first")));
    assert_eq!(edus(&sent[3]).len(), 1);
    assert_eq!(words(&edus(&sent[3])[0]), (kind, json!("second")));
    assert_ne!(sent[3].path, sent[0].path);
    newcomer.stop().await;
}

#[tokio::test]
async fn a_message_to_a_device_elsewhere_survives_a_crash() {
    let newcomer = newcomer().await;
    newcomer
        .resident
        .misbehave(None, "send", Conduct::Error(500, "M_UNKNOWN"));
    newcomer.tell("important").await;
    newcomer.until_sent(1).await;
    let newcomer = newcomer.crash(&[]).await;
    newcomer.resident.behave();
    newcomer.until_sent(2).await;
    let sent = newcomer.transactions();
    // The receiver knows by the ID in it that it is the same.
    assert_eq!(edus(&sent[1]), edus(&sent[0]));
    newcomer.has_delivered(2).await;
}

#[tokio::test]
async fn a_transaction_has_100_edus_at_most_and_is_the_only_one_under_way() {
    let newcomer = newcomer().await;
    let (conduct, release) = Conduct::hold();
    newcomer.resident.misbehave(None, "send", conduct);
    newcomer.tell("0").await;
    newcomer.until_sent(1).await;
    for number in 1..=120 {
        newcomer.tell(&number.to_string()).await;
    }
    release.send_replace(true);
    newcomer.until_sent(3).await;
    let sent = newcomer.transactions();
    let sizes: Vec<_> = sent.iter().map(|sent| edus(sent).len()).collect();
    assert_eq!(sizes, [1, 100, 20]);
    assert!(sent.iter().all(|sent| sent.at_once == 1));
    newcomer.has_delivered(3).await;
}

impl Newcomer {
    /// Says how the user is.
    async fn is(&self, presence: &str) {
        let user = encode(&self.client.user_id);
        let path = format!("/_matrix/client/v3/presence/{user}/status");
        self.client
            .put(&path, json!({ "presence": presence }))
            .await;
    }

    /// What the first of the resident's names was told of the user's presence, in each transaction.
    fn told_of_presence(&self) -> Vec<Value> {
        let name = self.resident.name();
        let sent = self.transactions().into_iter();
        let sent = sent.filter(|sent| sent.name == name);
        let edus = sent.flat_map(|sent| edus(&sent).to_vec());
        let presence = edus.filter(|edu| edu["edu_type"] == "m.presence");
        let pushes = presence.map(|edu| edu["content"]["push"].clone());
        pushes
            .map(|push| {
                assert_eq!(push[0]["user_id"], self.client.user_id.as_str());
                assert_eq!(push.as_array().unwrap().len(), 1);
                push[0]["presence"].clone()
            })
            .collect()
    }

    async fn until_told_of_presence(&self, times: usize) {
        let told = async {
            while self.told_of_presence().len() < times {
                let sent = self.transactions().len();
                let more = self.resident.until_asked(self.name(), "send", sent + 1);
                more.await;
            }
        };
        self.wait(told).await;
    }

    /// Lets the user type, and waits until other servers are told.
    async fn types_to_all(&self) {
        let (room, user) = (self.resident.room_id().as_str(), &self.client.user_id);
        let (room, user) = (encode(room), encode(user));
        let typing = format!("/_matrix/client/v3/rooms/{room}/typing/{user}");
        self.client.put(&typing, json!({ "typing": true })).await;
        let is_typing = |edu: &Value| edu["edu_type"] == "m.typing";
        while !self.transactions().iter().flat_map(edus).any(is_typing) {
            let sent = self.transactions().len();
            let more = self.resident.until_asked(self.name(), "send", sent + 1);
            self.wait(more).await;
        }
    }

    /// Hands EDUs over as the resident's second name.
    async fn receive(&self, txn_id: &str, edus: Value) {
        let path = format!("/_matrix/federation/v1/send/{txn_id}");
        let origin = self.resident.names(1);
        let body = json!({ "origin": origin, "origin_server_ts": 1, "pdus": [], "edus": edus });
        let answer = self
            .resident
            .request(self.name(), self.address(), "PUT", &path, Some(body));
        assert_eq!(answer.await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn of_presence_that_changes_while_a_server_is_slow_it_is_told_the_last() {
    let newcomer = newcomer().await;
    newcomer.join().await;
    newcomer.members().await;
    let (conduct, release) = Conduct::hold();
    newcomer.resident.misbehave(None, "send", conduct);
    newcomer.is("online").await;
    newcomer.until_told_of_presence(1).await;
    for presence in ["unavailable", "offline", "online", "unavailable"] {
        newcomer.is(presence).await;
        newcomer.pass(Duration::from_secs(6));
    }
    release.send_replace(true);
    newcomer.until_told_of_presence(2).await;
    let told = newcomer.told_of_presence();
    assert_eq!(told[0], "online");
    assert!(
        told[1..].iter().all(|state| state == "unavailable"),
        "{told:?}"
    );
    newcomer.stop().await;
}

#[tokio::test]
async fn presence_wakes_no_server_that_rests() {
    let newcomer = newcomer().await;
    newcomer.join().await;
    newcomer.members().await;
    let conduct = Conduct::Error(500, "M_UNKNOWN");
    newcomer.resident.misbehave(None, "send", conduct);
    newcomer.is("online").await;
    newcomer.until_told_of_presence(1).await;
    newcomer.resident.behave();
    for presence in ["unavailable", "online", "unavailable"] {
        newcomer.is(presence).await;
        // More than the time for which changes are gathered, but less than the pause.
        newcomer.pass(Duration::from_secs(100));
        newcomer.tell(presence).await;
    }
    // What must not be lost waits for it. When it is back, it gets that and nothing else.
    let told = async {
        let is_message = |edu: &Value| edu["edu_type"] == "m.direct_to_device";
        while !newcomer
            .transactions()
            .iter()
            .flat_map(edus)
            .any(is_message)
        {
            let sent = newcomer.transactions().len();
            let more = newcomer
                .resident
                .until_asked(newcomer.name(), "send", sent + 1);
            more.await;
        }
    };
    newcomer.wait_for_hours(PAUSE / 4, told).await;
    assert_eq!(newcomer.told_of_presence(), ["online"]);
    newcomer.stop().await;
}

#[tokio::test]
async fn a_server_that_comes_into_a_room_is_told_who_is_there() {
    let newcomer = newcomer().await;
    let room = newcomer
        .client
        .create_room(json!({ "preset": "public_chat", "room_version": "11" }))
        .await;
    newcomer.is("unavailable").await;
    newcomer.pass(Duration::from_secs(6));
    let (resident, at) = (&newcomer.resident, newcomer.address());
    resident
        .visit(newcomer.name(), at, &room, RoomVersion::V11)
        .await;
    let told = async {
        let is_presence = |edu: &&Value| edu["edu_type"] == "m.presence";
        loop {
            let sent = newcomer.transactions();
            let of_name = sent.iter().filter(|sent| sent.name == resident.names(1));
            if let Some(edu) = of_name.flat_map(edus).find(is_presence) {
                return edu["content"]["push"][0].clone();
            }
            let more = resident.until_asked(newcomer.name(), "send", sent.len() + 1);
            more.await;
        }
    };
    let (told, _) = newcomer.wait(told).await;
    assert_eq!(told["user_id"], newcomer.client.user_id.as_str());
    assert_eq!(told["presence"], "unavailable");
    newcomer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edus_get_through_while_a_room_is_partial_and_so_does_an_event_after_them() {
    let (newcomer, release) = partial().await;
    let (resident, client) = (newcomer.resident.clone(), &newcomer.client);
    let room = resident.room_id().as_str();
    // Nobody has said yet that this user is in the room.
    let user = resident.room_of(newcomer.name(), |room| room.speaker(resident.key(1)));
    let last = resident.room_of(newcomer.name(), |room| room.say(resident.key(1), "before"));
    let types = |typing: bool| {
        let content = json!({ "room_id": room, "user_id": user, "typing": typing });
        json!({ "edu_type": "m.typing", "content": content })
    };
    let receipt = json!({ "data": { "ts": 5 }, "event_ids": [last.event_id] });
    let receipts = json!({ room: { "m.read": { user.as_str(): receipt } } });
    let push = json!([{ "user_id": user, "presence": "online", "last_active_ago": 5 }]);
    let messages = json!({ &client.user_id: { "*": { "words": "hello" } } });
    let message = json!({
        "sender": user, "type": "org.example.tell", "message_id": "1", "messages": messages,
    });
    let edus = json!([
        types(true),
        { "edu_type": "m.receipt", "content": receipts },
        { "edu_type": "m.presence", "content": { "push": push } },
        { "edu_type": "m.direct_to_device", "content": message },
    ]);
    newcomer.receive("edus", edus).await;
    let shown = client.sync(LAZY, None, Duration::ZERO).await;
    let beside = |answer: &Value| -> Vec<Value> {
        let section = &answer["rooms"]["join"][room];
        let events = section["ephemeral"]["events"].as_array();
        events.cloned().unwrap_or_default()
    };
    let content = |answer: &Value, event_type: &str| {
        let found = beside(answer);
        let found = found.iter().find(|event| event["type"] == event_type);
        found.map(|event| event["content"].clone())
    };
    assert_eq!(
        content(&shown, "m.typing").unwrap()["user_ids"],
        json!([user])
    );
    let read = content(&shown, "m.receipt").unwrap();
    let read = &read[last.event_id.as_str()]["m.read"];
    assert!(read[user.as_str()].is_object(), "{shown}");
    let there = shown["presence"]["events"].as_array().unwrap();
    let is_shown = |event: &&Value| event["sender"] == user.as_str();
    assert!(there.iter().any(|event| is_shown(&event)), "{shown}");
    assert_eq!(shown["to_device"]["events"][0]["sender"], user.as_str());
    newcomer.types_to_all().await;
    let event = resident.say(newcomer.name(), newcomer.address(), "after them");
    let event = event.await.unwrap();
    client.watch().until_event(room, &event).await;
    release.send_replace(true);
    newcomer.members().await;
    newcomer.receive("more", json!([types(false)])).await;
    let since = shown["next_batch"].as_str();
    let last = client.sync(LAZY, since, Duration::ZERO).await;
    let typing = content(&last, "m.typing").unwrap();
    assert_eq!(typing["user_ids"], json!([client.user_id]));
}
