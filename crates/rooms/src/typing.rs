//! Who types (client-server API, "Typing Notifications"; server-server API, the section of the same
//! name). Nothing of it outlives the process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use myelin_core::number::StreamPosition;
use myelin_env::{Clock, Moment};
use myelin_storage::{StorageError, stream::Stream, waking::Waking};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{RoomError, Rooms, room::Room};

/// The type of the EDUs, and of the events that clients get.
pub(crate) const TYPING: &str = "m.typing";

/// For how long a user types at most without saying so again.
const LONGEST: Duration = Duration::from_secs(60);

/// For how long a user of another server does. Servers repeat that somebody types more often.
const LONGEST_ELSEWHERE: Duration = Duration::from_secs(75);

/// Somebody who says again that they type is passed on if the last time was longer ago.
const TOLD_AGAIN: Duration = Duration::from_secs(30);

/// How often is looked whose time is up.
const LOOK: Duration = Duration::from_secs(1);

/// For how long is known that somebody has typed in a room, for those who have yet to be told that
/// nobody does any more.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How many users type in a room at most, here.
const MOST_USERS: usize = 100;

/// Who types where.
pub(crate) struct Typing {
    pub(crate) stream: Stream,
    pub(crate) waking: Waking,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rooms: HashMap<OwnedRoomId, RoomTyping>,
    /// Whether somebody looks whose time is up.
    is_watched: bool,
}

struct RoomTyping {
    /// The position of the last change, and its time.
    changed: (StreamPosition, Moment),
    users: BTreeMap<OwnedUserId, Typist>,
}

struct Typist {
    since: Moment,
    lasts: Duration,
    /// When other servers were last told.
    told: Moment,
}

/// What became of somebody's saying so.
#[derive(Clone, Copy, Default)]
struct Change {
    /// The new position, if somebody began or ceased to type.
    position: Option<StreamPosition>,
    /// Whether other servers are to be told.
    tell: bool,
}

#[derive(Serialize, Deserialize)]
struct TypingEdu {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    typing: bool,
}

