use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_users::{NewDevice, UserError, Users};

use crate::{logged_in, users};

async fn is_valid(users: &Users, token: &str) -> bool {
    users.authenticate(token).await.unwrap().is_some()
}

#[tokio::test]
async fn a_password_logs_in_by_local_part_and_by_whole_id() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        logged_in(&users, "alice").await;
        for name in ["alice", "@alice:example.org"] {
            let login = users
                .log_in(name, "secret".to_owned(), NewDevice::default())
                .await;
            assert_eq!(login.unwrap().user_id, "@alice:example.org");
        }
        for (name, password) in [
            ("alice", "Secret"),
            ("alice", ""),
            ("bob", "secret"),
            ("@alice:example.com", "secret"),
            ("@", "secret"),
            ("", "secret"),
            ("a b\0", "secret"),
        ] {
            let refused = users
                .log_in(name, password.to_owned(), NewDevice::default())
                .await;
            assert!(
                matches!(refused, Err(UserError::Forbidden(_))),
                "{name} {password}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_is_good_until_its_session_ends() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let phone = logged_in(&users, "alice").await;
        let login = users.log_in("alice", "secret".to_owned(), NewDevice::default());
        let laptop = login.await.unwrap();
        assert!(!is_valid(&users, "").await && !is_valid(&users, "myt_x").await);
        let requester = users
            .authenticate(&phone.access_token)
            .await
            .unwrap()
            .unwrap();
        users.log_out(requester).await.unwrap();
        assert!(!is_valid(&users, &phone.access_token).await);
        assert!(
            is_valid(&users, &laptop.access_token).await,
            "other sessions go on"
        );
        let list = users.device_list(&laptop.user_id).await.unwrap();
        assert_eq!(list.devices.len(), 1, "the device went with its session");
        users
            .log_out_everywhere(laptop.user_id.clone())
            .await
            .unwrap();
        assert!(!is_valid(&users, &laptop.access_token).await);
    })
    .await;
}

#[tokio::test]
async fn logging_in_a_device_again_ends_its_earlier_token() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let before = logged_in(&users, "alice").await;
        let again = NewDevice {
            device_id: Some(before.device_id.clone()),
            display_name: None,
            ..NewDevice::default()
        };
        let after = users
            .log_in("alice", "secret".to_owned(), again)
            .await
            .unwrap();
        assert!(!is_valid(&users, &before.access_token).await);
        assert!(is_valid(&users, &after.access_token).await);
        let list = users.device_list(&after.user_id).await.unwrap();
        assert_eq!(list.devices.len(), 1);
        assert_eq!(
            list.devices[0].display_name.as_deref(),
            Some("Phone"),
            "the name stays"
        );
    })
    .await;
}

#[tokio::test]
async fn what_the_database_cannot_hold_is_refused() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        logged_in(&users, "alice").await;
        for (device_id, display_name) in
            [("A\0", "Phone"), ("A", "Pho\0ne"), (&*"A".repeat(256), "")]
        {
            let device = NewDevice {
                device_id: Some(device_id.to_owned()),
                display_name: Some(display_name.to_owned()),
                ..NewDevice::default()
            };
            let refused = users.log_in("alice", "secret".to_owned(), device).await;
            assert!(
                matches!(refused, Err(UserError::InvalidParam(_))),
                "{refused:?}"
            );
        }
    })
    .await;
}
