//! Making a room (client-server API, "Creation").

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use myelin_core::{
    build::EventDraft, key_table::KeyTable, receive::Decision, room_version::RoomVersion,
    validate::ValidPdu,
};
use myelin_storage::{StorageError, events::RoomKey};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    RoomError, Rooms,
    commit::Founding,
    new_event::{NewEvent, raw},
    room::Room,
    send::not_built,
    turn::{Candidate, Turn},
};

/// How long the creator of a room waits for the servers of those who are invited. Who answers later is
/// invited all the same.
pub(crate) const LONGEST_INVITING: Duration = Duration::from_secs(20);

/// How many of them are asked at the same time.
const INVITED_AT_ONCE: usize = 20;

/// Rules for a new room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// By invitation only.
    Private,
    /// By invitation only; everybody who is invited has the creator's power.
    TrustedPrivate,
    /// Anybody may join.
    Public,
}

/// What `POST /createRoom` asks for.
#[derive(Clone, Debug)]
pub struct CreateRoom {
    /// The version; `None`: the server's default.
    pub version: Option<String>,
    /// The rules.
    pub preset: Preset,
    /// The content of the create event beside what the server decides.
    pub creation_content: Map<String, Value>,
    /// The local part of an alias on this server.
    pub alias_name: Option<String>,
    /// Whether the room is listed in the public directory.
    pub published: bool,
    /// A name.
    pub name: Option<String>,
    /// A topic.
    pub topic: Option<String>,
    /// Users to be invited.
    pub invite: Vec<OwnedUserId>,
    /// Whether the room is for direct messages with those invited.
    pub is_direct: bool,
    /// State events: type, state key, content.
    pub initial_state: Vec<(String, String, Box<RawValue>)>,
    /// Keys of the power levels to be other than usual.
    pub power_level_override: Map<String, Value>,
    /// The creator's display name and avatar.
    pub profile: Map<String, Value>,
}

impl Rooms {
    /// Makes a room and its first events, all of them or none. If it is for nobody but users of other
    /// servers, and those refuse all of them, it is left again: nobody else has heard of it.
    ///
    /// # Errors
    /// [`RoomError::Remote`] if the servers of all who are invited refuse,
    /// [`RoomError::UnsupportedVersion`], [`RoomError::AliasInUse`], [`RoomError::InvalidParam`] for
    /// malformed parts, [`RoomError::Forbidden`] if the wished events contradict the rules, or
    /// publishing is not allowed.
    pub async fn create(
        &self,
        creator: &UserId,
        wish: CreateRoom,
    ) -> Result<OwnedRoomId, RoomError> {
        let version = match &wish.version {
            None => self.config().default_room_version,
            Some(name) => {
                RoomVersion::parse(name).map_err(|_| RoomError::UnsupportedVersion(name.clone()))?
            }
        };
        let create = self.create_event(version, creator, &wish)?;
        let key = RoomKey {
            room: self.numbers().room(),
            room_id: create.room_id.clone(),
            version,
        };
        let alias = match &wish.alias_name {
            Some(name) => Some(self.free_alias(name).await?),
            None => None,
        };
        if wish.published {
            self.check_may_publish()?;
        }
        let room = Arc::new(Room::new(self, key, KeyTable::default()));
        let mut turn = Turn::take(self, &room).await?;
        turn.put_create_event(create).await?;
        let mut invites = Vec::new();
        for event in first_events(version, creator, &wish, alias.as_deref()) {
            if self.remote_invitee(&event).is_some() {
                invites.push(event);
            } else {
                turn.send(event).await?;
            }
        }
        turn.batch.found(Founding {
            creator: creator.to_owned(),
            alias,
            published: wish.published,
        });
        match turn.commit().await {
            Ok(()) => {}
            // Somebody else was faster.
            Err(StorageError::Constraint(taken)) => return Err(RoomError::AliasInUse(taken)),
            Err(error) => return Err(error.into()),
        }
        let room_id = &room.key.room_id;
        let is_for_them = wish.preset != Preset::Public
            && !wish.published
            && wish.alias_name.is_none()
            && wish.invite.len() == invites.len();
        let refusal = self.invite_abroad(room_id, invites).await;
        if let Some(refusal) = refusal.filter(|_| is_for_them) {
            self.leave(creator, room_id, None).await?;
            self.forget(creator, room_id).await?;
            return Err(refusal);
        }
        Ok(room_id.clone())
    }

