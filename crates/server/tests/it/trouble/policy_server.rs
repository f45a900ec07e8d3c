//! Rooms with a policy server (MSC4284): what it is asked, and what becomes of events that it does not sign
//! (R79, R80, R96).

use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use myelin_core::build::countersign;
use myelin_core::pdu::Pdu;
use myelin_core::policy_server::POLICY_SERVER_KEY;
use myelin_core::room_version::RoomVersion;
use ruma::OwnedEventId;
use serde_json::{Value, json};

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::client::{LAZY, encode};
use crate::resident::{Conduct, Resident};

/// How many members the room has.
const MEMBERS: usize = 30;

/// Which of the resident's names is the policy server, and which of its users speak.
const POLICY: usize = 3;
const SPEAKER: usize = 1;

/// How long the policy server may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a policy server does that is no signature.
fn failures() -> Vec<(&'static str, Conduct)> {
    let wrong = |change: fn(&mut Value)| {
        Conduct::lie(move |answer| {
            let servers = answer.as_object_mut().unwrap().values_mut();
            servers.for_each(change);
        })
    };
    vec![
        ("refuses", Conduct::Error(400, "M_FORBIDDEN")),
        ("is none", Conduct::Error(404, "M_UNRECOGNIZED")),
        ("is another program", Conduct::Nonsense),
        ("signs nothing", wrong(|own| *own = json!({}))),
        (
            "signs something else",
            wrong(|own| own[POLICY_SERVER_KEY] = "A".repeat(86).into()),
        ),
        (
            "writes no signature",
            wrong(|own| own[POLICY_SERVER_KEY] = "?".into()),
        ),
        // These count as a failure of the whole server, and so come last.
        ("breaks", Conduct::Error(500, "M_UNKNOWN")),
        ("is silent", Conduct::Silence),
    ]
}

/// A newcomer in the resident's room, after the room was changed.
async fn member(policy: impl Fn(&Resident) -> Value) -> Newcomer {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, MEMBERS).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    let policy = policy(&resident);
    resident.room_of(newcomer.name(), |room| {
        let key = resident.key(0);
        let founder = crate::resident::user(0, key);
        room.write(key, &founder, ("m.room.policy", ""), &policy);
    });
    newcomer
}

/// A newcomer with a room of its own, in which are a user of the policy server and the newcomer.
async fn host() -> (Newcomer, String) {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, MEMBERS).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    let wish = json!({
        "preset": "public_chat",
        "room_version": "11",
        "power_level_content_override": { "invite": 0 },
    });
    let room = newcomer.client.create_room(wish).await;
    let (name, at) = (newcomer.name(), newcomer.address());
    resident.visit(name, at, &room, RoomVersion::V11).await;
    let client = &newcomer.client;
    let policy = resident.policy(SPEAKER);
    client.set_state(&room, "m.room.policy", "", policy).await;
    (newcomer, room)
}

impl Newcomer {
    /// A message that the policy server has not signed.
    fn speech(&self, text: &str) -> Arc<Pdu> {
        let key = self.resident.key(SPEAKER);
        self.resident
            .room_of(self.name(), |room| room.say(key, text))
    }

    /// A message that it has signed, at the end of the history or behind another event of it.
    fn signed_speech(&self, text: &str, parent: Option<OwnedEventId>) -> Arc<Pdu> {
        let resident = &self.resident;
        let (key, policy) = (resident.key(SPEAKER), resident.policy_key(POLICY));
        resident.room_of(self.name(), |room| {
            let speaker = room.speaker(key);
            let content = json!({ "msgtype": "m.text", "body": text });
            let mut draft = room.draft(&speaker, "m.room.message", None, &content);
            let is_last = parent.is_none();
            draft.prev_events = parent.map_or(draft.prev_events, |parent| vec![parent]);
            let event = draft.finish(room.version, key).unwrap();
            let signed = countersign(room.version, &event.json, &policy).unwrap();
            let signed = Pdu::from_stored(room.version, event.event_id.clone(), signed);
            let signed = Arc::new(signed.unwrap());
            if is_last {
                room.push(signed.clone());
            }
            signed
        })
    }

