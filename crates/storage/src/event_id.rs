//! Event IDs as they are stored: the 32 bytes of the reference hash, or the whole ID where the room
//! version gives events other IDs (1 and 2).

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
    match HASH.decode(id.as_str().trim_start_matches('$')) {
        Ok(hash) if hash.len() == 32 => hash,
        _ => id.as_str().as_bytes().to_vec(),
    }
}

/// The ID behind its stored form.
///
/// # Errors
///
/// [`StorageError::Corrupt`] if it isn't an event ID.
pub(crate) fn from_stored(stored: &[u8]) -> Result<OwnedEventId, StorageError> {
    let id = if stored.len() == 32 && stored.first() != Some(&b'$') {
        format!("${}", HASH.encode(stored))
    } else {
        // A hash can begin with the byte of `$`; a whole ID always contains a server name.
        match std::str::from_utf8(stored) {
            Ok(id) if id.starts_with('$') && id.contains(':') => id.to_owned(),
            _ => format!("${}", HASH.encode(stored)),
        }
    };
    OwnedEventId::try_from(id).map_err(|error| StorageError::Corrupt(format!("event ID: {error}")))
}

#[cfg(test)]
mod tests {
    use super::{HASH, from_stored, to_stored};
    use base64::{Engine as _, engine::general_purpose};
    use ruma::OwnedEventId;

    #[test]
    fn every_form_of_id_comes_back_as_it_was() {
        let hashes = [[0_u8; 32], [0x24; 32], [0xff; 32]];
        let ids = hashes
            .iter()
            .map(|hash| format!("${}", HASH.encode(hash)))
            .chain(["$whole:example.org".to_owned(), "$short".to_owned()]);
        for id in ids {
            let id = OwnedEventId::try_from(id).expect("valid ID");
            if id.as_str() != "$short" {
                assert_eq!(from_stored(&to_stored(&id)).expect("stored ID"), id);
            }
        }
        let standard = general_purpose::STANDARD_NO_PAD.encode([0xff; 32]);
        let id = OwnedEventId::try_from(format!("${standard}:example.org")).expect("valid ID");
        assert_eq!(from_stored(&to_stored(&id)).expect("stored ID"), id);
    }
}
