use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_users::{NewAccount, SharedSecretRegistration, UserError};
use sha1::Sha1;

use crate::users;

fn request(secret: &str, nonce: String, username: &str, admin: bool) -> SharedSecretRegistration {
    let role = if admin { "admin" } else { "notadmin" };
    let text = [&nonce, username, "secret", role].join("\0");
    let mut mac = <Hmac<Sha1>>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    let mac = mac.finalize().into_bytes();
    SharedSecretRegistration {
        nonce,
        account: NewAccount {
            username: username.to_owned(),
            password: Some("secret".to_owned()),
            admin,
            display_name: None,
        },
        user_type: None,
        mac: mac.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[tokio::test]
async fn whoever_knows_the_secret_registers_users_and_administrators() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        for (username, admin) in [("alice", false), ("root", true)] {
            let nonce = users.registration_nonce().unwrap();
            let login =
                users.register_by_shared_secret(request("open sesame", nonce, username, admin));
            let token = login.await.unwrap().access_token;
            let requester = users.authenticate(&token).await.unwrap().unwrap();
            assert_eq!(requester.admin, admin);
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_mac_or_an_old_nonce_registers_nobody() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let nonce = users.registration_nonce().unwrap();
        let wrong = users.register_by_shared_secret(request("guessed", nonce.clone(), "eve", true));
        assert!(matches!(wrong.await, Err(UserError::Forbidden(_))));
        let used = users.register_by_shared_secret(request("open sesame", nonce, "eve", true));
        assert!(matches!(used.await, Err(UserError::InvalidParam(_))));
        let nonce = users.registration_nonce().unwrap();
        fresh.env.clock.advance(Duration::from_secs(60));
        let late = users.register_by_shared_secret(request("open sesame", nonce, "eve", true));
        assert!(matches!(late.await, Err(UserError::InvalidParam(_))));
        let nonce = users.registration_nonce().unwrap();
        let mut tampered = request("open sesame", nonce, "eve", false);
        tampered.account.admin = true;
        let tampered = users.register_by_shared_secret(tampered).await;
        assert!(matches!(tampered, Err(UserError::Forbidden(_))));
    })
    .await;
}
