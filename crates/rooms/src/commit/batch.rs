//! What a turn over a room wants written, gathered before any of it is.

use std::sync::Arc;

use myelin_core::{
    completeness::StateRef,
    event::{Event, Place, Verdict},
    number::{EventNr, SnapshotNr, StreamPosition},
    relation::Relation,
    state::Membership,
};
use myelin_storage::{
    client_transactions::ClientTransaction,
    events,
    guest_departures::GuestDeparture,
    joins::PartialRoom,
    notifications::NewNotification,
    out_of_band::OutOfBand,
    outbox::OutboxRow,
    stream::{Allocation, Stream},
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};

use crate::{new_event::NewEvent, states::NewSnapshot, trace::Trace};

/// What a turn writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(super) events: Vec<events::NewEvent>,
    pub(super) references: Vec<(EventNr, OwnedEventId)>,
    pub(super) snapshots: Vec<NewSnapshot>,
    /// Backward extremities, and the depth of an event that names them.
    pub(super) missing_parents: Vec<(EventNr, i64)>,
    /// Events that came into the timeline.
    pub(super) placed: Vec<EventNr>,
    pub(super) current: Vec<(StreamPosition, StateRef)>,
    pub(super) local_memberships: Vec<LocalMembership>,
    pub(super) out_of_band: Vec<OutOfBand>,
    pub(super) redactions: Vec<(EventNr, EventNr)>,
    pub(super) pending_redactions: Vec<(OwnedEventId, EventNr)>,
    pub(super) notifications: Vec<NewNotification>,
    pub(super) read: Vec<Read>,
    pub(super) outbox: Vec<OutboxRow>,
    pub(super) transactions: Vec<(OwnedUserId, ClientTransaction, OwnedEventId)>,
    pub(super) judged: Vec<i64>,
    pub(super) guest_departure: Option<GuestDeparture>,
    pub(super) traces: Vec<(StreamPosition, Trace)>,
    pub(super) founding: Option<Founding>,
    pub(super) replaced: Vec<Replaced>,
    pub(super) join: Option<JoinOutcome>,
    pub(super) now_full: bool,
    pub(super) bulk: bool,
    /// How many positions of the stream it takes.
    positions: usize,
}

/// A new state and verdict of an event whose state was partial.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) event: EventNr,
    pub(crate) before: SnapshotNr,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Option<String>,
}

/// What one of this server's users is to the room from now on.
#[derive(Debug)]
pub(crate) struct LocalMembership {
    pub(crate) user: OwnedUserId,
    pub(crate) membership: Membership,
    /// The event that says so, or the one that a resolution undid.
    pub(crate) event: EventNr,
    pub(crate) position: StreamPosition,
}

/// How far one of this server's users has got in reading the room.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) user: OwnedUserId,
    pub(crate) position: StreamPosition,
    pub(crate) by: ReadBy,
}

/// By what a user has got on.
#[derive(Debug)]
pub(crate) enum ReadBy {
    /// It came in: what was before is nothing to it.
    Joining,
    /// It said something in a thread, or in the main timeline.
    Sending { thread: String },
}

/// A room that is made here.
#[derive(Debug)]
pub(crate) struct Founding {
    pub(crate) creator: OwnedUserId,
    /// An alias that is free.
    pub(crate) alias: Option<String>,
    /// Whether it stands in the public directory.
    pub(crate) published: bool,
}

/// A remote join that succeeded.
#[derive(Debug)]
pub(crate) struct JoinOutcome {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) user_id: OwnedUserId,
    pub(crate) partial: Option<PartialRoom>,
}

impl Batch {
    pub(crate) fn put_event(
        &mut self,
        event: Arc<Event>,
        reason: Option<String>,
        auth_events: Vec<EventNr>,
        prev_events: Vec<EventNr>,
    ) {
        let event = (*event).clone();
        self.events.push(events::NewEvent {
            event,
            reason,
            auth_events,
            prev_events,
        });
    }

    /// An event of this batch is traced.
    pub(crate) fn trace(&mut self, event: &Event, mut trace: Trace) {
        if let Some(position) = event.position() {
            trace.identify(&event.pdu.event_id);
            trace.judged(event.verdict.name());
            self.traces.push((position, trace));
        }
    }

