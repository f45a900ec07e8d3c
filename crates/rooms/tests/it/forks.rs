//! Branches and what they become when they meet: always what plain state resolution says.

use std::{collections::BTreeSet, slice::from_ref};

use myelin_core::event::Verdict;
use myelin_env::Random;
use myelin_storage::testing::{Fresh, on_each_engine};
use ruma::{OwnedEventId, UserId};
use serde_json::json;

use crate::{
    house::{House, alice},
    story::{Entries, Story, Words, bob, carol, mallory, membership, message, state, topic},
};

async fn assert_current(house: &House, story: &Story, tips: &[&OwnedEventId]) {
    let expected: BTreeSet<OwnedEventId> = tips.iter().copied().cloned().collect();
    assert_eq!(house.extremities(&story.room_id).await, expected);
    let tips: Vec<OwnedEventId> = expected.into_iter().collect();
    assert_eq!(house.current(&story.room_id).await, story.before(&tips));
}

#[tokio::test]
async fn branches_that_change_different_keys_are_both_in_the_current_state() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let left = house.says(&mut story, &[&tip], topic(bob(), "left")).await;
        let name = state(bob(), "m.room.name", "", json!({"name": "right"}));
        let right = house.says(&mut story, &[&tip], name).await;
        assert_current(&house, &story, &[&left, &right]).await;
        let current = house.current(&story.room_id).await;
        assert!(current.values().any(|id| *id == left));
        assert!(current.values().any(|id| *id == right));
        let merge = house
            .says(&mut story, &[&left, &right], message(carol(), "both"))
            .await;
        assert_current(&house, &story, &[&merge]).await;
        assert_eq!(
            house.state_before(&story.room_id, &merge).await,
            *story.after(&merge)
        );
    })
    .await;
}

#[tokio::test]
async fn branches_that_change_the_same_keys_are_resolved() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let left = house.says(&mut story, &[&tip], topic(bob(), "left")).await;
        let right = house.says(&mut story, &[&tip], topic(bob(), "right")).await;
        assert_current(&house, &story, &[&left, &right]).await;
        let older = house
            .says(&mut story, &[&tip], topic(bob(), "older").long_ago())
            .await;
        assert_current(&house, &story, &[&left, &right, &older]).await;
        let merge = house
            .says(
                &mut story,
                &[&left, &right, &older],
                message(carol(), "one"),
            )
            .await;
        assert_current(&house, &story, &[&merge]).await;
    })
    .await;
}

#[tokio::test]
async fn a_demotion_on_one_branch_undoes_what_the_other_used_the_power_for() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let used = story.chain(
            &tip,
            [topic(bob(), "mine"), membership(bob(), mallory(), "ban")],
        );
        let alone = json!({ alice().as_str(): 100 });
        let demoted = house.set_power(&mut story, alone).await;
        house.push_all(&story, bob(), &used).await;
        // They come too late to be accepted, so they are no extremities.
        for id in &used {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::SoftFailed));
        }
        let merge = house
            .says(&mut story, &[&demoted, &used[1]], message(carol(), "so"))
            .await;
        assert_current(&house, &story, &[&merge]).await;
        let current = house.current(&story.room_id).await;
        assert!(!current.values().any(|id| used.contains(id)), "{current:?}");
    })
    .await;
}

/// A room in which three servers write on random branches.
struct Crowd {
    story: Story,
    tips: Vec<OwnedEventId>,
    random: Random,
}

impl Crowd {
    fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.random.below(from.len() as u64) as usize]
    }

    /// Anything, and whether it is allowed.
    fn words(&self, number: u64) -> (Words, bool) {
        let users: [&'static UserId; 3] = [bob(), carol(), mallory()];
        let sender = *self.pick(&users);
        let words = match self.random.below(6) {
            0 => topic(bob(), &number.to_string()),
            1 => state(
                bob(),
                "m.room.name",
                "",
                json!({"name": number.to_string()}),
            ),
            2 => membership(sender, sender, "join"),
            3 => {
                let words = state(sender, "org.example", "", json!({ "n": number }));
                return (words, sender == bob());
            }
            4 => topic(bob(), &number.to_string()).long_ago(),
            _ => message(sender, &number.to_string()),
        };
        (words, true)
    }

    /// One more event after one, two or three of the last ones.
    fn write(&mut self, number: u64) -> OwnedEventId {
        let parents: BTreeSet<OwnedEventId> = (0..=self.random.below(3))
            .map(|_| self.pick(&self.tips).clone())
            .collect();
        let (words, allowed) = self.words(number);
        let id = self.story.write(&parents.iter().collect::<Vec<_>>(), words);
        if !allowed {
            self.story.is_rejected(&id);
        }
        self.tips.push(id.clone());
        if self.tips.len() > 5 {
            self.tips.remove(0);
        }
        id
    }
}

#[tokio::test]
async fn whatever_the_branches_the_current_state_is_that_of_plain_resolution() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, tip) = house.shared_room().await;
        let mut crowd = Crowd {
            story,
            tips: vec![tip],
            random: Random::seeded(17),
        };
        let ids: Vec<OwnedEventId> = (0..120).map(|number| crowd.write(number)).collect();
        for piece in ids.chunks(7) {
            house.push_all(&crowd.story, bob(), piece).await;
            let room_id = &crowd.story.room_id;
            let tips: Vec<_> = house.extremities(room_id).await.into_iter().collect();
            assert_eq!(house.current(room_id).await, crowd.story.before(&tips));
        }
        for id in &ids {
            let pdu = crowd.story.pdu(id);
            let before = crowd.story.before(&pdu.prev_events);
            assert_eq!(house.state_before(&pdu.room_id, id).await, before, "{id}");
        }
        let house = house.restart().await;
        let room_id = &crowd.story.room_id;
        let tips: Vec<_> = house.extremities(room_id).await.into_iter().collect();
        assert_eq!(house.current(room_id).await, crowd.story.before(&tips));
    })
    .await;
}

