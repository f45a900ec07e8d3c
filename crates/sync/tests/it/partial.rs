//! Rooms whose members are still being fetched.

use std::time::Duration;

use myelin_core::{event::Verdict, number::EventNr};
use myelin_storage::{
    BoxFuture,
    testing::{Fresh, on_each_engine},
};
use myelin_sync::{Direction, MembersRequest, SyncError, SyncRequest};
use serde_json::{Value, json};

use crate::{
    far_room::{
        Far, MESSAGE, charlie, complete, derek, house_with_partial_room, put_reply, rewrite_message,
    },
    house::{House, alice, filtered, joined, lazy, request, said, since, sorted, viewer},
    relations::{all, related},
};

fn both() -> Vec<String> {
    [charlie(), derek()]
        .iter()
        .map(|user| format!("{user} join"))
        .collect()
}

/// Who is among the events.
fn members(events: &Value) -> Vec<String> {
    sorted(
        said(events)
            .into_iter()
            .filter(|event| event.ends_with(" join"))
            .collect(),
    )
}

#[tokio::test]
async fn an_eager_sync_omits_a_partial_room_and_later_sends_it_whole() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let first = house.first_sync(alice()).await;
        assert_eq!(first["rooms"]["join"], json!({}));
        let second = house.next_sync(alice(), &first).await;
        assert_eq!(second["rooms"]["join"], json!({}));
        complete(&house).await;
        for answer in [
            house.next_sync(alice(), &second).await,
            house.first_sync(alice()).await,
        ] {
            let section = joined(&answer, &room);
            let timeline = said(&section["timeline"]["events"]);
            assert_eq!(timeline, ["@alice:x.example join", "hello"]);
            assert_eq!(section["timeline"]["limited"], true);
            assert_eq!(members(&section["state"]["events"]), both());
            assert_eq!(section["summary"]["m.joined_member_count"], 3);
        }
        let third = house.next_sync(alice(), &second).await;
        let fourth = house.next_sync(alice(), &third).await;
        assert_eq!(fourth["rooms"]["join"], json!({}));
    })
    .await;
}

#[tokio::test]
async fn a_waiting_eager_sync_wakes_when_the_resync_ends() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let first = house.first_sync(alice()).await;
        let patient = SyncRequest {
            timeout: Duration::from_secs(10),
            ..since(request(alice()), &first)
        };
        let sync = house.fresh.env.tasks.spawn("a test's sync", {
            let house = house.clone();
            async move { house.synced(&patient).await }
        });
        // The clock stands still: only the end of the resync can end the wait.
        complete(&house).await;
        let second = sync.await.unwrap();
        assert_eq!(members(&joined(&second, &room)["state"]["events"]), both());
    })
    .await;
}

#[tokio::test]
async fn a_lazy_sync_shows_a_partial_room_with_its_senders() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let dereks = [format!("{} join", derek())];
        let first = house.synced(&filtered(request(alice()), &lazy())).await;
        let section = joined(&first, &room);
        let timeline = said(&section["timeline"]["events"]);
        assert_eq!(timeline, ["@alice:x.example join", "hello"]);
        assert_eq!(members(&section["state"]["events"]), dereks);
        // Limited to the message, and since before it.
        let few = json!({
            "room": {"state": {"lazy_load_members": true}, "timeline": {"limit": 1}},
        });
        let whole = house.synced(&filtered(request(alice()), &few)).await;
        let section = joined(&whole, &room);
        assert_eq!(said(&section["timeline"]["events"]), ["hello"]);
        assert_eq!(section["timeline"]["limited"], true);
        let state = members(&section["state"]["events"]);
        assert_eq!(
            state,
            ["@alice:x.example join".to_owned(), dereks[0].clone()]
        );
        let mut since_join = filtered(request(alice()), &lazy());
        since_join.since = Some("s1_1".parse().unwrap());
        let incremental = house.synced(&since_join).await;
        let section = joined(&incremental, &room);
        assert_eq!(said(&section["timeline"]["events"]), ["hello"]);
        assert_eq!(members(&section["state"]["events"]), dereks);
    })
    .await;
}

#[tokio::test]
async fn a_lazy_client_is_not_sent_all_members_when_the_resync_ends() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let first = house.synced(&filtered(request(alice()), &lazy())).await;
        complete(&house).await;
        let next = filtered(since(request(alice()), &first), &lazy());
        let second = house.synced(&next).await;
        let section = joined(&second, &room);
        assert_eq!(section["summary"]["m.joined_member_count"], 3);
        // Charlie is named as a hero now; derek's membership came with his message.
        let state = said(&section["state"]["events"]);
        assert_eq!(state, [format!("{} join", charlie())]);
        assert_eq!(section["timeline"]["events"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn a_timeline_begins_after_the_last_gap_in_it() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        rewrite_message(&house.fresh, Verdict::Accepted, vec![EventNr(99)]).await;
        let mut since_join = filtered(request(alice()), &lazy());
        for since in [None, Some("s1_1".parse().unwrap())] {
            since_join.since = since;
            let answer = house.synced(&since_join).await;
            let timeline = &joined(&answer, &room)["timeline"];
            assert_eq!(said(&timeline["events"]), ["hello"]);
            assert_eq!(timeline["limited"], true);
            assert_eq!(timeline["prev_batch"], "s1_1");
        }
    })
    .await;
}

