//! Where names lead by DNS.

use std::{collections::BTreeMap, sync::Arc};

use myelin_env::Random;

use super::Discovery;
use crate::{
    FederationError,
    authority::Authority,
    discovery::is_final,
    testing::{Table, name},
};

fn table() -> Arc<Table> {
    let table = Table::default();
    table.host("plain.test", &["192.0.2.1"]);
    table.host(
        "dual.test",
        &["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"],
    );
    table.host("new.test", &["192.0.2.3"]);
    table.records("_matrix-fed._tcp.new.test", &[(10, 0, 443, "plain.test")]);
    table.host("old.test", &["192.0.2.3"]);
    table.records("_matrix._tcp.old.test", &[(10, 0, 8000, "plain.test")]);
    table.records("_matrix-fed._tcp.both.test", &[(10, 0, 1, "plain.test")]);
    table.records("_matrix._tcp.both.test", &[(10, 0, 2, "plain.test")]);
    table.records(
        "_matrix-fed._tcp.several.test",
        &[
            (20, 0, 20, "plain.test"),
            (10, 0, 10, "new.test"),
            (5, 0, 5, "gone.test"),
        ],
    );
    table.records("_matrix-fed._tcp.never.test", &[(0, 0, 0, ".")]);
    table.host("never.test", &["192.0.2.1"]);
    table.records("_matrix-fed._tcp.dangling.test", &[(0, 0, 1, "gone.test")]);
    table.host("dangling.test", &["192.0.2.1"]);
    table.host("broken.test", &["192.0.2.4"]);
    table.broken("_matrix-fed._tcp.broken.test");
    table.broken("_matrix._tcp.broken.test");
    Arc::new(table)
}

fn discovery(seed: u64) -> Discovery {
    Discovery::new(table(), Random::seeded(seed))
}

async fn addresses(discovery: &Discovery, text: &str) -> Result<String, FederationError> {
    let authority = Authority::parse(text).unwrap();
    let found = discovery.addresses(&authority).await?;
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    Ok(found.join(" "))
}

#[tokio::test]
async fn every_kind_of_name_leads_to_its_addresses() {
    let cases = [
        ("192.0.2.9", "192.0.2.9:8448"),
        ("192.0.2.9:80", "192.0.2.9:80"),
        ("[2001:db8::9]", "[2001:db8::9]:8448"),
        ("[2001:db8::9]:80", "[2001:db8::9]:80"),
        ("plain.test:80", "192.0.2.1:80"),
        // With a port, no SRV record is followed.
        ("new.test:80", "192.0.2.3:80"),
        (
            "dual.test:80",
            "[2001:db8::1]:80 192.0.2.1:80 [2001:db8::2]:80 192.0.2.2:80",
        ),
        ("plain.test", "192.0.2.1:8448"),
        ("new.test", "192.0.2.1:443"),
        ("old.test", "192.0.2.1:8000"),
        ("both.test", "192.0.2.1:1"),
        ("several.test", "192.0.2.3:10 192.0.2.1:20"),
        ("broken.test", "192.0.2.4:8448"),
    ];
    for (text, expected) in cases {
        let found = addresses(&discovery(0), text).await.unwrap();
        assert_eq!(found, expected, "{text}");
    }
}

#[tokio::test]
async fn a_name_without_addresses_is_unreachable() {
    for text in ["gone.test", "gone.test:80", "never.test", "dangling.test"] {
        let refused = addresses(&discovery(0), text).await;
        assert!(
            matches!(refused, Err(FederationError::Unreachable(_))),
            "{text}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn the_deprecated_record_is_asked_for_only_if_the_new_one_is_not_there() {
    let names = table();
    let discovery = Discovery::new(Arc::clone(&names) as Arc<_>, Random::seeded(0));
    addresses(&discovery, "new.test").await.unwrap();
    assert_eq!(
        names.take_asked(),
        ["_matrix-fed._tcp.new.test", "plain.test"]
    );
    addresses(&discovery, "plain.test").await.unwrap();
    assert_eq!(
        names.take_asked(),
        [
            "_matrix-fed._tcp.plain.test",
            "_matrix._tcp.plain.test",
            "plain.test"
        ]
    );
}

#[tokio::test]
async fn records_of_one_priority_are_drawn_by_weight() {
    let table = Table::default();
    table.host("a.test", &["192.0.2.1"]);
    let records = [
        (0, 90, 90, "a.test"),
        (0, 10, 10, "a.test"),
        (1, 0, 1, "a.test"),
    ];
    table.records("_matrix-fed._tcp.s.test", &records);
    let discovery = Discovery::new(Arc::new(table), Random::seeded(1));
    let mut first = BTreeMap::<u16, u32>::new();
    for _ in 0..1000 {
        let authority = Authority::parse("s.test").unwrap();
        let found = discovery.addresses(&authority).await.unwrap();
        assert_eq!(found[2].port(), 1);
        *first.entry(found[0].port()).or_default() += 1;
    }
    assert_eq!(first.values().sum::<u32>(), 1000);
    assert!((850..950).contains(&first[&90]), "{first:?}");
}

#[test]
fn only_bare_host_names_need_well_known() {
    let cases = [
        ("a.test", false),
        ("a.test:8448", true),
        ("1.2.3.4", true),
        ("1.2.3.4:1", true),
        ("[::1]", true),
        ("[::1]:1", true),
        ("1.2.3.4.5", false),
    ];
    for (text, expected) in cases {
        assert_eq!(is_final(name(text)), expected, "{text}");
    }
}
