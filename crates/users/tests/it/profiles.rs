use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_users::{Profile, ProfileField, UserError};
use ruma::user_id;
use serde_json::value::RawValue;

use crate::{logged_in, users};

#[tokio::test]
async fn a_profile_is_set_and_removed_field_by_field() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let alice = logged_in(&users, "alice").await.user_id;
        assert_eq!(users.profile(&alice).await.unwrap(), Profile::default());
        let set = |field, value: &str| {
            users.set_profile_field(alice.clone(), field, Some(value.to_owned()))
        };
        set(ProfileField::DisplayName, "Alice").await.unwrap();
        let profile = set(ProfileField::AvatarUrl, "mxc://example.org/a")
            .await
            .unwrap();
        let expected = Profile {
            display_name: Some("Alice".to_owned()),
            avatar_url: Some("mxc://example.org/a".to_owned()),
        };
        assert_eq!(profile, expected);
        assert_eq!(users.profile(&alice).await.unwrap(), expected);
        let removed = set(ProfileField::DisplayName, "").await.unwrap();
        assert_eq!(
            (removed.display_name, removed.avatar_url),
            (None, expected.avatar_url)
        );
        for (field, value) in [
            (ProfileField::DisplayName, "x".repeat(257)),
            (ProfileField::DisplayName, "\0".to_owned()),
            (ProfileField::AvatarUrl, "x".repeat(1001)),
        ] {
            let refused = set(field, &value).await;
            assert!(
                matches!(refused, Err(UserError::InvalidParam(_))),
                "{field:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn who_is_not_here_has_no_profile() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let nobody = user_id!("@nobody:example.org");
        assert!(matches!(
            users.profile(nobody).await,
            Err(UserError::NotFound(_))
        ));
        let set = users
            .set_profile_field(nobody.to_owned(), ProfileField::DisplayName, None)
            .await;
        assert!(matches!(set, Err(UserError::NotFound(_))));
    })
    .await;
}

#[tokio::test]
async fn the_same_filter_gets_the_same_id_and_belongs_to_its_user() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let alice = user_id!("@alice:example.org").to_owned();
        let bob = user_id!("@bob:example.org").to_owned();
        let store = |user: &ruma::UserId, filter: &str| {
            users.store_filter(
                user.to_owned(),
                RawValue::from_string(filter.to_owned()).unwrap(),
            )
        };
        let first = store(&alice, r#"{"room":{}}"#).await.unwrap();
        let second = store(&alice, "{}").await.unwrap();
        assert_ne!(first, second);
        assert_eq!(store(&alice, r#"{"room":{}}"#).await.unwrap(), first);
        assert_eq!(
            users.filter(alice.clone(), &first).await.unwrap().get(),
            r#"{"room":{}}"#
        );
        for (user, id) in [
            (&bob, first.as_str()),
            (&alice, "99"),
            (&alice, "x"),
            (&alice, "-1"),
        ] {
            let unknown = users.filter(user.clone(), id).await;
            assert!(
                matches!(unknown, Err(UserError::NotFound(_))),
                "{user} {id}"
            );
        }
        let long = format!("\"{}\"", "x".repeat(64 * 1024));
        assert!(matches!(
            store(&alice, &long).await,
            Err(UserError::InvalidParam(_))
        ));
    })
    .await;
}
