//! Attacks on a room by a server of which one user is in it, and which may say no more than others: it
//! withholds what it was asked for, makes states up, and floods the room. What is tested is what the room is
//! afterwards: its state is what it was, and it goes on.

use std::{collections::BTreeMap, slice::from_ref, sync::Arc};

use myelin_core::{event::Verdict, room_version::RoomVersion};
use myelin_storage::testing::{Fresh, START_MS, on_each_engine};
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::{Value, json};

use crate::{
    house::{House, alice},
    peers::Peers,
    story::{Story, bob, carol, mallory, message, state, topic},
};

/// A room, and mallory's server, which answers as the test lets it.
struct Siege {
    house: House,
    peers: Peers,
    story: Story,
    /// The room's last event.
    tip: OwnedEventId,
}

/// What mallory's server has of the room to tell, true or not.
#[derive(Default)]
struct Tale {
    /// Missing events.
    missing: Vec<OwnedEventId>,
    /// The state at each gap.
    state: Vec<OwnedEventId>,
}

impl Siege {
    async fn lay(fresh: Fresh) -> Self {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (story, tip) = house.shared_room().await;
        Self {
            house,
            peers,
            story,
            tip,
        }
    }

    fn current(&self, event_type: &str, state_key: &str) -> OwnedEventId {
        let key = (event_type.to_owned(), state_key.to_owned());
        self.story.after(&self.tip)[&key].clone()
    }

    /// The create event, and mallory's join: the auth events of whoever leaves out the power levels.
    fn without_levels(&self) -> [OwnedEventId; 2] {
        let create = self.current("m.room.create", "");
        [create, self.current("m.room.member", mallory().as_str())]
    }

    /// Alice gives mallory this power.
    async fn set_levels(&mut self, power: u64) -> OwnedEventId {
        let users = json!({ alice().as_str(): 100, bob().as_str(): 50, mallory().as_str(): power });
        self.tip = self.house.set_power(&mut self.story, users).await;
        self.tip.clone()
    }

    /// Mallory gives everything to themselves. The rules forbid it.
    fn usurp(&mut self) -> OwnedEventId {
        let levels = json!({ "users": { mallory().as_str(): 100 }, "events_default": 0, "state_default": 0 });
        let tip = self.tip.clone();
        let words = state(mallory(), "m.room.power_levels", "", levels);
        self.story.write(&[&tip], words)
    }

    /// Lets mallory's server tell this, and every event of the story and of others.
    fn tell(&self, tale: &Tale, others: &[&Story]) {
        let server = mallory().server_name();
        let stories: Vec<Story> = [&self.story]
            .into_iter()
            .chain(others.iter().copied())
            .cloned()
            .collect();
        let stories = Arc::new(stories);
        let json_of = move |id: &OwnedEventId| -> Option<Value> {
            stories
                .iter()
                .find(|story| story.knows(id))
                .map(|story| story.json(id))
        };
        let json_of = Arc::new(json_of);
        let events = |ids: &[OwnedEventId]| -> Vec<Value> {
            ids.iter().filter_map(|id| json_of(id)).collect()
        };
        self.peers.answer(
            server,
            "get_missing_events",
            json!({ "events": events(&tale.missing) }),
        );
        let chain = self.without_levels();
        self.peers.answer(
            server,
            "state_ids",
            json!({ "pdu_ids": tale.state, "auth_chain_ids": chain }),
        );
        let whole = json!({ "pdus": events(&tale.state), "auth_chain": events(&chain) });
        self.peers.answer(server, "state", whole);
        self.peers.answer(
            server,
            "event_auth",
            json!({ "auth_chain": events(&chain) }),
        );
        let json_of = Arc::clone(&json_of);
        self.peers.answer_each(server, "event", move |asked| {
            let id = asked.path.rsplit('/').next()?.replace("%24", "$");
            let event = json_of(&OwnedEventId::try_from(id).ok()?)?;
            Some(json!({ "origin": "127.0.0.1:3", "origin_server_ts": 1, "pdus": [event] }))
        });
    }

    /// The room is as it was: alice rules, mallory doesn't, everybody is there, and it goes on, also after a
    /// restart.
    async fn assert_held(self) {
        let Self {
            house,
            mut story,
            tip,
            ..
        } = self;
        let room_id = story.room_id.clone();
        let expected = story.after(&tip).clone();
        let mut house = house;
        for round in 0..2 {
            assert_eq!(house.current(&room_id).await, expected, "{round}");
            let grab = state(
                mallory(),
                "m.room.name",
                "",
                json!({ "name": format!("mine {round}") }),
            );
            let levels = &expected[&("m.room.power_levels".to_owned(), String::new())];
            let create = &expected[&("m.room.create".to_owned(), String::new())];
            let joined = &expected[&("m.room.member".to_owned(), mallory().to_string())];
            let grab = house
                .says(&mut story, &[&tip], grab.citing([create, levels, joined]))
                .await;
            assert_eq!(house.verdict(&story, &grab).await, Some(Verdict::Rejected));
            let said = house.say(&room_id, alice(), "the room goes on").await;
            assert_eq!(house.tip(&room_id).await, said);
            let heard = house
                .says(&mut story, &[&tip], message(carol(), "and I am in it"))
                .await;
            assert_eq!(house.verdict(&story, &heard).await, Some(Verdict::Accepted));
            assert_eq!(house.staged(&room_id).await, 0);
            house = house.restart().await;
        }
    }
}

