//! Joins through servers that don't answer, and what others push meanwhile (R42, R103).

use std::time::Duration;

use myelin_core::{completeness::Completeness, room_version::RoomVersion, validate::Unverified};
use myelin_rooms::RoomError;
use myelin_storage::{
    events,
    joins::{self, JoinRecord},
    staged,
    testing::{START_MS, on_each_engine},
};
use ruma::{OwnedEventId, OwnedRoomId, room_id};
use serde_json::{Map, Value, json};

use crate::{
    house::{House, alice, until},
    peers::Peers,
    story::{Story, bob, membership, message, state, topic},
};

/// A public room of bob's, of which nobody has heard.
pub(crate) fn bobs_room(name: &str) -> (Story, OwnedEventId) {
    let room_id = OwnedRoomId::try_from(format!("!{name}:{}", bob().server_name())).unwrap();
    let mut story = Story::new(RoomVersion::V11, room_id, START_MS);
    let create = json!({ "room_version": "11" });
    let create = story.write(&[], state(bob(), "m.room.create", "", create));
    let levels = json!({ "users": { bob().as_str(): 100 } });
    let words = [
        membership(bob(), bob(), "join"),
        state(bob(), "m.room.power_levels", "", levels),
        state(
            bob(),
            "m.room.join_rules",
            "",
            json!({ "join_rule": "public" }),
        ),
    ];
    let tip = story.chain(&create, words).pop().unwrap();
    (story, tip)
}

/// Bob's server makes templates of alice's join after an event.
pub(crate) fn offer(peers: &Peers, story: &Story, tip: &OwnedEventId) {
    let at = |event_type: &str| story.after(tip)[&(event_type.to_owned(), String::new())].clone();
    let cited = ["m.room.create", "m.room.power_levels", "m.room.join_rules"].map(at);
    let event = json!({
        "room_id": story.room_id,
        "sender": alice(),
        "type": "m.room.member",
        "state_key": alice(),
        "content": { "membership": "join" },
        "prev_events": [tip],
        "auth_events": cited,
        "depth": story.pdu(tip).depth + 1,
        "origin_server_ts": START_MS,
    });
    let template = json!({ "room_version": story.version.as_str(), "event": event });
    peers.answer(bob().server_name(), "make_join", template);
}

/// The state after an event, as `send_join` tells it in full.
pub(crate) fn told_state(story: &Story, tip: &OwnedEventId) -> Value {
    let state = story.after(tip);
    let chain = story.auth_chain(state);
    let state: Vec<_> = state.values().map(|id| story.json(id)).collect();
    let chain: Vec<_> = chain.iter().map(|id| story.json(id)).collect();
    json!({ "state": state, "auth_chain": chain })
}

/// Waits for the join that bob's server is sent, and takes it into the story.
pub(crate) async fn read_join(peers: &Peers, story: &mut Story, earlier: usize) -> OwnedEventId {
    until(async || peers.times("send_join") > earlier).await;
    let asked = peers.asked();
    let sent = asked.iter().rfind(|asked| asked.endpoint == "send_join");
    let join = sent.unwrap().body.to_string();
    let join = Unverified::parse(story.version, &join, Some(&story.room_id)).unwrap();
    let id = join.event_id().to_owned();
    story.read(join.pdu().clone().into());
    id
}

/// Lets alice join after an event, by way of bob's server.
pub(crate) async fn let_in(
    house: &House,
    peers: &Peers,
    story: &mut Story,
    tip: &OwnedEventId,
) -> OwnedEventId {
    join(house, peers, story, tip, told_state(story, tip)).await
}

/// Lets alice join after an event, by way of bob's server, which does not tell the room's members.
pub(crate) async fn let_in_partially(
    house: &House,
    peers: &Peers,
    story: &mut Story,
    tip: &OwnedEventId,
) -> OwnedEventId {
    let mut told = told_state(story, tip);
    told["members_omitted"] = true.into();
    told["servers_in_room"] = json!([bob().server_name()]);
    peers.silence(bob().server_name(), "state_ids");
    join(house, peers, story, tip, told).await
}

async fn join(
    house: &House,
    peers: &Peers,
    story: &mut Story,
    tip: &OwnedEventId,
    told: Value,
) -> OwnedEventId {
    let bobs = bob().server_name();
    let earlier = peers.times("send_join");
    offer(peers, story, tip);
    peers.answer(bobs, "send_join", told);
    let room_id = story.room_id.clone();
    let joining = house.rooms.join(
        alice(),
        (&*room_id).into(),
        vec![bobs.to_owned()],
        Map::new(),
    );
    Box::pin(joining).await.unwrap();
    read_join(peers, story, earlier).await
}

