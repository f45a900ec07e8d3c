//! Who is there (client-server API and server-server API, "Presence").
//!
//! How users are is known in memory only; what they say about themselves is stored. Nothing is written
//! or sent for a change itself: those about to be shown and told of are gathered for some seconds,
//! and whoever hears of them gets what they are by then. A change costs what the rooms of its user
//! have in local users and in servers, whatever they have in members.

mod people;
mod person;
mod spread;
mod state;

use std::sync::{Mutex, MutexGuard, PoisonError};

use myelin_core::number::StreamPosition;
use myelin_federation::Edu;
use myelin_storage::{
    Database, Priority, StorageError, presence as status_table, stream::Stream, waking::Waking,
};
use ruma::{OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::{RoomError, Rooms, room::Room};

use people::People;
use spread::Arrived;
pub use state::{PresenceState, UserPresence};

/// The type of the EDUs, and of the events that clients get.
pub(crate) const PRESENCE: &str = "m.presence";

/// How many bytes a status message has at most.
const MOST_STATUS_BYTES: usize = 4 * 1024;

/// How many users an EDU of another server tells of at most; it may send several.
const MOST_PUSHED: usize = 1_000;

/// How many users are compared with a user's rooms at once.
const COMPARED_TOGETHER: usize = 500;

/// Who is there.
pub(crate) struct Presence {
    pub(crate) stream: Stream,
    pub(crate) waking: Waking,
    /// Whether the operator wants it.
    is_enabled: bool,
    people: Mutex<People>,
    arrived: Mutex<Arrived>,
    changed: Notify,
}

/// The content of an EDU.
#[derive(Serialize, Deserialize)]
struct PresenceEdu<T> {
    push: Vec<T>,
}

/// What an EDU that is sent says of a user.
#[derive(Serialize)]
struct Told<'a> {
    user_id: &'a UserId,
    #[serde(flatten)]
    presence: UserPresence,
}

/// What one that comes says.
#[derive(Deserialize)]
struct Heard {
    user_id: OwnedUserId,
    presence: PresenceState,
    status_msg: Option<String>,
    /// In milliseconds. Where clocks differ it lies ahead.
    last_active_ago: Option<i64>,
    #[serde(default)]
    currently_active: bool,
}

/// A device syncs as long as this is held.
pub struct Syncing {
    rooms: Rooms,
    user: OwnedUserId,
    device: String,
}

impl Drop for Syncing {
    fn drop(&mut self) {
        let Self {
            rooms,
            user,
            device,
        } = self;
        let now = rooms.env().clock.instant();
        rooms
            .presence()
            .change(|people| people.end_sync((user, device), now));
    }
}

