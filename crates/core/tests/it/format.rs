//! Checks 1 to 3 on receipt: what is dropped, what is redacted, and whose signatures are wanted.

use myelin_core::{
    build::{BuildError, EventDraft},
    keys::{KeyPair, KeySet},
    room_version::RoomVersion,
    validate::{DropReason, MAX_PDU_BYTES, Unverified, ValidPdu, reference_hash},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, owned_room_id, owned_server_name, owned_user_id,
    room_id,
};
use serde_json::{Value, json};

use crate::vectors::{key_set, specification_key};

const HASH: &str = "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC";
const TIME: u64 = 1_700_000_000_000;

fn draft(version: RoomVersion) -> EventDraft {
    EventDraft {
        room_id: Some(match version {
            RoomVersion::V12 => owned_room_id!("!CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC"),
            _ => owned_room_id!("!r:domain"),
        }),
        sender: owned_user_id!("@a:domain"),
        event_type: "m.room.message".to_owned(),
        state_key: None,
        content: content(json!({"body": "hello", "msgtype": "m.text"})),
        prev_events: vec![],
        auth_events: vec![],
        depth: 7,
        origin_server_ts: MilliSecondsSinceUnixEpoch(TIME.try_into().unwrap()),
        redacts: None,
    }
}

fn content(value: Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(&value).unwrap()
}

fn member(content_value: Value) -> EventDraft {
    EventDraft {
        event_type: "m.room.member".to_owned(),
        state_key: Some("@b:other".to_owned()),
        content: content(content_value),
        ..draft(RoomVersion::V11)
    }
}

fn made(draft: EventDraft, version: RoomVersion) -> Value {
    let made = draft.finish(version, &specification_key()).unwrap();
    serde_json::from_str(&made.json).unwrap()
}

fn parse(version: RoomVersion, event: &Value) -> Result<Unverified, DropReason> {
    Unverified::parse(version, &event.to_string(), None)
}

