//! The room's policy server: whose signature an event needs, and when it does without.

use std::collections::BTreeMap;

use myelin_core::{
    build::countersign,
    event::Verdict,
    keys::{KeyPair, encode_verifying_key},
    number::EventNr,
    pdu::Pdu,
    policy_server::{PolicyServer, UnusableSignature},
    receive::{Decision, Incoming, Placement, Plan, Recommendation, RemoteNeed},
    room_version::RoomVersion,
};
use ruma::owned_server_name;
use serde_json::{Value, json};

use crate::timeline::{Timeline, done, member, message};

const VERSION: RoomVersion = RoomVersion::V11;

fn policy_key(seed: u8) -> KeyPair {
    let name = "policy_server".try_into().unwrap();
    KeyPair::new(owned_server_name!("p"), name, [seed; 32])
}

fn policy() -> Value {
    let key = encode_verifying_key(&policy_key(5).verifying_key());
    json!({ "via": "p", "public_keys": { "ed25519": key } })
}

/// A room that has chosen `p`, and the number of the event that says so.
fn room_with_policy() -> (Timeline, EventNr) {
    let mut room = Timeline::with_members(VERSION);
    let policy = room.add(("@c:c", "m.room.policy", Some(""), policy()));
    (room, policy)
}

/// The signature that somebody makes for the policy server.
fn signature(pdu: &Pdu, seed: u8) -> String {
    let signed = countersign(VERSION, &pdu.json, &policy_key(seed)).unwrap();
    let signed: Value = serde_json::from_str(&signed).unwrap();
    let signature = &signed["signatures"]["p"]["ed25519:policy_server"];
    signature.as_str().unwrap().to_owned()
}

fn next_message(room: &mut Timeline) -> Incoming {
    let parent = *room.extremities.last().unwrap();
    let pdu = room.write_after(message("@u:u"), parent);
    room.incoming(pdu)
}

fn wanted(decision: Decision<Plan>) -> Option<PolicyServer> {
    match decision {
        Decision::NeedRemote(RemoteNeed::PolicySignature(server)) => Some(server),
        other => {
            assert_eq!(done(other).verdict, Verdict::Accepted);
            None
        }
    }
}

#[test]
fn a_room_uses_the_server_that_it_names_if_that_is_in_the_room() {
    let (mut room, policy) = room_with_policy();
    let incoming = next_message(&mut room);
    assert_eq!(wanted(room.decide(&incoming)), None);
    room.servers_at_join = vec!["q".to_owned(), "p".to_owned()];
    assert!(wanted(room.decide(&incoming)).is_some());
    room.servers_at_join = vec!["q".to_owned()];
    assert_eq!(wanted(room.decide(&incoming)), None);
    room.add(member("@p:p", "join"));
    let incoming = next_message(&mut room);
    let server = wanted(room.decide(&incoming)).unwrap();
    assert_eq!(server.name, "p");
    room.change(policy, |event| event.redacted_by = Some(EventNr(100)));
    assert_eq!(wanted(room.decide(&incoming)), None);
}

#[test]
fn without_its_signature_an_event_fails_softly_once_it_was_asked() {
    let (mut room, _) = room_with_policy();
    room.servers_at_join = vec!["p".to_owned()];
    let incoming = next_message(&mut room);
    let server = wanted(room.decide(&incoming)).unwrap();
    let asked = Incoming {
        recommendation: Recommendation::Asked,
        ..incoming.clone()
    };
    let plan = done(room.decide(&asked));
    assert_eq!(plan.verdict, Verdict::SoftFailed);
    assert!(
        plan.reason
            .is_some_and(|reason| reason.contains("server p"))
    );
    let signed = server.sign(VERSION, &incoming.pdu, &signature(&incoming.pdu, 5));
    let signed = Incoming {
        pdu: signed.unwrap(),
        ..asked
    };
    assert_eq!(done(room.decide(&signed)).verdict, Verdict::Accepted);
}

#[test]
fn some_events_do_without_its_signature() {
    let (mut room, policy_nr) = room_with_policy();
    room.servers_at_join = vec!["p".to_owned()];
    let incoming = next_message(&mut room);
    let history = Placement::Pulled {
        backfilled: true,
        after_missing: BTreeMap::new(),
    };
    let state = room.after(policy_nr);
    let own_join = Placement::RemoteJoin { before: state };
    let not_wanted = Recommendation::NotWanted;
    for (placement, recommendation, is_wanted) in [
        (Placement::Live, Recommendation::NotAsked, true),
        (history, Recommendation::NotAsked, true),
        (own_join, Recommendation::NotAsked, false),
        (Placement::Live, not_wanted, false),
    ] {
        let incoming = Incoming {
            placement,
            recommendation,
            ..incoming.clone()
        };
        assert_eq!(
            wanted(room.decide(&incoming)).is_some(),
            is_wanted,
            "{incoming:?}"
        );
    }
    for (state_key, is_wanted) in [("", false), ("other", true)] {
        let sketch = ("@c:c", "m.room.policy", Some(state_key), policy());
        let pdu = room.write_after(sketch, policy_nr);
        let incoming = room.incoming(pdu);
        assert_eq!(wanted(room.decide(&incoming)).is_some(), is_wanted);
    }
}

#[test]
fn a_signature_is_taken_if_it_is_by_the_rooms_key_and_the_event_can_carry_it() {
    let (mut room, _) = room_with_policy();
    room.servers_at_join = vec!["p".to_owned()];
    let incoming = next_message(&mut room);
    let server = wanted(room.decide(&incoming)).unwrap();
    let wrong = server.sign(VERSION, &incoming.pdu, &signature(&incoming.pdu, 6));
    assert!(matches!(wrong, Err(UnusableSignature::Wrong)));
    let parent = *room.extremities.last().unwrap();
    let size = 65_500 - incoming.pdu.json.len();
    let content = json!({ "body": "x".repeat(size) });
    let large = room.write_after(("@u:u", "m.room.message", None, content), parent);
    let too_large = server.sign(VERSION, &large, &signature(&large, 5));
    assert!(matches!(too_large, Err(UnusableSignature::TooLarge(_))));
}
