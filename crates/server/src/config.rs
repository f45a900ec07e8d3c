//! The configuration: one TOML file in which every key has a default. What is said of the keys here is
//! what operators read: [`documented_file`] and [`reference`] are made of it.

mod load;
mod reference;
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
use reference::{Documented, Holds, section};
pub use reference::{documented_file, reference};
use values::WrittenListener;
pub use values::{CollectorAddress, LogFormat, SampleRatio};

section! {
    /// Everything that the operator decides.
    #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Config {
        /// The name of this server, which user IDs and room aliases end with. It is PERMANENT once the server
        /// has talked to others: choose your domain ("example.org") before you open it to federation.
        pub server_name: OwnedServerName,
        /// Where the signing key, and SQLite's database unless `[database]` says otherwise, are kept.
        pub data_dir: PathBuf,
        /// The version that new rooms get unless the client asks for another: "1" to "12".
        #[serde(deserialize_with = "values::room_version")]
        pub default_room_version: RoomVersion,
        /// The address at which clients reach this server from outside. It is announced to them in
        /// /.well-known/matrix/client and at login.
        #[example = "\"https://matrix.example.org\""]
        #[serde(deserialize_with = "values::base_url")]
        pub public_base_url: Option<String>,
        /// Reverse proxies in front of this server, by address or network. What they write into
        /// X-Forwarded-For is believed to be where a request comes from; nobody else's is. Any other
        /// address may have 512 connections.
        #[serde(deserialize_with = "values::networks")]
        pub trusted_proxies: Vec<IpNet>,
        /// Where rooms, users and everything else are stored.
        pub database: DatabaseConfig,
        /// One section per port. Without any, the server listens on 127.0.0.1:8008 for both.
        pub listeners: Vec<ListenerConfig>,
        /// Other servers.
        pub federation: FederationSection,
        /// Who may make an account.
        pub registration: RegistrationSection,
        /// How much each may ask for: so much at once (burst) after having asked for nothing for long, and
        /// then so much a minute.
        pub rate_limits: RateLimitsSection,
        /// This server's directory of rooms.
        pub public_rooms: PublicRoomsSection,
        /// Who is online.
        pub presence: PresenceSection,
        /// What the server says on standard error.
        pub log: LogSection,
        /// Figures in the format of Prometheus.
        pub metrics: MetricsSection,
        /// Traces of requests and events, for a collector of OpenTelemetry.
        pub traces: TracesSection,
    }
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
            traces: TracesSection::default(),
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

section! {
    /// `[database]`
    #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct DatabaseConfig {
        /// sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME. By default myelin.db in `data_dir`.
        #[example = "\"postgres://myelin:password@127.0.0.1:5432/myelin\""]
        #[serde(deserialize_with = "values::database_url")]
        pub url: Option<String>,
    }
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

impl Documented for Vec<ListenerConfig> {
    fn holds(&self) -> Holds {
        let listener = self.first().cloned().unwrap_or_default();
        Holds::Sections(WrittenListener::from(listener).keys())
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

section! {
    /// `[federation]`
    #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct FederationSection {
        /// Files with certificates, in PEM form, of further authorities that may vouch for other servers.
        pub extra_ca_certificates: Vec<PathBuf>,
        /// Whether other servers may be reached at addresses that are not public, such as 10.0.0.1 or
        /// localhost. Leave it off on the open internet: others choose the names that this server looks up.
        pub allow_private_addresses: bool,
        /// Networks to which this server never connects, beside those that are not public, whatever a name,
        /// a delegation or a redirect leads to.
        #[serde(deserialize_with = "values::networks")]
        pub blocked_addresses: Vec<IpNet>,
        /// Networks to which it connects though they are blocked or not public, such as those of your own
        /// other servers. An IPv6 address that leads to an IPv4 one (mapped, NAT64, 6to4) counts as both.
        #[serde(deserialize_with = "values::networks")]
        pub allowed_addresses: Vec<IpNet>,
        /// Servers to ask for the keys of servers that don't answer themselves.
        pub trusted_key_servers: Vec<OwnedServerName>,
    }
}

impl Default for FederationSection {
    fn default() -> Self {
        Self {
            extra_ca_certificates: Vec::new(),
            allow_private_addresses: false,
            blocked_addresses: Vec::new(),
            allowed_addresses: Vec::new(),
            trusted_key_servers: vec![server_name!("matrix.org").to_owned()],
        }
    }
}

section! {
    /// `[registration]`
    #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct RegistrationSection {
        /// Whether anybody may register an account. Without it, one needs a registration token.
        pub enabled: bool,
        /// Whether anybody may have an account as a guest, without showing anything for it. Guests join rooms
        /// that let guests in, write there, and may do little else.
        pub guests: bool,
        /// Whoever knows this secret can register accounts, also administrators', through
        /// /_synapse/admin/v1/register. Without one, nobody can.
        #[example = "\"a long random text\""]
        #[serde(deserialize_with = "values::secret")]
        pub shared_secret: Option<String>,
    }
}

