//! Where requests go after delegation: a host and perhaps a port.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ruma::ServerName;
use rustls::pki_types::ServerName as TlsName;

/// The port where servers are expected that say nothing else.
pub(crate) const DEFAULT_PORT: u16 = 8448;

/// A server name taken apart. Everything about a connection follows from it: the addresses, the
/// certificate's name, and the `Host` header, which is its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Authority {
    pub(crate) host: Host,
    pub(crate) port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(String),
}

impl Authority {
    /// Takes a server name, or a delegated one, apart.
    pub(crate) fn of(server: &ServerName) -> Self {
        let host = server.host();
        let bracketed = host
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'));
        let address = match bracketed {
            Some(inner) => inner.parse().ok().map(IpAddr::V6),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        Self {
            host: address.map_or_else(|| Host::Name(host.to_owned()), Host::Address),
            port: server.port(),
        }
    }

    /// Parses the grammar of server names.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        <&ServerName>::try_from(text).ok().map(Self::of)
    }

    /// The name that the certificate must be for; `None` if no certificate can be.
    pub(crate) fn tls_name(&self) -> Option<TlsName<'static>> {
        match &self.host {
            Host::Address(address) => Some(TlsName::from(*address)),
            Host::Name(name) => TlsName::try_from(name.clone()).ok(),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]")?,
            Host::Address(IpAddr::V4(address)) => write!(formatter, "{address}")?,
            Host::Name(name) => formatter.write_str(name)?,
        }
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}
