//! A user's devices. Client-server API, "Device management".

use std::{net::IpAddr, sync::PoisonError};

use myelin_storage::{
    Priority, StorageError,
    devices::{self, Device, Use},
};
use ruma::UserId;

use crate::{AuthData, Requester, UserError, Users, error::check_text, expiring::Expiring};

/// The use of a device is written down once in this time.
const SEEN_MS: u64 = 5 * 60 * 1000;

/// Of how many devices is remembered that they were seen.
const MAX_SEEN: usize = 100_000;

/// How much of a program's name for itself is kept, in characters.
const USER_AGENT_CHARS: usize = 200;

/// The most devices that can be removed together.
const MAX_REMOVED: usize = 1_000;

/// The devices whose use was written down lately.
#[derive(Debug)]
pub(crate) struct Seen(Expiring<()>);

impl Default for Seen {
    fn default() -> Self {
        Self(Expiring::new(SEEN_MS, MAX_SEEN))
    }
}

impl Users {
    /// One of the devices of a user of this server.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn device(&self, user: &UserId, device_id: String) -> Result<Device, UserError> {
        let user = user.to_owned();
        let found = self.database().look_up("device", move |tx| {
            Box::pin(async move { devices::by_id(tx, &user, &device_id).await })
        });
        found.await?.ok_or_else(no_such_device)
    }

    /// Gives such a device another name; without one only says whether there is such a device.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn rename_device(
        &self,
        user: &UserId,
        device_id: String,
        display_name: Option<String>,
    ) -> Result<(), UserError> {
        check_text("display_name", display_name.as_deref(), 255)?;
        let Some(display_name) = display_name else {
            return self.device(user, device_id).await.map(drop);
        };
        let user = user.to_owned();
        let renamed = self
            .database()
            .write("rename_device", Priority::Interactive, move |tx| {
                Box::pin(async move { devices::rename(tx, &user, &device_id, &display_name).await })
            });
        match renamed.await? {
            true => Ok(()),
            false => Err(no_such_device()),
        }
    }

    /// Removes devices of whoever asks, with their sessions and keys. Those that are not there are no error.
    ///
    /// # Errors
    /// [`UserError::Challenge`], [`UserError::InvalidParam`] for too many, [`UserError::Storage`].
    pub async fn remove_own_devices(
        &self,
        requester: &Requester,
        mut device_ids: Vec<String>,
        auth: Option<AuthData>,
    ) -> Result<(), UserError> {
        check_count(&device_ids)?;
        device_ids.sort_unstable();
        device_ids.dedup();
        self.confirm(requester, "remove devices", device_ids.clone(), auth)
            .await?;
        self.remove_devices(&requester.user_id, device_ids).await
    }

    /// The same without a question, on an administrator's word.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`] for too many, [`UserError::Storage`].
    pub async fn remove_devices(
        &self,
        user: &UserId,
        device_ids: Vec<String>,
    ) -> Result<(), UserError> {
        check_count(&device_ids)?;
        let user = user.to_owned();
        self.database()
            .write("remove_devices", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    for device_id in &device_ids {
                        devices::remove(tx, &user, device_id).await?;
                    }
                    Ok::<_, StorageError>(())
                })
            })
            .await?;
        Ok(())
    }

    /// Notes that a device was used. That is written down now and then, and not waited for.
    pub fn note_use(
        &self,
        requester: &Requester,
        user_agent: Option<&str>,
        address: Option<IpAddr>,
    ) {
        let now_ms = self.env().clock.now_ms();
        let (user, device_id) = (requester.user_id.clone(), requester.device_id.clone());
        let key = format!("{user} {device_id}");
        {
            // A plain table, whole at every point where a panic could strike.
            let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.0.get(&key, now_ms).is_some() {
                return;
            }
            seen.0.put(key, (), now_ms);
        }
        let printable = |c: &char| !c.is_control();
        let user_agent = user_agent.map(|agent| {
            let kept = agent.chars().filter(printable).take(USER_AGENT_CHARS);
            kept.collect::<String>()
        });
        let used = Use {
            at_ms: now_ms,
            user_agent,
            address,
        };
        let database = self.database().clone();
        drop(self.env().tasks.spawn("note a device's use", async move {
            let device = device_id.clone();
            let written = database.write("see_device", Priority::Bulk, move |tx| {
                Box::pin(async move {
                    let device_id = device_id.as_str();
                    devices::see(tx, &user, device_id, &used).await
                })
            });
            if let Err(error) = written.await {
                let error: StorageError = error;
                tracing::warn!(%device, %error, "a device's use was not noted");
            }
        }));
    }
}

fn check_count(device_ids: &[String]) -> Result<(), UserError> {
    if device_ids.len() > MAX_REMOVED {
        let why = format!("At most {MAX_REMOVED} devices can be removed together");
        return Err(UserError::InvalidParam(why));
    }
    Ok(())
}

fn no_such_device() -> UserError {
    UserError::NotFound("No such device".to_owned())
}
