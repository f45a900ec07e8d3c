//! Tests of keys and signatures.

use ruma::{owned_server_name, server_name, server_signing_key_version};

use super::*;

fn pair() -> KeyPair {
    KeyPair::new(
        owned_server_name!("domain"),
        server_signing_key_version!("1"),
        [7; 32],
    )
}

fn object(json: &str) -> CanonicalJsonObject {
    serde_json::from_str(json).unwrap()
}

/// The example vectors of the specification's appendix "Cryptographic test vectors".
#[test]
fn the_specifications_vectors_are_reproduced() {
    let seed = decode_seed("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    let pair = KeyPair::new(
        owned_server_name!("domain"),
        server_signing_key_version!("1"),
        seed,
    );
    let cases = [
        (
            "{}",
            "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
        ),
        (
            r#"{"one":1,"two":"Two"}"#,
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ];
    for (json, expected) in cases {
        let mut object = object(json);
        pair.sign_json(&mut object).unwrap();
        let signed = serde_json::to_value(&object).unwrap();
        assert_eq!(signed["signatures"]["domain"]["ed25519:1"], expected);
    }
}

#[test]
fn what_was_signed_verifies_and_what_was_changed_does_not() {
    let pair = pair();
    let mut signed = object(r#"{"a":1,"unsigned":{"age":3},"signatures":{"x":{"k":"s"}}}"#);
    pair.sign_json(&mut signed).unwrap();
    let verify = |object: &CanonicalJsonObject| {
        verify_json(
            object,
            pair.server_name(),
            pair.key_id(),
            &pair.verifying_key(),
        )
    };
    assert_eq!(verify(&signed), Ok(()));
    assert!(
        serde_json::to_string(&signed)
            .unwrap()
            .contains(r#""x":{"k":"s"}"#)
    );
    signed.remove("unsigned");
    assert_eq!(verify(&signed), Ok(()));
    signed.insert("a".to_owned(), CanonicalJsonValue::Bool(true));
    assert_eq!(verify(&signed), Err(SignatureError::Wrong));
    signed.remove("signatures");
    assert_eq!(verify(&signed), Err(SignatureError::Missing));
}

#[test]
fn signatures_of_a_wrong_shape_are_malformed() {
    let pair = pair();
    let cases = [
        r#"{"signatures":[]}"#,
        r#"{"signatures":{"domain":1}}"#,
        r#"{"signatures":{"domain":{"ed25519:1":1}}}"#,
        r#"{"signatures":{"domain":{"ed25519:1":"AAAA"}}}"#,
        r#"{"signatures":{"domain":{"ed25519:1":"%%%"}}}"#,
    ];
    for json in cases {
        let key = pair.verifying_key();
        let outcome = verify_json(&object(json), pair.server_name(), pair.key_id(), &key);
        assert_eq!(outcome, Err(SignatureError::Malformed), "{json}");
    }
    assert_eq!(
        pair.sign_json(&mut object(r#"{"signatures":1}"#)),
        Err(SignatureError::Malformed)
    );
}

/// A signature with R = identity and S = 0 passes the plain equation for every message under a
/// key of small order; the strict check must refuse it, as libsodium does.
#[test]
fn small_order_keys_verify_nothing() {
    let small_order = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];
    for point in small_order {
        let key = verifying_key(&unhex(point)).unwrap();
        for r in small_order {
            let mut signature = unhex(r);
            signature.extend([0; 32]);
            let encoded = BASE64.encode(signature);
            for message in [&b"a"[..], b"b", b"c", b"d", b"e", b"f", b"g", b"h"] {
                assert_eq!(
                    verify_bytes(message, &encoded, &key),
                    Err(SignatureError::Wrong),
                    "{point} {r}"
                );
            }
        }
    }
}

#[test]
fn a_signature_with_s_not_reduced_is_refused() {
    // The order of the group, little endian; S + L satisfies the equation as S does.
    let order = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let pair = pair();
    let mut bytes = BASE64.decode(pair.sign_bytes(b"m")).unwrap();
    let mut carry = 0;
    for (s, l) in bytes[32..].iter_mut().zip(&order) {
        let sum = u16::from(*s) + u16::from(*l) + carry;
        *s = sum as u8;
        carry = sum >> 8;
    }
    assert_eq!(
        verify_bytes(b"m", &BASE64.encode(bytes), &pair.verifying_key()),
        Err(SignatureError::Wrong)
    );
}

#[test]
fn keys_that_are_not_canonical_points_are_refused() {
    let mut bytes = [0xff; 32];
    for high in [0x7f, 0xff] {
        bytes[31] = high;
        for low in 0xed..=0xff {
            bytes[0] = low;
            assert_eq!(
                verifying_key(&bytes),
                Err(SignatureError::MalformedKey),
                "{low:x} {high:x}"
            );
        }
    }
    assert_eq!(verifying_key(&[1; 31]), Err(SignatureError::MalformedKey));
    assert_eq!(
        decode_verifying_key("no base64!"),
        Err(SignatureError::MalformedKey)
    );
}

#[test]
fn keys_near_those_that_are_not_canonical_are_taken() {
    // The greatest coordinate, p - 1.
    let mut greatest = [0xff; 32];
    (greatest[0], greatest[31]) = (0xec, 0x7f);
    assert!(verifying_key(&greatest).is_ok());
    let key_of = |seed| SigningKey::from_bytes(&[seed; 32]).verifying_key();
    let ends_high = (0..=u8::MAX)
        .map(key_of)
        .find(|key| key.as_bytes()[31] & 0x7f == 0x7f);
    let ends_high = ends_high.expect("one in 128 does");
    assert_eq!(verifying_key(ends_high.as_bytes()), Ok(ends_high));
}

#[test]
fn keys_and_seeds_are_read_as_they_were_written() {
    let pair = pair();
    assert_eq!(pair.seed(), [7; 32]);
    assert_eq!(decode_seed(&encode_seed(&[7; 32])), Some([7; 32]));
    assert_eq!(decode_seed(&encode_seed(&[7; 32])[1..]), None);
    let key = pair.verifying_key();
    assert_eq!(decode_verifying_key(&encode_verifying_key(&key)), Ok(key));
}

#[test]
fn a_key_counts_up_to_and_including_the_end_of_its_validity() {
    let pair = pair();
    let mut keys = KeySet::default();
    assert!(keys.is_empty());
    let key = ServerKey {
        key: pair.verifying_key(),
        valid_until_ms: 100,
    };
    keys.insert(owned_server_name!("a"), pair.key_id().to_owned(), key);
    let all: Vec<_> = keys.iter().collect();
    assert_eq!(all, [(server_name!("a"), pair.key_id(), &key)]);
    assert!(!keys.is_empty());
    assert!(keys.get(server_name!("a"), pair.key_id(), 100).is_some());
    assert!(keys.get(server_name!("a"), pair.key_id(), 101).is_none());
    assert!(keys.get(server_name!("b"), pair.key_id(), 0).is_none());
}

#[test]
fn base64_is_forgiven_its_padding() {
    let pair = pair();
    let padded = format!("{}==", pair.sign_bytes(b"m"));
    assert_eq!(verify_bytes(b"m", &padded, &pair.verifying_key()), Ok(()));
}

#[test]
fn the_debug_form_hides_the_seed() {
    let shown = format!("{:?}", pair());
    assert!(
        shown.contains("ed25519:1") && !shown.contains('7'),
        "{shown}"
    );
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}
