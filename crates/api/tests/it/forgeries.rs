//! Requests that say they come from another server, and don't prove it: whatever is asked, the answer is
//! the same, and nothing of them remains.

use http::{Method, StatusCode};
use myelin_api::{Access, Route, routes};
use myelin_core::keys::KeyPair;
use myelin_storage::testing::{Fresh, START_MS, on_each_engine};
use serde_json::{Value, json};

use crate::{
    Site,
    errors::example,
    peer::{Ask, US, key, known, publish},
};

const OTHER: &str = "127.0.0.1:2";

/// The keys of the server in whose name requests are forged, and of others.
struct Keys {
    /// What it signs with.
    good: KeyPair,
    /// What it signed with until a while ago.
    ended: KeyPair,
    /// What it has never published.
    unheard_of: KeyPair,
    /// Another server's.
    other: KeyPair,
    /// The ID of the key of the server under test.
    ours: String,
}

impl Keys {
    async fn publish(fresh: &Fresh, site: &Site) -> Self {
        let good = known(fresh, "127.0.0.1:1").await;
        let server = good.server_name().as_str();
        let ended = key(server, "ended");
        publish(fresh, &[(&ended, START_MS - 1)]).await;
        Self {
            unheard_of: key(server, "unheard_of"),
            other: known(fresh, OTHER).await,
            ours: site.keys.active().key_id().to_string(),
            good,
            ended,
        }
    }
}

