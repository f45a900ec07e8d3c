//! Which signatures count: the answers of PyNaCl 1.6.2 (libsodium), which Synapse uses. Two servers
//! that disagree about one signature disagree about the room.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use myelin_core::keys::{verify_bytes, verifying_key};

/// What the key is said to have signed.
const MESSAGE: &[u8] = b"myelin";

/// Description, public key, signature (R and S), and whether PyNaCl takes it.
const VECTORS: &[(&str, &str, &str, bool)] = &[
    (
        "ordinary",
        "ff6f43ab4e72e31b78049fcc5f97455becdd0ea428c1fd6c7a0fc66e991c7cb9",
        "b31b20f50426242514d81b383548bd90de72fd0b8cf2382a88f9f52ce5076b23\
         d4b835368d278cf37e33dd426fda5b90e7b3957bea44b1b2543b908f927a7f05",
        true,
    ),
    (
        "torsion in the key, plain equation holds",
        "bf0897a61d855442ee8ea10d40d5e4295cf6a0f9a153daecf3f162db13f2950a",
        "eba97695682e9547cc07ba7d6da3b9a8664f1d1e456a68a895c4d23cacb498c8\
         e8d2ab7aad7b89438e8fed7cacefb6d0959b06a821ec32ba0e87b9970ee81c0d",
        true,
    ),
    (
        "torsion in the key, cofactored equation holds only",
        "bf0897a61d855442ee8ea10d40d5e4295cf6a0f9a153daecf3f162db13f2950a",
        "65d7d5c405481d2f8d57699b9f4b4db744f237dc7e2b346100d6023335b37ef2\
         bf596ea1f70a6f207b30d7f21b636b75fabfba89c8ddfc3fb8784231342ba40a",
        false,
    ),
    (
        "torsion in R",
        "ff6f43ab4e72e31b78049fcc5f97455becdd0ea428c1fd6c7a0fc66e991c7cb9",
        "186ed2bdbd1a36f6437c5168b0221914018ea4f32a1c3fcd1c1794d64fbd596e\
         81c74abb55548143202a311c7853157283db3819a25f4107b97d12faf7e52801",
        false,
    ),
    (
        "torsion in both, cancelling",
        "bf0897a61d855442ee8ea10d40d5e4295cf6a0f9a153daecf3f162db13f2950a",
        "20cf8244bcec51cd53ad59bcca9b291ecf4e584669e23927cab80e703ae0d361\
         c3fa8d01254479d0d067e2ea5fa783b19d88188a303ab8716d542a56a48db904",
        true,
    ),
    (
        "the identity as key",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "b31b20f50426242514d81b383548bd90de72fd0b8cf2382a88f9f52ce5076b23\
         e878dca548664051e5e695d8c157b538a506f9a3dd9f0e9cfed7f4de62238207",
        false,
    ),
    (
        "small order key",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "39dfbb935145f7a0e9dca4d3cfe898abbb52647d608ae466369cbc8f1a3859c0\
         e9c6339e315d201f7077b92aafbfd870b237653d50bca548ab9954b8d85ff401",
        false,
    ),
    (
        "the identity as R",
        "ff6f43ab4e72e31b78049fcc5f97455becdd0ea428c1fd6c7a0fc66e991c7cb9",
        "0100000000000000000000000000000000000000000000000000000000000000\
         f945df82c3b0c064d70dac1248cae94a640781e0c672c8da406f18137e30b40e",
        false,
    ),
    (
        "the identity as R, not canonical",
        "ff6f43ab4e72e31b78049fcc5f97455becdd0ea428c1fd6c7a0fc66e991c7cb9",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f\
         31b9692c8860b3f927d739db75a219b7141fc3b378c095d46b136d36b2f5f403",
        false,
    ),
    (
        "S not reduced",
        "ff6f43ab4e72e31b78049fcc5f97455becdd0ea428c1fd6c7a0fc66e991c7cb9",
        "b31b20f50426242514d81b383548bd90de72fd0b8cf2382a88f9f52ce5076b23\
         c18c2b93a78a9e4b55d0d4e54dd43aa5e7b3957bea44b1b2543b908f927a7f15",
        false,
    ),
    (
        "minus zero in R",
        "ff6f43ab4e72e31b78049fcc5f97455becdd0ea428c1fd6c7a0fc66e991c7cb9",
        "0100000000000000000000000000000000000000000000000000000000000080\
         2e41fa6fc3c3164914ab57c710748f73cd851c5c1228e0ad8395a0f24f354b04",
        false,
    ),
];

#[test]
fn signatures_count_exactly_when_they_count_for_the_reference_server() {
    for (name, key, signature, expected) in VECTORS {
        let accepted = verifying_key(&unhex(key)).is_ok_and(|key| {
            let signature = STANDARD_NO_PAD.encode(unhex(signature));
            verify_bytes(MESSAGE, &signature, &key).is_ok()
        });
        assert_eq!(accepted, *expected, "{name}");
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}
