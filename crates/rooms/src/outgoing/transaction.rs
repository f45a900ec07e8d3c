//! Putting a transaction together for a server, and sending it.

use std::{pin::pin, sync::Arc, time::Duration};

use myelin_core::{
    event::Event,
    number::{EventNr, StreamPosition},
    state::Membership,
};
use myelin_env::TracePoint;
use myelin_federation::{FederationError, MOST_EDUS, MOST_PDUS, Transaction};
use myelin_storage::{
    Priority, StorageError, edu_outbox, extremities,
    outbox::{self, OutboxRow},
};
use ruma::ServerName;
use serde_json::value::RawValue;

use super::{READ_TOGETHER, is_old, unless_lasting};
use crate::{Rooms, containment::contained, room::Room, traced::trace_delivery};

/// How many bytes of EDUs a transaction has at most, but for a single one that has more.
const MOST_EDU_BYTES: usize = 1024 * 1024;

/// How many forward extremities of a room a server is told of that was away.
const MOST_LATEST: usize = 10;

/// Who has not answered after this time counts as silent.
const PROMPT: Duration = Duration::from_millis(500);

/// What was put together for a server. A retry sends the same again (R133), unless it comes too late.
pub(super) struct Prepared {
    txn_id: String,
    /// When, in Unix milliseconds.
    pub(super) made_ms: u64,
    pdus: Vec<Box<RawValue>>,
    /// The server has everything up to here when it has taken this.
    pub(super) upto: StreamPosition,
    edus: Edus,
    /// Where its events are in their traces.
    traces: Vec<TracePoint>,
}

impl Prepared {
    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.edus.json.is_empty()
    }

    /// Whether there is nothing in it that the server must get.
    pub(super) fn may_be_lost(&self) -> bool {
        self.pdus.is_empty() && self.edus.stored.is_empty()
    }
}

/// The events of a transaction.
struct Pdus {
    json: Vec<Box<RawValue>>,
    /// Where those are in the stream because of which something is sent.
    positions: Vec<StreamPosition>,
    /// The server has everything up to here with them.
    upto: StreamPosition,
}

/// The EDUs of a transaction.
#[derive(Default)]
struct Edus {
    json: Vec<Box<RawValue>>,
    /// The positions of those that are stored.
    stored: Vec<StreamPosition>,
}

impl Rooms {
    /// Puts together the next transaction for a server.
    pub(super) async fn prepare(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
    ) -> Result<Prepared, StorageError> {
        // Before anything is read: what is wanted from now on may not be among it.
        let (wanted, edus_wait) = {
            let mut senders = self.outgoing().lock();
            let sender = senders.by_server.get_mut(server);
            sender.map_or((cursor, false), |sender| {
                (sender.wanted, std::mem::take(&mut sender.edus_wait))
            })
        };
        let mut edus = match edus_wait {
            true => self.prepare_edus(server).await?,
            false => Edus::default(),
        };
        let pdus = self.prepare_pdus(server, cursor, wanted).await?;
        // Last, since after this nothing fails.
        let room = MOST_EDUS.saturating_sub(edus.json.len());
        edus.json.extend(self.take_passing(server, room));
        Ok(Prepared {
            txn_id: self.env().random.alphanumeric(16),
            made_ms: self.env().clock.now_ms(),
            traces: self.trace_points(&pdus.positions),
            pdus: pdus.json,
            upto: pdus.upto,
            edus,
        })
    }

    /// Takes EDUs that may be lost, `limit` at most.
    fn take_passing(&self, server: &ServerName, limit: usize) -> Vec<Box<RawValue>> {
        let (mut edus, users) = {
            let mut senders = self.outgoing().lock();
            let Some(sender) = senders.by_server.get_mut(server) else {
                return Vec::new();
            };
            let edus = sender.passing.take(limit);
            let users = match edus.len() < limit {
                true => sender.passing.take_presence(),
                false => Vec::new(),
            };
            (edus, users)
        };
        if !users.is_empty() {
            edus.push(self.presence_edu(&users));
        }
        edus
    }

    /// The next events for a server.
    async fn prepare_pdus(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
        wanted: StreamPosition,
    ) -> Result<Pdus, StorageError> {
        let mut pdus = Pdus {
            json: Vec::new(),
            positions: Vec::new(),
            upto: cursor,
        };
        let wanted = wanted.min(self.events_stream().readable());
        let rows = self.outbox_after(cursor).await?;
        let at_end = rows.len() < READ_TOGETHER;
        for row in rows {
            if row.position > wanted {
                // The dispatcher has yet to come to it, and would have it sent again.
                pdus.upto = pdus.upto.max(wanted);
                return Ok(pdus);
            }
            let next = contained("read an event", self.pdus_for(server, &row)).await;
            let next = unless_lasting(&row, next)?.unwrap_or_default();
            if pdus.json.len() + next.len() > MOST_PDUS {
                return Ok(pdus);
            }
            if !next.is_empty() {
                pdus.positions.push(row.position);
            }
            pdus.json.extend(next);
            pdus.upto = row.position;
        }
        if at_end {
            // Nothing lies between here and there.
            pdus.upto = pdus.upto.max(wanted);
        }
        Ok(pdus)
    }

