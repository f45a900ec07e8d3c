//! The state of a room at one point: an immutable map from [`KeyNr`] to event, which shares
//! everything it has in common with its neighbours.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hasher as _,
    sync::Arc,
};

use imbl::OrdMap;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::{
    key_table::KeyTable,
    number::{EventNr, KeyNr},
};

/// How many users a nameless room is named after.
const MOST_HEROES: usize = 5;

/// The `membership` of an `m.room.member` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Membership {
    /// In the room.
    Join = 1,
    /// Asked in by a member.
    Invite = 2,
    /// Was in the room, or was never let in.
    Leave = 3,
    /// Kept out.
    Ban = 4,
    /// Asks to be let in.
    Knock = 5,
}

impl Membership {
    /// Reads the value of `content.membership`; `None` for a value the specification doesn't know.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "join" => Self::Join,
            "invite" => Self::Invite,
            "leave" => Self::Leave,
            "ban" => Self::Ban,
            "knock" => Self::Knock,
            _ => return None,
        })
    }

    /// The value of `content.membership`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Leave => "leave",
            Self::Ban => "ban",
            Self::Knock => "knock",
        }
    }

    /// Reads the number that [`Entry`] and storage use.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [
            Self::Join,
            Self::Invite,
            Self::Leave,
            Self::Ban,
            Self::Knock,
        ]
        .into_iter()
        .find(|membership| *membership as u8 == code)
    }
}

/// What a state has for one key: an event, and for memberships what the event says, so that
/// counting and filtering need not load it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry(u64);

impl Entry {
    /// An entry; `membership` is given exactly for `m.room.member` events.
    pub fn new(event: EventNr, membership: Option<Membership>) -> Self {
        Self((event.0 as u64) << 3 | membership.map_or(0, |membership| membership as u64))
    }

    /// The event.
    pub fn event(self) -> EventNr {
        EventNr((self.0 >> 3) as i64)
    }

    /// What a membership event says.
    pub fn membership(self) -> Option<Membership> {
        Membership::from_code((self.0 & 7) as u8)
    }

    /// The entry as one integer, for storage.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`Entry::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// Identity of a state: a keyed sum over its entries. Equal sets of entries have equal hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateHash(pub u128);

/// The secret key of state hashes. Without it nobody can construct two sets with the same sum.
#[derive(Clone, Copy, Debug)]
pub struct HashKey(pub [u8; 16]);

impl HashKey {
    fn of(&self, key: KeyNr, entry: Entry) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write_u32(key.0);
        hasher.write_u64(entry.0);
        hasher.finish128().as_u128()
    }
}

/// One key whose entry differs between two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: KeyNr,
    /// What the first state has.
    pub old: Option<Entry>,
    /// What the second state has.
    pub new: Option<Entry>,
}

/// How many users have each membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Joined users.
    pub joined: u64,
    /// Invited users.
    pub invited: u64,
}

/// A room's state. Clones are cheap, and so are versions that differ in a few entries.
#[derive(Clone, Debug)]
pub struct State {
    others: OrdMap<KeyNr, Entry>,
    members: OrdMap<KeyNr, Entry>,
    servers: OrdMap<Arc<str>, u32>,
    counts: MemberCounts,
    hash: StateHash,
    hash_key: HashKey,
}

impl State {
    /// The state before a room's first event.
    pub fn empty(hash_key: HashKey) -> Self {
        Self {
            others: OrdMap::new(),
            members: OrdMap::new(),
            servers: OrdMap::new(),
            counts: MemberCounts::default(),
            hash: StateHash::default(),
            hash_key,
        }
    }

    /// Builds a state from its entries, each key once. Much faster than setting one after the other,
    /// and fastest if the keys of each family ascend.
    pub fn from_entries(
        hash_key: HashKey,
        keys: &KeyTable,
        entries: impl IntoIterator<Item = (KeyNr, Entry)>,
    ) -> Self {
        let mut state = Self::empty(hash_key);
        let mut servers = HashMap::<&str, u32>::new();
        for (key, entry) in entries {
            state.hash.0 = state.hash.0.wrapping_add(hash_key.of(key, entry));
            let family = if key.is_member() {
                &mut state.members
            } else {
                &mut state.others
            };
            family.insert(key, entry);
            match entry.membership() {
                Some(Membership::Join) => {
                    state.counts.joined += 1;
                    if let Some(server) = keys.name(key).and_then(|name| name.member_server()) {
                        *servers.entry(server).or_default() += 1;
                    }
                }
                Some(Membership::Invite) => state.counts.invited += 1,
                _ => {}
            }
        }
        let servers = servers.into_iter().collect::<BTreeMap<_, _>>();
        state.servers = servers
            .into_iter()
            .map(|(name, users)| (Arc::from(name), users))
            .collect();
        state
    }

    /// The entry of a key.
    pub fn get(&self, key: KeyNr) -> Option<Entry> {
        self.family(key).get(&key).copied()
    }

    /// The entry of a (type, state key) pair.
    pub fn get_named(&self, keys: &KeyTable, event_type: &str, state_key: &str) -> Option<Entry> {
        self.get(keys.number(event_type, state_key)?)
    }

