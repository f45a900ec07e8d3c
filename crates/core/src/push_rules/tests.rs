//! Conditions, the predefined rules, and what is stored of a user's own.

use ruma::{
    OwnedUserId, event_id, owned_user_id,
    power_levels::NotificationPowerLevels,
    push::{PushConditionPowerLevelsCtx, Ruleset},
    room_version_rules::RoomPowerLevelsRules,
    user_id,
};
use serde_json::{Value, json};

use super::{Notification, RuledEvent, read_rules, rules_content};
use crate::{pdu::Pdu, room_version::RoomVersion};

const NOTIFY: &str = r#"["notify"]"#;

fn nobody() -> OwnedUserId {
    owned_user_id!("@:example.org")
}

fn level_rules() -> RoomPowerLevelsRules {
    RoomPowerLevelsRules::new(RoomVersion::V11.authorization(), [])
}

/// An event of bob's in a room of so many members, of which only the interesting fields are given.
fn event(fields: Value, joined: u64) -> RuledEvent {
    let mut event = json!({
        "type": "m.room.message",
        "sender": "@bob:far.example",
        "room_id": "!room:example.org",
        "origin_server_ts": 1,
        "depth": 1,
        "auth_events": [],
        "prev_events": [],
        "content": {},
    });
    for (name, value) in fields.as_object().unwrap() {
        event[name] = value.clone();
    }
    let id = event_id!("$event").to_owned();
    let pdu = Pdu::from_stored(RoomVersion::V11, id, event.to_string()).unwrap();
    RuledEvent::new(&pdu, joined, nobody()).unwrap()
}

fn message(content: Value) -> RuledEvent {
    event(json!({ "content": content }), 5)
}

/// Whether the conditions hold for an event, of a user called Alice Arden in the room.
fn holds(event: &mut RuledEvent, conditions: &Value) -> bool {
    let rules: Ruleset = serde_json::from_value(json!({ "override": [{
        "rule_id": "own", "default": false, "enabled": true,
        "actions": ["notify"], "conditions": conditions,
    }] }))
    .unwrap();
    let alice = user_id!("@alice:example.org");
    event.for_user(alice, Some("Alice Arden"), &rules).is_some()
}

/// Whether a property of an event matches a pattern.
fn matches(fields: Value, key: &str, pattern: &str) -> bool {
    let condition = json!([{ "kind": "event_match", "key": key, "pattern": pattern }]);
    holds(&mut event(fields, 5), &condition)
}

#[test]
fn a_pattern_matches_the_whole_of_a_property_whatever_the_case() {
    for (topic, pattern, expected) in [
        (json!("Lunch plans"), "lunc?*", true),
        (json!("LUNCH"), "lunc?*", true),
        (json!(" lunch"), "lunc?*", false),
        (json!("lunc"), "lunc?*", false),
        (json!(null), "*", false),
        (json!(5), "5", false),
    ] {
        let fields = json!({ "content": { "topic": topic } });
        let found = matches(fields, "content.topic", pattern);
        assert_eq!(found, expected, "{topic} {pattern}");
    }
    assert!(!matches(json!({}), "content.topic", "*"));
    assert!(matches(json!({}), "room_id", "!room:example.org"));
    assert!(matches(json!({}), "type", "m.room.*"));
    assert!(matches(json!({ "state_key": "" }), "state_key", ""));
    assert!(!matches(json!({}), "state_key", ""));
}

#[test]
fn a_body_is_matched_by_words() {
    for (body, pattern, expected) in [
        ("An example event.", "ex*ple", true),
        ("exple", "ex*ple", true),
        ("An exciting triple-whammy", "ex*ple", true),
        ("examples", "example", false),
        ("an EXAMPLE!", "example", true),
        ("sub_example", "example", false),
        ("a.b", "a?b", true),
        ("a+b", "a.b", false),
    ] {
        let fields = json!({ "content": { "body": body } });
        let found = matches(fields, "content.body", pattern);
        assert_eq!(found, expected, "{body} {pattern}");
    }
}

#[test]
fn values_are_the_same_only_if_their_types_are() {
    let content = json!({ "m.federate": true, "n": 5, "none": null, "list": ["x", 5, null, {}] });
    for (kind, key, value, expected) in [
        ("is", r"m\.federate", json!(true), true),
        ("is", r"m\.federate", json!("true"), false),
        ("is", r"m\.federate", json!(1), false),
        ("is", "m.federate", json!(true), false),
        ("is", "n", json!(5), true),
        ("is", "none", json!(null), true),
        ("is", "absent", json!(null), false),
        ("contains", "list", json!("x"), true),
        ("contains", "list", json!(5), true),
        ("contains", "list", json!(null), true),
        ("contains", "list", json!("X"), false),
        ("contains", "absent", json!("x"), false),
        ("contains", "n", json!(5), false),
    ] {
        let (kind, key) = (format!("event_property_{kind}"), format!("content.{key}"));
        let condition = json!([{ "kind": kind, "key": key, "value": value }]);
        let found = holds(&mut message(content.clone()), &condition);
        assert_eq!(found, expected, "{condition}");
    }
}