    async fn take(&self, events: &[Arc<Pdu>]) {
        let (name, at) = (self.name(), self.address());
        let taken = self.resident.push(name, at, events).await;
        let taken = taken.expect("the transaction is taken");
        for event in events {
            let result = &taken[event.event_id.as_str()];
            assert_eq!(*result, json!({}), "{}: {taken}", event.json);
        }
    }

    /// How often the policy server was asked about an event.
    fn asked_about(&self, event: &str) -> usize {
        let asked = self.resident.asked(self.name(), "sign");
        let names = |body: &Value| id_of(body) == event;
        asked.iter().filter(|asked| names(&asked.body)).count()
    }

    /// The signatures of an event as other servers get it.
    async fn signatures(&self, event: &str) -> Value {
        let path = format!("/_matrix/federation/v1/event/{}", encode(event));
        let (name, at) = (self.name(), self.address());
        let answer = self.resident.request(name, at, "GET", &path, None).await;
        let (status, answer) = answer.unwrap();
        assert_eq!(status, 200, "{answer}");
        answer["pdus"][0]["signatures"].clone()
    }

    /// Tries to send a message; answers status and body.
    async fn try_to_say(&self, room: &str, transaction: &str) -> (u16, Value) {
        let room = encode(room);
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
        let body = json!({ "msgtype": "m.text", "body": transaction });
        self.client.call("PUT", &path, Some(body)).await
    }
}

/// Whether that is the refusal of what the policy server does not recommend.
fn is_not_recommended(status: u16, answer: &Value) -> bool {
    let why = answer["error"].as_str().unwrap_or_default();
    status == 403 && answer["errcode"] == "M_FORBIDDEN" && why.contains("policy server")
}

fn id_of(pdu: &Value) -> String {
    let parsed =
        myelin_core::validate::Unverified::parse(RoomVersion::V11, &pdu.to_string(), None).unwrap();
    parsed.event_id().to_string()
}

#[tokio::test]
async fn an_event_without_the_signature_gets_it_and_keeps_its_others() {
    // The policy server has sent the event itself.
    let newcomer = member(|resident| resident.policy(SPEAKER)).await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    let event = newcomer.speech("hello");
    let id = event.event_id.as_str();
    newcomer.take(from_ref(&event)).await;
    newcomer.until_shown(&event).await;
    let signatures = newcomer.signatures(id).await;
    let key = newcomer.resident.key(SPEAKER);
    let own = signatures[key.server_name().as_str()].as_object().unwrap();
    assert_eq!(own.len(), 2, "{signatures}");
    assert!(own.contains_key(key.key_id().as_str()), "{signatures}");
    assert_eq!(newcomer.asked_about(id), 1);
    let signed: Value = serde_json::from_str(&event.json).unwrap();
    let asked = newcomer.resident.asked(newcomer.name(), "sign");
    assert_eq!(asked[0].body, signed, "the event as it came");
    newcomer.stop().await;
}

#[tokio::test]
async fn a_signed_event_is_shown_without_asking() {
    let newcomer = member(|resident| resident.policy(POLICY)).await;
    newcomer.join().await;
    let event = newcomer.signed_speech("hello", None);
    newcomer.take(from_ref(&event)).await;
    newcomer.until_shown(&event).await;
    assert_eq!(newcomer.resident.asked(newcomer.name(), "sign").len(), 0);
    newcomer.stop().await;
}

#[tokio::test]
async fn an_event_that_does_not_get_the_signature_is_not_shown_and_asked_about_once() {
    let newcomer = member(|resident| resident.policy(POLICY)).await;
    newcomer.join().await;
    let resident = newcomer.resident.clone();
    for (name, conduct) in failures() {
        resident.behave();
        resident.misbehave(None, "sign", conduct);
        let refused = newcomer.speech(name);
        let id = refused.event_id.as_str();
        newcomer.take(from_ref(&refused)).await;
        resident
            .until_asked_about(newcomer.name(), "sign", name)
            .await;
        resident.behave();
        // It is judged after the other, and built upon it.
        let next = newcomer.speech("next");
        newcomer.take(from_ref(&next)).await;
        let shown = newcomer.until_shown(&next);
        newcomer.wait(shown).await;
        assert!(!newcomer.has(&refused).await, "{name}");
        assert_eq!(newcomer.asked_about(id), 1, "{name}");
    }
    newcomer.stop().await;
}

