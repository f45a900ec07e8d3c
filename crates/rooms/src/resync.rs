//! Completing a partial join: the full state before each event that was stored with a partial one,
//! parents first, then the room's current state.
//!
//! A resync never gives up: what failed is written down and tried again, with growing pauses, over
//! restarts, until the room is complete (R118).

use std::{
    collections::{BTreeMap, HashSet},
    iter,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use myelin_core::{
    completeness::Question,
    event::Event,
    number::RoomNr,
    receive::{self, Decision, KnownState, RemoteNeed},
};
use myelin_storage::{
    Priority, StorageError,
    events::{self, Known},
    joins::{self, PartialRoom},
};
use ruma::{OwnedEventId, OwnedServerName};
use tokio::sync::Semaphore;

use crate::{
    RoomError, Rooms, containment::contained, fetched_state::Fetched, room::Room, turn::Turn,
};

/// How many rooms are completed at the same time (R125).
const PARALLEL_RESYNCS: usize = 4;

/// How many events are looked at in one round.
const ROUND: usize = 100;

/// How many servers are asked for a state of which something is left out.
const MOST_OPINIONS: usize = 3;

/// The pause after the first failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(4 * 3_600);

/// The resyncs that run. One room has one at most (R121).
pub(crate) struct Resyncs {
    active: Mutex<HashSet<RoomNr>>,
    permits: Semaphore,
}

impl Default for Resyncs {
    fn default() -> Self {
        Self {
            active: Mutex::default(),
            permits: Semaphore::new(PARALLEL_RESYNCS),
        }
    }
}

impl Rooms {
    /// Goes on with the resyncs that a stop or a crash interrupted.
    pub(crate) async fn resume_resyncs(&self) -> Result<(), StorageError> {
        let partial = self
            .database()
            .look_up("partial rooms", |tx| {
                Box::pin(async move { joins::partial_rooms(tx).await })
            })
            .await?;
        for record in partial {
            if let Some(room) = self.room_by_nr(record.room).await? {
                self.resync(&room);
            }
        }
        Ok(())
    }

    /// Starts completing a room in the background, unless that runs.
    pub(crate) fn resync(&self, room: &Arc<Room>) {
        let nr = room.key.room;
        let mut active = self
            .0
            .resyncs
            .active
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !active.insert(nr) {
            return;
        }
        drop(active);
        let running = metrics::gauge!("myelin_resyncs_running");
        running.increment(1);
        let (rooms, room) = (self.clone(), room.clone());
        drop(self.env().tasks.spawn("resync", async move {
            let stopping = rooms.env().tasks.stopping();
            let completing = async {
                let complete = || contained("complete a room", rooms.complete(&room));
                while let Err(error) = complete().await {
                    tracing::error!(room = %room.key.room_id, %error, "the resync is interrupted");
                    rooms.env().clock.sleep(FIRST_PAUSE).await;
                }
            };
            let completing = room.while_it_lasts(completing);
            Box::pin(stopping.run_until_cancelled(completing)).await;
            let mut active = rooms
                .0
                .resyncs
                .active
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            active.remove(&nr);
            running.decrement(1);
        }));
    }

    /// Waits until a room's state is complete, for at most `limit`.
    ///
    /// # Errors
    /// [`RoomError::StillPartial`] if it still isn't.
    pub async fn wait_for_full(&self, room: &Room, limit: Duration) -> Result<(), RoomError> {
        let mut partial = room.watch_partial();
        let full = partial.wait_for(|partial| !partial);
        match self.env().clock.timeout(limit, full).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(RoomError::StillPartial),
        }
    }

    async fn complete(&self, room: &Arc<Room>) -> Result<(), StorageError> {
        loop {
            let Some(record) = self.partial_record(room).await? else {
                return Ok(());
            };
            let now_ms = self.env().clock.now_ms();
            let pause_ms = record.next_try_ms.saturating_sub(now_ms);
            self.env()
                .clock
                .sleep(Duration::from_millis(pause_ms))
                .await;
            // Never closed.
            let _permit = self.0.resyncs.permits.acquire().await.ok();
            tracing::info!(room = %room.key.room_id, attempt = record.attempts, "resync");
            match contained("resync a room", self.resync_once(room, &record)).await {
                Ok(()) => {
                    tracing::info!(room = %room.key.room_id, "the room is complete");
                    return Ok(());
                }
                Err(error) => self.note_failed_resync(&record, room, &error).await?,
            }
        }
    }

    async fn partial_record(&self, room: &Room) -> Result<Option<PartialRoom>, StorageError> {
        let nr = room.key.room;
        self.database()
            .look_up("partial room", move |tx| {
                Box::pin(async move { joins::partial_room(tx, nr).await })
            })
            .await
    }

    async fn note_failed_resync(
        &self,
        record: &PartialRoom,
        room: &Room,
        error: &RoomError,
    ) -> Result<(), StorageError> {
        let attempts = record.attempts.saturating_add(1);
        let pause = FIRST_PAUSE
            .saturating_mul(1_u32 << record.attempts.min(12))
            .min(LONGEST_PAUSE);
        let pause_ms = pause.as_millis() as u64;
        // Rooms that failed together are not tried together.
        let jitter_ms = self.env().random.below(pause_ms / 4 + 1);
        let next_try_ms = self.env().clock.now_ms() + pause_ms + jitter_ms;
        tracing::warn!(
            room = %room.key.room_id, attempts, %error, pause_s = pause.as_secs(),
            "the resync failed and will be tried again"
        );
        let nr = record.room;
        let error = error.to_string();
        self.database()
            .write("note a failed resync", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    joins::resync_failed(tx, nr, attempts, next_try_ms, &error).await
                })
            })
            .await
    }

    async fn resync_once(&self, room: &Arc<Room>, record: &PartialRoom) -> Result<(), RoomError> {
        let mut servers = Servers::new(self, room, record);
        loop {
            let nr = room.key.room;
            let partial = self
                .database()
                .read("partial events", move |tx| {
                    Box::pin(async move { events::partial_events(tx, nr, ROUND).await })
                })
                .await?;
            if partial.is_empty() {
                if self.finish_resync(room).await? {
                    return Ok(());
                }
                continue;
            }
            let held = room.events(self, partial.iter().copied()).await?;
            let mut progress = false;
            for nr in partial {
                let Some(event) = held.get(&nr) else { continue };
                if !self.has_partial_parent(room, event).await? {
                    self.complete_event(room, event, &mut servers).await?;
                    progress = true;
                }
            }
            if !progress {
                return Err(RoomError::Internal(
                    "every partial event has a partial parent".into(),
                ));
            }
        }
    }

    /// Only events whose parents are complete can be completed (R114).
    async fn has_partial_parent(
        &self,
        room: &Arc<Room>,
        event: &Event,
    ) -> Result<bool, StorageError> {
        let parents = room
            .known_events(self, event.pdu.prev_events.iter().cloned())
            .await?;
        Ok(parents.into_values().any(|known| match known {
            Known::Held(parent) => parent
                .before()
                .is_some_and(|before| before.answering(Question::AllMembers).is_none()),
            Known::Referenced(_) => false,
        }))
    }

    /// Gives one event its full state, and judges it by that.
    async fn complete_event(
        &self,
        room: &Arc<Room>,
        event: &Arc<Event>,
        servers: &mut Servers<'_>,
    ) -> Result<(), RoomError> {
        let mut after_missing: BTreeMap<OwnedEventId, KnownState> = BTreeMap::new();
        let mut asked_for_auth = false;
        loop {
            let mut turn = Turn::take(self, room).await?;
            let asked = turn
                .ask(|facts, desk| receive::judge_again(facts, desk, event, &after_missing))
                .await?;
            let need = match asked {
                Decision::Done(rejudged) => return turn.replace(event, rejudged).await,
                Decision::NeedRemote(need) => need,
                other => return Err(RoomError::Internal(format!("a resync needs {other:?}"))),
            };
            drop(turn);
            match need {
                RemoteNeed::AuthEvents(missing) => {
                    if std::mem::replace(&mut asked_for_auth, true) {
                        return Err(RoomError::NoServer(format!("no auth events {missing:?}")));
                    }
                    servers.auth_events(room, &event.pdu.event_id).await?;
                }
                RemoteNeed::StatesAfter(parents) | RemoteNeed::Parents(parents) => {
                    for parent in parents {
                        let state = servers.state_after(room, &parent).await?;
                        after_missing.insert(parent, state);
                    }
                }
                need @ RemoteNeed::PolicySignature(_) => {
                    return Err(RoomError::Internal(format!("a resync needs {need:?}")));
                }
            }
        }
    }

    /// Computes the current state from full states and marks the room as complete. False if partial
    /// events came in meanwhile (R120).
    async fn finish_resync(&self, room: &Arc<Room>) -> Result<bool, RoomError> {
        let mut turn = Turn::take(self, room).await?;
        let nr = room.key.room;
        let left = self
            .database()
            .look_up("partial events left", move |tx| {
                Box::pin(async move { events::count_partial(tx, nr).await })
            })
            .await?;
        if left > 0 {
            return Ok(false);
        }
        let current = turn.resolve_current().await?;
        if !current.completeness.permits(Question::AllMembers) {
            return Err(RoomError::Internal(
                "the current state is still partial".into(),
            ));
        }
        turn.become_full(current).await?;
        Ok(true)
    }
}

