//! Filters, field by field.

use super::{EventFields, Filter, RoomEventFilter, matches};
use myelin_core::{pdu::Pdu, room_version::RoomVersion};
use ruma::{OwnedEventId, room_id};
use serde_json::json;

fn event(event_type: &str, sender: &str, content: serde_json::Value) -> Pdu {
    let json = json!({
        "type": event_type, "sender": sender, "content": content, "room_id": "!r:x.example",
        "auth_events": [], "prev_events": [], "depth": 1, "origin_server_ts": 1,
    });
    let id = OwnedEventId::try_from("$e").expect("an ID");
    Pdu::from_stored(RoomVersion::V11, id, json.to_string()).expect("a PDU")
}

#[test]
fn patterns_match_whole_types() {
    let fits = [
        ("m.room.message", "m.room.message"),
        ("*", ""),
        ("*", "m.room.message"),
        ("m.room.*", "m.room.message"),
        ("*.message", "m.room.message"),
        ("m.*.message", "m.room.message"),
        ("m*o*e", "m.room.message"),
        ("**", "x"),
    ];
    for (pattern, text) in fits {
        assert!(matches(pattern, text), "{pattern} {text}");
    }
    let others = [
        ("m.room", "m.room.message"),
        ("", "m"),
        ("m.room.*", "m.roo"),
        ("*.x.*", "m.room"),
        ("ab*ba", "aba"),
        ("m.room.message*x", "m.room.message"),
    ];
    for (pattern, text) in others {
        assert!(!matches(pattern, text), "{pattern} {text}");
    }
}

#[test]
fn each_field_of_a_filter_keeps_events_out() {
    let message = event("m.room.message", "@a:x.example", json!({"body": "b"}));
    let image = event(
        "m.room.message",
        "@b:x.example",
        json!({"url": "mxc://x/y"}),
    );
    let cases = [
        (json!({}), true, true),
        (json!({"types": null}), true, true),
        (json!({"types": []}), false, false),
        (json!({"types": ["m.room.*"]}), true, true),
        (json!({"types": ["m.room.name"]}), false, false),
        (json!({"not_types": ["m.room.message"]}), false, false),
        (
            json!({"types": ["*"], "not_types": ["*.message"]}),
            false,
            false,
        ),
        (json!({"senders": ["@a:x.example"]}), true, false),
        (json!({"not_senders": ["@a:x.example"]}), false, true),
        (json!({"contains_url": true}), false, true),
        (json!({"contains_url": false}), true, false),
    ];
    for (filter, first, second) in cases {
        let parsed = RoomEventFilter::parse(&filter.to_string()).expect("a filter");
        assert_eq!(parsed.wants(&message), first, "{filter}");
        assert_eq!(parsed.wants(&image), second, "{filter}");
    }
}

#[test]
fn rooms_are_chosen_by_name() {
    let room = room_id!("!r:x.example");
    let cases = [
        (json!({}), true),
        (json!({"rooms": []}), false),
        (json!({"rooms": ["!r:x.example"]}), true),
        (json!({"not_rooms": ["!r:x.example"]}), false),
        (
            json!({"rooms": ["!r:x.example"], "not_rooms": ["!r:x.example"]}),
            false,
        ),
    ];
    for (filter, wanted) in cases {
        let whole = json!({"room": filter, "unknown": 1}).to_string();
        assert_eq!(
            Filter::parse(&whole).expect("a filter").room.wants(room),
            wanted
        );
        let events = RoomEventFilter::parse(&filter.to_string()).expect("a filter");
        assert_eq!(events.wants_room(room), wanted, "{filter}");
    }
}

#[test]
fn a_limit_has_a_default_and_a_bound() {
    let limit = |json: &str| {
        RoomEventFilter::parse(json)
            .expect("a filter")
            .timeline_limit()
    };
    assert_eq!(limit("{}"), 10);
    assert_eq!(limit(r#"{"limit":0}"#), 0);
    assert_eq!(limit(r#"{"limit":1}"#), 1);
    assert_eq!(limit(r#"{"limit":18446744073709551615}"#), 100);
}

#[test]
fn a_filter_with_a_field_of_another_type_is_refused() {
    for json in [
        "",
        "[]",
        r#"{"room":1}"#,
        r#"{"room":{"timeline":{"limit":-1}}}"#,
        r#"{"room":[]}"#,
        r#"{"room":{"timeline":[]}}"#,
        r#"{"presence":[]}"#,
        r#"{"presence":{"senders":["nobody"]}}"#,
        r#"{"presence":{"types":"m.presence"}}"#,
        r#"{"room":{"state":{"not_senders":[5]}}}"#,
        r#"{"room":{"rooms":["@a:x.example"]}}"#,
        r#"{"room":{"include_leave":"yes"}}"#,
        r#"{"room":{"timeline":{"contains_url":1}}}"#,
        r#"{"room":{"timeline":{"related_by_senders":["nobody"]}}}"#,
        r#"{"event_format":"short"}"#,
        r#"{"event_fields":"type"}"#,
    ] {
        assert!(Filter::parse(json).is_err(), "{json}");
    }
}

#[test]
fn event_fields_pick_parts_and_keep_their_places() {
    let event = json!({
        "type": "t", "sender": "s", "content": {"body": "b", "a.b": {"c": 1}, "x": 2},
    });
    let paths = [
        r"content.body",
        r"content.a\.b.c",
        "type",
        "missing.key",
        "type.deeper",
    ];
    let fields = EventFields::from(paths.map(str::to_owned).to_vec());
    assert_eq!(
        fields.of(&event),
        json!({"type": "t", "content": {"body": "b", "a.b": {"c": 1}}})
    );
}
