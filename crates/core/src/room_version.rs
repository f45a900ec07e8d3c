//! Room versions: which rules a room follows.

use std::{fmt, str::FromStr};

use ruma::{
    RoomVersionId,
    room_version_rules::{AuthorizationRules, RedactionRules, RoomVersionRules},
};
use serde::Deserialize;

use crate::pdu::Pdu;

/// A room version that this server supports. Differences between versions are data: the rules of
/// the row, not matches on the name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomVersion(u8);

struct Row {
    name: &'static str,
    id: RoomVersionId,
    rules: RoomVersionRules,
}

static ROWS: [Row; 3] = [
    Row {
        name: "10",
        id: RoomVersionId::V10,
        rules: RoomVersionRules::V10,
    },
    Row {
        name: "11",
        id: RoomVersionId::V11,
        rules: RoomVersionRules::V11,
    },
    Row {
        name: "12",
        id: RoomVersionId::V12,
        rules: RoomVersionRules::V12,
    },
];

/// A room version that this server doesn't know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("room version {0:?} is not supported")]
pub struct UnsupportedVersion(pub String);

impl RoomVersion {
    /// Version 10.
    pub const V10: Self = Self(0);
    /// Version 11.
    pub const V11: Self = Self(1);
    /// Version 12.
    pub const V12: Self = Self(2);

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
        assert_eq!(names, ["10", "11", "12"]);
        for version in RoomVersion::supported() {
            assert_eq!(version.as_str().parse(), Ok(version));
            assert_eq!(version.id().as_str(), version.as_str());
        }
        for name in ["1", "9", "13", "", "org.matrix.msc2870"] {
            assert_eq!(
                RoomVersion::parse(name),
                Err(UnsupportedVersion(name.to_owned()))
            );
        }
    }
}
