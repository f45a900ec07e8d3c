//! A room as a test tells it: events of several servers on any branches, with the state after each
//! as the specification's own algorithm gives it.

use std::{collections::BTreeMap, sync::Arc};

use myelin_core::{
    auth,
    build::EventDraft,
    event::{Event, Place, Verdict},
    keys::KeyPair,
    number::EventNr,
    pdu::Pdu,
    room_version::RoomVersion,
};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, ServerName, UInt, UserId,
    events::StateEventType,
    server_name,
    state_res::{StateMap, utils::event_id_set::EventIdSet},
    user_id,
};
use serde_json::{Value, json, value::to_raw_value};

/// Type and state key to event.
pub(crate) type Entries = BTreeMap<(String, String), OwnedEventId>;

/// Servers that nobody can reach: their addresses refuse connections at once.
pub(crate) fn foreign_servers() -> [&'static ServerName; 3] {
    [
        server_name!("127.0.0.1:1"),
        server_name!("127.0.0.1:2"),
        server_name!("127.0.0.1:3"),
    ]
}

pub(crate) fn bob() -> &'static UserId {
    user_id!("@bob:127.0.0.1:1")
}

pub(crate) fn carol() -> &'static UserId {
    user_id!("@carol:127.0.0.1:2")
}

pub(crate) fn mallory() -> &'static UserId {
    user_id!("@mallory:127.0.0.1:3")
}

/// The key that a foreign server signs with.
pub(crate) fn key_of(server: &ServerName) -> KeyPair {
    let seed = server.as_str().bytes().fold(0, u8::wrapping_add);
    KeyPair::new(server.to_owned(), "a".try_into().unwrap(), [seed; 32])
}

/// What somebody writes.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    sender: &'static UserId,
    event_type: String,
    state_key: Option<String>,
    content: Value,
    redacts: Option<OwnedEventId>,
    cites: Option<Vec<OwnedEventId>>,
    depth: Option<i64>,
    age_ms: u64,
}

pub(crate) fn state(
    sender: &'static UserId,
    event_type: &str,
    state_key: &str,
    content: Value,
) -> Words {
    Words {
        sender,
        event_type: event_type.to_owned(),
        state_key: Some(state_key.to_owned()),
        content,
        redacts: None,
        cites: None,
        depth: None,
        age_ms: 0,
    }
}

pub(crate) fn message(sender: &'static UserId, body: &str) -> Words {
    let content = json!({"body": body, "msgtype": "m.text"});
    state(sender, "m.room.message", "", content).without_state_key()
}

/// A message that relates to another event.
pub(crate) fn relating(sender: &'static UserId, rel_type: &str, parent: &EventId) -> Words {
    Words {
        content: json!({"body": "b", "m.relates_to": {"rel_type": rel_type, "event_id": parent}}),
        ..message(sender, "")
    }
}

pub(crate) fn topic(sender: &'static UserId, topic: &str) -> Words {
    state(sender, "m.room.topic", "", json!({ "topic": topic }))
}

pub(crate) fn membership(sender: &'static UserId, target: &UserId, value: &str) -> Words {
    state(
        sender,
        "m.room.member",
        target.as_str(),
        json!({ "membership": value }),
    )
}

pub(crate) fn redaction(sender: &'static UserId, redacts: &EventId) -> Words {
    Words {
        redacts: Some(redacts.to_owned()),
        event_type: "m.room.redaction".to_owned(),
        content: json!({}),
        ..message(sender, "")
    }
}

impl Words {
    /// Names other auth events than those that the state before the event has.
    pub(crate) fn citing<'a>(self, ids: impl IntoIterator<Item = &'a OwnedEventId>) -> Self {
        Self {
            cites: Some(ids.into_iter().cloned().collect()),
            ..self
        }
    }

    /// What is no state.
    pub(crate) fn without_state_key(self) -> Self {
        Self {
            state_key: None,
            ..self
        }
    }

    /// Claims another depth than one more than its parents'.
    pub(crate) fn at_depth(self, depth: i64) -> Self {
        Self {
            depth: Some(depth),
            ..self
        }
    }

    /// Was written before what the story has so far.
    pub(crate) fn long_ago(self) -> Self {
        Self {
            age_ms: 1_000_000,
            ..self
        }
    }
}

/// A room's events, whoever holds them.
#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) version: RoomVersion,
    pub(crate) room_id: OwnedRoomId,
    events: BTreeMap<OwnedEventId, Arc<Event>>,
    after: BTreeMap<OwnedEventId, Entries>,
    now_ms: u64,
}

impl Story {
    pub(crate) fn new(version: RoomVersion, room_id: OwnedRoomId, now_ms: u64) -> Self {
        Self {
            version,
            room_id,
            events: BTreeMap::new(),
            after: BTreeMap::new(),
            now_ms,
        }
    }

