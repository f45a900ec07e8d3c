//! Rooms for tests and benchmarks, without a server: events with well-chosen auth events which the
//! authorisation rules permit. Not part of the product (feature `testing`).

mod plain;
mod story;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use base64::Engine as _;
use ed25519_dalek::{Signer as _, SigningKey};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    UserId,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use self::{
    plain::{resolve_plainly, resolve_with_chains},
    story::{Action, Knob, Step, Story},
};
use crate::{
    auth,
    completeness::{Completeness, StateRef},
    desk::{Desk, Needed},
    event::{Event, Place, Verdict},
    key_table::{KeyTable, MEMBER, StateKey},
    number::{EventNr, SnapshotNr, StreamPosition},
    pdu::Pdu,
    room_version::RoomVersion,
    state::{Entry, HashKey, Membership, State},
};

/// The key of all states made here.
pub const HASH_KEY: HashKey = HashKey([7; 16]);

/// What somebody wants to write.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who.
    pub sender: OwnedUserId,
    /// The event type.
    pub event_type: &'static str,
    /// The state key.
    pub state_key: String,
    /// The content.
    pub content: Value,
    /// How far the author's clock is from that of the others, in milliseconds.
    pub clock_error: i64,
}

impl Draft {
    /// A state event written by somebody whose clock is right.
    pub fn new(
        sender: &UserId,
        event_type: &'static str,
        state_key: impl Into<String>,
        content: Value,
    ) -> Self {
        let state_key = state_key.into();
        Self {
            sender: sender.to_owned(),
            event_type,
            state_key,
            content,
            clock_error: 0,
        }
    }

    /// A membership; `extra` holds further keys of the content.
    pub fn membership(sender: &UserId, target: &UserId, value: Membership, extra: Value) -> Self {
        let mut content = extra;
        content["membership"] = value.name().into();
        Self::new(sender, MEMBER, target.as_str(), content)
    }
}

/// All events of a room, as a server's storage would have them.
#[derive(Clone, Debug)]
pub struct Room {
    /// The room's version.
    pub version: RoomVersion,
    /// The numbering of its keys. Every event's key has a number.
    pub keys: KeyTable,
    /// Who created it.
    pub creator: OwnedUserId,
    id: OwnedRoomId,
    events: Vec<Arc<Event>>,
    by_id: BTreeMap<OwnedEventId, EventNr>,
    citing: BTreeMap<EventNr, Vec<EventNr>>,
}

impl Room {
    /// A public room: create event, the creator's join, power levels and join rules.
    pub fn new(version: RoomVersion) -> (Self, State) {
        let creator = user(0);
        let mut room = Self {
            version,
            keys: KeyTable::default(),
            id: RoomId::parse("!room:one.example").expect("is a room ID"),
            creator: creator.clone(),
            events: Vec::new(),
            by_id: BTreeMap::new(),
            citing: BTreeMap::new(),
        };
        let mut state = State::empty(HASH_KEY);
        let mut create = json!({ "room_version": version.as_str() });
        let mut levels = json!({ "users": {}, "users_default": 0, "invite": 0 });
        if version < RoomVersion::V11 {
            create["creator"] = creator.as_str().into();
        }
        if !version.room_id_is_create_hash() {
            levels["users"][creator.as_str()] = 100.into();
        }
        for draft in [
            Draft::new(&creator, "m.room.create", "", create),
            Draft::membership(&creator, &creator, Membership::Join, json!({})),
            Draft::new(&creator, "m.room.power_levels", "", levels),
            Draft::new(
                &creator,
                "m.room.join_rules",
                "",
                json!({ "join_rule": "public" }),
            ),
        ] {
            let written = room.write(&mut state, &draft);
            assert!(written, "a creator may set up the room: {draft:?}");
        }
        (room, state)
    }

    /// Adds an event after `state`, and to it, unless the authorisation rules forbid it.
    pub fn write(&mut self, state: &mut State, draft: &Draft) -> bool {
        let Some(event) = self.author(state, draft) else {
            return false;
        };
        let key = StateKey::new(draft.event_type, &*draft.state_key);
        let (key, _) = self.keys.intern(key);
        state.set(
            &self.keys,
            key,
            Some(Entry::new(event.nr, event.pdu.membership)),
        );
        self.keep(event);
        true
    }

    /// A room in which `members` users joined one after the other while its power levels changed
    /// `power_changes` times.
    ///
    /// # Panics
    /// If the rules forbid any of it, which they don't.
    pub fn crowd(version: RoomVersion, members: usize, power_changes: usize) -> (Self, State) {
        let (mut room, mut state) = Self::new(version);
        let mut levels = json!({ "users": {}, "events_default": 0, "state_default": 50 });
        if !version.room_id_is_create_hash() {
            levels["users"][room.creator.as_str()] = 100.into();
        }
        let pause = (members / (power_changes + 1)).max(1);
        for n in 1..=members {
            let join = Draft::membership(&user(n), &user(n), Membership::Join, json!({}));
            assert!(
                room.write(&mut state, &join),
                "anybody may join a public room"
            );
            if n % pause == 0 {
                levels["users"][user(n).as_str()] = 50.into();
                let creator = room.creator.clone();
                let draft = Draft::new(&creator, "m.room.power_levels", "", levels.clone());
                assert!(
                    room.write(&mut state, &draft),
                    "a creator may change power levels"
                );
            }
        }
        (room, state)
    }