#[tokio::test]
async fn a_silent_policy_server_holds_up_its_room_only() {
    let newcomer = member(|resident| resident.policy(POLICY)).await;
    newcomer.join().await;
    let resident = newcomer.resident.clone();
    resident.misbehave(None, "sign", Conduct::Silence);
    let waiting: Vec<_> = ["one", "two", "three"]
        .map(|text| newcomer.speech(text))
        .into();
    newcomer.take(&waiting).await;
    resident.until_asked(newcomer.name(), "sign", 1).await;
    // Time stands still: whoever waits for the policy server waits.
    let wish = json!({ "preset": "public_chat" });
    let other = newcomer.client.create_room(wish).await;
    newcomer.client.say(&other, "undisturbed").await;
    let before = resident.room_of(newcomer.name(), |room| {
        let place = room.events().len() - 1 - waiting.len();
        room.events()[place].event_id.clone()
    });
    let branch = newcomer.signed_speech("signed", Some(before));
    newcomer.take(from_ref(&branch)).await;
    newcomer.until_shown(&branch).await;
    // After the first silence the others get less time.
    let all = async {
        resident
            .until_asked(newcomer.name(), "sign", waiting.len())
            .await;
    };
    let ((), waited) = newcomer.wait(all).await;
    assert!(waited <= PATIENCE, "{waited:?}");
    newcomer.stop().await;
}

#[tokio::test]
async fn what_the_policy_server_says_no_to_is_not_sent_and_the_user_is_told_why() {
    let (newcomer, room) = host().await;
    let resident = newcomer.resident.clone();
    assert_eq!(
        resident.asked(newcomer.name(), "sign").len(),
        0,
        "not about itself"
    );
    resident.misbehave(None, "sign", Conduct::Error(400, "M_FORBIDDEN"));
    let (status, answer) = newcomer.try_to_say(&room, "t1").await;
    let verbatim = json!({ "errcode": "M_FORBIDDEN", "error": "the test says so" });
    assert_eq!((status, answer), (400, verbatim));
    resident.behave();
    resident.misbehave(None, "sign", Conduct::Silence);
    let saying = newcomer.try_to_say(&room, "t1");
    let ((status, answer), waited) = newcomer.wait(saying).await;
    assert_eq!(status, 502, "{answer}");
    assert!(waited <= PATIENCE, "{waited:?}");
    resident.behave();
    let (status, answer) = newcomer.try_to_say(&room, "t1").await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["event_id"].as_str().unwrap().to_owned();
    resident.until_received(from_ref(&id)).await;
    let signatures = newcomer.signatures(&id).await;
    let by_policy = &signatures[resident.names(SPEAKER).as_str()];
    assert!(by_policy[POLICY_SERVER_KEY].is_string(), "{signatures}");
    assert!(signatures[newcomer.name()].is_object(), "{signatures}");
    let (_, again) = newcomer.try_to_say(&room, "t1").await;
    assert_eq!(again, answer, "the same request, the same event");
    let said = newcomer.client.history(&room, |_| false).await;
    let said = said
        .iter()
        .filter(|event| event["type"] == "m.room.message");
    assert_eq!(said.count(), 1);
    newcomer.stop().await;
}

#[tokio::test]
async fn a_room_gets_rid_of_a_policy_server_that_signs_nothing() {
    let (newcomer, room) = host().await;
    let refusing = Conduct::Error(400, "M_FORBIDDEN");
    newcomer.resident.misbehave(None, "sign", refusing);
    assert_eq!(newcomer.try_to_say(&room, "t1").await.0, 400);
    let client = &newcomer.client;
    client
        .set_state(&room, "m.room.policy", "", json!({}))
        .await;
    assert_eq!(newcomer.try_to_say(&room, "t2").await.0, 200);
    newcomer.stop().await;
}

