//! Gaps before pushed events: what is asked of whom, and what becomes of answers that are wrong
//! (R19, R48–R50, R53–R59).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use myelin_core::pdu::Pdu;
use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::resident::{Conduct, Resident, forge};

/// How many members the room has.
const MEMBERS: usize = 60;

/// Users that the room does not have at first.
const STRANGERS: usize = 1_000;

/// A newcomer who has the whole room.
async fn member(version: RoomVersion) -> Newcomer {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, version, MEMBERS).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    newcomer
}

impl Newcomer {
    /// Messages that the server is not sent.
    fn miss(&self, count: usize) -> Vec<Arc<Pdu>> {
        let say = |number: usize| {
            let key = self.resident.key(1);
            let text = format!("message {number}");
            self.resident
                .room_of(self.name(), |room| room.say(key, &text))
        };
        (0..count).map(say).collect()
    }

    /// Users who join and of whom the server is not told.
    fn miss_joins(&self, from: usize, count: usize) -> Vec<Arc<Pdu>> {
        let join = |number: usize| {
            let key = self.resident.key(1);
            self.resident
                .room_of(self.name(), |room| room.arrive(key, STRANGERS + number))
        };
        (from..from + count).map(join).collect()
    }

    async fn push(&self, events: &[Arc<Pdu>]) {
        let answer = self
            .resident
            .push(self.name(), self.address(), events)
            .await;
        assert!(answer.is_some(), "the events are taken");
    }

    /// How often the server asked at an endpoint.
    fn times(&self, endpoint: &str) -> usize {
        self.resident.asked(self.name(), endpoint).len()
    }

    /// Waits until all events that were pushed so far are judged: an event of another branch, which
    /// needs nothing, comes after them.
    async fn until_judged(&self) {
        let key = self.resident.key(2);
        let event = self.resident.room_of(self.name(), |room| {
            let speaker = room.speaker(key);
            let content = json!({ "body": "from beside" });
            let mut draft = room.draft(&speaker, "m.room.message", None, &content);
            // Its parent is not there, and nobody has it: it is refused after one question.
            draft.prev_events = vec![format!("${}", "B".repeat(43)).try_into().unwrap()];
            draft.finish(room.version, key).unwrap().into_pdu()
        });
        let id = event.event_id.to_string();
        self.push(&[event]).await;
        let resident = &self.resident;
        resident
            .until_asked_about(self.name(), "get_missing_events", &id)
            .await;
    }
}

