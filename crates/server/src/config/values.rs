//! Values that are more than a text or a number, each with words for what was expected.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr as _,
};

use ipnet::IpNet;
use myelin_core::room_version::RoomVersion;
use myelin_storage::DatabaseUrl;
use myelin_users::Quota;
use serde::{Deserialize, Deserializer, de::Error as _};
use tracing_subscriber::EnvFilter;

use super::{ListenerConfig, TlsFiles};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

pub(super) fn room_version<'de, D: Deserializer<'de>>(from: D) -> Result<RoomVersion, D::Error> {
    let name = String::deserialize(from)?;
    RoomVersion::parse(&name).map_err(|_| {
        let known: Vec<_> = RoomVersion::supported().map(RoomVersion::as_str).collect();
        D::Error::custom(format!(
            "unknown room version {name:?}, expected one of \"{}\"",
            known.join("\", \"")
        ))
    })
}

pub(super) fn base_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let url = String::deserialize(from)?;
    if !url.starts_with("https://") && !url.starts_with("http://") {
        let message = format!("{url:?} is no address, expected https://NAME or http://NAME");
        return Err(D::Error::custom(message));
    }
    Ok(Some(url))
}

pub(super) fn database_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let url = String::deserialize(from)?;
    DatabaseUrl::from_str(&url).map_err(D::Error::custom)?;
    Ok(Some(url))
}

pub(super) fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let secret = String::deserialize(from)?;
    if secret.is_empty() {
        return Err(D::Error::custom(
            "an empty secret, expected a long random text",
        ));
    }
    Ok(Some(secret))
}

/// Addresses, and networks as `ADDRESS/BITS`.
pub(super) fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let network = |text: &String| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse()).map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is no network, expected for instance \"10.0.0.0/8\" or \"::1\""
            ))
        })
    };
    texts.iter().map(network).collect()
}

pub(super) fn quota<'de, D: Deserializer<'de>>(from: D) -> Result<Quota, D::Error> {
    /// As it stands in the file.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        burst: NonZeroU32,
        per_minute: NonZeroU32,
    }
    let Written { burst, per_minute } = Written::deserialize(from)?;
    Ok(Quota {
        burst: burst.get(),
        per_minute: per_minute.get(),
    })
}

pub(super) fn log_filter<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let filter = String::deserialize(from)?;
    match EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(D::Error::custom(format!(
            "{filter:?} is no filter ({error}), expected for instance \"info\" or \"info,myelin_rooms=debug\""
        ))),
    }
}

/// A listener as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenListener {
    #[serde(deserialize_with = "socket_address")]
    address: SocketAddr,
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default = "all_resources")]
    resources: Vec<Resource>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Resource {
    Client,
    Federation,
}

fn all_resources() -> Vec<Resource> {
    vec![Resource::Client, Resource::Federation]
}

fn socket_address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let address = String::deserialize(from)?;
    address.parse().map_err(|_| {
        D::Error::custom(format!(
            "{address:?} is no address, expected IP:PORT, for instance \"127.0.0.1:8008\""
        ))
    })
}

impl TryFrom<WrittenListener> for ListenerConfig {
    type Error = &'static str;

    fn try_from(written: WrittenListener) -> Result<Self, Self::Error> {
        let tls = match (written.tls_certificate, written.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => return Err("expected both tls_certificate and tls_key, or neither"),
        };
        if written.resources.is_empty() {
            return Err(
                "a listener without resources, expected \"client\", \"federation\" or both",
            );
        }
        Ok(Self {
            address: written.address,
            tls,
            client: written.resources.contains(&Resource::Client),
            federation: written.resources.contains(&Resource::Federation),
        })
    }
}