    pub(crate) fn knows(&self, id: &EventId) -> bool {
        self.events.contains_key(id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &OwnedEventId> {
        self.events.keys()
    }

    pub(crate) fn pdu(&self, id: &EventId) -> &Arc<Pdu> {
        &self.events[id].pdu
    }

    /// What travels.
    pub(crate) fn json(&self, id: &EventId) -> Value {
        serde_json::from_str(&self.pdu(id).json).unwrap()
    }

    /// Takes all events of another story for its own.
    pub(crate) fn believe(&mut self, other: &Self) {
        self.events.extend(other.events.clone());
        self.after.extend(other.after.clone());
    }

    /// Takes an event that somebody else wrote.
    pub(crate) fn read(&mut self, pdu: Arc<Pdu>) {
        let mut after = self.before(&pdu.prev_events);
        if let Some(state_key) = &pdu.state_key {
            let key = (pdu.event_type.to_string(), state_key.clone());
            after.insert(key, pdu.event_id.clone());
        }
        let id = pdu.event_id.clone();
        let event = Event {
            nr: EventNr(0),
            pdu,
            verdict: Verdict::Accepted,
            place: Place::Outlier,
            redacted_by: None,
        };
        self.events.insert(id.clone(), Arc::new(event));
        self.after.insert(id, after);
    }

    /// Writes an event after others, and tells its ID. Nothing is sent.
    pub(crate) fn write(&mut self, parents: &[&OwnedEventId], words: Words) -> OwnedEventId {
        self.now_ms += 1;
        let parents: Vec<OwnedEventId> = parents.iter().copied().cloned().collect();
        let before = self.before(&parents);
        let content = to_raw_value(&words.content).unwrap();
        let auth_keys = auth::auth_keys_for(
            self.version,
            &words.event_type[..].into(),
            words.sender,
            words.state_key.as_deref(),
            &content,
        );
        let cited = auth_keys.unwrap().into_iter();
        let cited =
            cited.filter_map(|key| before.get(&(key.event_type.clone(), key.state_key.clone())));
        let auth_events = words.cites.unwrap_or_else(|| cited.cloned().collect());
        let depth = parents.iter().map(|id| self.pdu(id).depth).max();
        let draft = EventDraft {
            room_id: Some(self.room_id.clone()),
            sender: words.sender.to_owned(),
            event_type: words.event_type,
            state_key: words.state_key,
            content,
            prev_events: parents,
            auth_events,
            depth: words.depth.unwrap_or(depth.unwrap_or(0) + 1),
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(
                self.now_ms - words.age_ms,
            )),
            redacts: words.redacts,
        };
        let key = key_of(words.sender.server_name());
        let pdu = draft.finish(self.version, &key).unwrap().into_pdu();
        let id = pdu.event_id.clone();
        self.read(pdu);
        id
    }

    /// Forgets all states but one, which take memory in large rooms.
    pub(crate) fn keep_only_state_after(&mut self, id: &EventId) {
        self.after.retain(|known, _| known == id);
    }

    /// Writes events each after the last, and tells their IDs.
    pub(crate) fn chain(
        &mut self,
        parent: &OwnedEventId,
        words: impl IntoIterator<Item = Words>,
    ) -> Vec<OwnedEventId> {
        let mut ids = Vec::new();
        for words in words {
            let parent = ids.last().unwrap_or(parent).clone();
            ids.push(self.write(&[&parent], words));
        }
        ids
    }

    /// An event is rejected: it changes nothing.
    pub(crate) fn is_rejected(&mut self, id: &EventId) {
        let before = self.before(&self.pdu(id).prev_events.clone());
        self.after.insert(id.to_owned(), before);
        let mut event = (*self.events[id]).clone();
        event.verdict = Verdict::Rejected;
        self.events.insert(id.to_owned(), Arc::new(event));
    }

    /// The state after some events together.
    pub(crate) fn before(&self, parents: &[OwnedEventId]) -> Entries {
        let states: Vec<&Entries> = parents.iter().map(|id| &self.after[id]).collect();
        match states[..] {
            [] => Entries::new(),
            [state] => state.clone(),
            _ => self.resolve(&states),
        }
    }

    /// The state after one event.
    pub(crate) fn after(&self, id: &EventId) -> &Entries {
        &self.after[id]
    }

    /// State resolution of whole states with their whole auth chains.
    fn resolve(&self, states: &[&Entries]) -> Entries {
        let maps: Vec<StateMap<OwnedEventId>> = states.iter().map(|state| whole(state)).collect();
        let chains = states.iter().map(|state| self.auth_chain(state)).collect();
        let rules = self.version.rules();
        let resolved = ruma::state_res::resolve(
            &rules.authorization,
            rules.state_res.v2_rules().unwrap(),
            &maps,
            chains,
            |id| self.events.get(id).cloned(),
            |_| panic!("stories are told in room versions before 12"),
        );
        let named = |((event_type, key), id): ((StateEventType, String), OwnedEventId)| {
            ((event_type.to_string(), key), id)
        };
        resolved.unwrap().into_iter().map(named).collect()
    }

    /// What the events of a state reach through their auth events, and they themselves.
    pub(crate) fn auth_chain(&self, state: &Entries) -> EventIdSet<OwnedEventId> {
        let mut chain = EventIdSet::new();
        let mut next: Vec<OwnedEventId> = state.values().cloned().collect();
        while let Some(id) = next.pop() {
            if chain.insert(id.clone()) {
                next.extend(self.pdu(&id).auth_events.iter().cloned());
            }
        }
        chain
    }
}

fn whole(state: &Entries) -> StateMap<OwnedEventId> {
    let entry = |((event_type, key), id): (&(String, String), &OwnedEventId)| {
        let event_type = StateEventType::from(&event_type[..]);
        ((event_type, key.clone()), id.clone())
    };
    state.iter().map(entry).collect()
}
