//! Taking a room out of the database.
//!
//! First the room is *detached*, in one transaction: its ID leads nowhere any more, so whatever asks for the room
//! finds none, and it can be joined anew under another number. What was stored under the old number is deleted
//! afterwards, piece by piece.

use myelin_core::number::RoomNr;
use ruma::RoomId;

use crate::{StorageError, Tx, events, receipts, rooms, search_index, snapshots, to_device};

/// Deletes up to `$2` rows of a room.
macro_rules! some_of {
    ($table:literal, $key:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE (",
            $key,
            ") IN (SELECT ",
            $key,
            " FROM ",
            $table,
            " WHERE room = $1 LIMIT $2)"
        )
    };
}

statements! {
    /// The room's ID is free.
    DELETE_ROOM = "DELETE FROM rooms WHERE room = $1";
    /// Aliases that lead to it.
    DELETE_ALIASES = "DELETE FROM room_aliases WHERE room_id = $1";
    /// What clients keep about it.
    DELETE_ACCOUNT_DATA = "DELETE FROM account_data WHERE room_id = $1";
    /// A part of that.
    SOME_ACCOUNT_DATA = "DELETE FROM account_data WHERE (user_id, room_id, data_type) IN (
        SELECT user_id, room_id, data_type FROM account_data WHERE room_id = $1 AND room_id <> '' LIMIT $2)";
    /// Reports about it.
    DELETE_REPORTS = "DELETE FROM reports WHERE room_id = $1";
    /// Joins into it.
    DELETE_JOINS = "DELETE FROM join_records WHERE room_id = $1";
    /// Rows by the room's number.
    STAGED_PDUS = some_of!("staged_pdus", "staged");
    /// See above.
    PARTIAL_ROOMS = some_of!("partial_rooms", "room");
    /// See above.
    PUBLISHED_ROOMS = some_of!("published_rooms", "room");
    /// See above.
    DIRECTORY_ROOMS = some_of!("directory_rooms", "room");
    /// See above.
    OUTBOX = some_of!("outbox", "position");
    /// See above.
    NOTIFICATIONS = some_of!("notifications", "room, user_id, thread, position");
    /// See above.
    READ_POSITIONS = some_of!("read_positions", "user_id, room, thread");
    /// See above.
    RECEIPTS = some_of!("receipts", "room, receipt_type, user_id, thread");
    /// See above.
    OUT_OF_BAND = some_of!("out_of_band_memberships", "room, user_id");
    /// See above.
    LOCAL_MEMBERSHIPS = some_of!("local_memberships", "user_id, room");
    /// See above.
    GUEST_DEPARTURES = some_of!("guest_departures", "room");
    /// See above.
    FORWARD_EXTREMITIES = some_of!("forward_extremities", "room, event");
    /// See above.
    BACKWARD_EXTREMITIES = some_of!("backward_extremities", "room, event");
    /// See above.
    ROOM_STATES = some_of!("room_states", "room, position");
    /// See above.
    STATE_KEYS = some_of!("state_keys", "room, key");
    /// Some states of a room.
    SNAPSHOTS = "SELECT snapshot FROM snapshots WHERE room = $1 LIMIT $2";
    /// Chunks of states.
    DELETE_CHUNKS = "DELETE FROM snapshot_chunks WHERE (snapshot, members, first_key) IN (
        SELECT snapshot, members, first_key FROM snapshot_chunks WHERE snapshot IN int_list($1) LIMIT $2)";
    /// States.
    DELETE_SNAPSHOTS = "DELETE FROM snapshots WHERE snapshot IN int_list($1)";
    /// Some events of a room's timeline.
    PLACED = "SELECT event, position FROM events WHERE room = $1 AND position IS NOT NULL LIMIT $2";
    /// Some other events of a room.
    UNPLACED = "SELECT event, position FROM events WHERE room = $1 AND position IS NULL LIMIT $2";
    /// Failures to fetch events.
    DELETE_FAILURES = "DELETE FROM pull_failures WHERE event_id IN (
        SELECT event_id FROM events WHERE event IN int_list($1))";
    /// What relates to others.
    DELETE_RELATIONS = "DELETE FROM relations WHERE event IN int_list($1)";
    /// Redactions that wait for their event.
    DELETE_REDACTIONS = "DELETE FROM pending_redactions WHERE redaction IN int_list($1)";
    /// What events cite. Each cites few; how many cite one is not bounded.
    DELETE_AUTH_EDGES = "DELETE FROM auth_edges WHERE event IN int_list($1)";
    /// Who is whose parent.
    DELETE_PREV_EDGES = "DELETE FROM prev_edges WHERE prev IN int_list($1)";
    /// The events.
    DELETE_EVENTS = "DELETE FROM events WHERE event IN int_list($1)";
}

