//! Servers that may help to change what one of our users is to a room.

use std::collections::HashSet;

use myelin_core::state::State;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, ServerName};

use crate::{RoomError, Rooms};

/// How many of a room's servers are asked for help where nobody named one.
const MOST_OTHERS: usize = 10;

impl Rooms {
    /// The room that somebody means, and servers that may help to reach it: first those that the alias
    /// names, then those that the client knows.
    pub(crate) async fn locate(
        &self,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        match <&RoomId>::try_from(target) {
            Ok(room_id) => Ok((room_id.to_owned(), via)),
            Err(alias) => {
                let (room_id, servers) = self.resolve_alias(alias).await?;
                Ok((room_id, servers.into_iter().chain(via).collect()))
            }
        }
    }

    /// Some of the other servers in a room, by a state of it.
    pub(crate) fn others_in(&self, state: &State) -> Vec<OwnedServerName> {
        let names = state.servers().map(|(server, _)| &**server);
        let others = names.filter(|name| *name != self.server_name().as_str());
        others
            .take(MOST_OTHERS)
            .filter_map(|name| ServerName::parse(name).ok())
            .collect()
    }

    /// Servers to ask, each once, never ourselves.
    pub(crate) fn candidates(
        &self,
        servers: impl IntoIterator<Item = OwnedServerName>,
    ) -> Vec<OwnedServerName> {
        let mut seen = HashSet::from([self.server_name().to_owned()]);
        let mut candidates: Vec<OwnedServerName> = Vec::new();
        for server in servers {
            if seen.insert(server.clone()) {
                candidates.push(server);
            }
        }
        candidates
    }
}

/// Server names out of stored text.
pub(crate) fn named(servers: &[String]) -> impl Iterator<Item = OwnedServerName> + '_ {
    servers
        .iter()
        .filter_map(|server| ServerName::parse(server).ok())
}

/// The servers that were asked in vain.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    last: Option<RoomError>,
}

impl Attempts {
    /// A server did not help. The error, if it is final: another server would say no more (R87).
    pub(crate) fn failed(
        &mut self,
        server: &ServerName,
        error: RoomError,
    ) -> Result<(), RoomError> {
        if !may_ask_another(&error) {
            return Err(error);
        }
        tracing::info!(%server, %error, "a server could not help");
        self.last = Some(error);
        Ok(())
    }

    /// Nobody is left, or there was nobody.
    pub(crate) fn nobody(self) -> RoomError {
        match self.last {
            Some(error) => {
                RoomError::NoServer(format!("no server could help with the room: {error}"))
            }
            None => RoomError::NotFound("no server is known that is in the room".into()),
        }
    }
}

/// Whether another server may say something else (R87).
fn may_ask_another(error: &RoomError) -> bool {
    match error {
        RoomError::NoServer(_) => true,
        RoomError::Remote(error) => match error.remote() {
            None => true,
            Some(remote) => {
                remote.status >= 500
                    || matches!(
                        remote.errcode.as_deref(),
                        Some(
                            "M_NOT_FOUND"
                                | "M_UNABLE_TO_AUTHORISE_JOIN"
                                | "M_UNABLE_TO_GRANT_JOIN"
                                | "M_UNABLE_DUE_TO_PARTIAL_STATE"
                                | "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE"
                        )
                    )
            }
        },
        _ => false,
    }
}
