//! Messages from device to device. Client-server API, "Send-to-Device messaging"; server-server API,
//! "Send-to-device messaging".
//!
//! A message is durable before it is acknowledged, at every station: for a device of this server in
//! its inbox, until the device has said that it got it; for others in the outbox of their server.

use std::collections::{BTreeMap, HashMap};

use myelin_core::number::StreamPosition;
use myelin_federation::Edu;
use myelin_storage::{Priority, StorageError, Tx, devices, edu_outbox, to_device};
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Requester, UserError, Users, error::check_text};

/// The type of the EDUs that carry such messages.
pub const DIRECT_TO_DEVICE: &str = "m.direct_to_device";

/// How many messages a device is given at once.
const MOST_AT_ONCE: usize = 100;

/// How many bytes the content of a message of another server has at most. Synapse, for one, sends 64 KiB.
const MOST_CONTENT_BYTES: usize = 128 * 1024;

/// Of how many devices is remembered that nothing waits for them.
const MOST_EMPTY: usize = 10_000;

/// Stands for all devices of a user.
const ALL_DEVICES: &str = "*";

/// The contents of messages, by user and device. `*` stands for all devices of a user that are not
/// named.
pub type Messages = BTreeMap<String, BTreeMap<String, Box<RawValue>>>;

/// Messages that wait for a device.
#[derive(Debug)]
pub struct Inbox {
    /// The events, oldest first.
    pub events: Vec<Box<RawValue>>,
    /// There are no others up to here.
    pub upto: StreamPosition,
}

/// Up to where nothing waits for devices, as far as that was seen. A device says with each sync what it has
/// got, and nearly always that is nothing.
#[derive(Default)]
pub(crate) struct EmptyInboxes(HashMap<(OwnedUserId, OwnedDeviceId), StreamPosition>);

impl EmptyInboxes {
    fn is_empty_upto(&self, device: &(OwnedUserId, OwnedDeviceId), upto: StreamPosition) -> bool {
        self.0.get(device).is_some_and(|known| *known >= upto)
    }

    fn put(&mut self, device: (OwnedUserId, OwnedDeviceId), upto: StreamPosition) {
        if self.0.len() >= MOST_EMPTY {
            self.0.clear();
        }
        self.0.insert(device, upto);
    }
}

#[derive(Serialize, Deserialize)]
struct DirectToDevice {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    messages: Messages,
}

#[derive(Serialize)]
struct ToDeviceEvent<'a> {
    content: &'a RawValue,
    sender: &'a UserId,
    #[serde(rename = "type")]
    event_type: &'a str,
}

/// Messages on their way to where they are kept.
struct Delivery {
    /// Who chose the ID: a server, or a user's device.
    source: String,
    message_id: String,
    /// For this server's devices, with the events as they get them.
    here: Vec<(OwnedUserId, BTreeMap<String, Vec<u8>>)>,
    /// For other servers.
    elsewhere: Vec<(OwnedServerName, Vec<u8>)>,
}

