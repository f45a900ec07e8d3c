//! The commands that do one thing and end.

use std::io::{self, BufRead as _};

use myelin_api::{Access, Resource, routes};
use myelin_core::keys::encode_verifying_key;
use myelin_env::Env;
use myelin_federation::{KeyFileError, SigningKeys};
use myelin_users::NewAccount;
use serde_json::{Value, json};

use super::{
    Failure, Place, print,
    serve::{read_config, run},
};
use crate::{config::Config, server::Parts};

pub(super) fn check_config(place: &Place) -> Result<(), Failure> {
    let config = read_config(place)?;
    print(&format!(
        "The configuration of {} is valid\n",
        config.server_name
    ))
}

pub(super) fn list_routes(as_json: bool) -> Result<(), Failure> {
    let mut text = String::new();
    if as_json {
        let rows: Vec<Value> = routes()
            .iter()
            .map(|route| {
                json!({
                    "method": route.method.as_str(),
                    "path": route.path,
                    "legacy_path": route.legacy_path(),
                    "section": route.section,
                    "resource": resource_name(route.resource),
                    "access": access_name(route.access),
                })
            })
            .collect();
        text.push_str(&serde_json::to_string_pretty(&rows)?);
        text.push('\n');
    } else {
        let mut section = "";
        for route in routes() {
            if section != route.section {
                section = route.section;
                text.push_str(&format!("\n{section}\n"));
            }
            let access = access_name(route.access);
            text.push_str(&format!(
                "  {:6} {} ({access})\n",
                route.method.as_str(),
                route.path
            ));
        }
    }
    print(&text)
}

fn resource_name(resource: Resource) -> &'static str {
    match resource {
        Resource::Client => "client",
        Resource::Federation => "federation",
        Resource::Both => "both",
    }
}

fn access_name(access: Access) -> &'static str {
    match access {
        Access::Public => "public",
        Access::Guest => "guest",
        Access::User => "user",
        Access::Admin => "admin",
        Access::Server => "server",
    }
}

pub(super) fn create_user(
    place: &Place,
    name: String,
    admin: bool,
    password_stdin: bool,
) -> Result<(), Failure> {
    let config = read_config(place)?;
    let env = Env::real();
    let given = if password_stdin {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Some(line.trim_end_matches(['\r', '\n']).to_owned())
    } else {
        None
    };
    run(async move {
        let parts = Parts::open(&config, &env).await?;
        let password = given.clone().unwrap_or_else(|| env.random.alphanumeric(16));
        let account = NewAccount {
            username: name,
            password: Some(password.clone()),
            admin,
            display_name: None,
        };
        let user_id = parts.users.create_account(account).await?;
        parts.database.close().await;
        match given {
            Some(_) => print(&format!("{user_id} was created\n")),
            None => print(&format!(
                "{user_id} was created with the password {password}\n"
            )),
        }
    })
}

/// How many reports are printed at most.
const MOST_REPORTS: usize = 10_000;

pub(super) fn list_reports(place: &Place) -> Result<(), Failure> {
    let config = read_config(place)?;
    let env = Env::real();
    run(async move {
        let parts = Parts::open(&config, &env).await?;
        let reports = parts.users.reports(MOST_REPORTS).await?;
        parts.database.close().await;
        let mut text = String::new();
        for report in reports {
            let row = json!({
                "reporter": report.reporter,
                "room_id": report.room_id,
                "event_id": report.event_id,
                "user_id": report.user_id,
                "reason": report.reason,
                "received_ts": report.created_ms,
            });
            text.push_str(&format!("{row}\n"));
        }
        print(&text)
    })
}

pub(super) fn show_keys(place: &Place) -> Result<(), Failure> {
    let config = read_config(place)?;
    let keys = read_keys(&config)?;
    let mut text = format!(
        "{} signs with the keys in {}\n",
        config.server_name,
        config.signing_key_file().display()
    );
    text.push_str(&list_keys(&keys));
    print(&text)
}

pub(super) fn rotate_keys(place: &Place) -> Result<(), Failure> {
    let config = read_config(place)?;
    // Before anything is opened, which would make a first key.
    read_keys(&config)?;
    let env = Env::real();
    run(async move {
        // The database belongs to this process meanwhile: a server that runs would go on signing with a key
        // that has ended, and others would refuse its events.
        let parts = Parts::open(&config, &env).await?;
        let keys = read_keys(&config)?.rotate(env.clock.now_ms(), &env.random);
        let replaced = keys.replace(&config.signing_key_file());
        parts.database.close().await;
        replaced?;
        print(&format!(
            "{} signs with a new key from its next start on\n{}",
            config.server_name,
            list_keys(&keys)
        ))
    })
}

fn read_keys(config: &Config) -> Result<SigningKeys, Failure> {
    let path = config.signing_key_file();
    let keys = SigningKeys::load(&path, &config.server_name);
    keys.map_err(|error| match error {
        KeyFileError::File { why, .. } if why.kind() == io::ErrorKind::NotFound => {
            let path = path.display();
            format!("{path}: there is no key yet, the first start makes it").into()
        }
        error @ KeyFileError::File { .. } => error.into(),
        error => format!("{}: {error}", path.display()).into(),
    })
}

/// The public keys, a line each.
fn list_keys(keys: &SigningKeys) -> String {
    let current = keys.pairs().map(|pair| {
        let public = encode_verifying_key(&pair.verifying_key());
        format!("{} {public}\n", pair.key_id())
    });
    let old = keys.old().iter().map(|old| {
        let public = encode_verifying_key(&old.key);
        format!("{} {public} until {}\n", old.key_id, old.expired_ms)
    });
    current.chain(old).collect()
}