/// The bodies of the messages that are shown, oldest first.
async fn texts(newcomer: &Newcomer) -> Vec<String> {
    let room = newcomer.resident.room_id().as_str();
    let history = newcomer.client.history(room, |_| false).await;
    let bodies = history
        .iter()
        .rev()
        .filter_map(|event| event["content"]["body"].as_str());
    bodies.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_asked_for_once_and_filled_parents_first() {
    let newcomer = member(RoomVersion::V12).await;
    let resident = &newcomer.resident;
    let known = resident.room_of(newcomer.name(), |room| room.last().unwrap().clone());
    // The order of an answer does not matter.
    let backwards = Conduct::lie(|answer| answer["events"].as_array_mut().unwrap().reverse());
    resident.misbehave(None, "get_missing_events", backwards);
    let missed = newcomer.miss(5);
    let pushed = newcomer.miss(3);
    newcomer.push(&pushed).await;
    newcomer.until_shown(pushed.last().unwrap()).await;

    let asked = resident.asked(newcomer.name(), "get_missing_events");
    assert_eq!(
        asked.len(),
        1,
        "those that wait find the gap filled: {asked:?}"
    );
    assert_eq!(asked[0].body["limit"], 10);
    assert_eq!(asked[0].body["latest_events"], json!([pushed[0].event_id]));
    assert_eq!(asked[0].body["earliest_events"], json!([known.event_id]));
    assert_eq!(
        newcomer.times("state_ids"),
        1,
        "only the resync asked for a state"
    );
    let everything = [&missed[..], &pushed[..]].concat();
    for event in &everything {
        assert!(newcomer.has(event).await, "{}", event.json);
    }
    let said = texts(&newcomer).await;
    let expected = [
        "message 0",
        "message 1",
        "message 2",
        "message 3",
        "message 4",
    ];
    assert_eq!(said[said.len() - 8..said.len() - 3], expected);
}

/// What the origin says when it is asked for missing events.
fn useless_answers() -> Vec<(&'static str, Conduct)> {
    let lie = |change: fn(&mut Value)| Conduct::lie(change);
    vec![
        ("breaks", Conduct::Error(500, "M_UNKNOWN")),
        ("refuses", Conduct::Error(403, "M_FORBIDDEN")),
        ("is another program", Conduct::Nonsense),
        ("breaks off", Conduct::CutOff),
        ("is silent", Conduct::Silence),
        ("has nothing", lie(|answer| answer["events"] = json!([]))),
        (
            "forges",
            lie(|answer| {
                answer["events"]
                    .as_array_mut()
                    .unwrap()
                    .iter_mut()
                    .for_each(forge);
            }),
        ),
        (
            "has another room",
            lie(|answer| {
                for event in answer["events"].as_array_mut().unwrap() {
                    event["room_id"] = "!other:evil.test".into();
                }
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_event_whose_parents_do_not_come_is_refused_until_they_do() {
    let newcomer = member(RoomVersion::V12).await;
    let resident = &newcomer.resident;
    let states = newcomer.times("state_ids");
    let mut failed = Vec::new();
    for (name, conduct) in useless_answers() {
        let silent = matches!(conduct, Conduct::Silence);
        resident.behave();
        // What lies behind the gap can't be bridged by a state either.
        resident.misbehave(None, "state_ids", Conduct::Error(404, "M_NOT_FOUND"));
        resident.misbehave(None, "get_missing_events", conduct);
        let asked = newcomer.times("get_missing_events");
        let missed = newcomer.miss(3);
        let pushed = newcomer.miss(1);
        newcomer.push(&pushed).await;
        resident
            .until_asked(newcomer.name(), "get_missing_events", asked + 1)
            .await;
        if silent {
            // No more than a minute.
            newcomer.pass(Duration::from_secs(61));
            resident.behave();
        }
        newcomer.until_judged().await;
        resident.behave();
        if newcomer.has(&pushed[0]).await || newcomer.times("state_ids") != states {
            failed.push(format!(
                "{name}: taken, or a state was asked for at its parents"
            ));
        }
        let honest = newcomer.miss(1);
        newcomer.push(&honest).await;
        newcomer.until_shown(&honest[0]).await;
        for event in missed.iter().chain(&pushed) {
            if !newcomer.has(event).await {
                failed.push(format!("{name}: {} does not come later", event.event_id));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Answers only the newest of the missing events, and nothing more when asked again: so a parent of it
/// is missing.
fn newest_only() -> Conduct {
    let told = AtomicBool::new(false);
    Conduct::lie(move |answer| {
        let events = answer["events"].as_array_mut().unwrap();
        let newest = events.pop().filter(|_| !told.swap(true, Ordering::SeqCst));
        *events = newest.into_iter().collect();
    })
}

/// A gap of so many joins, of which only the newest event is told. Answers the joins, the event that is
/// told, and the one after it, which is pushed.
async fn leap(newcomer: &Newcomer, from: usize, joins: usize) -> (Vec<Arc<Pdu>>, Vec<Arc<Pdu>>) {
    newcomer
        .resident
        .misbehave(None, "get_missing_events", newest_only());
    let joined = newcomer.miss_joins(from, joins);
    let last = newcomer.miss(3);
    newcomer.push(&last[2..]).await;
    (joined, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_at_a_gap_is_fetched_by_events_if_little_is_missing() {
    let newcomer = member(RoomVersion::V12).await;
    let (states, events) = (newcomer.times("state"), newcomer.times("event"));
    let (joined, last) = leap(&newcomer, 0, 5).await;
    newcomer.until_shown(&last[2]).await;
    let asked = newcomer
        .resident
        .asked(newcomer.name(), "event")
        .split_off(events);
    // The joins, and the parent itself.
    assert_eq!(asked.len(), joined.len() + 1, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.at_once <= 5), "{asked:?}");
    assert_eq!(newcomer.times("state"), states);
    assert_eq!(newcomer.members().await, newcomer.everybody());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_at_a_gap_is_fetched_whole_if_much_is_missing() {
    let newcomer = member(RoomVersion::V12).await;
    let (states, events) = (newcomer.times("state"), newcomer.times("event"));
    let (_, last) = leap(&newcomer, 0, 30).await;
    newcomer.until_shown(&last[2]).await;
    assert_eq!(newcomer.times("state"), states + 1);
    let more = newcomer.times("event") - events;
    assert!(more <= 1, "the parent may be asked for by itself");
    assert_eq!(newcomer.members().await, newcomer.everybody());
}

/// How the state at a gap is told wrongly.
fn lies_at_the_gap() -> Vec<(&'static str, usize, &'static str, Conduct)> {
    let lie = |change: fn(&mut Value)| Conduct::lie(change);
    let empty = lie(|answer| answer["pdus"] = json!([]));
    let half = lie(|answer| {
        let pdus = answer["pdus"].as_array_mut().unwrap();
        pdus.truncate(pdus.len() / 2);
    });
    let ids = lie(|answer| answer["pdu_ids"] = json!([]));
    vec![
        ("no IDs", 5, "state_ids", Conduct::Error(404, "M_NOT_FOUND")),
        ("an empty list of IDs", 5, "state_ids", ids),
        ("no events", 5, "event", Conduct::Error(404, "M_NOT_FOUND")),
        ("no events in the answers", 5, "event", empty.clone()),
        ("an empty state", 40, "state", empty),
        ("half of the state", 40, "state", half),
        ("no state", 40, "state", Conduct::Error(500, "M_UNKNOWN")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_which_a_part_is_missing_is_not_built_upon() {
    let mut failed = Vec::new();
    for (name, joins, endpoint, conduct) in lies_at_the_gap() {
        let newcomer = member(RoomVersion::V12).await;
        newcomer.resident.misbehave(None, endpoint, conduct);
        let asked = newcomer.times(endpoint);
        let (_, last) = leap(&newcomer, 0, joins).await;
        newcomer
            .resident
            .until_asked(newcomer.name(), endpoint, asked + 1)
            .await;
        newcomer.until_judged().await;
        if newcomer.has(&last[1]).await || newcomer.has(&last[2]).await {
            failed.push(format!("{name}: taken"));
        }
        newcomer.stop().await;
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_state_of_the_room_is_left_out_of_the_state_at_a_gap() {
    let newcomer = member(RoomVersion::V12).await;
    let resident = &newcomer.resident;
    let message = newcomer.miss(1).remove(0);
    newcomer.push(std::slice::from_ref(&message)).await;
    newcomer.until_shown(&message).await;
    let another = Resident::start(&Ca::generate(), RoomVersion::V12, 3).await;
    let foreign = another.room_of(newcomer.name(), |room| room.last().unwrap().clone());
    resident.room_of(newcomer.name(), |room| room.put_aside(foreign.clone()));
    let ids = [&message, &foreign].map(|event| Value::from(event.event_id.as_str()));
    let lie = Conduct::lie(move |answer| {
        answer["pdu_ids"]
            .as_array_mut()
            .unwrap()
            .extend(ids.clone());
    });
    resident.misbehave(None, "state_ids", lie);
    let (_, last) = leap(&newcomer, 0, 5).await;
    newcomer.until_shown(&last[2]).await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_could_not_be_placed_rests_for_growing_times() {
    let newcomer = member(RoomVersion::V12).await;
    let resident = &newcomer.resident;
    let refusal = || Conduct::Error(404, "M_NOT_FOUND");
    resident.misbehave(None, "state_ids", refusal());
    let before = newcomer.times("state_ids");
    let (_, last) = leap(&newcomer, 0, 5).await;
    newcomer.until_judged().await;
    assert_eq!(newcomer.times("state_ids"), before + 1);

    // Nothing is asked for what comes after it either, and that is no failure of its own.
    let later = newcomer.miss(1);
    resident.misbehave(None, "get_missing_events", newest_only());
    newcomer.push(&later).await;
    newcomer.until_judged().await;
    assert_eq!(newcomer.times("state_ids"), before + 1);

    for hours in [2, 4] {
        let tried = newcomer.times("state_ids");
        for (passed, tries) in [(0, 0), (hours, 1)] {
            newcomer.pass(Duration::from_secs(passed * 3_600));
            resident.misbehave(None, "get_missing_events", newest_only());
            newcomer.push(&last[2..]).await;
            newcomer.until_judged().await;
            let times = newcomer.times("state_ids");
            assert_eq!(times, tried + tries, "after {passed} of {hours} hours");
        }
    }
    resident.behave();
    resident.misbehave(None, "get_missing_events", newest_only());
    newcomer.pass(Duration::from_secs(8 * 3_600));
    newcomer.push(&last[2..]).await;
    newcomer.until_shown(&last[2]).await;
    newcomer
        .stop_and_expect(&["SELECT COUNT(*) FROM pull_failures"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_auth_events_are_asked_for_once_and_may_come_later() {
    let newcomer = member(RoomVersion::V12).await;
    let resident = &newcomer.resident;
    let key = resident.key(1);
    // A message that cites a change of its author's name, of which the server has not heard.
    let (renamed, message) = resident.room_of(newcomer.name(), |room| {
        let parent = room.last().unwrap().event_id.clone();
        let speaker = room.speaker(key);
        let name = ("m.room.member", speaker.as_str());
        let content = json!({ "membership": "join", "displayname": "renamed" });
        let renamed = room.write(key, &speaker, name, &content);
        let body = json!({ "body": "who am I" });
        let mut draft = room.draft(&speaker, "m.room.message", None, &body);
        draft.prev_events = vec![parent];
        let message = draft.finish(room.version, key).unwrap().into_pdu();
        room.put_aside(message.clone());
        (renamed, message)
    });
    let origin = resident.names(1);
    let refusal = Conduct::Error(404, "M_NOT_FOUND");
    resident.misbehave(None, "event_auth", refusal);
    newcomer.push(std::slice::from_ref(&message)).await;
    resident.until_asked(newcomer.name(), "event_auth", 1).await;
    newcomer.until_judged().await;
    let asked = resident.asked(newcomer.name(), "event_auth");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].name, origin, "the origin is asked");
    let about = message.event_id.as_str().trim_start_matches('$');
    assert!(asked[0].path.ends_with(about), "{asked:?}");
    assert!(!newcomer.has(&message).await);

    resident.behave();
    newcomer.push(std::slice::from_ref(&message)).await;
    newcomer.until_shown(&message).await;
    assert_eq!(newcomer.times("event_auth"), 2);
    assert!(!newcomer.has(&renamed).await, "an auth event is an outlier");
}
