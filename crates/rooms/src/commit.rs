//! The one place that writes events: everything that a run of events changes, in one transaction, and then who
//! is told of it.

mod batch;

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::{
    key_table::StateKey,
    number::{KeyNr, RoomNr, StreamPosition},
    state::Membership,
};
use myelin_storage::{
    Priority, StorageError, Tx, aliases, client_transactions, events, extremities,
    guest_departures, joins, notifications, out_of_band, outbox, published_rooms, rooms, staged,
    stream::Allocation,
};
use ruma::OwnedUserId;

use crate::{
    Rooms,
    room::{Graph, Room},
    trace::Trace,
};

pub(crate) use self::batch::{
    Batch, Founding, JoinOutcome, LocalMembership, Read, ReadBy, Replaced,
};

impl Batch {
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

    /// Forgets what was counted as unread and is so no more. Before anybody can read past the batch.
    fn forget_unread(&self, room: &Room) {
        if !self.redactions.is_empty() {
            room.unread_cache().forget_all();
        }
        for read in &self.read {
            room.unread_cache().forget(&read.user);
        }
    }
}

/// The transaction.
struct Write {
    batch: Arc<Batch>,
    room: Arc<Room>,
    keys: Vec<(KeyNr, StateKey)>,
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
        events::put(tx, room, &self.batch.events).await?;
        self.write_graph(tx, room).await?;
        for new in &self.batch.notifications {
            notifications::put(tx, room, new).await?;
        }
        for read in &self.batch.read {
            read.put(tx, room).await?;
        }
        if let Some(departure) = self.batch.guest_departure {
            guest_departures::put(tx, departure).await?;
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
            extremities::put_backward(tx, room, *nr, *depth).await?;
        }
        // What is in the timeline is missing no more, whenever in this batch it was missed.
        if !self.batch.placed.is_empty() {
            extremities::delete_backward(tx, room, &self.batch.placed).await?;
        }
        for gone in self.before.extremities.difference(&self.after.extremities) {
            extremities::set_forward(tx, room, *gone, false).await?;
        }
        for new in self.after.extremities.difference(&self.before.extremities) {
            extremities::set_forward(tx, room, *new, true).await?;
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
        let guests_must_leave = batch.guest_departure.is_some();
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
        if guests_must_leave {
            rooms.guests_must_leave();
        }
    }
}