    /// What a row has for a server: its event, or what the room has come to since.
    async fn pdus_for(
        &self,
        server: &ServerName,
        row: &OutboxRow,
    ) -> Result<Vec<Box<RawValue>>, StorageError> {
        if !self.is_receiver(row, server).await? {
            return Ok(Vec::new());
        }
        let Some(room) = self.room_by_nr(row.room).await? else {
            return Ok(Vec::new());
        };
        let mut sent = self.latest(server, &room, row).await?;
        if sent.is_empty() {
            sent.extend(room.events(self, [row.event]).await?.into_values());
        }
        // Of what its own users sent it has the originals. Only an invite may have been made by another
        // server in their name, for the owner of an address.
        sent.retain(|event| {
            let pdu = &event.pdu;
            pdu.sender.server_name() != server || pdu.membership == Some(Membership::Invite)
        });
        let json = sent.iter().map(|event| event.pdu.json.to_string());
        Ok(json
            .filter_map(|json| RawValue::from_string(json).ok())
            .collect())
    }

    /// Who was away for so long that our last event of a room is an old one is told how far the room
    /// has come, whoever brought it there (R135): its forward extremities, the deepest if there are
    /// many, but none before which the server was not in the room. Nothing if there is something newer
    /// of ours to come, or if the room is partial, since then nobody knows who was in it.
    async fn latest(
        &self,
        server: &ServerName,
        room: &Arc<Room>,
        row: &OutboxRow,
    ) -> Result<Vec<Arc<Event>>, StorageError> {
        if !is_old(row.made_ms, self.env().clock.now_ms()) || room.is_partial() {
            return Ok(Vec::new());
        }
        let (nr, position) = (row.room, row.position);
        let extremities: Vec<EventNr> = self
            .database()
            .read("latest events of a room", move |tx| {
                Box::pin(async move {
                    match outbox::last_of_room(tx, nr).await? {
                        Some(last) if last > position => Ok(Vec::new()),
                        _ => extremities::forward(tx, nr).await,
                    }
                })
            })
            .await?;
        let mut latest = Vec::new();
        for event in room.events(self, extremities).await?.into_values() {
            if let Some(before) = event.before()
                && room
                    .state(self, before.snapshot())
                    .await?
                    .has_server(server.as_str())
            {
                latest.push(event);
            }
        }
        latest.sort_by_key(|event| std::cmp::Reverse((event.pdu.depth, event.nr)));
        latest.truncate(MOST_LATEST);
        Ok(latest)
    }

    async fn is_receiver(
        &self,
        row: &OutboxRow,
        server: &ServerName,
    ) -> Result<bool, StorageError> {
        if row.further.iter().any(|name| name == server.as_str()) {
            return Ok(true);
        }
        let Some(room) = self.room_by_nr(row.room).await? else {
            return Ok(false);
        };
        Ok(room
            .state(self, row.snapshot)
            .await?
            .has_server(server.as_str()))
    }

    /// The next stored EDUs for a server.
    async fn prepare_edus(&self, server: &ServerName) -> Result<Edus, StorageError> {
        let name = server.to_owned();
        let waiting = self
            .database()
            .look_up("waiting EDUs", move |tx| {
                Box::pin(async move { edu_outbox::waiting(tx, &name, MOST_EDUS + 1).await })
            })
            .await?;
        let (mut edus, mut bytes) = (Edus::default(), 0);
        let mut all = true;
        for waiting in waiting {
            bytes += waiting.edu.len();
            if edus.json.len() == MOST_EDUS || (bytes > MOST_EDU_BYTES && !edus.json.is_empty()) {
                all = false;
                break;
            }
            match serde_json::from_slice(&waiting.edu) {
                Ok(json) => edus.json.push(json),
                Err(error) => tracing::error!(%server, %error, "a stored EDU can't be read"),
            }
            edus.stored.push(waiting.position);
        }
        if !all && let Some(sender) = self.outgoing().lock().by_server.get_mut(server) {
            sender.edus_wait = true;
        }
        Ok(edus)
    }

    /// Forgets the stored EDUs of a transaction that a server has taken.
    pub(super) async fn edus_delivered(
        &self,
        server: &ServerName,
        prepared: &Prepared,
    ) -> Result<(), StorageError> {
        let delivered = prepared.edus.stored.clone();
        if delivered.is_empty() {
            return Ok(());
        }
        let server = server.to_owned();
        self.database()
            .write("EDUs were delivered", Priority::Bulk, move |tx| {
                Box::pin(async move { edu_outbox::delete(tx, &server, &delivered).await })
            })
            .await
    }

    pub(super) async fn transmit(
        &self,
        server: &ServerName,
        prepared: &Prepared,
    ) -> Result<(), FederationError> {
        let outgoing = self.outgoing();
        // Never closed.
        let permit = outgoing.permits.acquire().await.ok();
        let _traced = trace_delivery(&prepared.traces, server);
        let transaction = Transaction {
            origin_server_ts: prepared.made_ms,
            pdus: &prepared.pdus,
            edus: &prepared.edus.json,
        };
        let sending = self
            .federation()
            .send_transaction(server, &prepared.txn_id, &transaction);
        let mut sending = pin!(sending);
        let answer = match self.env().clock.timeout(PROMPT, &mut sending).await {
            Ok(answer) => answer?,
            Err(_) => {
                // A thousand silent servers must not hold up those that answer.
                let _held = outgoing.silent_permits.try_acquire().ok().or(permit);
                sending.await?
            }
        };
        for (event, error) in answer {
            if let Some(error) = error {
                tracing::warn!(%server, %event, %error, "an event of ours was refused");
            }
        }
        Ok(())
    }
}