impl Users {
    /// Sends messages to devices, and answers the servers for which something waits then. The same
    /// transaction again sends nothing.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn send_to_device(
        &self,
        requester: &Requester,
        event_type: &str,
        txn_id: &str,
        messages: Messages,
    ) -> Result<Vec<OwnedServerName>, UserError> {
        check_text("The event type", Some(event_type), 255)?;
        check_text("The transaction ID", Some(txn_id), 255)?;
        let sender = &requester.user_id;
        let mut here = Vec::new();
        let mut elsewhere: BTreeMap<OwnedServerName, Messages> = BTreeMap::new();
        for (user, contents) in messages {
            let user = OwnedUserId::try_from(user)
                .map_err(|error| UserError::InvalidParam(format!("messages: {error}")))?;
            if user.server_name() == self.server_name() {
                here.push((user, events(sender, event_type, &contents)));
            } else {
                let server = user.server_name().to_owned();
                let of_server = elsewhere.entry(server).or_default();
                of_server.insert(user.to_string(), contents);
            }
        }
        let servers = elsewhere.keys().cloned().collect();
        let elsewhere = elsewhere.into_iter().map(|(server, messages)| {
            let content = DirectToDevice {
                sender: sender.clone(),
                event_type: event_type.to_owned(),
                message_id: self.env().random.alphanumeric(16),
                messages,
            };
            (server, edu(&content))
        });
        let delivery = Delivery {
            source: format!("{sender} {}", requester.device_id),
            message_id: format!("{event_type}/{txn_id}"),
            here,
            elsewhere: elsewhere.collect(),
        };
        self.deliver(delivery).await?;
        Ok(servers)
    }

    /// Takes the content of an `m.direct_to_device` EDU. When this returns, what is in it for devices of
    /// this server is durable, once however often it comes; what can't be meant for them is dropped, and so
    /// is what is too large. If nothing is left, nothing is written.
    ///
    /// # Errors
    /// Any storage error: it was not taken, and has to come again (R44).
    pub async fn receive_to_device(
        &self,
        origin: &ServerName,
        content: &RawValue,
    ) -> Result<(), StorageError> {
        let content: DirectToDevice = match serde_json::from_str(content.get()) {
            Ok(content) => content,
            Err(error) => {
                tracing::info!(%origin, %error, "a to-device EDU was dropped");
                return Ok(());
            }
        };
        let DirectToDevice {
            sender,
            event_type,
            message_id,
            messages,
        } = content;
        let checked = check_text("message_id", Some(&message_id), 255);
        if sender.server_name() != origin || checked.is_err() {
            tracing::info!(%origin, %sender, "a to-device EDU was dropped");
            return Ok(());
        }
        let mut here = self.with_devices_here(messages).await?;
        for contents in here.values_mut() {
            contents.retain(|_, content| content.get().len() <= MOST_CONTENT_BYTES);
        }
        here.retain(|_, contents| !contents.is_empty());
        if here.is_empty() {
            return Ok(());
        }
        let here = here.into_iter().map(|(user, contents)| {
            let events = events(&sender, &event_type, &contents);
            (user, events)
        });
        let delivery = Delivery {
            source: origin.to_string(),
            message_id,
            here: here.collect(),
            elsewhere: Vec::new(),
        };
        self.deliver(delivery).await
    }

    /// What is for users of this server who have devices. Another server may name any number of others: that
    /// is found out in one look, while nobody waits to write.
    async fn with_devices_here(
        &self,
        messages: Messages,
    ) -> Result<BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>, StorageError> {
        let mut here: BTreeMap<OwnedUserId, _> = messages
            .into_iter()
            .filter_map(|(user, contents)| Some((OwnedUserId::try_from(user).ok()?, contents)))
            .filter(|(user, _)| user.server_name() == self.server_name())
            .collect();
        let users: Vec<_> = here.keys().cloned().collect();
        let read = self.database().read("users with devices", move |tx| {
            Box::pin(async move { devices::with_devices(tx, &users).await })
        });
        let known = read.await?;
        here.retain(|user, _| known.contains(user));
        Ok(here)
    }

    async fn deliver(&self, delivery: Delivery) -> Result<(), StorageError> {
        let allocation = self.to_device_stream().allocate(1);
        let position = StreamPosition(allocation.before().0 + 1);
        let now_ms = self.env().clock.now_ms();
        // The allocation goes along, so that it lasts exactly as long as the transaction.
        let write = self.database().write::<_, StorageError, _>(
            "send to devices",
            Priority::Interactive,
            move |tx| {
                Box::pin(async move {
                    let reached = delivery.put(tx, position, now_ms).await?;
                    Ok((reached, allocation))
                })
            },
        );
        let (reached, allocation) = write.await?;
        drop(allocation);
        self.waking()
            .wake(reached.iter().map(|user| &**user), position);
        Ok(())
    }

    /// The oldest messages that wait for a device after a position.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn inbox(
        &self,
        requester: &Requester,
        after: StreamPosition,
    ) -> Result<Inbox, StorageError> {
        let readable = self.to_device_stream().readable();
        // As nearly always: nobody has got anything.
        if after >= readable {
            let events = Vec::new();
            return Ok(Inbox {
                events,
                upto: after,
            });
        }
        let (user, device) = (requester.user_id.clone(), requester.device_id.clone());
        let waiting = self
            .database()
            .look_up("to-device inbox", move |tx| {
                Box::pin(async move {
                    let span = (after, readable);
                    to_device::waiting(tx, &user, device.as_str(), span, MOST_AT_ONCE).await
                })
            })
            .await?;
        let last = waiting.last().filter(|_| waiting.len() == MOST_AT_ONCE);
        let upto = last.map_or(readable, |message| message.position);
        let events = waiting.iter().map(|message| {
            serde_json::from_slice(&message.event)
                .map_err(|error| StorageError::Corrupt(format!("to-device message: {error}")))
        });
        Ok(Inbox {
            events: events.collect::<Result<_, _>>()?,
            upto,
        })
    }

    /// Forgets the messages that a device has got: those up to a position.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn empty_inbox(
        &self,
        requester: &Requester,
        upto: StreamPosition,
    ) -> Result<(), StorageError> {
        // Beyond this a message may still come.
        let upto = upto.min(self.to_device_stream().readable());
        let (user, device) = (requester.user_id.clone(), requester.device_id.clone());
        let key = (user.clone(), device.clone());
        if self.empty_inboxes().is_empty_upto(&key, upto) {
            return Ok(());
        }
        let newest = self.database().look_up("to-device inbox", {
            let (user, device) = key.clone();
            move |tx| {
                Box::pin(
                    async move { to_device::newest_upto(tx, &user, device.as_str(), upto).await },
                )
            }
        });
        if newest.await?.is_some() {
            let emptied =
                self.database()
                    .write("empty an inbox", Priority::Interactive, move |tx| {
                        Box::pin(async move {
                            to_device::delete_upto(tx, &user, device.as_str(), upto).await
                        })
                    });
            emptied.await?;
        }
        self.empty_inboxes().put(key, upto);
        Ok(())
    }
}

