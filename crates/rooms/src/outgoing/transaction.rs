//! Putting a transaction together for a server, and sending it.

use std::sync::Arc;

use myelin_core::{event::Event, number::StreamPosition};
use myelin_federation::{FederationError, MOST_EDUS, MOST_PDUS, Transaction};
use myelin_storage::{Priority, StorageError, edu_outbox, outbox::OutboxRow};
use ruma::ServerName;
use serde_json::value::RawValue;

use super::{READ_TOGETHER, unless_lasting};
use crate::{Rooms, containment::contained};

/// How many bytes of EDUs a transaction has at most, but for a single one that has more.
const MOST_EDU_BYTES: usize = 1024 * 1024;

/// What was put together for a server. A retry sends the same again (R133).
pub(super) struct Prepared {
    txn_id: String,
    made_ms: u64,
    pdus: Vec<Box<RawValue>>,
    /// The server has everything up to here when it has taken this.
    pub(super) upto: StreamPosition,
    edus: Edus,
}

impl Prepared {
    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.edus.json.is_empty()
    }
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
        let (pdus, upto) = self.prepare_pdus(server, cursor, wanted).await?;
        // Last, since after this nothing fails.
        if let Some(sender) = self.outgoing().lock().by_server.get_mut(server) {
            let room = MOST_EDUS.saturating_sub(edus.json.len());
            let passing = sender.passing.drain(..room.min(sender.passing.len()));
            edus.json.extend(passing.map(|passing| passing.edu.clone()));
        }
        Ok(Prepared {
            txn_id: self.env().random.alphanumeric(16),
            made_ms: self.env().clock.now_ms(),
            pdus,
            upto,
            edus,
        })
    }

    /// The next events for a server, and up to where it has everything with them.
    async fn prepare_pdus(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
        wanted: StreamPosition,
    ) -> Result<(Vec<Box<RawValue>>, StreamPosition), StorageError> {
        let mut pdus = Vec::new();
        let mut upto = cursor;
        let wanted = wanted.min(self.events_stream().readable());
        let rows = self.outbox_after(cursor).await?;
        let at_end = rows.len() < READ_TOGETHER;
        for row in rows {
            if pdus.len() == MOST_PDUS {
                return Ok((pdus, upto));
            }
            if row.position > wanted {
                // The dispatcher has yet to come to it, and would have it sent again.
                return Ok((pdus, upto.max(wanted)));
            }
            let pdu = contained("read an event", self.pdu_for(server, &row)).await;
            pdus.extend(unless_lasting(&row, pdu)?.flatten());
            upto = row.position;
        }
        if at_end {
            // Nothing lies between here and there.
            upto = upto.max(wanted);
        }
        Ok((pdus, upto))
    }

    /// What a row has for a server, if anything.
    async fn pdu_for(
        &self,
        server: &ServerName,
        row: &OutboxRow,
    ) -> Result<Option<Box<RawValue>>, StorageError> {
        if !self.is_receiver(row, server).await? {
            return Ok(None);
        }
        let Some(room) = self.room_by_nr(row.room).await? else {
            return Ok(None);
        };
        let held = room.events(self, [row.event]).await?;
        // Of what its own user sent it has the original.
        let passed_on = |event: &&Arc<Event>| event.pdu.sender.server_name() != server;
        let event = held.get(&row.event).filter(passed_on);
        let json = event.map(|event| event.pdu.json.to_string());
        Ok(json.and_then(|json| RawValue::from_string(json).ok()))
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
            .read("waiting EDUs", move |tx| {
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
        // Never closed.
        let _permit = self.outgoing().permits.acquire().await.ok();
        let transaction = Transaction {
            origin_server_ts: prepared.made_ms,
            pdus: &prepared.pdus,
            edus: &prepared.edus.json,
        };
        let answer = self
            .federation()
            .send_transaction(server, &prepared.txn_id, &transaction)
            .await?;
        for (event, error) in answer {
            if let Some(error) = error {
                tracing::warn!(%server, %event, %error, "an event of ours was refused");
            }
        }
        Ok(())
    }
}
