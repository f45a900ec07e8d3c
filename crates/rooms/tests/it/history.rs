//! Gaps that are bridged by a state, and the history behind them (R29, R62, R65, R66, R77).

use std::{slice::from_ref, time::Duration};

use myelin_core::{
    completeness::Completeness,
    event::{Place, Verdict},
    number::StreamPosition,
};
use myelin_env::Clock;
use myelin_storage::testing::on_each_engine;
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, json};

use crate::{
    house::{House, alice, until},
    joining::{bobs_room, let_in, let_in_partially},
    peers::Peers,
    story::{Story, bob, carol, membership, message, state, topic},
};

/// Bob's server tells of a gap only these events.
fn tell_missing(peers: &Peers, story: &Story, told: &[&OwnedEventId]) {
    let told: Vec<Value> = told.iter().map(|id| story.json(id)).collect();
    peers.answer(
        bob().server_name(),
        "get_missing_events",
        json!({ "events": told }),
    );
}

/// Bob's server tells these events of the past.
fn tell_past(peers: &Peers, story: &Story, told: &[OwnedEventId]) {
    let told: Vec<Value> = told.iter().rev().map(|id| story.json(id)).collect();
    peers.answer(bob().server_name(), "backfill", json!({ "pdus": told }));
}

/// Bob's server tells the state before this event, and of no other.
fn tell_only_state_at(peers: &Peers, story: &Story, id: &OwnedEventId) {
    let state = story.before(&story.pdu(id).prev_events);
    let chain: Vec<_> = story.auth_chain(&state).into_iter().collect();
    let state: Vec<_> = state.into_values().collect();
    let told = json!({ "pdu_ids": state, "auth_chain_ids": chain });
    let id = id.as_str()[1..].to_owned();
    peers.answer_each(bob().server_name(), "state_ids", move |asked| {
        asked.path.contains(&id).then(|| told.clone())
    });
}

impl House {
    /// Fetches what lies behind an event as if somebody read there; whether there is more now.
    async fn read_behind(&self, story: &Story, id: &OwnedEventId) -> bool {
        let room = self.room(&story.room_id).await;
        let depth = story.pdu(id).depth;
        let reading = Box::pin(self.rooms.maybe_backfill(&room, depth, 100));
        let read = Clock::real()
            .timeout(Duration::from_secs(60), reading)
            .await;
        read.expect("nobody is held up").unwrap()
    }

    async fn position(&self, room_id: &RoomId, id: &OwnedEventId) -> StreamPosition {
        match self.event(room_id, id).await.unwrap().place {
            Place::Timeline { position, .. } => position,
            Place::Outlier => panic!("{id} is an outlier"),
        }
    }
}

/// A room in which events lie behind a gap: `past`, of which the last is told when the newest is pushed.
async fn behind_gap(
    house: &House,
    peers: &Peers,
    story: &mut Story,
    past: &[OwnedEventId],
) -> OwnedEventId {
    let seam = past.last().unwrap();
    let newest = story.write(&[seam], message(bob(), "newest"));
    peers.tell(bob().server_name(), story);
    tell_missing(peers, story, &[seam]);
    house.push_all(story, bob(), from_ref(&newest)).await;
    assert_eq!(house.verdict(story, seam).await, Some(Verdict::Accepted));
    assert_eq!(house.verdict(story, &newest).await, Some(Verdict::Accepted));
    newest
}

