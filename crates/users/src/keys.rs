//! Keys that devices upload. Client-server API, "Key management".

use std::collections::BTreeMap;

use myelin_storage::{
    Priority, StorageError, Tx,
    device_keys::{self, DeviceOf, KeysLeft, Stored, UploadedKey},
    devices,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Requester, UserError, Users, error::check_text};

/// The algorithm whose count clients watch, and expect to see even if it is 0.
const WATCHED_ALGORITHM: &str = "signed_curve25519";

/// More keys in one upload than any client sends.
const MAX_KEYS: usize = 1000;

/// What a device uploads.
#[derive(Debug, Default, Deserialize)]
pub struct KeyUpload {
    /// The keys of the device itself.
    pub device_keys: Option<Box<RawValue>>,
    /// Keys to be given out once each, by `algorithm:key_id`.
    #[serde(default)]
    pub one_time_keys: BTreeMap<String, Box<RawValue>>,
    /// Keys to be given out when no other is left.
    #[serde(default)]
    pub fallback_keys: BTreeMap<String, Box<RawValue>>,
}

/// Of the keys of a device, what must agree with who uploads them.
#[derive(Deserialize)]
struct DeviceKeys<'a> {
    user_id: &'a str,
    device_id: &'a str,
}

impl Users {
    /// Stores what a device has uploaded and returns how many one-time keys of each algorithm are
    /// there then.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`] if something does not belong to the device or has the ID of
    /// another key, [`UserError::Storage`].
    pub async fn upload_keys(
        &self,
        requester: Requester,
        upload: KeyUpload,
    ) -> Result<BTreeMap<String, u64>, UserError> {
        if let Some(keys) = &upload.device_keys {
            check_device_keys(&requester, keys)?;
        }
        let one_time_keys = read_keys(&upload.one_time_keys)?;
        let fallback_keys = read_keys(&upload.fallback_keys)?;
        self.database()
            .write("upload_keys", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let device = DeviceOf {
                        user: &requester.user_id,
                        device_id: requester.device_id.as_str(),
                    };
                    if let Some(keys) = &upload.device_keys {
                        device_keys::set(tx, device, keys.get().as_bytes()).await?;
                        devices::count_change(tx, &requester.user_id).await?;
                    }
                    for key in &fallback_keys {
                        device_keys::put_fallback_key(tx, device, key).await?;
                    }
                    store_one_time_keys(tx, device, &one_time_keys).await?;
                    Ok(keys_left(tx, device).await?.one_time)
                })
            })
            .await
    }

    /// What is left of a device's keys.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn keys_left(&self, requester: &Requester) -> Result<KeysLeft, UserError> {
        let requester = requester.clone();
        let left = self.database().look_up("keys left", move |tx| {
            Box::pin(async move {
                let device = DeviceOf {
                    user: &requester.user_id,
                    device_id: requester.device_id.as_str(),
                };
                keys_left(tx, device).await
            })
        });
        Ok(left.await?)
    }
}

async fn keys_left(tx: &mut Tx, device: DeviceOf<'_>) -> Result<KeysLeft, StorageError> {
    let mut left = device_keys::left(tx, device).await?;
    left.one_time
        .entry(WATCHED_ALGORITHM.to_owned())
        .or_default();
    Ok(left)
}

async fn store_one_time_keys(
    tx: &mut Tx,
    device: DeviceOf<'_>,
    keys: &[UploadedKey],
) -> Result<(), UserError> {
    for key in keys {
        if device_keys::put_one_time_key(tx, device, key).await? == Stored::Different {
            return Err(UserError::InvalidParam(format!(
                "One-time key {}:{} exists already, with other content",
                key.algorithm, key.key_id
            )));
        }
    }
    Ok(())
}

fn check_device_keys(requester: &Requester, keys: &RawValue) -> Result<(), UserError> {
    let owner: DeviceKeys<'_> = serde_json::from_str(keys.get())
        .map_err(|error| UserError::InvalidParam(format!("device_keys: {error}")))?;
    if owner.user_id != requester.user_id || owner.device_id != requester.device_id {
        return Err(UserError::InvalidParam(
            "device_keys names another user or device than the one that is logged in".to_owned(),
        ));
    }
    Ok(())
}

fn read_keys(keys: &BTreeMap<String, Box<RawValue>>) -> Result<Vec<UploadedKey>, UserError> {
    if keys.len() > MAX_KEYS {
        let message = format!("At most {MAX_KEYS} keys can be uploaded at once");
        return Err(UserError::InvalidParam(message));
    }
    keys.iter()
        .map(|(name, content)| {
            check_text("A key's name", Some(name), 255)?;
            let Some((algorithm, key_id)) = name.split_once(':') else {
                let message = format!("{name:?} is not of the form algorithm:key_id");
                return Err(UserError::InvalidParam(message));
            };
            Ok(UploadedKey {
                algorithm: algorithm.to_owned(),
                key_id: key_id.to_owned(),
                content: content.get().as_bytes().to_vec(),
            })
        })
        .collect()
}
