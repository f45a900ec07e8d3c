//! Joins through servers that fail: another one is asked unless the answer is a refusal (R87, R89,
//! R90, R101). Who has to authorise a join is sent it alone (R88).

use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};

use super::newcomer::{LONGEST_WAIT, Newcomer};
use crate::ca::Ca;
use crate::resident::{Conduct, Resident, forge, user};

/// How many members the room has.
const MEMBERS: usize = 30;

/// The event of an answer's list that has a type.
fn of_type<'v>(answer: &'v mut Value, list: &str, event_type: &str) -> &'v mut Value {
    let events = answer[list].as_array_mut().unwrap();
    let found = events.iter_mut().find(|event| event["type"] == event_type);
    found.unwrap()
}

/// Adds, to a list, an event like the create event which the founder's server has not signed.
fn add_create(answer: &mut Value, from: &str, to: &str, change: impl Fn(&mut Value)) {
    let mut create = of_type(answer, from, "m.room.create").clone();
    change(&mut create);
    answer[to].as_array_mut().unwrap().push(create);
}

/// What a candidate does, and whether somebody else is asked then.
struct Case {
    name: &'static str,
    endpoint: &'static str,
    conduct: Conduct,
    /// Whether the user is in after all.
    joins: bool,
}

fn case(name: &'static str, endpoint: &'static str, conduct: Conduct) -> Case {
    Case {
        name,
        endpoint,
        conduct,
        joins: true,
    }
}

/// Failures of any request.
fn failures(endpoint: &'static str) -> Vec<Case> {
    vec![
        case("breaks", endpoint, Conduct::Error(500, "M_UNKNOWN")),
        case("is behind a dead proxy", endpoint, Conduct::Error(502, "")),
        case(
            "knows no such room",
            endpoint,
            Conduct::Error(404, "M_NOT_FOUND"),
        ),
        case(
            "is partial",
            endpoint,
            Conduct::Error(403, "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE"),
        ),
        case(
            "cannot authorise",
            endpoint,
            Conduct::Error(400, "M_UNABLE_TO_AUTHORISE_JOIN"),
        ),
        case(
            "cannot grant",
            endpoint,
            Conduct::Error(400, "M_UNABLE_TO_GRANT_JOIN"),
        ),
        case("is another program", endpoint, Conduct::Nonsense),
        case("breaks off", endpoint, Conduct::CutOff),
        case("is silent", endpoint, Conduct::Silence),
        Case {
            joins: false,
            ..case("refuses", endpoint, Conduct::Error(403, "M_FORBIDDEN"))
        },
    ]
}

/// Templates of something else than this join.
fn wrong_templates() -> Vec<Case> {
    let wrong = |name, change: fn(&mut Value)| case(name, "make_join", Conduct::lie(change));
    vec![
        wrong("another user", |answer| {
            answer["event"]["state_key"] = "@mallory:evil.test".into();
        }),
        wrong("another sender", |answer| {
            answer["event"]["sender"] = "@mallory:evil.test".into();
        }),
        wrong("another room", |answer| {
            answer["event"]["room_id"] = "!other:evil.test".into();
        }),
        wrong("no join", |answer| {
            answer["event"]["content"]["membership"] = "ban".into();
        }),
        wrong("no membership", |answer| {
            answer["event"]["type"] = "m.room.message".into();
        }),
        wrong("no event", |answer| answer["event"] = Value::Null),
        wrong("another version", |answer| {
            answer["room_version"] = "11".into();
        }),
        Case {
            joins: false,
            ..wrong("a version of its own", |answer| {
                answer["room_version"] = "test.evil".into();
            })
        },
    ]
}

/// Answers to a join that can't be right.
fn invalid_answers() -> Vec<Case> {
    let wrong = |name, change: fn(&mut Value)| case(name, "send_join", Conduct::lie(change));
    vec![
        wrong("no create event", |answer| {
            let state = answer["state"].as_array_mut().unwrap();
            state.retain(|event| event["type"] != "m.room.create");
        }),
        wrong("two create events", |answer| {
            add_create(answer, "state", "state", |create| {
                create["content"]["second"] = true.into();
            });
        }),
        wrong("a forged create event", |answer| {
            forge(of_type(answer, "state", "m.room.create"));
        }),
        wrong("a changed create event", |answer| {
            of_type(answer, "state", "m.room.create")["origin_server_ts"] = 1.into();
        }),
        wrong("forged power levels", |answer| {
            forge(of_type(answer, "state", "m.room.power_levels"));
        }),
        wrong("a create event of another room", |answer| {
            of_type(answer, "state", "m.room.create")["room_id"] = "!other:evil.test".into();
        }),
        wrong("no servers", |answer| answer["servers_in_room"] = json!([])),
        wrong("servers not named", |answer| {
            answer.as_object_mut().unwrap().remove("servers_in_room");
        }),
        wrong("no state", |answer| answer["state"] = json!([])),
    ]
}

