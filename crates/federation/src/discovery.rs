//! From a server name to addresses: server-server API, "Resolving server names".
//!
//! It happens in two steps that need nothing of each other. [`Discovery::delegate`] asks
//! `.well-known` who answers for a name (steps 1 to 3). [`Discovery::addresses`] asks DNS where
//! that is (1 to 3 by sub-step, 4 to 6); since it depends on nothing but the delegated name, all
//! servers that delegate to one host share its connections.

use std::{
    cmp::Reverse,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use myelin_env::Random;
use ruma::ServerName;

use crate::{
    Resolver, Service,
    authority::{Authority, DEFAULT_PORT, Host},
    error::FederationError,
};

/// How many SRV records, and how many addresses in all, are looked at.
const MOST_SERVICES: usize = 8;
const MOST_ADDRESSES: usize = 16;

/// Finds the way to other servers.
#[derive(Clone)]
pub(crate) struct Discovery {
    resolver: Arc<dyn Resolver>,
    random: Random,
}

/// Whether a name says by itself where it is, so that `.well-known` isn't asked (steps 1 and 2).
pub(crate) fn is_final(server: &ServerName) -> bool {
    let authority = Authority::of(server);
    authority.port.is_some() || matches!(authority.host, Host::Address(_))
}

impl Discovery {
    pub(crate) fn new(resolver: Arc<dyn Resolver>, random: Random) -> Self {
        Self { resolver, random }
    }

    /// Where to connect to, in order of preference; never empty.
    ///
    /// # Errors
    /// [`FederationError::Unreachable`] if there is no address.
    pub(crate) async fn addresses(
        &self,
        authority: &Authority,
    ) -> Result<Vec<SocketAddr>, FederationError> {
        let found = match (&authority.host, authority.port) {
            (Host::Address(address), port) => {
                vec![SocketAddr::new(*address, port.unwrap_or(DEFAULT_PORT))]
            }
            (Host::Name(name), Some(port)) => self.at_port(name, port).await?,
            (Host::Name(name), None) => self.by_services(name).await?,
        };
        if found.is_empty() {
            return Err(FederationError::Unreachable(format!(
                "{authority} has no address"
            )));
        }
        Ok(found)
    }

    async fn at_port(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, FederationError> {
        let addresses = self.resolver.addresses(host).await;
        let addresses =
            addresses.map_err(|error| FederationError::Unreachable(error.to_string()))?;
        Ok(interleave(addresses)
            .take(MOST_ADDRESSES)
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }

    /// Sub-steps 3.3 to 3.5 for a delegated name, which are steps 4 to 6 for an undelegated one.
    async fn by_services(&self, host: &str) -> Result<Vec<SocketAddr>, FederationError> {
        for service in ["_matrix-fed", "_matrix"] {
            let name = format!("{service}._tcp.{host}");
            let records = self.resolver.services(&name).await.unwrap_or_else(|error| {
                // Nothing is risked by going on: the certificate must be for `host` in any case.
                tracing::debug!(%error, "no answer about SRV records, going on without");
                Vec::new()
            });
            if records.is_empty() {
                continue;
            }
            return self.at_services(host, records).await;
        }
        self.at_port(host, DEFAULT_PORT).await
    }

    async fn at_services(
        &self,
        host: &str,
        records: Vec<Service>,
    ) -> Result<Vec<SocketAddr>, FederationError> {
        if records.iter().all(|record| record.target == ".") {
            return Err(FederationError::Unreachable(format!(
                "{host} decidedly doesn't offer federation (SRV target is the root)"
            )));
        }
        let mut found = Vec::new();
        let mut failure = None;
        for record in self.in_order(records).into_iter().take(MOST_SERVICES) {
            if record.target == "." {
                continue;
            }
            match self.at_port(&record.target, record.port).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => failure = Some(error),
            }
        }
        found.truncate(MOST_ADDRESSES);
        match failure {
            Some(failure) if found.is_empty() => Err(failure),
            _ => Ok(found),
        }
    }

    /// By priority; within one, drawn by weight (RFC 2782).
    fn in_order(&self, mut records: Vec<Service>) -> Vec<Service> {
        records.sort_by_key(|record| (record.priority, record.weight));
        let mut ordered: Vec<Service> = Vec::with_capacity(records.len());
        while let Some(first) = records.first() {
            let priority = first.priority;
            let peers = records.partition_point(|record| record.priority == priority);
            let total: u64 = weights(&records[..peers]).sum();
            let mut draw = self.random.below(total + 1);
            let chosen = weights(&records[..peers]).position(|weight| {
                let hit = draw <= weight;
                draw = draw.saturating_sub(weight);
                hit
            });
            ordered.push(records.remove(chosen.unwrap_or(0)));
        }
        ordered
    }
}

fn weights(records: &[Service]) -> impl Iterator<Item = u64> + '_ {
    records.iter().map(|record| u64::from(record.weight))
}

/// IPv6 and IPv4 by turns, so that a network which carries only one of them costs one wait, not
/// one for each address (RFC 8305).
fn interleave(addresses: Vec<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let mut placed: Vec<(usize, Reverse<bool>, IpAddr)> = Vec::with_capacity(addresses.len());
    let (mut v4, mut v6) = (0, 0);
    for address in addresses {
        let place = if address.is_ipv6() { &mut v6 } else { &mut v4 };
        placed.push((*place, Reverse(address.is_ipv6()), address));
        *place += 1;
    }
    placed.sort_by_key(|(place, six, _)| (*place, *six));
    placed.into_iter().map(|(_, _, address)| address)
}

#[cfg(test)]
mod tests;
