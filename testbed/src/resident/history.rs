//! A room's events in one line, made and signed as their servers would have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use myelin_core::auth;
use myelin_core::build::EventDraft;
use myelin_core::event_type::EventType;
use myelin_core::keys::KeyPair;
use myelin_core::pdu::Pdu;
use myelin_core::room_version::RoomVersion;
use myelin_core::state::Membership;
use myelin_env::Env;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
    RoomId, UInt, UserId,
};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

/// A state: events by type and state key.
pub(super) type State = BTreeMap<(String, String), Arc<Pdu>>;

/// Each event is the only child of the one before it.
#[derive(Clone)]
pub struct History {
    pub version: RoomVersion,
    events: Vec<Arc<Pdu>>,
    places: HashMap<OwnedEventId, usize>,
    /// Events that stand beside the line; nothing is built upon them.
    aside: HashMap<OwnedEventId, Arc<Pdu>>,
    state: State,
}

impl History {
    /// A public room with a name and an alias, whose members joined one after the other. The members
    /// are spread over the servers whose keys are given; the creator is on the first.
    pub fn generate(version: RoomVersion, members: usize, keys: &[KeyPair]) -> Self {
        let mut history = Self {
            version,
            events: Vec::new(),
            places: HashMap::new(),
            aside: HashMap::new(),
            state: State::new(),
        };
        let creator = user(0, &keys[0]);
        let mut create = json!({ "room_version": version.as_str() });
        let mut levels = json!({ "users": {}, "users_default": 0 });
        if version.has_creator_in_content() {
            create["creator"] = creator.as_str().into();
        }
        if !version.room_id_is_create_hash() {
            levels["users"][creator.as_str()] = 100.into();
        }
        let alias = format!("#town:{}", keys[0].server_name());
        let join = json!({ "membership": "join", "displayname": "the founder" });
        for (event_type, state_key, content) in [
            ("m.room.create", "", create),
            ("m.room.member", creator.as_str(), join),
            ("m.room.power_levels", "", levels),
            ("m.room.join_rules", "", json!({ "join_rule": "public" })),
            (
                "m.room.history_visibility",
                "",
                json!({ "history_visibility": "shared" }),
            ),
            ("m.room.canonical_alias", "", json!({ "alias": alias })),
            ("m.room.name", "", json!({ "name": "Town" })),
        ] {
            history.write(&keys[0], &creator, (event_type, state_key), &content);
        }
        for number in 1..members {
            let key = &keys[number % keys.len()];
            let member = user(number, key);
            let content =
                json!({ "membership": "join", "displayname": format!("citizen {number}") });
            history.write(key, &member, ("m.room.member", member.as_str()), &content);
        }
        history
    }

    /// Adds a state event, named by its type and state key.
    pub fn write(
        &mut self,
        key: &KeyPair,
        sender: &UserId,
        name: (&str, &str),
        content: &Value,
    ) -> Arc<Pdu> {
        let (event_type, state_key) = name;
        let draft = self.draft(sender, event_type, Some(state_key), content);
        let made = draft.finish(self.version, key).unwrap().into_pdu();
        self.push(made.clone());
        made
    }

    /// Lets another user of the key's server join.
    pub fn arrive(&mut self, key: &KeyPair, number: usize) -> Arc<Pdu> {
        let user = user(number, key);
        let content = json!({ "membership": "join" });
        self.write(key, &user, ("m.room.member", user.as_str()), &content)
    }

    /// An event that could come next.
    pub fn draft(
        &self,
        sender: &UserId,
        event_type: &str,
        state_key: Option<&str>,
        content: &Value,
    ) -> EventDraft {
        let content = to_raw_value(content).unwrap();
        let kind = EventType::from(event_type);
        let cited = auth::auth_keys_for(self.version, &kind, sender, state_key, &content).unwrap();
        let cited = cited
            .into_iter()
            .filter_map(|key| self.state.get(&(key.event_type, key.state_key)));
        let is_create = self.events.is_empty();
        let named_by_hash = self.version.room_id_is_create_hash();
        EventDraft {
            room_id: (!is_create || !named_by_hash).then(|| self.room_id_for(sender)),
            sender: sender.to_owned(),
            event_type: event_type.to_owned(),
            state_key: state_key.map(str::to_owned),
            content,
            prev_events: self
                .last()
                .map(|last| last.event_id.clone())
                .into_iter()
                .collect(),
            auth_events: cited.map(|event| event.event_id.clone()).collect(),
            depth: self.events.len() as i64 + 1,
            origin_server_ts: now(),
            redacts: None,
        }
    }

