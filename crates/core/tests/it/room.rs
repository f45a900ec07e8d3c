//! A room to judge events in.

use std::{collections::BTreeMap, sync::Arc};

use myelin_core::{
    auth::{Rejection, auth_keys, check_against, check_claimed},
    build::EventDraft,
    event::{Event, Place, Verdict},
    key_table::StateKey,
    keys::KeyPair,
    number::EventNr,
    pdu::Pdu,
    room_version::RoomVersion,
};
use ruma::{MilliSecondsSinceUnixEpoch, UserId, owned_server_name, uint};
use serde_json::{Value, json};

/// Sender, type, state key and content of an event. `@c:c` is the creator.
pub(crate) type Sketch = (&'static str, &'static str, Option<&'static str>, Value);

/// A room of which only the current state is kept.
pub(crate) struct Room {
    pub(crate) version: RoomVersion,
    pub(crate) state: BTreeMap<StateKey, Arc<Event>>,
    pub(crate) create: Arc<Event>,
    last: Arc<Event>,
    key: KeyPair,
    next: i64,
}

impl Room {
    /// A room with only a create event.
    pub(crate) fn new(version: RoomVersion, create_content: Value) -> Self {
        let key = KeyPair::new(owned_server_name!("c"), "1".try_into().unwrap(), [1; 32]);
        let mut content = create_content;
        content["room_version"] = json!(version.as_str());
        if version < RoomVersion::V11 {
            content["creator"] = json!("@c:c");
        }
        let room_id = (version != RoomVersion::V12).then(|| "!r:c".try_into().unwrap());
        let draft = EventDraft {
            room_id,
            sender: "@c:c".try_into().unwrap(),
            event_type: "m.room.create".to_owned(),
            state_key: Some(String::new()),
            content: serde_json::value::to_raw_value(&content).unwrap(),
            prev_events: vec![],
            auth_events: vec![],
            depth: 1,
            origin_server_ts: MilliSecondsSinceUnixEpoch(uint!(1)),
            redacts: None,
        };
        let create = stored(
            draft.finish(version, &key).unwrap().into_pdu(),
            1,
            Verdict::Accepted,
        );
        let state = BTreeMap::from([(StateKey::new("m.room.create", ""), create.clone())]);
        Self {
            version,
            state,
            last: create.clone(),
            create,
            key,
            next: 2,
        }
    }

    /// A room with a creator, a moderator `@m:m` (50), a member `@u:u`, and a join rule.
    pub(crate) fn with_members(version: RoomVersion, join_rule: &str) -> Self {
        let mut room = Self::new(version, json!({}));
        room.put((
            "@c:c",
            "m.room.member",
            Some("@c:c"),
            json!({"membership": "join"}),
        ));
        let mut users = json!({"@m:m": 50});
        if version != RoomVersion::V12 {
            users["@c:c"] = json!(100);
        }
        room.put((
            "@c:c",
            "m.room.power_levels",
            Some(""),
            json!({"users": users, "invite": 10}),
        ));
        room.put((
            "@c:c",
            "m.room.join_rules",
            Some(""),
            json!({"join_rule": join_rule}),
        ));
        for user in ["@m:m", "@u:u"] {
            room.put((
                user,
                "m.room.member",
                Some(user),
                json!({"membership": "join"}),
            ));
        }
        room
    }

    /// Makes an event on top of the room, with the auth events that its author should choose.
    pub(crate) fn make(&self, (sender, event_type, state_key, content): Sketch) -> Arc<Pdu> {
        let mut draft = EventDraft {
            room_id: Some(self.create.pdu.room_id.clone()),
            sender: UserId::parse(sender).unwrap(),
            event_type: event_type.to_owned(),
            state_key: state_key.map(str::to_owned),
            content: serde_json::value::to_raw_value(&content).unwrap(),
            prev_events: vec![self.last.id().to_owned()],
            auth_events: vec![],
            depth: self.next,
            origin_server_ts: MilliSecondsSinceUnixEpoch(uint!(1)),
            redacts: None,
        };
        let first = draft.clone().finish(self.version, &self.key).unwrap();
        let keys = auth_keys(self.version, &first).unwrap_or_default();
        let entries = keys.iter().filter_map(|key| self.state.get(key));
        draft.auth_events = entries.map(|event| event.id().to_owned()).collect();
        draft.finish(self.version, &self.key).unwrap().into_pdu()
    }

    /// Puts an event into the state, permitted or not.
    pub(crate) fn put(&mut self, sketch: Sketch) -> Arc<Event> {
        self.put_judged(sketch, Verdict::Accepted)
    }

    pub(crate) fn put_judged(&mut self, sketch: Sketch, verdict: Verdict) -> Arc<Event> {
        let pdu = self.make(sketch);
        let event = stored(pdu, self.next, verdict);
        self.next += 1;
        let state_key = event.pdu.state_key.clone().unwrap();
        let key = StateKey::new(event.pdu.event_type.to_string(), state_key);
        self.state.insert(key, event.clone());
        self.last = event.clone();
        event
    }

    /// The events behind a PDU's list of auth events.
    pub(crate) fn claimed(&self, pdu: &Pdu) -> Vec<Arc<Event>> {
        let named = |event: &&Arc<Event>| pdu.auth_events.iter().any(|id| id == event.id());
        self.state.values().filter(named).cloned().collect()
    }

    /// Checks 4 and 5, which agree here as the claimed auth events are the state's.
    pub(crate) fn judge(&self, pdu: &Pdu) -> Result<(), Rejection> {
        let claimed = self.claimed(pdu);
        let by_claim = check_claimed(self.version, pdu, &claimed, Some(&self.create));
        if !matches!(by_claim, Err(Rejection::Malformed(_))) {
            assert_eq!(by_claim, self.judge_by_state(pdu));
        }
        by_claim
    }

    /// Check 5.
    pub(crate) fn judge_by_state(&self, pdu: &Pdu) -> Result<(), Rejection> {
        check_against(self.version, pdu, |event_type, state_key| {
            self.state
                .get(&StateKey::new(event_type, state_key))
                .cloned()
        })
    }
}

pub(crate) fn stored(pdu: Arc<Pdu>, nr: i64, verdict: Verdict) -> Arc<Event> {
    Arc::new(Event {
        nr: EventNr(nr),
        pdu,
        verdict,
        place: Place::Outlier,
        redacted_by: None,
    })
}
