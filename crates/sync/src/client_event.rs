//! The form in which clients get events (client-server API, "Room event format"): with `unsigned`, and
//! pruned if the event was redacted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use myelin_core::{
    event::Event,
    number::{EventNr, SnapshotNr},
    pdu::{Pdu, redact},
    state::{Membership, State},
};
use myelin_rooms::{Room, Rooms};
use myelin_storage::{StorageError, timelines};
use myelin_users::Requester;
use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    SyncError,
    access::Access,
    aggregations::{Bundle, Bundles, bundles},
    filter::{EventFields, EventFormat},
};

/// An event in a form that is ready to be sent.
pub type EventJson = Box<RawValue>;

/// An event that may be shown.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) event: Arc<Event>,
    /// The viewer's membership after the event, where that was looked up.
    pub(crate) membership: Option<Membership>,
    /// Whether no more of it is shown than a redaction would leave.
    pub(crate) pruned: bool,
}

impl From<Arc<Event>> for Seen {
    fn from(event: Arc<Event>) -> Self {
        Self {
            event,
            membership: None,
            pruned: false,
        }
    }
}

/// What an event looks like in the place where it is shown.
#[derive(Clone, Copy)]
pub(crate) struct Form<'a> {
    /// Who looks.
    pub(crate) viewer: &'a Requester,
    /// Whether the room isn't clear from where the event stands.
    pub(crate) room_id: bool,
    /// Whether state events say what they replaced.
    pub(crate) previous: bool,
    /// Which parts are wanted.
    pub(crate) fields: Option<&'a EventFields>,
    /// Whether it is the form that travels between servers.
    pub(crate) format: EventFormat,
    /// By what right the viewer reads what relates to the events, if that is bundled with them.
    pub(crate) bundled: Option<Access>,
}

impl<'a> Form<'a> {
    /// The form outside `/sync`.
    pub(crate) fn alone(viewer: &'a Requester) -> Self {
        Self {
            viewer,
            room_id: true,
            previous: true,
            fields: None,
            format: EventFormat::Client,
            bundled: None,
        }
    }

    /// The same with what relates to the events.
    pub(crate) fn bundled(self, access: Access) -> Self {
        Self {
            bundled: Some(access),
            ..self
        }
    }
}

#[derive(Serialize)]
struct ClientEvent<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: &'a str,
    unsigned: Unsigned<'a>,
}

/// What travels between servers, with what a client could not tell without them.
#[derive(Serialize)]
struct FederationEvent<'a> {
    #[serde(flatten)]
    pdu: BTreeMap<String, Box<RawValue>>,
    event_id: &'a EventId,
    unsigned: Unsigned<'a>,
}

#[derive(Default, Serialize)]
struct Unsigned<'a> {
    /// Milliseconds since the author made the event, by both servers' clocks.
    age: u64,
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    relations: Option<&'a Bundle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_sender: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
}

/// A few events of one room in the form for clients, in the same order. Costs a handful of reads,
/// however many there are.
pub(crate) async fn client_events(
    rooms: &Rooms,
    room: &Arc<Room>,
    events: &[Seen],
    form: Form<'_>,
) -> Result<Vec<EventJson>, SyncError> {
    let writer = Writer::prepare(rooms, room, events, form).await?;
    events.iter().map(|seen| writer.write(seen)).collect()
}

/// What an event says to clients: its content, pruned if it was redacted.
pub(crate) fn shown(room: &Room, event: &Event) -> Result<Arc<Pdu>, SyncError> {
    if event.redacted_by.is_none() {
        return Ok(event.pdu.clone());
    }
    Ok(Arc::new(redact(room.key.version, &event.pdu)?))
}

/// What the events of one page refer to.
struct Writer<'a> {
    room: &'a Room,
    form: Form<'a>,
    /// Redactions and replaced state events.
    related: HashMap<EventNr, Arc<Event>>,
    /// By state event, the one that it replaced.
    replaced: HashMap<EventNr, EventNr>,
    transactions: HashMap<OwnedEventId, String>,
    bundles: Bundles,
    now_ms: u64,
}

impl<'a> Writer<'a> {
    async fn prepare(
        rooms: &Rooms,
        room: &'a Arc<Room>,
        events: &[Seen],
        form: Form<'a>,
    ) -> Result<Self, SyncError> {
        let replaced = match form.previous {
            true => replaced_state(rooms, room, events).await?,
            false => HashMap::new(),
        };
        let redactions = events.iter().filter_map(|seen| seen.event.redacted_by);
        let wanted: Vec<EventNr> = redactions.chain(replaced.values().copied()).collect();
        let related = match wanted.is_empty() {
            true => HashMap::new(),
            false => room.events(rooms, wanted).await?,
        };
        let transactions = own_transactions(rooms, events, form.viewer).await?;
        let now_ms = rooms.env().clock.now_ms();
        Ok(Self {
            room,
            form,
            related,
            replaced,
            transactions,
            bundles: bundles(rooms, room, events, form).await?,
            now_ms,
        })
    }