    pub(crate) fn put_reference(&mut self, nr: EventNr, id: &EventId) {
        self.references.push((nr, id.to_owned()));
    }

    pub(crate) fn put_snapshot(&mut self, snapshot: NewSnapshot) {
        self.snapshots.push(snapshot);
    }

    pub(crate) fn put_backward_extremity(&mut self, nr: EventNr, depth: i64) {
        self.missing_parents.push((nr, depth));
    }

    pub(crate) fn delete_backward_extremity(&mut self, nr: EventNr) {
        self.placed.push(nr);
    }

    pub(crate) fn put_current(&mut self, position: StreamPosition, current: StateRef) {
        self.current.push((position, current));
    }

    pub(crate) fn put_local_membership(&mut self, membership: LocalMembership) {
        self.local_memberships.push(membership);
    }

    /// What is known of a local membership to which the room says nothing.
    pub(crate) fn put_out_of_band(&mut self, known: OutOfBand) {
        self.out_of_band.push(known);
    }

    pub(crate) fn put_redaction(&mut self, redacted: EventNr, by: EventNr) {
        self.redactions.push((redacted, by));
    }

    pub(crate) fn put_pending_redaction(&mut self, redacts: OwnedEventId, by: EventNr) {
        self.pending_redactions.push((redacts, by));
    }

    /// Somebody is told of an event.
    pub(crate) fn notify(&mut self, notification: NewNotification) {
        self.notifications.push(notification);
    }

    /// One of our users has read on.
    pub(crate) fn put_read(&mut self, read: Read) {
        self.read.push(read);
    }

    /// The events that clients will be shown, in order.
    pub(crate) fn shown(&self) -> Vec<Arc<Event>> {
        let shown = self.shown_events();
        shown.map(|event| Arc::new(event.clone())).collect()
    }

    /// The same without taking them along.
    pub(crate) fn shown_events(&self) -> impl Iterator<Item = &Event> {
        self.events
            .iter()
            .map(|new| &new.event)
            .filter(|event| event.verdict == Verdict::Accepted && event.redacted_by.is_none())
            .filter(|event| event.position().is_some_and(|position| position.0 > 0))
    }

    /// What this server's users are to the room from now on.
    pub(crate) fn local_memberships(&self) -> &[LocalMembership] {
        &self.local_memberships
    }

    /// The current state from a position on, if it changed there.
    pub(crate) fn current_at(&self, position: StreamPosition) -> Option<StateRef> {
        let mut current = self.current.iter().rev();
        current
            .find(|(at, _)| *at == position)
            .map(|(_, current)| *current)
    }

    /// Memberships to which the room says nothing.
    pub(crate) fn out_of_band(&self) -> &[OutOfBand] {
        &self.out_of_band
    }

    pub(crate) fn send(&mut self, row: OutboxRow) {
        self.outbox.push(row);
    }

    pub(crate) fn put_transaction(
        &mut self,
        user: &UserId,
        transaction: ClientTransaction,
        event: &EventId,
    ) {
        self.transactions
            .push((user.to_owned(), transaction, event.to_owned()));
    }

    /// The event that a transaction makes in this batch.
    pub(crate) fn transaction(
        &self,
        user: &UserId,
        transaction: &ClientTransaction,
    ) -> Option<OwnedEventId> {
        let same = |(author, made, _): &&(OwnedUserId, ClientTransaction, OwnedEventId)| {
            author == user && made == transaction
        };
        self.transactions
            .iter()
            .find(same)
            .map(|(_, _, event_id)| event_id.clone())
    }

    /// Guests have to leave the room.
    pub(crate) fn let_guests_leave(&mut self, departure: GuestDeparture) {
        self.guest_departure = Some(departure);
    }

    /// A staged PDU was judged.
    pub(crate) fn judged(&mut self, staged: i64) {
        self.judged.push(staged);
    }

    pub(crate) fn replace_state(&mut self, replaced: Replaced) {
        self.replaced.push(replaced);
    }

    /// The room's resync is done.
    pub(crate) fn set_full(&mut self) {
        self.now_full = true;
    }

    /// The room is made with this batch.
    pub(crate) fn found(&mut self, founding: Founding) {
        self.founding = Some(founding);
    }

