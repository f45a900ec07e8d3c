//! matrix-nio, a client library from PyPI, as it is.

use std::path::Path;
use std::process::Command;

use crate::ca::Ca;
use crate::client::PASSWORD;
use crate::homeserver::{Homeserver, Kind};
use crate::synapse;

/// Runs the library's script against a server.
async fn talk_through_nio(kind: Kind) {
    let server = Homeserver::start(kind, &Ca::generate()).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut command = Command::new(synapse::environment().join("bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/nio_client.py"));
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
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert_eq!(text(&output.stdout).lines().last(), Some("done"));
}

#[tokio::test]
async fn matrix_nio_logs_in_creates_joins_sends_receives_and_leaves() {
    talk_through_nio(Kind::Myelin).await;
}
