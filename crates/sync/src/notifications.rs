//! Of which events a user was told (client-server API, "Listing notifications").

use std::collections::{BTreeMap, HashMap};

use myelin_core::number::{EventNr, RoomNr, StreamPosition};
use myelin_storage::{
    StorageError,
    notifications::{self, Told, ToldRoom, Wanted},
};
use myelin_users::Requester;
use ruma::OwnedRoomId;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    EventJson, Sync, SyncError,
    client_event::{Form, Seen, client_events},
    token::NotificationToken,
};

/// How many are shown if the client doesn't say.
const DEFAULT_LIMIT: usize = 50;

/// How many are shown at most.
const MAX_LIMIT: usize = 100;

/// What a client asks of `/notifications`.
#[derive(Clone, Debug)]
pub struct NotificationsRequest {
    /// Who asks.
    pub viewer: Requester,
    /// Where the last page ended.
    pub from: Option<NotificationToken>,
    /// How many events at most.
    pub limit: Option<u64>,
    /// Only those that stand out.
    pub only_highlights: bool,
}

/// A page of what a user was told of, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct Notifications {
    /// Where the next page begins; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
    /// The events.
    pub notifications: Vec<NotifiedEvent>,
}

/// An event of which a user was told.
#[derive(Clone, Debug, Serialize)]
pub struct NotifiedEvent {
    /// What was to be done about it.
    pub actions: Box<RawValue>,
    /// The event.
    pub event: EventJson,
    /// Whether the user has read it.
    pub read: bool,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// The time of the event (Unix milliseconds).
    pub ts: u64,
}

impl Sync {
    /// What a user was told of in the rooms where it is, or into which it is invited. Events that were
    /// redacted since are left out.
    ///
    /// # Errors
    /// [`SyncError::Storage`].
    pub async fn notifications(
        &self,
        request: &NotificationsRequest,
    ) -> Result<Notifications, SyncError> {
        let limit = request.limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit).unwrap_or(MAX_LIMIT)
        });
        let limit = limit.clamp(1, MAX_LIMIT);
        let before = request.from.map_or(StreamPosition(i64::MAX), |from| from.0);
        let wanted = Wanted {
            before,
            only_highlights: request.only_highlights,
            // One more tells whether there is a next page.
            limit: limit + 1,
        };
        let user = request.viewer.user_id.clone();
        let read = self.rooms().database().read("notifications", move |tx| {
            Box::pin(async move {
                let mut told = Vec::new();
                for room in notifications::rooms(tx, &user).await? {
                    let of_room = notifications::of_room(tx, &room, &user, wanted).await?;
                    told.extend(of_room.into_iter().map(|told| (room.clone(), told)));
                }
                Ok(told)
            })
        });
        let mut told = read.await?;
        told.sort_by_key(|(_, told)| std::cmp::Reverse(told.position));
        let is_more = told.len() > limit;
        told.truncate(limit);
        let last = told.last().filter(|_| is_more);
        let next_token = last.map(|(_, told)| NotificationToken(told.position).to_string());
        Ok(Notifications {
            next_token,
            notifications: self.notified(&request.viewer, told).await?,
        })
    }

    /// The events as clients get them, in the same order.
    async fn notified(
        &self,
        viewer: &Requester,
        told: Vec<(ToldRoom, Told)>,
    ) -> Result<Vec<NotifiedEvent>, SyncError> {
        let mut by_room: BTreeMap<RoomNr, (OwnedRoomId, Vec<EventNr>)> = BTreeMap::new();
        for (room, told) in &told {
            let of_room = by_room.entry(room.key.room);
            let (_, events) = of_room.or_insert_with(|| (room.key.room_id.clone(), Vec::new()));
            events.push(told.event);
        }
        let mut shown = HashMap::new();
        for (room_id, events) in by_room.into_values() {
            self.show(viewer, (room_id, events), &mut shown).await?;
        }
        told.into_iter()
            .filter_map(|(room, told)| {
                let (ts, event) = shown.remove(&told.event)?;
                Some((room, told, ts, event))
            })
            .map(|(room, told, ts, event)| {
                Ok(NotifiedEvent {
                    actions: RawValue::from_string(told.notification.actions)
                        .map_err(|error| StorageError::Corrupt(format!("actions: {error}")))?,
                    event,
                    read: told.is_read,
                    room_id: room.key.room_id,
                    ts,
                })
            })
            .collect()
    }

    /// Events of one room with the time that they bear.
    async fn show(
        &self,
        viewer: &Requester,
        (room_id, numbers): (OwnedRoomId, Vec<EventNr>),
        shown: &mut HashMap<EventNr, (u64, EventJson)>,
    ) -> Result<(), SyncError> {
        let rooms = self.rooms();
        let Some(room) = rooms.room(&room_id).await? else {
            return Ok(());
        };
        let mut held = room.events(rooms, numbers.iter().copied()).await?;
        // An invite into a room that this server is not in is no event of the room.
        if held.len() < numbers.len()
            && let Some(known) = rooms.out_of_band(&room, &viewer.user_id).await?
            && numbers.contains(&known.event.nr)
        {
            held.insert(known.event.nr, known.event);
        }
        let seen: Vec<Seen> = held.into_values().map(Seen::from).collect();
        let form = Form {
            room_id: false,
            ..Form::alone(viewer)
        };
        let written = client_events(rooms, &room, &seen, form).await?;
        for (seen, event) in seen.iter().zip(written) {
            let ts = seen.event.pdu.origin_server_ts.get().into();
            shown.insert(seen.event.nr, (ts, event));
        }
        Ok(())
    }
}
