//! States as bytes: what storage keeps of them.
//!
//! A snapshot is stored as a *delta*, the entries in which it differs from an ancestor, or as a
//! *base*, all its entries in chunks. Which ancestor a delta refers to follows from the snapshot's
//! depth in its chain alone ([`delta_base_depth`]): most refer to their predecessor, every 32nd
//! skips back 32, every 1024th 1024. So any entry is found in at most [`MAX_DELTAS`] deltas and one
//! chunk, and no change is stored more than three times.
//!
//! Every encoding begins with a byte for its format. Numbers are LEB128 varints; keys ascend and
//! are stored as gaps, events as differences from the event before.

use std::collections::BTreeMap;

use crate::{
    number::{EventNr, KeyNr},
    state::{Change, Entry, Membership, State},
};

/// How many steps of one level make up one of the next.
const FAN: u64 = 32;

/// How many snapshots lie between two bases of a chain.
pub const BASE_INTERVAL: u64 = FAN * FAN * FAN;

/// The most deltas between a snapshot and its base.
pub const MAX_DELTAS: u64 = 3 * (FAN - 1);

/// How many entries a chunk of a base holds at most.
pub const CHUNK_ENTRIES: usize = 1000;

const DELTA_FORMAT: u8 = 1;
const CHUNK_FORMAT: u8 = 2;

/// The code, in place of a membership, of an entry that a delta removes.
const REMOVED: u64 = 7;

/// Event numbers have 61 bits.
const EVENT_BITS: u32 = 61;

/// The depth of the snapshot that a snapshot's delta refers to; `None` if it is stored as a base.
pub fn delta_base_depth(depth: u64) -> Option<u64> {
    let step = match depth {
        _ if !depth.is_multiple_of(FAN) => 1,
        _ if !depth.is_multiple_of(FAN * FAN) => FAN,
        _ if !depth.is_multiple_of(BASE_INTERVAL) => FAN * FAN,
        _ => return None,
    };
    Some(depth - step)
}

/// The entries that a delta sets (`None`: removes), by ascending key.
pub type Delta = Vec<(KeyNr, Option<Entry>)>;

/// A part of a stored base: consecutive entries of one family of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whether these are memberships.
    pub members: bool,
    /// The first key. The entry of a key is in the chunk of its family with the greatest first key
    /// that is not greater.
    pub first_key: KeyNr,
    /// The entries, for [`decode_chunk`].
    pub bytes: Vec<u8>,
}

/// Stored bytes that no encoder wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorruptState {
    /// The format byte is unknown, or that of something else.
    #[error("unknown format {0}")]
    UnknownFormat(u8),
    /// The bytes end too early.
    #[error("cut short")]
    Truncated,
    /// A number is greater than what it stands for can be.
    #[error("number out of range")]
    OutOfRange,
    /// There are bytes after the end.
    #[error("{0} bytes too many")]
    TrailingBytes(usize),
}

/// Encodes what a snapshot changes.
pub fn encode_delta(changes: &[Change]) -> Vec<u8> {
    let entries = changes
        .iter()
        .map(|change| (change.key, change.new))
        .collect::<BTreeMap<_, _>>();
    let mut writer = Writer::new(DELTA_FORMAT, entries.len());
    let mut next_key = 0;
    for (key, entry) in entries {
        writer.number(u64::from(key.0) - next_key);
        writer.entry(entry);
        next_key = u64::from(key.0) + 1;
    }
    writer.bytes
}

/// Decodes what [`encode_delta`] wrote.
///
/// # Errors
/// If the bytes are corrupt.
pub fn decode_delta(bytes: &[u8]) -> Result<Delta, CorruptState> {
    let (mut reader, count) = Reader::new(bytes, DELTA_FORMAT)?;
    let mut delta = Vec::with_capacity(count);
    let mut next_key = 0_u64;
    for _ in 0..count {
        let key = next_key
            .checked_add(reader.number()?)
            .ok_or(CorruptState::OutOfRange)?;
        let key_nr = KeyNr(u32::try_from(key).map_err(|_| CorruptState::OutOfRange)?);
        delta.push((key_nr, reader.entry(key_nr)?));
        next_key = key + 1;
    }
    reader.end()?;
    Ok(delta)
}

/// Puts consecutive deltas, oldest first, into one: what the last of their snapshots changes in
/// relation to the base of the first.
pub fn merge_deltas(deltas: impl IntoIterator<Item = Delta>) -> Delta {
    deltas
        .into_iter()
        .flatten()
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect()
}

/// Encodes a whole state, memberships last.
pub fn encode_base(state: &State) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for members in [false, true] {
        let entries: Vec<_> = if members {
            state.members().collect()
        } else {
            state.others().collect()
        };
        chunks.extend(entries.chunks(CHUNK_ENTRIES).map(|entries| Chunk {
            members,
            first_key: entries[0].0,
            bytes: encode_chunk(entries),
        }));
    }
    chunks
}

