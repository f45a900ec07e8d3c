//! Asking another server about its spaces (server-server API, "Spaces").

use ruma::{OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Federation,
    error::FederationError,
    request::{MIB, Request},
};

/// A room and those that it has as children, as another server describes them. Nothing about it was
/// checked.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteHierarchy {
    /// The room, with its `children_state`.
    pub room: Map<String, Value>,
    /// The children that this server may know of, without their own children.
    #[serde(default)]
    pub children: Vec<Map<String, Value>>,
    /// Children that exist, and that this server may not know of.
    #[serde(default)]
    pub inaccessible_children: Vec<OwnedRoomId>,
}

impl Federation {
    /// `GET /v1/hierarchy`: what a server says of a room and its children.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn hierarchy(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<RemoteHierarchy, FederationError> {
        let suggested_only = if suggested_only { "true" } else { "false" };
        let request = Request::get("hierarchy", "v1/hierarchy")
            .segment(room_id)
            .query("suggested_only", suggested_only)
            .limit(8 * MIB)
            .interactive();
        self.ask(server, request).await
    }
}