section! {
    /// `[rate_limits]`
    #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct RateLimitsSection {
        /// Whether those who ask too often are held back.
        pub enabled: bool,
        /// Messages, changes of rooms and profiles, and new rooms, by user.
        #[serde(deserialize_with = "values::quota")]
        pub messages: Quota,
        /// Joins and knocks, by user.
        #[serde(deserialize_with = "values::quota")]
        pub joins: Quota,
        /// Those of them for which other servers are asked, by user.
        #[serde(deserialize_with = "values::quota")]
        pub remote_joins: Quota,
        /// Invites, by the user who invites.
        #[serde(deserialize_with = "values::quota")]
        pub invites: Quota,
        /// Searches for messages and users, by user. Clients may search with every letter that is typed.
        #[serde(deserialize_with = "values::quota")]
        pub searches: Quota,
        /// Requests to register, by address. One registration takes two or three.
        #[serde(deserialize_with = "values::quota")]
        pub registrations: Quota,
        /// Requests to log in, by address.
        #[serde(deserialize_with = "values::quota")]
        pub logins: Quota,
        /// Whether names and registration tokens are free, and sessions that are renewed, by address.
        #[serde(deserialize_with = "values::quota")]
        pub lookups: Quota,
        /// Wrong passwords, by account. When they are used up, the right one is refused as well.
        #[serde(deserialize_with = "values::quota")]
        pub wrong_passwords: Quota,
        /// Requests of another server.
        #[serde(deserialize_with = "values::quota")]
        pub federation: Quota,
    }
}

impl Default for RateLimitsSection {
    fn default() -> Self {
        let quota = |burst, per_minute| Quota { burst, per_minute };
        Self {
            enabled: true,
            messages: quota(50, 60),
            joins: quota(20, 6),
            remote_joins: quota(10, 2),
            invites: quota(50, 20),
            searches: quota(60, 60),
            registrations: quota(10, 10),
            logins: quota(10, 10),
            lookups: quota(100, 60),
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
            remote_joins: self.remote_joins,
            invites: self.invites,
            searches: self.searches,
            registrations: self.registrations,
            logins: self.logins,
            lookups: self.lookups,
            wrong_passwords: self.wrong_passwords,
            federation: self.federation,
        })
    }
}

section! {
    /// `[public_rooms]`
    #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct PublicRoomsSection {
        /// Whether users may list their rooms in this server's public directory, which anybody can read.
        pub allow_publishing: bool,
    }
}

section! {
    /// `[presence]`
    #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct PresenceSection {
        /// Whether users see of each other who is online, idle or offline, here and on other servers. Without
        /// it everybody seems to be offline, and what clients and other servers say is ignored.
        pub enabled: bool,
    }
}

impl Default for PresenceSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}

section! {
    /// `[log]`
    #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct LogSection {
        /// What is logged to standard error: error, warn, info, debug or trace, also by part, as in
        /// "info,myelin_federation=debug".
        #[serde(deserialize_with = "values::log_filter")]
        pub filter: String,
        /// "text" for people or "json" for machines.
        pub format: LogFormat,
    }
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

section! {
    /// `[metrics]`
    #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct MetricsSection {
        /// Whether /metrics shows figures in the format of Prometheus. It is on every listener: keep it from
        /// the public in the reverse proxy.
        pub enabled: bool,
    }
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}

section! {
    /// `[traces]`
    #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct TracesSection {
        /// Where the collector takes OTLP over HTTP: a program beside this server, since it is spoken to without
        /// TLS. Without it nothing is traced.
        #[example = "\"http://127.0.0.1:4318\""]
        #[serde(deserialize_with = "values::collector")]
        pub collector: Option<CollectorAddress>,
        /// Which part of the requests is traced, with all that follows from them: 1 is all of them, 0.01 one in a
        /// hundred.
        #[serde(deserialize_with = "values::sample_ratio")]
        pub sample_ratio: SampleRatio,
    }
}
