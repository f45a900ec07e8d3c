//! Which key of an invite by address a statement of the identity server stands on.

use myelin_core::{
    testing::{third_party_invite, third_party_signed},
    third_party::{InviteKey, signing_key},
};
use ruma::{CanonicalJsonObject, user_id};
use serde_json::{Value, json, value::to_raw_value};

/// The statement for n, with a change.
fn signed(change: impl FnOnce(&mut Value)) -> CanonicalJsonObject {
    let mut content = third_party_signed(user_id!("@n:n"), "t");
    let signed = &mut content["third_party_invite"]["signed"];
    change(signed);
    serde_json::from_value(signed.take()).unwrap()
}

fn found(invite: &Value, signed: &CanonicalJsonObject) -> Option<InviteKey> {
    signing_key(&to_raw_value(invite).unwrap(), signed)
}

#[test]
fn the_key_that_signed_is_found_among_all_of_the_invite() {
    let invite = third_party_invite();
    let key = invite["public_key"].as_str().unwrap();
    let url = Some("https://id.example".to_owned());
    let expected = |url| {
        let public_key = key.to_owned();
        Some(InviteKey {
            public_key,
            key_validity_url: url,
        })
    };
    assert_eq!(found(&invite, &signed(|_| ())), expected(url));
    let other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let listed = json!({
        "public_key": other, "key_validity_url": "https://id.example/other",
        "public_keys": [{ "public_key": "not base64" }, { "public_key": key }],
    });
    assert_eq!(found(&listed, &signed(|_| ())), expected(None));
    let url_safe = key.replace('+', "-").replace('/', "_");
    let listed = json!({ "public_key": url_safe });
    assert_eq!(
        found(&listed, &signed(|_| ())).unwrap().public_key,
        url_safe
    );
}

#[test]
fn a_statement_that_no_key_of_the_invite_signed_stands_on_nothing() {
    let invite = third_party_invite();
    let good = signed(|_| ());
    assert!(found(&json!({}), &good).is_none(), "taken back");
    assert!(found(&json!({ "public_keys": 1 }), &good).is_none());
    let changed = signed(|signed| signed["mxid"] = json!("@m:m"));
    assert!(found(&invite, &changed).is_none());
    let unsigned = signed(|signed| signed["signatures"] = json!({}));
    assert!(found(&invite, &unsigned).is_none());
    let of_another_kind = signed(|signed| {
        let signature = signed["signatures"]["id.example"]["ed25519:0"].take();
        signed["signatures"] = json!({ "id.example": { "rsa:0": signature } });
    });
    assert!(found(&invite, &of_another_kind).is_none());
}
