//! Joining rooms: local where we are in the room, otherwise through a server that is, partial where
//! it can (MSC3902, MSC3706).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use myelin_core::{room_version::RoomVersion, state::Membership};
use myelin_storage::{
    Priority, StorageError,
    joins::{self, JoinRecord},
};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId, ServerName, UserId};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::{
    RoomError, Rooms,
    handshake::Handshake,
    membership::{JoinContent, with_membership},
    new_event::NewEvent,
    outliers::remote,
    room::Room,
};

/// A join that a crash interrupted is not repaired after this time: the user has seen it fail.
const LONGEST_REPAIR: Duration = Duration::from_secs(3_600);

type Outcome = Option<Result<(), RoomError>>;

/// The remote joins that are under way. They outlive the requests that began them, and a repeated
/// request waits for the same join.
#[derive(Default)]
pub(crate) struct Joins(Mutex<HashMap<(OwnedRoomId, OwnedUserId), watch::Receiver<Outcome>>>);

impl Rooms {
    /// Joins a room. When this returns the user is in it; after a partial join its members are still
    /// being loaded.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] or [`RoomError::Remote`] if the room doesn't let the user in,
    /// [`RoomError::NoServer`] if no server could help, [`RoomError::NotFound`] for an alias that
    /// nobody knows.
    pub async fn join(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        content: JoinContent,
    ) -> Result<OwnedRoomId, RoomError> {
        let (room_id, mut candidates) = match <&RoomId>::try_from(target) {
            Ok(room_id) => (room_id.to_owned(), via),
            Err(alias) => {
                let (room_id, servers) = self.resolve_alias(alias).await?;
                (room_id, servers.into_iter().chain(via).collect())
            }
        };
        if let Some(room) = self.room(&room_id).await?
            && room.has_server(self.server_name())
        {
            if self.membership_of(&room, user) == Some(Membership::Join) {
                return Ok(room_id);
            }
            if !room.is_partial() {
                self.join_here(&room, user, &content).await?;
                return Ok(room_id);
            }
            // We may not know of a ban, so a server with all members has to let the user in (R111).
            candidates.extend(named(&room.servers_at_join()));
        }
        candidates.extend(room_id.server_name().map(ToOwned::to_owned));
        let candidates = self.candidates(candidates);
        if candidates.is_empty() {
            return Err(RoomError::NotFound(
                "no server is known that is in the room".into(),
            ));
        }
        self.join_remotely(room_id.clone(), user.to_owned(), candidates, content)
            .await?;
        Ok(room_id)
    }

    /// Servers to ask, each once, never ourselves.
    fn candidates(&self, servers: Vec<OwnedServerName>) -> Vec<OwnedServerName> {
        let mut candidates: Vec<OwnedServerName> = Vec::new();
        for server in servers {
            if server != self.server_name() && !candidates.contains(&server) {
                candidates.push(server);
            }
        }
        candidates
    }

    async fn join_here(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        content: &JoinContent,
    ) -> Result<(), RoomError> {
        let event = NewEvent::membership(user, user, with_membership(content));
        self.send(&room.key.room_id, event).await.map(drop)
    }

    /// Starts a remote join, or attaches to the one that is under way, and waits for it.
    async fn join_remotely(
        &self,
        room_id: OwnedRoomId,
        user: OwnedUserId,
        candidates: Vec<OwnedServerName>,
        content: JoinContent,
    ) -> Result<(), RoomError> {
        let record = JoinRecord {
            room_id,
            user_id: user,
            candidates,
            content: Value::Object(content).to_string(),
            started_ms: self.env().clock.now_ms(),
        };
        let mut outcome = self.begin_join(record);
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.ok().and_then(|outcome| outcome.clone()) {
            Some(result) => result,
            None => Err(RoomError::Internal("the server is stopping".into())),
        }
    }

