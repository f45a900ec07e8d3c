//! Deleting the beginning of a room's history.

use http::{Method, StatusCode};
use myelin_storage::{
    Priority, StorageError, params,
    testing::{Fresh, on_each_engine},
};
use serde_json::{Value, json};

use super::Office;

/// What no room may have: events that parents or states name, and that are nowhere.
const BROKEN: [&str; 4] = [
    "SELECT COUNT(*) FROM prev_edges WHERE prev NOT IN (SELECT event FROM events)",
    "SELECT COUNT(*) FROM prev_edges WHERE event NOT IN (SELECT event FROM events WHERE position IS NOT NULL)",
    "SELECT COUNT(*) FROM backward_extremities WHERE event NOT IN (SELECT event FROM events WHERE position IS NULL)",
    "SELECT COUNT(*) FROM prev_edges p JOIN events e ON e.event = p.prev WHERE e.position IS NULL
        AND p.prev NOT IN (SELECT event FROM backward_extremities)",
];

impl Office {
    async fn say(&self, token: &str, room: &str, words: &str) -> String {
        let end = format!("rooms/{room}/send/m.room.message/{words}");
        let message = json!({ "msgtype": "m.text", "body": words });
        let (status, sent) = self.client(token, Method::PUT, &end, message).await;
        assert_eq!(status, 200, "{sent}");
        sent["event_id"].as_str().unwrap().to_owned()
    }

    /// The IDs of the whole history that a user is shown, oldest first.
    async fn history(&self, token: &str, room: &str) -> Vec<String> {
        let mut shown = Vec::new();
        let mut from = String::new();
        loop {
            let end = format!("rooms/{room}/messages?dir=f&limit=100{from}");
            let (status, page) = self.client(token, Method::GET, &end, Value::Null).await;
            assert_eq!(status, 200, "{page}");
            let events = page["chunk"].as_array().unwrap().iter();
            shown.extend(events.map(|event| event["event_id"].as_str().unwrap().to_owned()));
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => return shown,
            }
        }
    }

    async fn purge(&self, end: &str, wish: Value) {
        let target = format!("v1/purge_history/{end}");
        let (status, begun) = self.ask(Method::POST, &target, wish).await;
        assert_eq!(status, StatusCode::OK, "{begun}");
        let id = begun["purge_id"].as_str().unwrap();
        self.site.rooms.history_purge_ended(id).await.unwrap();
        let status = self.get(&format!("v1/purge_history_status/{id}")).await;
        assert_eq!(status, json!({ "status": "complete" }));
        for statement in BROKEN {
            let count = self.site.fresh.database.read("broken", move |tx| {
                Box::pin(async move { tx.query(statement, params![]).await?[0].int(0) })
            });
            assert_eq!(count.await.unwrap(), 0, "{statement}");
        }
    }

    async fn states(&self, room: &str) -> Value {
        let mut state = self.get(&format!("v1/rooms/{room}/state")).await["state"].take();
        let events = state.as_array_mut().unwrap();
        events.sort_by_key(|event| event["event_id"].to_string());
        state
    }
}

#[tokio::test]
async fn what_was_said_before_an_event_is_purged_and_the_state_stays() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (anna, bert) = (
            office.site.token("anna").await,
            office.site.token("bert").await,
        );
        let room = office
            .create(&anna, json!({ "preset": "public_chat" }))
            .await;
        let mut said = Vec::new();
        for number in 0..120 {
            said.push(office.say(&anna, &room, &number.to_string()).await);
        }
        office
            .client(&bert, Method::POST, &format!("join/{room}"), json!({}))
            .await;
        let end = format!("rooms/{room}/redact/{}/r", said[119]);
        office.client(&anna, Method::PUT, &end, json!({})).await;
        let last = office.say(&bert, &room, "last").await;
        let (state, history) = (
            office.states(&room).await,
            office.history(&anna, &room).await,
        );
        let at = history
            .iter()
            .position(|event| *event == said[118])
            .unwrap();

        office
            .purge(
                &format!("{room}/{}", said[118]),
                json!({ "delete_local_events": true }),
            )
            .await;
        assert_eq!(office.history(&anna, &room).await, history[at..]);
        assert_eq!(office.states(&room).await, state);
        let (_, gone) = office
            .client(
                &anna,
                Method::GET,
                &format!("rooms/{room}/event/{}", said[5]),
                Value::Null,
            )
            .await;
        assert_eq!(gone["errcode"], "M_NOT_FOUND");
        let fetched = office
            .refused(
                Method::GET,
                &format!("v1/fetch_event/{}", said[5]),
                Value::Null,
            )
            .await;
        assert_eq!(fetched, (404, "M_NOT_FOUND Event not found".to_owned()));
        // The room goes on, and who comes sees it.
        let next = office.say(&anna, &room, "next").await;
        let all = office.history(&bert, &room).await;
        assert_eq!(all[all.len() - 2..], [last, next]);
    })
    .await;
}

