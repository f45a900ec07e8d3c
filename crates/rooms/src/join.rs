//! Joining rooms: local where we are in the room, otherwise through a server that is, partial where
//! it can (MSC3902, MSC3706).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use myelin_core::{
    room_version::RoomVersion,
    state::{Membership, State},
};
use myelin_storage::{
    Priority, StorageError,
    joins::{self, JoinRecord},
};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomOrAliasId, ServerName, UserId};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::{
    RoomError, Rooms,
    candidates::{Attempts, named},
    completion::AUTHORISER,
    containment::contained,
    handshake::Handshake,
    membership::{JoinContent, with_membership},
    new_event::NewEvent,
    outliers::remote,
    restricted::Condition,
    room::Room,
    third_party_invites::Ownership,
};

/// The pause before a join of which it isn't known what became is repaired, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(4 * 3_600);
/// What became of a join to a room that this server knows.
enum Here {
    Joined,
    /// These servers may be able to let the user in.
    Ask(Vec<OwnedServerName>),
}

type Outcome = Option<Result<(), RoomError>>;

/// Who joins what.
type JoinKey = (OwnedRoomId, OwnedUserId);

/// The remote joins that are under way. They outlive the requests that began them, and a repeated
/// request waits for the same join.
#[derive(Default)]
pub(crate) struct Joins {
    running: Mutex<HashMap<JoinKey, watch::Receiver<Outcome>>>,
    /// Those of which it isn't known what became, and which are tried again.
    repairing: Mutex<HashSet<JoinKey>>,
}

/// What is known of a join after the servers that were asked.
struct Progress {
    /// A server may have let the user in without our knowing.
    may_be_in: bool,
    /// A server gave no answer that settles it.
    unanswered: bool,
}

impl Rooms {
    /// Joins a room. When this returns the user is in it; after a partial join its members are still
    /// being loaded.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] or [`RoomError::Remote`] if the room doesn't let the user in,
    /// [`RoomError::NoServer`] if no server could help, [`RoomError::NotFound`] for an alias that
    /// nobody knows, [`RoomError::NoGuests`] for a guest whom the room does not let in: one who came in by
    /// another server leaves again.
    pub async fn join(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        content: JoinContent,
    ) -> Result<OwnedRoomId, RoomError> {
        let (room_id, mut candidates) = self.locate(target, via).await?;
        self.must_not_be_blocked(&room_id).await?;
        if let Some(room) = self.room(&room_id).await? {
            match self.join_here(&room, user, &content).await? {
                Here::Joined => return Ok(room_id),
                Here::Ask(servers) => candidates.extend(servers),
            }
        }
        candidates.extend(room_id.server_name().map(ToOwned::to_owned));
        let candidates = self.candidates(candidates);
        if candidates.is_empty() {
            return Err(Attempts::default().nobody());
        }
        self.join_remotely(
            room_id.clone(),
            user.to_owned(),
            candidates,
            content.clone(),
        )
        .await?;
        // Only now is known whether guests may be there.
        self.must_let_in(&self.known_room(&room_id).await?, &content)
            .await?;
        Ok(room_id)
    }

    /// Joins a room on an invite of an address that is the user's, as an identity server states.
    ///
    /// # Errors
    /// As [`Rooms::redeem_third_party_invite`] and [`Rooms::join`].
    pub async fn join_as_owner(
        &self,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        content: JoinContent,
        ownership: &Ownership,
    ) -> Result<OwnedRoomId, RoomError> {
        let (room_id, via) = self.locate(target, via).await?;
        self.redeem_third_party_invite(&room_id, ownership).await?;
        let user = &ownership.owner;
        self.join(user, (&*room_id).into(), via, content).await
    }

