//! Up to where users have read (client-server API, "Receipts" and "Fully read markers"; server-server
//! API, "Receipts").

use std::{collections::BTreeMap, sync::Arc};

use myelin_core::{
    event::Event,
    number::{RoomNr, StreamPosition},
};
use myelin_storage::{
    Database, Priority, StorageError, Tx,
    notifications::{self, MAIN},
    receipts::{self, Receipt},
    stream::Stream,
    waking::Waking,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{RoomError, Rooms, room::Room};

pub use myelin_storage::receipts::ReceiptType;

/// The type of the EDUs, and of the events that clients get.
pub(crate) const RECEIPT: &str = "m.receipt";

/// How many relations are followed from an event to its thread.
const MOST_RELATIONS: usize = 3;

/// In how many threads of a room is noted up to where a user of another server has read: those it read last.
const MOST_THREADS: usize = 200;

/// The stream of receipts, and who waits for some.
pub(crate) struct Receipts {
    pub(crate) stream: Stream,
    pub(crate) waking: Waking,
}

impl Receipts {
    pub(crate) async fn load(database: &Database) -> Result<Self, StorageError> {
        let last = database.read("last receipt", |tx| Box::pin(receipts::last_position(tx)));
        Ok(Self {
            stream: Stream::new(last.await?),
            waking: Waking::default(),
        })
    }
}

/// Up to where one of our users has read.
#[derive(Clone, Debug)]
pub struct Mark {
    /// What the receipt is for.
    pub receipt_type: ReceiptType,
    /// The last event that was read.
    pub event_id: OwnedEventId,
    /// The root of a thread, or `main`; none: the room as a whole.
    pub thread: Option<String>,
}

/// Receipts in an EDU: by type and user, each as it came.
type Received = BTreeMap<String, BTreeMap<String, Box<RawValue>>>;

#[derive(Deserialize)]
struct ReceivedReceipt {
    data: ReceivedData,
    event_ids: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct ReceivedData {
    ts: u64,
    thread_id: Option<String>,
}

/// A receipt with the position of its event, if that is held.
type Placed = (Receipt, Option<StreamPosition>);

impl Rooms {
    /// Notes up to where one of our users has read.
    ///
    /// # Errors
    /// [`RoomError::NotFound`], [`RoomError::Forbidden`] if the user is not in the room,
    /// [`RoomError::InvalidParam`] if it has no such event, or the event is not in the thread,
    /// [`RoomError::Storage`].
    pub async fn mark_read(
        &self,
        room_id: &RoomId,
        user: &UserId,
        marks: Vec<Mark>,
    ) -> Result<(), RoomError> {
        let room = self.known_room(room_id).await?;
        self.must_be_joined(&room, user)?;
        let mut placed = Vec::new();
        for mark in marks {
            let event = room.event_by_id(self, &mark.event_id).await?;
            let event = event.ok_or_else(|| invalid("The room has no such event"))?;
            if let Some(thread) = &mark.thread {
                self.must_be_in_thread(&room, &event, thread).await?;
            }
            let receipt = Receipt {
                receipt_type: mark.receipt_type,
                user_id: user.to_owned(),
                thread: mark.thread,
                event_id: mark.event_id,
                read_ms: self.env().clock.now_ms(),
            };
            placed.push((receipt, event.position()));
        }
        for receipt in self.store_receipts(&room, placed).await? {
            if receipt.receipt_type == ReceiptType::Read {
                self.tell_receipt(&room, &receipt);
            }
        }
        Ok(())
    }

    /// Takes the content of an `m.receipt` EDU. What is not for a room of ours, or not the origin's to
    /// say, is left out (R45), and so is what nobody can have read who isn't in the room.
    pub(crate) async fn receive_receipts(
        &self,
        origin: &ServerName,
        content: &RawValue,
    ) -> Result<(), StorageError> {
        let Ok(content) = serde_json::from_str::<BTreeMap<OwnedRoomId, Received>>(content.get())
        else {
            return Ok(());
        };
        for (room_id, mut received) in content {
            let Some(room) = self.room_for_edu(origin, &room_id).await? else {
                continue;
            };
            let of_users = received.remove(ReceiptType::Read.name());
            let mut placed = Vec::new();
            for (user, receipt) in of_users.unwrap_or_default() {
                let receipt = read_receipt(origin, user, &receipt);
                let Some(receipt) = receipt.filter(|receipt| room.may_be_joined(&receipt.user_id))
                else {
                    continue;
                };
                let event = room.event_by_id(self, &receipt.event_id).await?;
                let position = event.and_then(|event| event.position());
                placed.push((receipt, position));
            }
            self.store_receipts(&room, placed).await?;
        }
        Ok(())
    }

    /// Stores receipts of a room, and tells our users of them. Answers those that changed something.
    async fn store_receipts(
        &self,
        room: &Room,
        placed: Vec<Placed>,
    ) -> Result<Vec<Receipt>, StorageError> {
        if placed.is_empty() {
            return Ok(Vec::new());
        }
        let allocation = self.receipts().stream.allocate(1);
        let position = StreamPosition(allocation.before().0 + 1);
        let nr = room.key.room;
        let own = self.server_name().to_owned();
        // The allocation goes along, so that it lasts exactly as long as the transaction.
        let write = self.database().write::<_, StorageError, _>(
            "receipts",
            Priority::Interactive,
            move |tx| {
                Box::pin(async move {
                    let mut changed = Vec::new();
                    for (receipt, event_position) in placed {
                        if receipts::put(tx, nr, &receipt, event_position, position).await? {
                            if receipt.user_id.server_name() == own {
                                note_read(tx, nr, &receipt, event_position).await?;
                            } else if receipt.thread.is_some() {
                                receipts::forget_threads(tx, nr, &receipt, MOST_THREADS).await?;
                            }
                            changed.push(receipt);
                        }
                    }
                    Ok((changed, allocation))
                })
            },
        );
        let (changed, allocation) = write.await?;
        // Before anybody can read past it.
        for receipt in &changed {
            room.unread_cache().forget(&receipt.user_id);
        }
        drop(allocation);
        if !changed.is_empty() {
            let users = room.local_users();
            let users = users.iter().map(|user| &**user);
            self.receipts().waking.wake(users, position);
        }
        Ok(changed)
    }

    fn tell_receipt(&self, room: &Room, receipt: &Receipt) {
        let mut data = json!({ "ts": receipt.read_ms });
        let thread = receipt.thread.as_deref();
        if let Some(thread) = thread {
            data["thread_id"] = json!(thread);
        }
        let user = receipt.user_id.as_str();
        let receipt = json!({ "data": data, "event_ids": [receipt.event_id] });
        let content = json!({
            room.key.room_id.as_str(): { ReceiptType::Read.name(): { user: receipt } },
        });
        let key = format!("{user} {}", thread.unwrap_or_default());
        self.send_passing_edu(room, RECEIPT, &key, &content);
    }

    /// # Errors
    /// [`RoomError::InvalidParam`] if an event is not in a thread.
    async fn must_be_in_thread(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        thread: &str,
    ) -> Result<(), RoomError> {
        // The root of a thread is in it too.
        if event.pdu.event_id == thread {
            return Ok(());
        }
        let Threading { root, origin } = self.threading(room, event, &[]).await?;
        let is_in = match root {
            Some(root) => root == thread,
            None => thread == MAIN || origin == thread,
        };
        match is_in {
            true => Ok(()),
            false => Err(invalid("The event is not in this thread")),
        }
    }

    /// Follows an event's relations to its thread. Some events may be `new`, and not stored yet.
    pub(crate) async fn threading(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        new: &[Arc<Event>],
    ) -> Result<Threading, StorageError> {
        let mut event = event.clone();
        let mut root = None;
        for _ in 0..MOST_RELATIONS {
            let Some(relation) = relation_of(&event) else {
                break;
            };
            if relation.rel_type.as_deref() == Some("m.thread") {
                root = Some(relation.event_id);
                break;
            }
            let is_it = |new: &&Arc<Event>| new.pdu.event_id == relation.event_id;
            let other = match new.iter().find(is_it) {
                Some(new) => Some(new.clone()),
                None => room.event_by_id(self, &relation.event_id).await?,
            };
            let Some(other) = other else { break };
            event = other;
        }
        let origin = event.pdu.event_id.clone();
        Ok(Threading { root, origin })
    }
}

/// Where an event's relations lead.
pub(crate) struct Threading {
    /// The root of its thread; `None` if it is in none.
    pub(crate) root: Option<OwnedEventId>,
    /// The event that relates to nothing but a thread.
    origin: OwnedEventId,
}

#[derive(Deserialize)]
struct Relation {
    rel_type: Option<String>,
    event_id: OwnedEventId,
}

fn relation_of(event: &Event) -> Option<Relation> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relation: Relation,
    }
    let content: Content = serde_json::from_str(event.pdu.content.get()).ok()?;
    Some(content.relation)
}

