use myelin_storage::{
    profiles,
    testing::{Fresh, on_each_engine},
};
use myelin_users::{ProfileField, UserError};
use ruma::user_id;
use serde_json::{Value, json, value::RawValue};

use crate::{logged_in, users};

#[tokio::test]
async fn a_profile_is_set_and_removed_field_by_field() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let alice = logged_in(&users, "alice").await.user_id;
        let profile = async || Value::Object(users.profile(&alice).await.unwrap());
        assert_eq!(profile().await, json!({}));
        let set =
            |field, value: &str| users.set_profile_field(alice.clone(), field, Some(value.into()));
        set(ProfileField::DisplayName, "Alice").await.unwrap();
        let face = "mxc://example.org/a";
        set(ProfileField::AvatarUrl, face).await.unwrap();
        let both = json!({ "displayname": "Alice", "avatar_url": face });
        assert_eq!(profile().await, both);
        set(ProfileField::DisplayName, "").await.unwrap();
        assert_eq!(profile().await, json!({ "avatar_url": face }));
        for (field, value) in [
            (ProfileField::DisplayName, "x".repeat(257)),
            (ProfileField::DisplayName, "\0".to_owned()),
            (ProfileField::AvatarUrl, "x".repeat(1001)),
        ] {
            let refused = set(field.clone(), &value).await;
            assert!(
                matches!(refused, Err(UserError::InvalidParam(_))),
                "{field:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn any_field_keeps_any_value_and_none_but_the_two_is_told_to_rooms() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let alice = logged_in(&users, "alice").await.user_id;
        let field = |name| ProfileField::from_name(name).unwrap();
        let set = |name, value| users.set_profile_field(alice.clone(), field(name), value);
        let values = [
            ("m.tz", json!("Europe/London")),
            ("org.example.nothing", Value::Null),
            (
                "org.example.pets",
                json!([{ "name": "\0 is a \"name\"" }, 0.5]),
            ),
        ];
        for (name, value) in values.clone() {
            set(name, Some(value)).await.unwrap();
        }
        let expected = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        assert_eq!(users.profile(&alice).await.unwrap(), expected.collect());
        let noted = fresh
            .database
            .read("noted", |tx| Box::pin(profiles::changed(tx, "", 9)));
        assert_eq!(noted.await, Ok(vec![]));
        assert!(matches!(
            set("m.tz", Some(json!(5))).await,
            Err(UserError::BadJson(_))
        ));
        set("m.tz", None).await.unwrap();
        set("m.tz", None).await.unwrap();
        assert_eq!(
            users.profile_field(&alice, &field("m.tz")).await.unwrap(),
            None
        );
        let pets = users
            .profile_field(&alice, &field("org.example.pets"))
            .await;
        assert_eq!(pets.unwrap().as_ref(), Some(&values[2].1));
    })
    .await;
}

#[tokio::test]
async fn a_profile_takes_64_kib_and_not_a_byte_more() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let alice = logged_in(&users, "alice").await.user_id;
        let set = |name, value: Option<String>| {
            let field = ProfileField::from_name(name).unwrap();
            users.set_profile_field(alice.clone(), field, value.map(Value::from))
        };
        let size =
            |profile: serde_json::Map<String, Value>| Value::Object(profile).to_string().len();
        set("org.example.small", Some("x".to_owned()))
            .await
            .unwrap();
        let rest = 64 * 1024 - size(users.profile(&alice).await.unwrap());
        let around = r#","org.example.large":"""#.len();
        let large = "x".repeat(rest - around);
        let refused = set("org.example.large", Some(format!("{large}x"))).await;
        assert!(matches!(refused, Err(UserError::ProfileTooLarge)));
        set("org.example.large", Some(large)).await.unwrap();
        let full = users.profile(&alice).await.unwrap();
        assert_eq!(size(full.clone()), 64 * 1024);
        let refused = set("displayname", Some("Alice".to_owned())).await;
        assert!(matches!(refused, Err(UserError::ProfileTooLarge)));
        assert_eq!(
            users.profile(&alice).await.unwrap(),
            full,
            "what was refused left nothing"
        );
        set("org.example.small", None).await.unwrap();
    })
    .await;
}

#[test]
fn names_of_fields_follow_their_grammar() {
    for name in ["m.tz", "shoe_size", "org.example.a-b_c.9", &"x".repeat(255)] {
        assert_eq!(ProfileField::from_name(name).unwrap().name(), name);
    }
    for name in ["", "9", ".a", "M.tz", "a b", "ä", "a/b"] {
        let refused = ProfileField::from_name(name);
        assert!(matches!(refused, Err(UserError::InvalidParam(_))), "{name}");
    }
    let refused = ProfileField::from_name(&"x".repeat(256));
    assert!(matches!(refused, Err(UserError::KeyTooLarge)));
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
