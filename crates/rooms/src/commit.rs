//! The one place that writes events: everything that a run of events changes, in one transaction.

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::{
    completeness::StateRef,
    event::{Event, Place, Verdict},
    number::{EventNr, RoomNr, SnapshotNr, StreamPosition},
    relation::Relation,
    state::Membership,
};
use myelin_storage::{
    Priority, StorageError, Tx, aliases,
    client_transactions::{self, ClientTransaction},
    events,
    joins::{self, PartialRoom},
    notifications::{self, NewNotification},
    out_of_band::{self, OutOfBand},
    outbox::{self, OutboxRow},
    published_rooms, rooms, staged,
    stream::{Allocation, Stream},
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};

use crate::{
    Rooms,
    new_event::NewEvent,
    room::{Graph, Room},
    states::NewSnapshot,
    trace::Trace,
};

/// What a turn writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    events: Vec<events::NewEvent>,
    references: Vec<(EventNr, OwnedEventId)>,
    snapshots: Vec<NewSnapshot>,
    /// Backward extremities, and the depth of an event that names them.
    missing_parents: Vec<(EventNr, i64)>,
    /// Events that came into the timeline.
    placed: Vec<EventNr>,
    current: Vec<(StreamPosition, StateRef)>,
    local_memberships: Vec<LocalMembership>,
    out_of_band: Vec<OutOfBand>,
    redactions: Vec<(EventNr, EventNr)>,
    pending_redactions: Vec<(OwnedEventId, EventNr)>,
    notifications: Vec<NewNotification>,
    read: Vec<Read>,
    outbox: Vec<OutboxRow>,
    transactions: Vec<(OwnedUserId, ClientTransaction, OwnedEventId)>,
    judged: Vec<i64>,
    traces: Vec<(StreamPosition, Trace)>,
    founding: Option<Founding>,
    replaced: Vec<Replaced>,
    join: Option<JoinOutcome>,
    now_full: bool,
    bulk: bool,
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

