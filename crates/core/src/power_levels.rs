//! Who may do what: the questions about power levels that are asked outside the authorisation rules,
//! parsed once per `m.room.power_levels` event.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    OwnedUserId, UserId,
    events::TimelineEventType,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use crate::{event::Event, event_type::EventType, room_version::RoomVersion};

/// What the creator has where nobody has set power levels.
const UNSET_CREATOR_LEVEL: Level = Level::Finite(100);

/// A user's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A number.
    Finite(i64),
    /// More than any number: a creator, in room version 12 and later (MSC4289).
    Infinite,
}

/// The power levels of a room at some point.
#[derive(Clone, Debug)]
pub struct PowerLevels {
    /// The creators; each has `creator_level`, whatever `users` says.
    creators: BTreeSet<OwnedUserId>,
    creator_level: Option<Level>,
    users: BTreeMap<OwnedUserId, i64>,
    users_default: i64,
    events: BTreeMap<TimelineEventType, i64>,
    events_default: i64,
    state_default: i64,
    ban: i64,
    invite: i64,
    kick: i64,
    redact: i64,
}

impl PowerLevels {
    /// Reads the room's create event and its `m.room.power_levels` event, if it has one.
    ///
    /// # Errors
    /// If one of them has the wrong form. Accepted events do not.
    pub fn read(
        version: RoomVersion,
        create: &Arc<Event>,
        levels: Option<&Arc<Event>>,
    ) -> Result<Self, String> {
        use RoomPowerLevelsIntField as Field;
        let rules = version.authorization();
        let levels = levels.cloned().map(RoomPowerLevelsEvent::new);
        let number = |field: Field| match &levels {
            Some(levels) => levels.get_as_int_or_default(field, rules).map(i64::from),
            None => Ok(field.default_value().into()),
        };
        let creator_level = match &levels {
            _ if rules.explicitly_privilege_room_creators => Some(Level::Infinite),
            None => Some(UNSET_CREATOR_LEVEL),
            Some(_) => None,
        };
        let (mut users, mut events) = (BTreeMap::new(), BTreeMap::new());
        if let Some(levels) = &levels {
            let set = levels.users(rules)?.into_iter().flatten();
            users.extend(set.map(|(user, level)| (user.clone(), i64::from(*level))));
            let set = levels.events(rules)?.into_iter().flatten();
            events.extend(set.map(|(event_type, level)| (event_type, i64::from(level))));
        }
        Ok(Self {
            creators: RoomCreateEvent::new(create.clone())
                .creators(rules)?
                .into_iter()
                .collect(),
            creator_level,
            users,
            users_default: number(Field::UsersDefault)?,
            events,
            events_default: number(Field::EventsDefault)?,
            state_default: number(Field::StateDefault)?,
            ban: number(Field::Ban)?,
            invite: number(Field::Invite)?,
            kick: number(Field::Kick)?,
            redact: number(Field::Redact)?,
        })
    }

    /// A user's power.
    pub fn level_of(&self, user: &UserId) -> Level {
        match self.creator_level {
            Some(level) if self.creators.contains(user) => level,
            _ => Level::Finite(self.users.get(user).copied().unwrap_or(self.users_default)),
        }
    }

    /// What sending an event of a type takes.
    pub fn needed_to_send(&self, event_type: &EventType, is_state: bool) -> i64 {
        let default = if is_state {
            self.state_default
        } else {
            self.events_default
        };
        self.events
            .get(event_type.for_ruma())
            .copied()
            .unwrap_or(default)
    }

    /// Whether a joined user has the power to send an event of a type.
    pub fn may_send(&self, user: &UserId, event_type: &EventType, is_state: bool) -> bool {
        self.reaches(user, self.needed_to_send(event_type, is_state))
    }

    /// Whether a joined user has the power to invite.
    pub fn may_invite(&self, user: &UserId) -> bool {
        self.reaches(user, self.invite)
    }

    /// Whether a joined user has the power to remove another from the room.
    pub fn may_kick(&self, user: &UserId, target: &UserId) -> bool {
        self.reaches(user, self.kick) && self.level_of(target) < self.level_of(user)
    }

    /// Whether a joined user has the power to ban another.
    pub fn may_ban(&self, user: &UserId, target: &UserId) -> bool {
        self.reaches(user, self.ban) && self.level_of(target) < self.level_of(user)
    }

    /// Whether a redaction by `redactor` takes effect on an event that `author` sent: with the power
    /// to redact, or from the same server (room versions 3 and later, "Handling redactions").
    pub fn may_redact(&self, redactor: &UserId, author: &UserId) -> bool {
        redactor.server_name() == author.server_name() || self.may_redact_others(redactor)
    }

    /// Whether a user may redact what others sent. To check that for its own users is up to each server.
    pub fn may_redact_others(&self, redactor: &UserId) -> bool {
        self.reaches(redactor, self.redact)
    }

    fn reaches(&self, user: &UserId, needed: i64) -> bool {
        self.level_of(user) >= Level::Finite(needed)
    }
}
