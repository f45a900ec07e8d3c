//! Events that were asked for, and what becomes of those that can't be placed: they rest for growing times, and
//! nobody waits for them again (R54–R59, R66).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use myelin_core::{
    receive::{Decision, Placement, RemoteNeed},
    validate::ValidPdu,
};
use myelin_storage::{Priority, events::Known, joins};
use ruma::{EventId, OwnedEventId, ServerName};

use crate::{
    RoomError, Rooms,
    room::Room,
    turn::{Candidate, Turn},
};

/// Whether an event that was asked for can be placed now.
enum Readiness {
    /// It, or a parent that it lacks, has failed: its time has not come yet.
    Rests,
    /// It, or a parent that it lacks, has failed, and may be tried once more.
    Again,
    /// Nothing is known against it.
    Fresh,
}

impl Rooms {
    /// Takes events that were asked for because of one that waits, parents first. One that can't be placed does
    /// not keep the others from being taken.
    pub(crate) async fn take_pulled(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        pdus: Vec<ValidPdu>,
    ) -> Result<(), RoomError> {
        for candidate in self.in_order(room, pdus).await? {
            if !matches!(
                self.readiness(room, &candidate.pdu).await?,
                Readiness::Rests
            ) {
                self.try_pull(room, server, candidate, false).await?;
            }
        }
        Ok(())
    }

    /// Takes history that somebody waits for. What has failed before is tried again in the background, with all
    /// that comes after it: it may take as long as the last time (R66).
    pub(crate) async fn take_history(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        pdus: Vec<ValidPdu>,
    ) -> Result<(), RoomError> {
        let mut again = Vec::new();
        let mut put_off = HashSet::new();
        for candidate in self.in_order(room, pdus).await? {
            let pdu = &candidate.pdu;
            let readiness = self.readiness(room, pdu).await?;
            let follows = pdu.prev_events.iter().any(|id| put_off.contains(id));
            match readiness {
                Readiness::Rests => {}
                Readiness::Fresh if !follows => {
                    self.try_pull(room, server, candidate, true).await?;
                }
                Readiness::Fresh | Readiness::Again => {
                    put_off.insert(pdu.event_id.clone());
                    again.push(candidate);
                }
            }
        }
        if !again.is_empty() {
            self.try_again(room, server, again);
        }
        Ok(())
    }

    /// Tries history again that failed before. A room has one such task; what comes meanwhile will be asked for
    /// another time.
    fn try_again(&self, room: &Arc<Room>, server: &ServerName, candidates: Vec<Candidate>) {
        let Ok(alone) = room.trying_again.clone().try_lock_owned() else {
            return;
        };
        let (rooms, room, server) = (self.clone(), room.clone(), server.to_owned());
        drop(self.env().tasks.spawn("try history again", async move {
            let _alone = alone;
            let trying = async {
                for candidate in candidates {
                    if let Err(error) = rooms.try_pull(&room, &server, candidate, true).await {
                        tracing::warn!(room = %room.key.room_id, %error, "history is given up");
                        return;
                    }
                }
            };
            let trying = room.while_it_lasts(trying);
            let stopping = rooms.env().tasks.stopping();
            Box::pin(stopping.run_until_cancelled(trying)).await;
        }));
    }

    /// Parents first.
    async fn in_order(
        &self,
        room: &Arc<Room>,
        mut pdus: Vec<ValidPdu>,
    ) -> Result<Vec<Candidate>, RoomError> {
        pdus.sort_by_key(|pdu| pdu.depth);
        Ok(self.seek_recommendations(room, pdus).await?)
    }

    /// Takes an event. If it can't be placed, that is noted.
    async fn try_pull(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        candidate: Candidate,
        backfilled: bool,
    ) -> Result<(), RoomError> {
        let id = candidate.pdu.event_id.clone();
        match self.pull(room, server, candidate, backfilled).await {
            Ok(()) => self.forget_failed_pulls(&id).await,
            Err(RoomError::Storage(error)) => Err(error.into()),
            Err(error) => {
                tracing::warn!(room = %room.key.room_id, event = %id, %error, "pull failed");
                self.note_failed_pull(&id, &error).await
            }
        }
    }

