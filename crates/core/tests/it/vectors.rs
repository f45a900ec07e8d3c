//! Events that other implementations made.

use myelin_core::{
    build::sign_template,
    keys::{KeyPair, KeySet, ServerKey, decode_seed},
    pdu::{Pdu, redact},
    room_version::RoomVersion,
    validate::Unverified,
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, owned_server_name};
use serde::Deserialize;
use serde_json::Value;

/// The key of the specification's vectors (appendices, "Cryptographic test vectors").
pub(crate) fn specification_key() -> KeyPair {
    let seed = decode_seed("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    KeyPair::new(owned_server_name!("domain"), "1".try_into().unwrap(), seed)
}

pub(crate) fn key_set(key: &KeyPair, valid_until_ms: u64) -> KeySet {
    let mut keys = KeySet::default();
    let server_key = ServerKey {
        key: key.verifying_key(),
        valid_until_ms,
    };
    keys.insert(
        key.server_name().to_owned(),
        key.key_id().to_owned(),
        server_key,
    );
    keys
}

/// One event that Synapse 1.163.2 made, signed and redacted.
#[derive(Deserialize)]
struct Reference {
    version: String,
    event: Value,
    event_id: String,
    redacted: Value,
}

fn references() -> Vec<Reference> {
    serde_json::from_str(include_str!("../data/reference_events.json")).unwrap()
}

#[test]
fn hashes_ids_and_signatures_equal_those_of_the_reference_server() {
    let keys = key_set(&specification_key(), u64::MAX);
    for reference in references() {
        let version = RoomVersion::parse(&reference.version).unwrap();
        let parsed = Unverified::parse(version, &reference.event.to_string(), None);
        let unverified = parsed.unwrap_or_else(|error| panic!("{}: {error}", reference.event));
        assert!(unverified.hash_matches(), "{}", reference.event);
        assert_eq!(
            unverified.event_id().as_str(),
            reference.event_id,
            "{}",
            reference.event
        );
        unverified.verify(&keys).unwrap();
    }
}

#[test]
fn redaction_leaves_what_the_reference_server_leaves() {
    for reference in references() {
        let version = RoomVersion::parse(&reference.version).unwrap();
        let json = reference.event.to_string();
        let unverified = Unverified::parse(version, &json, None).unwrap();
        let redacted = redact(version, unverified.pdu()).unwrap();
        assert_eq!(redacted.event_id.as_str(), reference.event_id);
        let object: Value = serde_json::from_str(&redacted.json).unwrap();
        assert_eq!(object, reference.redacted, "version {version} of {json}");
    }
}

#[test]
fn an_event_made_from_the_same_template_equals_the_reference_servers() {
    let key = specification_key();
    // Of events with numbers that canonical JSON lacks we make none.
    let canonical_ones = |one: &Reference| CanonicalJsonValue::try_from(one.event.clone()).is_ok();
    for reference in references().into_iter().filter(canonical_ones) {
        let version = RoomVersion::parse(&reference.version).unwrap();
        let mut template = canonical(reference.event.clone());
        template.remove("signatures");
        template.remove("hashes");
        let made = sign_template(version, &template, &key).unwrap();
        assert_eq!(made.event_id.as_str(), reference.event_id);
        let mut expected = canonical(reference.event);
        expected.remove("unsigned");
        assert_eq!(*made.json, *serde_json::to_string(&expected).unwrap());
    }
}

/// The specification's own example of a signed event, and one from the public federation whose ID
/// other implementations have published.
#[test]
fn the_published_vectors_are_reproduced() {
    let event = r#"{"room_id":"!x:domain","sender":"@a:domain","origin":"domain",
        "origin_server_ts":1000000,"signatures":{},"hashes":{},"type":"X","content":{},
        "prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}"#;
    let template = canonical(serde_json::from_str(event).unwrap());
    let made = sign_template(RoomVersion::V10, &template, &specification_key()).unwrap();
    let made: Value = serde_json::from_str(&made.json).unwrap();
    assert_eq!(
        made["hashes"]["sha256"],
        "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"
    );
    assert_eq!(
        made["signatures"]["domain"]["ed25519:1"],
        "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"
    );

    let create = r#"{"auth_events":[],"prev_events":[],"type":"m.room.create",
        "room_id":"!uXDCzlYgCTHtiWCkEx:jki.re","sender":"@erikj:jki.re","content":{
        "room_version":"5","predecessor":{"room_id":"!gdRMqOrTFdOCYHNwOo:half-shot.uk",
        "event_id":"$LP7ROBc4b+cMc1UE9haIz8q5AK2AIW4eJ90FfKLvyZI"},"creator":"@erikj:jki.re"},
        "depth":1,"prev_state":[],"state_key":"","origin":"jki.re",
        "origin_server_ts":1560284621137,
        "hashes":{"sha256":"IX6zuNiJpJPNf70BLleL3HSCpjKeq9Uhu7uUpyDjBmc"},"signatures":{"jki.re":
        {"ed25519:auto":"O4IyFfF2PPtGp5uaDm8t57dZbdh8vc8Q64LgCwvzYRVItAMI0uisfiAFaxkVT7MRpzh6N2QNN5NMRXZKmgPYDA"}},
        "unsigned":{"age":1321650}}"#;
    let unverified = Unverified::parse(RoomVersion::V5, create, None).unwrap();
    assert!(unverified.hash_matches());
    assert_eq!(
        unverified.event_id(),
        "$RrGxF28UrHLmoASHndYb9Jb_1SFww2ptmtur9INS438"
    );
}

#[test]
fn the_room_id_of_version_12_is_the_hash_of_its_create_event() {
    let create = references()
        .into_iter()
        .find(|one| one.version == "12" && one.event["type"] == "m.room.create")
        .unwrap();
    let json = create.event.to_string();
    let unverified = Unverified::parse(RoomVersion::V12, &json, None).unwrap();
    assert_eq!(unverified.pdu().room_id.as_str()[1..], create.event_id[1..]);
    let stored = Pdu::from_stored(
        RoomVersion::V12,
        unverified.event_id().to_owned(),
        unverified.pdu().json.clone(),
    );
    assert_eq!(stored.unwrap().room_id, unverified.pdu().room_id);
    // Of nothing else it is.
    for (version, event_type) in [
        (RoomVersion::V11, "m.room.create"),
        (RoomVersion::V12, "m.room.message"),
    ] {
        let mut event = create.event.clone();
        event["type"] = event_type.into();
        let id = unverified.event_id().to_owned();
        let stored = Pdu::from_stored(version, id, event.to_string());
        assert!(stored.is_err(), "{version} {event_type}");
    }
}

fn canonical(value: Value) -> CanonicalJsonObject {
    match value.try_into().unwrap() {
        CanonicalJsonValue::Object(object) => object,
        other => panic!("no object: {other:?}"),
    }
}
