//! Small numbers that stand for long identifiers on hot paths.
//!
//! They are this server's own, mean nothing to others, and are never reused.

/// Declares a number type over `i64`, the integer that both storage engines share.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub i64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A room that this server knows.
    RoomNr
}

number! {
    /// An event that this server holds, or has seen another event refer to. The 61 low bits are
    /// used.
    EventNr
}

number! {
    /// A stored state of a room.
    SnapshotNr
}

number! {
    /// A position in the server's event stream: later commits have higher positions. Backfilled
    /// events have negative positions that decrease.
    StreamPosition
}

/// A (type, state key) pair in one room's own numbering. Memberships have odd numbers, so that they
/// can be told from the rest without their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyNr(pub u32);

impl KeyNr {
    /// Whether this is the key of an `m.room.member` event.
    pub fn is_member(self) -> bool {
        self.0 & 1 == 1
    }
}
