//! Stored states: chains of deltas over chunked bases. What the bytes mean is `core`'s business.

use myelin_core::{
    number::{KeyNr, RoomNr, SnapshotNr},
    state::StateHash,
};

use crate::{StorageError, Tx, rooms};

statements! {
    /// One link of a chain.
    SNAPSHOT = "SELECT base, depth, delta, partial FROM snapshots WHERE snapshot = $1";
    /// A stored state with this identity.
    SNAPSHOT_BY_HASH = "SELECT snapshot FROM snapshots WHERE room = $1 AND hash = $2 AND partial = $3";
    /// One more link.
    PUT_SNAPSHOT = "INSERT INTO snapshots (snapshot, room, hash, partial, base, depth, delta)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
    /// The chunks of a base.
    CHUNKS = "SELECT members, first_key, entries FROM snapshot_chunks WHERE snapshot = $1
        ORDER BY members, first_key";
    /// One chunk.
    PUT_CHUNK = "INSERT INTO snapshot_chunks (snapshot, members, first_key, entries)
        VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    /// The highest number.
    LAST_SNAPSHOT = "SELECT COALESCE(MAX(snapshot), 0) FROM snapshots";
}

/// The setting for the highest number of states that may be gone.
const KEPT_NUMBER: &str = "last_snapshot";

/// One link of a chain of stored states.
#[derive(Clone, Debug)]
pub struct Link {
    /// The snapshot that `delta` starts from; `None` for one in chunks.
    pub base: Option<SnapshotNr>,
    /// Its place in the chain.
    pub depth: u64,
    /// The encoded changes; `None` for one in chunks.
    pub delta: Option<Vec<u8>>,
    /// Whether it was stored for a partial state.
    pub partial: bool,
}

/// A part of a base.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Whether it holds memberships.
    pub members: bool,
    /// The lowest key in it.
    pub first_key: KeyNr,
    /// The encoded entries.
    pub entries: Vec<u8>,
}

/// Reads one link.
pub async fn link(tx: &mut Tx, nr: SnapshotNr) -> Result<Option<Link>, StorageError> {
    let row = tx.query_opt(SNAPSHOT, params![nr.0]).await?;
    row.map(|row| {
        Ok(Link {
            base: row.opt_int(0)?.map(SnapshotNr),
            depth: row.int(1)? as u64,
            delta: row.opt_blob(2)?.map(<[u8]>::to_vec),
            partial: row.bool(3)?,
        })
    })
    .transpose()
}

/// The stored state with this identity and phase.
pub async fn by_hash(
    tx: &mut Tx,
    room: RoomNr,
    hash: StateHash,
    partial: bool,
) -> Result<Option<SnapshotNr>, StorageError> {
    let hash = hash.0.to_be_bytes();
    let row = tx
        .query_opt(SNAPSHOT_BY_HASH, params![room.0, &hash[..], partial])
        .await?;
    row.map(|row| Ok(SnapshotNr(row.int(0)?))).transpose()
}

/// Stores one link.
pub async fn put(
    tx: &mut Tx,
    room: RoomNr,
    nr: SnapshotNr,
    hash: StateHash,
    link: &Link,
) -> Result<(), StorageError> {
    let hash = hash.0.to_be_bytes();
    tx.run(
        PUT_SNAPSHOT,
        params![
            nr.0,
            room.0,
            &hash[..],
            link.partial,
            link.base.map(|base| base.0),
            link.depth as i64,
            link.delta.as_deref()
        ],
    )
    .await?;
    Ok(())
}

/// The chunks of a base, memberships last.
pub async fn chunks(tx: &mut Tx, nr: SnapshotNr) -> Result<Vec<Chunk>, StorageError> {
    let rows = tx.query(CHUNKS, params![nr.0]).await?;
    rows.iter()
        .map(|row| {
            Ok(Chunk {
                members: row.bool(0)?,
                first_key: KeyNr(row.int(1)? as u32),
                entries: row.blob(2)?.to_vec(),
            })
        })
        .collect()
}

/// Stores a chunk of a base.
pub async fn put_chunk(tx: &mut Tx, nr: SnapshotNr, chunk: &Chunk) -> Result<(), StorageError> {
    let first_key = i64::from(chunk.first_key.0);
    tx.run(
        PUT_CHUNK,
        params![nr.0, chunk.members, first_key, &chunk.entries[..]],
    )
    .await?;
    Ok(())
}

/// The highest snapshot number that was given out.
pub async fn last_number(tx: &mut Tx) -> Result<i64, StorageError> {
    let row = tx.query_opt(LAST_SNAPSHOT, params![]).await?;
    let last = row.map(|row| row.int(0)).transpose()?.unwrap_or(0);
    Ok(last.max(rooms::kept(tx, KEPT_NUMBER).await?))
}

/// Keeps in mind how far numbers have come, before rows that have some are deleted.
pub(crate) async fn keep_number(tx: &mut Tx) -> Result<(), StorageError> {
    let last = last_number(tx).await?;
    rooms::keep(tx, KEPT_NUMBER, last).await
}
