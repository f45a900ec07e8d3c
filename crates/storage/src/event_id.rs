//! Event IDs as they are stored: the 32 bytes of the reference hash, or the whole ID where it isn't
//! such a hash in the form that is safe in URLs: in room version 3, and in what others make up. The
//! length tells which.

use base64::{
    Engine as _,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use ruma::{EventId, OwnedEventId};

use crate::StorageError;

/// Only the canonical encoding of a hash is taken apart, so that it comes back as it was.
const HASH: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// The stored form of an ID.
pub(crate) fn to_stored(id: &EventId) -> Vec<u8> {
    match HASH.decode(id.as_str().strip_prefix('$').unwrap_or_default()) {
        Ok(hash) if hash.len() == 32 => hash,
        _ => {
            let mut whole = id.as_str().as_bytes().to_vec();
            if whole.len() == 32 {
                whole.push(0);
            }
            whole
        }
    }
}

/// The ID behind its stored form.
///
/// # Errors
///
/// [`StorageError::Corrupt`] if it isn't an event ID.
pub(crate) fn from_stored(stored: &[u8]) -> Result<OwnedEventId, StorageError> {
    if stored.len() == 32 {
        return OwnedEventId::try_from(format!("${}", HASH.encode(stored))).map_err(corrupt);
    }
    let whole = match stored {
        [whole @ .., 0] if whole.len() == 32 => whole,
        whole => whole,
    };
    let id = std::str::from_utf8(whole).map_err(corrupt)?;
    OwnedEventId::try_from(id).map_err(corrupt)
}

fn corrupt(error: impl std::fmt::Display) -> StorageError {
    StorageError::Corrupt(format!("event ID: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{HASH, from_stored, to_stored};
    use base64::{Engine as _, engine::general_purpose};
    use ruma::OwnedEventId;

    #[test]
    fn every_form_of_id_comes_back_as_it_was() {
        let hashes = [[0_u8; 32], [0x24; 32], [0xff; 32]];
        let safe = hashes.map(|hash| format!("${}", HASH.encode(hash)));
        let standard = [[0xff; 32], [0xfb; 32]]
            .map(|hash| format!("${}", general_purpose::STANDARD_NO_PAD.encode(hash)));
        let others = [
            "$whole:example.org".to_owned(),
            "$short".to_owned(),
            "$$".to_owned(),
            format!("${}", "x".repeat(31)),
            format!("${}:{}", "x".repeat(19), "example.org"),
        ];
        for id in safe.into_iter().chain(standard).chain(others) {
            let id = OwnedEventId::try_from(id).expect("valid ID");
            let stored = to_stored(&id);
            assert_eq!(from_stored(&stored).expect("stored ID"), id);
            assert_eq!(
                stored.len() == 32,
                HASH.decode(&id.as_str()[1..])
                    .is_ok_and(|hash| hash.len() == 32)
            );
        }
    }
}
