//! Bad input, over all routes: bodies that are no JSON, or of another form; and what is of the right form
//! and yet nothing that anybody expects.

use std::collections::BTreeMap;

use axum::{
    body::{Body, Bytes},
    extract::Request,
};
use http::{Method, StatusCode, header};
use myelin_api::{Access, Route, routes};
use myelin_core::keys::KeyPair;
use myelin_storage::testing::{Fresh, on_each_engine};
use ruma::CanonicalJsonValue;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Site,
    errors::filled_in,
    peer::{Ask, US, known},
    read,
};

/// What the routes that are not for reading take.
const BODIES: &str = include_str!("../data/bodies.json");

/// The parameters behind the question mark, of the routes that have any.
const PARAMETERS: &str = include_str!("../data/parameters.json");

/// What a route takes as its body.
#[derive(Deserialize)]
struct Takes {
    route: String,
    /// Without it, fields that are named below.
    takes: Option<Whatever>,
    /// Without one of these it is `M_BAD_JSON`,
    #[serde(default)]
    bad_json: Map<String, Value>,
    /// and without one of these `M_MISSING_PARAM`.
    #[serde(default)]
    missing_param: Map<String, Value>,
    /// These may be missing.
    #[serde(default)]
    optional: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Whatever {
    /// The body is not looked at.
    Nothing,
    /// Any object.
    Object,
}

impl Takes {
    /// A whole body.
    fn example(&self) -> Map<String, Value> {
        let fields = [&self.bad_json, &self.missing_param, &self.optional];
        fields.into_iter().flatten().map(own).collect()
    }
}

fn own((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// Every route that looks at its body, with what it takes.
fn taking() -> Vec<(Route, Takes)> {
    let mut bodies: Vec<Takes> = serde_json::from_str(BODIES).unwrap();
    let mut found = Vec::new();
    for route in routes() {
        if route.method == Method::GET {
            continue;
        }
        let name = format!("{} {}", route.method, route.path);
        let at = bodies.iter().position(|takes| takes.route == name);
        let at = at.unwrap_or_else(|| panic!("what does {name} take?"));
        let takes = bodies.swap_remove(at);
        if takes.takes != Some(Whatever::Nothing) {
            found.push((route, takes));
        }
    }
    assert!(bodies.is_empty(), "no such route: {}", bodies[0].route);
    found
}

/// Somebody for each access.
struct People<'a> {
    site: &'a Site,
    user: String,
    admin: String,
    server: KeyPair,
    /// A room of the user's, and an event in it.
    room_id: String,
    event_id: String,
}

impl<'a> People<'a> {
    async fn of(site: &'a Site) -> Self {
        let mut people = Self {
            site,
            user: site.token("alice").await,
            admin: site.admin("root").await,
            server: known(&site.fresh, "other.example").await,
            room_id: String::new(),
            event_id: String::new(),
        };
        people.open_room().await;
        people
    }

    async fn open_room(&mut self) {
        let user = Some(&*self.user);
        let made = self.site.call(
            Method::POST,
            "/_matrix/client/v3/createRoom",
            user,
            json!({}),
        );
        let (_, made) = made.await;
        self.room_id = made["room_id"].as_str().unwrap().to_owned();
        let target = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/1",
            self.room_id
        );
        let message = json!({ "msgtype": "m.text", "body": "tea" });
        let (_, sent) = self.site.call(Method::PUT, &target, user, message).await;
        self.event_id = sent["event_id"].as_str().unwrap().to_owned();
    }

    /// The path of a route, for things that are there.
    fn path(&self, route: &Route) -> String {
        self.filled_in(route.path)
    }

    fn filled_in(&self, path: &str) -> String {
        let path = path
            .replace("{room_id}", &self.room_id)
            .replace("{room_id_or_alias}", &self.room_id)
            .replace("{event_id}", &self.event_id);
        filled_in(&path)
    }

    async fn send(&self, route: &Route, target: &str, body: Bytes) -> (StatusCode, Value) {
        // What can't be signed is sent with the signature of something else.
        let content: Option<CanonicalJsonValue> = serde_json::from_slice(&body).ok();
        let ask = Ask::new(route.method.clone(), target, json!(content));
        let mut request = Request::builder().method(ask.method.clone()).uri(target);
        let authorization = match route.access {
            Access::Public => None,
            Access::Guest | Access::User => Some(format!("Bearer {}", self.user)),
            Access::Admin => Some(format!("Bearer {}", self.admin)),
            Access::Server => Some(ask.signed(&self.server, US)),
        };
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        read(
            self.site
                .send(request.body(Body::from(body)).unwrap())
                .await,
        )
        .await
    }

    async fn answers(&self, route: &Route, body: impl Into<Bytes>, expected: (u16, &str)) {
        let body = body.into();
        let (status, answer) = self.send(route, &self.path(route), body.clone()).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]);
        let found = (status.as_u16(), answer["errcode"].as_str().unwrap_or("-"));
        assert_eq!(
            found, expected,
            "{} {} {shown}: {answer}",
            route.method, route.path
        );
        assert!(answer["error"].is_string(), "{answer}");
    }
}

