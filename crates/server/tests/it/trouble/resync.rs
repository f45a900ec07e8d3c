//! Resyncs whose servers fail: the other servers of the room are asked, and if none can help it is
//! tried again later, over crashes too (R117–R121). What others are told meanwhile (R107–R109), and
//! how further users of this server get in (R111–R113).

use std::collections::BTreeSet;
use std::time::Duration;

use myelin_core::build::EventDraft;
use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::newcomer::{LONGEST_WAIT, Newcomer};
use crate::ca::Ca;
use crate::client::{EAGER, LAZY, encode};
use crate::resident::{Conduct, History, NAMES, Resident, forge, user};

/// How many members the room has.
const MEMBERS: usize = 60;

/// A server that is in no answer's way: nothing listens there.
const NOBODY: &str = "127.0.0.1:1";

/// Failures that nobody wrote down.
const NOT_NOTED: &[&str] =
    &["SELECT COUNT(*) FROM partial_rooms WHERE attempts < 3 OR last_error IS NULL"];

type Case = (&'static str, &'static str, Conduct);

/// What the server that served the join does at an endpoint.
fn failures(endpoint: &'static str) -> Vec<Case> {
    vec![
        ("breaks", endpoint, Conduct::Error(500, "M_UNKNOWN")),
        ("refuses", endpoint, Conduct::Error(403, "M_FORBIDDEN")),
        (
            "knows nothing",
            endpoint,
            Conduct::Error(404, "M_NOT_FOUND"),
        ),
        ("is another program", endpoint, Conduct::Nonsense),
        ("breaks off", endpoint, Conduct::CutOff),
        ("is silent", endpoint, Conduct::Silence),
    ]
}

fn lies_about_ids() -> Vec<Case> {
    let wrong = |name, change: fn(&mut Value)| (name, "state_ids", Conduct::lie(change));
    vec![
        wrong("nothing", |answer| {
            answer["pdu_ids"] = json!([]);
            answer["auth_chain_ids"] = json!([]);
        }),
        wrong("no state", |answer| answer["pdu_ids"] = json!([])),
        wrong("no lists", |answer| *answer = json!({})),
        wrong("no create event", |answer| {
            // The history begins with it.
            let chain = answer["auth_chain_ids"].as_array().unwrap();
            let create = chain.first().cloned().unwrap();
            let state = answer["pdu_ids"].as_array_mut().unwrap();
            state.retain(|id| *id != create);
        }),
        wrong("an event that nobody has", |answer| {
            let invented = format!("${}", "A".repeat(43));
            answer["pdu_ids"]
                .as_array_mut()
                .unwrap()
                .push(invented.into());
        }),
    ]
}

fn lies_about_states() -> Vec<Case> {
    let wrong = |name, change: fn(&mut Value)| (name, "state", Conduct::lie(change));
    vec![
        wrong("nothing", |answer| {
            *answer = json!({ "pdus": [], "auth_chain": [] });
        }),
        wrong("half of the state", |answer| {
            let state = answer["pdus"].as_array_mut().unwrap();
            state.truncate(state.len() / 2);
        }),
        wrong("all but one member", |answer| {
            let state = answer["pdus"].as_array_mut().unwrap();
            let last = state
                .iter()
                .rposition(|event| event["type"] == "m.room.member");
            state.remove(last.unwrap());
        }),
        wrong("forged members", |answer| {
            let state = answer["pdus"].as_array_mut().unwrap();
            let members = state
                .iter_mut()
                .filter(|event| event["type"] == "m.room.member");
            members.skip(10).for_each(forge);
        }),
        wrong("messages in place of members", |answer| {
            for event in answer["pdus"].as_array_mut().unwrap() {
                if event["type"] == "m.room.member" {
                    event["type"] = "m.room.message".into();
                }
            }
        }),
    ]
}