#[tokio::test]
async fn history_that_nobody_can_give_is_no_error_and_no_end() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        rewrite_message(&house.fresh, Verdict::Accepted, vec![EventNr(99)]).await;
        let read = async |from: Option<String>| {
            let from = from.as_deref();
            let page = house
                .messages(&room, alice(), Direction::Backward, from)
                .await
                .unwrap();
            (said(&serde_json::to_value(&page.chunk).unwrap()), page.end)
        };
        let (chunk, end) = read(None).await;
        assert_eq!(chunk, ["hello", "@alice:x.example join"]);
        assert!(end.is_some());
        assert_eq!(read(end).await, (Vec::new(), None));
    })
    .await;
}

#[tokio::test]
async fn rejected_and_soft_failed_events_are_shown_to_nobody() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let message = Far::new().events[MESSAGE].id().to_owned();
        let me = viewer(alice());
        assert!(house.sync.event(&me, &room, &message).await.is_ok());
        for verdict in [Verdict::Rejected, Verdict::SoftFailed] {
            rewrite_message(&house.fresh, verdict, Vec::new()).await;
            let house = House::open(house.fresh.clone()).await;
            let answer = house.synced(&filtered(request(alice()), &lazy())).await;
            let timeline = said(&joined(&answer, &room)["timeline"]["events"]);
            assert_eq!(timeline, ["@alice:x.example join"], "{verdict:?}");
            for direction in [Direction::Backward, Direction::Forward] {
                let page = house
                    .messages(&room, alice(), direction, None)
                    .await
                    .unwrap();
                let chunk = said(&serde_json::to_value(&page.chunk).unwrap());
                assert_eq!(chunk, ["@alice:x.example join"], "{verdict:?}");
            }
            let event = house.sync.event(&me, &room, &message).await;
            assert!(
                matches!(event, Err(SyncError::NotFound(_))),
                "{verdict:?} {event:?}"
            );
        }
    })
    .await;
}

/// On SQLite only: PostgreSQL's connections take their time, on the clock that is wound forward here.
#[tokio::test]
async fn members_wait_for_the_resync_but_not_for_ever() {
    let (house, room) = house_with_partial_room(Fresh::sqlite().await).await;
    let request = MembersRequest {
        room_id: room.clone(),
        at: None,
        membership: None,
        not_membership: None,
    };
    let (me, sync, clock) = (viewer(alice()), &house.sync, &house.fresh.env.clock);
    let waits: [BoxFuture<'_, Option<SyncError>>; 4] = [
        Box::pin(async { sync.members(&me, &request).await.err() }),
        Box::pin(async { sync.joined_members(&me, &room).await.err() }),
        Box::pin(async { sync.state(&me, &room).await.err() }),
        Box::pin(async {
            let entry = sync.state_entry(&me, &room, "m.room.member", derek().as_str());
            entry.await.err()
        }),
    ];
    for wait in waits {
        let begun = clock.instant();
        let wind = async {
            loop {
                clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        };
        let answer = tokio::select! { answer = wait => answer, never = wind => never };
        assert!(
            matches!(answer, Some(SyncError::StillPartial)),
            "{answer:?}"
        );
        assert!(begun.elapsed(clock) >= Duration::from_secs(30), "it waited");
    }
}

#[tokio::test]
async fn what_a_partial_state_knows_is_answered_at_once() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let me = viewer(alice());
        let own = house
            .sync
            .state_entry(&me, &room, "m.room.member", alice().as_str())
            .await;
        assert!(own.is_ok(), "{own:?}");
        let create = house
            .sync
            .state_entry(&me, &room, "m.room.create", "")
            .await;
        assert!(create.is_ok(), "{create:?}");
        let topic = house.sync.state_entry(&me, &room, "m.room.topic", "").await;
        assert!(matches!(topic, Err(SyncError::NotFound(_))), "{topic:?}");
        assert_eq!(house.sync.joined_rooms(alice()).await.unwrap(), [room]);
    })
    .await;
}

#[tokio::test]
async fn members_as_of_the_partial_phase_are_whole_after_it() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let then = house.synced(&filtered(request(alice()), &lazy())).await;
        complete(&house).await;
        let house = House::open(house.fresh).await;
        for at in [None, then["next_batch"].as_str().map(str::to_owned)] {
            let request = MembersRequest {
                room_id: room.clone(),
                at,
                membership: None,
                not_membership: None,
            };
            let found = house
                .sync
                .members(&viewer(alice()), &request)
                .await
                .unwrap();
            let found = members(&serde_json::to_value(&found).unwrap());
            let mut expected = vec!["@alice:x.example join".to_owned()];
            expected.extend(both());
            assert_eq!(found, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn what_relates_to_an_event_is_known_in_a_partial_room() {
    on_each_engine(|fresh| async {
        let (house, room) = house_with_partial_room(fresh).await;
        let message = Far::new().events[MESSAGE].id().to_owned();
        put_reply(&house).await;
        let found = related(&house, &all(&room, alice(), &message)).await;
        assert_eq!(said(&found["chunk"]), ["reply"]);
        let answer = house.synced(&filtered(request(alice()), &lazy())).await;
        let events = joined(&answer, &room)["timeline"]["events"]
            .as_array()
            .unwrap();
        let is_message = |event: &&Value| event["event_id"] == message.as_str();
        let shown = events.iter().find(is_message).unwrap();
        let thread = &shown["unsigned"]["m.relations"]["m.thread"];
        assert_eq!(thread["count"], 1);
        assert_eq!(thread["current_user_participated"], false);
    })
    .await;
}