/// Something that is not of the value's type.
fn of_another_type(value: &Value) -> Value {
    match value {
        Value::Object(_) => json!(5),
        Value::String(_) => json!([]),
        _ => json!({}),
    }
}

#[tokio::test]
async fn each_body_that_is_no_json_is_told_from_one_of_another_form() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let people = People::of(&site).await;
        for (route, _) in taking() {
            for body in ["{", "{\"a\": 5", "tea", "{} {}", "{\"a\": \"\x01\"}"] {
                people.answers(&route, body, (400, "M_NOT_JSON")).await;
            }
            let no_text: &[u8] = b"{\"a\": \"\xff\"}";
            people.answers(&route, no_text, (400, "M_NOT_JSON")).await;
            for body in ["[]", "\"{}\"", "5", "[{}]"] {
                people.answers(&route, body, (400, "M_BAD_JSON")).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn each_field_that_is_missing_or_of_another_type_is_refused() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let people = People::of(&site).await;
        for (route, takes) in taking() {
            for (missing, errcode) in [
                (&takes.bad_json, "M_BAD_JSON"),
                (&takes.missing_param, "M_MISSING_PARAM"),
            ] {
                for name in missing.keys() {
                    let mut body = takes.example();
                    body.remove(name);
                    people
                        .answers(&route, json!(body).to_string(), (400, errcode))
                        .await;
                }
            }
            for (name, value) in takes.example() {
                // Each value has a text of its own there, as Synapse's has.
                let errcode = match route.path.contains("/registration_tokens/") {
                    true => "M_INVALID_PARAM",
                    false => "M_BAD_JSON",
                };
                let mut body = takes.example();
                body.insert(name, of_another_type(&value));
                people
                    .answers(&route, json!(body).to_string(), (400, errcode))
                    .await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn each_body_has_a_limit() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let people = People::of(&site).await;
    let body = |mib: usize| Bytes::from(format!("{{\"a\":\"{}\"}}", "x".repeat(mib * 1024 * 1024)));
    let (from_client, from_server) = (body(4), body(16));
    for (route, _) in taking() {
        if route.access == Access::Server {
            // Signing that much takes long, and nobody looks at it.
            let ask = Ask::new(route.method.clone(), people.path(&route), json!({}));
            let header = ask.signed(&people.server, US);
            let (status, answer) = ask.send_bytes(&site, &[header], from_server.to_vec()).await;
            let found = (status, &answer["errcode"]);
            assert_eq!(
                found,
                (StatusCode::PAYLOAD_TOO_LARGE, &json!("M_TOO_LARGE"))
            );
        } else {
            people
                .answers(&route, from_client.clone(), (413, "M_TOO_LARGE"))
                .await;
        }
    }
}

/// A value with each of its texts, in turn, replaced.
fn with_each_text(value: &Value, replacement: &Value) -> Vec<Value> {
    match value {
        Value::String(_) => vec![replacement.clone()],
        Value::Array(values) => {
            let each = values.iter().enumerate();
            each.flat_map(|(at, inner)| {
                let changed = with_each_text(inner, replacement).into_iter();
                changed.map(move |inner| {
                    let mut values = values.clone();
                    values[at] = inner;
                    json!(values)
                })
            })
            .collect()
        }
        Value::Object(fields) => {
            let each = fields.iter();
            each.flat_map(|(name, inner)| {
                let changed = with_each_text(inner, replacement).into_iter();
                let changed = changed.map(move |inner| {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), inner);
                    json!(fields)
                });
                let mut renamed = fields.clone();
                renamed.remove(name);
                renamed.insert("\0".to_owned(), inner.clone());
                changed.chain([json!(renamed)])
            })
            .collect()
        }
        _ => Vec::new(),
    }
}

/// Bodies of the right form that no well-behaved client or server sends.
fn strange(takes: &Takes) -> Vec<String> {
    let example = match takes.takes {
        Some(_) => {
            json!({ "a": { "b": ["c"] }, "body": "text", "redacts": "$event", "thread_id": "main" })
        }
        None => json!(takes.example()),
    };
    let mut bodies: Vec<String> = ["\0", "@\0:example.org"]
        .iter()
        .flat_map(|text| with_each_text(&example, &json!(text)))
        .map(|body| body.to_string())
        .collect();
    let depth = 100_000;
    bodies.push(format!(
        "{{\"a\":{}{}}}",
        "[".repeat(depth),
        "]".repeat(depth)
    ));
    let written = example.to_string();
    let inner = &written[1..written.len() - 1];
    // Names twice, a half of a surrogate pair, and numbers that nothing holds.
    bodies.push(format!("{{{inner},{inner}}}"));
    bodies.push(format!("{{{inner},\"x\":\"\\ud800\",\"\\udc00\":5}}"));
    for number in ["1e400", "-1", "18446744073709551615"] {
        bodies.push(written.replace('5', number));
    }
    bodies.push(format!("{{{inner},\"x\":1e400}}"));
    bodies
}

#[tokio::test]
async fn nothing_in_a_body_makes_the_server_fail() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let people = People::of(&site).await;
        let mut failed = Vec::new();
        for (route, takes) in taking() {
            // What ends a session would end the test.
            if route.path.contains("/logout") {
                continue;
            }
            for body in strange(&takes) {
                let shown = body[..body.len().min(300)].to_owned();
                let path = people.path(&route);
                let (status, answer) = people.send(&route, &path, body.into()).await;
                if status == StatusCode::INTERNAL_SERVER_ERROR {
                    failed.push(format!("{} {path} {shown}: {answer}", route.method));
                }
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn nothing_in_a_query_makes_the_server_fail() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let people = People::of(&site).await;
        let mut parameters: BTreeMap<String, Vec<String>> =
            serde_json::from_str(PARAMETERS).unwrap();
        let mut failed = Vec::new();
        for route in routes() {
            if route.method != Method::GET {
                continue;
            }
            for name in parameters.remove(route.path).unwrap_or_default() {
                for target in queries(&people.path(&route), &name) {
                    let (status, answer) = people.send(&route, &target, Bytes::new()).await;
                    if status == StatusCode::INTERNAL_SERVER_ERROR {
                        failed.push(format!("{target}: {answer}"));
                    }
                }
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        assert!(parameters.is_empty(), "no such routes: {parameters:?}");
    })
    .await;
}

/// Requests with something in one parameter that nobody expects there. What else is needed is right.
fn queries(path: &str, name: &str) -> Vec<String> {
    let needed =
        "dir=b&ts=1&limit=1&username=u&token=t&user_id=@alice:example.org&v=$event&event_id=$event";
    let prefix = format!("{name}=");
    let rest: Vec<&str> = needed
        .split('&')
        .filter(|pair| !pair.starts_with(&prefix))
        .collect();
    let rest = rest.join("&");
    let values = [
        "",
        "%00",
        "x%00y",
        "%FF",
        "%",
        "-1",
        "9223372036854775808",
        "18446744073709551616",
        "[]",
        r#"{"limit":-1}"#,
        r#"{"limit":18446744073709551615,"types":["\u0000"],"senders":["\u0000"]}"#,
        r#"{"room":{"timeline":{"limit":0},"rooms":["\u0000"]},"event_fields":["\u0000..a"]}"#,
    ];
    let written = |value: &str| {
        value
            .replace('{', "%7B")
            .replace('}', "%7D")
            .replace('"', "%22")
            .replace('\\', "%5C")
    };
    values
        .map(|value| format!("{path}?{name}={}&{rest}", written(value)))
        .into()
}

#[tokio::test]
async fn nothing_in_a_path_makes_the_server_fail() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let people = People::of(&site).await;
        let bodies = taking();
        let mut failed = Vec::new();
        for route in routes() {
            let body = bodies
                .iter()
                .find(|(other, _)| (&other.method, other.path) == (&route.method, route.path));
            let body =
                body.map_or_else(String::new, |(_, takes)| json!(takes.example()).to_string());
            let names = route.path.split('/').filter(|part| part.starts_with('{'));
            for target in names.flat_map(|name| paths(&people, &route, name)) {
                let (status, answer) = people.send(&route, &target, body.clone().into()).await;
                if status == StatusCode::INTERNAL_SERVER_ERROR {
                    failed.push(format!("{} {target}: {answer}", route.method));
                }
                // What is not looked at may be anything.
                if target.contains("%FF") && !target.contains("/thirdparty/") {
                    let found = (status, &answer["errcode"]);
                    let expected = (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM"));
                    assert_eq!(found, expected, "{} {target}", route.method);
                }
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    })
    .await;
}

/// A route's path with something in one of its parameters that nobody expects there.
fn paths(people: &People<'_>, route: &Route, name: &str) -> Vec<String> {
    let sigil = match name {
        "{user_id}" => "@",
        "{room_id}" | "{room_id_or_alias}" => "!",
        "{room_alias}" => "%23",
        "{event_id}" => "$",
        _ => "",
    };
    let long = "x".repeat(5000);
    let ids = ["%00", "%2F", &long].map(|id| format!("{sigil}{id}:example.org"));
    let values = ["%00", "%FF"].map(str::to_owned).into_iter().chain(ids);
    values
        .map(|value| people.filled_in(&route.path.replace(name, &value)))
        .collect()
}
