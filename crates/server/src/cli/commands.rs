//! The commands that do one thing and end.

use std::io::{self, BufRead as _};

use myelin_api::{Access, Resource, routes};
use myelin_core::keys::encode_verifying_key;
use myelin_env::Env;
use myelin_federation::SigningKeys;
use myelin_users::NewAccount;
use serde_json::{Value, json};

use super::{
    Failure, Place, print,
    serve::{read_config, run},
};
use crate::server::Parts;

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
    let path = config.signing_key_file();
    let keys = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "{}: there is no key yet, the first start makes it",
                path.display()
            )
        }
        _ => format!("{}: {error}", path.display()),
    })?;
    let keys = SigningKeys::parse(&config.server_name, &keys)?;
    let mut text = format!(
        "{} signs with the keys in {}\n",
        config.server_name,
        path.display()
    );
    for pair in keys.pairs() {
        let public = encode_verifying_key(&pair.verifying_key());
        text.push_str(&format!("{} {public}\n", pair.key_id()));
    }
    print(&text)
}