    fn begin_join(&self, record: JoinRecord) -> watch::Receiver<Outcome> {
        let key = (record.room_id.clone(), record.user_id.clone());
        let mut joins = self
            .0
            .joins
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = joins.get(&key) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        joins.insert(key.clone(), outcome.clone());
        drop(joins);
        let rooms = self.clone();
        drop(self.env().tasks.spawn("join a room", async move {
            let result = rooms.carry_out_join(&record).await;
            if let Some(room) = rooms.room_in_use(&record.room_id) {
                room.inbound.set_joining(false);
                rooms.work(&room);
            }
            if let Err(error) = &result {
                tracing::info!(room = %record.room_id, user = %record.user_id, %error, "join failed");
            }
            let mut joins = rooms.0.joins.0.lock().unwrap_or_else(PoisonError::into_inner);
            joins.remove(&key);
            sender.send_replace(Some(result));
        }));
        outcome
    }

    /// Writes the join down, so that a crash after `send_join` can be repaired, and carries it out.
    async fn carry_out_join(&self, record: &JoinRecord) -> Result<(), RoomError> {
        let written = record.clone();
        self.database()
            .write("begin a join", Priority::Interactive, move |tx| {
                Box::pin(async move { joins::put_join(tx, &written).await })
            })
            .await
            .map_err(RoomError::Storage)?;
        let result = self.ask_candidates(record).await;
        if result.is_err() {
            let (room_id, user) = (record.room_id.clone(), record.user_id.clone());
            self.database()
                .write("give up a join", Priority::Interactive, move |tx| {
                    Box::pin(async move { joins::delete_join(tx, &room_id, &user).await })
                })
                .await
                .map_err(RoomError::Storage)?;
        }
        result
    }

    /// Asks one candidate after the other, until one lets the user in or refuses for good.
    async fn ask_candidates(&self, record: &JoinRecord) -> Result<(), RoomError> {
        let mut last = None;
        for server in &record.candidates {
            match self.join_through(server, record).await {
                Ok(()) => return Ok(()),
                Err(error) if may_ask_another(&error) => {
                    tracing::info!(%server, room = %record.room_id, %error, "cannot join through it");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let why = last.map_or_else(|| "no server to ask".to_owned(), |error| error.to_string());
        Err(RoomError::NoServer(format!(
            "no server could help to join the room: {why}"
        )))
    }

    async fn join_through(
        &self,
        server: &ServerName,
        record: &JoinRecord,
    ) -> Result<(), RoomError> {
        let versions: Vec<&str> = RoomVersion::supported().map(RoomVersion::as_str).collect();
        let template = self
            .federation()
            .make_join(server, &record.room_id, &record.user_id, &versions)
            .await
            .map_err(remote)?;
        let content: Map<String, Value> = serde_json::from_str(&record.content)
            .map_err(|error| RoomError::BadJson(error.to_string()))?;
        let handshake =
            Handshake::new(self, &record.room_id, &record.user_id, template, content).await?;
        // What arrives waits for the end of the whole join, whichever candidate it succeeds with.
        handshake.room.inbound.set_joining(true);
        let result = handshake.send(server).await;
        if handshake.room.is_partial() {
            self.resync(&handshake.room);
        }
        result
    }

    /// Repairs the joins that a crash interrupted.
    pub(crate) async fn resume_joins(&self) -> Result<(), StorageError> {
        let records = self
            .database()
            .read("joins", |tx| {
                Box::pin(async move { joins::joins(tx).await })
            })
            .await?;
        let oldest = self
            .env()
            .clock
            .now_ms()
            .saturating_sub(LONGEST_REPAIR.as_millis() as u64);
        for record in records {
            if record.started_ms >= oldest {
                tracing::info!(room = %record.room_id, user = %record.user_id, "repairing a join");
                // What others sent after the join that was lost has to wait for the new one: judged
                // before it, it would be judged in a room without a state.
                if let Some(room) = self.room(&record.room_id).await?
                    && !room.has_server(self.server_name())
                {
                    room.inbound.set_joining(true);
                }
                drop(self.begin_join(record));
            } else {
                self.database()
                    .write("forget a join", Priority::Interactive, move |tx| {
                        Box::pin(async move {
                            joins::delete_join(tx, &record.room_id, &record.user_id).await
                        })
                    })
                    .await?;
            }
        }
        Ok(())
    }
}

/// Server names out of stored text.
pub(crate) fn named(servers: &[String]) -> impl Iterator<Item = OwnedServerName> + '_ {
    servers
        .iter()
        .filter_map(|server| ServerName::parse(server).ok())
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