/// So many rows are deleted in one transaction,
const ROWS_AT_ONCE: usize = 1_000;

/// or so many events, which have entries in many indexes.
const EVENTS_AT_ONCE: usize = 200;

/// or so many states, whose rows may be large.
const STATES_AT_ONCE: usize = 100;

/// Tables of which rows are deleted by the room's number, and by nothing else.
const BY_ROOM: [&str; 15] = [
    STAGED_PDUS,
    PARTIAL_ROOMS,
    PUBLISHED_ROOMS,
    DIRECTORY_ROOMS,
    OUTBOX,
    NOTIFICATIONS,
    READ_POSITIONS,
    RECEIPTS,
    OUT_OF_BAND,
    LOCAL_MEMBERSHIPS,
    GUEST_DEPARTURES,
    FORWARD_EXTREMITIES,
    BACKWARD_EXTREMITIES,
    ROOM_STATES,
    STATE_KEYS,
];

/// Deletes some of what would be too much for one transaction when the room is detached. False if there was
/// nothing.
///
/// # Errors
/// Any [`StorageError`].
pub async fn prepare_some(tx: &mut Tx, room_id: &RoomId) -> Result<bool, StorageError> {
    to_device::note_deleted(tx).await?;
    let values = params![room_id.as_str(), ROWS_AT_ONCE];
    Ok(tx.execute(SOME_ACCOUNT_DATA, values).await? > 0)
}

/// Makes a room unknown, with everything that is kept by its ID. What was given out of numbers and positions is not
/// given out again.
///
/// # Errors
/// Any [`StorageError`].
pub async fn detach(tx: &mut Tx, room: RoomNr, room_id: &RoomId) -> Result<(), StorageError> {
    events::keep_numbers(tx).await?;
    rooms::keep_numbers(tx).await?;
    snapshots::keep_number(tx).await?;
    receipts::keep_position(tx).await?;
    to_device::note_deleted(tx).await?;
    tx.execute(DELETE_ROOM, params![room]).await?;
    for statement in [
        DELETE_ALIASES,
        DELETE_ACCOUNT_DATA,
        DELETE_REPORTS,
        DELETE_JOINS,
    ] {
        tx.execute(statement, params![room_id.as_str()]).await?;
    }
    Ok(())
}

/// Deletes some of what was stored under the number of a room that is detached. False if there was nothing.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete_some(tx: &mut Tx, room: RoomNr) -> Result<bool, StorageError> {
    for statement in BY_ROOM {
        if tx.execute(statement, params![room, ROWS_AT_ONCE]).await? > 0 {
            return Ok(true);
        }
    }
    Ok(delete_events(tx, room).await? || delete_states(tx, room).await?)
}

async fn delete_events(tx: &mut Tx, room: RoomNr) -> Result<bool, StorageError> {
    let mut rows = tx.query(PLACED, params![room, EVENTS_AT_ONCE]).await?;
    if rows.is_empty() {
        rows = tx.query(UNPLACED, params![room, EVENTS_AT_ONCE]).await?;
    }
    if rows.is_empty() {
        return Ok(false);
    }
    let mut events = Vec::new();
    let mut positions = Vec::new();
    for row in &rows {
        events.push(row.int(0)?);
        positions.extend(row.opt_int(1)?);
    }
    search_index::delete_at(tx, &positions).await?;
    for statement in [
        DELETE_FAILURES,
        DELETE_RELATIONS,
        DELETE_REDACTIONS,
        DELETE_AUTH_EDGES,
        DELETE_PREV_EDGES,
        DELETE_EVENTS,
    ] {
        tx.execute(statement, params![&events]).await?;
    }
    Ok(true)
}

