//! Devices as others see them. Server-server API, "Device management"; client-server API,
//! "Key management".

use std::collections::BTreeMap;

use myelin_storage::devices::{self, Device};
use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde_json::{Value, json, value::RawValue};

use crate::{UserError, Users};

/// A user's devices at one moment.
#[derive(Clone, Debug)]
pub struct DeviceList {
    /// Counts the changes.
    pub version: u64,
    /// The devices by ID.
    pub devices: Vec<Device>,
}

/// What `/keys/query` shows.
#[derive(Clone, Debug, Default)]
pub struct QueriedKeys {
    /// By user and device.
    pub devices: BTreeMap<OwnedUserId, BTreeMap<String, Value>>,
    /// The servers from which nothing can be had, each with an object that says why.
    pub failures: BTreeMap<OwnedServerName, Value>,
}

impl Users {
    /// The devices of one of this server's users.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn device_list(&self, user: &UserId) -> Result<DeviceList, UserError> {
        let user = user.to_owned();
        let found = self.database().read("device_list", move |tx| {
            Box::pin(async move {
                let Some(version) = devices::list_version(tx, &user).await? else {
                    return Ok(None);
                };
                let devices = devices::of_user(tx, &user).await?;
                Ok(Some(DeviceList { version, devices }))
            })
        });
        found
            .await?
            .ok_or_else(|| UserError::NotFound("No such user".to_owned()))
    }

    /// The keys that the devices of users have uploaded. An empty list of devices means all of them.
    /// Other servers are not asked: their users are among the failures.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn query_keys(
        &self,
        wanted: BTreeMap<OwnedUserId, Vec<String>>,
    ) -> Result<QueriedKeys, UserError> {
        let mut answer = QueriedKeys::default();
        for (user, device_ids) in wanted {
            if user.server_name() != self.server_name() {
                let why = json!({ "error": "Other servers are not asked for keys yet" });
                answer.failures.insert(user.server_name().to_owned(), why);
                continue;
            }
            let list = match self.device_list(&user).await {
                Ok(list) => list,
                Err(UserError::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let keys = list
                .devices
                .iter()
                .filter(|device| {
                    device_ids.is_empty() || device_ids.iter().any(|id| *id == device.device_id)
                })
                .filter_map(|device| Some((device.device_id.to_string(), shown_keys(device)?)))
                .collect();
            answer.devices.insert(user, keys);
        }
        Ok(answer)
    }
}

/// A device's keys, with its name in `unsigned`.
fn shown_keys(device: &Device) -> Option<Value> {
    let mut keys: Value = serde_json::from_slice(device.keys.as_deref()?).ok()?;
    if let Some(name) = &device.display_name {
        keys["unsigned"] = json!({ "device_display_name": name });
    }
    Some(keys)
}

/// A device's keys exactly as they were uploaded, if they were.
#[must_use]
pub fn uploaded_keys(device: &Device) -> Option<Box<RawValue>> {
    serde_json::from_slice(device.keys.as_deref()?).ok()
}
