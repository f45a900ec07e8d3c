//! What `.well-known` answers lead to, and how long they are kept.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::{SHORTEST_PERIOD, period, redirect};
use crate::{
    Federation,
    authority::Authority,
    testing::{Answer, Seen, TestServer, World, json, name, whole},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
type Headers = &'static [(&'static str, &'static str)];

const PATH: &str = "/.well-known/matrix/server";

/// A world with a web server for `host.test`, and a server under test that looks for it there.
async fn world<F>(handler: F) -> (World, TestServer, Federation)
where
    F: Fn(&Seen) -> futures_util::future::BoxFuture<'static, Answer> + Send + Sync + 'static,
{
    let world = World::new().await;
    let web = world.server(&["host.test"], handler).await;
    world.names.host("host.test", &["127.0.0.1"]);
    world.names.host("other.test", &["127.0.0.1"]);
    let federation = world.federation_with(world.config(), web.port);
    (world, web, federation)
}

async fn delegate(federation: &Federation, text: &str) -> String {
    let well_known = &federation.transport().well_known;
    well_known.delegate(name(text)).await.to_string()
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
    let mut answer = whole(status, body);
    answer.headers_mut().extend(header_map(headers));
    answer
}

fn header_map(headers: &[(&'static str, &str)]) -> HeaderMap {
    let parsed = headers.iter().map(|(name, value)| {
        let value = HeaderValue::from_str(value).unwrap();
        (HeaderName::from_static(name), value)
    });
    parsed.collect()
}

#[tokio::test]
async fn answers_delegate_or_leave_the_name_as_it_is() {
    let cases = [
        (200, r#"{"m.server":"d.test"}"#, "d.test"),
        (200, r#"{"m.server":"d.test:443","x":1}"#, "d.test:443"),
        (200, r#"{"m.server":"192.0.2.1"}"#, "192.0.2.1"),
        (200, r#"{"m.server":"192.0.2.1:5"}"#, "192.0.2.1:5"),
        (200, r#"{"m.server":"[2001:db8::1]"}"#, "[2001:db8::1]"),
        (200, r#"{"m.server":"[2001:db8::1]:5"}"#, "[2001:db8::1]:5"),
        (200, r#"{"m.server":"host.test:1"}"#, "host.test:1"),
        (404, r#"{"m.server":"d.test"}"#, "host.test"),
        (201, r#"{"m.server":"d.test"}"#, "host.test"),
        (500, r#"{"m.server":"d.test"}"#, "host.test"),
        (200, "d.test", "host.test"),
        (200, "{}", "host.test"),
        (200, r#"{"m.server":1}"#, "host.test"),
        (200, r#"{"m.server":""}"#, "host.test"),
        (200, r#"{"m.server":"https://d.test"}"#, "host.test"),
        (200, r#"{"m.server":"d.test:99999"}"#, "host.test"),
    ];
    for (status, body, expected) in cases {
        let (_world, web, federation) = world(move |_| json(status, body)).await;
        assert_eq!(
            delegate(&federation, "host.test").await,
            expected,
            "{status} {body}"
        );
        let seen = web.last();
        assert_eq!(seen.target, PATH);
        assert_eq!(seen.authorization, None);
        assert_eq!(seen.sni.as_deref(), Some("host.test"));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_does_not_count() {
    let padding = " ".repeat(60 * 1024);
    let (_world, _web, federation) =
        world(move |_| json(200, &format!(r#"{{"m.server":"d.test"}}{padding}"#))).await;
    assert_eq!(delegate(&federation, "host.test").await, "host.test");
}

#[tokio::test]
async fn a_certificate_for_another_name_does_not_delegate() {
    let (world, web, federation) = world(|_| json(200, r#"{"m.server":"d.test"}"#)).await;
    world.names.host("liar.test", &["127.0.0.1"]);
    assert_eq!(delegate(&federation, "liar.test").await, "liar.test");
    assert_eq!(web.count(), 0);
}

#[tokio::test]
async fn names_that_need_no_delegation_are_not_asked_about() {
    let (_world, web, federation) = world(|_| json(200, r#"{"m.server":"d.test"}"#)).await;
    for text in ["host.test:8448", "127.0.0.1", "[::1]"] {
        assert_eq!(delegate(&federation, text).await, text);
    }
    assert_eq!(web.count(), 0);
}

#[tokio::test]
async fn redirects_are_followed_within_bounds() {
    let (world, web, federation) = world(|seen| {
        let (host, target) = (seen.host.clone(), seen.target.clone());
        Box::pin(async move {
            let number: Option<u32> = target.strip_prefix("/n/").and_then(|n| n.parse().ok());
            match (target.as_str(), number) {
                (PATH, _) => answer(302, &[("location", "/n/1")], ""),
                (_, Some(5)) => answer(200, &[], &format!(r#"{{"m.server":"from-{host}"}}"#)),
                (_, Some(n)) => answer(301, &[("location", &(n + 1).to_string())], ""),
                _ => answer(404, &[], ""),
            }
        })
    })
    .await;
    let expected = format!("from-host.test:{}", web.port);
    assert_eq!(delegate(&federation, "host.test").await, expected);
    assert_eq!(web.count(), 6);
    drop(world);
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let (_world, web, federation) =
        world(|_| Box::pin(async { answer(307, &[("location", PATH)], "") })).await;
    assert_eq!(delegate(&federation, "host.test").await, "host.test");
    assert_eq!(web.count(), 7);
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let world = World::new().await;
    let neighbour = Ipv4Addr::new(127, 0, 0, 2);
    let inner = world
        .server_at(neighbour, &["127.0.0.2"], |_| {
            json(200, r#"{"m.server":"d.test"}"#)
        })
        .await;
    let location = format!("https://{neighbour}:{}/", inner.port);
    let web = world
        .server(&["host.test"], move |_| {
            let location = location.clone();
            Box::pin(async move { answer(302, &[("location", &location)], "") })
        })
        .await;
    world.names.host("host.test", &["127.0.0.1"]);
    let config = world.config();
    let open = world.federation_with(config.clone(), web.port);
    assert_eq!(delegate(&open, "host.test").await, "d.test");
    assert_eq!(inner.count(), 1);
    // Each lets it reach the server that redirects.
    let private = crate::AddressPolicy {
        allowed: vec!["127.0.0.1/32".parse().unwrap()],
        ..crate::AddressPolicy::default()
    };
    let blocked = crate::AddressPolicy {
        allow_private: true,
        blocked: vec!["127.0.0.2/32".parse().unwrap()],
        ..crate::AddressPolicy::default()
    };
    for (seen, addresses) in [(2, private), (3, blocked)] {
        let closed = crate::FederationConfig {
            addresses,
            ..config.clone()
        };
        let closed = world.federation_with(closed, web.port);
        assert_eq!(delegate(&closed, "host.test").await, "host.test");
        assert_eq!((inner.count(), web.count()), (1, seen));
    }
}

/// Asks again and again; returns how long the first answer was kept, to the minute.
async fn kept_for(headers: Headers, status: u16) -> Duration {
    let (world, web, federation) = world(move |_| {
        Box::pin(async move { answer(status, headers, r#"{"m.server":"d.test"}"#) })
    })
    .await;
    let start = world.env().clock.instant();
    delegate(&federation, "host.test").await;
    while web.count() == 1 {
        world.env().clock.advance(Duration::from_secs(60));
        delegate(&federation, "host.test").await;
    }
    start.elapsed(&world.env().clock)
}

#[tokio::test]
async fn answers_are_kept_as_long_as_they_say_within_bounds() {
    let cases: [(Headers, u16, Duration); 6] = [
        (&[("cache-control", "max-age=7200")], 200, 2 * HOUR),
        (&[], 200, DAY),
        (
            &[("cache-control", "public, max-age=999999999")],
            200,
            2 * DAY,
        ),
        (&[("cache-control", "no-store")], 200, SHORTEST_PERIOD),
        (&[], 404, HOUR),
        (&[("cache-control", "max-age=99999")], 404, HOUR),
    ];
    for (headers, status, expected) in cases {
        let kept = kept_for(headers, status).await;
        // Up to a tenth is taken off, and the test looks once a minute.
        assert!(
            kept <= expected + Duration::from_secs(60),
            "{headers:?} {status} {kept:?}"
        );
        assert!(kept >= expected * 9 / 10, "{headers:?} {status} {kept:?}");
    }
}

#[tokio::test]
async fn failures_are_kept_longer_and_longer_up_to_an_hour() {
    let (world, web, federation) = world(|_| json(503, "")).await;
    let clock = &world.env().clock;
    let mut moments = Vec::new();
    for _ in 0..400 {
        let before = web.count();
        delegate(&federation, "host.test").await;
        if web.count() > before {
            moments.push(clock.instant());
        }
        clock.advance(Duration::from_secs(60));
    }
    let minutes: Vec<u64> = moments
        .windows(2)
        .map(|pair| pair[1].since(pair[0]).as_secs() / 60)
        .collect();
    for (waited, expected) in minutes.iter().zip([5, 10, 20, 40, 60, 60, 60]) {
        assert!(
            *waited <= expected && *waited * 10 >= expected * 9,
            "{minutes:?}"
        );
    }
}

#[tokio::test]
async fn a_delegation_outlives_trouble_with_its_host_for_48_hours() {
    let trouble = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let failing = Arc::clone(&trouble);
    let (world, _web, federation) =
        world(
            move |_| match failing.load(std::sync::atomic::Ordering::SeqCst) {
                true => json(502, ""),
                false => json(200, r#"{"m.server":"d.test"}"#),
            },
        )
        .await;
    assert_eq!(delegate(&federation, "host.test").await, "d.test");
    trouble.store(true, std::sync::atomic::Ordering::SeqCst);
    world.env().clock.advance(Duration::from_secs(47 * 3600));
    assert_eq!(delegate(&federation, "host.test").await, "d.test");
    world.env().clock.advance(Duration::from_secs(2 * 3600));
    assert_eq!(delegate(&federation, "host.test").await, "host.test");
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_request() {
    let (_world, web, federation) = world(|_| json(200, r#"{"m.server":"d.test"}"#)).await;
    let asking = (0..50).map(|_| delegate(&federation, "host.test"));
    let answers = futures_util::future::join_all(asking).await;
    assert!(answers.iter().all(|answer| answer == "d.test"));
    assert_eq!(web.count(), 1);
    assert_eq!(delegate(&federation, "HOST.test").await, "d.test");
    assert_eq!(web.count(), 1);
}

#[test]
fn headers_say_how_long_an_answer_may_be_kept() {
    let now = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT
    let cases: [(Headers, Option<u64>); 10] = [
        (&[], None),
        (&[("cache-control", "public")], None),
        (&[("cache-control", "max-age=3600")], Some(3600)),
        (&[("cache-control", "public, Max-Age=\"3600\"")], Some(3600)),
        (&[("cache-control", "max-age=10")], Some(300)),
        (&[("cache-control", "max-age=3600, no-cache")], Some(300)),
        (&[("expires", "Sun, 06 Nov 1994 10:49:37 GMT")], Some(7200)),
        (&[("expires", "Sun, 06 Nov 1990 10:49:37 GMT")], Some(300)),
        (&[("expires", "0")], Some(300)),
        (
            &[
                ("expires", "Sun, 06 Nov 1994 10:49:37 GMT"),
                ("cache-control", "max-age=600"),
            ],
            Some(600),
        ),
    ];
    for (headers, expected) in cases {
        let period = period(&header_map(headers), now);
        assert_eq!(
            period.map(|period| period.as_secs()),
            expected,
            "{headers:?}"
        );
    }
}

#[test]
fn redirects_lead_to_https_only() {
    let from = Authority::parse("a.test:443").unwrap();
    let cases = [
        ("/x?y", Some("a.test:443 /x?y")),
        ("x", Some("a.test:443 /.well-known/matrix/x")),
        ("https://b.test/x", Some("b.test:443 /x")),
        ("HTTPS://b.test:99/x#z", Some("b.test:99 /x")),
        ("https://b.test", Some("b.test:443 /")),
        (
            "https://b.test?x=https://c.test/",
            Some("b.test:443 /?x=https://c.test/"),
        ),
        ("//b.test/x", Some("b.test:443 /x")),
        ("/x?u=http://c.test", Some("a.test:443 /x?u=http://c.test")),
        ("https://[::1]/x", Some("[::1]:443 /x")),
        ("http://b.test/x", None),
        ("ftp://b.test/x", None),
        ("https://user@b.test/x", None),
        ("https:///x", None),
        ("", None),
    ];
    for (location, expected) in cases {
        let headers = header_map(&[("location", location)]);
        let next = redirect(&headers, &from, PATH);
        let next = next.map(|(authority, path)| format!("{authority} {path}"));
        assert_eq!(next.as_deref(), expected, "{location}");
    }
    assert_eq!(redirect(&HeaderMap::new(), &from, PATH), None);
}

proptest! {
    #[test]
    fn no_location_makes_it_panic(location in "[ -~]*", path in "/[ -~]*") {
        let from = Authority::parse("a.test").unwrap();
        let _ = redirect(&header_map(&[("location", &location)]), &from, &path);
    }
}
