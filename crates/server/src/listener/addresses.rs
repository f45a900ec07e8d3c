//! How many connections each address has.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;

/// The most connections of one address: a sixteenth of all. Many users may share one, and each has a few.
const MOST: usize = 512;

/// Who has an IPv6 address has as many as fit beside this prefix.
const OWN_SUFFIX_BITS: u32 = 64;

/// The connections of each address.
#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// What stands between others and this server, and so has their connections.
    proxies: Vec<IpNet>,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// The place of one connection.
pub(super) struct Place {
    addresses: Addresses,
    owner: IpAddr,
}

impl Addresses {
    pub(super) fn new(proxies: Vec<IpNet>) -> Self {
        Self(Arc::new(Counts {
            proxies,
            counts: Mutex::default(),
        }))
    }

    /// A place for a connection of an address, unless it has as many as one may.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let is_proxy = |network: &IpNet| network.contains(&address);
        let owner = owner(address);
        let mut counts = self.lock();
        let count = counts.entry(owner).or_default();
        if *count >= MOST && !self.0.proxies.iter().any(is_proxy) {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place {
            addresses: self.clone(),
            owner,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever has an address has those beside it too.
fn owner(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let prefix = address.to_bits() >> OWN_SUFFIX_BITS << OWN_SUFFIX_BITS;
            Ipv6Addr::from_bits(prefix).into()
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.lock();
        if let Some(count) = counts.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn one_address_has_so_many_places_and_gets_them_back() {
        let addresses = Addresses::default();
        let enter = |address| addresses.enter(ip(address));
        let mut places: Vec<_> = (0..MOST).map_while(|_| enter("192.0.2.1")).collect();
        assert_eq!(places.len(), MOST);
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("::ffff:192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        places.pop();
        assert!(enter("192.0.2.1").is_some());
        drop(places);
        assert!(addresses.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_owner() {
        let addresses = Addresses::default();
        let enter = |number| addresses.enter(ip(&format!("2001:db8:0:1::{number:x}")));
        let places: Vec<_> = (0..MOST).map_while(enter).collect();
        assert_eq!(places.len(), MOST);
        assert!(addresses.enter(ip("2001:db8:0:1:ffff::1")).is_none());
        assert!(addresses.enter(ip("2001:db8:0:2::1")).is_some());
    }

    #[test]
    fn reverse_proxies_have_the_connections_of_others() {
        let addresses = Addresses::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let places = (0..=MOST).map(|_| addresses.enter(ip("127.0.0.1")));
        assert!(places.collect::<Vec<_>>().iter().all(Option::is_some));
    }
}