async fn delete_states(tx: &mut Tx, room: RoomNr) -> Result<bool, StorageError> {
    let rows = tx.query(SNAPSHOTS, params![room, STATES_AT_ONCE]).await?;
    if rows.is_empty() {
        return Ok(false);
    }
    let states: Vec<i64> = rows
        .iter()
        .map(|row| row.int(0))
        .collect::<Result<_, _>>()?;
    let values = params![&states, STATES_AT_ONCE];
    // Whoever has all chunks of some states deleted may go on to the states.
    if tx.execute(DELETE_CHUNKS, values).await? < STATES_AT_ONCE as u64 {
        tx.execute(DELETE_SNAPSHOTS, params![&states]).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use myelin_core::number::RoomNr;
    use ruma::room_id;

    use super::{delete_some, detach, prepare_some};
    use crate::{
        DatabaseUrl, Param, Priority, StorageError, Tx, events,
        testing::{Fresh, on_each_engine},
    };

    const COLUMNS_OF_SQLITE: &str =
        "SELECT m.name, p.name, p.type FROM sqlite_master m, pragma_table_info(m.name) p
        WHERE m.type = 'table' ORDER BY m.name, p.cid";
    const COLUMNS_OF_POSTGRES: &str = "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), CAST(data_type AS TEXT)
        FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1, ordinal_position";

    /// What belongs to a room and does not say so.
    const UNNAMED: [&str; 7] = [
        "prev_edges",
        "auth_edges",
        "pending_redactions",
        "snapshot_chunks",
        "search_events",
        "search_backlog",
        "pull_failures",
    ];

    /// What is kept of a room that is deleted: that it was, and its history, and that nobody shall join it again.
    const KEPT: [&str; 3] = ["room_deletions", "history_purges", "blocked_rooms"];

    /// The columns of every table in which a room has rows, with their types.
    async fn tables(tx: &mut Tx, columns: &str) -> BTreeMap<String, Vec<(String, String)>> {
        let mut tables: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for row in tx.query(columns, params![]).await.unwrap() {
            let text = |at| row.text(at).unwrap().to_owned();
            tables
                .entry(text(0))
                .or_default()
                .push((text(1), text(2).to_lowercase()));
        }
        let is_of_room = |(name, _): &(String, String)| name == "room" || name == "room_id";
        tables
            .retain(|name, columns| UNNAMED.contains(&&name[..]) || columns.iter().any(is_of_room));
        tables
    }

    /// Puts a row of a room into a table. The same column has the same value everywhere.
    async fn fill(tx: &mut Tx, table: &str, columns: &[(String, String)], room: i64) {
        let (room_id, text, blob) = (
            format!("!{room}:example.org"),
            format!("@{room}:example.org"),
            room.to_be_bytes(),
        );
        let value = |(name, kind): &(String, String)| match (&name[..], &kind[..]) {
            ("room", _) => Param::Int(room),
            ("room_id", _) => Param::from(&room_id[..]),
            (_, kind) if kind.contains("int") => Param::Int(room * 10),
            (_, kind) if kind.contains("bool") => Param::Bool(false),
            (_, kind) if kind.contains("text") => Param::from(&text[..]),
            _ => Param::from(&blob),
        };
        let values: Vec<Param<'_>> = columns.iter().map(value).collect();
        let names: Vec<&str> = columns.iter().map(|(name, _)| &name[..]).collect();
        let places: Vec<String> = (1..=names.len()).map(|at| format!("${at}")).collect();
        let (names, places) = (names.join(", "), places.join(", "));
        let insert = format!("INSERT INTO {table} ({names}) VALUES ({places})");
        tx.execute(&insert, &values).await.unwrap();
    }

    async fn count(tx: &mut Tx, table: &str) -> i64 {
        let count = format!("SELECT COUNT(*) FROM {table}");
        tx.query(&count, params![]).await.unwrap()[0]
            .int(0)
            .unwrap()
    }

    #[tokio::test]
    async fn of_a_purged_room_no_table_keeps_a_row_and_of_others_all() {
        on_each_engine(async |fresh: Fresh| {
            let columns = match fresh.url {
                DatabaseUrl::Sqlite { .. } => COLUMNS_OF_SQLITE,
                DatabaseUrl::Postgres(_) => COLUMNS_OF_POSTGRES,
            };
            let room_id = room_id!("!1:example.org");
            fresh
                .database
                .write("purge", Priority::Bulk, move |tx| {
                    Box::pin(async move {
                        let tables = tables(tx, columns).await;
                        assert!(tables.len() > 25, "{tables:?}");
                        for room in [1, 2] {
                            for (table, columns) in &tables {
                                fill(tx, table, columns, room).await;
                            }
                            let words = "INSERT INTO search_words (rowid, words) VALUES ($1, $2)";
                            tx.execute(words, params![room * 10, "tea"]).await?;
                        }
                        while prepare_some(tx, room_id).await? {}
                        detach(tx, RoomNr(1), room_id).await?;
                        while delete_some(tx, RoomNr(1)).await? {}
                        for table in tables.keys() {
                            let left = if KEPT.contains(&&table[..]) { 2 } else { 1 };
                            assert_eq!(count(tx, table).await, left, "{table}");
                        }
                        let words = "SELECT rowid FROM search_words
                            WHERE words_match(search_words, $1) AND rowid IN int_list($2)";
                        let found = tx.query(words, params!["'tea'", vec![10, 20]]).await?;
                        assert_eq!((found.len(), found[0].int(0)?), (1, 20));
                        Ok::<_, StorageError>(())
                    })
                })
                .await
                .unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn numbers_and_positions_of_a_purged_room_are_not_given_out_again() {
        on_each_engine(async |fresh: Fresh| {
            let room_id = room_id!("!9:example.org");
            fresh
                .database
                .write("purge", Priority::Bulk, move |tx| {
                    Box::pin(async move {
                        for (table, columns) in [
                            (
                                "rooms",
                                "room, room_id, version, revision, partial, min_depth",
                            ),
                            (
                                "events",
                                "event, event_id, room, verdict, depth, partial, position",
                            ),
                            ("snapshots", "snapshot, room, hash, partial, depth"),
                            (
                                "receipts",
                                "room, receipt_type, user_id, thread, event_id, read_ms, position",
                            ),
                            ("room_states", "room, position, snapshot, partial"),
                            (
                                "account_data",
                                "user_id, room_id, data_type, content, position",
                            ),
                        ] {
                            let kind = |name: &str| match name {
                                "partial" => "bool",
                                "version" | "receipt_type" | "user_id" | "thread" | "data_type" => {
                                    "text"
                                }
                                "event_id" if table == "receipts" => "text",
                                "event_id" | "hash" | "content" => "blob",
                                _ => "int",
                            };
                            let columns: Vec<_> = columns
                                .split(", ")
                                .map(|name| (name.to_owned(), kind(name).to_owned()))
                                .collect();
                            fill(tx, table, &columns, 9).await;
                        }
                        let given_out = numbers(tx).await?;
                        assert_eq!(given_out, [90, 90, 9, 90, 90, 90, 90]);
                        while prepare_some(tx, room_id).await? {}
                        detach(tx, RoomNr(9), room_id).await?;
                        while delete_some(tx, RoomNr(9)).await? {}
                        assert_eq!(numbers(tx).await?, given_out);
                        Ok::<_, StorageError>(())
                    })
                })
                .await
                .unwrap();
        })
        .await;
    }

    async fn numbers(tx: &mut Tx) -> Result<[i64; 7], StorageError> {
        let last = events::last_numbers(tx).await?;
        Ok([
            last.event,
            last.position,
            crate::rooms::last_number(tx).await?,
            crate::snapshots::last_number(tx).await?,
            crate::rooms::last_state_position(tx).await?,
            crate::receipts::last_position(tx).await?.0,
            crate::to_device::last_position(tx).await?.0,
        ])
    }
}
