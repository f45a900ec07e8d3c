//! Which addresses this server connects to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The operator's rule for everything that goes out: other servers, `.well-known`, keys, notaries,
/// identity servers, and wherever redirects lead.
///
/// An address is `allowed`; else it is not `blocked`, and public unless private ones are permitted. An
/// IPv6 address that leads to an IPv4 one counts as both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Whether addresses that are not on the public internet are permitted. Otherwise strangers could
    /// send this server to its neighbours.
    pub allow_private: bool,
    /// Never connected to.
    pub blocked: Vec<IpNet>,
    /// Connected to whatever else is said.
    pub allowed: Vec<IpNet>,
}

impl AddressPolicy {
    /// Whether to connect to this address.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        let within = |networks: &[IpNet]| {
            let is_in = |address| networks.iter().any(|network| network.contains(&address));
            is_in(address) || leads_to(address).is_some_and(|inner| is_in(IpAddr::V4(inner)))
        };
        within(&self.allowed)
            || (!within(&self.blocked) && (self.allow_private || is_public(address)))
    }
}

/// Networks that no public server lives in: IANA's special-purpose registry, and multicast.
const SPECIAL_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Public IPv6 is 2000::/3; these parts of it are not.
const SPECIAL_V6: &[(Ipv6Addr, u32)] = &[
    // Protocol assignments, with Teredo.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4 leads to any IPv4 address.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether a server of the public internet can have this address. Everything else is this
/// machine, its neighbours, or nothing, and no stranger may send us there.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(six) if is_special_v6(six) => false,
        IpAddr::V6(six) => leads_to(address).map_or_else(|| is_global_v6(six), is_public_v4),
    }
}

/// The IPv4 address that a mapped (`::ffff:0:0/96`), translated (`64:ff9b::/96`) or 6to4 (`2002::/16`)
/// one leads to.
fn leads_to(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let bits = address.to_bits();
    let shift = match (bits >> 32, bits >> 112) {
        (0xffff | 0x0064_ff9b_0000_0000_0000_0000, _) => 0,
        (_, 0x2002) => 80,
        _ => return None,
    };
    let inner = u32::try_from(bits >> shift & u128::from(u32::MAX)).ok()?;
    Some(Ipv4Addr::from_bits(inner))
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !SPECIAL_V4
        .iter()
        .any(|(network, length)| (bits ^ network.to_bits()) >> (32 - length) == 0)
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    address.to_bits() >> 125 == 1
}

fn is_special_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    SPECIAL_V6
        .iter()
        .any(|(network, length)| (bits ^ network.to_bits()) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests {
    use super::{AddressPolicy, is_public};

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        let cases = [
            ("1.1.1.1", true),
            ("9.255.255.255", true),
            ("10.0.0.1", false),
            ("11.0.0.0", true),
            ("100.63.255.255", true),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.15.0.1", true),
            ("172.31.255.255", false),
            ("172.32.0.0", true),
            ("192.168.1.1", false),
            ("198.19.0.1", false),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("::", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:1.1.1.1", true),
            ("64:ff9b::7f00:1", false),
            ("64:ff9b::101:101", true),
            ("64:ff9b:1::1", false),
            ("2606:4700::1111", true),
            ("2001:db8::1", false),
            ("2001::1", false),
            ("2002:a00:1::", false),
            ("fc00::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("100::1", false),
        ];
        for (address, public) in cases {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }
    fn networks(texts: &[&str]) -> Vec<ipnet::IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_allowed_goes_before_what_is_blocked_and_that_before_what_is_public() {
        let policy = |allow_private| AddressPolicy {
            allow_private,
            blocked: networks(&["8.8.0.0/16", "10.1.0.0/16", "2606:4700::/32"]),
            allowed: networks(&["8.8.8.8/32", "10.1.1.0/24", "10.2.0.0/16", "fc00::/64"]),
        };
        // An address, and whether it is permitted without and with private addresses.
        let cases = [
            ("1.1.1.1", true, true),
            ("8.8.4.4", false, false),
            ("8.8.8.8", true, true),
            ("10.1.0.1", false, false),
            ("10.1.1.1", true, true),
            ("10.2.0.1", true, true),
            ("10.3.0.1", false, true),
            ("::1", false, true),
            ("2606:4700::1", false, false),
            ("2606:4800::1", true, true),
            ("fc00::1", true, true),
            ("fc00:0:0:1::1", false, true),
            // The same by other ways: mapped, translated, 6to4.
            ("::ffff:8.8.4.4", false, false),
            ("::ffff:8.8.8.8", true, true),
            ("::ffff:10.3.0.1", false, true),
            ("64:ff9b::808:404", false, false),
            ("64:ff9b::a01:1", false, false),
            ("64:ff9b::a02:1", true, true),
            ("64:ff9b::101:101", true, true),
            ("2002:808:404::1", false, false),
            ("2002:a01:1::1", false, false),
            ("2002:101:101::1", false, true),
        ];
        for (address, without, with) in cases {
            let address = address.parse().unwrap();
            let permitted = [policy(false), policy(true)].map(|policy| policy.permits(address));
            assert_eq!(permitted, [without, with], "{address}");
        }
    }

    #[test]
    fn a_blocked_ipv6_network_holds_whatever_it_leads_to() {
        let policy = AddressPolicy {
            allow_private: true,
            blocked: networks(&["64:ff9b::/96", "2002::/16"]),
            allowed: Vec::new(),
        };
        for (address, permitted) in [
            ("64:ff9b::101:101", false),
            ("2002:101:101::1", false),
            ("1.1.1.1", true),
        ] {
            assert_eq!(policy.permits(address.parse().unwrap()), permitted);
        }
    }
}
