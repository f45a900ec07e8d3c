//! Finding servers, from the name to the request.

use std::sync::{Arc, Mutex};

use super::world;
use crate::{
    FederationConfig, FederationError,
    testing::{CLOSE, World, json, name},
};

const FED: &str = "_matrix-fed._tcp";
const OLD: &str = "_matrix._tcp";

/// How a name is to be found, and what must be sent there. `PORT` stands for the server's.
struct Case {
    server_name: &'static str,
    /// What `.well-known` of `s.test` says; nothing if empty.
    delegation: &'static str,
    /// The one SRV record there is.
    record: Option<(&'static str, &'static str)>,
    host: &'static str,
    tls_name: Option<&'static str>,
}

const fn case(
    server_name: &'static str,
    delegation: &'static str,
    record: Option<(&'static str, &'static str)>,
    host: &'static str,
    tls_name: Option<&'static str>,
) -> Case {
    Case {
        server_name,
        delegation,
        record,
        host,
        tls_name,
    }
}

/// In the order of the specification's steps.
const CASES: [Case; 8] = [
    case("127.0.0.1:PORT", "", None, "127.0.0.1:PORT", None),
    case("s.test:PORT", "", None, "s.test:PORT", Some("s.test")),
    case("s.test", "127.0.0.1:PORT", None, "127.0.0.1:PORT", None),
    case("s.test", "d.test:PORT", None, "d.test:PORT", Some("d.test")),
    case(
        "s.test",
        "d.test",
        Some((FED, "d.test")),
        "d.test",
        Some("d.test"),
    ),
    case(
        "s.test",
        "d.test",
        Some((OLD, "d.test")),
        "d.test",
        Some("d.test"),
    ),
    case(
        "s.test",
        "",
        Some((FED, "s.test")),
        "s.test",
        Some("s.test"),
    ),
    case(
        "s.test",
        "",
        Some((OLD, "s.test")),
        "s.test",
        Some("s.test"),
    ),
];

