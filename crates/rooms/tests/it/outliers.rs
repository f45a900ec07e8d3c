//! Events outside the graph: auth events that another server tells, in any order, and with holes (R68–R73).

use std::{slice::from_ref, sync::mpsc};

use futures_util::{FutureExt as _, future::BoxFuture};
use myelin_core::{
    build::countersign,
    event::{Event, Verdict},
    validate::Unverified,
};
use myelin_rooms::ServeError;
use myelin_storage::{
    Priority, StorageError, params,
    testing::{Fresh, on_each_engine},
};
use ruma::{OwnedEventId, UserId};
use serde_json::{Value, json};

use crate::{
    house::{House, until},
    peers::Peers,
    story::{Story, Words, bob, carol, key_of, mallory, membership, message, state},
};

/// Bob's user takes another name.
fn renamed(name: &str) -> Words {
    let content = json!({ "membership": "join", "displayname": name });
    state(bob(), "m.room.member", bob().as_str(), content)
}

/// What the state after an event has under a name without a key.
fn entry(story: &Story, at: &OwnedEventId, event_type: &str) -> OwnedEventId {
    story.after(at)[&(event_type.to_owned(), String::new())].clone()
}

/// A message after `tip`, sent by bob, which cites a membership of his.
fn message_citing(story: &mut Story, tip: &OwnedEventId, cited: &OwnedEventId) -> OwnedEventId {
    let create = entry(story, tip, "m.room.create");
    let levels = entry(story, tip, "m.room.power_levels");
    let words = message(bob(), "as whom?").citing([&create, &levels, cited]);
    story.write(&[tip], words)
}

/// Lets bob's server tell the auth chain of anything.
fn tell_chain(peers: &Peers, chain: &[Value]) {
    let answer = json!({ "auth_chain": chain });
    peers.answer(bob().server_name(), "event_auth", answer);
}

/// All orders of these.
fn orders<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for first in 0..items.len() {
        let mut rest = items.to_vec();
        let first = rest.remove(first);
        for order in orders(&rest) {
            all.push([vec![first.clone()], order].concat());
        }
    }
    all
}

impl House {
    /// An event that must be held, outside of the timeline.
    async fn outlier(&self, story: &Story, id: &OwnedEventId) -> Event {
        let event = self.event(&story.room_id, id).await;
        let event = event.unwrap_or_else(|| panic!("{id} is not held"));
        assert!(!event.in_timeline(), "{id}");
        (*event).clone()
    }
}

#[tokio::test]
async fn auth_events_are_stored_ahead_of_what_they_authorise_in_whatever_order_they_come() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, mut tip) = house.shared_room().await;
        for (number, order) in orders(&[0, 1, 2, 3]).into_iter().enumerate() {
            let names = (0..4).map(|name| renamed(&format!("bob {number} {name}")));
            let chain = story.chain(&tip, names);
            let told: Vec<_> = order.iter().map(|at| story.json(&chain[*at])).collect();
            tell_chain(&peers, &told);
            tip = message_citing(&mut story, &tip, &chain[3]);
            house.push_all(&story, bob(), from_ref(&tip)).await;
            assert_eq!(house.tip(&story.room_id).await, tip, "{order:?}");
            let mut before = None;
            for id in &chain {
                let event = house.outlier(&story, id).await;
                assert_eq!(event.verdict, Verdict::Accepted, "{order:?}");
                assert!(before < Some(event.nr), "{order:?}");
                before = Some(event.nr);
            }
        }
    })
    .await;
}

/// Bob under another name, of whom nobody has told this server, and so many invites by him, which cite that.
fn crowd(
    story: &mut Story,
    tip: &OwnedEventId,
    invites: usize,
) -> (OwnedEventId, Vec<OwnedEventId>) {
    let inviter = story.write(&[tip], renamed("host"));
    let invite = |number: usize| {
        let guest = format!("@guest{number}:{}", bob().server_name());
        let guest = UserId::parse(guest).unwrap();
        story.write(&[&inviter], membership(bob(), &guest, "invite"))
    };
    let invites = (0..invites).map(invite).collect();
    (inviter, invites)
}

#[tokio::test]
async fn an_auth_event_at_the_end_of_a_long_answer_authorises_all_before_it() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = house.shared_room().await;
        // More than are verified together.
        let (inviter, invites) = crowd(&mut story, &tip, 1_100);
        let told: Vec<_> = invites
            .iter()
            .chain([&inviter])
            .map(|id| story.json(id))
            .collect();
        tell_chain(&peers, &told);
        let message = message_citing(&mut story, &tip, &inviter);
        house.push_all(&story, bob(), from_ref(&message)).await;
        assert_eq!(house.tip(&story.room_id).await, message);
        for id in &invites {
            assert_eq!(house.outlier(&story, id).await.verdict, Verdict::Accepted);
        }
    })
    .await;
}