    fn room_id_for(&self, creator: &UserId) -> OwnedRoomId {
        match self.events.first() {
            Some(create) => create.room_id.clone(),
            None => RoomId::parse(format!("!town:{}", creator.server_name())).unwrap(),
        }
    }

    /// The first member on the key's server.
    pub fn speaker(&self, key: &KeyPair) -> OwnedUserId {
        let joined = self
            .joined_users()
            .into_iter()
            .map(|user| UserId::parse(user).unwrap());
        let mut here = joined.filter(|user| user.server_name() == key.server_name());
        here.next().unwrap()
    }

    /// Adds a message of the first member on the key's server.
    pub fn say(&mut self, key: &KeyPair, text: &str) -> Arc<Pdu> {
        let sender = self.speaker(key);
        let content = json!({ "msgtype": "m.text", "body": text });
        let draft = self.draft(&sender, "m.room.message", None, &content);
        let message = draft.finish(self.version, key).unwrap().into_pdu();
        self.push(message.clone());
        message
    }

    /// Adds the next event.
    pub fn push(&mut self, event: Arc<Pdu>) {
        self.places
            .insert(event.event_id.clone(), self.events.len());
        apply(&mut self.state, &event);
        self.events.push(event);
    }

    pub fn room_id(&self) -> &OwnedRoomId {
        &self.events[0].room_id
    }

    pub fn last(&self) -> Option<&Arc<Pdu>> {
        self.events.last()
    }

    pub fn event(&self, id: &EventId) -> Option<&Arc<Pdu>> {
        match self.places.get(id) {
            Some(place) => Some(&self.events[*place]),
            None => self.aside.get(id),
        }
    }

    /// Adds an event that the line passes by.
    pub fn put_aside(&mut self, event: Arc<Pdu>) {
        self.aside.insert(event.event_id.clone(), event);
    }

    /// All events of the line, oldest first.
    pub fn events(&self) -> &[Arc<Pdu>] {
        &self.events
    }

    /// What a user is to the room.
    pub fn membership(&self, user: &UserId) -> Option<Membership> {
        let name = ("m.room.member".to_owned(), user.to_string());
        self.state.get(&name)?.membership
    }

    /// The state after all events.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The state before an event.
    pub(super) fn state_before(&self, id: &EventId) -> Option<State> {
        let mut state = State::new();
        for event in &self.events[..*self.places.get(id)?] {
            apply(&mut state, event);
        }
        Some(state)
    }

    /// The events from the given ones back to the first, newest first.
    pub fn back_from<'h>(&'h self, from: &[OwnedEventId]) -> impl Iterator<Item = &'h Arc<Pdu>> {
        let places = from.iter().filter_map(|id| self.places.get(id));
        let end = places.max().map_or(0, |place| place + 1);
        self.events[..end].iter().rev()
    }

    /// What the given events cite, and what that cites.
    pub fn auth_chain<'h>(&'h self, events: impl Iterator<Item = &'h Arc<Pdu>>) -> Vec<Arc<Pdu>> {
        let mut chain = BTreeMap::new();
        let mut next: Vec<&OwnedEventId> = events.flat_map(|event| &event.auth_events).collect();
        while let Some(id) = next.pop() {
            let Some(place) = self.places.get(id) else {
                continue;
            };
            let event = &self.events[*place];
            if chain.insert(*place, event.clone()).is_none() {
                next.extend(&event.auth_events);
            }
        }
        chain.into_values().collect()
    }

    pub fn joined_users(&self) -> BTreeSet<String> {
        let joined = self
            .state
            .iter()
            .filter(|(_, event)| event.membership == Some(Membership::Join));
        joined.map(|((_, user), _)| user.clone()).collect()
    }

    /// The servers of all joined users.
    pub fn servers(&self) -> BTreeSet<OwnedServerName> {
        let users = self.joined_users().into_iter();
        users
            .map(|user| UserId::parse(user).unwrap().server_name().to_owned())
            .collect()
    }
}

fn apply(state: &mut State, event: &Arc<Pdu>) {
    if let Some(state_key) = &event.state_key {
        let name = (event.event_type.to_string(), state_key.clone());
        state.insert(name, event.clone());
    }
}

/// The n-th user of the key's server.
pub fn user(number: usize, key: &KeyPair) -> OwnedUserId {
    UserId::parse(format!("@citizen{number}:{}", key.server_name())).unwrap()
}

/// The time by the machine's clock.
pub(super) fn now() -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(UInt::new_saturating(Env::real().clock.now_ms()))
}
