//! The parsers of bytes that come from outside, each as a function that takes any bytes and panics if the
//! parser does, or if what it read does not survive being written and read again.
//!
//! `seeds` has a few inputs for each, from which libFuzzer (`cargo xtask fuzz`) finds others. The tests
//! read the same ones, whole and damaged.

mod content;
mod event;

use std::str::FromStr;

use myelin_core::state_codec::{decode_chunk, decode_delta};
use myelin_federation::{ReceivedTransaction, fuzzing};
use myelin_sync::{Filter, NotificationToken, PageToken, RoomEventFilter, SearchToken, SyncToken};

/// A parser of bytes from outside.
pub struct Target {
    /// Its name, which is that of the directory of its seeds.
    pub name: &'static str,
    /// Reads any bytes.
    pub read: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("pdu", event::read),
    target("content", content::read),
    target("authorization_header", |data| {
        text(data, fuzzing::authorization_header);
    }),
    target("key_document", fuzzing::key_document),
    target("answer", answer),
    target("transaction", |data| drop(ReceivedTransaction::read(data))),
    target("filter", |data| text(data, filter)),
    target("token", |data| text(data, token)),
    target("stored_state", stored_state),
];

const fn target(name: &'static str, read: fn(&[u8])) -> Target {
    Target { name, read }
}

fn text(data: &[u8], read: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
}

/// A large answer has to come out the same in whatever pieces it comes in.
fn answer(data: &[u8]) {
    let Some((size, data)) = data.split_first() else {
        return;
    };
    let whole = fuzzing::answer(data, data.len().max(1));
    assert_eq!(fuzzing::answer(data, usize::from(*size).max(1)), whole);
}

fn filter(json: &str) {
    drop(Filter::parse(json));
    drop(RoomEventFilter::parse(json));
}

fn token(text: &str) {
    fn survives<T: FromStr + ToString>(text: &str) {
        if let Ok(token) = text.parse::<T>() {
            let written = token.to_string();
            let again = written.parse::<T>().ok().expect("what was written is read");
            assert_eq!(again.to_string(), written);
        }
    }
    survives::<SyncToken>(text);
    survives::<PageToken>(text);
    survives::<NotificationToken>(text);
    survives::<SearchToken>(text);
}

/// These bytes are our own, but a disk may have changed them.
fn stored_state(data: &[u8]) {
    drop(decode_delta(data));
    drop(decode_chunk(data));
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::TARGETS;

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("seeds")
            .join(name);
        let files = fs::read_dir(directory).expect(name);
        files
            .map(|file| fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn every_target_takes_its_seeds_whole_cut_off_and_changed() {
        for target in TARGETS {
            let seeds = seeds(target.name);
            assert!(!seeds.is_empty(), "{} has seeds", target.name);
            for seed in seeds {
                (target.read)(&seed);
                for at in (0..seed.len()).step_by(1 + seed.len() / 50) {
                    (target.read)(&seed[..at]);
                    for byte in [0, b'"', b'[', b'9', b'-', seed[at] ^ 1, seed[at] ^ 0x80] {
                        let mut changed = seed.clone();
                        changed[at] = byte;
                        (target.read)(&changed);
                    }
                }
            }
        }
    }
}