    fn author(&mut self, state: &State, draft: &Draft) -> Option<Arc<Event>> {
        let mut pdu = self.pdu(draft);
        if draft.event_type == "m.room.create" && self.version.room_id_is_create_hash() {
            self.id = RoomId::parse(pdu.event_id.as_str().replace('$', "!")).ok()?;
            pdu.room_id = self.id.clone();
        }
        let lookup = |event_type: &str, state_key: &str| {
            let entry = state.get_named(&self.keys, event_type, state_key)?;
            Some(self.event(entry.event()).clone())
        };
        auth::check_against(self.version, &pdu, lookup).ok()?;
        let cited = auth::auth_keys(self.version, &pdu).ok()?;
        let cited = cited
            .iter()
            .filter_map(|key| lookup(&key.event_type, &key.state_key));
        pdu.auth_events = cited.map(|event| event.pdu.event_id.clone()).collect();
        let nr = EventNr(self.events.len() as i64 + 1);
        let before = StateRef::new(SnapshotNr(0), Completeness::FULL);
        let place = Place::Timeline {
            before,
            position: StreamPosition(nr.0),
        };
        let verdict = Verdict::Accepted;
        Some(Arc::new(Event {
            nr,
            pdu: Arc::new(pdu),
            verdict,
            place,
            redacted_by: None,
        }))
    }

    fn pdu(&self, draft: &Draft) -> Pdu {
        let depth = self.events.len() as i64;
        // A hash, so that the order of IDs has nothing to do with that of events.
        let digest = Sha256::digest(format!("event {depth}"));
        let id = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(digest);
        let time = (1_000_000 + 10 * depth + draft.clock_error).max(0);
        let content = serde_json::value::to_raw_value(&draft.content).expect("is JSON");
        let membership = draft.content["membership"]
            .as_str()
            .and_then(Membership::from_name);
        Pdu {
            event_id: EventId::parse(format!("${id}")).expect("is an event ID"),
            room_id: self.id.clone(),
            sender: draft.sender.clone(),
            event_type: draft.event_type.into(),
            state_key: Some(draft.state_key.clone()),
            content,
            // The rules look at them only to recognise the creator's first join.
            prev_events: self
                .events
                .last()
                .map(|event| event.pdu.event_id.clone())
                .into_iter()
                .collect(),
            auth_events: Vec::new(),
            redacts: None,
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::try_from(time).unwrap_or_default()),
            depth,
            membership: membership.filter(|_| draft.event_type == MEMBER),
            json: "{}".into(),
            ruma_content: None,
        }
    }

    fn keep(&mut self, event: Arc<Event>) {
        for id in &event.pdu.auth_events {
            self.citing
                .entry(self.by_id[id])
                .or_default()
                .push(event.nr);
        }
        self.by_id.insert(event.pdu.event_id.clone(), event.nr);
        self.events.push(event);
    }

    /// An event.
    pub fn event(&self, nr: EventNr) -> &Arc<Event> {
        &self.events[nr.0 as usize - 1]
    }

    /// An event by its ID.
    pub fn event_by_id(&self, id: &EventId) -> Option<&Arc<Event>> {
        self.by_id.get(id).map(|nr| self.event(*nr))
    }

    /// The entry that a state has for a key.
    pub fn entry(&self, state: &State, event_type: &str, state_key: &str) -> Option<&Arc<Event>> {
        let entry = state.get_named(&self.keys, event_type, state_key)?;
        Some(self.event(entry.event()))
    }

    /// Puts something on a desk.
    pub fn load(&self, desk: &mut Desk, needed: &Needed) {
        match needed {
            Needed::EventById(id) => match self.event_by_id(id) {
                Some(event) => desk.put_event(event.clone()),
                None => desk.put_absent(id.clone()),
            },
            Needed::Event(nr) => desk.put_event(self.event(*nr).clone()),
            Needed::AuthChildren(nr) => {
                let citing = self.citing.get(nr).map(Vec::as_slice).unwrap_or_default();
                desk.put_auth_children(*nr, citing.into());
            }
            Needed::Snapshot(nr) => unreachable!("nothing here refers to snapshot {nr}"),
        }
    }

    /// Puts the auth chains on a desk that are wanted there. Gives the number of events.
    pub fn load_wanted_chains(&self, desk: &mut Desk) -> usize {
        let mut loaded = BTreeSet::new();
        let mut next = desk.take_wanted_chains().into_iter().collect::<Vec<_>>();
        while let Some(nr) = next.pop() {
            if loaded.insert(nr) {
                let event = self.event(nr);
                next.extend(event.pdu.auth_events.iter().map(|id| self.by_id[id]));
                desk.put_event(event.clone());
            }
        }
        loaded.len()
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// The n-th user; there are three servers.
pub fn user(n: usize) -> OwnedUserId {
    let server = ["one", "two", "three"][n % 3];
    UserId::parse(format!("@user{n}:{server}.example")).expect("is a user ID")
}

fn identity_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

/// The content of an invite by e-mail address, before it is known whose that is.
pub fn third_party_invite() -> Value {
    let key = base64::prelude::BASE64_STANDARD_NO_PAD.encode(identity_key().verifying_key());
    json!({ "display_name": "s", "key_validity_url": "https://id.example", "public_key": key })
}

/// What the identity server says when somebody has proved that the address is theirs.
pub fn third_party_signed(user: &UserId, token: &str) -> Value {
    let mut signed = json!({ "mxid": user.as_str(), "token": token });
    let signature = identity_key().sign(signed.to_string().as_bytes());
    let signature = base64::prelude::BASE64_STANDARD_NO_PAD.encode(signature.to_bytes());
    signed["signatures"] = json!({ "id.example": { "ed25519:0": signature } });
    json!({ "third_party_invite": { "display_name": "s", "signed": signed } })
}