impl Presence {
    /// Positions begin with the time, so that they are higher than those of before a restart.
    pub(crate) async fn load(
        database: &Database,
        is_enabled: bool,
        now_ms: u64,
    ) -> Result<Self, StorageError> {
        let statuses = match is_enabled {
            true => {
                let statuses =
                    database.look_up("statuses", |tx| Box::pin(status_table::statuses(tx)));
                statuses.await?
            }
            false => Vec::new(),
        };
        let stream = Stream::new(StreamPosition(i64::try_from(now_ms).unwrap_or(0)));
        Ok(Self {
            people: Mutex::new(People::new(stream.clone(), statuses)),
            stream,
            waking: Waking::default(),
            is_enabled,
            arrived: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn people(&self) -> MutexGuard<'_, People> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known. Who has to hear of it does, soon.
    fn change(&self, change: impl FnOnce(&mut People)) {
        let mut people = self.people();
        let due = people.next_due();
        change(&mut people);
        if people.has_news() || people.next_due() != due {
            self.changed.notify_one();
        }
    }
}

impl Rooms {
    /// One of our users says how it is, with a device, and what is to be said of it.
    ///
    /// # Errors
    /// [`RoomError::InvalidParam`] if it says too much, [`RoomError::Storage`].
    pub async fn set_presence(
        &self,
        (user, device): (&UserId, &str),
        state: PresenceState,
        status_msg: Option<String>,
    ) -> Result<(), RoomError> {
        let status_msg = status_msg.filter(|status_msg| !status_msg.is_empty());
        if !status_msg.as_deref().is_none_or(may_be_said) {
            let message = format!("status_msg has over {MOST_STATUS_BYTES} bytes, or a zero byte");
            return Err(RoomError::InvalidParam(message));
        }
        if !self.presence().is_enabled {
            return Ok(());
        }
        let now = self.env().clock.instant();
        let before = self.presence().people().get(user, now);
        if before.and_then(|before| before.status_msg) != status_msg {
            let (user, status_msg) = (user.to_owned(), status_msg.clone());
            let write = self.database().write::<_, StorageError, _>(
                "a status",
                Priority::Interactive,
                move |tx| {
                    Box::pin(async move {
                        status_table::set_status(tx, &user, status_msg.as_deref()).await
                    })
                },
            );
            write.await?;
        }
        self.presence()
            .change(|people| people.set((user, device), state, status_msg, now));
        Ok(())
    }

    /// A device of one of our users syncs as long as the answer is held; `state` is what it says of the
    /// user by that. Who syncs as being offline is not noticed.
    pub fn syncs(&self, (user, device): (&UserId, &str), state: PresenceState) -> Option<Syncing> {
        if !self.presence().is_enabled || state == PresenceState::Offline {
            return None;
        }
        let now = self.env().clock.instant();
        self.presence()
            .change(|people| people.begin_sync((user, device), state, now));
        Some(Syncing {
            rooms: self.clone(),
            user: user.to_owned(),
            device: device.to_owned(),
        })
    }

    /// One of our users does something with a device.
    pub fn acts(&self, (user, device): (&UserId, &str)) {
        if self.presence().is_enabled {
            let now = self.env().clock.instant();
            self.presence()
                .change(|people| people.act((user, device), now));
        }
    }

    /// How a user is, to one of ours.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if they share no room, [`RoomError::Storage`].
    pub async fn presence_of(
        &self,
        user: &UserId,
        viewer: &UserId,
    ) -> Result<UserPresence, RoomError> {
        if !self.presence().is_enabled {
            return Ok(UserPresence::UNKNOWN);
        }
        if user != viewer
            && self
                .sharing_with(viewer, vec![user.to_owned()])
                .await?
                .is_empty()
        {
            let message = "You are not allowed to see their presence";
            return Err(RoomError::Forbidden(message.to_owned()));
        }
        let now = self.env().clock.instant();
        let known = self.presence().people().get(user, now);
        Ok(known.unwrap_or(UserPresence::UNKNOWN))
    }

    /// How those users are by now who share a room with the viewer, or are the viewer, and changed after a
    /// position; in the order of their changes. `wanted` chooses among them. There are no others up to
    /// the position in the answer. A position from ahead is of before the clock was set back, and
    /// before every change.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn presence_after(
        &self,
        viewer: &UserId,
        after: StreamPosition,
        limit: usize,
        wanted: impl Fn(&UserId) -> bool,
    ) -> Result<(Vec<(OwnedUserId, UserPresence)>, StreamPosition), StorageError> {
        let now = self.env().clock.instant();
        self.presence().people().catch_up(now);
        let readable = self.presence().stream.readable();
        let is_first = after.0 == 0;
        let mut upto = if after > readable {
            StreamPosition(0)
        } else {
            after
        };
        let mut found = Vec::new();
        while found.len() < limit && upto < readable {
            let (changed, last) = {
                let people = self.presence().people();
                let mut changed = people.changed_after(upto, COMPARED_TOGETHER);
                let full = changed.get(COMPARED_TOGETHER - 1);
                let last = full.map_or(readable, |(position, _)| *position);
                // Who knows of nobody takes everybody for offline.
                changed.retain(|(_, user)| wanted(user) && (!is_first || people.is_there(user)));
                (changed, last)
            };
            let others = changed.iter().map(|(_, user)| user.clone());
            let others = others.filter(|user| user != viewer).collect();
            let sharing = self.sharing_with(viewer, others).await?;
            let now = self.env().clock.instant();
            let mut people = self.presence().people();
            for (position, user) in changed {
                if found.len() == limit {
                    return Ok((found, upto));
                }
                upto = upto.max(position);
                if sharing.contains(&user) || user == viewer {
                    found.extend(people.get(&user, now).map(|shown| (user, shown)));
                }
            }
            upto = upto.max(last);
        }
        Ok((found, upto))
    }

    /// How those users of a room are who are there, for somebody who comes into it.
    pub fn presence_in(
        &self,
        room: &Room,
        limit: usize,
        wanted: impl Fn(&UserId) -> bool,
    ) -> Vec<(OwnedUserId, UserPresence)> {
        let there = self.presence().people().there().into_iter();
        let joined = there.filter(|user| wanted(user) && room.may_be_joined(user));
        let joined: Vec<_> = joined.take(limit).collect();
        let now = self.env().clock.instant();
        let mut people = self.presence().people();
        let shown = |user: OwnedUserId| Some((people.get(&user, now)?, user));
        let shown = joined.into_iter().filter_map(shown);
        shown.map(|(shown, user)| (user, shown)).collect()
    }

    /// Takes the content of an `m.presence` EDU. What is not the origin's to say, or of users with whom no
    /// room is shared, is left out.
    pub(crate) async fn receive_presence(
        &self,
        origin: &ServerName,
        content: &RawValue,
    ) -> Result<(), StorageError> {
        let content = serde_json::from_str::<PresenceEdu<Box<RawValue>>>(content.get());
        let Some(edu) = content.ok().filter(|_| self.presence().is_enabled) else {
            return Ok(());
        };
        let heard = edu.push.iter().take(MOST_PUSHED);
        let heard = heard.filter_map(|heard| serde_json::from_str::<Heard>(heard.get()).ok());
        let (known, new): (Vec<Heard>, Vec<Heard>) = {
            let people = self.presence().people();
            let heard = heard.filter(|heard| heard.user_id.server_name() == origin);
            heard.partition(|heard| people.is_known(&heard.user_id))
        };
        let unknown = new.iter().map(|heard| heard.user_id.clone()).collect();
        let sharing = self.sharing_with_us(unknown).await?;
        let new = new.into_iter();
        let new = new.filter(|heard| sharing.contains(&heard.user_id));
        let now = self.env().clock.instant();
        self.presence().change(|people| {
            for heard in known.into_iter().chain(new) {
                let (user, presence) = heard.read();
                people.hear(&user, presence, now);
            }
        });
        Ok(())
    }

    /// An EDU that tells how some users are by now.
    pub(crate) fn presence_edu(&self, users: &[OwnedUserId]) -> Box<RawValue> {
        let now = self.env().clock.instant();
        let mut people = self.presence().people();
        let told = users.iter().filter_map(|user| {
            Some(Told {
                user_id: user,
                presence: people.get(user, now)?,
            })
        });
        let push = told.collect();
        Edu::written(PRESENCE, &PresenceEdu { push })
    }
}

impl Heard {
    fn read(self) -> (OwnedUserId, UserPresence) {
        let ago = self.last_active_ago;
        let presence = UserPresence {
            presence: self.presence,
            last_active_ago: ago.map(|ago| u64::try_from(ago).unwrap_or(0)),
            status_msg: self
                .status_msg
                .filter(|text| !text.is_empty() && may_be_said(text)),
            currently_active: Some(self.currently_active),
        };
        (self.user_id, presence)
    }
}

/// Whether a text is one that is kept. No database holds a zero byte as text.
fn may_be_said(status_msg: &str) -> bool {
    status_msg.len() <= MOST_STATUS_BYTES && !status_msg.contains('\0')
}
