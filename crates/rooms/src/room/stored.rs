//! A room as it is stored, and how what is in memory comes from it.

use std::sync::{Arc, PoisonError};

use myelin_core::{key_table::KeyTable, number::EventNr};
use myelin_storage::{
    StorageError, Tx, extremities,
    joins::{self, PartialRoom},
    rooms::{self as room_table, LocalMembership, RoomRow},
};
use ruma::RoomId;

use super::{CurrentState, Graph, Room};
use crate::Rooms;

/// A room as it is stored, without its numbering.
struct Stored {
    row: RoomRow,
    extremities: Vec<EventNr>,
    partial: Option<PartialRoom>,
    members: Vec<LocalMembership>,
}

impl Stored {
    async fn read(tx: &mut Tx, room_id: &RoomId) -> Result<Option<Self>, StorageError> {
        let Some(row) = room_table::by_id(tx, room_id).await? else {
            return Ok(None);
        };
        let room = row.key.room;
        Ok(Some(Self {
            row,
            extremities: extremities::forward(tx, room).await?,
            partial: joins::partial_room(tx, room).await?,
            members: room_table::memberships_of_room(tx, room).await?,
        }))
    }
}

impl Room {
    /// Reads a room. `None` if this server does not know it.
    pub(crate) async fn load(
        rooms: &Rooms,
        room_id: &RoomId,
    ) -> Result<Option<Arc<Self>>, StorageError> {
        let room_id = room_id.to_owned();
        let read = rooms
            .database()
            .read("load a room", move |tx| {
                Box::pin(async move {
                    let Some(stored) = Stored::read(tx, &room_id).await? else {
                        return Ok(None);
                    };
                    let keys = room_table::state_keys(tx, stored.row.key.room).await?;
                    Ok(Some((stored, keys)))
                })
            })
            .await?;
        let Some((stored, keys)) = read else {
            return Ok(None);
        };
        let mut table = KeyTable::default();
        for (number, name) in keys {
            if table.intern(name).0 != number {
                return Err(StorageError::Corrupt(format!(
                    "state keys of {}",
                    stored.row.key.room_id
                )));
            }
        }
        let room = Arc::new(Self::new(rooms, stored.row.key.clone(), table));
        let graph = room.take_over(rooms, stored).await?;
        *room.turn.lock().await = Some(graph);
        Ok(Some(room))
    }

    /// The room's graph as it is stored, after a write of which it isn't known what became. Everything
    /// else in memory that the write may have changed is as it is stored, too.
    pub(crate) async fn read_again(self: &Arc<Self>, rooms: &Rooms) -> Result<Graph, StorageError> {
        let room_id = self.key.room_id.clone();
        let stored = rooms
            .database()
            .read("read a room again", move |tx| {
                Box::pin(async move { Stored::read(tx, &room_id).await })
            })
            .await?;
        self.events.lock().forget_all();
        match stored {
            // It was to be made with that write.
            None => Ok(Graph::default()),
            Some(stored) if stored.row.key.room != self.key.room => Err(StorageError::Gone),
            Some(stored) => self.take_over(rooms, stored).await,
        }
    }

    /// Makes what is stored what is in memory.
    async fn take_over(
        self: &Arc<Self>,
        rooms: &Rooms,
        stored: Stored,
    ) -> Result<Graph, StorageError> {
        let current = match stored.row.current {
            None => None,
            Some(reference) => {
                let state = self.state(rooms, reference.snapshot()).await?;
                Some(CurrentState { reference, state })
            }
        };
        match &stored.partial {
            Some(partial) => self.set_partial(partial),
            None => self.set_full(),
        }
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = stored
            .members
            .into_iter()
            .filter(|member| matches!(&member.membership[..], "join" | "invite" | "knock"))
            .map(|member| member.user_id)
            .collect();
        self.publish(current.clone());
        Ok(Graph {
            revision: stored.row.revision,
            extremities: stored.extremities.into_iter().collect(),
            last_snapshot: current.as_ref().map(|current| current.reference.snapshot()),
            current,
            min_depth: stored.row.min_depth,
        })
    }
}
