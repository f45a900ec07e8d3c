//! Which events are found by which words: the index that a worker fills from the stream of events, and what is
//! found in it.
//!
//! Words come apart in `core`. Beside them an event has two marks that no text has, one for the part of it that
//! is searched and one for its room, so that a search of few rooms does not go through what others say.

use std::collections::HashSet;

use myelin_core::{
    number::{EventNr, RoomNr, StreamPosition},
    search::{Indexed, SearchKey, Terms, words},
};

use crate::{Param, Row, StorageError, Tx, event_id, events, rooms};

statements! {
    /// Events that came after a position.
    UNSEEN = "SELECT event, room, position, redacted_by, json FROM events
        WHERE position > $1 AND position > 0 AND position <= $2 ORDER BY position LIMIT $3";
    /// Events from the past that were not looked at.
    UNSEEN_PAST = "SELECT e.event, e.room, e.position, e.redacted_by, e.json FROM search_backlog b
        JOIN events e ON e.position = b.position AND e.position < 0
        ORDER BY b.position DESC LIMIT $1";
    /// An event from the past waits to be looked at.
    PUT_PAST = "INSERT INTO search_backlog (position) VALUES ($1) ON CONFLICT DO NOTHING";
    /// Events from the past that were looked at.
    DELETE_PAST = "DELETE FROM search_backlog WHERE position IN int_list($1)";
    /// Events that are found, unless they were redacted meanwhile.
    PUT_EVENTS = "INSERT INTO search_events (position, event)
        SELECT position, event FROM events WHERE event IN int_list($1) AND redacted_by IS NULL
        ON CONFLICT DO NOTHING RETURNING position";
    /// Its words.
    PUT_WORDS = "INSERT INTO search_words (rowid, words) VALUES ($1, $2)";
    /// Where an event stands that was redacted.
    REDACTED_AT = "SELECT s.position FROM events e JOIN search_events s ON s.position = e.position
        WHERE e.event_id = $1 AND e.room = $2 AND e.redacted_by IS NOT NULL";
    /// An event that is not found any more.
    DELETE_EVENT = "DELETE FROM search_events WHERE position = $1";
    /// Its words.
    DELETE_WORDS = "DELETE FROM search_words WHERE rowid = $1";
    /// Those of some positions at which there is something to be found.
    FOUND_AT = "SELECT position FROM search_events WHERE position IN int_list($1)";
    /// The newest events before a position in some rooms that are found.
    FIND = "SELECT s.event, e.room, s.position
        FROM search_words CROSS JOIN search_events s CROSS JOIN events e
        WHERE words_match(search_words, $1) AND search_words.rowid < $2
            AND s.position = search_words.rowid AND e.event = s.event
            AND e.room IN int_list($3) AND e.verdict = 1 AND e.redacted_by IS NULL
        ORDER BY search_words.rowid DESC LIMIT $4";
}

/// The setting that says up to where the stream was looked at.
const CURSOR: &str = "search_cursor";

/// How many rooms are asked for by their marks. Of more, all that is found is looked at.
const MAX_ROOM_MARKS: usize = 200;

/// An event that was not looked at yet.
#[derive(Clone, Debug)]
pub struct Unseen {
    event: EventNr,
    room: RoomNr,
    position: StreamPosition,
    is_redacted: bool,
    /// What there is to note.
    indexed: Option<Indexed>,
}

/// Events that were not looked at yet, and what it means that they are.
#[derive(Clone, Debug)]
pub struct UnseenPage {
    events: Vec<Unseen>,
    /// Everything up to here was looked at then; of the past if absent.
    upto: Option<StreamPosition>,
}

impl UnseenPage {
    /// Up to where the stream has been looked at when this page is; absent for a page of the past.
    pub fn upto(&self) -> Option<StreamPosition> {
        self.upto
    }
}

/// The next events after the cursor, up to a position, or of the past; `None` if all were looked at.
///
/// # Errors
/// Any [`StorageError`].
pub async fn unseen(
    tx: &mut Tx,
    upto: StreamPosition,
    limit: usize,
) -> Result<Option<UnseenPage>, StorageError> {
    let past = tx.query(UNSEEN_PAST, params![limit]).await?;
    if !past.is_empty() {
        let events = past.iter().map(read).collect::<Result<_, _>>()?;
        return Ok(Some(UnseenPage { events, upto: None }));
    }
    let cursor = rooms::cursor(tx, CURSOR).await?;
    if cursor >= upto {
        return Ok(None);
    }
    let rows = tx.query(UNSEEN, params![cursor, upto, limit]).await?;
    let events: Vec<Unseen> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let last = events.last().filter(|_| events.len() == limit);
    let upto = last.map_or(upto, |last| last.position);
    Ok(Some(UnseenPage {
        events,
        upto: Some(upto),
    }))
}

fn read(row: &Row) -> Result<Unseen, StorageError> {
    // What cannot be read says nothing; it must not keep all that comes after it from being found.
    let json = row
        .opt_blob(4)?
        .and_then(|stored| events::read_json(stored).ok());
    Ok(Unseen {
        event: EventNr(row.int(0)?),
        room: RoomNr(row.int(1)?),
        position: StreamPosition(row.int(2)?),
        is_redacted: row.opt_int(3)?.is_some(),
        indexed: json.and_then(Indexed::of),
    })
}