#[tokio::test]
async fn who_withholds_parents_does_not_choose_the_state_after_them() {
    on_each_engine(|fresh| async move {
        let mut siege = Siege::lay(fresh).await;
        let usurped = siege.usurp();
        let (withheld, auth) = (siege.tip.clone(), siege.without_levels());
        let withheld = siege
            .story
            .write(&[&withheld], message(mallory(), "nobody will see this"));
        let words = topic(mallory(), "mine").citing(&auth);
        let pushed = siege.story.write(&[&withheld], words);
        // Whoever asks for the state is told one in which mallory rules.
        let state = [auth.to_vec(), vec![usurped]].concat();
        siege.tell(
            &Tale {
                missing: Vec::new(),
                state,
            },
            &[],
        );
        siege
            .house
            .push_all(&siege.story, mallory(), from_ref(&pushed))
            .await;
        assert_eq!(siege.peers.times("get_missing_events"), 1);
        for endpoint in ["state_ids", "state"] {
            assert_eq!(siege.peers.times(endpoint), 0, "{endpoint}");
        }
        assert_eq!(siege.house.verdict(&siege.story, &pushed).await, None);
        siege.assert_held().await;
    })
    .await;
}

/// Mallory's server has the parents of what it pushes, and not theirs: the state at the gap is what it says.
/// It leaves out who may do what, or says that it is mallory, or that it is so still.
#[tokio::test]
async fn a_forged_state_at_a_gap_changes_nothing_that_the_room_knows() {
    on_each_engine(|fresh| async move {
        let mut siege = Siege::lay(fresh).await;
        let once = siege.set_levels(50).await;
        siege.set_levels(0).await;
        let usurped = siege.usurp();
        let auth = siege.without_levels();
        let with = |levels: &OwnedEventId| [auth.to_vec(), vec![levels.clone()]].concat();
        let forgeries = [
            ("nobody rules", auth.to_vec(), Verdict::Rejected),
            ("mallory rules", with(&usurped), Verdict::Rejected),
            ("mallory still rules", with(&once), Verdict::SoftFailed),
        ];
        for (name, state, expected) in forgeries {
            let tip = siege.tip.clone();
            let lost = message(mallory(), &format!("lost: {name}"));
            let lost = siege.story.write(&[&tip], lost);
            let told = topic(mallory(), name).citing(&state);
            let told = siege.story.write(&[&lost], told);
            let pushed = message(mallory(), name).citing(&auth);
            let pushed = siege.story.write(&[&told], pushed);
            let missing = vec![told.clone()];
            siege.tell(&Tale { missing, state }, &[]);
            let (house, story) = (&siege.house, &siege.story);
            house.push_all(story, mallory(), from_ref(&pushed)).await;
            assert_eq!(house.verdict(story, &told).await, Some(expected), "{name}");
            // That is how far it gets: it says something, which changes nothing.
            let verdict = house.verdict(story, &pushed).await;
            assert_eq!(verdict, Some(Verdict::Accepted), "{name}");
        }
        siege.assert_held().await;
    })
    .await;
}

/// A room of mallory's own, in which all is allowed to mallory.
fn foreign_room() -> (Story, Vec<OwnedEventId>) {
    let room_id = OwnedRoomId::try_from("!mine:127.0.0.1:3").unwrap();
    let mut story = Story::new(RoomVersion::V11, room_id, START_MS);
    let create = state(
        mallory(),
        "m.room.create",
        "",
        json!({ "room_version": "11" }),
    );
    let create = story.write(&[], create);
    let join = story.write(
        &[&create],
        crate::story::membership(mallory(), mallory(), "join"),
    );
    let levels = json!({ "users": { mallory().as_str(): 100 } });
    let levels = story.write(
        &[&join],
        state(mallory(), "m.room.power_levels", "", levels),
    );
    let rules = json!({ "join_rule": "public" });
    let rules = story.write(&[&levels], state(mallory(), "m.room.join_rules", "", rules));
    (story, vec![create, join, levels, rules])
}

