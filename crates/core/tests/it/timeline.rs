//! A room as a server holds it, to decide about events in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use myelin_core::{
    auth::auth_keys,
    build::EventDraft,
    completeness::StateRef,
    desk::{Desk, Needed},
    event::{Event, Place, Verdict},
    key_table::{KeyTable, StateKey},
    keys::KeyPair,
    number::{EventNr, SnapshotNr, StreamPosition},
    pdu::Pdu,
    receive::{
        Decision, Incoming, KnownState, Placement, Plan, Recommendation, RoomFacts, apply, decide,
    },
    room_version::RoomVersion,
    state::State,
    testing::HASH_KEY,
    validate::ValidPdu,
};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, UserId, owned_server_name, uint};
use serde_json::json;

use crate::room::Sketch;

/// What one server holds of a room whose creator is `@c:c`.
#[derive(Clone)]
pub(crate) struct Timeline {
    pub(crate) version: RoomVersion,
    pub(crate) keys: KeyTable,
    pub(crate) extremities: BTreeSet<EventNr>,
    pub(crate) current: Option<KnownState>,
    pub(crate) min_depth: i64,
    pub(crate) servers_at_join: Vec<String>,
    events: BTreeMap<EventNr, Arc<Event>>,
    snapshots: Vec<State>,
    empty: State,
    create: Option<OwnedEventId>,
}

impl Timeline {
    pub(crate) fn empty(version: RoomVersion) -> Self {
        Self {
            version,
            keys: KeyTable::default(),
            extremities: BTreeSet::new(),
            current: None,
            min_depth: 0,
            servers_at_join: Vec::new(),
            events: BTreeMap::new(),
            snapshots: Vec::new(),
            empty: State::empty(HASH_KEY),
            create: None,
        }
    }

    /// A public room with its creator, a moderator `@m:m` (50) and a member `@u:u`.
    pub(crate) fn with_members(version: RoomVersion) -> Self {
        let mut room = Self::empty(version);
        let mut create = json!({ "room_version": version.as_str() });
        let mut users = json!({ "@m:m": 50 });
        if version < RoomVersion::V11 {
            create["creator"] = json!("@c:c");
        }
        if !version.room_id_is_create_hash() {
            users["@c:c"] = json!(100);
        }
        room.add(("@c:c", "m.room.create", Some(""), create));
        room.add(member("@c:c", "join"));
        let levels = json!({ "users": users });
        room.add(("@c:c", "m.room.power_levels", Some(""), levels));
        let rule = json!({ "join_rule": "public" });
        room.add(("@c:c", "m.room.join_rules", Some(""), rule));
        room.add(member("@m:m", "join"));
        room.add(member("@u:u", "join"));
        room
    }