    fn write(&self, seen: &Seen) -> Result<EventJson, SyncError> {
        let event = &seen.event;
        let pdu = match seen.pruned {
            true => Arc::new(redact(self.room.key.version, &event.pdu)?),
            false => shown(self.room, event)?,
        };
        let replaced = self
            .replaced
            .get(&event.nr)
            .and_then(|nr| self.related.get(nr));
        let previous = replaced
            .map(|replaced| shown(self.room, replaced))
            .transpose()?;
        let because = event.redacted_by.and_then(|nr| self.related.get(&nr));
        let because = because
            .map(|redaction| self.write_redaction(redaction))
            .transpose()?;
        let unsigned = Unsigned {
            membership: seen.membership.map(Membership::name),
            prev_content: previous.as_ref().map(|pdu| &*pdu.content),
            prev_sender: previous.as_ref().map(|pdu| &*pdu.sender),
            replaces_state: previous.as_ref().map(|pdu| &*pdu.event_id),
            redacted_because: because.as_deref(),
            relations: self.bundles.get(&event.nr),
            transaction_id: self.transactions.get(event.id()).map(String::as_str),
            ..Unsigned::default()
        };
        let json = self.write_with(&pdu, unsigned)?;
        match self.form.fields {
            None => Ok(json),
            Some(fields) => {
                let whole = serde_json::from_str(json.get()).map_err(unwritable)?;
                to_raw_value(&fields.of(&whole)).map_err(unwritable)
            }
        }
    }

    /// The redaction inside the redacted event. It may itself be redacted, but the story ends there.
    fn write_redaction(&self, redaction: &Event) -> Result<EventJson, SyncError> {
        self.write_with(&*shown(self.room, redaction)?, Unsigned::default())
    }

    fn write_with(&self, pdu: &Pdu, unsigned: Unsigned<'_>) -> Result<EventJson, SyncError> {
        let made_ms = u64::from(pdu.origin_server_ts.get());
        let unsigned = Unsigned {
            age: self.now_ms.saturating_sub(made_ms),
            ..unsigned
        };
        if self.form.format == EventFormat::Federation {
            return write_pdu(pdu, unsigned).map_err(unwritable);
        }
        let with_redacts = pdu
            .redacts
            .as_deref()
            .map(|redacts| content_with(pdu, redacts));
        let with_redacts = with_redacts.transpose().map_err(unwritable)?;
        let event = ClientEvent {
            content: with_redacts.as_deref().unwrap_or(&pdu.content),
            event_id: &pdu.event_id,
            origin_server_ts: made_ms,
            redacts: pdu.redacts.as_deref(),
            room_id: self.form.room_id.then_some(&*pdu.room_id),
            sender: &pdu.sender,
            state_key: pdu.state_key.as_deref(),
            event_type: &pdu.event_type.to_string(),
            unsigned,
        };
        to_raw_value(&event).map_err(unwritable)
    }
}

fn write_pdu(pdu: &Pdu, unsigned: Unsigned<'_>) -> Result<EventJson, serde_json::Error> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&pdu.json)?;
    // Some authors put one in.
    fields.remove("event_id");
    to_raw_value(&FederationEvent {
        pdu: fields,
        event_id: &pdu.event_id,
        unsigned,
    })
}

fn unwritable(error: serde_json::Error) -> SyncError {
    SyncError::Storage(StorageError::Corrupt(format!(
        "an event cannot be written: {error}"
    )))
}

/// The content of a redaction with `redacts`. Room versions differ in where they have it; clients find
/// it in both places (client-server API, "m.room.redaction").
fn content_with(pdu: &Pdu, redacts: &EventId) -> Result<EventJson, serde_json::Error> {
    let mut content: BTreeMap<String, Box<RawValue>> = serde_json::from_str(pdu.content.get())?;
    content.insert("redacts".to_owned(), to_raw_value(redacts)?);
    to_raw_value(&content)
}

/// By state event, the one that it replaced.
async fn replaced_state(
    rooms: &Rooms,
    room: &Arc<Room>,
    events: &[Seen],
) -> Result<HashMap<EventNr, EventNr>, SyncError> {
    let mut replaced = HashMap::new();
    let mut last: Option<(SnapshotNr, State)> = None;
    for seen in events {
        let event = &seen.event;
        let (Some(state_key), Some(before)) = (&event.pdu.state_key, event.before()) else {
            continue;
        };
        let nr = before.snapshot();
        let state = match last.take() {
            Some((at, state)) if at == nr => state,
            _ => room.state(rooms, nr).await?,
        };
        let old = state.get_named(&room.keys(), &event.pdu.event_type.to_string(), state_key);
        if let Some(old) = old
            .map(|entry| entry.event())
            .filter(|old| *old != event.nr)
        {
            replaced.insert(event.nr, old);
        }
        last = Some((nr, state));
    }
    Ok(replaced)
}

/// The transaction IDs with which the viewer's device made some of the events.
async fn own_transactions(
    rooms: &Rooms,
    events: &[Seen],
    viewer: &Requester,
) -> Result<HashMap<OwnedEventId, String>, SyncError> {
    let own = events
        .iter()
        .filter(|seen| seen.event.pdu.sender == viewer.user_id);
    let own: Vec<OwnedEventId> = own.map(|seen| seen.event.id().to_owned()).collect();
    if own.is_empty() {
        return Ok(HashMap::new());
    }
    let Requester {
        user_id, device_id, ..
    } = viewer.clone();
    let found = rooms
        .database()
        .look_up("transactions of events", move |tx| {
            Box::pin(async move {
                timelines::transaction_ids(tx, &user_id, device_id.as_str(), &own).await
            })
        })
        .await?;
    Ok(found.into_iter().collect())
}