    pub(crate) fn joined(&mut self, join: JoinOutcome) {
        self.join = Some(join);
    }

    /// Nobody waits for this batch.
    pub(crate) fn set_bulk(&mut self) {
        self.bulk = true;
    }

    /// The next position, counted from the beginning of this batch. The stream's own are given out
    /// when the batch is written ([`Batch::place`]): until they are finished they hold up the readers of
    /// all rooms.
    pub(crate) fn next_position(&mut self) -> StreamPosition {
        self.positions += 1;
        StreamPosition(self.positions as i64)
    }

    /// Turns positions within the batch into those of the stream. History has a place of its own.
    pub(super) fn place(&mut self, stream: &Stream) -> Allocation {
        let allocation = stream.allocate(self.positions);
        let before = allocation.before();
        let place = |position: &mut StreamPosition| {
            if position.0 > 0 {
                position.0 += before.0;
            }
        };
        for new in &mut self.events {
            if let Place::Timeline { position, .. } = &mut new.event.place {
                place(position);
            }
        }
        for (position, _) in &mut self.current {
            place(position);
        }
        for local in &mut self.local_memberships {
            place(&mut local.position);
        }
        for row in &mut self.outbox {
            place(&mut row.position);
        }
        for new in &mut self.notifications {
            place(&mut new.position);
        }
        for read in &mut self.read {
            place(&mut read.position);
        }
        for (position, _) in &mut self.traces {
            place(position);
        }
        if let Some(departure) = &mut self.guest_departure {
            place(&mut departure.position);
        }
        allocation
    }

    /// The timeline events of this batch that name some events as parents.
    pub(crate) fn children(&self, parents: &[EventNr]) -> Vec<(EventNr, Verdict)> {
        self.events
            .iter()
            .filter(|new| new.event.in_timeline())
            .filter(|new| parents.iter().any(|nr| new.prev_events.contains(nr)))
            .map(|new| (new.event.nr, new.event.verdict))
            .collect()
    }

    /// The events of this batch that cite `nr` among their auth events.
    pub(crate) fn auth_children(&self, nr: EventNr) -> Vec<EventNr> {
        self.events
            .iter()
            .filter(|new| new.auth_events.contains(&nr))
            .map(|new| new.event.nr)
            .collect()
    }

    /// The events of this batch that relate to another just as one that is to be made.
    pub(crate) fn relating(&self, made: &NewEvent, relation: &Relation) -> Vec<EventNr> {
        let relates = |new: &&events::NewEvent| {
            let pdu = &new.event.pdu;
            pdu.sender == made.sender
                && Relation::of(pdu).as_ref() == Some(relation)
                && pdu.event_type.to_string() == made.event_type
        };
        let relating = self.events.iter().filter(relates);
        relating.map(|new| new.event.nr).collect()
    }

    /// Whether an event is redacted by this batch.
    pub(crate) fn redacts(&self, nr: EventNr) -> bool {
        self.redactions.iter().any(|(redacted, _)| *redacted == nr)
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.judged.is_empty()
            && self.replaced.is_empty()
            && self.join.is_none()
            && self.redactions.is_empty()
            && self.out_of_band.is_empty()
            && !self.now_full
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, StateRef, StreamPosition};
    use myelin_core::{completeness::Completeness, number::SnapshotNr};
    use myelin_storage::stream::Stream;

    #[test]
    fn a_batch_holds_up_no_reader_before_it_is_written() {
        let stream = Stream::new(StreamPosition(10));
        let state = StateRef::new(SnapshotNr(1), Completeness::FULL);
        let mut batch = Batch::default();
        for _ in 0..2 {
            let position = batch.next_position();
            batch.put_current(position, state);
        }
        // Another room is faster.
        drop(stream.allocate(1));
        assert_eq!(stream.readable(), StreamPosition(11));
        let allocation = batch.place(&stream);
        let positions: Vec<_> = batch.current.iter().map(|(at, _)| *at).collect();
        assert_eq!(positions, [StreamPosition(12), StreamPosition(13)]);
        drop(stream.allocate(1));
        assert_eq!(stream.readable(), StreamPosition(11));
        drop(allocation);
        assert_eq!(stream.readable(), StreamPosition(14));
    }
}