impl Crowd {
    /// One more event on some of the last ones, which may well be forbidden.
    fn quarrel(&mut self, number: u64) -> OwnedEventId {
        let users: [&'static UserId; 3] = [bob(), carol(), mallory()];
        let (sender, target) = (*self.pick(&users), *self.pick(&users));
        let fate = *self.pick(&["leave", "ban", "invite"]);
        let words = match self.random.below(5) {
            0 => membership(bob(), target, fate),
            1 => membership(sender, sender, "join"),
            2 => {
                let content = json!({"users": {alice().as_str(): 100, bob().as_str(): 50, target.as_str(): 50}});
                state(sender, "m.room.power_levels", "", content)
            }
            3 => topic(sender, &number.to_string()),
            _ => message(sender, &number.to_string()),
        };
        let parents: BTreeSet<OwnedEventId> = (0..=self.random.below(3))
            .map(|_| self.pick(&self.tips).clone())
            .collect();
        let id = self.story.write(&parents.iter().collect::<Vec<_>>(), words);
        self.tips.push(id.clone());
        if self.tips.len() > 5 {
            self.tips.remove(0);
        }
        id
    }

    fn shuffle(&self, ids: &mut [OwnedEventId]) {
        for last in (1..ids.len()).rev() {
            ids.swap(last, self.random.below(last as u64 + 1) as usize);
        }
    }
}

/// Pushes events until all are judged; what came too early is refused, and sent again.
async fn deliver(house: &House, story: &Story, ids: &[OwnedEventId]) {
    let mut missing = ids.to_vec();
    while !missing.is_empty() {
        let before = missing.len();
        for piece in missing.chunks(9) {
            house.push_all(story, bob(), piece).await;
        }
        let mut refused = Vec::new();
        for id in missing {
            if house.verdict(story, &id).await.is_none() {
                refused.push(id);
            }
        }
        missing = refused;
        assert!(missing.len() < before, "whose parents are known is judged");
    }
}

/// Whether a server accepts something may depend on what it knew before, and then it is soft-failed there; what it
/// rejects, and the state at each event, may not.
#[tokio::test]
async fn whatever_the_order_of_delivery_states_and_rejections_are_the_same() {
    on_each_engine(|fresh| async move {
        let one = House::open(Fresh::sqlite().await).await;
        let other = House::open(fresh).await;
        let (story, tip) = one.shared_room().await;
        assert_eq!(other.shared_room().await.1, tip, "the same room for both");
        let mut crowd = Crowd {
            story,
            tips: vec![tip],
            random: Random::seeded(23),
        };
        let mut ids = Vec::new();
        for number in 0..80 {
            let id = crowd.quarrel(number);
            one.push_all(&crowd.story, bob(), from_ref(&id)).await;
            if one.verdict(&crowd.story, &id).await == Some(Verdict::Rejected) {
                crowd.story.is_rejected(&id);
            }
            ids.push(id);
        }
        let tips: Vec<_> = crowd.tips.iter().collect();
        ids.push(crowd.story.write(&tips, message(bob(), "so be it")));
        one.push_all(&crowd.story, bob(), &ids[80..]).await;
        let mut shuffled = ids.clone();
        crowd.shuffle(&mut shuffled);
        deliver(&other, &crowd.story, &shuffled).await;
        let story = &crowd.story;
        let mut rejected = 0;
        for id in &ids {
            let is_rejected = one.verdict(story, id).await == Some(Verdict::Rejected);
            let here = other.verdict(story, id).await == Some(Verdict::Rejected);
            assert_eq!(is_rejected, here, "{id}");
            rejected += u32::from(is_rejected);
            let before = one.state_before(&story.room_id, id).await;
            assert_eq!(before, other.state_before(&story.room_id, id).await, "{id}");
        }
        assert!((10..60).contains(&rejected), "{rejected} are rejected");
    })
    .await;
}

#[tokio::test]
async fn types_that_are_written_differently_are_different_state() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        // ruma takes the first for the second.
        let types = [
            "org.matrix.call.sdp_stream_metadata_changed",
            "m.call.sdp_stream_metadata_changed",
        ];
        let mut ids = Vec::new();
        for of in types {
            let words = state(bob(), of, "key", json!({ "of": of }));
            ids.push(house.says(&mut story, &[&tip], words).await);
        }
        let written = |current: &Entries| {
            let key = |of: &str| current.get(&(of.to_owned(), "key".to_owned())).cloned();
            types.map(|of| key(of).unwrap())
        };
        // Resolved from two branches, and after them.
        assert_eq!(written(&house.current(&story.room_id).await)[..], ids);
        house.say(&story.room_id, alice(), "both").await;
        assert_eq!(written(&house.current(&story.room_id).await)[..], ids);
        // A conflict of one leaves the other alone.
        let words = state(bob(), types[0], "key", json!({"of": "another branch"}));
        let other = house.says(&mut story, &[&tip], words).await;
        let expected = [other, ids[1].clone()];
        assert_eq!(written(&house.current(&story.room_id).await), expected);
        let house = house.restart().await;
        assert_eq!(written(&house.current(&story.room_id).await), expected);
    })
    .await;
}