    /// Puts an entry in place of what the key had (`None` removes it).
    pub fn set(&mut self, keys: &KeyTable, key: KeyNr, entry: Option<Entry>) {
        let old = self.get(key);
        if old == entry {
            return;
        }
        if let Some(old) = old {
            self.hash.0 = self.hash.0.wrapping_sub(self.hash_key.of(key, old));
            self.count(keys, key, old, -1);
        }
        let family = if key.is_member() {
            &mut self.members
        } else {
            &mut self.others
        };
        match entry {
            Some(entry) => {
                family.insert(key, entry);
                self.hash.0 = self.hash.0.wrapping_add(self.hash_key.of(key, entry));
                self.count(keys, key, entry, 1);
            }
            None => {
                family.remove(&key);
            }
        }
    }

    fn count(&mut self, keys: &KeyTable, key: KeyNr, entry: Entry, step: i64) {
        match entry.membership() {
            Some(Membership::Join) => {
                self.counts.joined = self.counts.joined.saturating_add_signed(step);
                if let Some(server) = keys.name(key).and_then(|name| name.member_server()) {
                    self.count_server(server, step);
                }
            }
            Some(Membership::Invite) => {
                self.counts.invited = self.counts.invited.saturating_add_signed(step);
            }
            _ => {}
        }
    }

    fn count_server(&mut self, server: &str, step: i64) {
        let users = self.servers.get(server).copied().unwrap_or(0);
        let users = users.saturating_add_signed(step as i32);
        if users == 0 {
            self.servers.remove(server);
        } else {
            self.servers.insert(server.into(), users);
        }
    }

    fn family(&self, key: KeyNr) -> &OrdMap<KeyNr, Entry> {
        if key.is_member() {
            &self.members
        } else {
            &self.others
        }
    }

    /// Everything but the memberships.
    pub fn others(&self) -> impl Iterator<Item = (KeyNr, Entry)> + '_ {
        self.others.iter().map(|(key, entry)| (*key, *entry))
    }

    /// The memberships.
    pub fn members(&self) -> impl Iterator<Item = (KeyNr, Entry)> + '_ {
        self.members.iter().map(|(key, entry)| (*key, *entry))
    }

    /// All entries, memberships last.
    pub fn entries(&self) -> impl Iterator<Item = (KeyNr, Entry)> + '_ {
        self.others().chain(self.members())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.others.len() + self.members.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes of memory this state takes if it shares nothing with another. For
    /// bounding caches.
    pub fn approximate_bytes(&self) -> usize {
        const STATE: usize = 400;
        // 16 bytes in a B-tree whose nodes are about half full: measured at 200,000 entries.
        const ENTRY: usize = 40;
        const SERVER: usize = 96;
        STATE + ENTRY * self.len() + SERVER * self.servers.len()
    }

    /// How many users have each membership.
    pub fn counts(&self) -> MemberCounts {
        self.counts
    }

    /// The users after whom a nameless room is named: the first but `own` that are joined or invited;
    /// failing that, of those who left (client-server API, "RoomSummary"). Keys are numbered in the order
    /// in which users came to the room, so this stops after a few entries.
    pub fn heroes(&self, own: Option<KeyNr>) -> Vec<(KeyNr, EventNr)> {
        let of = |wanted: &'static [Membership]| {
            self.members()
                .filter(|(key, _)| Some(*key) != own)
                .filter(|(_, entry)| entry.membership().is_some_and(|is| wanted.contains(&is)))
                .map(|(key, entry)| (key, entry.event()))
                .take(MOST_HEROES)
                .collect::<Vec<_>>()
        };
        let present = of(&[Membership::Join, Membership::Invite]);
        if present.is_empty() {
            of(&[Membership::Leave, Membership::Ban])
        } else {
            present
        }
    }

    /// The servers with joined users, in order of their names, and how many users each has.
    pub fn servers(&self) -> impl Iterator<Item = (&Arc<str>, u32)> + '_ {
        self.servers.iter().map(|(server, users)| (server, *users))
    }

    /// How many joined users a server has.
    pub fn users_of(&self, server: &str) -> u32 {
        self.servers.get(server).copied().unwrap_or(0)
    }

    /// Whether a server has a joined user.
    pub fn has_server(&self, server: &str) -> bool {
        self.servers.contains_key(server)
    }

    /// The identity of this set of entries.
    pub fn hash(&self) -> StateHash {
        self.hash
    }

    /// The entries in which `other` differs from this state. Cost follows the difference where the
    /// two share their history.
    pub fn diff(&self, other: &Self) -> Vec<Change> {
        if self.hash == other.hash {
            return Vec::new();
        }
        let families = [
            (&self.others, &other.others),
            (&self.members, &other.members),
        ];
        let mut changes = Vec::new();
        for (old, new) in families {
            changes.extend(old.diff(new).map(|item| match item {
                imbl::ordmap::DiffItem::Add(key, new) => Change {
                    key: *key,
                    old: None,
                    new: Some(*new),
                },
                imbl::ordmap::DiffItem::Remove(key, old) => Change {
                    key: *key,
                    old: Some(*old),
                    new: None,
                },
                imbl::ordmap::DiffItem::Update { old, new } => Change {
                    key: *new.0,
                    old: Some(*old.1),
                    new: Some(*new.1),
                },
            }));
        }
        changes
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for State {}