/// The servers that may have the state, the one that served the join first (R119). One that works is
/// kept.
struct Servers<'a> {
    rooms: &'a Rooms,
    names: Vec<OwnedServerName>,
    current: usize,
}

impl<'a> Servers<'a> {
    /// After those that the join named come those that the room is known to have by now: who lost a join that
    /// another branch of history knows nothing of is answered only by servers that saw it.
    fn new(rooms: &'a Rooms, room: &Room, record: &PartialRoom) -> Self {
        let current = room.current();
        let known = current.map(|current| rooms.others_in(&current.state));
        let named = iter::once(&record.served_by).chain(&record.servers);
        let names = rooms.candidates(named.cloned().chain(known.into_iter().flatten()));
        Self {
            rooms,
            names,
            current: 0,
        }
    }

    /// The state after an event. If something in it is of no use as one server gives it, others are
    /// asked: signatures may have been spoilt on the way, or on purpose.
    async fn state_after(
        &mut self,
        room: &Arc<Room>,
        event: &OwnedEventId,
    ) -> Result<KnownState, RoomError> {
        let mut last = RoomError::NoServer("no server is known".into());
        let mut best: Option<Fetched> = None;
        let mut opinions = 0;
        for _ in 0..self.names.len() {
            let server = &self.names[self.current];
            match self.rooms.fetch_state_after(room, server, event).await {
                Ok(fetched) if fetched.left_out == 0 => return Ok(fetched.state),
                Ok(fetched) => {
                    if best
                        .as_ref()
                        .is_none_or(|best| fetched.left_out < best.left_out)
                    {
                        best = Some(fetched);
                    }
                    opinions += 1;
                    if opinions >= MOST_OPINIONS {
                        break;
                    }
                }
                Err(RoomError::Storage(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::info!(%server, room = %room.key.room_id, %error, "no state from it");
                    last = error;
                }
            }
            self.current = (self.current + 1) % self.names.len();
        }
        best.map(|best| best.state).ok_or(last)
    }

    /// Has the auth events of an event stored.
    async fn auth_events(
        &mut self,
        room: &Arc<Room>,
        event: &OwnedEventId,
    ) -> Result<(), RoomError> {
        let mut last = RoomError::NoServer("no server is known".into());
        for _ in 0..self.names.len() {
            let server = &self.names[self.current];
            match self.rooms.fetch_auth_events(room, server, event).await {
                Ok(()) => return Ok(()),
                Err(RoomError::Storage(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::info!(%server, room = %room.key.room_id, %error, "no auth events from it");
                    last = error;
                    self.current = (self.current + 1) % self.names.len();
                }
            }
        }
        Err(last)
    }
}