#[tokio::test]
async fn what_this_servers_users_said_is_only_shown_no_more() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = office.site.token("anna").await;
        let room = office.create(&anna, json!({})).await;
        let first = office.say(&anna, &room, "first").await;
        let last = office.say(&anna, &room, "last").await;
        office.purge(&format!("{room}/{last}"), json!({})).await;
        assert_eq!(office.history(&anna, &room).await, [last]);
        office.get(&format!("v1/fetch_event/{first}")).await;
        let end = format!("rooms/{room}/joined_members");
        let (status, members) = office.client(&anna, Method::GET, &end, Value::Null).await;
        assert_eq!(
            (status, members["joined"].as_object().unwrap().len()),
            (200, 1)
        );
    })
    .await;
}

#[tokio::test]
async fn a_history_is_purged_up_to_a_time() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = office.site.token("anna").await;
        let room = office.create(&anna, json!({})).await;
        office.say(&anna, &room, "old").await;
        fresh.env.clock.advance(std::time::Duration::from_secs(60));
        let middle = office.say(&anna, &room, "middle").await;
        let now_ms = fresh.env.clock.now_ms();
        fresh.env.clock.advance(std::time::Duration::from_secs(60));
        let new = office.say(&anna, &room, "new").await;
        office
            .purge(
                &room,
                json!({ "purge_up_to_ts": now_ms, "delete_local_events": true }),
            )
            .await;
        assert_eq!(office.history(&anna, &room).await, [middle, new]);
    })
    .await;
}

#[tokio::test]
async fn a_purge_that_makes_no_sense_is_refused() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = office.site.token("anna").await;
        let room = office.create(&anna, json!({})).await;
        let base = format!("v1/purge_history/{room}");
        let unspecified = "M_BAD_JSON must specify purge_up_to_event_id or purge_up_to_ts";
        for (end, body, expected) in [
            (base.clone(), json!({}), (400, unspecified)),
            (base.clone(), json!({ "purge_up_to_ts": 0 }), (404, "M_NOT_FOUND there is no event to be purged")),
            (format!("{base}/$no"), json!({}), (404, "M_NOT_FOUND Could not find event")),
            (
                "v1/purge_history/!no:example.org/$no".to_owned(),
                json!({}),
                (404, "M_NOT_FOUND this server does not know the room"),
            ),
        ] {
            let refused = office.refused(Method::POST, &end, body).await;
            assert_eq!(refused, (expected.0, expected.1.to_owned()), "{end}");
        }
        let none = office.refused(Method::GET, "v1/purge_history_status/no", Value::Null).await;
        assert_eq!(none, (404, "M_NOT_FOUND purge id 'no' not found".to_owned()));
        let event = office.say(&anna, &room, "tea").await;
        let id = room.clone();
        fresh
            .database
            .write("a purge", Priority::Bulk, move |tx| {
                Box::pin(async move {
                    let active = "INSERT INTO history_purges (purge, room_id, depth, local_too, status, begun_ms)
                        VALUES ('first', $1, 1, FALSE, 'active', 0)";
                    tx.execute(active, params![&id]).await.map(drop)?;
                    Ok::<_, StorageError>(())
                })
            })
            .await
            .unwrap();
        let again = office.refused(Method::POST, &format!("{base}/{event}"), json!({})).await;
        let why = format!("M_UNKNOWN History purge already in progress for {room}");
        assert_eq!(again, (400, why));
    })
    .await;
}
