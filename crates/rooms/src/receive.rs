//! An event from another server, from its arrival to its place in the room (server-server API,
//! "Transactions" and "Checks performed on receipt of a PDU").
//!
//! ```text
//! receive_transaction   checks 1 to 3 (format, signatures, hash); staged, answered
//!                       (each transaction once: `taking`)
//! work_through          in order of arrival: decide (checks 4 to 7), commit; what needs other servers is parked
//! settle                what was parked: ask for it once, decide again, or refuse
//! set_aside             what can never be judged
//! ```

use std::{sync::Arc, time::Duration};

use myelin_core::{
    receive::{Decision, Plan, RemoteNeed},
    validate::ValidPdu,
};
use myelin_storage::{
    Priority, StorageError,
    staged::{self, Staged},
};
use ruma::{OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::Notify;
use tracing::Instrument as _;

use crate::{
    ReceiveError, RoomError, Rooms, Taking,
    containment::contained,
    room::Room,
    staging::Arrival,
    trace::Trace,
    turn::{Candidate, Turn},
};

/// How many events are decided and committed together.
const LONGEST_RUN: usize = 100;

/// From this many events of a room on that wait to be judged, their senders wait too (R43).
const BACKLOG: usize = 1_000;

/// The pause after the database failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How long a sender is held up at most.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

/// What the workers of all rooms have in common.
#[derive(Default)]
pub(crate) struct Workers {
    /// Tells senders that wait that a backlog got shorter.
    shorter: Notify,
}

impl Rooms {
    /// Takes the PDUs of another server's transaction. When this returns, what was not refused is
    /// durable; the answer says what was refused.
    ///
    /// # Errors
    /// Any [`ReceiveError`]; then nothing was taken.
    pub async fn receive_transaction(
        &self,
        taking: &Taking<'_>,
        pdus: Vec<Box<RawValue>>,
    ) -> Result<Box<RawValue>, ReceiveError> {
        if let Some(response) = self.earlier_response(taking).await? {
            return Ok(response);
        }
        let origin = &*taking.origin;
        let mut results = serde_json::Map::new();
        let mut arrivals = Vec::new();
        for (room, pdus) in self.by_room(pdus).await? {
            if self.allows(&room, origin).await? {
                self.hold_back(&room).await;
                arrivals.extend(self.check(&room, pdus, &mut results).await);
            } else {
                self.refuse(origin, &room, pdus, &mut results).await;
            }
        }
        // Of nothing that was said of any event nothing has to be remembered: a transaction of EDUs, or of events
        // that are ignored, costs no write.
        let is_remembered = !results.is_empty();
        let answer = to_raw_value(&json!({ "pdus": results })).expect("values can be written");
        if !is_remembered {
            return Ok(answer);
        }
        // Before they are staged: a worker that runs may judge them at once.
        arrivals.iter_mut().for_each(Arrival::wait);
        let staged = self.stage(taking, &arrivals, answer.get().to_owned()).await;
        if let Err(error) = staged {
            for arrival in &arrivals {
                arrival.give_up(self);
            }
            return Err(error.into());
        }
        for arrival in arrivals {
            self.work(&arrival.room);
        }
        Ok(answer)
    }

    /// Sorts PDUs by the rooms that we are in, in order of arrival. Others are ignored: their senders
    /// may think that we are still there (R40).
    async fn by_room(
        &self,
        pdus: Vec<Box<RawValue>>,
    ) -> Result<Vec<(Arc<Room>, Vec<Box<RawValue>>)>, StorageError> {
        #[derive(Deserialize)]
        struct RoomOnly {
            room_id: OwnedRoomId,
        }
        let mut rooms: Vec<(OwnedRoomId, Vec<Box<RawValue>>)> = Vec::new();
        for pdu in pdus {
            let Ok(RoomOnly { room_id }) = serde_json::from_str(pdu.get()) else {
                continue;
            };
            match rooms.iter_mut().find(|(known, _)| *known == room_id) {
                Some((_, of_room)) => of_room.push(pdu),
                None => rooms.push((room_id, vec![pdu])),
            }
        }
        let mut known = Vec::new();
        for (room_id, pdus) in rooms {
            match self.room_for_pushes(&room_id).await? {
                Some(room) => known.push((room, pdus)),
                None => self.take_rescissions(&room_id, &pdus).await?,
            }
        }
        Ok(known)
    }

    async fn room_for_pushes(&self, room_id: &RoomId) -> Result<Option<Arc<Room>>, StorageError> {
        let room = self.room(room_id).await?;
        Ok(room.filter(|room| room.has_server(self.server_name()) || room.inbound.is_joining()))
    }

    /// The room's server ACL keeps the origin out: its PDUs are refused, whoever wrote them (R39).
    async fn refuse(
        &self,
        origin: &ServerName,
        room: &Room,
        pdus: Vec<Box<RawValue>>,
        results: &mut serde_json::Map<String, serde_json::Value>,
    ) {
        let room_id = &room.key.room_id;
        tracing::info!(room = %room_id, %origin, "PDUs were refused: server ACL");
        for id in self.ids_of(room.key.version, room_id, pdus).await {
            let error = "the room's server ACL keeps your server out";
            results.insert(id.to_string(), json!({ "error": error }));
        }
    }

    /// Checks 1 to 3. What fails is refused in the answer, if its ID can be told.
    async fn check(
        &self,
        room: &Arc<Room>,
        pdus: Vec<Box<RawValue>>,
        results: &mut serde_json::Map<String, serde_json::Value>,
    ) -> Vec<Arrival> {
        let checked = self
            .validate_each(room.key.version, &room.key.room_id, pdus)
            .instrument(tracing::debug_span!("check signatures"))
            .await;
        let mut arrivals = Vec::new();
        for (id, result) in checked {
            match result {
                Ok(pdu) => {
                    results.insert(pdu.event_id.to_string(), json!({}));
                    arrivals.push(Arrival::new(self, room, pdu));
                }
                Err(reason) => {
                    tracing::info!(room = %room.key.room_id, %reason, "a pushed event was dropped");
                    if let Some(id) = id {
                        results.insert(id.to_string(), json!({ "error": reason.to_string() }));
                    }
                }
            }
        }
        arrivals
    }

    /// Holds a sender up while too many events of the room wait.
    async fn hold_back(&self, room: &Arc<Room>) {
        let held = async {
            loop {
                let shorter = self.0.workers.shorter.notified();
                if room.inbound.backlog() < BACKLOG || room.inbound.is_joining() {
                    return;
                }
                shorter.await;
            }
        };
        // The bound protects us from a worker that can't go on; the events are durable anyway.
        let _ = self.env().clock.timeout(LONGEST_HOLD, held).await;
    }

    /// Goes on with the events that were staged when the server stopped. Those that could not be judged
    /// are tried once more: this may be a version that can.
    pub(crate) async fn resume_staged(&self) -> Result<(), StorageError> {
        let waiting = self
            .database()
            .write("staged rooms", Priority::Interactive, |tx| {
                Box::pin(async move {
                    staged::take_up(tx).await?;
                    staged::rooms(tx).await
                })
            })
            .await?;
        for nr in waiting {
            if let Some(room) = self.room_by_nr(nr).await? {
                self.work(&room);
            }
        }
        Ok(())
    }

    /// Starts the room's worker, unless it runs.
    pub(crate) fn work(&self, room: &Arc<Room>) {
        if !room.inbound.begin_work() {
            return;
        }
        let (rooms, room) = (self.clone(), room.clone());
        drop(self.env().tasks.spawn("receive events", async move {
            let stopping = rooms.env().tasks.stopping();
            let working = async {
                let work = || contained("receive events", rooms.work_through(&room));
                while let Err(error) = work().await {
                    // The events are staged, and nothing is lost by waiting.
                    tracing::error!(room = %room.key.room_id, %error, "receiving failed");
                    rooms.env().clock.sleep(PAUSE_AFTER_FAILURE).await;
                }
            };
            let working = room.while_it_lasts(working);
            Box::pin(stopping.run_until_cancelled(working)).await;
        }));
    }

    async fn work_through(&self, room: &Arc<Room>) -> Result<(), StorageError> {
        loop {
            let in_hand = room.inbound.look();
            let nr = room.key.room;
            let run = self
                .database()
                .look_up("staged PDUs", move |tx| {
                    Box::pin(async move { staged::list(tx, nr, in_hand, LONGEST_RUN).await })
                })
                .await?;
            if !run.is_empty() {
                self.judge_run(room, run).await?;
            } else if room.inbound.end_work() {
                return Ok(());
            }
        }
    }

    /// Judges a run of events. If one of them can't be judged, now or ever, it is set aside, and the
    /// others are judged all the same.
    async fn judge_run(&self, room: &Arc<Room>, run: Vec<Staged>) -> Result<(), StorageError> {
        match contained("judge events", self.judge(room, &run)).await {
            Err(error) if error.is_lasting() => {}
            judged => return judged,
        }
        for staged in run {
            let judging = self.judge(room, std::slice::from_ref(&staged));
            match contained("judge an event", judging).await {
                Err(error) if error.is_lasting() => self.set_aside(room, &staged, &error).await?,
                judged => judged?,
            }
        }
        Ok(())
    }

    /// Decides a run of events and commits it. Those that need other servers are parked.
    async fn judge(&self, room: &Arc<Room>, run: &[Staged]) -> Result<(), StorageError> {
        let pdus: Vec<_> = run
            .iter()
            .map(|staged| Ok((room.read(staged)?, staged)))
            .collect::<Result<_, StorageError>>()?;
        let mut turn = Turn::take(self, room).await?;
        turn.look_up_all(pdus.iter().map(|(pdu, _)| pdu), true)
            .await?;
        let mut parked = Vec::new();
        for (pdu, staged) in pdus {
            let mut trace = room.inbound.take_trace(staged.staged);
            trace.step("decide");
            match turn.decide(Candidate::live(pdu)).await? {
                Decision::NeedRemote(_) => {
                    trace.step("park");
                    room.inbound.put_trace(staged.staged, trace);
                    parked.push(staged.clone());
                }
                decision => turn.settle(staged, decision, trace).await?,
            }
        }
        let judged = run.len() - parked.len();
        turn.commit().await?;
        self.lessen_backlog(room, judged);
        self.park(room, parked);
        Ok(())
    }

    /// Keeps an event that can't be judged out of the way of the others. Its row stays: it was
    /// acknowledged.
    async fn set_aside(
        &self,
        room: &Room,
        staged: &Staged,
        error: &StorageError,
    ) -> Result<(), StorageError> {
        tracing::error!(
            room = %room.key.room_id, event = %staged.event_id, origin = %staged.origin, %error,
            "a pushed event can't be judged and is set aside"
        );
        room.inbound.take_trace(staged.staged);
        let (number, failure) = (staged.staged, error.to_string());
        self.database()
            .write("set aside", Priority::Interactive, move |tx| {
                Box::pin(async move { staged::set_aside(tx, number, &failure).await })
            })
            .await?;
        self.lessen_backlog(room, 1);
        Ok(())
    }

    pub(crate) fn lessen_backlog(&self, room: &Room, by: usize) {
        room.inbound.take_from_backlog(by);
        self.0.workers.shorter.notify_waiters();
    }

    /// Puts events aside until other servers were asked for what they lack. Others go on.
    fn park(&self, room: &Arc<Room>, parked: Vec<Staged>) {
        if !room.inbound.park(parked) {
            return;
        }
        let (rooms, room) = (self.clone(), room.clone());
        drop(self.env().tasks.spawn("settle parked events", async move {
            let stopping = rooms.env().tasks.stopping();
            stopping
                .run_until_cancelled(rooms.settle_parked(&room))
                .await;
        }));
    }

    /// Settles what is parked, one event after the other: a gap is asked for once (R49).
    async fn settle_parked(&self, room: &Arc<Room>) {
        while let Some(staged) = room.inbound.next_parked() {
            let settle = || {
                contained(
                    "settle a parked event",
                    self.settle_or_set_aside(room, &staged),
                )
            };
            while let Err(error) = settle().await {
                tracing::error!(event = %staged.event_id, %error, "settling failed");
                self.env().clock.sleep(PAUSE_AFTER_FAILURE).await;
            }
            room.inbound.settled(staged.staged);
        }
    }

    async fn settle_or_set_aside(
        &self,
        room: &Arc<Room>,
        staged: &Staged,
    ) -> Result<(), StorageError> {
        match Box::pin(contained("settle an event", self.settle(room, staged))).await {
            Err(error) if error.is_lasting() => self.set_aside(room, staged, &error).await,
            settled => {
                settled?;
                self.lessen_backlog(room, 1);
                Ok(())
            }
        }
    }

    /// Gets what a parked event lacks, each thing once, and decides it. What can't be had makes the
    /// event be refused: a pushed event without its parents could choose the room's state (R50). Only the
    /// signature of a policy server it can do without, and then fails softly (R79).
    async fn settle(&self, room: &Arc<Room>, staged: &Staged) -> Result<(), StorageError> {
        let mut candidate = Candidate::live(room.read(staged)?);
        let mut asked_for_parents = false;
        let mut asked_for_auth = false;
        let mut trace = room.inbound.take_trace(staged.staged);
        loop {
            let mut turn = Turn::take(self, room).await?;
            trace.step("decide");
            let need = match turn.decide(candidate.clone()).await? {
                Decision::NeedRemote(RemoteNeed::PolicySignature(server)) => {
                    drop(turn);
                    trace.step("ask the policy server");
                    candidate = self.seek_recommendation(room, &server, candidate).await?;
                    continue;
                }
                Decision::NeedRemote(need) => need,
                decision => {
                    turn.settle(staged, decision, trace).await?;
                    return turn.commit().await;
                }
            };
            let asked = match &need {
                RemoteNeed::AuthEvents(_) => &mut asked_for_auth,
                _ => &mut asked_for_parents,
            };
            if std::mem::replace(asked, true) {
                tracing::warn!(
                    room = %room.key.room_id, event = %staged.event_id, origin = %staged.origin,
                    ?need, "a pushed event is refused"
                );
                turn.batch.judged(staged.staged);
                return turn.commit().await;
            }
            drop(turn);
            trace.step("ask the origin");
            self.fetch_for(room, staged, &candidate.pdu, &need).await?;
        }
    }

    /// Asks the event's origin for what it lacks. A refusal shows when the event is decided again.
    async fn fetch_for(
        &self,
        room: &Arc<Room>,
        staged: &Staged,
        pdu: &ValidPdu,
        need: &RemoteNeed,
    ) -> Result<(), StorageError> {
        let fetched = match need {
            RemoteNeed::AuthEvents(_) => {
                self.fetch_auth_events(room, &staged.origin, &pdu.event_id)
                    .await
            }
            _ => self.fetch_missing(room, &staged.origin, pdu).await,
        };
        match fetched {
            Ok(()) => {}
            Err(RoomError::Storage(error)) => return Err(error),
            Err(error) => {
                tracing::info!(event = %pdu.event_id, origin = %staged.origin, %error, "fetch failed");
            }
        }
        Ok(())
    }
}

impl Room {
    /// A staged event as it was when it was checked.
    fn read(&self, staged: &Staged) -> Result<ValidPdu, StorageError> {
        let id = staged.event_id.clone();
        let json = staged.json.clone();
        myelin_core::pdu::Pdu::from_stored(self.key.version, id, json)
            .map(ValidPdu::from_own_storage)
            .map_err(|error| StorageError::Corrupt(format!("a staged event: {error}")))
    }
}

impl Turn<'_> {
    /// Takes what was decided about a staged event into the turn; the event is judged.
    async fn settle(
        &mut self,
        staged: &Staged,
        decision: Decision<Plan>,
        trace: Trace,
    ) -> Result<(), StorageError> {
        match decision {
            Decision::Done(plan) => {
                let event = self.accept(plan).await?;
                self.batch.trace(&event, trace);
                if event.verdict != myelin_core::event::Verdict::Accepted {
                    tracing::info!(event = %staged.event_id, verdict = ?event.verdict, "judged");
                }
            }
            Decision::Drop(reason) => {
                tracing::debug!(event = %staged.event_id, %reason, "a pushed event was dropped");
            }
            other => tracing::error!(event = %staged.event_id, ?other, "undecided"),
        }
        self.batch.judged(staged.staged);
        Ok(())
    }
}