    /// Joins a room that this server is in, as far as it can let the user in.
    async fn join_here(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        content: &JoinContent,
    ) -> Result<Here, RoomError> {
        let invite = self.out_of_band(room, user).await?;
        let mut inviter: Vec<_> = invite.into_iter().map(|invite| invite.via).collect();
        let Some(current) = room.current() else {
            return Ok(Here::Ask(inviter));
        };
        if !room.has_server(self.server_name()) {
            // Who was there when the last of us left may be there still.
            inviter.extend(self.others_in(&current.state));
            return Ok(Here::Ask(inviter));
        }
        if self.membership_of(room, user) == Some(Membership::Join) {
            return Ok(Here::Joined);
        }
        self.must_let_in(room, content).await?;
        if room.is_partial() {
            // We may not know of a ban, so a server with all members has to let the user in (R111).
            inviter.extend(named(&room.servers_at_join()));
            return Ok(Here::Ask(inviter));
        }
        let mut content = with_membership(content);
        match self.condition(room, &current.state, user).await? {
            Condition::None | Condition::NotMet => {}
            Condition::Unknown => return self.ask_others(&current.state),
            Condition::Met => match self.authoriser(room, &current.state).await? {
                Some(user) => drop(content.insert(AUTHORISER.into(), user.as_str().into())),
                None => return self.ask_others(&current.state),
            },
        }
        let event = NewEvent::membership(user, user, content);
        match self.send(&room.key.room_id, event).await {
            Ok(_) => Ok(Here::Joined),
            // The invite has not arrived in the room yet; where it was made it is known (R25).
            Err(RoomError::Forbidden(_)) if !inviter.is_empty() => Ok(Here::Ask(inviter)),
            Err(error) => Err(error),
        }
    }

    /// Somebody on another server in the room may be able to let a user in.
    fn ask_others(&self, state: &State) -> Result<Here, RoomError> {
        let others = self.others_in(state);
        if others.is_empty() {
            return Err(RoomError::Forbidden(
                "nobody in the room can let the user in".into(),
            ));
        }
        Ok(Here::Ask(others))
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
        let mut outcome = self.begin_join(record, false);
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.ok().and_then(|outcome| outcome.clone()) {
            Some(result) => result,
            None => Err(RoomError::Internal("the server is stopping".into())),
        }
    }

    /// Carries a join out as a task, or attaches to it. `may_be_in`: an earlier attempt may have succeeded
    /// without our knowing.
    fn begin_join(&self, record: JoinRecord, may_be_in: bool) -> watch::Receiver<Outcome> {
        let key = (record.room_id.clone(), record.user_id.clone());
        let mut running = lock(&self.0.joins.running);
        if let Some(outcome) = running.get(&key) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        running.insert(key.clone(), outcome.clone());
        drop(running);
        let rooms = self.clone();
        drop(self.env().tasks.spawn("join a room", async move {
            let mut progress = Progress {
                may_be_in,
                unanswered: false,
            };
            let result = rooms.carry_out_join(&record, &mut progress).await;
            if let Err(error) = &result {
                tracing::info!(room = %record.room_id, user = %record.user_id, %error, "join failed");
            }
            if is_open(&result, &progress) {
                // What was pushed since goes on waiting.
                rooms.repair_join(record);
            } else if let Some(room) = rooms.room_in_use(&record.room_id) {
                match &result {
                    Ok(()) => room.inbound.end_joins(),
                    Err(_) => room.inbound.end_join(&record.user_id),
                }
                rooms.work(&room);
            }
            lock(&rooms.0.joins.running).remove(&key);
            sender.send_replace(Some(result));
        }));
        outcome
    }

    /// Writes the join down, so that a crash after `send_join` can be repaired, and carries it out. The
    /// record stays until it is known what became of the join.
    async fn carry_out_join(
        &self,
        record: &JoinRecord,
        progress: &mut Progress,
    ) -> Result<(), RoomError> {
        let written = record.clone();
        self.database()
            .write("begin a join", Priority::Interactive, move |tx| {
                Box::pin(async move { joins::put_join(tx, &written).await })
            })
            .await
            .map_err(RoomError::Storage)?;
        let result = contained("ask candidates", self.ask_candidates(record, progress)).await;
        if result.is_err() && !is_open(&result, progress) {
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
    async fn ask_candidates(
        &self,
        record: &JoinRecord,
        progress: &mut Progress,
    ) -> Result<(), RoomError> {
        let mut attempts = Attempts::default();
        for server in &record.candidates {
            match self.join_through(server, record, progress).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    progress.unanswered |= !is_refusal(&error);
                    attempts.failed(server, error)?;
                }
            }
        }
        Err(attempts.nobody())
    }