#[tokio::test]
async fn host_and_certificate_are_those_of_the_specification() {
    let world = World::new().await;
    let delegation = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&delegation);
    let server = world
        .server(&["s.test", "d.test", "127.0.0.1"], move |seen| {
            match (seen.target.as_str(), said.lock().unwrap().as_str()) {
                ("/.well-known/matrix/server", "") => json(404, ""),
                ("/.well-known/matrix/server", to) => {
                    json(200, &format!(r#"{{"m.server":"{to}"}}"#))
                }
                _ => json(200, "{}"),
            }
        })
        .await;
    for host in ["s.test", "d.test", "srv.test"] {
        world.names.host(host, &["127.0.0.1"]);
    }
    for (index, case) in CASES.iter().enumerate() {
        let with_port = |text: &str| text.replace("PORT", &server.port.to_string());
        *delegation.lock().unwrap() = with_port(case.delegation);
        for (service, host) in [
            (FED, "s.test"),
            (OLD, "s.test"),
            (FED, "d.test"),
            (OLD, "d.test"),
        ] {
            let there = case.record == Some((service, host));
            let record = (0, 0, server.port, "srv.test");
            let records = if there { vec![record] } else { vec![] };
            world.names.records(&format!("{service}.{host}"), &records);
        }
        let federation = world.federation_with(world.config(), server.port);
        let server_name = with_port(case.server_name);
        federation.version(name(&server_name)).await.unwrap();
        let seen = server.last();
        assert_eq!(seen.host, with_port(case.host), "{index}");
        assert_eq!(seen.sni.as_deref(), case.tls_name, "{index}");
        // Delegation doesn't change whom the request is signed for.
        let destination = format!("destination=\"{server_name}\"");
        assert!(
            seen.authorization.unwrap().contains(&destination),
            "{index}"
        );
    }
}

#[tokio::test]
async fn without_records_the_host_itself_is_resolved() {
    // Steps 3.5 and 6: nothing can listen there in a test, so this sees where DNS was asked, and the
    // table of addresses in `discovery` sees the port.
    let world = World::new().await;
    world.names.host("s.test", &["192.0.2.1"]);
    let config = FederationConfig {
        addresses: crate::AddressPolicy::default(),
        ..world.config()
    };
    let refused = world
        .federation_with(config, 1)
        .version(name("s.test"))
        .await;
    assert!(
        matches!(refused, Err(FederationError::Refused(_))),
        "{refused:?}"
    );
    let expected = [
        "s.test",
        "_matrix-fed._tcp.s.test",
        "_matrix._tcp.s.test",
        "s.test",
    ];
    assert_eq!(world.names.take_asked(), expected);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let world = World::new().await;
    let server = world
        .server(&["srv.test", "other.test"], |_| json(200, "{}"))
        .await;
    world.names.records(
        "_matrix-fed._tcp.s.test",
        &[(0, 0, server.port, "srv.test")],
    );
    world.names.host("srv.test", &["127.0.0.1"]);
    let refused = world.federation().version(name("s.test")).await;
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
    let by_address = format!("127.0.0.1:{}", server.port);
    let refused = world.federation().version(name(&by_address)).await;
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_issuer_is_refused() {
    let world = World::new().await;
    let other_world = World::new().await;
    let server = other_world.server(&["s.test"], |_| json(200, "{}")).await;
    world.names.service("s.test", server.port);
    let refused = world.federation().version(name("s.test")).await;
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn private_addresses_are_refused_however_they_are_reached() {
    let world = World::new().await;
    let server = world
        .server(&["s.test", "d.test", "127.0.0.1"], |_| json(200, "{}"))
        .await;
    let port = server.port;
    world.names.host("s.test", &["127.0.0.1"]);
    world.names.host("mapped.test", &["::ffff:127.0.0.1"]);
    world.names.service("d.test", port);
    let by_the_operator = crate::AddressPolicy {
        allow_private: true,
        blocked: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        allowed: Vec::new(),
    };
    let names = [
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("s.test:{port}"),
        format!("mapped.test:{port}"),
        "s.test".to_owned(),
        "d.test".to_owned(),
    ];
    for addresses in [crate::AddressPolicy::default(), by_the_operator] {
        let config = FederationConfig {
            addresses,
            ..world.config()
        };
        let federation = world.federation_with(config, port);
        for text in &names {
            let refused = federation.version(name(text)).await;
            assert!(
                matches!(refused, Err(FederationError::Refused(_))),
                "{text}: {refused:?}"
            );
            // That is our own decision; it doesn't tell against the server.
            assert_eq!(federation.backoff(name(text)).await.unwrap(), None);
        }
    }
    assert_eq!(server.count(), 0);
    // What the operator allows goes before that.
    let addresses = crate::AddressPolicy {
        allowed: vec!["127.0.0.1/32".parse().unwrap()],
        ..crate::AddressPolicy::default()
    };
    let config = FederationConfig {
        addresses,
        ..world.config()
    };
    let federation = world.federation_with(config, port);
    let text = format!("s.test:{port}");
    federation.version(name(&text)).await.unwrap();
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn an_address_that_refuses_is_passed_over() {
    let world = World::new().await;
    let server = world.server(&["s.test"], |_| json(200, "{}")).await;
    // Nothing listens at the second.
    world.names.host("s.test", &["127.0.0.2", "127.0.0.1"]);
    let text = format!("s.test:{}", server.port);
    world.federation().version(name(&text)).await.unwrap();
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn connections_are_used_again() {
    let (_world, server, federation) = world(|_| json(200, "{}")).await;
    for _ in 0..5 {
        federation.version(name("a.test")).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
    assert_eq!(server.count(), 5);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_costs_one_more_try() {
    let (_world, server, federation) = world(|seen| match seen.number % 3 {
        1 => json(CLOSE, ""),
        _ => json(200, "{}"),
    })
    .await;
    // Answered; closed and answered again on a new connection; answered.
    for _ in 0..3 {
        federation.version(name("a.test")).await.unwrap();
    }
    assert_eq!((server.count(), server.connections()), (4, 2));
}

#[tokio::test]
async fn a_server_that_closes_every_connection_is_unreachable() {
    let (_world, server, federation) = world(|_| json(CLOSE, "")).await;
    let refused = federation.version(name("a.test")).await;
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn nothing_is_sent_to_this_server_itself() {
    let world = World::new().await;
    let refused = world.federation().version(name("us.test")).await;
    assert!(matches!(refused, Err(FederationError::Refused(_))));
    assert_eq!(world.names.take_asked(), Vec::<String>::new());
}
