//! What happens to rooms: events that arrive, events that are made here, joins and leaves, the
//! completion of partial joins, history from other servers, and whom to tell.
//!
//! `receive` tells the story of an event from another server, `join` and `resync` that of a partial
//! join, `send` that of a local event. All of them end in `turn` and `commit`, the only way into
//! storage.

mod alias;
mod backfill;
mod blocking;
mod candidates;
mod commit;
mod completion;
mod containment;
mod create;
mod deletion;
mod departures;
mod edus;
mod error;
mod event_cache;
mod fetch;
mod fetched_state;
mod following;
mod guests;
mod handshake;
mod held;
mod history_purge;
mod inbound;
mod invite;
mod join;
mod knock;
mod leave;
mod membership;
mod new_event;
mod notes;
mod notifications;
mod numbers;
mod out_of_band;
mod outgoing;
mod outliers;
mod pdu_answer;
mod permission;
mod policy_server;
mod presence;
mod profiles;
mod publishing;
mod pulls;
mod push_rules;
mod receipts;
mod receive;
mod redaction;
mod relation;
mod resident;
mod restricted;
mod resync;
mod room;
mod room_admin;
mod search_index;
mod send;
mod serve;
mod server_acl;
mod sharing;
mod shutdown;
mod staging;
mod state_cache;
mod states;
mod stripped;
mod taking;
mod template;
mod third_party_invites;
mod timestamps;
mod trace;
mod traced;
mod turn;
mod typing;
mod unread;
mod unread_cache;
mod upgrade;
mod user_directory;
mod validation;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU64},
};

use myelin_core::{
    key_table::KeyTable, keys::KeyPair, number::RoomNr, room_version::RoomVersion, state::HashKey,
};
use myelin_env::Env;
use myelin_federation::{Federation, Urgency};
use myelin_storage::{
    Database, Priority, StorageError,
    events::RoomKey,
    rooms as room_table,
    stream::Stream,
    waking::{News, Waking},
};
use ruma::{OwnedServerName, RoomId, ServerName, UserId};

pub use create::{CreateRoom, Preset};
pub use deletion::Deletion;
pub use error::{ReceiveError, RoomError, ServeError};
pub use guests::mark_as_guest;
pub use history_purge::PurgeUpTo;
pub use membership::JoinContent;
pub use new_event::NewEvent;
pub use outgoing::thin_outbox;
pub use pdu_answer::PduAnswer;
pub use presence::{PresenceState, Syncing, UserPresence};
pub use receipts::{Mark, ReceiptType};
pub use resident::Handed;
pub use room::{CurrentState, Keys, Room};
pub use shutdown::{DeleteRoom, Replacement, ShutDown};
pub use taking::Taking;
pub use third_party_invites::{Ownership, ThirdParty};
pub use timestamps::{EventsNear, Moment};
pub use upgrade::Upgrade;

use crate::{following::Follower, numbers::Numbers};

/// What the operator decides about rooms.
#[derive(Clone, Debug)]
pub struct RoomsConfig {
    /// This server's name.
    pub server_name: OwnedServerName,
    /// The version of rooms that clients create without naming one.
    pub default_room_version: RoomVersion,
    /// Whether users may list rooms in the public directory.
    pub allow_publishing: bool,
    /// Whether is noted, shown and told who is there.
    pub presence: bool,
}

/// The rooms of this server. Clones share everything.
#[derive(Clone)]
pub struct Rooms(Arc<Inner>);

struct Inner {
    config: RoomsConfig,
    env: Env,
    db: Database,
    federation: Federation,
    hash_key: HashKey,
    numbers: Numbers,
    stream: Stream,
    waking: Waking,
    /// Rooms in use. One that nobody uses any more can be read again from the database.
    in_use: Mutex<InUse>,
    outgoing: outgoing::Outgoing,
    typing: typing::Typing,
    receipts: receipts::Receipts,
    presence: presence::Presence,
    push_rules: push_rules::RulesInUse,
    /// The time in the last create event that was made here.
    last_founding_ms: AtomicU64,
    joins: join::Joins,
    workers: receive::Workers,
    transactions: taking::Transactions,
    resyncs: resync::Resyncs,
    deletions: deletion::Deletions,
    history_purges: history_purge::HistoryPurges,
    search_index: Follower,
    user_directory: Follower,
    traced: traced::Recent,
    /// A change of a profile was noted.
    profile_news: tokio::sync::Notify,
    /// An account was closed.
    departure_news: tokio::sync::Notify,
    /// It was noted that guests have to leave a room.
    guest_news: tokio::sync::Notify,
}

#[derive(Default)]
struct InUse {
    rooms: HashMap<ruma::OwnedRoomId, Weak<Room>>,
    /// The rooms used last are held, so that a busy room is not read again and again.
    recent: std::collections::VecDeque<Arc<Room>>,
    /// Counts the rooms that were deleted.
    deleted: u64,
}

impl InUse {
    fn existing_or(&mut self, room: Arc<Room>) -> Arc<Room> {
        let existing = self.rooms.get(&room.key.room_id).and_then(Weak::upgrade);
        existing.unwrap_or_else(|| self.insert(room))
    }

