//! Requests to real servers on this machine.

mod bounds;
mod endpoints;
mod finding;
mod identity;
mod streams;

use futures_util::future::BoxFuture;
use serde_json::value::RawValue;

use crate::{
    Federation,
    testing::{Answer, Seen, TestServer, World},
};

/// A PDU, as far as these tests are concerned.
const PDU: &str = r#"{"type":"m.room.member"}"#;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// A server `a.test` and one under test.
async fn world<F>(handler: F) -> (World, TestServer, Federation)
where
    F: Fn(&Seen) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
{
    let world = World::new().await;
    let server = world.server(&["a.test"], handler).await;
    world.names.service("a.test", server.port);
    let federation = world.federation();
    (world, server, federation)
}
