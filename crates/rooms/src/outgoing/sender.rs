//! A sender: it delivers to one server until the end of what is wanted.

use myelin_core::number::StreamPosition;
use myelin_federation::FederationError;
use myelin_storage::{Priority, StorageError, outbox};
use ruma::ServerName;

use super::{SHORT_PAUSE, Sender, is_old};
use crate::{Rooms, containment::contained};

impl Rooms {
    /// Delivers until the end of what is wanted. Failures are waited out.
    pub(super) async fn deliver_all(&self, server: &ServerName, mut cursor: StreamPosition) {
        loop {
            let step = contained("deliver", self.deliver_some(server, cursor)).await;
            match step {
                Ok(upto) => cursor = upto,
                Err(error) => {
                    tracing::error!(%server, %error, "deliveries are interrupted");
                    self.send_waiting_edus(&[server.to_owned()]);
                    self.env().clock.sleep(SHORT_PAUSE).await;
                    continue;
                }
            }
            let behind = {
                let mut senders = self.outgoing().lock();
                let Some(sender) = senders.by_server.get_mut(server) else {
                    return;
                };
                sender.cursor = cursor;
                self.outgoing().moved.notify_waiters();
                if sender.wanted == StreamPosition(i64::MAX) {
                    sender.wanted = self.events_stream().readable();
                }
                if !sender.is_done() {
                    continue;
                }
                // From here on what it lacks counts as not delivered, cursor or no cursor.
                std::mem::replace(&mut sender.behind, false)
            };
            if behind && let Err(error) = self.caught_up(server).await {
                tracing::error!(%server, %error, "a cursor can't be removed");
            }
            let mut senders = self.outgoing().lock();
            if senders.by_server.get(server).is_some_and(Sender::is_done) {
                senders.by_server.remove(server);
                drop(senders);
                self.outgoing().wake();
                return;
            }
        }
    }

    /// Delivers the next transaction; the position up to which the server has everything then.
    async fn deliver_some(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
    ) -> Result<StreamPosition, StorageError> {
        // Nothing is put together for a server that is left alone anyway: after a restart there may be
        // thousands.
        if self.federation().backoff(server).await?.is_some() {
            if self.give_up_passing(server, cursor) {
                return Ok(cursor);
            }
            self.fall_behind(server, cursor).await?;
            self.wait_for(server).await?;
        }
        let prepared = self.prepare(server, cursor).await?;
        if prepared.is_empty() {
            return Ok(prepared.upto);
        }
        while let Err(error) = self.transmit(server, &prepared).await {
            if matches!(error, FederationError::Refused(_)) {
                tracing::error!(%server, %error, "a transaction can't be sent");
                break;
            }
            tracing::info!(%server, %error, "a transaction was not delivered");
            if prepared.may_be_lost() && self.give_up_passing(server, prepared.upto) {
                return Ok(prepared.upto);
            }
            self.fall_behind(server, cursor).await?;
            if self.will_be_old(server, prepared.made_ms).await? {
                // What is of use by then is put together then, and takes no memory until then.
                self.send_waiting_edus(&[server.to_owned()]);
                return Ok(cursor);
            }
            self.wait_for(server).await?;
        }
        self.edus_delivered(server, &prepared).await?;
        let behind = self
            .outgoing()
            .lock()
            .by_server
            .get(server)
            .is_some_and(|sender| sender.behind);
        if behind {
            self.put_cursor(server, prepared.upto).await?;
        }
        Ok(prepared.upto)
    }

    /// Forgets what a failing server need not get, if after the cursor there is nothing else for it.
    fn give_up_passing(&self, server: &ServerName, cursor: StreamPosition) -> bool {
        let mut senders = self.outgoing().lock();
        let Some(sender) = senders.by_server.get_mut(server) else {
            return true;
        };
        let is_owed = sender.behind || sender.edus_wait || cursor < sender.wanted;
        if !is_owed {
            sender.passing.clear();
        }
        !is_owed
    }

    /// Writes down how far a server that fails has come.
    async fn fall_behind(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
    ) -> Result<(), StorageError> {
        let is_noted = {
            let senders = self.outgoing().lock();
            let sender = senders.by_server.get(server);
            sender.is_some_and(|sender| sender.behind)
        };
        if is_noted {
            return Ok(());
        }
        self.put_cursor(server, cursor).await?;
        if let Some(sender) = self.outgoing().lock().by_server.get_mut(server) {
            sender.behind = true;
        }
        self.outgoing().moved.notify_waiters();
        // Others are not held up by this one.
        self.outgoing().wake();
        Ok(())
    }

    async fn put_cursor(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
    ) -> Result<(), StorageError> {
        let server = server.to_string();
        self.database()
            .write("note a cursor", Priority::Bulk, move |tx| {
                Box::pin(async move { outbox::put_cursor(tx, &server, cursor).await })
            })
            .await
    }

    async fn caught_up(&self, server: &ServerName) -> Result<(), StorageError> {
        let name = server.to_string();
        self.database()
            .write("remove a cursor", Priority::Bulk, move |tx| {
                Box::pin(async move { outbox::delete_cursor(tx, &name).await })
            })
            .await
    }

    /// Whether a transaction will be an old one when a failing server is tried again (R134).
    async fn will_be_old(&self, server: &ServerName, made_ms: u64) -> Result<bool, StorageError> {
        let retry_at_ms = self.federation().backoff(server).await?;
        Ok(retry_at_ms.is_some_and(|retry_at_ms| is_old(made_ms, retry_at_ms)))
    }

    /// Waits until a failing server may be tried again, or shows that it is there.
    async fn wait_for(&self, server: &ServerName) -> Result<(), StorageError> {
        let federation = self.federation();
        if federation.backoff(server).await?.is_some() {
            return federation.until_due(server).await;
        }
        self.env().clock.sleep(SHORT_PAUSE).await;
        Ok(())
    }
}