#[tokio::test]
async fn what_is_fetched_from_the_past_has_its_states_and_changes_nothing_else() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = house.shared_room().await;
        let room_id = story.room_id.clone();
        let mut past = story.chain(&tip, [message(carol(), "one"), topic(bob(), "two")]);
        let rejected = story.write(&[&past[1]], topic(carol(), "not permitted"));
        story.is_rejected(&rejected);
        past.push(rejected.clone());
        let secret = json!({ "algorithm": "m.megolm.v1.aes-sha2", "device_id": "UNKNOWN" });
        let words = state(bob(), "m.room.encrypted", "", secret).without_state_key();
        past.push(story.write(&[&rejected], words));
        past.push(story.write(&[&past[3]], message(bob(), "the seam")));
        let newest = behind_gap(&house, &peers, &mut story, &past).await;

        let before = (
            house.current(&room_id).await,
            house.extremities(&room_id).await,
            house.unread(&room_id, alice()).await,
            house.rooms.events_stream().readable(),
        );
        let asked = peers.asked().len();
        tell_past(&peers, &story, &past[..4]);
        assert!(house.read_behind(&story, &past[4]).await);
        let after = (
            house.current(&room_id).await,
            house.extremities(&room_id).await,
            house.unread(&room_id, alice()).await,
            house.rooms.events_stream().readable(),
        );
        assert_eq!(before, after);
        let asked: Vec<_> = peers.asked().split_off(asked);
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(asked[0].endpoint, "backfill");

        for (number, id) in past.iter().chain([&newest]).enumerate() {
            let is_past = number < 4;
            let position = house.position(&room_id, id).await;
            assert_eq!(position < StreamPosition(0), is_past, "{number}");
            let verdict = house.verdict(&story, id).await;
            assert_eq!(
                verdict == Some(Verdict::Rejected),
                *id == rejected,
                "{number}"
            );
            let expected = story.before(&story.pdu(id).prev_events);
            assert_eq!(house.state_before(&room_id, id).await, expected, "{number}");
        }
        let shown = house.timeline(&room_id).await;
        assert!(
            past.iter()
                .all(|id| shown.contains(id) != (*id == rejected))
        );
    })
    .await;
}

#[tokio::test]
async fn history_that_failed_before_holds_up_nobody() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = house.shared_room().await;
        let bobs = bob().server_name();
        let names = ["lost", "one", "two", "the seam"];
        let past = story.chain(&tip, names.map(|name| message(bob(), name)));
        behind_gap(&house, &peers, &mut story, &past).await;
        // Nobody tells the state where the answer ends.
        tell_past(&peers, &story, &past[1..3]);
        peers.answer_each(bobs, "state_ids", |_| None);
        house.read_behind(&story, &past[3]).await;
        assert!(house.event(&story.room_id, &past[1]).await.is_none());
        let failed = peers.times("state_ids");

        // Later, nobody says anything about it.
        house
            .fresh
            .env
            .clock
            .advance(Duration::from_secs(3 * 3_600));
        peers.silence(bobs, "state_ids");
        house.read_behind(&story, &past[3]).await;
        until(async || peers.times("state_ids") == failed + 1).await;
        house.read_behind(&story, &past[3]).await;
        assert_eq!(peers.times("state_ids"), failed + 1, "it is under way");
        peers.tell(bobs, &story);
        until(async || {
            let held = house.event(&story.room_id, &past[2]).await;
            held.is_some_and(|event| event.in_timeline())
        })
        .await;
        let shown = house.timeline(&story.room_id).await;
        assert!(past[1..].iter().all(|id| shown.contains(id)));
        assert!(!shown.contains(&past[0]));
    })
    .await;
}

#[tokio::test]
async fn a_request_for_history_names_five_ends_and_asks_for_100_events() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = house.shared_room().await;
        let forks: Vec<_> = (0..7)
            .map(|fork| story.write(&[&tip], message(carol(), &fork.to_string())))
            .collect();
        let seam = story.write(&Vec::from_iter(&forks), message(bob(), "the seam"));
        behind_gap(&house, &peers, &mut story, from_ref(&seam)).await;
        tell_past(&peers, &story, &[]);
        house.read_behind(&story, &seam).await;
        let asked: Vec<_> = peers.asked();
        let asked: Vec<_> = asked
            .iter()
            .filter(|asked| asked.endpoint == "backfill")
            .collect();
        assert_eq!(asked.len(), 1);
        let named = |id: &&OwnedEventId| asked[0].path.contains(&id.as_str()[1..]);
        assert_eq!(forks.iter().filter(named).count(), 5, "{asked:?}");
        assert_eq!(asked[0].path.matches("v=").count(), 5, "{asked:?}");
        assert!(asked[0].path.contains("limit=100"), "{asked:?}");
    })
    .await;
}