#[tokio::test]
async fn an_outlier_without_its_auth_events_is_not_stored_and_neither_is_what_rests_on_it() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = house.shared_room().await;
        let chain = story.chain(&tip, ["one", "two", "three", "four"].map(renamed));
        let beside = story.write(&[&tip], membership(carol(), carol(), "join"));
        // Nobody tells of the first.
        let told: Vec<_> = chain[1..]
            .iter()
            .chain([&beside])
            .map(|id| story.json(id))
            .collect();
        tell_chain(&peers, &told);
        let message = message_citing(&mut story, &tip, &chain[3]);
        house.push_all(&story, bob(), from_ref(&message)).await;
        for id in chain.iter().chain([&message]) {
            assert_eq!(house.verdict(&story, id).await, None);
        }
        assert_eq!(
            house.outlier(&story, &beside).await.verdict,
            Verdict::Accepted
        );
        assert_eq!(house.tip(&story.room_id).await, tip);
        // They are no worse for it when all are told.
        let told: Vec<_> = chain.iter().map(|id| story.json(id)).collect();
        tell_chain(&peers, &told);
        house.push_all(&story, bob(), from_ref(&message)).await;
        assert_eq!(house.tip(&story.room_id).await, message);
    })
    .await;
}

#[tokio::test]
async fn an_outlier_that_the_auth_rules_refuse_is_stored_as_rejected_and_so_is_what_rests_on_it() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = house.shared_room().await;
        let levels = json!({ "users": { mallory().as_str(): 100 } });
        let levels = state(mallory(), "m.room.power_levels", "", levels);
        let coup = story.write(&[&tip], levels);
        let minion = story.write(&[&coup], membership(mallory(), mallory(), "join"));
        let create = entry(&story, &tip, "m.room.create");
        let words = message(mallory(), "obey").citing([&create, &coup, &minion]);
        let message = story.write(&[&tip], words);
        let told = [&minion, &coup].map(|id| story.json(id));
        peers.answer(
            mallory().server_name(),
            "event_auth",
            json!({ "auth_chain": told }),
        );
        house.push_all(&story, mallory(), from_ref(&message)).await;
        for id in [&coup, &minion] {
            assert_eq!(house.outlier(&story, id).await.verdict, Verdict::Rejected);
        }
        assert_eq!(
            house.verdict(&story, &message).await,
            Some(Verdict::Rejected)
        );
        assert_eq!(house.tip(&story.room_id).await, tip);
        assert_eq!(house.current(&story.room_id).await, *story.after(&tip));
    })
    .await;
}

#[tokio::test]
async fn an_outlier_has_no_state_and_stands_in_no_timeline() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = house.shared_room().await;
        let outlier = story.write(&[&tip], renamed("aside"));
        tell_chain(&peers, &[story.json(&outlier)]);
        let message = message_citing(&mut story, &tip, &outlier);
        house.push_all(&story, bob(), from_ref(&message)).await;
        assert_eq!(house.outlier(&story, &outlier).await.before(), None);
        let (rooms, room_id, server) = (&house.rooms, &story.room_id, carol().server_name());
        let ids = rooms.serve_state_ids(server, room_id, &outlier).await;
        assert!(matches!(ids, Err(ServeError::NotFound(_))), "{ids:?}");
        let state = rooms.serve_state(server, room_id, &outlier).await;
        assert!(matches!(state, Err(ServeError::NotFound(_))));
        assert_eq!(house.extremities(room_id).await, [message.clone()].into());
        assert!(!house.timeline(room_id).await.contains(&outlier));
        assert_eq!(house.current(room_id).await, *story.after(&message));
        let history = rooms.serve_backfill(server, room_id, vec![message, outlier.clone()], 100);
        let history: Value = serde_json::from_str(&history.await.unwrap()).unwrap();
        let given = history["pdus"].as_array().unwrap();
        assert!(given.len() > 1 && !given.contains(&story.json(&outlier)));
    })
    .await;
}

/// An event like another one, under another ID and citing something more. Only before room version 3 an event
/// can be cited by what it cites.
fn reforged(story: &Story, like: &OwnedEventId, id: &str, cites: &[&str]) -> Value {
    let mut event = story.json(like);
    event["event_id"] = id.into();
    let auth_events = event["auth_events"].as_array_mut().unwrap();
    auth_events.extend(cites.iter().map(|id| json!([id, {}])));
    event["signatures"] = json!({});
    let key = key_of(bob().server_name());
    let signed = countersign(story.version, &event.to_string(), &key).unwrap();
    let parsed = Unverified::parse(story.version, &signed, Some(&story.room_id)).unwrap();
    assert_eq!(parsed.event_id(), id);
    serde_json::from_str(&signed).unwrap()
}

