//! Room versions: which rules a room follows.

use std::{fmt, str::FromStr};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use ruma::{
    EventId, OwnedEventId, RoomVersionId,
    room_version_rules::{
        AuthorizationRules, EventIdFormatVersion, RedactionRules, RoomVersionRules,
    },
};
use serde::Deserialize;

use crate::{canonical_json::Numbers, pdu::Pdu};

/// A room version that this server supports. Differences between versions are data: the rules of
/// the row, not matches on the name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomVersion(u8);

struct Row {
    name: &'static str,
    id: RoomVersionId,
    rules: RoomVersionRules,
}

static ROWS: [Row; 12] = [
    row("1", RoomVersionId::V1, RoomVersionRules::V1),
    row("2", RoomVersionId::V2, RoomVersionRules::V2),
    row("3", RoomVersionId::V3, RoomVersionRules::V3),
    row("4", RoomVersionId::V4, RoomVersionRules::V4),
    row("5", RoomVersionId::V5, RoomVersionRules::V5),
    row("6", RoomVersionId::V6, RoomVersionRules::V6),
    row("7", RoomVersionId::V7, RoomVersionRules::V7),
    row("8", RoomVersionId::V8, RoomVersionRules::V8),
    row("9", RoomVersionId::V9, RoomVersionRules::V9),
    row("10", RoomVersionId::V10, RoomVersionRules::V10),
    row("11", RoomVersionId::V11, RoomVersionRules::V11),
    row("12", RoomVersionId::V12, RoomVersionRules::V12),
];

const fn row(name: &'static str, id: RoomVersionId, rules: RoomVersionRules) -> Row {
    Row { name, id, rules }
}

/// A room version that this server doesn't know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("room version {0:?} is not supported")]
pub struct UnsupportedVersion(pub String);

impl RoomVersion {
    /// Version 1.
    pub const V1: Self = Self(0);
    /// Version 2.
    pub const V2: Self = Self(1);
    /// Version 3.
    pub const V3: Self = Self(2);
    /// Version 4.
    pub const V4: Self = Self(3);
    /// Version 5.
    pub const V5: Self = Self(4);
    /// Version 6.
    pub const V6: Self = Self(5);
    /// Version 7.
    pub const V7: Self = Self(6);
    /// Version 8.
    pub const V8: Self = Self(7);
    /// Version 9.
    pub const V9: Self = Self(8);
    /// Version 10.
    pub const V10: Self = Self(9);
    /// Version 11.
    pub const V11: Self = Self(10);
    /// Version 12.
    pub const V12: Self = Self(11);

    /// Every supported version, oldest first.
    pub fn supported() -> impl Iterator<Item = Self> {
        (0..ROWS.len() as u8).map(Self)
    }

    /// Finds a version by its name.
    ///
    /// # Errors
    /// If this server doesn't support it.
    pub fn parse(name: &str) -> Result<Self, UnsupportedVersion> {
        Self::supported()
            .find(|version| version.as_str() == name)
            .ok_or_else(|| UnsupportedVersion(name.to_owned()))
    }

    /// The version that a create event states, "1" if it states none.
    ///
    /// # Errors
    /// If this server doesn't support it, or it is no string.
    pub fn of_create_event(create: &Pdu) -> Result<Self, UnsupportedVersion> {
        #[derive(Deserialize)]
        struct Content {
            room_version: Option<String>,
        }
        match serde_json::from_str(create.content.get()) {
            Ok(Content { room_version }) => Self::parse(room_version.as_deref().unwrap_or("1")),
            Err(_) => Err(UnsupportedVersion("not a string".to_owned())),
        }
    }