#[tokio::test]
async fn what_is_pushed_during_a_join_waits_for_its_end_and_keeps_its_order() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let bobs = bob().server_name();
        for (name, succeeds) in [("vain", false), ("successful", true)] {
            let (mut story, tip) = bobs_room(name);
            let room_id = story.room_id.clone();
            offer(&peers, &story, &tip);
            peers.silence(bobs, "send_join");
            let earlier = peers.times("send_join");
            let asked_before = peers.times("get_missing_events");
            let joining = house.rooms.join(
                alice(),
                (&*room_id).into(),
                vec![bobs.to_owned()],
                Map::new(),
            );
            let mut later = Vec::new();
            let talking = async {
                let join = read_join(&peers, &mut story, earlier).await;
                later = story.chain(
                    &join,
                    ["one", "two", "three"].map(|body| message(bob(), body)),
                );
                for id in &later {
                    house.push(&story, bob(), &[id]).await;
                }
                assert_eq!(house.staged(&room_id).await, 3);
                assert_eq!(peers.times("get_missing_events"), asked_before);
                match succeeds {
                    true => peers.answer(bobs, "send_join", told_state(&story, &tip)),
                    false => peers.answer_each(bobs, "send_join", |_| None),
                }
                join
            };
            let (joined, join) = tokio::join!(Box::pin(joining), talking);
            assert_eq!(joined.is_ok(), succeeds, "{joined:?}");
            house.settled(&room_id).await;
            if succeeds {
                let expected: Vec<_> = [join].into_iter().chain(later).collect();
                assert_eq!(house.timeline(&room_id).await, expected);
                assert_eq!(peers.times("get_missing_events"), asked_before);
            } else {
                // Each is refused in its turn: the join that it builds upon can't be had.
                let asked = peers.asked();
                let asked = asked
                    .iter()
                    .filter(|asked| asked.endpoint == "get_missing_events")
                    .map(|asked| &asked.body["latest_events"][0]);
                let later: Vec<_> = later.iter().map(|id| json!(id)).collect();
                assert_eq!(Vec::from_iter(asked), Vec::from_iter(&later));
                assert_eq!(house.timeline(&room_id).await, Vec::<OwnedEventId>::new());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_partial_event_is_partial_as_soon_as_it_is_stored() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = bobs_room("partial");
        let room_id = story.room_id.clone();
        let join = let_in_partially(&house, &peers, &mut story, &tip).await;
        let texts = ["one", "two", "three"];
        let mut later = story.chain(&join, texts.map(|body| message(bob(), body)));
        later.push(story.write(&[&later[2]], topic(bob(), "four")));
        later.push(story.write(&[&join], message(bob(), "beside")));

        let nr = house.room(&room_id).await.key.room;
        // One read sees what is not judged yet, and what is partial.
        let open = async || {
            let both = house.read(move |tx| {
                Box::pin(async move {
                    let staged = staged::count(tx, nr).await?;
                    Ok((staged, events::count_partial(tx, nr).await?))
                })
            });
            both.await
        };
        for (number, id) in later.iter().enumerate() {
            house.push(&story, bob(), &[id]).await;
            let (staged, partial) = open().await;
            assert_eq!(staged + partial, 2 + number as u64);
        }
        until(async || {
            let (staged, partial) = open().await;
            assert_eq!(staged + partial, 1 + later.len() as u64);
            staged == 0
        })
        .await;
        let ours = house.say(&room_id, alice(), "ours").await;
        assert_eq!(open().await.1, 2 + later.len() as u64);
        let house = house.restart().await;
        for id in later.iter().chain([&join, &ours]) {
            let before = house.event(&room_id, id).await.unwrap().before().unwrap();
            assert_eq!(before.completeness(), Completeness::PARTIAL, "{id}");
        }
    })
    .await;
}

async fn records(house: &House) -> usize {
    house.read(|tx| Box::pin(joins::joins(tx))).await.len()
}

#[tokio::test]
async fn a_join_that_was_never_sent_leaves_nothing_behind() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = room_id!("!elsewhere:127.0.0.1:1");
        let join = house
            .rooms
            .join(alice(), room_id.into(), Vec::new(), Map::new());
        let refused = join.await;
        assert!(
            matches!(refused, Err(RoomError::NoServer(_))),
            "{refused:?}"
        );
        assert_eq!(records(&house).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_join_that_may_have_succeeded_is_repaired_however_long_ago_it_was() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let record = JoinRecord {
            room_id: room_id!("!elsewhere:127.0.0.1:1").to_owned(),
            user_id: alice().to_owned(),
            candidates: vec![bob().server_name().to_owned()],
            content: "{}".to_owned(),
            started_ms: 0,
        };
        house
            .write(move |tx| Box::pin(async move { joins::put_join(tx, &record).await }))
            .await;
        let house = house.restart().await;
        let tasks = &house.fresh.env.tasks;
        let is_waiting = || {
            let running = tasks.running();
            running.contains(&"repair a join") && !running.contains(&"join a room")
        };
        // Nobody is there, now and later.
        for _ in 0..3 {
            until(async || is_waiting()).await;
            assert!(house.was_asked(bob().server_name()).await);
            assert_eq!(records(&house).await, 1);
            house
                .fresh
                .env
                .clock
                .advance(Duration::from_secs(4 * 3_600));
            until(async || tasks.running().contains(&"join a room")).await;
        }
    })
    .await;
}