#[tokio::test]
async fn history_that_this_server_may_not_see_is_not_asked_for() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        for (visibility, is_asked_for) in [("shared", true), ("joined", false)] {
            let (mut story, tip) = bobs_room(visibility);
            let content = json!({ "history_visibility": visibility });
            let tip = story.write(
                &[&tip],
                state(bob(), "m.room.history_visibility", "", content),
            );
            let past = story.chain(&tip, ["one", "two"].map(|name| message(bob(), name)));
            let join = let_in(&house, &peers, &mut story, &past[1]).await;
            peers.tell(bob().server_name(), &story);
            // The join may be seen, so what it came after is asked for.
            let before = peers.times("backfill");
            tell_past(&peers, &story, &past[1..]);
            assert!(house.read_behind(&story, &join).await);
            assert_eq!(peers.times("backfill"), before + 1);
            assert!(
                house
                    .event(&story.room_id, &past[1])
                    .await
                    .unwrap()
                    .in_timeline()
            );
            tell_past(&peers, &story, &past[..1]);
            let found = house.read_behind(&story, &past[1]).await;
            assert_eq!(found, is_asked_for, "{visibility}");
            let times = before + 1 + usize::from(is_asked_for);
            assert_eq!(peers.times("backfill"), times, "{visibility}");
        }
    })
    .await;
}

#[tokio::test]
async fn in_a_partial_room_history_is_asked_for_that_its_members_may_see() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        for visibility in ["invited", "joined"] {
            let (mut story, tip) = bobs_room(visibility);
            let content = json!({ "history_visibility": visibility });
            let visible = state(bob(), "m.room.history_visibility", "", content);
            let tip = story.write(&[&tip], visible);
            let join = let_in_partially(&house, &peers, &mut story, &tip).await;
            // Two branches meet, of which one is not told.
            let lost = story.chain(&join, ["lost", "lost too"].map(|name| message(bob(), name)));
            let seam = story.write(&[&join, &lost[1]], message(bob(), "the seam"));
            let newest = story.write(&[&seam], message(bob(), "newest"));
            peers.tell(bob().server_name(), &story);
            tell_only_state_at(&peers, &story, &lost[1]);
            tell_missing(&peers, &story, &[&seam]);
            house.push_all(&story, bob(), from_ref(&newest)).await;
            let seam_held = house.event(&story.room_id, &seam).await.unwrap();
            let state = seam_held.before().unwrap().completeness();
            assert_eq!(state, Completeness::PARTIAL);
            tell_past(&peers, &story, &lost);
            assert!(house.read_behind(&story, &seam).await, "{visibility}");
            for id in &lost {
                let held = house.event(&story.room_id, id).await.unwrap();
                assert!(held.in_timeline(), "{visibility}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn behind_a_gap_what_is_known_and_what_is_claimed_count_together() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        // What is claimed says that carol may, and nothing that is known speaks against it.
        let (mut story, _) = house.shared_room().await;
        let mut users = json!({ alice().as_str(): 100, bob().as_str(): 100 });
        let start = house.set_power(&mut story, users.clone()).await;
        users[carol().as_str()] = json!(50);
        let promotion = json!({ "users": users });
        let promotion = state(bob(), "m.room.power_levels", "", promotion);
        let past = story.chain(&start, [promotion, topic(carol(), "as I may")]);
        let ours = house.say(&story.room_id, alice(), "meanwhile").await;
        let newest = behind_gap(&house, &peers, &mut story, &past).await;
        let expected = [ours, newest].into();
        assert_eq!(house.extremities(&story.room_id).await, expected);

        // What is claimed does not know that carol was banned.
        let (mut story, tip) = house.shared_room().await;
        house
            .says(&mut story, &[&tip], membership(bob(), carol(), "ban"))
            .await;
        let past = story.chain(&tip, ["one", "two"].map(|body| message(carol(), body)));
        let newest = story.write(&[&past[1]], message(carol(), "three"));
        let carols = carol().server_name();
        peers.tell(carols, &story);
        let told = json!({ "events": [story.json(&past[1])] });
        peers.answer(carols, "get_missing_events", told);
        house.push_all(&story, carol(), from_ref(&newest)).await;
        for id in [&past[1], &newest] {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::SoftFailed));
        }
    })
    .await;
}
