//! History from before the join, when the servers that are asked for it fail (R61–R64).

use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::client::{EAGER, encode};
use crate::resident::{Conduct, NAMES, Resident};

/// How many members the room has: as many events and a few more lie before the join.
const MEMBERS: usize = 250;

/// A newcomer to a room with a long history, who has all of its state.
async fn newcomer(name: &str, resident: &std::sync::Arc<Resident>, ca: &Ca) -> Newcomer {
    let newcomer = Newcomer::start(resident, ca, name).await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    newcomer
}

impl Newcomer {
    /// The whole history as the client sees it, newest first.
    async fn read_history(&self) -> Vec<String> {
        let room = self.resident.room_id().as_str();
        let history = self.client.history(room, |_| false).await;
        let id = |event: &Value| event["event_id"].as_str().unwrap().to_owned();
        history.iter().map(id).collect()
    }

    /// The whole history as the resident has it, newest first.
    fn written_history(&self) -> Vec<String> {
        self.resident.room_of(self.name(), |room| {
            let ids = room.events().iter().rev();
            ids.map(|event| event.event_id.to_string()).collect()
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_asked_for_history_if_one_fails_or_lies() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, MEMBERS).await;
    let conducts = [
        ("breaks", Conduct::Error(500, "M_UNKNOWN")),
        ("refuses", Conduct::Error(403, "M_FORBIDDEN")),
        ("is another program", Conduct::Nonsense),
        ("breaks off", Conduct::CutOff),
        (
            "tells of another room",
            Conduct::lie(|answer| {
                let events = answer["pdus"].as_array_mut().unwrap();
                let first = events.first_mut().unwrap();
                first["room_id"] = "!other:evil.test".into();
            }),
        ),
    ];
    for (number, (name, conduct)) in conducts.into_iter().enumerate() {
        resident.behave();
        let newcomer = newcomer(&format!("reader-{number}.test"), &resident, &ca).await;
        // All but one are of no use, whichever is asked first.
        for useless in 0..NAMES - 1 {
            if useless != 3 {
                resident.misbehave(Some(&resident.names(useless)), "backfill", conduct.clone());
            }
        }
        assert_eq!(
            newcomer.read_history().await,
            newcomer.written_history(),
            "{name}"
        );
        let asked = resident.asked(newcomer.name(), "backfill");
        for asked in &asked {
            assert!(asked.path.contains("limit=100"), "{asked:?}");
            assert!(asked.path.matches("v=").count() <= 5, "{asked:?}");
            assert_eq!(asked.at_once, 1, "{asked:?}");
        }
        newcomer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_refusals_end_the_search_for_history_and_readers_get_what_there_is() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, MEMBERS).await;
    let newcomer = newcomer("reader.test", &resident, &ca).await;
    resident.misbehave(None, "backfill", Conduct::Error(403, "M_FORBIDDEN"));
    let room = encode(resident.room_id().as_str());
    let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100");
    let page = newcomer.client.get(&path).await;
    assert_eq!(
        page["chunk"].as_array().unwrap().len(),
        1,
        "the join: {page}"
    );
    assert_eq!(resident.asked("reader.test", "backfill").len(), 5);
    resident.behave();
    assert_eq!(newcomer.read_history().await, newcomer.written_history());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_found_by_its_words_when_it_was_fetched() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, MEMBERS).await;
    resident.room_of("reader.test", |room| {
        room.say(resident.key(0), "a town by the sea");
    });
    let newcomer = newcomer("reader.test", &resident, &ca).await;
    let found = async || {
        let criteria = json!({ "search_term": "Town", "order_by": "recent" });
        let body = json!({ "search_categories": { "room_events": criteria } });
        let answer = newcomer
            .client
            .post("/_matrix/client/v3/search", body)
            .await;
        let results = &answer["search_categories"]["room_events"]["results"];
        let results = results.as_array().unwrap().iter();
        let kind = |result: &Value| result["result"]["type"].as_str().unwrap().to_owned();
        results.map(kind).collect::<Vec<_>>()
    };
    // The room's name came with its state, but when it was given is not known.
    assert_eq!(found().await, [""; 0]);
    assert_eq!(newcomer.read_history().await, newcomer.written_history());
    assert_eq!(found().await, ["m.room.message", "m.room.name"]);
    newcomer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_room_share_one_backfill() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V10, MEMBERS).await;
    let newcomer = newcomer("reader.test", &resident, &ca).await;
    let (hold, release) = Conduct::hold();
    resident.misbehave(None, "backfill", hold);
    let path = format!(
        "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=20",
        encode(resident.room_id().as_str())
    );
    let reading = async || newcomer.client.get(&path).await["chunk"].clone();
    let releasing = async {
        resident.until_asked("reader.test", "backfill", 1).await;
        release.send_replace(true);
    };
    let (one, other, third, ()) = tokio::join!(reading(), reading(), reading(), releasing);
    assert_eq!(one.as_array().unwrap().len(), 20);
    assert!(one == other && other == third, "all see the same");
    assert_eq!(resident.asked("reader.test", "backfill").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_of_a_partial_room_comes_from_the_servers_at_the_join() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, MEMBERS).await;
    // It is asked first for the state of the room, and last for its history.
    let serving = (0..NAMES)
        .map(|number| resident.names(number))
        .max()
        .unwrap();
    let (hold, _release) = Conduct::hold();
    resident.misbehave(Some(&serving), "state_ids", hold);
    let newcomer = Newcomer::start(&resident, &ca, "reader.test").await;
    newcomer.join_through(&serving).await;
    resident.until_asked("reader.test", "state_ids", 1).await;
    assert_eq!(newcomer.read_history().await, newcomer.written_history());
    let eager = newcomer.client.sync(EAGER, None, Duration::ZERO).await;
    let room = &eager["rooms"]["join"][resident.room_id().as_str()];
    assert!(room.is_null(), "the room is still partial");
}
