//! The configuration: one TOML file in which every key has a default. [`DEFAULT_FILE`] documents
//! the keys.

mod load;
#[cfg(test)]
mod tests;
mod values;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use myelin_core::room_version::RoomVersion;
use myelin_users::{Quota, Quotas};
use ruma::{OwnedServerName, server_name};
use serde::Deserialize;

pub use load::{ConfigError, load, parse};
pub use values::LogFormat;

/// All keys with their meanings and defaults.
pub const DEFAULT_FILE: &str = include_str!("../default.toml");

/// Everything that the operator decides.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server's permanent name.
    pub server_name: OwnedServerName,
    /// Where the signing key and SQLite's database are.
    pub data_dir: PathBuf,
    /// The version of new rooms.
    #[serde(deserialize_with = "values::room_version")]
    pub default_room_version: RoomVersion,
    /// Where clients reach the server from outside.
    #[serde(deserialize_with = "values::base_url")]
    pub public_base_url: Option<String>,
    /// Reverse proxies, which say where a request comes from.
    #[serde(deserialize_with = "values::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// `[database]`
    pub database: DatabaseConfig,
    /// `[[listeners]]`
    pub listeners: Vec<ListenerConfig>,
    /// `[federation]`
    pub federation: FederationSection,
    /// `[registration]`
    pub registration: RegistrationSection,
    /// `[rate_limits]`
    pub rate_limits: RateLimitsSection,
    /// `[public_rooms]`
    pub public_rooms: PublicRoomsSection,
    /// `[presence]`
    pub presence: PresenceSection,
    /// `[log]`
    pub log: LogSection,
    /// `[metrics]`
    pub metrics: MetricsSection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: server_name!("localhost").to_owned(),
            data_dir: PathBuf::from("data"),
            default_room_version: RoomVersion::V12,
            public_base_url: None,
            trusted_proxies: [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
                .map(|address: IpAddr| address.into())
                .into(),
            database: DatabaseConfig::default(),
            listeners: vec![ListenerConfig::default()],
            federation: FederationSection::default(),
            registration: RegistrationSection::default(),
            rate_limits: RateLimitsSection::default(),
            public_rooms: PublicRoomsSection::default(),
            presence: PresenceSection::default(),
            log: LogSection::default(),
            metrics: MetricsSection::default(),
        }
    }
}

impl Config {
    /// The URL of the database, which may follow from `data_dir`.
    #[must_use]
    pub fn database_url(&self) -> String {
        let in_data_dir = || format!("sqlite:{}", self.data_dir.join("myelin.db").display());
        self.database.url.clone().unwrap_or_else(in_data_dir)
    }

    /// The file of the signing key.
    #[must_use]
    pub fn signing_key_file(&self) -> PathBuf {
        self.data_dir.join("signing.key")
    }

    /// Lets relative paths count from `directory`.
    fn resolve_paths(&mut self, directory: &Path) {
        let resolve = |path: &mut PathBuf| *path = directory.join(&path);
        resolve(&mut self.data_dir);
        self.federation
            .extra_ca_certificates
            .iter_mut()
            .for_each(resolve);
        for tls in self
            .listeners
            .iter_mut()
            .filter_map(|listener| listener.tls.as_mut())
        {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
        }
        if let Some(path) = self
            .database
            .url
            .as_deref()
            .and_then(|url| url.strip_prefix("sqlite:"))
        {
            self.database.url = Some(format!("sqlite:{}", directory.join(path).display()));
        }
    }
}

/// `[database]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// `sqlite:PATH` or `postgres://…`.
    #[serde(deserialize_with = "values::database_url")]
    pub url: Option<String>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "values::WrittenListener")]
pub struct ListenerConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// With these files it speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Whether the client-server API is served.
    pub client: bool,
    /// Whether the server-server API is served.
    pub federation: bool,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8008)),
            tls: None,
            client: true,
            federation: true,
        }
    }
}

/// What a port with TLS shows and keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates in PEM form, the server's own first.
    pub certificate: PathBuf,
    /// The private key in PEM form.
    pub key: PathBuf,
}

/// `[federation]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationSection {
    /// Files with certificates of further authorities.
    pub extra_ca_certificates: Vec<PathBuf>,
    /// Whether servers at addresses that are not public may be reached.
    pub allow_private_addresses: bool,
    /// Notaries to ask for keys.
    pub trusted_key_servers: Vec<OwnedServerName>,
}

impl Default for FederationSection {
    fn default() -> Self {
        Self {
            extra_ca_certificates: Vec::new(),
            allow_private_addresses: false,
            trusted_key_servers: vec![server_name!("matrix.org").to_owned()],
        }
    }
}

/// `[registration]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrationSection {
    /// Whether anybody may register without a token.
    pub enabled: bool,
    /// Lets tools register accounts.
    #[serde(deserialize_with = "values::secret")]
    pub shared_secret: Option<String>,
}

/// `[rate_limits]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimitsSection {
    /// Whether anybody is held back.
    pub enabled: bool,
    /// Events and the like, by user.
    #[serde(deserialize_with = "values::quota")]
    pub messages: Quota,
    /// Joins and knocks, by user.
    #[serde(deserialize_with = "values::quota")]
    pub joins: Quota,
    /// Invites, by who invites.
    #[serde(deserialize_with = "values::quota")]
    pub invites: Quota,
    /// Requests to register, by address.
    #[serde(deserialize_with = "values::quota")]
    pub registrations: Quota,
    /// Requests to log in, by address.
    #[serde(deserialize_with = "values::quota")]
    pub logins: Quota,
    /// Wrong passwords, by account.
    #[serde(deserialize_with = "values::quota")]
    pub wrong_passwords: Quota,
    /// Requests of other servers, by server.
    #[serde(deserialize_with = "values::quota")]
    pub federation: Quota,
}

impl Default for RateLimitsSection {
    fn default() -> Self {
        let quota = |burst, per_minute| Quota { burst, per_minute };
        Self {
            enabled: true,
            messages: quota(50, 60),
            joins: quota(20, 6),
            invites: quota(50, 20),
            registrations: quota(10, 10),
            logins: quota(10, 10),
            wrong_passwords: quota(10, 5),
            federation: quota(1_000, 3_000),
        }
    }
}

impl RateLimitsSection {
    /// The quotas that count.
    pub(crate) fn quotas(&self) -> Option<Quotas> {
        self.enabled.then_some(Quotas {
            messages: self.messages,
            joins: self.joins,
            invites: self.invites,
            registrations: self.registrations,
            logins: self.logins,
            wrong_passwords: self.wrong_passwords,
            federation: self.federation,
        })
    }
}

/// `[public_rooms]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublicRoomsSection {
    /// Whether users may list rooms in the directory.
    pub allow_publishing: bool,
}

/// `[presence]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceSection {
    /// Whether is noted, shown and told who is there.
    pub enabled: bool,
}

impl Default for PresenceSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// What is logged.
    #[serde(deserialize_with = "values::log_filter")]
    pub filter: String,
    /// In which form.
    pub format: LogFormat,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            // The library logs each of its checks.
            filter: "info,ruma_state_res=error".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Whether `/metrics` is served.
    pub enabled: bool,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}
