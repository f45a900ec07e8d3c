//! Asking another server about its aliases, users and itself.

use http::Method;
use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Federation,
    error::FederationError,
    request::{MIB, Request},
};

/// What an alias stands for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Directory {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers that may help to join it.
    pub servers: Vec<OwnedServerName>,
}

/// The devices of a user. What is in them is for the user's contacts, not for servers.
#[derive(Clone, Debug, Deserialize)]
pub struct UserDevices {
    /// The user; the caller checks that it is the one asked for.
    pub user_id: String,
    /// How new this is; later updates have higher numbers.
    pub stream_id: i64,
    /// `device_id`, `keys` and perhaps `device_display_name` of each device.
    pub devices: Vec<Box<RawValue>>,
    /// The master cross-signing key.
    #[serde(default)]
    pub master_key: Option<Box<RawValue>>,
    /// The self-signing key.
    #[serde(default)]
    pub self_signing_key: Option<Box<RawValue>>,
}

/// Part of a server's public room directory. What a room shows of itself goes on as it came.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RemoteDirectory {
    /// The rooms.
    pub chunk: Vec<Box<RawValue>>,
    /// Where the next part begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// Where the part before this one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// How many rooms there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_room_count_estimate: Option<u64>,
}

/// What software a server says to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerSoftware {
    /// Its name.
    pub name: Option<String>,
    /// Its version, in its own scheme.
    pub version: Option<String>,
}

impl Federation {
    /// `GET /v1/query/directory`: what an alias of that server stands for.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn query_directory(
        &self,
        server: &ServerName,
        alias: &RoomAliasId,
    ) -> Result<Directory, FederationError> {
        let request = Request::get("query_directory", "v1/query/directory")
            .query("room_alias", alias)
            .interactive();
        self.ask(server, request).await
    }

    /// `POST /v1/publicRooms`: part of that server's public room directory. `request` has the fields
    /// `limit`, `since` and `filter` of the client's endpoint of the same name.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn public_rooms(
        &self,
        server: &ServerName,
        request: &impl Serialize,
    ) -> Result<RemoteDirectory, FederationError> {
        let request = Request::new(Method::POST, "public_rooms", "v1/publicRooms")
            .json(request)?
            .limit(8 * MIB)
            .interactive();
        self.ask(server, request).await
    }

    /// `GET /v1/query/profile`: a user's profile as a JSON object, or only one field of it, like
    /// `displayname`, which the object has if it is set.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn query_profile(
        &self,
        server: &ServerName,
        user_id: &UserId,
        field: Option<&str>,
    ) -> Result<serde_json::Map<String, serde_json::Value>, FederationError> {
        let mut request = Request::get("query_profile", "v1/query/profile")
            .query("user_id", user_id)
            .interactive();
        if let Some(field) = field {
            request = request.query("field", field);
        }
        self.ask(server, request).await
    }

    /// `GET /v1/user/devices`: all devices of a user of that server.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn user_devices(
        &self,
        server: &ServerName,
        user_id: &UserId,
    ) -> Result<UserDevices, FederationError> {
        let request = Request::get("user_devices", "v1/user/devices")
            .segment(user_id)
            .limit(8 * MIB);
        self.ask(server, request).await
    }

    /// `GET /v1/version`: what software the server is.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn version(&self, server: &ServerName) -> Result<ServerSoftware, FederationError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            server: ServerSoftware,
        }
        let request = Request::get("version", "v1/version").interactive();
        let answer: Answer = self.ask(server, request).await?;
        Ok(answer.server)
    }
}