/// Lies that do no harm: what is forged is left out, and the rest is believed.
fn harmless_answers() -> Vec<Case> {
    let wrong = |name, change: fn(&mut Value)| case(name, "send_join", Conduct::lie(change));
    vec![
        wrong("a forged name", |answer| {
            forge(of_type(answer, "state", "m.room.name"));
        }),
        wrong("a forged member in the chain", |answer| {
            let mut join = of_type(answer, "auth_chain", "m.room.member").clone();
            join["state_key"] = "@mallory:evil.test".into();
            forge(&mut join);
            answer["auth_chain"].as_array_mut().unwrap().push(join);
        }),
        wrong("another join than was sent", |answer| {
            answer["event"]["content"]["displayname"] = "Mallory".into();
        }),
        wrong("nonsense among the state", |answer| {
            let state = answer["state"].as_array_mut().unwrap();
            state.extend([json!({}), json!(7), json!({ "type": "m.room.member" })]);
        }),
    ]
}

/// Joins by way of a server that does as the case says and of one that is honest.
async fn join_past(version: RoomVersion, cases: Vec<Case>) {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, version, MEMBERS).await;
    let (bad, good) = (resident.names(1), resident.names(2));
    let mut failed = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        let newcomer = Newcomer::start(&resident, &ca, &format!("newcomer-{number}.test")).await;
        resident.behave();
        let silent = matches!(case.conduct, Conduct::Silence);
        resident.misbehave(Some(&bad), case.endpoint, case.conduct);
        let candidates = [bad.clone(), good.clone()];
        let joining = newcomer.try_join(&newcomer.client, &candidates);
        let giving_up = async {
            if silent {
                resident
                    .until_asked(newcomer.name(), case.endpoint, 1)
                    .await;
                newcomer.pass(LONGEST_WAIT);
            }
        };
        let ((status, answer), ()) = tokio::join!(joining, giving_up);
        let asked = |endpoint: &str| -> Vec<_> {
            let asked = resident.asked(newcomer.name(), endpoint);
            asked.into_iter().map(|asked| asked.name).collect()
        };
        let right = if case.joins {
            status == 200 && newcomer.members().await == newcomer.everybody()
        } else {
            (400..500).contains(&status) && !asked("make_join").contains(&good)
        };
        if !right || !asked("make_join").contains(&bad) {
            failed.push(format!("{}: {status} {answer}", case.name));
        }
        newcomer.stop().await;
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_makes_no_template_is_passed_over_unless_it_refuses() {
    join_past(RoomVersion::V12, failures("make_join")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_takes_no_join_is_passed_over_unless_it_refuses() {
    join_past(RoomVersion::V12, failures("send_join")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_of_something_else_is_not_signed() {
    join_past(RoomVersion::V10, wrong_templates()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_answer_to_a_join_is_passed_over_in_room_version_10() {
    join_past(RoomVersion::V10, invalid_answers()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_answer_to_a_join_is_passed_over_in_room_version_12() {
    join_past(RoomVersion::V12, invalid_answers()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_event_in_the_answer_does_not_stand_in_the_way_of_a_join() {
    join_past(RoomVersion::V12, harmless_answers()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_a_user_authorises_is_sent_to_their_server_alone() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, MEMBERS).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    let authoriser = user(2, resident.key(2));
    let naming = move |template: &mut Value| {
        let content = &mut template["event"]["content"];
        content["join_authorised_via_users_server"] = authoriser.as_str().into();
    };
    resident.misbehave(None, "make_join", Conduct::lie(naming));
    let authorising = resident.names(2);
    let fails = Conduct::Error(502, "M_UNKNOWN");
    resident.misbehave(Some(&authorising), "send_join", fails);
    let candidates = [resident.names(1), resident.names(3)];
    let (status, answer) = newcomer.try_join(&newcomer.client, &candidates).await;
    assert_eq!(status, 502, "{answer}");
    let at_last = Conduct::lie(|_| {});
    resident.misbehave(Some(&authorising), "send_join", at_last);
    let (status, answer) = newcomer.try_join(&newcomer.client, &candidates).await;
    assert_eq!(status, 200, "{answer}");
    let sent = resident.asked(newcomer.name(), "send_join");
    let to: Vec<_> = sent.iter().map(|sent| &sent.name).collect();
    // Every candidate made a template, the one that the room is named after too, and then one did.
    assert_eq!(to, [&authorising; 4]);
    newcomer.stop().await;
}