    fn row(self) -> &'static Row {
        &ROWS[usize::from(self.0)]
    }

    /// The name, as in `content.room_version`.
    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    /// The version as ruma knows it.
    pub fn id(self) -> &'static RoomVersionId {
        &self.row().id
    }

    /// Everything in which versions differ.
    pub fn rules(self) -> &'static RoomVersionRules {
        &self.row().rules
    }

    /// The rules of authorisation.
    pub fn authorization(self) -> &'static AuthorizationRules {
        &self.row().rules.authorization
    }

    /// What a redaction leaves.
    pub fn redaction(self) -> &'static RedactionRules {
        &self.row().rules.redaction
    }

    /// Whether the room's ID is the hash of its create event, which then carries none and is not
    /// named among auth events (version 12 and later, MSC4291).
    pub fn room_id_is_create_hash(self) -> bool {
        self.row()
            .rules
            .authorization
            .room_create_event_id_as_room_id
    }

    /// Whether the create event names the room's creator in `content` (before version 11, MSC2175).
    pub fn has_creator_in_content(self) -> bool {
        !self.row().rules.authorization.use_room_create_sender
    }

    /// Whether events carry their IDs, which their servers make up, and name others with their reference hashes
    /// (before version 3).
    pub fn has_ids_in_events(self) -> bool {
        self.row().rules.event_format.require_event_id
    }

    /// Whether a field of an event is measured in code points when it is read (before version 11): servers used
    /// to let such events in, and others of these rooms may build on them (R2).
    pub(crate) fn has_fields_of_code_points(self) -> bool {
        self < Self::V11
    }

    /// Whether states are resolved as in the first version.
    pub(crate) fn resolves_as_at_first(self) -> bool {
        self.row().rules.state_res.v2_rules().is_none()
    }

    /// Whether the rules of authorisation say who may redact what, so that a redaction that is accepted takes
    /// effect (before version 3).
    pub fn redactions_are_authorised(self) -> bool {
        self.row().rules.authorization.special_case_room_redaction
    }

    /// An event's ID where it is its reference hash: in version 3 by base64's standard alphabet, later by the
    /// one that is safe in URLs.
    pub(crate) fn event_id(self, reference_hash: &[u8]) -> OwnedEventId {
        let hash = match self.row().rules.event_id_format {
            EventIdFormatVersion::V2 => STANDARD_NO_PAD.encode(reference_hash),
            _ => URL_SAFE_NO_PAD.encode(reference_hash),
        };
        EventId::parse(format!("${hash}")).expect("a `$` and base64 are an event ID")
    }

    /// The numbers that events of other servers may have. This server's own events are strict in
    /// every version.
    pub(crate) fn numbers(self) -> Numbers {
        match self.row().rules.authorization.strict_canonical_json {
            true => Numbers::Strict,
            false => Numbers::Any,
        }
    }

    /// Whether a redaction names its target in `content` (version 11 and later, MSC2174).
    pub fn redacts_in_content(self) -> bool {
        self.row().rules.redaction.content_field_redacts
    }
}

impl fmt::Debug for RoomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomVersion({})", self.as_str())
    }
}

impl fmt::Display for RoomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RoomVersion {
    type Err = UnsupportedVersion;

    fn from_str(name: &str) -> Result<Self, UnsupportedVersion> {
        Self::parse(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_versions_are_found_by_name_and_others_refused() {
        let names: Vec<_> = RoomVersion::supported().map(RoomVersion::as_str).collect();
        assert_eq!(
            names,
            [
                "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"
            ]
        );
        assert_eq!(RoomVersion::V6.as_str(), "6");
        assert_eq!(RoomVersion::V12.as_str(), "12");
        for version in RoomVersion::supported() {
            assert_eq!(version.as_str().parse(), Ok(version));
            assert_eq!(version.id().as_str(), version.as_str());
        }
        for name in ["0", "13", "", "org.matrix.msc2870"] {
            assert_eq!(
                RoomVersion::parse(name),
                Err(UnsupportedVersion(name.to_owned()))
            );
        }
    }

    #[test]
    fn create_events_name_the_creator_before_version_11() {
        for version in RoomVersion::supported() {
            let named = version < RoomVersion::V11;
            assert_eq!(version.has_creator_in_content(), named, "{version}");
        }
    }
}
