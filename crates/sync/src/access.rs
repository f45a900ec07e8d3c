//! What a user may read of a room, and the state that it may read.

use std::{sync::Arc, time::Duration};

use myelin_core::{
    completeness::{Question, StateRef},
    event::Event,
    key_table::MEMBER,
    number::StreamPosition,
    state::{Entry, Membership, State},
    visibility::HistoryVisibility,
};
use myelin_rooms::{Room, Rooms};
use myelin_storage::{
    events, rooms as room_table,
    timelines::{self, UserRoom},
};
use ruma::{RoomId, UserId};

use crate::SyncError;

/// How long a request waits for the end of a partial join's resync. Clients give up not much later.
pub(crate) const FULL_STATE_WAIT: Duration = Duration::from_secs(45);

/// How many changes of a membership are followed back to find out when its user was last joined.
const MAX_MEMBERSHIP_STEPS: usize = 10;

/// By what right a user reads a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The user is in it.
    Joined,
    /// The user was in it until this position.
    Left(StreamPosition),
    /// The history is open to the world.
    Peeking,
    /// The user administers the server.
    Administering,
}

/// In whose place somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// As a user, who may see what the room shows it.
    AsUser,
    /// As an administrator of the server, who may see everything and be in no room.
    AsAdministrator,
}

impl Access {
    /// Whether the user is, or was, in the room at some time after a position.
    pub(crate) fn joined_after(self, position: StreamPosition) -> bool {
        match self {
            Self::Joined | Self::Administering => true,
            Self::Left(left) => position <= left,
            Self::Peeking => false,
        }
    }

    /// Up to where the user may read.
    pub(crate) fn upto(self, readable: StreamPosition) -> StreamPosition {
        match self {
            Self::Left(position) => position.min(readable),
            Self::Joined | Self::Peeking | Self::Administering => readable,
        }
    }
}

/// The room, and by what right the user reads it.
///
/// Somebody who left reads what there was until then, unless they have forgotten the room.
pub(crate) async fn access(
    rooms: &Rooms,
    user: &UserId,
    room_id: &RoomId,
) -> Result<(Arc<Room>, Access), SyncError> {
    let room = rooms
        .room(room_id)
        .await?
        .ok_or_else(SyncError::not_in_room)?;
    let (nr, user_id) = (room.key.room, user.to_owned());
    let membership = rooms
        .database()
        .look_up("membership", move |tx| {
            Box::pin(async move { timelines::user_room(tx, &user_id, nr).await })
        })
        .await?
        .filter(|membership| !membership.forgotten);
    if let Some(membership) = membership {
        if membership.membership == Membership::Join.name() {
            return Ok((room, Access::Joined));
        }
        if let Some(left) = last_departure(rooms, &room, user, &membership).await? {
            return Ok((room, Access::Left(left)));
        }
    }
    if current_visibility(rooms, &room).await? == Some(HistoryVisibility::WorldReadable) {
        return Ok((room, Access::Peeking));
    }
    Err(SyncError::not_in_room())
}

/// The same for who may ask as an administrator.
pub(crate) async fn access_as(
    rooms: &Rooms,
    asking: Asking,
    user: &UserId,
    room_id: &RoomId,
) -> Result<(Arc<Room>, Access), SyncError> {
    match asking {
        Asking::AsUser => access(rooms, user, room_id).await,
        Asking::AsAdministrator => match rooms.room(room_id).await? {
            Some(room) => Ok((room, Access::Administering)),
            None => Err(SyncError::NotFound("Room not found".to_owned())),
        },
    }
}

/// Where a user who is not in the room any more left it last, going back from its membership event.
/// `None` if it never was in the room, as after a rejected invite.
async fn last_departure(
    rooms: &Rooms,
    room: &Arc<Room>,
    user: &UserId,
    membership: &UserRoom,
) -> Result<Option<StreamPosition>, SyncError> {
    let mut event = membership.event;
    for _ in 0..MAX_MEMBERSHIP_STEPS {
        let found = room.events(rooms, [event]).await?.remove(&event);
        let Some((position, before)) = found.as_ref().and_then(placed) else {
            return Ok(None);
        };
        if is_join(found.as_ref()) {
            // The resolution of a fork undid it. No event says when; the record does.
            return Ok(Some(membership.position));
        }
        let state = room.state(rooms, before.snapshot()).await?;
        let entry = state.get_named(&room.keys(), MEMBER, user.as_str());
        match entry {
            Some(entry) if entry.membership() == Some(Membership::Join) => {
                return Ok(Some(position));
            }
            Some(entry) => event = entry.event(),
            None => return Ok(None),
        }
    }
    Ok(None)
}