    async fn join_through(
        &self,
        server: &ServerName,
        record: &JoinRecord,
        progress: &mut Progress,
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
            Handshake::new(self, &record.room_id, &record.user_id, &template, content).await?;
        // What arrives waits for the end of the whole join, whichever candidate it succeeds with. In a room
        // that this server is in already nothing has to.
        if !handshake.room.has_server(self.server_name()) {
            handshake.room.inbound.begin_join(&record.user_id);
        }
        // One after the other: what a join builds upon, and whether it may be partial, depends on
        // whether another one has brought this server into the room (R92, R113).
        let alone = handshake.room.joining.lock().await;
        let result = handshake.send(server).await;
        drop(alone);
        // It was sent; only an answer that says so means that nothing came of it.
        progress.may_be_in |= !matches!(&result, Err(error) if is_refusal(error));
        if handshake.room.is_partial() {
            self.resync(&handshake.room);
        }
        result
    }

    /// Tries a join again, with growing pauses, until it is known what became of it.
    fn repair_join(&self, record: JoinRecord) {
        let key = (record.room_id.clone(), record.user_id.clone());
        if !lock(&self.0.joins.repairing).insert(key.clone()) {
            return;
        }
        let rooms = self.clone();
        drop(self.env().tasks.spawn("repair a join", async move {
            let stopping = rooms.env().tasks.stopping();
            let repairing = async {
                let mut pause = FIRST_PAUSE;
                loop {
                    rooms.env().clock.sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    match rooms.join_records().await {
                        Ok(open) => {
                            let same = |open: &JoinRecord| {
                                (&open.room_id, &open.user_id) == (&key.0, &key.1)
                            };
                            let Some(record) = open.into_iter().find(same) else {
                                return;
                            };
                            let mut outcome = rooms.begin_join(record, true);
                            // The task that tells it ends.
                            drop(outcome.wait_for(Option::is_some).await);
                        }
                        Err(error) => tracing::error!(%error, "the joins can't be read"),
                    }
                }
            };
            Box::pin(stopping.run_until_cancelled(repairing)).await;
            lock(&rooms.0.joins.repairing).remove(&key);
        }));
    }

    /// The joins of which it isn't known what became.
    async fn join_records(&self) -> Result<Vec<JoinRecord>, StorageError> {
        self.database()
            .look_up("joins", |tx| {
                Box::pin(async move { joins::joins(tx).await })
            })
            .await
    }

    /// Repairs the joins that a stop or a crash interrupted, however long ago: the room may believe that
    /// the user is in it.
    pub(crate) async fn resume_joins(&self) -> Result<(), StorageError> {
        for record in self.join_records().await? {
            tracing::info!(room = %record.room_id, user = %record.user_id, "repairing a join");
            // What others sent after the join that was lost has to wait for the new one: judged
            // before it, it would be judged in a room without a state.
            if let Some(room) = self.room(&record.room_id).await?
                && !room.has_server(self.server_name())
            {
                room.inbound.begin_join(&record.user_id);
            }
            drop(self.begin_join(record, true));
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it isn't known what became of a join.
fn is_open(result: &Result<(), RoomError>, progress: &Progress) -> bool {
    progress.may_be_in
        && match result {
            Ok(()) => false,
            Err(RoomError::NoServer(_)) => progress.unanswered,
            Err(RoomError::Storage(error)) => !error.is_lasting(),
            Err(_) => false,
        }
}

/// Whether a server has answered and will not let the user in, as opposed to one that failed to.
fn is_refusal(error: &RoomError) -> bool {
    match error {
        RoomError::Remote(error) => error.remote().is_some_and(|remote| remote.status < 500),
        _ => false,
    }
}
