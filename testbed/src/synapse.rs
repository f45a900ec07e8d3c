//! A real Synapse from PyPI, configured for a test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::{SigningKey, VerifyingKey};

use crate::client::SHARED_SECRET;

const KEY_VERSION: &str = "a_test";

/// Names the virtual environment that holds Synapse.
pub const VARIABLE: &str = "MYELIN_TEST_SYNAPSE";

/// What a server's configuration is made from.
#[derive(Clone, Copy, Debug)]
pub struct Configuration<'a> {
    /// The server name.
    pub name: &'a str,
    /// Where everything of it is kept.
    pub directory: &'a Path,
    /// Where it shall listen, without TLS.
    pub listen: SocketAddr,
    /// PEM file of the authority that it trusts, if other servers are to be reached.
    pub ca: Option<&'a Path>,
    /// Which server it asks for the keys of others, if there is one.
    pub notary: Option<&'a Notary>,
}

/// A server that is believed about the keys of others, as far as it signs with this key.
#[derive(Clone, Debug)]
pub struct Notary {
    /// The server name.
    pub name: String,
    /// As in `ed25519:a_test`.
    pub key_id: String,
    /// Its public key.
    pub key: VerifyingKey,
}

/// The virtual environment that holds Synapse: where [`VARIABLE`] points, else where
/// `cargo xtask ci full` installs it.
///
/// # Panics
/// If it isn't there.
pub fn environment() -> PathBuf {
    let installed =
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/myelin-tests/venv");
    let directory = std::env::var_os(VARIABLE).map_or_else(installed, PathBuf::from);
    let python = directory.join("bin/python");
    assert!(
        python.exists(),
        "there is no {}: run `cargo xtask ci full` once",
        python.display()
    );
    directory
}

impl Configuration<'_> {
    /// How the server is started, once its configuration is written.
    pub fn command(&self) -> Command {
        let mut command = Command::new(environment().join("bin/python"));
        command
            .args(["-m", "synapse.app.homeserver", "-c"])
            .arg(self.directory.join("homeserver.yaml"));
        if let Some(ca) = self.ca {
            // What is no homeserver it believes by these alone: identity servers.
            command.env("SSL_CERT_FILE", ca);
        }
        command
    }

    /// The key that [`Self::write`] gave it.
    pub fn signing_key(&self) -> (String, SigningKey) {
        // Made from the name, so that it survives restarts and differs between servers.
        let mut seed = [7; 32];
        for (index, byte) in self.name.bytes().enumerate() {
            seed[index % 32] ^= byte.rotate_left(index as u32 / 32);
        }
        (
            format!("ed25519:{KEY_VERSION}"),
            SigningKey::from_bytes(&seed),
        )
    }

    /// Writes it.
    ///
    /// # Panics
    /// If the directory can't be written.
    pub fn write(&self) {
        let (_, key) = self.signing_key();
        let key = format!(
            "ed25519 {KEY_VERSION} {}\n",
            STANDARD_NO_PAD.encode(key.to_bytes())
        );
        let files = [
            ("signing.key", key.as_str()),
            ("log.yaml", LOG),
            ("homeserver.yaml", &self.homeserver_yaml()),
        ];
        for (name, text) in files {
            std::fs::write(self.directory.join(name), text).unwrap();
        }
    }

    /// No limits that a test would run into, and retries within the patience of one.
    fn homeserver_yaml(&self) -> String {
        let directory = self.directory.display();
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
trusted_key_servers: [{notary}]
{trusted}
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
rc_room_creation: {plenty}
rc_presence: {{per_user: {plenty}}}
rc_registration: {plenty}
rc_invites: {{per_room: {plenty}, per_user: {plenty}, per_issuer: {plenty}}}
rc_joins: {{local: {plenty}, remote: {plenty}}}
rc_joins_per_room: {plenty}
rc_login: {{address: {plenty}, account: {plenty}, failed_attempts: {plenty}}}
rc_federation: {{window_size: 1000, sleep_limit: 1000000, sleep_delay: 1, reject_limit: 1000000, concurrent: 100}}
"#,
            name = self.name,
            listen = self.listen,
            ip = self.listen.ip(),
            port = self.listen.port(),
            notary = self.notary.map(Notary::to_yaml).unwrap_or_default(),
            // An empty list is refused.
            trusted = self
                .ca
                .map(|ca| format!(
                    "federation_custom_ca_list: [{:?}]",
                    ca.display().to_string()
                ))
                .unwrap_or_default(),
        )
    }
}

impl Notary {
    fn to_yaml(&self) -> String {
        let key = STANDARD_NO_PAD.encode(self.key.to_bytes());
        format!(
            r#"{{server_name: "{}", verify_keys: {{"{}": "{key}"}}}}"#,
            self.name, self.key_id
        )
    }
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
