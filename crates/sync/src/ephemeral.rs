//! What goes along with a room's events in `/sync`: who types, who has read, and up to where the user
//! itself has.

use std::collections::BTreeMap;

use myelin_core::number::StreamPosition;
use myelin_storage::receipts::{self, Receipt, ReceiptType};
use ruma::{OwnedEventId, OwnedUserId};
use serde::Serialize;
use serde_json::{json, value::to_raw_value};

use crate::{EventJson, SyncError, room_section::SectionReader};

/// How many receipts of a room are shown at once. They are the newest.
const MOST_RECEIPTS: usize = 5_000;

/// The parts of other streams than that of events that an answer tells of, in rooms: after a position, up
/// to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside {
    pub(crate) typing: (StreamPosition, StreamPosition),
    pub(crate) receipts: (StreamPosition, StreamPosition),
    pub(crate) account_data: (StreamPosition, StreamPosition),
}

/// What there is in one room.
#[derive(Default)]
pub(crate) struct BesideEvents {
    pub(crate) ephemeral: Vec<EventJson>,
    pub(crate) account_data: Vec<EventJson>,
    /// Whether the user itself has read something. Then less is unread, also for those who do not want to
    /// see receipts.
    pub(crate) has_read: bool,
}

impl BesideEvents {
    pub(crate) fn is_empty(&self) -> bool {
        self.ephemeral.is_empty() && self.account_data.is_empty() && !self.has_read
    }
}

/// A receipt in an `m.receipt` event.
#[derive(Serialize)]
struct ShownReceipt {
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
}

/// By event, type and user.
type ShownReceipts =
    BTreeMap<OwnedEventId, BTreeMap<&'static str, BTreeMap<OwnedUserId, ShownReceipt>>>;

impl SectionReader<'_> {
    /// What is new beside the room's events, or all there is to somebody who doesn't know the room.
    pub(crate) async fn beside(&self, is_known: bool) -> Result<BesideEvents, SyncError> {
        let Beside {
            typing,
            receipts,
            account_data,
        } = self.span.beside;
        let after = |known: StreamPosition| match is_known {
            true => known,
            false => StreamPosition(0),
        };
        let mut events = BesideEvents::default();
        self.add_typing((after(typing.0), typing.1), is_known, &mut events);
        self.add_receipts((after(receipts.0), receipts.1), &mut events)
            .await?;
        let settings = self.room_settings((after(account_data.0), account_data.1));
        events.account_data.extend(settings.await?);
        Ok(events)
    }

    fn add_typing(
        &self,
        span: (StreamPosition, StreamPosition),
        is_known: bool,
        events: &mut BesideEvents,
    ) {
        let room_id = &self.room.key.room_id;
        if !self
            .request
            .filter
            .room
            .ephemeral
            .wants_type(room_id, "m.typing")
        {
            return;
        }
        let Some(users) = self.rooms.typing_between(room_id, span) else {
            return;
        };
        // That nobody types is news only to somebody who may think otherwise.
        if is_known || !users.is_empty() {
            let event = json!({ "type": "m.typing", "content": { "user_ids": users } });
            events.ephemeral.push(written(&event));
        }
    }

    async fn add_receipts(
        &self,
        span: (StreamPosition, StreamPosition),
        events: &mut BesideEvents,
    ) -> Result<(), SyncError> {
        if span.0 >= span.1 {
            return Ok(());
        }
        let (nr, viewer) = (self.room.key.room, self.user().to_owned());
        let found = self.rooms.database().look_up("receipts", move |tx| {
            Box::pin(async move { receipts::of_room(tx, nr, &viewer, span, MOST_RECEIPTS).await })
        });
        let (markers, mut receipts): (Vec<Receipt>, Vec<Receipt>) = found
            .await?
            .into_iter()
            .partition(|receipt| receipt.receipt_type == ReceiptType::FullyRead);
        let (filter, room_id) = (&self.request.filter.room, &self.room.key.room_id);
        if let Some(marker) = markers.first()
            && filter.account_data.wants_type(room_id, "m.fully_read")
        {
            let content = json!({ "event_id": marker.event_id });
            let event = json!({ "type": "m.fully_read", "content": content });
            events.account_data.push(written(&event));
        }
        let user = self.user();
        events.has_read = receipts.iter().any(|receipt| receipt.user_id == *user);
        if receipts.is_empty() || !filter.ephemeral.wants_type(room_id, "m.receipt") {
            return Ok(());
        }
        // A user may have read an event in a thread and in the whole room. The latter says more.
        receipts.sort_by_key(|receipt| receipt.thread.is_none());
        let mut content = ShownReceipts::new();
        for receipt in receipts {
            let of_event = content.entry(receipt.event_id).or_default();
            let of_type = of_event.entry(receipt.receipt_type.name()).or_default();
            let shown = ShownReceipt {
                ts: receipt.read_ms,
                thread_id: receipt.thread,
            };
            of_type.insert(receipt.user_id, shown);
        }
        let event = json!({ "type": "m.receipt", "content": content });
        events.ephemeral.push(written(&event));
        Ok(())
    }
}

pub(crate) fn written(event: &serde_json::Value) -> EventJson {
    to_raw_value(event).expect("JSON can be written")
}
