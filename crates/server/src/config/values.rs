//! Values that are more than a text or a number, each with words for what was expected.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr as _,
};

use http::{Uri, uri::Scheme};
use ipnet::IpNet;
use myelin_core::room_version::RoomVersion;
use myelin_storage::DatabaseUrl;
use myelin_users::Quota;
use serde::{Deserialize, Deserializer, de::Error as _};
use tracing_subscriber::EnvFilter;

use ruma::OwnedServerName;

use super::{
    ListenerConfig, TlsFiles,
    reference::{Value, section},
};

/// A text of TOML.
fn quoted(text: impl Into<String>) -> String {
    toml::Value::String(text.into()).to_string()
}

impl Value for bool {
    fn kind() -> String {
        "true or false".to_owned()
    }

    fn written(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn kind() -> String {
        "text".to_owned()
    }

    fn written(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    fn kind() -> String {
        "path".to_owned()
    }

    fn written(&self) -> String {
        quoted(self.to_string_lossy())
    }
}

impl Value for OwnedServerName {
    fn kind() -> String {
        "server name".to_owned()
    }

    fn written(&self) -> String {
        quoted(self.as_str())
    }
}

impl<V: Value> Value for Vec<V> {
    fn kind() -> String {
        format!("list of {}s", V::kind())
    }

    fn written(&self) -> String {
        let written: Vec<_> = self.iter().map(V::written).collect();
        format!("[{}]", written.join(", "))
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Value for LogFormat {
    fn kind() -> String {
        r#"`"text"` or `"json"`"#.to_owned()
    }

    fn written(&self) -> String {
        let name = match self {
            Self::Text => "text",
            Self::Json => "json",
        };
        quoted(name)
    }
}

impl Value for RoomVersion {
    fn kind() -> String {
        "room version".to_owned()
    }

    fn written(&self) -> String {
        quoted(self.as_str())
    }
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

impl Value for IpNet {
    fn kind() -> String {
        "network".to_owned()
    }

    fn written(&self) -> String {
        let is_one_address = self.prefix_len() == self.max_prefix_len();
        if is_one_address {
            quoted(self.addr().to_string())
        } else {
            quoted(self.to_string())
        }
    }
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

impl Value for Quota {
    fn kind() -> String {
        "`burst`: requests; `per_minute`: requests per minute".to_owned()
    }

    fn written(&self) -> String {
        let Self { burst, per_minute } = self;
        format!("{{ burst = {burst}, per_minute = {per_minute} }}")
    }
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

/// Where a collector of traces listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorAddress {
    /// A name or an address; one of IPv6 stands without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The port of OTLP over HTTP.
const OTLP_PORT: u16 = 4318;

impl CollectorAddress {
    /// The URL of a path there.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{self}{path}")
    }
}

impl fmt::Display for CollectorAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.contains(':') {
            true => write!(formatter, "[{host}]:{port}"),
            false => write!(formatter, "{host}:{port}"),
        }
    }
}

impl Value for CollectorAddress {
    fn kind() -> String {
        "address".to_owned()
    }

    fn written(&self) -> String {
        quoted(self.url(""))
    }
}

pub(super) fn collector<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<CollectorAddress>, D::Error> {
    let url = String::deserialize(from)?;
    let address = || {
        let uri: Uri = url.parse().ok()?;
        let is_root = uri.path_and_query().is_none_or(|path| path == "/");
        let is_plain = uri.scheme() == Some(&Scheme::HTTP) && is_root;
        let authority = uri.authority().filter(|_| is_plain)?;
        let host = authority.host().trim_matches(['[', ']']);
        (!host.is_empty() && !authority.as_str().contains('@')).then(|| CollectorAddress {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(OTLP_PORT),
        })
    };
    match address() {
        Some(address) => Ok(Some(address)),
        None => Err(D::Error::custom(format!(
            "{url:?} is no collector, expected http://HOST:PORT, for instance \"http://127.0.0.1:4318\""
        ))),
    }
}

/// A part of all: from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRatio(f64);

/// It is never NaN.
impl Eq for SampleRatio {}

impl SampleRatio {
    /// From 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for SampleRatio {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Value for SampleRatio {
    fn kind() -> String {
        "number from 0 to 1".to_owned()
    }

    fn written(&self) -> String {
        toml::Value::Float(self.0).to_string()
    }
}

pub(super) fn sample_ratio<'de, D: Deserializer<'de>>(from: D) -> Result<SampleRatio, D::Error> {
    let ratio = f64::deserialize(from)?;
    match (0.0..=1.0).contains(&ratio) {
        true => Ok(SampleRatio(ratio)),
        false => Err(D::Error::custom(format!(
            "{ratio} is no part of the requests, expected a number from 0 to 1"
        ))),
    }
}

section! {
    /// A listener as it stands in the file.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct WrittenListener {
        /// IP:PORT, for IPv6 [IP]:PORT. Port 0 lets the system choose.
        #[serde(deserialize_with = "socket_address")]
        address: SocketAddr,
        /// A file with the certificate and those that vouch for it, in PEM form. Without it the port speaks
        /// plain HTTP, for instance to a reverse proxy.
        #[example = "\"tls.crt\""]
        tls_certificate: Option<PathBuf>,
        /// A file with the certificate's private key, in PEM form.
        #[example = "\"tls.key\""]
        tls_key: Option<PathBuf>,
        /// What is served here: "client", "federation" or both.
        #[serde(default = "all_resources")]
        resources: Vec<Resource>,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Resource {
    Client,
    Federation,
}

impl Value for Resource {
    fn kind() -> String {
        "resource".to_owned()
    }

    fn written(&self) -> String {
        let name = match self {
            Self::Client => "client",
            Self::Federation => "federation",
        };
        quoted(name)
    }
}

impl Value for SocketAddr {
    fn kind() -> String {
        "address and port".to_owned()
    }

    fn written(&self) -> String {
        quoted(self.to_string())
    }
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

impl From<ListenerConfig> for WrittenListener {
    fn from(listener: ListenerConfig) -> Self {
        let (tls_certificate, tls_key) = match listener.tls {
            Some(TlsFiles { certificate, key }) => (Some(certificate), Some(key)),
            None => (None, None),
        };
        let resources = [
            (listener.client, Resource::Client),
            (listener.federation, Resource::Federation),
        ];
        let resources = resources.into_iter().filter(|(served, _)| *served);
        Self {
            address: listener.address,
            tls_certificate,
            tls_key,
            resources: resources.map(|(_, resource)| resource).collect(),
        }
    }
}