pub(crate) fn is_join(event: Option<&Arc<Event>>) -> bool {
    event.is_some_and(|event| event.pdu.membership == Some(Membership::Join))
}

pub(crate) fn placed(event: &Arc<Event>) -> Option<(StreamPosition, StateRef)> {
    match event.place {
        myelin_core::event::Place::Timeline { before, position } => Some((position, before)),
        myelin_core::event::Place::Outlier => None,
    }
}

async fn current_visibility(
    rooms: &Rooms,
    room: &Arc<Room>,
) -> Result<Option<HistoryVisibility>, SyncError> {
    let Some(current) = room.current() else {
        return Ok(None);
    };
    let entry = current
        .state
        .get_named(&room.keys(), "m.room.history_visibility", "");
    let Some(entry) = entry else {
        return Ok(Some(HistoryVisibility::read(None)));
    };
    let found = room.events(rooms, [entry.event()]).await?;
    let pdu = found.get(&entry.event()).map(|event| &*event.pdu);
    Ok(pdu.map(|pdu| HistoryVisibility::read(Some(pdu))))
}

/// The state that a user may read, if it can answer `question`; for who left, the state then. Waits for
/// the resync of a partial join where the question needs it, for a limited time.
pub(crate) async fn readable_state(
    rooms: &Rooms,
    room: &Arc<Room>,
    access: Access,
    question: Question,
) -> Result<State, SyncError> {
    let at = match access {
        Access::Left(position) => Some(position),
        Access::Joined | Access::Peeking | Access::Administering => None,
    };
    state_as_of(rooms, room, at, question).await
}

/// The current state as of a position (`None`: now), if it can answer `question`.
pub(crate) async fn state_as_of(
    rooms: &Rooms,
    room: &Arc<Room>,
    at: Option<StreamPosition>,
    question: Question,
) -> Result<State, SyncError> {
    if let Some(state) = answering(rooms, room, at, question).await? {
        return Ok(state);
    }
    rooms.wait_for_full(room, FULL_STATE_WAIT).await?;
    if let Some(state) = answering(rooms, room, at, question).await? {
        return Ok(state);
    }
    // What was current in the partial phase stays on record as it was. The states at events have been
    // made whole meanwhile, and after the last event they are the same thing.
    match at {
        Some(position) => after_last_event(rooms, room, position, question).await,
        None => Err(SyncError::StillPartial),
    }
}

async fn answering(
    rooms: &Rooms,
    room: &Arc<Room>,
    at: Option<StreamPosition>,
    question: Question,
) -> Result<Option<State>, SyncError> {
    let found = match at {
        None => room.current(),
        Some(position) => room.state_at(rooms, position).await?,
    };
    let found = found.ok_or_else(SyncError::not_in_room)?;
    Ok(found
        .reference
        .answering(question)
        .is_some()
        .then_some(found.state))
}

async fn after_last_event(
    rooms: &Rooms,
    room: &Arc<Room>,
    position: StreamPosition,
    question: Question,
) -> Result<State, SyncError> {
    let nr = room.key.room;
    let last = rooms
        .database()
        .look_up("last event before a position", move |tx| {
            Box::pin(async move {
                let range = (StreamPosition(i64::MIN), position);
                events::timeline(tx, nr, events::Direction::Backward, range, 1).await
            })
        })
        .await?;
    let found = room.events(rooms, last).await?;
    let event = found.into_values().next().ok_or(SyncError::StillPartial)?;
    let before = event.before().and_then(|before| before.answering(question));
    let state = room
        .state(rooms, before.ok_or(SyncError::StillPartial)?)
        .await?;
    Ok(with_event(room, state, &event))
}

/// The state after an event, by the state before it.
pub(crate) fn with_event(room: &Room, mut state: State, event: &Event) -> State {
    let state_key = event.pdu.state_key.as_deref();
    if let Some(state_key) = state_key.filter(|_| event.is_effective_state()) {
        let keys = room.keys();
        if let Some(key) = keys.number(&event.pdu.event_type.to_string(), state_key) {
            state.set(&keys, key, Some(Entry::new(event.nr, event.pdu.membership)));
        }
    }
    state
}

/// The current state as of a position, whether complete or not.
pub(crate) async fn reference_at(
    rooms: &Rooms,
    room: &Arc<Room>,
    position: StreamPosition,
) -> Result<Option<StateRef>, SyncError> {
    let nr = room.key.room;
    let found = rooms.database().look_up("state at a position", move |tx| {
        Box::pin(async move { room_table::state_at(tx, nr, position).await })
    });
    Ok(found.await?)
}
