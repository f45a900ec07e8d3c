//! Properties of formats that hold for any event.

use myelin_core::{
    build::sign_template, pdu::redact, room_version::RoomVersion, validate::Unverified,
};
use proptest::prelude::*;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, canonical_json::redact as ruma_redact};
use serde_json::{Value, json};

use crate::vectors::{key_set, specification_key};

/// Any canonical JSON value of little depth.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Content with keys that redaction treats specially.
fn any_content() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "membership",
        "third_party_invite",
        "join_authorised_via_users_server",
        "creator",
        "join_rule",
        "allow",
        "ban",
        "events",
        "invite",
        "users",
        "redacts",
        "aliases",
        "history_visibility",
        "notifications",
        "body",
        "room_version",
    ]);
    let entry = (names.prop_map(str::to_owned), any_value());
    prop::collection::vec(entry, 0..6).prop_map(|entries| {
        let mut content: serde_json::Map<_, _> = entries.into_iter().collect();
        // Whatever is no object here is cut by the reference server and kept by ruma.
        content.retain(|key, value| key != "third_party_invite" || value.is_object());
        // A join that names an authorising user needs more signatures than this test makes.
        content.retain(|key, _| key != "membership");
        Value::Object(content)
    })
}

fn any_template() -> impl Strategy<Value = (RoomVersion, CanonicalJsonObject)> {
    let types = prop::sample::select(vec![
        "m.room.message",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.redaction",
        "m.room.aliases",
        "m.room.history_visibility",
        "m.room.name",
        "x",
    ]);
    let versions = prop::sample::select(RoomVersion::supported().collect::<Vec<_>>());
    (versions, types, any_content(), any_value()).prop_map(|(version, kind, content, extra)| {
        let reference = |id: &str| match version.has_ids_in_events() {
            true => json!([id, { "sha256": "h" }]),
            false => json!(id),
        };
        let event = json!({
            "type": kind, "sender": "@a:domain", "room_id": "!room", "content": content,
            "depth": 3, "origin_server_ts": 5, "prev_events": [reference("$p")], "auth_events": [reference("$q")],
            "state_key": "", "extra": extra, "origin": "domain", "prev_state": [],
        });
        match CanonicalJsonValue::try_from(event).unwrap() {
            CanonicalJsonValue::Object(event) => (version, event),
            _ => unreachable!("an object was written"),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_was_made_is_read_back_byte_for_byte((version, template) in any_template()) {
        let key = specification_key();
        let made = sign_template(version, &template, &key).unwrap();
        let read = Unverified::parse(version, &made.json, None).unwrap();
        prop_assert!(read.hash_matches());
        prop_assert_eq!(&read.pdu().json, &made.json);
        prop_assert_eq!(read.event_id(), &*made.event_id);
        let loose: Value = serde_json::from_str(&made.json).unwrap();
        let spaced = serde_json::to_string_pretty(&loose).unwrap();
        let read = Unverified::parse(version, &spaced, None).unwrap();
        prop_assert_eq!(&read.pdu().json, &made.json);
        prop_assert!(read.verify(&key_set(&key, u64::MAX)).is_ok());
    }

    #[test]
    fn redaction_is_idempotent_and_keeps_id_and_signature((version, template) in any_template()) {
        let key = specification_key();
        let made = sign_template(version, &template, &key).unwrap();
        let once = redact(version, &made).unwrap();
        let twice = redact(version, &once).unwrap();
        prop_assert_eq!(&once.json, &twice.json);
        let read = Unverified::parse(version, &once.json, None).unwrap();
        prop_assert_eq!(read.event_id(), &*made.event_id);
        prop_assert_eq!(&read.pdu().json, &once.json);
        prop_assert!(read.verify(&key_set(&key, u64::MAX)).is_ok());
    }

    #[test]
    fn redaction_leaves_what_rumas_leaves((version, template) in any_template()) {
        let made = sign_template(version, &template, &specification_key()).unwrap();
        let whole: CanonicalJsonObject = serde_json::from_str(&made.json).unwrap();
        let expected = ruma_redact(whole, version.redaction(), None).unwrap();
        let redacted = redact(version, &made).unwrap();
        prop_assert_eq!(&*redacted.json, &*serde_json::to_string(&expected).unwrap());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}", (_, template) in any_template(),
        field in "[a-z_]{1,10}", value in any_value()) {
        let mut event = template;
        event.insert(field, value.try_into().unwrap());
        event.insert("hashes".to_owned(), json!({"sha256": "x"}).try_into().unwrap());
        let json = serde_json::to_string(&event).unwrap();
        for version in RoomVersion::supported() {
            let _ = Unverified::parse(version, &text, None);
            let _ = Unverified::parse(version, &json, None);
        }
    }
}
