//! What relates to the events of a page, bundled with them (client-server API, "Aggregations of child
//! events").

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use myelin_core::{
    number::{EventNr, StreamPosition},
    pdu::Pdu,
    relation::{is_replacement, may_begin_thread},
};
use myelin_rooms::{Room, Rooms};
use myelin_storage::aggregations::{self, Aggregated, Page};
use ruma::{OwnedEventId, OwnedUserId};
use serde::Serialize;

use crate::{
    EventJson, SyncError,
    access::Access,
    client_event::{Form, Seen, client_events},
    ignored_users::read_ignored,
    visibility::visible,
};

/// What is bundled with an event. There is none without content.
#[derive(Default, Serialize)]
pub(crate) struct Bundle {
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    references: Option<References>,
    /// The last edit.
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    replacement: Option<EventJson>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<Thread>,
}

#[derive(Serialize)]
struct References {
    chunk: Vec<Reference>,
}

#[derive(Serialize)]
struct Reference {
    event_id: OwnedEventId,
}

#[derive(Serialize)]
struct Thread {
    latest_event: EventJson,
    count: u64,
    current_user_participated: bool,
}

/// What is bundled with events, by these.
pub(crate) type Bundles = HashMap<EventNr, Bundle>;

/// What is to be bundled with some events of one room in a form. Mostly there is nothing, and that costs one
/// read; otherwise a few, however many events there are.
///
/// An event in a thread cannot begin one, and an edit not be edited: it ends after two steps.
pub(crate) fn bundles<'a>(
    rooms: &'a Rooms,
    room: &'a Arc<Room>,
    events: &'a [Seen],
    form: Form<'a>,
) -> BoxFuture<'a, Result<Bundles, SyncError>> {
    Box::pin(async move {
        // State has no bundles.
        let parents = events.iter().map(|seen| &*seen.event);
        let parents: Vec<_> = parents.filter(|of| of.pdu.state_key.is_none()).collect();
        let (Some(access), false) = (form.bundled, parents.is_empty()) else {
            return Ok(Bundles::default());
        };
        let ids = parents
            .iter()
            .map(|parent| parent.id().to_owned())
            .collect();
        let user = form.viewer.user_id.clone();
        let Some(found) = read(rooms, room, (user, access), ids).await? else {
            return Ok(Bundles::default());
        };
        let bundler = Bundler::prepare(rooms, room, (access, form), found).await?;
        let edits = parents.iter().filter(|parent| parent.redacted_by.is_none());
        let edits = edits.filter_map(|parent| Some((parent.nr, bundler.last_edit(&parent.pdu)?)));
        let threads = parents.iter().filter_map(|parent| {
            let may = parent.redacted_by.is_some() || may_begin_thread(&parent.pdu);
            Some((
                parent.nr,
                bundler.last_in_thread(&parent.pdu).filter(|_| may)?,
            ))
        });
        let (edits, threads) = (edits.collect(), threads.collect());
        let mut edits = bundler.write(edits, None).await?;
        let mut threads = bundler.write(threads, Some(access)).await?;
        let mut bundles = Bundles::new();
        for parent in parents {
            let bundle = Bundle {
                references: bundler.references(&parent.pdu),
                replacement: edits.remove(&parent.nr),
                thread: threads
                    .remove(&parent.nr)
                    .and_then(|latest| bundler.thread(&parent.pdu, latest)),
            };
            if !bundle.is_empty() {
                bundles.insert(parent.nr, bundle);
            }
        }
        Ok(bundles)
    })
}

impl Bundle {
    fn is_empty(&self) -> bool {
        self.references.is_none() && self.replacement.is_none() && self.thread.is_none()
    }
}

/// What relates to some events, if anything does.
async fn read(
    rooms: &Rooms,
    room: &Arc<Room>,
    (reader, access): (OwnedUserId, Access),
    events: Vec<OwnedEventId>,
) -> Result<Option<Aggregated>, SyncError> {
    let nr = room.key.room;
    let upto = access.upto(StreamPosition(i64::MAX));
    let found = rooms.database().read("aggregations", move |tx| {
        Box::pin(async move {
            let kinds = aggregations::kinds(tx, nr, &events).await?;
            if kinds.is_empty() {
                return Ok(None);
            }
            let page = Page {
                room: nr,
                events,
                ignored: read_ignored(tx, &reader).await?,
                reader,
                upto,
            };
            aggregations::of_page(tx, &page, &kinds).await.map(Some)
        })
    });
    Ok(found.await?)
}

/// What was found, and the events that it names, as far as the viewer may see them.
struct Bundler<'a> {
    rooms: &'a Rooms,
    room: &'a Arc<Room>,
    form: Form<'a>,
    found: Aggregated,
    seen: HashMap<EventNr, Seen>,
}

impl<'a> Bundler<'a> {
    async fn prepare(
        rooms: &'a Rooms,
        room: &'a Arc<Room>,
        (access, form): (Access, Form<'a>),
        found: Aggregated,
    ) -> Result<Self, SyncError> {
        let named = found.edits.values().chain(found.references.values());
        let named = named.flatten().copied();
        let latest = found.threads.values().map(|thread| thread.latest);
        let named: HashSet<EventNr> = named.chain(latest).collect();
        let events = room.events(rooms, named).await?.into_values().collect();
        let user = &form.viewer.user_id;
        let seen = visible(rooms, room, user, access, events).await?;
        Ok(Self {
            rooms,
            room,
            form,
            found,
            seen: seen.into_iter().map(|seen| (seen.event.nr, seen)).collect(),
        })
    }

    /// The last valid edit of an event. Of those of the same millisecond it is the one with the greatest ID.
    fn last_edit(&self, parent: &Pdu) -> Option<Seen> {
        let candidates = self.found.edits.get(&parent.event_id)?.iter();
        candidates
            .filter_map(|nr| self.seen.get(nr))
            .filter(|seen| is_replacement(parent, &seen.event.pdu))
            .max_by_key(|seen| (seen.event.pdu.origin_server_ts, seen.event.id()))
            .cloned()
    }

    fn last_in_thread(&self, root: &Pdu) -> Option<Seen> {
        let thread = self.found.threads.get(&root.event_id)?;
        self.seen.get(&thread.latest).cloned()
    }

    fn thread(&self, root: &Pdu, latest_event: EventJson) -> Option<Thread> {
        let thread = self.found.threads.get(&root.event_id)?;
        Some(Thread {
            latest_event,
            count: thread.count,
            current_user_participated: thread.participated
                || root.sender == self.form.viewer.user_id,
        })
    }

    fn references(&self, parent: &Pdu) -> Option<References> {
        let references = self.found.references.get(&parent.event_id)?.iter();
        let seen = references.filter_map(|nr| self.seen.get(nr));
        let chunk: Vec<Reference> = seen
            .map(|seen| Reference {
                event_id: seen.event.id().to_owned(),
            })
            .collect();
        (!chunk.is_empty()).then_some(References { chunk })
    }

    /// Writes events that are bundled with others, by those others.
    async fn write(
        &self,
        events: Vec<(EventNr, Seen)>,
        bundled: Option<Access>,
    ) -> Result<HashMap<EventNr, EventJson>, SyncError> {
        if events.is_empty() {
            return Ok(HashMap::new());
        }
        // What of them is wanted is decided with the whole.
        let form = Form {
            fields: None,
            bundled,
            ..self.form
        };
        let (parents, events): (Vec<EventNr>, Vec<Seen>) = events.into_iter().unzip();
        let written = client_events(self.rooms, self.room, &events, form).await?;
        Ok(parents.into_iter().zip(written).collect())
    }
}