#[tokio::test]
async fn auth_events_in_a_circle_end_and_are_not_stored() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        for version in ["1", "2"] {
            let (mut story, tip) = house.shared_room_of(version).await;
            let chain = story.chain(&tip, ["one", "two", "three"].map(renamed));
            let id = |name: &str| format!("${name}{version}:{}", bob().server_name());
            let [one, two, three, own] = ["one", "two", "three", "own"].map(id);
            let told = [
                reforged(&story, &chain[0], &one, &[&three]),
                reforged(&story, &chain[1], &two, &[&one]),
                reforged(&story, &chain[2], &three, &[&two]),
                reforged(&story, &chain[0], &own, &[&own]),
                story.json(&chain[0]),
            ];
            tell_chain(&peers, &told);
            let circle: Vec<OwnedEventId> = [one, two, three, own]
                .map(|id| id.try_into().unwrap())
                .to_vec();
            let create = entry(&story, &tip, "m.room.create");
            for id in &circle {
                let words = message(bob(), "round and round").citing([&create, id]);
                let message = house.says(&mut story, &[&tip], words).await;
                assert_eq!(house.verdict(&story, &message).await, None);
            }
            for id in &circle {
                assert!(house.event(&story.room_id, id).await.is_none(), "{id}");
            }
            let beside = house.outlier(&story, &chain[0]).await;
            assert_eq!(beside.verdict, Verdict::Accepted);
            assert_eq!(house.tip(&story.room_id).await, tip);
        }
    })
    .await;
}

/// A write of the least priority, which keeps the turn until it is let go.
struct Hold<'h> {
    /// How many events are stored when it has the turn.
    stored: mpsc::Receiver<i64>,
    release: mpsc::Sender<()>,
    writing: BoxFuture<'h, Result<(), StorageError>>,
}

impl<'h> Hold<'h> {
    /// It stands in the queue from now on.
    async fn queue(house: &'h House) -> Self {
        // Who has done much in one go is made to wait by the runtime, where it would not have to.
        tokio::task::yield_now().await;
        let (tell, stored) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let write = house
            .fresh
            .database
            .write("hold", Priority::Bulk, move |tx| {
                Box::pin(async move {
                    let count = "SELECT COUNT(*) FROM events WHERE verdict > 0";
                    let count = tx.query(count, params![]).await?[0].int(0)?;
                    tell.send(count).unwrap();
                    released.recv().unwrap();
                    Ok(())
                })
            });
        let mut writing = write.boxed();
        assert!(writing.as_mut().now_or_never().is_none());
        Self {
            stored,
            release,
            writing,
        }
    }

    async fn stored(&self) -> i64 {
        let mut stored = None;
        until(async || {
            stored = self.stored.try_recv().ok();
            stored.is_some()
        })
        .await;
        stored.unwrap()
    }

    /// Lets the turn go. It shares its transaction with what comes next, so it ends when that does.
    fn release(self) -> BoxFuture<'h, Result<(), StorageError>> {
        self.release.send(()).unwrap();
        self.writing
    }
}

#[tokio::test]
async fn others_write_after_every_500_of_many_outliers() {
    // Only SQLite has one writer, who could be held up.
    let peers = Peers::default();
    let house = House::open_among(Fresh::sqlite().await, &peers).await;
    let (mut story, tip) = house.shared_room().await;
    let (inviter, invites) = crowd(&mut story, &tip, 1_600);
    let told: Vec<_> = [&inviter]
        .into_iter()
        .chain(&invites)
        .map(|id| story.json(id))
        .collect();
    let message = message_citing(&mut story, &tip, &inviter);
    peers.silence(bob().server_name(), "event_auth");
    house.push(&story, bob(), &[&message]).await;
    until(async || peers.times("event_auth") == 1).await;

    // Somebody always waits, so nothing is written of which nobody sees what was there before it.
    let mut hold = Hold::queue(&house).await;
    tell_chain(&peers, &told);
    let first = hold.stored().await;
    let mut last = first;
    let mut released = Vec::new();
    while last < first + told.len() as i64 {
        let next = Hold::queue(&house).await;
        released.push(hold.release());
        hold = next;
        let stored = hold.stored().await;
        assert!(stored <= last + 500, "{} in one piece", stored - last);
        last = stored;
    }
    released.push(hold.release());
    for released in released {
        released.await.unwrap();
    }
    house.settled(&story.room_id).await;
    assert_eq!(house.tip(&story.room_id).await, message);
}
