//! Whole servers in this process, spoken to over their ports.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use myelin_env::{Env, Stream};
use myelin_storage::{Priority, StorageError, params};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::{Running, Server, StartError};
use crate::config::{Config, ListenerConfig, TlsFiles};

fn config(directory: &Path) -> Config {
    Config {
        data_dir: directory.to_owned(),
        listeners: vec![ListenerConfig {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..ListenerConfig::default()
        }],
        ..Config::default()
    }
}

async fn start(directory: &Path) -> (Running, Env) {
    let env = Env::real();
    let running = Server::start(config(directory), env.clone()).await;
    (running.unwrap(), env)
}

/// Sends one request over a connection.
async fn exchange(
    stream: impl Stream + 'static,
    env: &Env,
    request: Request<Full<Bytes>>,
) -> (StatusCode, Bytes) {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    drop(
        env.tasks
            .spawn("test client", async move { drop(connection.await) }),
    );
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status();
    (
        status,
        answer.into_body().collect().await.unwrap().to_bytes(),
    )
}

fn request(method: Method, path: &str, token: Option<&str>, body: &Value) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    request.body(Full::from(body)).unwrap()
}

/// A request to a server's first port, and the JSON of its answer.
async fn call(
    (running, env): &(Running, Env),
    (method, path): (Method, &str),
    token: Option<&str>,
    body: Value,
) -> (StatusCode, Value) {
    let stream = env.network.connect(running.addresses()[0]).await.unwrap();
    let (status, body) = exchange(stream, env, request(method, path, token, &body)).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn the_printed_steps_lead_to_a_message_that_a_restart_keeps() {
    let directory = TempDir::new().unwrap();
    let server = start(directory.path()).await;
    let token = server
        .0
        .users()
        .first_account_token()
        .await
        .unwrap()
        .unwrap();
    let auth = json!({ "type": "m.login.registration_token", "token": token });
    let wish = json!({ "username": "alice", "password": "secret", "auth": auth });
    let register = (Method::POST, "/_matrix/client/v3/register");
    let (status, registered) = call(&server, register, None, wish).await;
    assert_eq!(status, StatusCode::OK, "{registered}");
    let access_token = registered["access_token"].as_str().unwrap();
    let create = (Method::POST, "/_matrix/client/v3/createRoom");
    let wish = json!({ "name": "First room" });
    let (status, created) = call(&server, create, Some(access_token), wish).await;
    assert_eq!(status, StatusCode::OK, "{created}");
    let room = format!(
        "/_matrix/client/v3/rooms/{}",
        created["room_id"].as_str().unwrap()
    );
    let send = format!("{room}/send/m.room.message/1");
    let message = json!({ "msgtype": "m.text", "body": "Hello" });
    let (status, sent) = call(&server, (Method::PUT, &send), Some(access_token), message).await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    server.0.stop().await;

    let server = start(directory.path()).await;
    assert_eq!(server.0.users().first_account_token().await.unwrap(), None);
    let messages = format!("{room}/messages?dir=b&limit=1");
    let (_, page) = call(
        &server,
        (Method::GET, &messages),
        Some(access_token),
        Value::Null,
    )
    .await;
    assert_eq!(page["chunk"][0]["event_id"], sent["event_id"]);
    server.0.stop().await;
}

#[tokio::test]
async fn the_page_the_health_check_and_the_figures_are_there() {
    let directory = TempDir::new().unwrap();
    let (running, env) = start(directory.path()).await;
    for (path, expected) in [
        ("/", "<h1>localhost</h1>"),
        ("/health", "OK"),
        ("/metrics", "myelin_http_requests_total"),
    ] {
        let stream = env.network.connect(running.addresses()[0]).await.unwrap();
        let request = request(Method::GET, path, None, &Value::Null);
        let (status, body) = exchange(stream, &env, request).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(
            String::from_utf8_lossy(&body).contains(expected),
            "{path}: {body:?}"
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn stopping_ends_long_polls_and_idle_connections_at_once() {
    let directory = TempDir::new().unwrap();
    let (running, env) = start(directory.path()).await;
    let token = running
        .users()
        .first_account_token()
        .await
        .unwrap()
        .unwrap();
    let auth = json!({ "type": "m.login.registration_token", "token": token });
    let wish = json!({ "username": "alice", "auth": auth });
    let server = (running, env);
    let register = (Method::POST, "/_matrix/client/v3/register");
    let (_, registered) = call(&server, register, None, wish).await;
    let access_token = registered["access_token"].as_str().unwrap().to_owned();
    let sync = (Method::GET, "/_matrix/client/v3/sync");
    let (_, first) = call(&server, sync, Some(&access_token), Value::Null).await;
    let since = first["next_batch"].as_str().unwrap();
    let poll = format!("/_matrix/client/v3/sync?timeout=30000&since={since}");
    let (running, env) = server;
    let connect = || env.network.connect(running.addresses()[0]);
    let (polling, mut idle) = (connect().await.unwrap(), connect().await.unwrap());
    // A connection that has sent something is past its greeting.
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    idle.read_u8().await.unwrap();
    let request = request(Method::GET, &poll, Some(&access_token), &Value::Null);
    let polling = env.tasks.spawn("poll", {
        let env = env.clone();
        async move { exchange(polling, &env, request).await.0 }
    });
    while !is_polled(&running, &env).await {}
    let begun = env.clock.instant();
    running.stop().await;
    assert!(begun.elapsed(&env.clock) < Duration::from_secs(3));
    // Whether it is told that the server stops or that there is no news, it is told.
    let status = polling.await.unwrap();
    assert!([StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&status));
}

/// Whether a `/sync` is in progress, by the figures.
async fn is_polled(running: &Running, env: &Env) -> bool {
    let stream = env.network.connect(running.addresses()[0]).await.unwrap();
    let request = request(Method::GET, "/metrics", None, &Value::Null);
    let (_, figures) = exchange(stream, env, request).await;
    let polled = "requests_in_progress{method=\"GET\",path=\"/_matrix/client/v3/sync\"} 1";
    String::from_utf8_lossy(&figures).contains(polled)
}

#[tokio::test]
async fn a_port_with_tls_and_one_without_serve_what_each_is_told_to() {
    let directory = TempDir::new().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificate: directory.path().join("tls.crt"),
        key: directory.path().join("tls.key"),
    };
    std::fs::write(&files.certificate, certificate.cert.pem()).unwrap();
    std::fs::write(&files.key, certificate.signing_key.serialize_pem()).unwrap();
    let mut config = config(directory.path());
    config.listeners[0].federation = false;
    config.listeners.push(ListenerConfig {
        tls: Some(files),
        client: false,
        federation: true,
        ..config.listeners[0].clone()
    });
    let env = Env::real();
    let running = Server::start(config, env.clone()).await.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(tls));
    let get = async |index: usize, path: &str| {
        let stream = env
            .network
            .connect(running.addresses()[index])
            .await
            .unwrap();
        let request = request(Method::GET, path, None, &Value::Null);
        if index == 0 {
            return exchange(stream, &env, request).await.0;
        }
        let name = ServerName::try_from("localhost").unwrap();
        exchange(tls.connect(name, stream).await.unwrap(), &env, request)
            .await
            .0
    };
    let (client, federation) = ("/_matrix/client/versions", "/_matrix/key/v2/server");
    assert_eq!(get(0, client).await, StatusCode::OK);
    assert_eq!(get(0, federation).await, StatusCode::NOT_FOUND);
    assert_eq!(get(1, federation).await, StatusCode::OK);
    assert_eq!(get(1, client).await, StatusCode::NOT_FOUND);
    running.stop().await;
}

#[tokio::test]
async fn a_server_keeps_its_name_and_its_database_to_itself() {
    let directory = TempDir::new().unwrap();
    let (running, _) = start(directory.path()).await;
    let second = Server::start(config(directory.path()), Env::real()).await;
    let refused = second.err().unwrap().to_string();
    assert!(refused.contains("in use by another"), "{refused}");
    running.stop().await;
    let mut renamed = config(directory.path());
    renamed.server_name = "example.org".try_into().unwrap();
    let refused = Server::start(renamed, Env::real()).await;
    assert!(matches!(refused, Err(StartError::OtherName { .. })));
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let (running, env) = start(directory.path()).await;
    let write = running
        .database
        .write("a later step", Priority::Bulk, |tx| {
            Box::pin(async move {
                let insert =
                    "INSERT INTO schema_migrations (number, name) VALUES (1000000, 'later')";
                tx.execute(insert, params![]).await.map(drop)
            })
        });
    let written: Result<(), StorageError> = write.await;
    written.unwrap();
    running.stop().await;
    let refused = Server::start(config(directory.path()), env).await;
    let refused = refused.err().unwrap().to_string();
    let file = directory.path().join("myelin.db");
    for expected in [&file.display().to_string(), "newer Myelin", "1000000"] {
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
}