#[test]
fn members_are_counted_as_asked() {
    for (is, expected) in [
        ("5", true),
        ("==5", true),
        ("<5", false),
        ("<=5", true),
        (">4", true),
        (">=6", false),
    ] {
        let condition = json!([{ "kind": "room_member_count", "is": is }]);
        assert_eq!(holds(&mut message(json!({})), &condition), expected, "{is}");
    }
}

#[test]
fn a_display_name_is_looked_for_in_the_body() {
    let condition = json!([{ "kind": "contains_display_name" }]);
    for (body, expected) in [("ask alice arden!", true), ("ask alice", false)] {
        let found = holds(&mut message(json!({ "body": body })), &condition);
        assert_eq!(found, expected, "{body}");
    }
    assert!(!holds(&mut message(json!({})), &condition));
}

#[test]
fn all_conditions_must_hold_and_an_unknown_one_never_does() {
    let x = json!({ "kind": "event_match", "key": "content.body", "pattern": "x" });
    let six = json!({ "kind": "room_member_count", "is": "6" });
    let moon = json!({ "kind": "org.example.moon" });
    for (conditions, expected) in [
        (json!([]), true),
        (json!([x]), true),
        (json!([x, six]), false),
        (json!([x, moon]), false),
    ] {
        let found = holds(&mut message(json!({ "body": "x" })), &conditions);
        assert_eq!(found, expected, "{conditions}");
    }
}

#[test]
fn only_those_with_the_power_may_notify_the_room() {
    let condition = json!([{ "kind": "sender_notification_permission", "key": "room" }]);
    for (levels, expected) in [(None, false), (Some(49), false), (Some(50), true)] {
        let mut event = message(json!({ "body": "all!" }));
        let bob = owned_user_id!("@bob:far.example");
        event.set_levels(levels.map(|level: i32| {
            let users = [(bob.clone(), level.into())].into();
            let needed = NotificationPowerLevels::new();
            PushConditionPowerLevelsCtx::new(users, 0.into(), needed, level_rules())
        }));
        assert_eq!(holds(&mut event, &condition), expected, "{levels:?}");
    }
}

/// What the predefined rules say of an event in a room of so many: to everybody, and to alice.
fn predefined(fields: Value, joined: u64) -> (Option<Notification>, Option<Notification>) {
    let mut event = event(fields, joined);
    let levels = [(owned_user_id!("@bob:far.example"), 50.into())].into();
    let needed = NotificationPowerLevels::new();
    let levels = PushConditionPowerLevelsCtx::new(levels, 0.into(), needed, level_rules());
    event.set_levels(Some(levels));
    let alice = user_id!("@alice:example.org");
    let rules = read_rules(alice, None).unwrap();
    (event.for_everybody(), event.for_user(alice, None, &rules))
}

#[test]
fn the_predefined_rules_say_what_the_specification_says() {
    let sound = r#"["notify",{"set_tweak":"sound","value":"default"}]"#;
    let loud = r#"["notify",{"set_tweak":"highlight"}]"#;
    let ring = r#"["notify",{"set_tweak":"sound","value":"ring"}]"#;
    let of_type = |event_type: &str| json!({ "type": event_type });
    let state = |event_type: &str| json!({ "type": event_type, "state_key": "" });
    let content = |content: Value| json!({ "content": content });
    let edit = json!({ "m.relates_to": { "rel_type": "m.replace" } });
    let cases = [
        (content(json!({ "body": "x" })), 5, Some(NOTIFY)),
        (content(json!({ "body": "x" })), 2, Some(sound)),
        (of_type("m.room.encrypted"), 5, Some(NOTIFY)),
        (of_type("m.room.encrypted"), 2, Some(sound)),
        (of_type("m.call.invite"), 5, Some(ring)),
        (mention(json!({ "room": true })), 5, Some(loud)),
        (mention(json!({ "room": "yes" })), 5, Some(NOTIFY)),
        (content(json!({ "msgtype": "m.notice" })), 5, None),
        (content(edit), 5, None),
        (state("m.room.tombstone"), 5, Some(loud)),
        (of_type("m.room.tombstone"), 5, None),
        (of_type("m.reaction"), 5, None),
        (state("m.room.server_acl"), 5, None),
        (state("m.room.topic"), 5, None),
    ];
    for (fields, joined, expected) in cases {
        let (everybody, alice) = predefined(fields.clone(), joined);
        assert_eq!(everybody, alice, "{fields}");
        let highlight = everybody.as_ref().is_some_and(|of| of.highlight);
        assert_eq!(highlight, expected == Some(loud), "{fields}");
        let actions = everybody.map(|of| of.actions);
        assert_eq!(actions.as_deref(), expected, "{fields}");
    }
}

