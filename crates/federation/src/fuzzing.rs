//! The parsers of what other servers send, which are nobody else's business, for the fuzzer.

use crate::{
    key_document::KeyDocument,
    splitter::{Element, Splitter},
    x_matrix::XMatrix,
};

/// The value of an `Authorization` header.
pub fn authorization_header(value: &str) {
    drop(XMatrix::parse(value));
}

/// A server's document of its keys.
pub fn key_document(data: &[u8]) {
    let Ok(object) = serde_json::from_slice(data) else {
        return;
    };
    if let Ok(document) = KeyDocument::parse(object) {
        drop(document.published(0));
    }
}

/// An answer with lists of events, in pieces of `size` bytes: each event behind the number of its list, then what
/// is beside the lists. Nothing if the answer is wrong.
///
/// # Panics
/// If `size` is zero.
#[must_use]
pub fn answer(data: &[u8], size: usize) -> Option<Vec<Vec<u8>>> {
    let mut splitter = Splitter::new(&["state", "auth_chain"], 1_000, 1_000);
    let mut found = Vec::new();
    let mut keep = |Element { list, json }| found.push([vec![list as u8], json].concat());
    for piece in data.chunks(size) {
        splitter.feed(piece, &mut keep).ok()?;
    }
    found.push(splitter.finish().ok()?);
    Some(found)
}
