//! Myelin as a program, configured for a test.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::SigningKey;

use crate::client::SHARED_SECRET;
use crate::homeserver::Site;

/// How it is started with a command, once its configuration is written.
pub(crate) fn command(site: &Site, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_myelin"));
    command
        .args(words)
        .arg("--config")
        .arg(site.directory.join("myelin.toml"));
    command
}

/// The key that the server signs with.
pub(crate) fn signing_key(site: &Site) -> (String, SigningKey) {
    let text = std::fs::read_to_string(site.directory.join("data/signing.key")).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let seed = STANDARD_NO_PAD
        .decode(words[2].trim_end_matches('='))
        .unwrap();
    (
        format!("{}:{}", words[0], words[1]),
        SigningKey::from_bytes(&seed.try_into().unwrap()),
    )
}

/// One listener without TLS behind the test's proxy, one with TLS of its own, and whatever the test adds.
pub(crate) fn write_config(site: &Site, sections: &str) {
    let in_directory = |name: &str| site.directory.join(name);
    std::fs::write(in_directory("tls.crt"), &site.identity.certificate_pem).unwrap();
    std::fs::write(in_directory("tls.key"), &site.identity.key_pem).unwrap();
    let config = format!(
        r#"
server_name = "{name}"
data_dir = "{data}"
public_base_url = "http://{listen}/"

[database]
url = "{database}"

[[listeners]]
address = "{listen}"

[[listeners]]
address = "{ip}:8448"
tls_certificate = "{certificate}"
tls_key = "{key}"
resources = ["federation"]

[federation]
extra_ca_certificates = ["{ca}"]
allow_private_addresses = true
trusted_key_servers = [{notary}]

[registration]
enabled = true
shared_secret = "{SHARED_SECRET}"

[rate_limits]
enabled = false

[public_rooms]
allow_publishing = true

{sections}
"#,
        name = site.name,
        notary = site
            .notary
            .as_ref()
            .map(|notary| format!("{:?}", notary.name))
            .unwrap_or_default(),
        data = in_directory("data").display(),
        database = match &site.postgres {
            Some(database) => database.url.clone(),
            None => format!("sqlite:{}", in_directory("data/myelin.db").display()),
        },
        listen = site.listen,
        ip = site.listen.ip(),
        certificate = in_directory("tls.crt").display(),
        key = in_directory("tls.key").display(),
        ca = site.ca.display(),
    );
    std::fs::create_dir_all(in_directory("data")).unwrap();
    std::fs::write(in_directory("myelin.toml"), config).unwrap();
}
