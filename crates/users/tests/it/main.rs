//! Tests of users through the crate's public interface, on each database engine.

mod keys;
mod login;
mod profiles;
mod registration;
mod shared_secret;
mod to_device;

use std::sync::Arc;

use myelin_federation::{Federation, FederationConfig, SigningKeys};
use myelin_storage::testing::Fresh;
use myelin_users::{Login, NewAccount, NewDevice, Users, UsersConfig};
use ruma::server_name;

/// A server's users, with an open or closed door.
async fn users(fresh: &Fresh, registration_enabled: bool) -> Users {
    let server_name = server_name!("example.org").to_owned();
    let keys = SigningKeys::generate(server_name.clone(), &fresh.env.random);
    let federation = Federation::new(
        FederationConfig::default(),
        fresh.env.clone(),
        fresh.database.clone(),
        Arc::new(keys),
    );
    let config = UsersConfig {
        server_name,
        registration_enabled,
        guests: false,
        shared_secret: Some("open sesame".to_owned()),
        quotas: None,
    };
    let users = Users::open(
        config,
        fresh.env.clone(),
        fresh.database.clone(),
        federation.unwrap(),
    );
    users.await.unwrap()
}

/// An account with the password "secret", logged in on the device "PHONE".
async fn logged_in(users: &Users, username: &str) -> Login {
    let account = NewAccount {
        username: username.to_owned(),
        password: Some("secret".to_owned()),
        ..NewAccount::default()
    };
    users.create_account(account).await.unwrap();
    let device = NewDevice {
        device_id: Some("PHONE".to_owned()),
        display_name: Some("Phone".to_owned()),
        ..NewDevice::default()
    };
    users
        .log_in(username, "secret".to_owned(), device)
        .await
        .unwrap()
}