/// Notes the words of events, and that they were looked at. There is one caller at a time.
///
/// A redaction takes out what it redacted when it is looked at itself: that comes after the event was, even if the
/// two were written at the same moment. Until then the event is passed over when it is found.
///
/// # Errors
/// Any [`StorageError`].
pub async fn note(tx: &mut Tx, page: &UnseenPage) -> Result<(), StorageError> {
    put(tx, &page.events).await?;
    for unseen in &page.events {
        if let Some(Indexed::Redaction(redacts)) = &unseen.indexed {
            take_out(tx, unseen.room, redacts).await?;
        }
    }
    if let Some(upto) = page.upto {
        return rooms::set_cursor(tx, CURSOR, upto).await;
    }
    let positions: Vec<i64> = page.events.iter().map(|event| event.position.0).collect();
    tx.run(DELETE_PAST, params![positions]).await
}

async fn put(tx: &mut Tx, events: &[Unseen]) -> Result<(), StorageError> {
    let said: Vec<(&Unseen, Vec<String>)> = events
        .iter()
        .filter(|unseen| !unseen.is_redacted)
        .filter_map(|unseen| Some((unseen, marked_words(unseen)?)))
        .collect();
    let numbers: Param<'_> = said.iter().map(|(unseen, _)| unseen.event.0).collect();
    let put = tx.query(PUT_EVENTS, params![numbers]).await?;
    let put: HashSet<i64> = put.iter().map(|row| row.int(0)).collect::<Result<_, _>>()?;
    for (unseen, words) in said {
        if put.contains(&unseen.position.0) {
            tx.run(PUT_WORDS, params![unseen.position, &words.join(" ")])
                .await?;
        }
    }
    Ok(())
}

/// By what an event is found, if by anything.
fn marked_words(unseen: &Unseen) -> Option<Vec<String>> {
    let Some(Indexed::Text(key, text)) = &unseen.indexed else {
        return None;
    };
    let mut words = Some(words(text)).filter(|words| !words.is_empty())?;
    words.push(key_mark(*key).to_owned());
    words.push(room_mark(unseen.room));
    Some(words)
}

async fn take_out(tx: &mut Tx, room: RoomNr, redacts: &str) -> Result<(), StorageError> {
    let Ok(redacts) = ruma::OwnedEventId::try_from(redacts) else {
        return Ok(());
    };
    let id = event_id::to_stored(&redacts);
    let Some(row) = tx.query_opt(REDACTED_AT, params![&id[..], room]).await? else {
        return Ok(());
    };
    let position = row.int(0)?;
    tx.run(DELETE_EVENT, params![position]).await?;
    tx.run(DELETE_WORDS, params![position]).await
}

/// Notes that an event came from the past.
pub(crate) async fn put_past(tx: &mut Tx, position: StreamPosition) -> Result<(), StorageError> {
    tx.run(PUT_PAST, params![position]).await
}

/// Takes out what stands at some positions, before the events are deleted.
pub(crate) async fn delete_at(tx: &mut Tx, positions: &Vec<i64>) -> Result<(), StorageError> {
    for found in tx.query(FOUND_AT, params![positions]).await? {
        let position = found.int(0)?;
        tx.execute(DELETE_EVENT, params![position]).await?;
        tx.execute(DELETE_WORDS, params![position]).await?;
    }
    tx.execute(DELETE_PAST, params![positions]).await.map(drop)
}

fn key_mark(key: SearchKey) -> &'static str {
    match key {
        SearchKey::Body => "!b",
        SearchKey::Name => "!n",
        SearchKey::Topic => "!t",
    }
}

fn room_mark(room: RoomNr) -> String {
    format!("!{room}")
}

/// An event that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The event.
    pub event: EventNr,
    /// Its room.
    pub room: RoomNr,
    /// Where it stands: those from the past stand before the others.
    pub position: StreamPosition,
}

/// What is looked for, and where.
#[derive(Clone, Debug)]
pub struct Search {
    /// The words; there is at least one.
    pub terms: Terms,
    /// In which parts of events.
    pub keys: Vec<SearchKey>,
    /// In which rooms.
    pub rooms: Vec<RoomNr>,
}

impl Search {
    /// A query in PostgreSQL's form. Words have no characters that mean something in it.
    fn query(&self) -> String {
        let mut parts = vec![terms_query(&self.terms)];
        if self.keys.len() < SearchKey::ALL.len() {
            parts.push(any(self.keys.iter().map(|key| key_mark(*key).to_owned())));
        }
        if self.rooms.len() <= MAX_ROOM_MARKS {
            parts.push(any(self.rooms.iter().map(|room| room_mark(*room))));
        }
        parts.join(" & ")
    }
}

/// All of some words, as a query.
pub(crate) fn terms_query(terms: &Terms) -> String {
    let terms = terms.as_slice().iter().map(|term| {
        let end = if term.is_prefix { ":*" } else { "" };
        format!("'{}'{end}", term.word)
    });
    terms.collect::<Vec<_>>().join(" & ")
}

fn any(marks: impl Iterator<Item = String>) -> String {
    let marks: Vec<String> = marks.map(|mark| format!("'{mark}'")).collect();
    format!("( {} )", marks.join(" | "))
}

/// The newest accepted events before a position that are found, newest first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn find(
    tx: &mut Tx,
    search: &Search,
    before: StreamPosition,
    limit: usize,
) -> Result<Vec<Found>, StorageError> {
    if search.terms.is_empty() || search.keys.is_empty() || search.rooms.is_empty() {
        return Ok(Vec::new());
    }
    let rooms: Vec<i64> = search.rooms.iter().map(|room| room.0).collect();
    let rows = tx
        .query(FIND, params![&search.query(), before, rooms, limit])
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Found {
                event: EventNr(row.int(0)?),
                room: RoomNr(row.int(1)?),
                position: StreamPosition(row.int(2)?),
            })
        })
        .collect()
}