impl Typing {
    /// Positions begin with the time, so that they are higher than those of before a restart.
    pub(crate) fn new(now_ms: u64) -> Self {
        let begin = StreamPosition(i64::try_from(now_ms).unwrap_or(0));
        Self {
            stream: Stream::new(begin),
            waking: Waking::default(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_new(&self, room: &RoomTyping, (after, upto): (StreamPosition, StreamPosition)) -> bool {
        let position = room.changed.0;
        position <= upto && (position > after || after > self.stream.readable())
    }

    /// Notes that a user types for a time, or doesn't.
    fn set(
        &self,
        clock: &Clock,
        room_id: &RoomId,
        user: &UserId,
        lasts: Option<Duration>,
    ) -> Change {
        let now = clock.instant();
        let mut state = self.lock();
        let Some(lasts) = lasts else {
            let Some(room) = state.rooms.get_mut(room_id) else {
                return Change::default();
            };
            let typed = room.users.remove(user).is_some();
            let position = typed.then(|| room.change(&self.stream, now));
            return Change {
                position,
                tell: typed,
            };
        };
        let room = state
            .rooms
            .entry(room_id.to_owned())
            .or_insert_with(|| RoomTyping {
                changed: (self.stream.readable(), now),
                users: BTreeMap::new(),
            });
        if let Some(typist) = room.users.get_mut(user) {
            let tell = now.since(typist.told) >= TOLD_AGAIN;
            *typist = Typist {
                since: now,
                lasts,
                told: if tell { now } else { typist.told },
            };
            return Change {
                position: None,
                tell,
            };
        }
        if room.users.len() == MOST_USERS {
            return Change::default();
        }
        let typist = Typist {
            since: now,
            lasts,
            told: now,
        };
        room.users.insert(user.to_owned(), typist);
        Change {
            position: Some(room.change(&self.stream, now)),
            tell: true,
        }
    }

    /// Ends the typing of those whose time is up, and answers who they are. Forgets what is long ago;
    /// false if nothing is left to look after.
    fn expire(&self, clock: &Clock) -> (Vec<Expired>, bool) {
        let now = clock.instant();
        let mut state = self.lock();
        let mut expired = Vec::new();
        for (room_id, room) in &mut state.rooms {
            let is_over = |typist: &Typist| now.since(typist.since) >= typist.lasts;
            let users: Vec<_> = room
                .users
                .extract_if(.., |_, typist| is_over(typist))
                .map(|(user, _)| user)
                .collect();
            if !users.is_empty() {
                expired.push(Expired {
                    room_id: room_id.clone(),
                    users,
                    position: room.change(&self.stream, now),
                });
            }
        }
        state
            .rooms
            .retain(|_, room| !room.users.is_empty() || now.since(room.changed.1) < REMEMBERED);
        state.is_watched = !state.rooms.is_empty();
        (expired, state.is_watched)
    }
}

/// Users who type no more because they didn't say so again.
struct Expired {
    room_id: OwnedRoomId,
    users: Vec<OwnedUserId>,
    position: StreamPosition,
}

impl RoomTyping {
    /// Notes a change. Under the lock, so that whoever can read the position finds the change.
    fn change(&mut self, stream: &Stream, now: Moment) -> StreamPosition {
        let position = StreamPosition(stream.allocate(1).before().0 + 1);
        self.changed = (position, now);
        position
    }
}

impl Rooms {
    /// One of our users types for a time, or doesn't.
    ///
    /// # Errors
    /// [`RoomError::NotFound`], [`RoomError::Forbidden`] if the user is not in the room,
    /// [`RoomError::Storage`].
    pub async fn set_typing(
        &self,
        room_id: &RoomId,
        user: &UserId,
        lasts: Option<Duration>,
    ) -> Result<(), RoomError> {
        let room = self.known_room(room_id).await?;
        self.must_be_joined(&room, user)?;
        let lasts = lasts.map(|lasts| lasts.min(LONGEST));
        let change = self.typing().set(&self.env().clock, room_id, user, lasts);
        self.typing_changed(&room, change.position);
        if change.tell {
            self.tell_typing(&room, user, lasts.is_some());
        }
        Ok(())
    }

    /// Takes the content of an `m.typing` EDU.
    pub(crate) async fn receive_typing(
        &self,
        origin: &ServerName,
        content: &RawValue,
    ) -> Result<(), StorageError> {
        let Ok(edu) = serde_json::from_str::<TypingEdu>(content.get()) else {
            return Ok(());
        };
        if edu.user_id.server_name() != origin {
            tracing::info!(%origin, user = %edu.user_id, "a typing EDU was dropped");
            return Ok(());
        }
        let Some(room) = self.room_for_edu(origin, &edu.room_id).await? else {
            return Ok(());
        };
        if edu.typing && !room.may_be_joined(&edu.user_id) {
            return Ok(());
        }
        let lasts = edu.typing.then_some(LONGEST_ELSEWHERE);
        let change = self
            .typing()
            .set(&self.env().clock, &edu.room_id, &edu.user_id, lasts);
        self.typing_changed(&room, change.position);
        Ok(())
    }

    /// Who types in a room, if that last changed after a position, up to another. A first position from
    /// ahead is of before the clock was set back, and before every change.
    pub fn typing_between(
        &self,
        room_id: &RoomId,
        span: (StreamPosition, StreamPosition),
    ) -> Option<Vec<OwnedUserId>> {
        let state = self.typing().lock();
        let room = state.rooms.get(room_id)?;
        let is_new = self.typing().is_new(room, span);
        is_new.then(|| room.users.keys().cloned().collect())
    }

    /// The rooms where somebody began or ceased to type after a position.
    pub fn rooms_with_typing_after(&self, after: StreamPosition) -> Vec<OwnedRoomId> {
        let state = self.typing().lock();
        let changed = state
            .rooms
            .iter()
            .filter(|(_, room)| room.changed.0 > after);
        changed.map(|(room_id, _)| room_id.clone()).collect()
    }

    /// Tells the room's users of this server, and sees to it that everybody ceases to type some time.
    fn typing_changed(&self, room: &Room, position: Option<StreamPosition>) {
        let Some(position) = position else { return };
        let users = room.local_users();
        self.typing()
            .waking
            .wake(users.iter().map(|user| &**user), position);
        let was_watched = std::mem::replace(&mut self.typing().lock().is_watched, true);
        if !was_watched {
            let rooms = self.clone();
            drop(self.env().tasks.spawn("typing timeouts", async move {
                let stopping = rooms.env().tasks.stopping();
                stopping.run_until_cancelled(rooms.watch_typing()).await;
            }));
        }
    }

    /// Ends typing whose time is up, until nobody types any more.
    async fn watch_typing(&self) {
        loop {
            self.env().clock.sleep(LOOK).await;
            let (expired, go_on) = self.typing().expire(&self.env().clock);
            for expired in expired {
                let room = match self.room(&expired.room_id).await {
                    Ok(Some(room)) => room,
                    Ok(None) => continue,
                    Err(error) => {
                        // Other servers have such a limit themselves.
                        tracing::warn!(room = %expired.room_id, %error, "typing can't be ended");
                        continue;
                    }
                };
                self.typing_changed(&room, Some(expired.position));
                for user in expired.users.iter().filter(|user| self.is_local(user)) {
                    self.tell_typing(&room, user, false);
                }
            }
            if !go_on {
                return;
            }
        }
    }

    fn tell_typing(&self, room: &Arc<Room>, user: &UserId, typing: bool) {
        let content = TypingEdu {
            room_id: room.key.room_id.clone(),
            user_id: user.to_owned(),
            typing,
        };
        self.send_passing_edu(room, TYPING, user.as_str(), &content);
    }
}