#[tokio::test]
async fn memberships_handed_over_without_a_recommendation_are_refused() {
    let (newcomer, room) = host().await;
    let (resident, client) = (newcomer.resident.clone(), &newcomer.client);
    let (name, at) = (newcomer.name(), newcomer.address());
    let hand = |what| resident.hand((name, at), (&room, RoomVersion::V11), what);
    let rules = |rule: &str| json!({ "join_rule": rule });
    for (user, what) in [(7, "join"), (1, "leave"), (13, "knock")] {
        if what == "knock" {
            let rule = rules("knock");
            client.set_state(&room, "m.room.join_rules", "", rule).await;
        }
        let before = client.members(&room).await;
        resident.misbehave(None, "sign", Conduct::Error(400, "M_FORBIDDEN"));
        let (status, answer) = hand((user, what)).await;
        assert!(is_not_recommended(status, &answer), "{what}: {answer}");
        assert_eq!(client.members(&room).await, before, "{what}");
        resident.behave();
    }
    // The policy server's user stays, so the others are asked about.
    for (user, what) in [(13, "knock"), (1, "leave")] {
        let (status, answer) = hand((user, what)).await;
        assert_eq!(status, 200, "{what}: {answer}");
    }
    // With its last user gone it isn't the room's policy server any more.
    resident.misbehave(None, "sign", Conduct::Error(400, "M_FORBIDDEN"));
    assert_eq!(newcomer.try_to_say(&room, "t1").await.0, 200);
    newcomer.stop().await;
}

#[tokio::test]
async fn an_invite_without_a_recommendation_is_neither_signed_nor_shown() {
    let (newcomer, room) = host().await;
    let resident = newcomer.resident.clone();
    let guest = newcomer.register("guest").await;
    let (name, at) = (newcomer.name(), newcomer.address());
    let invite = || resident.invite((name, at), (&room, RoomVersion::V11), &guest.user_id);
    resident.misbehave(None, "sign", Conduct::Error(400, "M_FORBIDDEN"));
    let (status, answer) = invite().await;
    assert!(is_not_recommended(status, &answer), "{answer}");
    let invited = |rooms: &Value| rooms["rooms"]["invite"][&room].is_object();
    assert!(!invited(&guest.sync(LAZY, None, Duration::ZERO).await));
    resident.behave();
    let (status, answer) = invite().await;
    assert_eq!(status, 200, "{answer}");
    let told = guest.sync(LAZY, None, Duration::ZERO).await;
    assert!(invited(&told), "{told}");
    newcomer.stop().await;
}

#[tokio::test]
async fn a_policy_server_without_a_user_in_the_room_is_not_asked() {
    let newcomer = member(|resident| {
        let mut policy = resident.policy(POLICY);
        policy["via"] = "elsewhere.test".into();
        policy
    })
    .await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    let event = newcomer.speech("hello");
    newcomer.take(from_ref(&event)).await;
    newcomer.until_shown(&event).await;
    assert_eq!(newcomer.resident.asked(newcomer.name(), "sign").len(), 0);
    newcomer.stop().await;
}

#[tokio::test]
async fn in_a_partial_room_the_policy_server_is_known_from_the_servers_at_the_join() {
    let newcomer = member(|resident| resident.policy(POLICY)).await;
    let resident = newcomer.resident.clone();
    let (holding, release) = Conduct::hold();
    resident.misbehave(None, "state_ids", holding);
    resident.misbehave(None, "sign", Conduct::Error(400, "M_FORBIDDEN"));
    newcomer.join().await;
    resident.until_asked(newcomer.name(), "state_ids", 1).await;
    let event = newcomer.speech("unsigned");
    newcomer.take(from_ref(&event)).await;
    resident.until_asked(newcomer.name(), "sign", 1).await;
    let (status, answer) = newcomer.try_to_say(resident.room_id().as_str(), "t1").await;
    assert_eq!(status, 400, "{answer}");
    release.send_replace(true);
    assert_eq!(newcomer.members().await, newcomer.everybody());
    assert!(!newcomer.has(&event).await);
    newcomer.stop().await;
}

#[tokio::test]
async fn history_that_the_policy_server_does_not_recommend_is_not_shown() {
    let newcomer = member(|resident| resident.policy(POLICY)).await;
    let resident = newcomer.resident.clone();
    let old = newcomer.speech("spam");
    newcomer.join().await;
    resident.misbehave(None, "sign", Conduct::Error(400, "M_FORBIDDEN"));
    let room = resident.room_id().as_str();
    let shown = newcomer.client.history(room, |_| false).await;
    assert!(newcomer.asked_about(old.event_id.as_str()) > 0);
    assert!(
        !shown
            .iter()
            .any(|event| event["event_id"] == old.event_id.as_str())
    );
    newcomer.stop().await;
}
