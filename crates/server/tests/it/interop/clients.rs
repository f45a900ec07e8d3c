//! Client libraries, as they are: scripts that use them spend a day on a server.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ca::Ca;
use crate::client::PASSWORD;
use crate::homeserver::{Homeserver, Kind};
use crate::synapse;

/// Where Node and matrix-js-sdk are.
const NODE_VARIABLE: &str = "MYELIN_TEST_NODE";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it")
        .join(name)
}

/// Runs a script with two users of a new server.
async fn spend_a_day(mut command: Command) {
    let server = Homeserver::start(Kind::Myelin, &Ca::generate()).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    command.args([
        &format!("http://{}", server.address()),
        &alice.user_id,
        &bob.user_id,
        PASSWORD,
    ]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, wrong) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}{wrong}");
    assert_eq!(said.lines().last(), Some("done"), "{wrong}");
}

#[tokio::test]
async fn two_users_of_matrix_nio_spend_a_day() {
    let mut command = Command::new(synapse::environment().join("bin/python"));
    command.arg(script("nio_day.py"));
    spend_a_day(command).await;
}

#[tokio::test]
async fn two_users_of_matrix_js_sdk_spend_a_day() {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let cache = || Path::new(&home).join(".cache/myelin-tests/node");
    let node = std::env::var_os(NODE_VARIABLE).map_or_else(cache, PathBuf::from);
    let mut command = Command::new(node.join("node"));
    command.arg(script("js_sdk_day.mjs")).arg(&node);
    spend_a_day(command).await;
}
