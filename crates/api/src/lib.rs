//! The HTTP API: thin handlers, one file per section of the specification, over one table of routes
//! and with one type of error.
//!
//! Nothing here knows SQL, and nothing decides about rooms: handlers read the request, call `users`,
//! `rooms` for changes or `sync` for reads, and write the answer.

mod admin;
mod admission;
mod client;
mod conversions;
mod error;
mod federation;
mod page;
mod request;
mod router;
mod routes;

use std::sync::Arc;

use ipnet::IpNet;
use myelin_core::room_version::RoomVersion;
use myelin_env::Env;
use myelin_federation::Federation;
use myelin_rooms::Rooms;
use myelin_sync::Sync;
use myelin_users::{Limit, Requester, Users, Who};

pub use admission::Peer;
pub use error::ApiError;
pub use router::router;
pub use routes::{Access, Effect, Resource, Route, routes};

use router::Permits;

/// What the operator decides about the API.
pub struct ApiConfig {
    /// Which version of rooms clients are told to expect.
    pub default_room_version: RoomVersion,
    /// Reverse proxies, which say where a request comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// The address to announce to clients.
    pub public_base_url: Option<String>,
    /// Writes the figures for `/metrics`; without it there is no such page.
    pub metrics: Option<Box<dyn Fn() -> String + Send + std::marker::Sync>>,
}

/// What the API is made of.
pub struct ApiParts {
    /// The operator's decisions.
    pub config: ApiConfig,
    /// Clock and tasks.
    pub env: Env,
    /// Accounts and what belongs to them.
    pub users: Users,
    /// Changes in rooms.
    pub rooms: Rooms,
    /// Reads for clients.
    pub sync: Sync,
    /// Who sent a request of another server.
    pub federation: Federation,
}

/// What every handler gets. Clones share everything.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    parts: ApiParts,
    permits: Permits,
}

impl Api {
    /// The API over these parts.
    #[must_use]
    pub fn new(parts: ApiParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            permits: Permits::default(),
        }))
    }

    fn config(&self) -> &ApiConfig {
        &self.0.parts.config
    }

    fn env(&self) -> &Env {
        &self.0.parts.env
    }

    fn users(&self) -> &Users {
        &self.0.parts.users
    }

    fn rooms(&self) -> &Rooms {
        &self.0.parts.rooms
    }

    fn sync(&self) -> &Sync {
        &self.0.parts.sync
    }

    fn federation(&self) -> &Federation {
        &self.0.parts.federation
    }

    /// Uses up part of what a user may do.
    fn take(&self, limit: Limit, requester: &Requester, actions: u32) -> Result<(), ApiError> {
        let limits = self.users().rate_limits();
        let who = Who::User(requester.user_id.clone());
        Ok(limits.take(limit, who, actions)?)
    }

    fn permits(&self) -> &Permits {
        &self.0.permits
    }
}