fn encode_chunk(entries: &[(KeyNr, Entry)]) -> Vec<u8> {
    let mut writer = Writer::new(CHUNK_FORMAT, entries.len());
    // Keys of a family are all odd or all even.
    let family = entries.first().map_or(0, |(key, _)| key.0 & 1);
    writer.number(u64::from(family));
    let mut next = 0;
    for (key, entry) in entries {
        let position = u64::from(key.0 >> 1);
        writer.number(position - next);
        writer.entry(Some(*entry));
        next = position + 1;
    }
    writer.bytes
}

/// Decodes the bytes of a [`Chunk`]: entries by ascending key.
///
/// # Errors
/// If the bytes are corrupt.
pub fn decode_chunk(bytes: &[u8]) -> Result<Vec<(KeyNr, Entry)>, CorruptState> {
    let (mut reader, count) = Reader::new(bytes, CHUNK_FORMAT)?;
    let family = reader.number()?;
    if family > 1 {
        return Err(CorruptState::OutOfRange);
    }
    let mut entries = Vec::with_capacity(count);
    let mut next = 0_u64;
    for _ in 0..count {
        let position = next
            .checked_add(reader.number()?)
            .ok_or(CorruptState::OutOfRange)?;
        let key = position.checked_mul(2).map(|key| key | family);
        let key = key
            .and_then(|key| u32::try_from(key).ok())
            .ok_or(CorruptState::OutOfRange)?;
        let entry = reader.entry(KeyNr(key))?.ok_or(CorruptState::OutOfRange)?;
        entries.push((KeyNr(key), entry));
        next = position + 1;
    }
    reader.end()?;
    Ok(entries)
}

struct Writer {
    bytes: Vec<u8>,
    last_event: i64,
}

impl Writer {
    fn new(format: u8, count: usize) -> Self {
        let mut writer = Self {
            bytes: Vec::with_capacity(8 + 6 * count),
            last_event: 0,
        };
        writer.bytes.push(format);
        writer.number(count as u64);
        writer
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn entry(&mut self, entry: Option<Entry>) {
        let Some(entry) = entry else {
            self.number(REMOVED);
            return;
        };
        let event = entry.event().0;
        let step = signed(event.wrapping_sub(self.last_event));
        let membership = entry.membership().map_or(0, |membership| membership as u64);
        // Small steps in either direction become small numbers.
        self.number(((step << 1 ^ step >> 63) as u64 & mask()) << 3 | membership);
        self.last_event = event;
    }
}

/// A difference of event numbers as the smallest signed number that is the same modulo 2^61.
fn signed(difference: i64) -> i64 {
    difference << (64 - EVENT_BITS) >> (64 - EVENT_BITS)
}

fn mask() -> u64 {
    (1 << EVENT_BITS) - 1
}

struct Reader<'a> {
    bytes: &'a [u8],
    last_event: i64,
}

impl<'a> Reader<'a> {
    /// Checks the format, and reads the number of entries.
    fn new(bytes: &'a [u8], format: u8) -> Result<(Self, usize), CorruptState> {
        let (found, bytes) = bytes.split_first().ok_or(CorruptState::Truncated)?;
        if *found != format {
            return Err(CorruptState::UnknownFormat(*found));
        }
        let mut reader = Self {
            bytes,
            last_event: 0,
        };
        let count = reader.number()?;
        // An entry has two bytes at least; this also bounds what is allocated.
        match usize::try_from(count) {
            Ok(count) if count <= reader.bytes.len() / 2 => Ok((reader, count)),
            _ => Err(CorruptState::Truncated),
        }
    }

    fn number(&mut self) -> Result<u64, CorruptState> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first().ok_or(CorruptState::Truncated)?;
            self.bytes = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(CorruptState::OutOfRange);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CorruptState::OutOfRange)
    }

    fn entry(&mut self, key: KeyNr) -> Result<Option<Entry>, CorruptState> {
        let number = self.number()?;
        if number == REMOVED {
            return Ok(None);
        }
        let membership = match number & 7 {
            0 => None,
            code => Some(Membership::from_code(code as u8).ok_or(CorruptState::OutOfRange)?),
        };
        if membership.is_some() && !key.is_member() {
            return Err(CorruptState::OutOfRange);
        }
        let folded = number >> 3;
        let step = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        let event = self.last_event.wrapping_add(step) & mask() as i64;
        self.last_event = event;
        Ok(Some(Entry::new(EventNr(event), membership)))
    }

    fn end(&self) -> Result<(), CorruptState> {
        match self.bytes.len() {
            0 => Ok(()),
            rest => Err(CorruptState::TrailingBytes(rest)),
        }
    }
}