    fn insert(&mut self, room: Arc<Room>) -> Arc<Room> {
        self.rooms.retain(|_, room| room.strong_count() > 0);
        self.rooms
            .insert(room.key.room_id.clone(), Arc::downgrade(&room));
        self.recent.push_back(room.clone());
        if self.recent.len() > RECENT_ROOMS {
            self.recent.pop_front();
        }
        let held = self.rooms.len() as f64;
        metrics::gauge!("myelin_cached_entries", "cache" => "rooms").set(held);
        room
    }
}

/// How many rooms stay in memory when nobody uses them.
const RECENT_ROOMS: usize = 256;

/// How often a room is begun that others begin at the same time.
const ROOM_ATTEMPTS: u32 = 5;

impl Rooms {
    /// Starts: goes on with the joins, resyncs, staged PDUs and deliveries that a stop or a crash
    /// interrupted.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn start(
        config: RoomsConfig,
        env: Env,
        db: Database,
        federation: Federation,
    ) -> Result<Self, StorageError> {
        let (numbers, position) = Numbers::load(&db).await?;
        let mut fresh = [0; 16];
        env.random.fill(&mut fresh);
        let stored = db
            .write("state hash key", Priority::Interactive, move |tx| {
                Box::pin(async move { room_table::setting_or(tx, "state_hash_key", &fresh).await })
            })
            .await?;
        let hash_key = <[u8; 16]>::try_from(&stored[..])
            .map_err(|_| StorageError::Corrupt("the state hash key".into()))?;
        let typing = typing::Typing::new(env.clock.now_ms());
        let receipts = receipts::Receipts::load(&db).await?;
        let presence = presence::Presence::load(&db, config.presence, env.clock.now_ms()).await?;
        let rooms = Self(Arc::new(Inner {
            config,
            env,
            db,
            federation,
            hash_key: HashKey(hash_key),
            numbers,
            stream: Stream::new(position),
            waking: Waking::default(),
            in_use: Mutex::default(),
            outgoing: outgoing::Outgoing::default(),
            typing,
            receipts,
            presence,
            push_rules: push_rules::RulesInUse::default(),
            last_founding_ms: AtomicU64::new(0),
            joins: join::Joins::default(),
            workers: receive::Workers::default(),
            transactions: taking::Transactions::default(),
            resyncs: resync::Resyncs::default(),
            deletions: deletion::Deletions::default(),
            history_purges: history_purge::HistoryPurges::default(),
            search_index: Follower::new(search_index::NAME),
            user_directory: Follower::new(user_directory::NAME),
            traced: traced::Recent::default(),
            profile_news: tokio::sync::Notify::new(),
            departure_news: tokio::sync::Notify::new(),
            guest_news: tokio::sync::Notify::new(),
        }));
        rooms.resume_joins().await?;
        rooms.resume_resyncs().await?;
        rooms.resume_staged().await?;
        rooms.start_outgoing().await?;
        rooms.start_presence();
        rooms.start_telling_profiles();
        rooms.start_departures();
        rooms.start_guest_departures();
        rooms.start_search_index();
        rooms.start_user_directory();
        rooms.resume_deletions().await?;
        rooms.resume_history_purges().await?;
        Ok(rooms)
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.0.config.server_name
    }

    /// The operator's decisions.
    pub fn config(&self) -> &RoomsConfig {
        &self.0.config
    }

    /// Clock, randomness, tasks, network.
    pub fn env(&self) -> &Env {
        &self.0.env
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.0.db
    }

    /// Other servers.
    pub fn federation(&self) -> &Federation {
        &self.0.federation
    }

    /// Other servers, for requests that somebody waits for or that have pauses of their own: a failure
    /// elsewhere doesn't keep these from being sent.
    pub(crate) fn asking(&self) -> Federation {
        self.0.federation.with_urgency(Urgency::Interactive)
    }

    /// The stream of events.
    pub fn events_stream(&self) -> &Stream {
        &self.0.stream
    }

    /// Who waits for news.
    pub fn waking(&self) -> &Waking {
        &self.0.waking
    }

    /// Waits for news of who types in a user's rooms.
    pub fn typing_news(&self, user: &UserId) -> News {
        self.0.typing.waking.news(user, &self.0.typing.stream)
    }

    /// Waits for news of who has read what in a user's rooms.
    pub fn receipt_news(&self, user: &UserId) -> News {
        self.0.receipts.waking.news(user, &self.0.receipts.stream)
    }

    /// The stream of who types.
    pub fn typing_stream(&self) -> &Stream {
        &self.0.typing.stream
    }

    /// The stream of receipts.
    pub fn receipts_stream(&self) -> &Stream {
        &self.0.receipts.stream
    }

    /// Waits for news of who is there, of those with whom a user shares a room.
    pub fn presence_news(&self, user: &UserId) -> News {
        self.0.presence.waking.news(user, &self.0.presence.stream)
    }

    /// The stream of who is there.
    pub fn presence_stream(&self) -> &Stream {
        &self.0.presence.stream
    }

    pub(crate) fn presence(&self) -> &presence::Presence {
        &self.0.presence
    }

    pub(crate) fn typing(&self) -> &typing::Typing {
        &self.0.typing
    }

    pub(crate) fn receipts(&self) -> &receipts::Receipts {
        &self.0.receipts
    }

    pub(crate) fn traced(&self) -> &traced::Recent {
        &self.0.traced
    }

    pub(crate) fn key(&self) -> &KeyPair {
        self.0.federation.signing_keys().active()
    }

    pub(crate) fn hash_key(&self) -> HashKey {
        self.0.hash_key
    }

    pub(crate) fn numbers(&self) -> &Numbers {
        &self.0.numbers
    }

    pub(crate) fn outgoing(&self) -> &outgoing::Outgoing {
        &self.0.outgoing
    }

    /// Whether a user is one of this server's.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name()
    }

    /// A room, if this server knows it.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn room(&self, room_id: &RoomId) -> Result<Option<Arc<Room>>, StorageError> {
        if let Some(room) = self.room_in_use(room_id) {
            return Ok(Some(room));
        }
        loop {
            let deleted = self.rooms_in_use().deleted;
            let Some(loaded) = Room::load(self, room_id).await? else {
                return Ok(None);
            };
            let mut in_use = self.rooms_in_use();
            // It may be one that was deleted since.
            if in_use.deleted == deleted {
                return Ok(Some(in_use.existing_or(loaded)));
            }
        }
    }

    /// A room by its number.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn room_by_nr(&self, nr: RoomNr) -> Result<Option<Arc<Room>>, StorageError> {
        let row = self
            .0
            .db
            .look_up("find a room", move |tx| {
                Box::pin(room_table::by_number(tx, nr))
            })
            .await?;
        match row {
            None => Ok(None),
            Some(row) => self.room(&row.key.room_id).await,
        }
    }

    /// A room that this server knows.
    pub(crate) async fn known_room(&self, room_id: &RoomId) -> Result<Arc<Room>, RoomError> {
        self.room(room_id)
            .await?
            .ok_or_else(RoomError::unknown_room)
    }

    /// A room of which another server says what version it has. What an invite or another resident
    /// said before yields to that, as long as nobody here was in the room (R91).
    pub(crate) async fn room_of_version(
        &self,
        room_id: &RoomId,
        version: RoomVersion,
    ) -> Result<Arc<Room>, RoomError> {
        for _ in 0..ROOM_ATTEMPTS {
            let known = self.room(room_id).await?;
            match &known {
                Some(room) if room.key.version.as_str() == version.as_str() => {
                    return Ok(room.clone());
                }
                Some(room) if room.current().is_some() => break,
                _ => {}
            }
            // Whoever is slower finds what the faster one wrote.
            if let Some(room) = self.begin_room(room_id, version, known).await? {
                return Ok(room);
            }
        }
        Err(RoomError::NoServer("the room has another version".into()))
    }

    /// Writes down that there is a room of which no events are known, in place of what was written of it.
    /// `None` if it is not as it was known any more.
    async fn begin_room(
        &self,
        room_id: &RoomId,
        version: RoomVersion,
        known: Option<Arc<Room>>,
    ) -> Result<Option<Arc<Room>>, RoomError> {
        let key = RoomKey {
            room: self.numbers().room(),
            room_id: room_id.to_owned(),
            version,
        };
        let (written, old) = (key.clone(), known.as_ref().map(|room| room.key.room));
        let begun = self
            .database()
            .write("a room to be joined", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    match old {
                        Some(old) => room_table::begin_again(tx, old, &written).await,
                        None => room_table::put(tx, &written).await,
                    }
                })
            })
            .await
            .map_err(RoomError::Storage)?;
        if !begun {
            return Ok(None);
        }
        let room = Arc::new(Room::new(self, key, KeyTable::default()));
        Ok(Some(match known {
            Some(_) => self.use_instead(room),
            None => self.use_room(room),
        }))
    }

    fn rooms_in_use(&self) -> MutexGuard<'_, InUse> {
        self.0.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room_in_use(&self, room_id: &RoomId) -> Option<Arc<Room>> {
        let in_use = self.rooms_in_use();
        in_use.rooms.get(room_id).and_then(Weak::upgrade)
    }

    /// Makes a room that was read, or made, the one in use. If somebody was faster, theirs is.
    pub(crate) fn use_room(&self, room: Arc<Room>) -> Arc<Room> {
        self.rooms_in_use().existing_or(room)
    }

    /// Makes a room the one in use, in place of one whose number is no longer that of the room.
    pub(crate) fn use_instead(&self, room: Arc<Room>) -> Arc<Room> {
        let mut in_use = self.rooms_in_use();
        in_use
            .recent
            .retain(|old| old.key.room_id != room.key.room_id);
        in_use.insert(room)
    }

    /// Lets nobody find a room any more that was deleted. Who has it ends with it.
    pub(crate) fn use_no_more(&self, room: &Room) {
        let mut in_use = self.rooms_in_use();
        in_use.deleted += 1;
        in_use
            .recent
            .retain(|old| old.key.room_id != room.key.room_id);
        in_use.rooms.remove(&room.key.room_id);
    }
}