/// What is done to a valid event of version 12, and what the reason for dropping it then says.
type Damage = (fn(&mut Value), &'static str);

const DAMAGES: &[Damage] = &[
    (|e| e["content"]["n"] = json!(1.5), "not canonical JSON"),
    (
        |e| e["x"] = json!([{"n": 9_007_199_254_740_992_i64}]),
        "not canonical JSON",
    ),
    (
        |e| e["unsigned"] = json!({"age": 0.5}),
        "not canonical JSON",
    ),
    (
        |e| e["content"]["x"] = json!("x".repeat(MAX_PDU_BYTES)),
        "65536 are allowed",
    ),
    (|e| drop(e["type"].take()), "`type` is no string"),
    (|e| remove(e, "type"), "`type` is missing"),
    (
        |e| e["type"] = json!("x".repeat(256)),
        "`type` is longer than 255 bytes",
    ),
    (
        |e| e["type"] = json!("é".repeat(128)),
        "`type` is longer than 255 bytes",
    ),
    (|e| remove(e, "sender"), "`sender` is missing"),
    (
        |e| e["sender"] = json!(format!("@{}:domain", "x".repeat(250))),
        "`sender` is longer",
    ),
    (|e| e["sender"] = json!("alice"), "malformed"),
    (|e| remove(e, "room_id"), "`room_id` is missing"),
    (
        |e| e["room_id"] = json!(format!("!{}", "x".repeat(255))),
        "`room_id` is longer",
    ),
    (|e| e["room_id"] = json!("room"), "malformed"),
    (
        |e| e["state_key"] = json!("x".repeat(256)),
        "`state_key` is longer",
    ),
    (|e| e["state_key"] = Value::Null, "`state_key` is no string"),
    (|e| remove(e, "depth"), "`depth` is missing"),
    (|e| e["depth"] = json!(-1), "`depth` is out of range"),
    (|e| e["depth"] = json!("7"), "`depth` is no integer"),
    (|e| e["depth"] = json!(true), "`depth` is no integer"),
    (|e| e["depth"] = json!(7.0), "not canonical JSON"),
    (
        |e| remove(e, "origin_server_ts"),
        "`origin_server_ts` is missing",
    ),
    (
        |e| e["origin_server_ts"] = json!(-1),
        "`origin_server_ts` is out of range",
    ),
    (|e| remove(e, "content"), "`content` is no object"),
    (|e| e["content"] = json!([]), "`content` is no object"),
    (|e| remove(e, "hashes"), "`hashes` has no `sha256`"),
    (
        |e| e["hashes"] = json!({"sha256": 1}),
        "`hashes` has no `sha256`",
    ),
    (|e| e["signatures"] = json!([]), "`signatures` is no object"),
    (|e| e["signatures"] = json!({}), "no signature of domain"),
    (
        |e| e["signatures"] = json!({"other": {"ed25519:1": "x"}}),
        "no signature of domain",
    ),
    (
        |e| e["signatures"] = json!({"domain": {"rsa:1": "x"}}),
        "no signature of domain",
    ),
    (
        |e| e["signatures"] = json!({"domain": {"ed25519:policy_server": "x"}}),
        "no signature of",
    ),
    (|e| remove(e, "prev_events"), "`prev_events` is no array"),
    (
        |e| e["prev_events"] = json!(["$x", 1]),
        "`prev_events` has something else",
    ),
    (|e| e["prev_events"] = json!(["x"]), "malformed"),
    (
        |e| e["auth_events"] = json!([["$x", {"sha256": "y"}]]),
        "`auth_events` has something else",
    ),
    (
        |e| e["prev_events"] = json!(vec!["$x"; 21]),
        "21 parents and 0 auth events",
    ),
    (
        |e| e["auth_events"] = json!(vec!["$x"; 11]),
        "0 parents and 11 auth events",
    ),
    (
        |e| e["auth_events"] = json!([format!("${HASH}")]),
        "the create event is among",
    ),
    (
        |e| e["type"] = json!("m.room.create"),
        "`room_id` must not be on a create event",
    ),
];

fn remove(event: &mut Value, field: &str) {
    event.as_object_mut().unwrap().remove(field);
}

#[test]
fn an_event_of_the_wrong_form_is_dropped_and_the_reason_named() {
    let valid = made(draft(RoomVersion::V12), RoomVersion::V12);
    assert!(parse(RoomVersion::V12, &valid).is_ok());
    for (number, (damage, expected)) in DAMAGES.iter().enumerate() {
        let mut event = valid.clone();
        damage(&mut event);
        let reason = parse(RoomVersion::V12, &event)
            .expect_err(expected)
            .to_string();
        assert!(
            reason.contains(expected),
            "row {number}: {reason} should contain {expected}"
        );
    }
}

#[test]
fn too_many_references_are_told_from_other_faults() {
    let mut event = made(draft(RoomVersion::V11), RoomVersion::V11);
    event["prev_events"] = json!(vec!["$x"; 20]);
    event["auth_events"] = json!(vec!["$x"; 10]);
    assert!(parse(RoomVersion::V11, &event).is_ok());
    event["prev_events"] = json!(vec!["$x"; 21]);
    let reason = parse(RoomVersion::V11, &event).unwrap_err();
    assert!(matches!(
        reason,
        DropReason::TooManyReferences {
            prev_events: 21,
            auth_events: 10
        }
    ));
}

#[test]
fn before_version_12_the_create_event_has_a_room_id_and_may_be_an_auth_event() {
    let create = EventDraft {
        event_type: "m.room.create".to_owned(),
        state_key: Some(String::new()),
        ..draft(RoomVersion::V11)
    };
    assert!(parse(RoomVersion::V11, &made(create, RoomVersion::V11)).is_ok());
    let mut event = made(draft(RoomVersion::V11), RoomVersion::V11);
    event["room_id"] = json!(format!("!{HASH}:domain"));
    event["auth_events"] = json!([format!("${HASH}")]);
    assert!(parse(RoomVersion::V11, &event).is_ok());
}

#[test]
fn the_size_limit_counts_signatures_and_not_unsigned() {
    let of_size = |body: usize| EventDraft {
        content: content(json!({"body": "x".repeat(body)})),
        ..draft(RoomVersion::V11)
    };
    let overhead = made(of_size(0), RoomVersion::V11).to_string().len();
    let mut largest = made(of_size(MAX_PDU_BYTES - overhead), RoomVersion::V11);
    assert_eq!(largest.to_string().len(), MAX_PDU_BYTES);
    largest["unsigned"] = json!({"age": 5, "prev_content": "x".repeat(1000)});
    assert!(parse(RoomVersion::V11, &largest).is_ok());

    let result =
        of_size(MAX_PDU_BYTES - overhead + 1).finish(RoomVersion::V11, &specification_key());
    assert!(matches!(
        result,
        Err(BuildError::Invalid(DropReason::TooLarge(65_537)))
    ));
}

#[test]
fn an_event_of_another_room_than_asked_for_is_dropped() {
    let event = made(draft(RoomVersion::V11), RoomVersion::V11).to_string();
    assert!(Unverified::parse(RoomVersion::V11, &event, Some(room_id!("!r:domain"))).is_ok());
    let result = Unverified::parse(RoomVersion::V11, &event, Some(room_id!("!q:domain")));
    assert!(matches!(result, Err(DropReason::OtherRoom { .. })));
}

#[test]
fn nothing_of_what_others_put_under_unsigned_is_kept() {
    let unsigned = json!({
        "age": 12, "age_ts": 3, "transaction_id": "t", "prev_content": {}, "redacted_because": {},
        "invite_room_state": [{"type": "m.room.create"}],
    });
    for draft in [
        draft(RoomVersion::V11),
        member(json!({"membership": "invite"})),
    ] {
        let mut event = made(draft, RoomVersion::V11);
        let bare = parse(RoomVersion::V11, &event).unwrap();
        event["unsigned"] = unsigned.clone();
        let full = parse(RoomVersion::V11, &event).unwrap();
        assert_eq!(full.pdu().json, bare.pdu().json);
        assert!(!full.pdu().json.contains("unsigned"));
        full.verify(&key_set(&specification_key(), u64::MAX))
            .unwrap();
    }
}

#[test]
fn an_event_with_a_wrong_hash_is_carried_on_in_redacted_form() {
    let mut event = made(draft(RoomVersion::V11), RoomVersion::V11);
    let intact = parse(RoomVersion::V11, &event).unwrap();
    event["content"]["body"] = json!("tampered");
    let tampered = parse(RoomVersion::V11, &event).unwrap();
    assert!(!tampered.hash_matches());
    assert_eq!(tampered.event_id(), intact.event_id());
    let valid = tampered
        .verify(&key_set(&specification_key(), u64::MAX))
        .unwrap();
    assert_eq!(valid.content.get(), "{}");
    assert!(!valid.json.contains("tampered"));
    assert!(valid.json.contains("signatures"));
}

#[test]
fn a_change_of_what_redaction_leaves_breaks_the_signature() {
    let mut event = made(draft(RoomVersion::V11), RoomVersion::V11);
    event["depth"] = json!(8);
    let unverified = parse(RoomVersion::V11, &event).unwrap();
    let result = unverified.verify(&key_set(&specification_key(), u64::MAX));
    let wrong = result.unwrap_err();
    assert!(matches!(wrong, DropReason::Signature { .. }) && !wrong.is_for_lack_of_keys());
}

#[test]
fn a_key_must_have_been_valid_when_the_event_was_made() {
    let event = made(draft(RoomVersion::V11), RoomVersion::V11);
    let verify = |keys: &KeySet| parse(RoomVersion::V11, &event).unwrap().verify(keys);
    assert!(verify(&key_set(&specification_key(), TIME)).is_ok());
    let expired = verify(&key_set(&specification_key(), TIME - 1)).unwrap_err();
    assert!(expired.is_for_lack_of_keys(), "{expired}");
    let unknown = verify(&KeySet::default()).unwrap_err();
    assert!(unknown.is_for_lack_of_keys(), "{unknown}");
}

#[test]
fn before_version_5_any_key_that_the_server_ever_had_will_do() {
    for version in RoomVersion::supported() {
        let event = made(draft(version), version);
        let expired = key_set(&specification_key(), TIME - 1);
        let verified = parse(version, &event).unwrap().verify(&expired);
        assert_eq!(
            verified.is_ok(),
            version < RoomVersion::V5,
            "version {version}"
        );
    }
}

#[test]
fn before_version_6_others_may_send_any_numbers_and_we_do_not() {
    for version in RoomVersion::supported() {
        let mut event = made(draft(version), version);
        event["content"]["n"] = json!(1.5);
        let read = parse(version, &event);
        assert_eq!(read.is_ok(), version < RoomVersion::V6, "version {version}");
        let draft = EventDraft {
            content: content(json!({"n": 1.5})),
            ..draft(version)
        };
        assert!(draft.finish(version, &specification_key()).is_err());
    }
}

#[test]
fn event_ids_are_safe_in_urls_from_version_4_on() {
    let hashed = RoomVersion::supported().filter(|version| *version >= RoomVersion::V3);
    for version in hashed {
        let ids = (0..50).map(|depth| {
            let draft = EventDraft {
                depth,
                ..draft(version)
            };
            let made = draft.finish(version, &specification_key()).unwrap();
            made.event_id.to_string()
        });
        let ids: String = ids.collect();
        let standard = ids.contains(['+', '/']);
        let url_safe = ids.contains(['-', '_']);
        let is_first = version == RoomVersion::V3;
        assert_eq!((standard, url_safe), (is_first, !is_first), "{ids}");
    }
}

/// R12, N15: an unknown or expired key's signature is skipped, a known valid key's must be right.
#[test]
fn of_several_signatures_those_by_known_keys_count() {
    let (first, second) = (
        specification_key(),
        pair(owned_server_name!("domain"), "2", 9),
    );
    let mut event = made(draft(RoomVersion::V11), RoomVersion::V11);
    event["signatures"]["domain"]["ed25519:2"] = json!("AAAA");
    let verify = |keys: &KeySet| parse(RoomVersion::V11, &event).unwrap().verify(keys);
    let mut keys = key_set(&first, u64::MAX);
    assert!(verify(&keys).is_ok());

    let second_key = |valid_until_ms| myelin_core::keys::ServerKey {
        key: second.verifying_key(),
        valid_until_ms,
    };
    let insert = |keys: &mut KeySet, until| {
        keys.insert(
            owned_server_name!("domain"),
            second.key_id().to_owned(),
            second_key(until),
        );
    };
    insert(&mut keys, TIME - 1);
    assert!(verify(&keys).is_ok());
    insert(&mut keys, TIME);
    assert!(matches!(verify(&keys), Err(DropReason::Signature { .. })));
}

#[test]
fn a_restricted_join_needs_the_authorising_server_too() {
    let join = json!({"membership": "join", "join_authorised_via_users_server": "@v:third"});
    let of_version_7 = made(member(join.clone()), RoomVersion::V7);
    assert!(parse(RoomVersion::V7, &of_version_7).is_ok());
    let mut event = made(member(join.clone()), RoomVersion::V11);
    let reason = parse(RoomVersion::V11, &event).unwrap_err();
    assert!(
        matches!(&reason, DropReason::NotSigned(server) if server == "third"),
        "{reason}"
    );

    event["signatures"]["third"] = json!({"ed25519:x": "AAAA"});
    let unverified = parse(RoomVersion::V11, &event).unwrap();
    let required: Vec<_> = unverified.required_keys().collect();
    assert_eq!(required[0].server, "domain");
    assert_eq!(required[1].server, "third");
    assert_eq!(required[1].key_ids[0].as_str(), "ed25519:x");
    assert_eq!(required[1].valid_at_ms, TIME);

    let mut leave = join.clone();
    leave["membership"] = json!("leave");
    assert!(parse(RoomVersion::V11, &made(member(leave), RoomVersion::V11)).is_ok());
    let mut nobody = join;
    nobody["join_authorised_via_users_server"] = json!(1);
    assert!(parse(RoomVersion::V11, &made(member(nobody), RoomVersion::V11)).is_err());
}

#[test]
fn a_third_party_invite_needs_no_signature_of_its_sender() {
    let invite = json!({"membership": "invite", "third_party_invite": {"signed": {}}});
    let mut event = made(member(invite), RoomVersion::V10);
    event["signatures"] = json!({});
    let unverified = parse(RoomVersion::V10, &event).unwrap();
    assert_eq!(unverified.required_keys().count(), 0);
    assert!(unverified.verify(&KeySet::default()).is_ok());
}

/// In version 10 redaction takes the property away that excuses the event from a signature, and an
/// invite that nobody signed would be left.
#[test]
fn a_wrong_hash_does_not_turn_a_third_party_invite_into_an_unsigned_invite() {
    let invite = json!({"membership": "invite", "third_party_invite": {"signed": {}}});
    let mut event = made(member(invite), RoomVersion::V10);
    event["signatures"] = json!({});
    event["content"]["displayname"] = json!("changed");
    let reason = parse(RoomVersion::V10, &event).unwrap_err();
    assert!(matches!(reason, DropReason::NotSigned(_)), "{reason}");
}

#[test]
fn a_redaction_names_its_target_where_the_version_wants_it() {
    for version in RoomVersion::supported() {
        let draft = EventDraft {
            event_type: "m.room.redaction".to_owned(),
            redacts: Some("$target".try_into().unwrap()),
            ..draft(version)
        };
        let event = made(draft.clone(), version);
        let in_content = version >= RoomVersion::V11;
        assert_eq!(event["content"].get("redacts").is_some(), in_content);
        assert_eq!(event.get("redacts").is_some(), !in_content);
        let pdu = draft.finish(version, &specification_key()).unwrap();
        assert_eq!(
            pdu.redacts.as_deref().map(|id| id.as_str()),
            Some("$target")
        );
    }
}

#[test]
fn what_is_no_canonical_json_cannot_be_sent() {
    let draft = EventDraft {
        content: content(json!({"n": 1.5})),
        ..draft(RoomVersion::V11)
    };
    let result = draft.finish(RoomVersion::V11, &specification_key());
    assert!(matches!(result, Err(BuildError::Content(_))));
}

#[test]
fn unknown_top_level_keys_are_kept() {
    let mut event = made(draft(RoomVersion::V11), RoomVersion::V11);
    event["org.example.extra"] = json!({"a": [1]});
    let unverified = parse(RoomVersion::V11, &event).unwrap();
    assert!(!unverified.hash_matches());
    let template: ruma::CanonicalJsonObject = serde_json::from_value(event).unwrap();
    let made: ValidPdu =
        myelin_core::build::sign_template(RoomVersion::V11, &template, &specification_key())
            .unwrap();
    assert!(made.json.contains(r#""org.example.extra":{"a":[1]}"#));
}

fn pair(server: OwnedServerName, version: &str, seed: u8) -> KeyPair {
    KeyPair::new(server, version.try_into().unwrap(), [seed; 32])
}

fn in_version_1(change: impl Fn(&mut Value)) -> Result<Unverified, DropReason> {
    let mut event = made(draft(RoomVersion::V1), RoomVersion::V1);
    change(&mut event);
    parse(RoomVersion::V1, &event)
}

/// R2.
#[test]
fn before_version_11_fields_are_measured_in_code_points_when_they_are_read() {
    for version in RoomVersion::supported() {
        let mut event = made(draft(version), version);
        for (characters, is_read) in [(255, version < RoomVersion::V11), (256, false)] {
            event["type"] = json!("é".repeat(characters));
            assert_eq!(parse(version, &event).is_ok(), is_read, "{version}");
        }
    }
}

#[test]
fn the_hash_of_a_reference_is_what_version_3_has_for_an_id() {
    let (version, key) = (RoomVersion::V3, specification_key());
    let event = draft(version).finish(version, &key).unwrap();
    let hash = reference_hash(version, &event).unwrap();
    assert_eq!(event.event_id, format!("${hash}"));
}

#[test]
fn before_version_3_events_carry_their_ids_and_name_others_with_hashes() {
    for version in [RoomVersion::V1, RoomVersion::V2] {
        let first = draft(version)
            .finish(version, &specification_key())
            .unwrap();
        let id = first.event_id.as_str();
        assert!(id.starts_with('$') && id.ends_with(":domain"), "{id}");
        let hash = reference_hash(version, &first).unwrap();
        let second = EventDraft {
            prev_events: vec![first.event_id.clone()],
            auth_events: vec![first.event_id.clone()],
            ..draft(version)
        };
        let hashes = [(first.event_id.clone(), hash.clone())].into();
        let second = second.finish_referring(version, &specification_key(), &hashes);
        let second = second.unwrap();
        let event: Value = serde_json::from_str(&second.json).unwrap();
        assert_eq!(event["event_id"], second.event_id.as_str());
        assert_ne!(second.event_id, first.event_id);
        assert_eq!(event["prev_events"], json!([[id, { "sha256": hash }]]));
        assert_eq!(event["auth_events"], event["prev_events"]);
        let read = parse(version, &event).unwrap();
        assert_eq!(read.event_id(), second.event_id);
        assert_eq!(
            *read.pdu().prev_events,
            *std::slice::from_ref(&first.event_id)
        );
        assert!(read.verify(&key_set(&specification_key(), TIME)).is_ok());
    }
}

#[test]
fn before_version_3_an_event_without_the_form_of_its_version_is_dropped() {
    assert!(in_version_1(|_| {}).is_ok());
    let id = || json!("$a:domain");
    let hash = || json!({ "sha256": "A" });
    let dropped: [(&str, Value); 10] = [
        ("event_id", json!(null)),
        ("event_id", json!(1)),
        ("event_id", json!("$without_a_server")),
        ("event_id", json!("no ID:domain")),
        ("prev_events", json!([id()])),
        ("prev_events", json!([[id()]])),
        ("prev_events", json!([[id(), hash(), 1]])),
        ("auth_events", json!([[id(), "A"]])),
        ("auth_events", json!([[1, hash()]])),
        ("auth_events", json!([["a:domain", hash()]])),
    ];
    for (field, value) in dropped {
        let result = in_version_1(|event| event[field] = value.clone());
        assert!(result.is_err(), "{field}: {value}");
    }
    let mut of_3 = made(draft(RoomVersion::V3), RoomVersion::V3);
    of_3["prev_events"] = json!([["$a:domain", hash()]]);
    assert!(parse(RoomVersion::V3, &of_3).is_err());
}

#[test]
fn before_version_3_the_server_that_made_up_the_id_signs_too() {
    let other = |event: &mut Value| event["event_id"] = json!("$a:third");
    let reason = in_version_1(other).unwrap_err();
    assert!(
        matches!(&reason, DropReason::NotSigned(server) if server == "third"),
        "{reason}"
    );
    let signed = in_version_1(|event| {
        other(event);
        event["signatures"]["third"] = json!({ "ed25519:x": "AAAA" });
    });
    let required: Vec<_> = signed.unwrap().required_keys().collect();
    let servers: Vec<_> = required.iter().map(|keys| keys.server.as_str()).collect();
    assert_eq!(servers, ["domain", "third"]);
}
