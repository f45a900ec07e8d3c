//! What relates to what.

use std::sync::Arc;

use myelin_core::{
    pdu::Pdu,
    relation::{Relation, is_replacement, may_begin_thread},
    room_version::RoomVersion,
};
use ruma::OwnedEventId;
use serde_json::{Value, json};

fn event(id: &str, sender: &str, event_type: &str, state: bool, content: Value) -> Arc<Pdu> {
    let mut json = json!({
        "type": event_type, "sender": sender, "content": content, "room_id": "!r:x.example",
        "auth_events": [], "prev_events": [], "depth": 1, "origin_server_ts": 1,
    });
    if state {
        json["state_key"] = json!("");
    }
    let id = OwnedEventId::try_from(id).unwrap();
    Arc::new(Pdu::from_stored(RoomVersion::V11, id, json.to_string()).unwrap())
}

fn message(content: Value) -> Arc<Pdu> {
    event("$m", "@a:x.example", "m.room.message", false, content)
}

fn relating(relates_to: &Value) -> Value {
    json!({"body": "b", "m.new_content": {"body": "c"}, "m.relates_to": relates_to})
}

#[test]
fn a_relation_that_breaks_the_form_is_none() {
    let cases = [
        (json!({"rel_type": "m.thread", "event_id": "$e"}), true),
        (json!({"rel_type": "any", "event_id": "$e", "key": 5}), true),
        (json!({"rel_type": "m.replace", "event_id": "$e"}), true),
        (json!({"m.in_reply_to": {"event_id": "$e"}}), false),
        (json!({"event_id": "$e"}), false),
        (json!({"rel_type": "m.thread"}), false),
        (json!({"rel_type": "m.thread", "event_id": "e"}), false),
        (json!({"rel_type": "m.thread", "event_id": 5}), false),
        (json!({"rel_type": 5, "event_id": "$e"}), false),
        (json!(["$e", "m.thread", "k"]), false),
        (json!("$e"), false),
        (json!(null), false),
    ];
    for (relates_to, valid) in cases {
        let found = Relation::of(&message(relating(&relates_to)));
        assert_eq!(found.is_some(), valid, "{relates_to}");
    }
    let annotation = json!({"rel_type": "m.annotation", "event_id": "$e", "key": "+"});
    let found = Relation::of(&message(relating(&annotation))).unwrap();
    assert_eq!(
        (found.event_id.as_str(), found.key.as_deref()),
        ("$e", Some("+"))
    );
    assert_eq!(
        Relation::of(&message(json!({"body": "\"m.relates_to\""}))),
        None
    );
}

/// What an event of the table is: its author, type, whether it is state, and its content.
type Sketch<'a> = (&'a str, &'a str, bool, Value);

fn replaces((of, by): (Sketch<'_>, Sketch<'_>)) -> bool {
    let original = event("$o", of.0, of.1, of.2, of.3);
    let edit = event("$r", by.0, by.1, by.2, by.3);
    is_replacement(&original, &edit)
}

const USER: &str = "@a:x.example";
const MESSAGE: &str = "m.room.message";

#[test]
fn an_edit_is_by_the_same_user_of_the_same_type_and_of_no_state() {
    let edit = || relating(&json!({"rel_type": "m.replace", "event_id": "$o"}));
    let other = |rel_type| relating(&json!({"rel_type": rel_type, "event_id": "$x"}));
    let thread = || relating(&json!({"rel_type": "m.thread", "event_id": "$o"}));
    let plain = || (USER, MESSAGE, false, json!({"body": "b"}));
    let cases = [
        ("valid", plain(), (USER, MESSAGE, false, edit()), true),
        (
            "another user",
            plain(),
            ("@b:x.example", MESSAGE, false, edit()),
            false,
        ),
        (
            "another type",
            plain(),
            (USER, "m.sticker", false, edit()),
            false,
        ),
        (
            "an edit that is state",
            plain(),
            (USER, MESSAGE, true, edit()),
            false,
        ),
        (
            "of state",
            (USER, MESSAGE, true, json!({})),
            (USER, MESSAGE, false, edit()),
            false,
        ),
        (
            "of an edit",
            (USER, MESSAGE, false, other("m.replace")),
            (USER, MESSAGE, false, edit()),
            false,
        ),
        (
            "in a thread",
            (USER, MESSAGE, false, other("m.thread")),
            (USER, MESSAGE, false, edit()),
            true,
        ),
        (
            "of something else",
            plain(),
            (USER, MESSAGE, false, other("m.replace")),
            false,
        ),
        (
            "no edit at all",
            plain(),
            (USER, MESSAGE, false, thread()),
            false,
        ),
    ];
    for (name, original, edit, valid) in cases {
        assert_eq!(replaces((original, edit)), valid, "{name}");
    }
}

#[test]
fn an_edit_has_what_replaces_the_content_and_that_of_an_encrypted_event_is_encrypted() {
    let relates_to = json!({"rel_type": "m.replace", "event_id": "$o"});
    let nothing_new = || json!({"body": "b", "m.relates_to": relates_to});
    let no_object = json!({"m.new_content": "c", "m.relates_to": relates_to});
    let new = || relating(&relates_to);
    let secret = "m.room.encrypted";
    let of = |event_type| (USER, event_type, false, json!({}));
    let cases = [
        (
            "nothing new",
            of(MESSAGE),
            (USER, MESSAGE, false, nothing_new()),
            false,
        ),
        (
            "no object",
            of(MESSAGE),
            (USER, MESSAGE, false, no_object),
            false,
        ),
        (
            "encrypted",
            of(secret),
            (USER, secret, false, nothing_new()),
            true,
        ),
        (
            "plain of encrypted",
            of(secret),
            (USER, MESSAGE, false, new()),
            false,
        ),
        (
            "encrypted of plain",
            of(MESSAGE),
            (USER, secret, false, nothing_new()),
            false,
        ),
    ];
    for (name, original, edit, valid) in cases {
        assert_eq!(replaces((original, edit)), valid, "{name}");
    }
}

#[test]
fn a_thread_begins_at_what_relates_to_nothing() {
    let cases = [
        (json!({"body": "b"}), true),
        (
            json!({"m.relates_to": {"m.in_reply_to": {"event_id": "$e"}}}),
            true,
        ),
        (
            json!({"m.relates_to": {"rel_type": "m.thread", "event_id": "$e"}}),
            false,
        ),
        // Invalid as an edit, and a relation all the same.
        (
            json!({"m.relates_to": {"rel_type": "m.replace", "event_id": "$e"}}),
            false,
        ),
    ];
    for (content, may) in cases {
        assert_eq!(
            may_begin_thread(&message(content.clone())),
            may,
            "{content}"
        );
    }
}