#[tokio::test]
async fn the_state_of_another_room_gives_no_power_in_this_one() {
    on_each_engine(|fresh| async move {
        let mut siege = Siege::lay(fresh).await;
        let (foreign, theirs) = foreign_room();
        let auth = siege.without_levels();
        let tip = siege.tip.clone();
        let state = [auth.to_vec(), theirs.clone()].concat();
        // What is not of the room is left out of its state, and what cites such events can't be judged.
        let cases = [
            (auth.to_vec(), Some(Verdict::Rejected)),
            (theirs, None),
            (state.clone(), None),
        ];
        for (cited, expected) in cases {
            let lost = siege.story.write(&[&tip], message(mallory(), "lost"));
            let told = topic(mallory(), "mine by other rights").citing(&cited);
            let told = siege.story.write(&[&lost], told);
            let pushed = message(mallory(), "and so on").citing(&auth);
            let pushed = siege.story.write(&[&told], pushed);
            let tale = Tale {
                missing: vec![told.clone()],
                state: state.clone(),
            };
            siege.tell(&tale, &[&foreign]);
            let (house, story) = (&siege.house, &siege.story);
            house.push_all(story, mallory(), from_ref(&pushed)).await;
            let verdict = house.verdict(story, &told).await;
            assert_eq!(verdict, expected, "{cited:?}");
        }
        siege.assert_held().await;
    })
    .await;
}

#[tokio::test]
async fn a_rejected_auth_event_counts_though_an_accepted_one_stands_beside_it() {
    on_each_engine(|fresh| async move {
        let mut siege = Siege::lay(fresh).await;
        let usurped = siege.usurp();
        siege
            .house
            .push_all(&siege.story, mallory(), from_ref(&usurped))
            .await;
        let verdict = siege.house.verdict(&siege.story, &usurped).await;
        assert_eq!(verdict, Some(Verdict::Rejected));
        siege.story.is_rejected(&usurped);
        let (levels, auth) = (
            siege.current("m.room.power_levels", ""),
            siege.without_levels(),
        );
        let tip = siege.tip.clone();
        for between in [[&usurped, &levels], [&levels, &usurped]] {
            let cited: Vec<_> = auth.iter().chain(between).collect();
            for words in [topic(mallory(), "mine"), message(mallory(), "harmless")] {
                let event = siege.story.write(&[&tip], words.citing(cited.clone()));
                siege
                    .house
                    .push_all(&siege.story, mallory(), from_ref(&event))
                    .await;
                let verdict = siege.house.verdict(&siege.story, &event).await;
                assert_eq!(verdict, Some(Verdict::Rejected));
            }
        }
        siege.assert_held().await;
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_branches_is_gathered_up_by_what_is_said_next() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let branches: Vec<_> = (0..150)
            .map(|number| story.write(&[&tip], message(mallory(), &format!("branch {number}"))))
            .collect();
        house.push_all(&story, mallory(), &branches).await;
        let mut left = house.extremities(&story.room_id).await.len();
        assert_eq!(left, 150);
        while left > 1 {
            let said = house
                .say(&story.room_id, alice(), "one after the other")
                .await;
            let said = house.event(&story.room_id, &said).await.unwrap();
            assert!(said.pdu.prev_events.len() <= 10);
            let now = house.extremities(&story.room_id).await.len();
            assert!(now < left, "{now} of {left}");
            left = now;
        }
        assert_eq!(house.current(&story.room_id).await, *story.after(&tip));
    })
    .await;
}

#[tokio::test]
async fn an_event_with_twenty_parents_has_the_state_of_all_of_them() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let branches: Vec<_> = (0..20)
            .map(|number| {
                // Each changes what all change, and something of its own.
                let first = story.write(&[&tip], topic(bob(), &format!("topic {number}")));
                let own = state(bob(), "org.example.own", &number.to_string(), json!({}));
                story.write(&[&first], own)
            })
            .collect();
        let mut all = BTreeMap::new();
        for branch in &branches {
            all.extend(story.after(branch).clone());
        }
        let firsts: Vec<_> = branches
            .iter()
            .map(|branch| story.pdu(branch).prev_events[0].clone())
            .collect();
        house
            .push_all(&story, bob(), &[firsts, branches.clone()].concat())
            .await;
        let parents: Vec<_> = branches.iter().collect();
        let merged = house
            .says(&mut story, &parents, message(bob(), "together"))
            .await;
        assert_eq!(
            house.verdict(&story, &merged).await,
            Some(Verdict::Accepted)
        );
        assert_eq!(house.tip(&story.room_id).await, merged);
        let current = house.current(&story.room_id).await;
        assert_eq!(current, *story.after(&merged));
        assert_eq!(
            current.keys().collect::<Vec<_>>(),
            all.keys().collect::<Vec<_>>()
        );
    })
    .await;
}