    /// Invites users of other servers to a new room. Says why, if the servers of all refuse.
    ///
    /// Who can't be reached has not refused, and can be invited again.
    async fn invite_abroad(&self, room_id: &RoomId, invites: Vec<NewEvent>) -> Option<RoomError> {
        let (rooms, room_id) = (self.clone(), room_id.to_owned());
        if invites.is_empty() {
            return None;
        }
        let inviting = self.env().tasks.spawn("invite abroad", async move {
            let mut refusal = None;
            let mut all_refuse = true;
            for some in invites.chunks(INVITED_AT_ONCE) {
                for outcome in rooms.invite_at_once(&room_id, some).await {
                    all_refuse &= matches!(&outcome, Err(error) if is_refusal(error));
                    refusal = refusal.or(outcome.err());
                }
            }
            refusal.filter(|_| all_refuse)
        });
        // It goes on if nobody waits any more.
        let inviting = self.env().clock.timeout(LONGEST_INVITING, inviting);
        inviting.await.ok()?.ok()?
    }

    async fn invite_at_once(
        &self,
        room_id: &RoomId,
        invites: &[NewEvent],
    ) -> Vec<Result<(), RoomError>> {
        let mut sent = Vec::with_capacity(invites.len());
        for invite in invites {
            sent.push(self.send(room_id, invite.clone()));
        }
        let outcomes = join_all(sent).await;
        let outcomes = outcomes.into_iter().zip(invites);
        let told = outcomes.map(|(outcome, invite)| {
            if let Err(error) = &outcome {
                let user = &invite.state_key;
                tracing::warn!(room = %room_id, ?user, %error, "not invited");
            }
            outcome.map(drop)
        });
        told.collect()
    }

    fn create_event(
        &self,
        version: RoomVersion,
        creator: &UserId,
        wish: &CreateRoom,
    ) -> Result<ValidPdu, RoomError> {
        let mut content = wish.creation_content.clone();
        content.insert("room_version".into(), version.as_str().into());
        if version.has_creator_in_content() {
            content.insert("creator".into(), creator.as_str().into());
        } else {
            content.remove("creator");
        }
        if version.room_id_is_create_hash() && wish.preset == Preset::TrustedPrivate {
            add_creators(&mut content, &wish.invite);
        }
        let room_id = (!version.room_id_is_create_hash()).then(|| self.fresh_room_id());
        let draft = EventDraft {
            room_id,
            sender: creator.to_owned(),
            event_type: "m.room.create".into(),
            state_key: Some(String::new()),
            content: raw(&Value::Object(content)),
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            depth: 1,
            origin_server_ts: self.founding_time(),
            redacts: None,
        };
        draft.finish(version, self.key()).map_err(not_built)
    }

    /// The time for a create event, never the same twice: in room version 12 two rooms that have it
    /// in common, with all else, would be one.
    fn founding_time(&self) -> MilliSecondsSinceUnixEpoch {
        let now_ms = self.env().clock.now_ms();
        let later = |last: u64| Some(now_ms.max(last + 1));
        let last =
            self.0
                .last_founding_ms
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        let last = last.unwrap_or_else(|last| last);
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(now_ms.max(last + 1)))
    }

    fn fresh_room_id(&self) -> OwnedRoomId {
        let name = self.env().random.alphanumeric(18);
        let room_id = format!("!{name}:{}", self.server_name());
        // A sigil, letters and digits, and a valid server name.
        RoomId::parse(room_id).expect("a valid room ID")
    }
}

impl Turn<'_> {
    /// Takes the first event of a room made here.
    async fn put_create_event(&mut self, create: ValidPdu) -> Result<OwnedEventId, RoomError> {
        match self.decide(Candidate::live(create)).await? {
            Decision::Done(plan) if plan.verdict == myelin_core::event::Verdict::Accepted => {
                Ok(self.accept(plan).await?.pdu.event_id.clone())
            }
            Decision::Done(plan) => Err(RoomError::InvalidParam(plan.reason.unwrap_or_default())),
            other => Err(RoomError::Internal(format!(
                "a create event needs {other:?}"
            ))),
        }
    }
}