    pub(crate) fn facts(&self) -> RoomFacts<'_> {
        RoomFacts {
            version: self.version,
            keys: &self.keys,
            extremities: &self.extremities,
            current: self.current.as_ref(),
            min_depth: self.min_depth,
            empty: &self.empty,
            servers_at_join: &self.servers_at_join,
        }
    }

    pub(crate) fn event(&self, nr: EventNr) -> &Arc<Event> {
        &self.events[&nr]
    }

    pub(crate) fn id(&self, nr: EventNr) -> OwnedEventId {
        self.event(nr).pdu.event_id.clone()
    }

    /// The state after a timeline event.
    pub(crate) fn after(&self, nr: EventNr) -> KnownState {
        let event = self.event(nr);
        let before = event.before().expect("it is in the timeline");
        let mut state = self.snapshots[before.snapshot().0 as usize].clone();
        apply(&self.keys, &mut state, nr, &event.pdu, event.verdict);
        let completeness = before.completeness();
        KnownState {
            state,
            completeness,
        }
    }

    /// The number of the event that a state has for a key.
    pub(crate) fn entry(
        &self,
        state: &State,
        event_type: &str,
        state_key: &str,
    ) -> Option<EventNr> {
        let entry = state.get_named(&self.keys, event_type, state_key)?;
        Some(entry.event())
    }

    /// An event after `parents`, with the auth events that `state` has for it.
    pub(crate) fn write(
        &mut self,
        sketch: Sketch,
        parents: &[OwnedEventId],
        state: &State,
    ) -> ValidPdu {
        let (sender, event_type, state_key, content) = sketch;
        if let Some(state_key) = state_key {
            self.keys.intern(StateKey::new(event_type, state_key));
        }
        let is_create = event_type == "m.room.create";
        let create = self.create.as_ref().filter(|_| !is_create);
        let room_id = match self.version.room_id_is_create_hash() {
            true => create.map(|id| id.as_str().replace('$', "!")),
            false => Some("!r:c".to_owned()),
        };
        let mut draft = EventDraft {
            room_id: room_id.map(|id| id.try_into().unwrap()),
            sender: UserId::parse(sender).unwrap(),
            event_type: event_type.to_owned(),
            state_key: state_key.map(str::to_owned),
            content: serde_json::value::to_raw_value(&content).unwrap(),
            prev_events: parents.to_vec(),
            auth_events: vec![],
            depth: self.events.len() as i64 + 1,
            origin_server_ts: MilliSecondsSinceUnixEpoch(uint!(1)),
            redacts: None,
        };
        let key = KeyPair::new(owned_server_name!("c"), "1".try_into().unwrap(), [1; 32]);
        let first = draft.clone().finish(self.version, &key).unwrap();
        draft.auth_events = auth_keys(self.version, &first)
            .unwrap_or_default()
            .iter()
            .filter_map(|key| self.entry(state, &key.event_type, &key.state_key))
            .map(|nr| self.id(nr))
            .collect();
        draft.finish(self.version, &key).unwrap()
    }

    /// An event after one that is held.
    pub(crate) fn write_after(&mut self, sketch: Sketch, parent: EventNr) -> ValidPdu {
        let state = self.after(parent).state;
        self.write(sketch, &[self.id(parent)], &state)
    }

    /// What has not been judged, as somebody pushes it.
    pub(crate) fn incoming(&self, pdu: ValidPdu) -> Incoming {
        Incoming {
            nr: EventNr(self.events.len() as i64 + 1),
            pdu,
            placement: Placement::Live,
            is_built_upon: false,
            recommendation: Recommendation::NotAsked,
        }
    }

    /// Decides as a server does: what is asked for is looked up, again and again.
    pub(crate) fn decide(&mut self, incoming: &Incoming) -> Decision<Plan> {
        self.ask(|room, desk| decide(room, desk, incoming))
    }

    /// Asks until nothing is wanted that the server has.
    pub(crate) fn ask<T>(
        &mut self,
        question: impl Fn(&RoomFacts<'_>, &Desk) -> Decision<T>,
    ) -> Decision<T> {
        let mut desk = Desk::default();
        // Nothing here takes that many rounds.
        for _ in 0..100 {
            match question(&self.facts(), &desk) {
                Decision::NeedLocal(needed) => {
                    assert!(!needed.is_empty(), "nothing is said to be missing");
                    for needed in needed {
                        self.load(&mut desk, &needed);
                    }
                }
                Decision::NeedKeys(names) => {
                    assert!(!names.is_empty(), "no key is said to lack a number");
                    for name in names {
                        assert!(self.keys.intern(name).1, "the key has a number");
                    }
                }
                other => return other,
            }
        }
        panic!("there is always something missing");
    }

    fn load(&self, desk: &mut Desk, needed: &Needed) {
        match needed {
            Needed::EventById(id) => match self.events.values().find(|event| event.id() == id) {
                Some(event) => desk.put_event(event.clone()),
                None => desk.put_absent(id.clone()),
            },
            Needed::Event(nr) => desk.put_event(self.event(*nr).clone()),
            Needed::AuthChildren(nr) => {
                let id = self.id(*nr);
                let cites = |event: &&Arc<Event>| event.pdu.auth_events.contains(&id);
                let children = self.events.values().filter(cites).map(|event| event.nr);
                desk.put_auth_children(*nr, children.collect());
            }
            Needed::Snapshot(nr) => desk.put_snapshot(*nr, self.snapshots[nr.0 as usize].clone()),
        }
    }

    /// Stores what was decided.
    pub(crate) fn store(&mut self, plan: Plan) -> EventNr {
        let place = match plan.timeline {
            None => Place::Outlier,
            Some(timeline) => {
                if let Some(moves) = timeline.moves {
                    self.extremities = moves.extremities;
                    self.current = Some(moves.current);
                }
                self.snapshots.push(timeline.before.state);
                let snapshot = SnapshotNr(self.snapshots.len() as i64 - 1);
                Place::Timeline {
                    before: StateRef::new(snapshot, timeline.before.completeness),
                    position: StreamPosition(plan.nr.0),
                }
            }
        };
        self.put(plan.nr, plan.pdu, plan.verdict, place);
        plan.nr
    }

    fn put(&mut self, nr: EventNr, pdu: Arc<Pdu>, verdict: Verdict, place: Place) {
        let redacted_by = None;
        let event = Event {
            nr,
            pdu,
            verdict,
            place,
            redacted_by,
        };
        self.events.insert(nr, Arc::new(event));
    }

    /// Holds an event as an outlier.
    pub(crate) fn hold(&mut self, pdu: Arc<Pdu>) -> EventNr {
        if let Some(state_key) = &pdu.state_key {
            let key = StateKey::new(pdu.event_type.to_string(), &**state_key);
            self.keys.intern(key);
        }
        let nr = EventNr(self.events.len() as i64 + 1);
        self.put(nr, pdu, Verdict::Accepted, Place::Outlier);
        nr
    }

    /// The state with an event in it.
    pub(crate) fn with_entry(&self, mut known: KnownState, nr: EventNr) -> KnownState {
        let event = self.event(nr);
        apply(&self.keys, &mut known.state, nr, &event.pdu, event.verdict);
        known
    }

    /// Makes an event another one than it was.
    pub(crate) fn change(&mut self, nr: EventNr, change: impl FnOnce(&mut Event)) {
        let mut event = Event::clone(self.event(nr));
        change(&mut event);
        self.events.insert(nr, Arc::new(event));
    }

    /// The server holds the events, but has not been in the room.
    pub(crate) fn forget_timeline(&mut self) {
        for event in self.events.values_mut() {
            Arc::make_mut(event).place = Place::Outlier;
        }
        self.extremities.clear();
        self.current = None;
    }

    /// Takes an event that somebody pushes after all extremities, and that passes.
    pub(crate) fn add(&mut self, sketch: Sketch) -> EventNr {
        let parents: Vec<_> = self.extremities.iter().map(|nr| self.id(*nr)).collect();
        let state = self
            .current
            .as_ref()
            .map_or(&self.empty, |current| &current.state)
            .clone();
        let pdu = self.write(sketch, &parents, &state);
        self.accept(pdu)
    }

    /// Takes an event that somebody pushes after one that is held, and that passes.
    pub(crate) fn add_after(&mut self, sketch: Sketch, parent: EventNr) -> EventNr {
        let pdu = self.write_after(sketch, parent);
        self.accept(pdu)
    }

    fn accept(&mut self, pdu: ValidPdu) -> EventNr {
        if &pdu.event_type.to_string() == "m.room.create" {
            self.create = Some(pdu.event_id.clone());
        }
        let incoming = self.incoming(pdu);
        let plan = done(self.decide(&incoming));
        assert_eq!((plan.verdict, &plan.reason), (Verdict::Accepted, &None));
        self.store(plan)
    }
}

pub(crate) fn member(user: &'static str, membership: &str) -> Sketch {
    let content = json!({ "membership": membership });
    (user, "m.room.member", Some(user), content)
}

pub(crate) fn message(sender: &'static str) -> Sketch {
    (sender, "m.room.message", None, json!({ "body": "" }))
}

pub(crate) fn topic(sender: &'static str) -> Sketch {
    (sender, "m.room.topic", Some(""), json!({ "topic": "" }))
}

/// What was decided, as it must be.
pub(crate) fn done<T>(decision: Decision<T>) -> T {
    match decision {
        Decision::Done(answer) => answer,
        Decision::NeedRemote(need) => panic!("{need:?} is wanted"),
        Decision::Drop(reason) => panic!("dropped: {reason}"),
        Decision::NeedLocal(_) | Decision::NeedKeys(_) => unreachable!("these are looked up"),
    }
}