type Forgery = (&'static str, Ask, Vec<String>);

/// A header without one of its parameters.
fn without(header: &str, parameter: &str) -> String {
    let (scheme, parameters) = header.split_once(' ').unwrap();
    let named = |text: &&str| !text.starts_with(parameter);
    let left: Vec<&str> = parameters.split(',').filter(named).collect();
    format!("{scheme} {}", left.join(","))
}

/// A header with another value of one of its parameters.
fn with(header: &str, parameter: &str, value: &str) -> String {
    let left = without(header, parameter);
    format!("{left},{parameter}=\"{value}\"")
}

/// Headers that can't be read.
fn unreadable(header: &str) -> Vec<(&'static str, Vec<String>)> {
    let one = |name, header: &str| (name, vec![header.to_owned()]);
    vec![
        ("no header", vec![]),
        one("an empty header", ""),
        one("a client's token", "Bearer secret"),
        one("another scheme", &header.replace("X-Matrix", "X-Other")),
        one("no scheme", header.trim_start_matches("X-Matrix ")),
        one("no parameters", "X-Matrix"),
        one("no values", "X-Matrix origin,destination,key,sig"),
        one("an open quote", header.trim_end_matches('"')),
        one("no commas", &header.replace(',', " ")),
        one("no origin", &without(header, "origin")),
        one("no key", &without(header, "key")),
        one("no signature", &without(header, "sig")),
        one("two origins", &format!("{header},origin=\"{OTHER}\"")),
        one("two signatures", &format!("{header},sig=\"AAAA\"")),
        one(
            "two destinations",
            &format!("{header},destination=\"{OTHER}\""),
        ),
        one("no server name", &with(header, "origin", "not a name")),
        one("no key ID", &with(header, "key", "key")),
        one("no Base64", &with(header, "sig", "~~~~")),
        one("an empty signature", &with(header, "sig", "")),
    ]
}

/// Headers that say something else than what was signed.
fn untrue(ask: &Ask, keys: &Keys) -> Vec<(&'static str, Vec<String>)> {
    let header = ask.signed(&keys.good, US);
    let one = |name, header: String| (name, vec![header]);
    let over = |change: &dyn Fn(&mut Ask)| {
        let mut signed = ask.clone();
        change(&mut signed);
        signed.signed(&keys.good, US)
    };
    let nonsense = with(&header, "sig", &"A".repeat(86));
    let by_other = ask.signed(&keys.other, US);
    let elsewhere = ask.signed(&keys.good, OTHER);
    let server = keys.good.server_name().as_str();
    let stolen = with(&by_other, "origin", server);
    vec![
        one("no signature of anybody", nonsense.clone()),
        one("another server's signature", stolen.clone()),
        one("another server's name", with(&header, "origin", OTHER)),
        one("our name", with(&header, "origin", US)),
        one(
            "our name and key",
            with(&with(&header, "origin", US), "key", &keys.ours),
        ),
        one("a key that has ended", ask.signed(&keys.ended, US)),
        one(
            "a key that is not published",
            ask.signed(&keys.unheard_of, US),
        ),
        one(
            "another key of its own",
            with(&header, "key", keys.ended.key_id().as_str()),
        ),
        one("meant for another server", elsewhere.clone()),
        one(
            "signed for another server",
            with(&elsewhere, "destination", US),
        ),
        one(
            "signed for us, and not said",
            without(&header, "destination"),
        ),
        one("another method", over(&|ask| ask.method = Method::DELETE)),
        one(
            "another path",
            over(&|ask| ask.target = ask.target.replacen("v", "w", 1)),
        ),
        one("another query", over(&|ask| ask.target.push_str("&more=1"))),
        one(
            "another body",
            over(&|ask| ask.body = json!({ "signed": true })),
        ),
        ("two that are wrong", vec![nonsense.clone(), stolen.clone()]),
        (
            "a right one behind too many",
            [vec![nonsense; 4], vec![header]].concat(),
        ),
    ]
}

/// Requests that were changed on their way.
fn tampered(ask: &Ask, header: &str) -> Vec<Forgery> {
    let changed = |name, change: &dyn Fn(&mut Ask)| {
        let mut ask = ask.clone();
        change(&mut ask);
        (name, ask, vec![header.to_owned()])
    };
    let mut all = vec![
        changed("a query was added", &|ask| ask.target.push_str("&more=1")),
        changed("the body was changed", &|ask| {
            ask.body = json!({ "more": 1 });
        }),
    ];
    if !ask.body.is_null() {
        all.push(changed("the body was taken away", &|ask| {
            ask.body = Value::Null;
        }));
    }
    all
}

fn forgeries(ask: &Ask, keys: &Keys) -> Vec<Forgery> {
    let header = ask.signed(&keys.good, US);
    let by_header = unreadable(&header).into_iter().chain(untrue(ask, keys));
    let by_header = by_header.map(|(name, headers)| (name, ask.clone(), headers));
    by_header.chain(tampered(ask, &header)).collect()
}

/// A request for each endpoint that only servers may ask. What a transaction has in it is stored.
fn requests(keys: &Keys) -> impl Iterator<Item = Ask> {
    let message = json!({
        "sender": format!("@bob:{}", keys.good.server_name()),
        "type": "org.example.tell",
        "message_id": "1",
        "messages": { "@alice:example.org": { "*": {} } },
    });
    let edu = json!({ "edu_type": "m.direct_to_device", "content": message });
    let for_servers = |route: &Route| route.access == Access::Server;
    routes().into_iter().filter(for_servers).map(move |route| {
        let body = match route.method {
            Method::GET => Value::Null,
            _ => json!({ "pdus": [], "edus": [edu] }),
        };
        Ask::new(route.method, example(route.path), body)
    })
}

#[tokio::test]
async fn no_endpoint_believes_a_request_that_is_forged_or_meant_for_another_server() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let keys = Keys::publish(&fresh, &site).await;
        site.token("alice").await;
        let before = site.stored().await;
        let asks: Vec<Ask> = requests(&keys).collect();
        for ask in &asks {
            for (name, forged, headers) in forgeries(ask, &keys) {
                let (status, answer) = forged.send(&site, &headers).await;
                let found = (status, &answer["errcode"], answer["error"].is_string());
                let expected = (StatusCode::UNAUTHORIZED, &json!("M_UNAUTHORIZED"), true);
                assert_eq!(found, expected, "{}: {name}", ask.target);
            }
        }
        assert_eq!(site.stored().await, before);
        // All of that was for the header's sake.
        for ask in asks {
            let (status, answer) = ask.by(&keys.good, &site).await;
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{}: {answer}", ask.target);
        }
        assert_ne!(site.stored().await, before);
    })
    .await;
}
