//! Guests in rooms (client-server API, "Guest access"): they come into those that let guests in, and leave when
//! that ends.
//!
//! Who is a guest is a matter of the guest's own server: other servers don't ask, so this is no rule by which
//! events are judged. Memberships of guests are marked, in every room alike. What makes guests leave is noted in
//! the commit that brings it; the note goes when they are out, and is worked through again after a crash.
//! That asks nothing but what is known of this server's users, and so waits for no members of partial rooms.

use std::sync::Arc;

use myelin_core::{
    completeness::Question,
    event::Event,
    number::{EventNr, RoomNr},
    state::Membership,
};
use myelin_storage::{
    Priority, StorageError,
    guest_departures::{self, GuestDeparture},
};
use ruma::{UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    RoomError, Rooms,
    commit::Batch,
    notes::READ_TOGETHER,
    room::{CurrentState, Room},
};

const GUEST_ACCESS: &str = "m.room.guest_access";

/// What in a membership says that it is a guest's.
pub(crate) const KIND: &str = "kind";
const GUEST: &str = "guest";

/// Says in a membership that it is a guest's, which is how a room knows whom it concerns when it closes to guests.
pub fn mark_as_guest(content: &mut Map<String, Value>) {
    content.insert(KIND.to_owned(), GUEST.into());
}

impl Rooms {
    /// # Errors
    /// [`RoomError::NoGuests`] if `content` is a guest's membership and the room lets no guests in.
    pub(crate) async fn must_let_in(
        &self,
        room: &Arc<Room>,
        content: &Map<String, Value>,
    ) -> Result<(), RoomError> {
        if content.get(KIND).and_then(Value::as_str) != Some(GUEST) {
            return Ok(());
        }
        match self.current_content(room, GUEST_ACCESS).await? {
            Some(content) if lets_guests_in(&content) => Ok(()),
            _ => Err(RoomError::NoGuests),
        }
    }

    /// Notes in a batch that guests have to leave: the room was closed to them, or it was when one came in whom
    /// another server could not refuse.
    pub(crate) async fn note_guests(
        &self,
        room: &Arc<Room>,
        after: Option<&CurrentState>,
        batch: &mut Batch,
    ) -> Result<(), StorageError> {
        let closed = batch.shown_events().filter(|event| closes_to_guests(event));
        let mut position = closed.filter_map(Event::position).max();
        let came = batch
            .shown_events()
            .filter(|event| self.is_join_of_guest(event));
        if let Some(came) = came.filter_map(Event::position).max()
            && !self.is_open_to_guests(room, after, batch).await?
        {
            position = position.max(Some(came));
        }
        if let Some(position) = position {
            batch.let_guests_leave(GuestDeparture {
                room: room.key.room,
                position,
            });
        }
        Ok(())
    }

    fn is_join_of_guest(&self, event: &Event) -> bool {
        let pdu = &event.pdu;
        pdu.membership == Some(Membership::Join)
            && self.is_local(&pdu.sender)
            && is_of_guest(&pdu.content)
    }

    /// Whether guests may come in, by the state after a batch.
    async fn is_open_to_guests(
        &self,
        room: &Arc<Room>,
        after: Option<&CurrentState>,
        batch: &Batch,
    ) -> Result<bool, StorageError> {
        let known = after.filter(|after| {
            let question = Question::OtherThanMembers;
            after.reference.answering(question).is_some()
        });
        let entry = known.and_then(|after| {
            let keys = room.keys();
            after.state.get_named(&keys, GUEST_ACCESS, "")
        });
        let Some(nr) = entry.map(|entry| entry.event()) else {
            return Ok(false);
        };
        let new = batch.shown_events().find(|event| event.nr == nr);
        if let Some(event) = new {
            return Ok(lets_guests_in(&event.pdu.content));
        }
        let stored = room.events(self, [nr]).await?.remove(&nr);
        let stored = stored.filter(|event| event.redacted_by.is_none());
        Ok(stored.is_some_and(|event| lets_guests_in(&event.pdu.content)))
    }

    /// It was noted that guests have to leave: lets them, in the background.
    pub(crate) fn guests_must_leave(&self) {
        self.0.guest_news.notify_one();
    }

    /// Lets guests leave from now on, beginning with those who were not done.
    pub(crate) fn start_guest_departures(&self) {
        self.work_through_notes(
            "let guests leave",
            |rooms| &rooms.0.guest_news,
            |rooms| Box::pin(rooms.let_guests_leave()),
        );
    }

    /// Goes through all notes once. Those over which the database fails stay.
    async fn let_guests_leave(&self) -> Result<(), StorageError> {
        // What can't be read yet has not come to the room in memory either, and will be announced.
        let upto = self.events_stream().readable();
        let mut after = RoomNr(0);
        let mut outcome = Ok(());
        loop {
            let page = self
                .database()
                .look_up("rooms closed to guests", move |tx| {
                    Box::pin(guest_departures::open(tx, after, upto, READ_TOGETHER))
                });
            let page = page.await?;
            let Some(last) = page.last() else {
                return outcome;
            };
            after = last.room;
            for departure in page {
                outcome = outcome.and(self.let_guests_out_of(departure).await);
            }
        }
    }

    async fn let_guests_out_of(&self, departure: GuestDeparture) -> Result<(), StorageError> {
        if let Some(room) = self.room_by_nr(departure.room).await? {
            self.put_guests_out(&room, departure).await?;
        }
        self.database()
            .write("guests have left", Priority::Bulk, move |tx| {
                Box::pin(guest_departures::delete(tx, departure))
            })
            .await
    }

    async fn put_guests_out(
        &self,
        room: &Arc<Room>,
        departure: GuestDeparture,
    ) -> Result<(), StorageError> {
        let mut after = String::new();
        loop {
            let place = after.clone();
            let page = self.database().look_up("local members", move |tx| {
                Box::pin(async move {
                    guest_departures::concerned(tx, departure, &place, READ_TOGETHER).await
                })
            });
            let page = page.await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = last.to_string();
            let numbers: Vec<EventNr> = page.iter().map(|(_, event)| *event).collect();
            let memberships = room.events(self, numbers).await?;
            for (user, event) in &page {
                let membership = memberships.get(event);
                if membership.is_some_and(|event| is_of_guest(&event.pdu.content)) {
                    self.put_guest_out(room, user).await?;
                }
            }
        }
    }

    /// Lets a guest leave as if it wished to: that takes no power, and keeps the decision with the guest's server.
    async fn put_guest_out(&self, room: &Room, user: &UserId) -> Result<(), StorageError> {
        let room_id = &room.key.room_id;
        match self.leave(user, room_id, None).await {
            Ok(()) => Ok(()),
            Err(RoomError::Storage(error)) if !error.is_lasting() => Err(error),
            // What the room does not permit now it will not permit later.
            Err(error) => {
                tracing::warn!(room = %room_id, %user, %error, "a guest stays in a room");
                Ok(())
            }
        }
    }
}

fn closes_to_guests(event: &Event) -> bool {
    let pdu = &event.pdu;
    pdu.event_type == TimelineEventType::RoomGuestAccess
        && pdu.state_key.as_deref() == Some("")
        && !lets_guests_in(&pdu.content)
}

fn lets_guests_in(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content {
        guest_access: String,
    }
    serde_json::from_str::<Content>(content.get())
        .is_ok_and(|content| content.guest_access == "can_join")
}

/// Whether a membership is marked as a guest's.
fn is_of_guest(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content {
        kind: String,
    }
    serde_json::from_str::<Content>(content.get()).is_ok_and(|content| content.kind == GUEST)
}
