//! Events as other servers send them.

use myelin_core::{
    auth::{auth_keys, check_claimed},
    pdu::{Pdu, redact},
    relation::Relation,
    room_version::RoomVersion,
    search::Indexed,
    state::Membership,
    validate::{DropReason, Unverified, reference_hash},
};

/// Reads an event in the room version that the first byte chooses.
pub(crate) fn read(data: &[u8]) {
    let Some((version, json)) = data.split_first() else {
        return;
    };
    let versions = RoomVersion::supported();
    let number = usize::from(*version) % RoomVersion::supported().count();
    let version = versions.into_iter().nth(number).expect("there are so many");
    let Ok(json) = std::str::from_utf8(json) else {
        return;
    };
    let Ok(event) = Unverified::parse(version, json, None) else {
        return;
    };
    // Only for an invite by address an identity server answers instead.
    let is_signed = event.required_keys().next().is_some();
    assert!(is_signed || event.pdu().membership == Some(Membership::Invite));
    survives(version, &event);
    interpret(version, event.pdu());
}

/// What is carried on is canonical, so reading it gives it again; its redacted form is the same event, and
/// nothing is left to redact in it.
fn survives(version: RoomVersion, event: &Unverified) {
    let pdu = event.pdu();
    let again =
        Unverified::parse(version, &pdu.json, Some(&pdu.room_id)).expect("it was read before");
    assert_eq!(again.event_id(), event.event_id());
    assert_eq!(again.pdu().json, pdu.json);
    let redacted = redact(version, pdu).expect("every event has a redacted form");
    match Unverified::parse(version, &redacted.json, Some(&pdu.room_id)) {
        Ok(again) => assert_eq!(again.event_id(), event.event_id()),
        // An invite by address is then an ordinary one, which its sender has to sign.
        Err(DropReason::NotSigned(_)) if pdu.membership == Some(Membership::Invite) => {}
        Err(reason) => panic!("the redacted form is no event: {reason}"),
    }
    let twice = redact(version, &redacted).expect("every event has a redacted form");
    assert_eq!(twice.json, redacted.json);
    assert_eq!(
        reference_hash(version, pdu).expect("it was read"),
        reference_hash(version, &redacted).expect("it was read")
    );
}

/// What is done with every event that was read.
fn interpret(version: RoomVersion, pdu: &Pdu) {
    drop(auth_keys(version, pdu));
    drop(check_claimed(version, pdu, &[], None));
    drop(Relation::of(pdu));
    drop(Indexed::of(&pdu.json));
    drop(Indexed::text_of(&pdu.json));
}
