//! What relates to the events of a page, as it is bundled with them (client-server API, "Aggregations of
//! child events").

use std::collections::{HashMap, HashSet};

use myelin_core::{
    number::{EventNr, RoomNr, StreamPosition},
    relation::{REFERENCE, REPLACEMENT, THREAD},
};
use ruma::{OwnedEventId, OwnedUserId};

use crate::{StorageError, Tx, event_id, relations::names};

/// How many references to one event are found. They are the last.
pub const MOST_REFERENCES: usize = 300;

statements! {
    /// To which of some events something relates that is bundled with them. Mostly to none.
    KINDS = "SELECT DISTINCT parent, rel_type FROM relations
        WHERE room = $1 AND parent IN blob_list($2) AND rel_type IN ('m.replace', 'm.thread', 'm.reference')";
    /// By author and type, the last edits of some events.
    EDITS = "SELECT parent, event FROM (
            SELECT r.parent, r.event, RANK() OVER (
                PARTITION BY r.parent, r.sender, r.event_type ORDER BY r.origin_server_ts DESC) AS place
            FROM relations r JOIN events e ON e.event = r.event
            WHERE r.room = $1 AND r.parent IN blob_list($2) AND r.rel_type = 'm.replace'
                AND e.verdict = 1 AND r.position <= $3) AS edits
        WHERE place = 1";
    /// The threads that some events began.
    THREADS_OF = "SELECT parent, event, replies, own FROM (
            SELECT r.parent, r.event, COUNT(*) OVER (PARTITION BY r.parent) AS replies,
                MAX(CASE WHEN r.sender = $4 THEN 1 ELSE 0 END) OVER (PARTITION BY r.parent) AS own,
                ROW_NUMBER() OVER (PARTITION BY r.parent ORDER BY r.depth DESC, r.position DESC) AS place
            FROM relations r JOIN events e ON e.event = r.event
            WHERE r.room = $1 AND r.parent IN blob_list($2) AND r.rel_type = 'm.thread'
                AND e.verdict = 1 AND r.position <= $3 AND r.sender NOT IN text_list($5)) AS threads
        WHERE place = 1";
    /// The last references to some events, in order.
    REFERENCES = "SELECT parent, event FROM (
            SELECT r.parent, r.event, r.depth, r.position,
                ROW_NUMBER() OVER (PARTITION BY r.parent ORDER BY r.depth DESC, r.position DESC) AS place
            FROM relations r JOIN events e ON e.event = r.event
            WHERE r.room = $1 AND r.parent IN blob_list($2) AND r.rel_type = 'm.reference'
                AND e.verdict = 1 AND r.position <= $3 AND r.sender NOT IN text_list($4)) AS latest
        WHERE place <= $5 ORDER BY depth, position";
}

/// The events of a page, and who reads it.
#[derive(Clone, Debug)]
pub struct Page {
    /// The room.
    pub room: RoomNr,
    /// The events.
    pub events: Vec<OwnedEventId>,
    /// Who reads.
    pub reader: OwnedUserId,
    /// Whose events don't count.
    pub ignored: Vec<OwnedUserId>,
    /// Events after this position don't count.
    pub upto: StreamPosition,
}

/// A thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadSummary {
    /// Its last event.
    pub latest: EventNr,
    /// How many events it has beside the one that it began with.
    pub count: u64,
    /// Whether one of them is the reader's.
    pub participated: bool,
}

/// What relates to events of a page, by those.
#[derive(Debug, Default)]
pub struct Aggregated {
    /// Candidates for the last edit: those by each author and of each type, several if they were made in the
    /// same millisecond.
    pub edits: HashMap<OwnedEventId, Vec<EventNr>>,
    /// Threads.
    pub threads: HashMap<OwnedEventId, ThreadSummary>,
    /// What refers to the events, in topological order.
    pub references: HashMap<OwnedEventId, Vec<EventNr>>,
}

/// Which kinds of bundled relations some events of a room have, by kind.
///
/// # Errors
/// Any [`StorageError`].
pub async fn kinds(
    tx: &mut Tx,
    room: RoomNr,
    events: &[OwnedEventId],
) -> Result<HashSet<String>, StorageError> {
    let rows = tx.query(KINDS, params![room, &stored(events)]).await?;
    rows.iter().map(|row| Ok(row.text(1)?.to_owned())).collect()
}

fn stored(events: &[OwnedEventId]) -> Vec<Vec<u8>> {
    events.iter().map(|id| event_id::to_stored(id)).collect()
}

/// What relates to the events of a page by some [`kinds`], with a query for each of these.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_page(
    tx: &mut Tx,
    page: &Page,
    kinds: &HashSet<String>,
) -> Result<Aggregated, StorageError> {
    let mut found = Aggregated::default();
    let events = stored(&page.events);
    let (room, upto) = (page.room, page.upto);
    let ignored = names(&page.ignored);
    if kinds.contains(REPLACEMENT) {
        for row in tx.query(EDITS, params![room, &events, upto]).await? {
            let parent = event_id::from_stored(row.blob(0)?)?;
            let edits = found.edits.entry(parent).or_default();
            edits.push(EventNr(row.int(1)?));
        }
    }
    if kinds.contains(THREAD) {
        let reader = page.reader.as_str();
        let values = params![room, &events, upto, reader, ignored.clone()];
        for row in tx.query(THREADS_OF, values).await? {
            let thread = ThreadSummary {
                latest: EventNr(row.int(1)?),
                count: row.int(2)?.unsigned_abs(),
                participated: row.int(3)? == 1,
            };
            let root = event_id::from_stored(row.blob(0)?)?;
            found.threads.insert(root, thread);
        }
    }
    if kinds.contains(REFERENCE) {
        let values = params![room, &events, upto, ignored, MOST_REFERENCES];
        for row in tx.query(REFERENCES, values).await? {
            let parent = event_id::from_stored(row.blob(0)?)?;
            let references = found.references.entry(parent).or_default();
            references.push(EventNr(row.int(1)?));
        }
    }
    Ok(found)
}