fn mention(mentions: Value) -> Value {
    json!({ "content": { "body": "x", "m.mentions": mentions } })
}

#[test]
fn an_event_that_names_a_user_is_another_to_it_than_to_the_rest() {
    let alice = "@alice:example.org";
    let sound = r#"["notify",{"set_tweak":"sound","value":"default"}]"#;
    let loud = r#"["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]"#;
    let invite = json!({ "membership": "invite" });
    let invite = json!({ "type": "m.room.member", "state_key": alice, "content": invite });
    let to = |user: &str| mention(json!({ "user_ids": [user] }));
    let cases = [
        (to(alice), Some(NOTIFY), Some(loud)),
        (to("@carol:example.org"), Some(NOTIFY), Some(NOTIFY)),
        (invite, None, Some(sound)),
        // Nobody is told of what it says itself.
        (json!({ "sender": alice }), Some(NOTIFY), None),
    ];
    for (fields, everybody, of_alice) in cases {
        let found = predefined(fields.clone(), 5);
        let actions = |of: Option<Notification>| of.map(|of| of.actions);
        assert_eq!(actions(found.0).as_deref(), everybody, "{fields}");
        assert_eq!(actions(found.1).as_deref(), of_alice, "{fields}");
    }
}

#[test]
fn nobody_is_mentioned_by_the_name_of_nobody() {
    let event = message(json!({ "body": "x", "m.mentions": { "user_ids": ["@:example.org"] } }));
    assert!(event.for_everybody().is_some_and(|of| !of.highlight));
    let named: Vec<&str> = event.mentioned_users().collect();
    assert_eq!(named, ["@:example.org"]);
}

#[test]
fn what_is_stored_keeps_the_users_will_and_gets_the_predefined_rules_of_today() {
    let alice = user_id!("@alice:example.org");
    let stored = json!({ "global": {
        "override": [
            { "rule_id": ".m.rule.master", "default": true, "enabled": true, "actions": [], "conditions": [] },
            { "rule_id": "own", "default": false, "enabled": true, "actions": [], "conditions": [] },
            { "rule_id": ".m.rule.gone", "default": true, "enabled": true, "actions": [], "conditions": [] },
            { "rule_id": ".m.rule.reaction", "default": true, "enabled": false, "actions": ["notify"], "conditions": [] },
        ],
    }});
    let stored = stored.to_string();
    let rules = read_rules(alice, Some(stored.as_bytes())).unwrap();
    let ids: Vec<_> = rules.override_.iter().map(|rule| &*rule.rule_id).collect();
    assert_eq!(ids[..2], [".m.rule.master", "own"]);
    assert!(!ids.contains(&".m.rule.gone"));
    let reaction = rules.override_.get(".m.rule.reaction").unwrap();
    assert!(!reaction.enabled && reaction.actions[0].should_notify());
    assert_eq!(reaction.conditions.len(), 1);
    assert_eq!(rules.underride.len(), 5);
    let written = rules_content(&rules);
    assert_eq!(written["global"]["room"], json!([]));
    let again = read_rules(alice, Some(written.to_string().as_bytes())).unwrap();
    assert_eq!(rules_content(&again), written);
}

#[test]
fn content_that_is_nested_too_deep_is_not_read() {
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    for (depth, readable) in [(0, true), (20, false)] {
        let content = format!(
            "{}{deep}{}",
            r#"{"a":"#.repeat(depth + 1),
            "}".repeat(depth + 1)
        );
        let json = format!(
            r#"{{"type":"m.x","sender":"@b:far.example","room_id":"!r:far.example","origin_server_ts":1,"depth":1,"auth_events":[],"prev_events":[],"content":{content}}}"#
        );
        let id = event_id!("$event").to_owned();
        let pdu = Pdu::from_stored(RoomVersion::V11, id, json).unwrap();
        let read = RuledEvent::new(&pdu, 2, nobody());
        assert_eq!(read.is_ok(), readable, "{depth}");
    }
}