    /// What is known against an event, or against a parent that is missing: the state there would have to be
    /// asked for again.
    async fn readiness(&self, room: &Arc<Room>, pdu: &ValidPdu) -> Result<Readiness, RoomError> {
        let parents = room
            .known_events(self, pdu.prev_events.iter().cloned())
            .await?;
        let in_timeline = |id: &OwnedEventId| matches!(parents.get(id), Some(Known::Held(parent)) if parent.in_timeline());
        let missing = pdu.prev_events.iter().filter(|id| !in_timeline(id));
        let mut readiness = Readiness::Fresh;
        for id in missing.chain([&pdu.event_id]) {
            if let Some((attempts, last_ms)) = self.pull_failure(id).await? {
                if self.env().clock.now_ms() < last_ms + rest_ms(attempts) {
                    return Ok(Readiness::Rests);
                }
                readiness = Readiness::Again;
            }
        }
        Ok(readiness)
    }

    /// How often an event failed, and when it did last, in Unix milliseconds.
    async fn pull_failure(&self, id: &EventId) -> Result<Option<(u32, u64)>, RoomError> {
        let wanted = id.to_owned();
        self.database()
            .look_up("pull failures", move |tx| {
                Box::pin(async move { joins::pull_failure(tx, &wanted).await })
            })
            .await
            .map_err(RoomError::Storage)
    }

    async fn note_failed_pull(&self, id: &EventId, error: &RoomError) -> Result<(), RoomError> {
        let id = id.to_owned();
        let error = error.to_string();
        let now_ms = self.env().clock.now_ms();
        self.database()
            .write("note a failed pull", Priority::Bulk, move |tx| {
                Box::pin(async move { joins::put_pull_failure(tx, &id, now_ms, &error).await })
            })
            .await
            .map_err(RoomError::Storage)
    }

    async fn forget_failed_pulls(&self, id: &EventId) -> Result<(), RoomError> {
        if self.pull_failure(id).await?.is_none() {
            return Ok(());
        }
        let id = id.to_owned();
        self.database()
            .write("an event was pulled", Priority::Bulk, move |tx| {
                Box::pin(async move { joins::delete_pull_failure(tx, &id).await })
            })
            .await
            .map_err(RoomError::Storage)
    }

    /// Takes one event that was asked for. Parents that can't be had are replaced by the state after
    /// them, as `server` gives it (R55).
    async fn pull(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        mut candidate: Candidate,
        backfilled: bool,
    ) -> Result<(), RoomError> {
        let mut after_missing = BTreeMap::new();
        let mut asked_for_auth = false;
        loop {
            let mut turn = Turn::take(self, room).await?;
            candidate.placement = Placement::Pulled {
                backfilled,
                after_missing: after_missing.clone(),
            };
            let need = match turn.decide(candidate.clone()).await? {
                Decision::Done(plan) => {
                    turn.accept(plan).await?;
                    return Ok(turn.commit().await?);
                }
                Decision::Drop(_) => return Ok(()),
                Decision::NeedRemote(need) => need,
                other => return Err(RoomError::Internal(format!("a pull ended in {other:?}"))),
            };
            drop(turn);
            match need {
                RemoteNeed::AuthEvents(missing) if asked_for_auth => {
                    return Err(RoomError::NoServer(format!("no auth events {missing:?}")));
                }
                RemoteNeed::AuthEvents(_) => {
                    asked_for_auth = true;
                    let event_id = &candidate.pdu.event_id;
                    self.fetch_auth_events(room, server, event_id).await?;
                }
                RemoteNeed::PolicySignature(server) => {
                    candidate = self.seek_recommendation(room, &server, candidate).await?;
                }
                RemoteNeed::StatesAfter(parents) | RemoteNeed::Parents(parents) => {
                    for parent in parents {
                        let fetched = self.fetch_state_after(room, server, &parent).await?;
                        after_missing.insert(parent, fetched.state);
                    }
                }
            }
        }
    }
}

/// After n failures an event is not pulled for 2^min(n, 8) hours (R59).
fn rest_ms(attempts: u32) -> u64 {
    (1 << attempts.min(8)) * 3_600_000
}