/// Joins by way of a server that does as the case says, and fails unless all members are found.
async fn resync_past(version: RoomVersion, cases: Vec<Case>) {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, version, MEMBERS).await;
    let bad = resident.names(1);
    let mut failed = Vec::new();
    for (number, (name, endpoint, conduct)) in cases.into_iter().enumerate() {
        let newcomer = Newcomer::start(&resident, &ca, &format!("newcomer-{number}.test")).await;
        resident.behave();
        // A server that is gone is in the way as well.
        resident.misbehave(
            None,
            "send_join",
            Conduct::lie(|answer| {
                let servers = answer["servers_in_room"].as_array_mut().unwrap();
                servers.insert(0, NOBODY.into());
            }),
        );
        let silent = matches!(conduct, Conduct::Silence);
        resident.misbehave(Some(&bad), endpoint, conduct);
        newcomer.join_through(&bad).await;
        resident.until_asked(newcomer.name(), endpoint, 1).await;
        if silent {
            newcomer.pass(LONGEST_WAIT);
        }
        let members = newcomer.members().await;
        let asked = resident.asked(newcomer.name(), "state_ids");
        if members != newcomer.everybody() || asked[0].name != bad || asked.len() < 2 {
            failed.push(format!("{name}: {} members", members.len()));
        }
        newcomer.stop().await;
    }
    assert!(failed.is_empty(), "of {MEMBERS} and one: {failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_asked_if_one_does_not_answer_state_ids() {
    resync_past(RoomVersion::V12, failures("state_ids")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_asked_if_one_does_not_answer_state() {
    resync_past(RoomVersion::V10, failures("state")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_asked_if_one_lies_about_state_ids() {
    resync_past(RoomVersion::V10, lies_about_ids()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_asked_if_one_lies_about_the_state() {
    resync_past(RoomVersion::V12, lies_about_states()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_asked_that_came_after_the_join() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, MEMBERS).await;
    let (serving, later) = (resident.names(1), resident.names(2));
    let only = serving.clone();
    resident.misbehave(
        None,
        "send_join",
        Conduct::lie(move |answer| answer["servers_in_room"] = json!([only])),
    );
    let refusal = Conduct::Error(403, "M_FORBIDDEN");
    resident.misbehave(Some(&serving), "state_ids", refusal);
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join_through(&serving).await;
    resident.until_asked("newcomer.test", "state_ids", 1).await;
    let arrived = resident.room_of("newcomer.test", |room| {
        room.arrive(resident.key(2), MEMBERS)
    });
    let at = newcomer.address();
    let told = resident.push("newcomer.test", at, std::slice::from_ref(&arrived));
    assert_eq!(told.await, Some(json!({ arrived.event_id.as_str(): {} })));
    let again = resident.until_asked("newcomer.test", "state_ids", 3);
    newcomer.wait_out(Duration::from_secs(60), again).await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    let asked = resident.asked("newcomer.test", "state_ids");
    let asked: Vec<_> = asked.iter().map(|asked| &asked.name).collect();
    assert_eq!(asked[..3], [&serving, &serving, &later]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_that_all_servers_fail_is_tried_again_at_growing_intervals_over_crashes() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, MEMBERS).await;
    let serving = resident.names(3);
    resident.misbehave(None, "state_ids", Conduct::Error(500, "M_UNKNOWN"));
    let mut newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join_through(&serving).await;
    let until_asked = |times| resident.until_asked("newcomer.test", "state_ids", times);
    let mut asked = 0;
    for pause in [60, 120, 240].map(Duration::from_secs) {
        asked += NAMES;
        until_asked(asked).await;
        if pause == Duration::from_secs(240) {
            let (hold, _) = Conduct::hold();
            resident.misbehave(None, "state_ids", hold);
        }
        let nearly = pause - Duration::from_secs(1);
        let ((), waited) = newcomer.wait_out(nearly, until_asked(asked + 1)).await;
        assert!(waited >= pause, "{waited:?} in place of {pause:?}");
    }
    let everybody: BTreeSet<_> = (0..NAMES).map(|number| resident.names(number)).collect();
    let all = resident.asked("newcomer.test", "state_ids");
    for attempt in all[..asked].chunks(NAMES) {
        let names: BTreeSet<_> = attempt.iter().map(|asked| asked.name.clone()).collect();
        assert_eq!(names, everybody, "each is asked once");
    }

    resident.misbehave(None, "state_ids", Conduct::Error(500, "M_UNKNOWN"));
    newcomer = newcomer.crash(NOT_NOTED).await;
    let eager = newcomer.client.sync(EAGER, None, Duration::ZERO).await;
    let joined = &eager["rooms"]["join"][resident.room_id().as_str()];
    assert!(joined.is_null(), "the room is still partial: {eager}");
    until_asked(asked + 1 + NAMES).await;
    let again = &resident.asked("newcomer.test", "state_ids")[asked + 1];
    assert_eq!(again.name, serving, "who served the join is asked first");
    resident.behave();
    let asked_again = until_asked(asked + NAMES + 2);
    let nearly = Duration::from_secs(479);
    let ((), waited) = newcomer.wait_out(nearly, asked_again).await;
    assert!(
        waited >= Duration::from_secs(480),
        "{waited:?} after a crash"
    );
    assert_eq!(newcomer.members().await, newcomer.everybody());
}

/// Lets a user leave. Answers what they could have said before.
fn leave(resident: &Resident, room: &mut History) -> EventDraft {
    let key = resident.key(1);
    let left = room.speaker(key);
    let content = json!({ "msgtype": "m.text", "body": "belated" });
    let unsaid = room.draft(&left, "m.room.message", None, &content);
    let name = ("m.room.member", left.as_str());
    room.write(key, &left, name, &json!({ "membership": "leave" }));
    unsaid
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_built_upon_an_event_that_the_full_state_rejects() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, MEMBERS).await;
    let (hold, release) = Conduct::hold();
    resident.misbehave(None, "state_ids", hold);
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    let unsaid = resident.room_of(newcomer.name(), |room| leave(&resident, room));
    newcomer.join().await;
    // It names the join of then, and stands beside the line of the room.
    let (join, message) = resident.room_of(newcomer.name(), |room| {
        let join = room.last().unwrap().clone();
        let late = EventDraft {
            prev_events: vec![join.event_id.clone()],
            depth: room.events().len() as i64 + 1,
            ..unsaid
        };
        let message = late.finish(room.version, resident.key(1)).unwrap();
        let message = message.into_pdu();
        room.put_aside(message.clone());
        (join, message)
    });
    let at = newcomer.address();
    let told = resident.push(newcomer.name(), at, std::slice::from_ref(&message));
    assert_eq!(told.await, Some(json!({ message.event_id.as_str(): {} })));
    newcomer.until_shown(&message).await;
    release.send_replace(true);
    assert_eq!(newcomer.members().await, newcomer.everybody());
    assert!(!newcomer.has(&message).await, "it is rejected now");

    let room = resident.room_id().as_str();
    newcomer.client.say(room, "afterwards").await;
    resident.until_told(newcomer.name(), "afterwards", 1).await;
    let sent = resident.asked(newcomer.name(), "send");
    let sent = sent.iter().flat_map(|asked| asked.body["pdus"].as_array());
    let said = sent
        .flatten()
        .find(|pdu| pdu["content"]["body"] == "afterwards")
        .unwrap();
    assert_eq!(said["prev_events"], json!([join.event_id.as_str()]));
}

/// A newcomer in the room while nobody tells it the room's state.
pub(super) async fn partial() -> (Newcomer, watch::Sender<bool>) {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, MEMBERS).await;
    let (hold, release) = Conduct::hold();
    resident.misbehave(None, "state_ids", hold);
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join().await;
    resident.until_asked("newcomer.test", "state_ids", 1).await;
    (newcomer, release)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_joins_a_partial_room_over_federation_and_the_resync_runs_once() {
    let (newcomer, release) = partial().await;
    let resident = &newcomer.resident;
    let second = newcomer.register("second").await;
    let (status, answer) = newcomer.try_join(&second, &[]).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(resident.asked("newcomer.test", "send_join").len(), 2);
    let room = resident.room_id().as_str();
    for user in [&newcomer.client, &second] {
        let content = user.state_content(room, "m.room.member", &newcomer.client.user_id);
        assert_eq!(content.await["membership"], "join", "the first one stays");
    }
    release.send_replace(true);
    let members = newcomer.members().await;
    assert_eq!(members, newcomer.everybody());
    assert!(members.contains(&second.user_id));
    assert_eq!(resident.asked("newcomer.test", "state_ids").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_partial_room_has_banned_is_refused_by_the_word_of_the_resident() {
    let (newcomer, _release) = partial().await;
    let banned = newcomer.register("banned").await;
    let resident = &newcomer.resident;
    resident.room_of("newcomer.test", |room| {
        let founder = user(0, resident.key(0));
        let content = json!({ "membership": "ban" });
        let name = ("m.room.member", banned.user_id.as_str());
        room.write(resident.key(0), &founder, name, &content);
    });
    let (status, answer) = newcomer.try_join(&banned, &[]).await;
    assert_eq!(status, 403, "{answer}");
    assert_eq!(answer["errcode"], "M_FORBIDDEN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_room_does_not_become_partial_when_another_user_joins() {
    let (newcomer, release) = partial().await;
    release.send_replace(true);
    assert_eq!(newcomer.members().await, newcomer.everybody());
    let second = newcomer.register("second").await;
    let (status, answer) = newcomer
        .try_join(&second, &[newcomer.resident.name()])
        .await;
    assert_eq!(status, 200, "{answer}");
    let asked = |endpoint| newcomer.resident.asked("newcomer.test", endpoint).len();
    assert_eq!((asked("send_join"), asked("state_ids")), (1, 1));
    let eager = second.sync(EAGER, None, Duration::ZERO).await;
    assert!(eager["rooms"]["join"][newcomer.resident.room_id().as_str()].is_object());
}

/// Asks the newcomer's server, in the name of another in the room.
async fn ask(newcomer: &Newcomer, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let resident = &newcomer.resident;
    let answer = resident.request(newcomer.name(), newcomer.address(), method, path, body);
    let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
    answer.expect("it does not wait").expect("it answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_room_tells_no_states_and_only_its_own_events() {
    let (newcomer, _release) = partial().await;
    let resident = newcomer.resident.clone();
    let room = resident.room_id().as_str();
    let first = newcomer.client.say(room, "mine").await;
    let theirs = resident
        .say("newcomer.test", newcomer.address(), "theirs")
        .await;
    let mut watch = newcomer.client.watch();
    watch.until_event(room, &theirs.unwrap()).await;
    let last = newcomer.client.say(room, "mine too").await;

    let (room, event) = (encode(room), encode(&last));
    for path in [
        format!("v1/state/{room}?event_id={event}"),
        format!("v1/state_ids/{room}?event_id={event}"),
        format!("v1/event_auth/{room}/{event}"),
        format!("v1/event/{event}"),
    ] {
        let path = format!("/_matrix/federation/{path}");
        let (status, answer) = ask(&newcomer, "GET", &path, None).await;
        assert_eq!(status, 403, "{path}: {answer}");
        let code = answer["errcode"].as_str().unwrap();
        assert!(
            code.ends_with("UNABLE_DUE_TO_PARTIAL_STATE"),
            "{path}: {code}"
        );
    }
    let path = format!("/_matrix/federation/v1/get_missing_events/{room}");
    let gap = json!({ "earliest_events": [], "latest_events": [last], "limit": 20 });
    let (status, answer) = ask(&newcomer, "POST", &path, Some(gap)).await;
    assert_eq!(status, 200, "{answer}");
    let given = answer["events"].as_array().unwrap();
    let senders = given.iter().map(|event| event["sender"].as_str().unwrap());
    assert!(
        senders
            .clone()
            .all(|sender| sender == newcomer.client.user_id),
        "{answer}"
    );
    let texts: Vec<_> = given
        .iter()
        .map(|event| event["content"]["body"].clone())
        .collect();
    assert!(texts.contains(&json!("mine")), "{first} is not in {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_partial_room_speak_take_names_give_it_one_and_leave_at_once() {
    let (newcomer, _release) = partial().await;
    let (client, resident) = (&newcomer.client, &newcomer.resident);
    let room = resident.room_id().as_str();
    let mut watch = client.watch();
    let said = client.say(room, "in the dark").await;
    client.set_display_name("Newcomer").await;
    let renamed = |event: &Value| event["content"]["displayname"] == "Newcomer";
    let renamed = watch.until(room, "the new name", renamed).await;
    let alias = encode(&format!("#dark:{}", newcomer.name()));
    let alias = format!("/_matrix/client/v3/directory/room/{alias}");
    client.put(&alias, json!({ "room_id": room })).await;
    assert_eq!(client.get(&alias).await["room_id"], room);
    client.leave(room).await;
    let left = watch.until_member(room, &client.user_id, "leave").await;
    let id = |event: &Value| event["event_id"].as_str().unwrap().to_owned();
    resident
        .until_received(&[said, id(&renamed), id(&left)])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kind_of_event_waits_for_the_full_state() {
    let (newcomer, _release) = partial().await;
    let resident = newcomer.resident.clone();
    let room = resident.room_id().as_str();
    let key = resident.key(1);
    let speaker = resident.room_of("newcomer.test", |room| room.speaker(key));
    let founder = user(0, resident.key(0));
    let events = resident.room_of("newcomer.test", |room| {
        let by_founder = [
            (
                "m.room.guest_access",
                json!({ "guest_access": "forbidden" }),
            ),
            ("m.room.name", json!({ "name": "City" })),
            ("m.room.join_rules", json!({ "join_rule": "invite" })),
            (
                "m.room.history_visibility",
                json!({ "history_visibility": "joined" }),
            ),
            ("m.room.server_acl", json!({ "allow": ["*"] })),
            (
                "m.room.encryption",
                json!({ "algorithm": "m.megolm.v1.aes-sha2" }),
            ),
        ];
        let mut events = Vec::new();
        for (kind, content) in by_founder {
            events.push(room.write(resident.key(0), &founder, (kind, ""), &content));
        }
        let leave = json!({ "membership": "leave" });
        events.push(room.say(key, "so long"));
        events.push(room.write(key, &speaker, ("m.room.member", speaker.as_str()), &leave));
        events
    });
    let at = newcomer.address();
    assert!(resident.push("newcomer.test", at, &events).await.is_some());
    let mut watch = newcomer.client.watch();
    for event in &events {
        watch.until_event(room, event.event_id.as_str()).await;
    }
    let still = newcomer.client.sync(EAGER, None, Duration::ZERO).await;
    assert!(
        still["rooms"]["join"][room].is_null(),
        "the room is still partial"
    );
    let lazy = newcomer.client.sync(LAZY, None, Duration::ZERO).await;
    assert!(lazy["rooms"]["join"][room].is_object());
}
