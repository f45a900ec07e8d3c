//! A real Synapse from PyPI, configured for a test.

use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::SigningKey;

use crate::client::SHARED_SECRET;
use crate::homeserver::Site;

const KEY_VERSION: &str = "a_test";

/// The virtual environment that holds Synapse: where `MYELIN_TEST_SYNAPSE` points, else where
/// `cargo xtask ci full` installs it.
pub(crate) fn environment() -> PathBuf {
    let installed =
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/myelin-tests/venv");
    let directory = std::env::var_os("MYELIN_TEST_SYNAPSE").map_or_else(installed, PathBuf::from);
    let python = directory.join("bin/python");
    assert!(
        python.exists(),
        "there is no {}: run `cargo xtask ci full` once",
        python.display()
    );
    directory
}

/// How it is started, once its configuration is written.
pub(crate) fn command(site: &Site) -> Command {
    let mut command = Command::new(environment().join("bin/python"));
    command
        .args(["-m", "synapse.app.homeserver", "-c"])
        .arg(site.directory.join("homeserver.yaml"))
        // What is no homeserver it believes by these alone: identity servers.
        .env("SSL_CERT_FILE", &site.ca);
    command
}

/// The key that [`write_config`] gave it.
pub(crate) fn signing_key(site: &Site) -> (String, SigningKey) {
    // Made from the name, so that it survives restarts and differs between servers.
    let mut seed = [7; 32];
    for (index, byte) in site.name.bytes().enumerate() {
        seed[index % 32] ^= byte.rotate_left(index as u32 / 32);
    }
    (
        format!("ed25519:{KEY_VERSION}"),
        SigningKey::from_bytes(&seed),
    )
}

pub(crate) fn write_config(site: &Site) {
    let (_, key) = signing_key(site);
    let key = format!(
        "ed25519 {KEY_VERSION} {}\n",
        STANDARD_NO_PAD.encode(key.to_bytes())
    );
    std::fs::write(site.directory.join("signing.key"), key).unwrap();
    std::fs::write(site.directory.join("log.yaml"), LOG).unwrap();
    std::fs::write(
        site.directory.join("homeserver.yaml"),
        homeserver_yaml(site),
    )
    .unwrap();
}

const LOG: &str = "
version: 1
disable_existing_loggers: false
formatters: {line: {format: '%(asctime)s %(levelname)s %(name)s %(request)s %(message)s'}}
handlers: {out: {class: logging.StreamHandler, formatter: line, stream: ext://sys.stdout}}
root: {level: INFO, handlers: [out]}
loggers:
  synapse.storage: {level: WARNING}
  synapse.util: {level: WARNING}
";

/// No limits that a test would run into, and retries within the patience of one.
fn homeserver_yaml(site: &Site) -> String {
    let directory = site.directory.display();
    let plenty = "{per_second: 100000, burst_count: 100000}";
    format!(
        r#"
server_name: "{name}"
public_baseurl: "http://{listen}/"
pid_file: {directory}/synapse.pid
listeners:
  - {{port: {port}, bind_addresses: ["{ip}"], type: http, tls: false, resources: [{{names: [client, federation]}}]}}
database: {{name: sqlite3, args: {{database: "{directory}/homeserver.db"}}}}
log_config: {directory}/log.yaml
media_store_path: {directory}/media
signing_key_path: {directory}/signing.key
registration_shared_secret: "{SHARED_SECRET}"
macaroon_secret_key: macaroons
form_secret: forms
report_stats: false
suppress_key_server_warning: true
trusted_key_servers: []
federation_custom_ca_list: ["{ca}"]
ip_range_blacklist: []
federation_ip_range_blacklist: []
presence: {{enabled: true}}
allow_public_rooms_over_federation: true
room_list_publication_rules: [{{action: allow}}]
bcrypt_rounds: 4
federation:
  max_long_retries: 0
  max_short_retries: 0
  destination_min_retry_interval: 1s
  destination_max_retry_interval: 2s
rc_message: {plenty}
rc_presence: {{per_user: {plenty}}}
rc_registration: {plenty}
rc_invites: {{per_room: {plenty}, per_user: {plenty}, per_issuer: {plenty}}}
rc_joins: {{local: {plenty}, remote: {plenty}}}
rc_joins_per_room: {plenty}
rc_login: {{address: {plenty}, account: {plenty}, failed_attempts: {plenty}}}
rc_federation: {{window_size: 1000, sleep_limit: 1000000, sleep_delay: 1, reject_limit: 1000000, concurrent: 100}}
"#,
        name = site.name,
        listen = site.listen,
        ip = site.listen.ip(),
        port = site.listen.port(),
        ca = site.ca.display(),
    )
}
