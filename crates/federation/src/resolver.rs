//! DNS, behind a trait so that tests and simulations have their own.

use std::{net::IpAddr, time::Duration};

use futures_util::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    config::LookupIpStrategy,
    net::NetError,
    proto::rr::{Name, RData},
};
use tokio::sync::OnceCell;

/// The name system is not to be reached, or gave no answer that could be understood. That a name
/// has no records is not an error but an empty list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot resolve {name}: {why}")]
pub struct ResolveError {
    /// What was asked for.
    pub name: String,
    /// What happened.
    pub why: String,
}

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Lower comes first.
    pub priority: u16,
    /// Share among those of the same priority.
    pub weight: u16,
    /// Where on the host.
    pub port: u16,
    /// The host; `.` if the service is decidedly not offered.
    pub target: String,
}

/// Where names are resolved.
pub trait Resolver: Send + Sync + 'static {
    /// The IP addresses of a host (A and AAAA records, through CNAMEs), in order of preference.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>>;

    /// The SRV records of a name like `_matrix-fed._tcp.example.org`.
    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Service>, ResolveError>>;
}

/// The name servers and the hosts file of this machine. They are read at the first question.
#[derive(Default)]
pub struct SystemResolver(OnceCell<TokioResolver>);

impl SystemResolver {
    async fn resolver(&self) -> Result<&TokioResolver, NetError> {
        let build = async || {
            let mut builder = TokioResolver::builder_tokio()?;
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
            options.timeout = Duration::from_secs(3);
            options.attempts = 2;
            options.cache_size = 8192;
            builder.build()
        };
        self.0.get_or_try_init(build).await
    }
}

impl Resolver for SystemResolver {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            let found = async {
                let resolver = self.resolver().await?;
                resolver.lookup_ip(absolute(host)?).await
            };
            match found.await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) => none_if_absent(host, &error),
            }
        })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Service>, ResolveError>> {
        Box::pin(async move {
            let found = async {
                let resolver = self.resolver().await?;
                resolver.srv_lookup(absolute(name)?).await
            };
            match found.await {
                Ok(found) => {
                    let records = found.answers().iter();
                    Ok(records.filter_map(|record| service(&record.data)).collect())
                }
                Err(error) => none_if_absent(name, &error),
            }
        })
    }
}

/// Names with a dot are complete; the machine's search domains apply to short ones only.
fn absolute(name: &str) -> Result<Name, NetError> {
    let mut parsed = Name::from_ascii(name)?;
    if name.contains('.') {
        parsed.set_fqdn(true);
    }
    Ok(parsed)
}

fn service(data: &RData) -> Option<Service> {
    let RData::SRV(record) = data else {
        return None;
    };
    let target = record.target.to_ascii();
    Some(Service {
        priority: record.priority,
        weight: record.weight,
        port: record.port,
        target: match target.strip_suffix('.') {
            Some(host) if !host.is_empty() => host.to_owned(),
            _ => target,
        },
    })
}

fn none_if_absent<T>(name: &str, error: &NetError) -> Result<Vec<T>, ResolveError> {
    if error.is_nx_domain() || error.is_no_records_found() {
        return Ok(Vec::new());
    }
    Err(ResolveError {
        name: name.to_owned(),
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_knows_itself() {
        let found = SystemResolver::default()
            .addresses("localhost")
            .await
            .unwrap();
        assert!(
            !found.is_empty() && found.iter().all(IpAddr::is_loopback),
            "{found:?}"
        );
    }

    #[test]
    fn names_with_a_dot_are_complete() {
        assert_eq!(absolute("a.test").unwrap().to_ascii(), "a.test.");
        assert_eq!(absolute("synapse").unwrap().to_ascii(), "synapse");
        assert!(absolute("a..test").is_err());
    }
}