impl Delivery {
    /// Stores the messages, and answers the users for whose devices some are. Nothing if they were
    /// stored before.
    async fn put(
        self,
        tx: &mut Tx,
        position: StreamPosition,
        now_ms: u64,
    ) -> Result<Vec<OwnedUserId>, StorageError> {
        if !to_device::take(tx, &self.source, &self.message_id, now_ms).await? {
            return Ok(Vec::new());
        }
        let mut reached = Vec::new();
        for (user, events) in self.here {
            let to_all = events.get(ALL_DEVICES);
            for device in devices::of_user(tx, &user).await? {
                let device_id = device.device_id.as_str();
                let Some(event) = events.get(device_id).or(to_all) else {
                    continue;
                };
                let lost = to_device::put(tx, &user, device_id, position, event).await?;
                if lost > 0 {
                    tracing::warn!(%user, device_id, lost, "a device has been away for too long");
                }
            }
            reached.push(user);
        }
        for (server, edu) in self.elsewhere {
            let lost = edu_outbox::put(tx, &server, position, &edu).await?;
            if lost > 0 {
                tracing::warn!(%server, lost, "a server has been away for too long");
            }
        }
        Ok(reached)
    }
}

/// The events that devices get.
fn events(
    sender: &UserId,
    event_type: &str,
    contents: &BTreeMap<String, Box<RawValue>>,
) -> BTreeMap<String, Vec<u8>> {
    let event = |content: &RawValue| {
        let event = ToDeviceEvent {
            content,
            sender,
            event_type,
        };
        serde_json::to_vec(&event).expect("texts and JSON can be written")
    };
    contents
        .iter()
        .map(|(device, content)| (device.clone(), event(content)))
        .collect()
}

fn edu(content: &DirectToDevice) -> Vec<u8> {
    let edu = Edu {
        edu_type: DIRECT_TO_DEVICE.to_owned(),
        content: to_raw_value(content).expect("texts and JSON can be written"),
    };
    serde_json::to_vec(&edu).expect("texts and JSON can be written")
}