impl Read {
    async fn put(&self, tx: &mut Tx, room: RoomNr) -> Result<(), StorageError> {
        let (user, position) = (&self.user, self.position);
        match &self.by {
            ReadBy::Joining => notifications::joined(tx, room, user, position).await,
            ReadBy::Sending { thread } => {
                notifications::read_up_to(tx, room, user, Some(thread), position).await
            }
        }
    }
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

impl Founding {
    async fn put(&self, tx: &mut Tx, room: &Room) -> Result<(), StorageError> {
        if !rooms::put(tx, &room.key).await? {
            let room_id = &room.key.room_id;
            return Err(StorageError::Constraint(format!("{room_id} exists")));
        }
        if let Some(alias) = &self.alias
            && !aliases::put(tx, alias, &room.key.room_id, &self.creator).await?
        {
            return Err(StorageError::Constraint(format!("{alias} is taken")));
        }
        if self.published {
            published_rooms::set(tx, room.key.room, true).await?;
        }
        Ok(())
    }
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
        if let Place::Timeline { position, .. } = event.place {
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
        self.events
            .iter()
            .map(|new| &new.event)
            .filter(|event| event.verdict == Verdict::Accepted && event.redacted_by.is_none())
            .filter(
                |event| matches!(event.place, Place::Timeline { position, .. } if position.0 > 0),
            )
            .map(|event| Arc::new(event.clone()))
            .collect()
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
    fn place(&mut self, stream: &Stream) -> Allocation {
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

    /// Forgets what was counted as unread and is so no more. Before anybody can read past the batch.
    fn forget_unread(&self, room: &Room) {
        if !self.redactions.is_empty() {
            room.unread_cache().forget_all();
        }
        for read in &self.read {
            room.unread_cache().forget(&read.user);
        }
    }

    /// Writes the batch, if `before` is still the room's revision. On failure nothing is written.
    pub(crate) async fn write(
        mut self,
        rooms: &Rooms,
        room: &Arc<Room>,
        before: &Graph,
        after: &Graph,
    ) -> Result<Written, StorageError> {
        let allocation = self.place(rooms.events_stream());
        let keys = room.unsaved_keys();
        let mut traces = std::mem::take(&mut self.traces);
        let batch = Arc::new(self);
        let priority = if batch.bulk {
            Priority::Bulk
        } else {
            Priority::Interactive
        };
        let write = Write {
            batch: batch.clone(),
            room: room.clone(),
            keys: keys.clone(),
            before: before.clone(),
            after: after.clone(),
            now_ms: rooms.env().clock.now_ms(),
        };
        rooms
            .database()
            .write("commit events", priority, move |tx| {
                Box::pin(async move { write.run(tx).await })
            })
            .await?;
        room.keys_saved(&keys);
        for (_, trace) in &mut traces {
            trace.step("wake");
        }
        Ok(Written {
            batch,
            allocation,
            traces,
        })
    }
}

/// The transaction.
struct Write {
    batch: Arc<Batch>,
    room: Arc<Room>,
    keys: Vec<(myelin_core::number::KeyNr, myelin_core::key_table::StateKey)>,
    before: Graph,
    after: Graph,
    now_ms: u64,
}

impl Write {
    async fn run(&self, tx: &mut Tx) -> Result<(), StorageError> {
        let room = self.room.key.room;
        if let Some(founding) = &self.batch.founding {
            founding.put(tx, &self.room).await?;
        }
        for (number, name) in &self.keys {
            rooms::put_state_key(tx, room, *number, name).await?;
        }
        for (nr, id) in &self.batch.references {
            events::put_reference(tx, room, *nr, id).await?;
        }
        for snapshot in &self.batch.snapshots {
            snapshot.put(tx, &self.room).await?;
        }
        for event in &self.batch.events {
            events::put(tx, room, event).await?;
        }
        self.write_graph(tx, room).await?;
        for new in &self.batch.notifications {
            notifications::put(tx, room, new).await?;
        }
        for read in &self.batch.read {
            read.put(tx, room).await?;
        }
        self.write_redactions(tx).await?;
        for replaced in &self.batch.replaced {
            let reason = replaced.reason.as_deref();
            events::replace_state(
                tx,
                replaced.event,
                replaced.before,
                replaced.verdict,
                reason,
            )
            .await?;
        }
        for row in &self.batch.outbox {
            outbox::put(tx, row).await?;
        }
        for (user, transaction, event) in &self.batch.transactions {
            client_transactions::put(tx, user, transaction, event, self.now_ms).await?;
        }
        if !self.batch.judged.is_empty() {
            staged::delete(tx, &self.batch.judged).await?;
        }
        self.write_completeness(tx, room).await
    }

    /// Extremities, the current state and who is in it.
    async fn write_graph(&self, tx: &mut Tx, room: RoomNr) -> Result<(), StorageError> {
        for (nr, depth) in &self.batch.missing_parents {
            events::put_backward_extremity(tx, room, *nr, *depth).await?;
        }
        // What is in the timeline is missing no more, whenever in this batch it was missed.
        if !self.batch.placed.is_empty() {
            events::delete_backward_extremities(tx, room, &self.batch.placed).await?;
        }
        for gone in self.before.extremities.difference(&self.after.extremities) {
            events::set_forward_extremity(tx, room, *gone, false).await?;
        }
        for new in self.after.extremities.difference(&self.before.extremities) {
            events::set_forward_extremity(tx, room, *new, true).await?;
        }
        for (position, current) in &self.batch.current {
            rooms::put_state_at(tx, room, *position, *current).await?;
        }
        for local in &self.batch.local_memberships {
            let (user, position) = (&local.user, local.position);
            rooms::put_local_membership(tx, room, user, local.membership, local.event, position)
                .await?;
            out_of_band::delete(tx, room, user).await?;
        }
        for known in &self.batch.out_of_band {
            out_of_band::put(tx, room, known).await?;
        }
        let current = self.after.current.as_ref().map(|current| current.reference);
        let revision = self.before.revision;
        if !rooms::update(tx, room, revision, current, self.after.min_depth).await? {
            return Err(StorageError::Bug(format!(
                "room {room} moved on from {revision}"
            )));
        }
        Ok(())
    }

    async fn write_redactions(&self, tx: &mut Tx) -> Result<(), StorageError> {
        for (redacts, by) in &self.batch.pending_redactions {
            events::put_pending_redaction(tx, redacts, *by).await?;
        }
        for (redacted, by) in &self.batch.redactions {
            events::set_redacted(tx, *redacted, *by).await?;
            notifications::delete(tx, *redacted).await?;
        }
        Ok(())
    }

    /// Whether the room is partial from now on.
    async fn write_completeness(&self, tx: &mut Tx, room: RoomNr) -> Result<(), StorageError> {
        if let Some(join) = &self.batch.join {
            if let Some(partial) = &join.partial {
                joins::put_partial(tx, partial).await?;
            }
            joins::delete_join(tx, &join.room_id, &join.user_id).await?;
        }
        if self.batch.now_full {
            joins::delete_partial(tx, room).await?;
        }
        Ok(())
    }
}

/// A batch that is durable.
pub(crate) struct Written {
    batch: Arc<Batch>,
    allocation: Allocation,
    /// They end when everybody is awake.
    traces: Vec<(StreamPosition, Trace)>,
}

impl Written {
    /// Brings memory up to date and wakes whom it concerns.
    pub(crate) async fn announce(self, rooms: &Rooms, room: &Arc<Room>) {
        let Self {
            batch,
            allocation,
            traces,
        } = self;
        // A bulk of events would push those in use out of memory.
        for new in batch.events.iter().filter(|_| !batch.bulk) {
            room.cache_event(&Arc::new(new.event.clone()));
        }
        let stale = batch.redactions.iter().map(|(redacted, _)| *redacted);
        for nr in stale.chain(batch.replaced.iter().map(|replaced| replaced.event)) {
            room.forget_event(nr);
        }
        if let Some(partial) = batch.join.as_ref().and_then(|join| join.partial.as_ref()) {
            room.set_partial(partial);
        }
        if batch.now_full {
            room.set_full();
        }
        let mut listeners: BTreeSet<OwnedUserId> = room.local_users().into_iter().collect();
        for local in &batch.local_memberships {
            let listens = matches!(
                local.membership,
                Membership::Join | Membership::Invite | Membership::Knock
            );
            room.set_local_user(&local.user, listens);
            listeners.insert(local.user.clone());
        }
        if !batch.bulk {
            rooms.came_into(room, batch.events.iter().map(|new| &new.event));
        }
        batch.forget_unread(room);
        for (position, trace) in &traces {
            rooms.traced().put(*position, room, trace);
        }
        let newest = allocation.positions().last();
        let to_send = !batch.outbox.is_empty();
        drop(allocation);
        let Some(position) = newest else { return };
        // Someone else's earlier position may still be open; nobody can read past it.
        let mut readable = rooms.events_stream().listen();
        if readable
            .wait_for(|readable| *readable >= position)
            .await
            .is_err()
        {
            return;
        }
        rooms
            .waking()
            .wake(listeners.iter().map(|user| &**user), position);
        if to_send {
            rooms.outgoing().wake();
        }
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