/// Whether another server said no, in so many words.
fn is_refusal(error: &RoomError) -> bool {
    match error {
        RoomError::Remote(error) => error
            .remote()
            .is_some_and(|remote| matches!(remote.status, 400 | 403 | 404)),
        _ => false,
    }
}

/// Room version 12: those with the creator's power are named in the create event (MSC4289).
fn add_creators(content: &mut Map<String, Value>, invited: &[OwnedUserId]) {
    let creators = content
        .entry("additional_creators")
        .or_insert_with(|| json!([]));
    if let Value::Array(creators) = creators {
        for user in invited {
            let user = Value::from(user.as_str());
            if !creators.contains(&user) {
                creators.push(user);
            }
        }
    }
}

/// The events after the create event, in the order that the specification gives them.
fn first_events(
    version: RoomVersion,
    creator: &UserId,
    wish: &CreateRoom,
    alias: Option<&str>,
) -> Vec<NewEvent> {
    let event = |event_type: &str, state_key: &str, content: Box<RawValue>| NewEvent {
        sender: creator.to_owned(),
        event_type: event_type.into(),
        state_key: Some(state_key.into()),
        content,
        redacts: None,
        transaction: None,
    };
    let state = |event_type: &str, content: Value| event(event_type, "", raw(&content));
    let mut join = wish.profile.clone();
    join.insert("membership".into(), "join".into());
    let levels = power_levels(version, creator, wish);
    let mut events = vec![
        event("m.room.member", creator.as_str(), raw(&Value::Object(join))),
        state("m.room.power_levels", Value::Object(levels)),
    ];
    if let Some(alias) = alias {
        events.push(state("m.room.canonical_alias", json!({ "alias": alias })));
    }
    let is_given = |event_type: &str| {
        wish.initial_state
            .iter()
            .any(|(given, key, _)| given == event_type && key.is_empty())
    };
    let (join_rule, guests) = match wish.preset {
        Preset::Private | Preset::TrustedPrivate => ("invite", "can_join"),
        Preset::Public => ("public", "forbidden"),
    };
    for (event_type, content) in [
        ("m.room.join_rules", json!({ "join_rule": join_rule })),
        (
            "m.room.history_visibility",
            json!({ "history_visibility": "shared" }),
        ),
        ("m.room.guest_access", json!({ "guest_access": guests })),
    ] {
        if !is_given(event_type) {
            events.push(state(event_type, content));
        }
    }
    for (event_type, state_key, content) in &wish.initial_state {
        events.push(event(event_type, state_key, content.clone()));
    }
    if let Some(name) = &wish.name {
        events.push(state("m.room.name", json!({ "name": name })));
    }
    if let Some(topic) = &wish.topic {
        events.push(state("m.room.topic", json!({ "topic": topic })));
    }
    for user in &wish.invite {
        let mut content = json!({ "membership": "invite" });
        if wish.is_direct {
            content["is_direct"] = true.into();
        }
        events.push(event("m.room.member", user.as_str(), raw(&content)));
    }
    events
}

fn power_levels(version: RoomVersion, creator: &UserId, wish: &CreateRoom) -> Map<String, Value> {
    let mut users = Map::new();
    // In room version 12 creators stand above all levels and may not be listed.
    if !version.room_id_is_create_hash() {
        users.insert(creator.as_str().into(), 100.into());
        if wish.preset == Preset::TrustedPrivate {
            users.extend(
                wish.invite
                    .iter()
                    .map(|user| (user.as_str().into(), 100.into())),
            );
        }
    }
    let tombstone = if version.room_id_is_create_hash() {
        150
    } else {
        100
    };
    let levels = json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            "m.room.tombstone": tombstone,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": if wish.preset == Preset::Public { 50 } else { 0 },
        "historical": 100,
    });
    let Value::Object(mut levels) = levels else {
        return Map::new();
    };
    levels.extend(wish.power_level_override.clone());
    levels
}