/// What one of our users has read is not counted as unread any more.
async fn note_read(
    tx: &mut Tx,
    room: RoomNr,
    receipt: &Receipt,
    position: Option<StreamPosition>,
) -> Result<(), StorageError> {
    let is_read = matches!(
        receipt.receipt_type,
        ReceiptType::Read | ReceiptType::PrivateRead
    );
    match position.filter(|_| is_read) {
        Some(position) => {
            let (user, thread) = (&receipt.user_id, receipt.thread.as_deref());
            notifications::read_up_to(tx, room, user, thread, position).await
        }
        None => Ok(()),
    }
}

/// A receipt of another server's user, if it is one.
fn read_receipt(origin: &ServerName, user: String, receipt: &RawValue) -> Option<Receipt> {
    let user_id = OwnedUserId::try_from(user).ok()?;
    let receipt: ReceivedReceipt = serde_json::from_str(receipt.get()).ok()?;
    let thread = receipt.data.thread_id;
    let event_id = receipt.event_ids.into_iter().next()?;
    let is_thread = |thread: &String| !thread.is_empty() && thread.len() <= 255;
    // No database holds it as text.
    let is_text = |text: &str| !text.contains('\0');
    let is_good = user_id.server_name() == origin
        && thread.as_ref().is_none_or(is_thread)
        && thread.as_deref().is_none_or(is_text)
        && is_text(event_id.as_str())
        && i64::try_from(receipt.data.ts).is_ok();
    is_good.then_some(())?;
    Some(Receipt {
        receipt_type: ReceiptType::Read,
        user_id,
        thread,
        event_id,
        read_ms: receipt.data.ts,
    })
}

fn invalid(message: &str) -> RoomError {
    RoomError::InvalidParam(message.to_owned())
}
