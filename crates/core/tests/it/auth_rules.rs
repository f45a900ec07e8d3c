//! What the rules of authorisation say beyond one case for each of their numbers, which `numbered_rules.rs`
//! has: tables of more cases, and the list of auth events, which no state can mend.

use std::sync::Arc;

use myelin_core::{
    auth::{Rejection, auth_keys, check_claimed, implied_create_event},
    event::{Event, Verdict},
    pdu::Pdu,
    room_version::RoomVersion,
    testing::{third_party_invite, third_party_signed},
};
use ruma::user_id;
use serde_json::{Value, json};

use crate::room::{Room, Sketch, stored};

/// What is expected of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Allowed,
    Malformed,
    Forbidden,
}
use Expected::{Allowed, Forbidden, Malformed};

/// A case: description, the room's join rule, what else happened in it, and the event.
type Case = (&'static str, &'static str, Vec<Sketch>, Sketch, Expected);

pub(crate) fn membership(sender: &'static str, target: &'static str, membership: &str) -> Sketch {
    (
        sender,
        "m.room.member",
        Some(target),
        json!({"membership": membership}),
    )
}

pub(crate) fn authorised_join(by: &str) -> Sketch {
    let content = json!({"membership": "join", "join_authorised_via_users_server": by});
    ("@n:n", "m.room.member", Some("@n:n"), content)
}

pub(crate) fn levels(sender: &'static str, content: Value) -> Sketch {
    (sender, "m.room.power_levels", Some(""), content)
}

fn judge(version: RoomVersion, (_, join_rule, before, event, _): &Case) -> Expected {
    let mut room = Room::with_members(version, join_rule);
    for sketch in before {
        room.put(sketch.clone());
    }
    match room.judge(&room.make(event.clone())) {
        Ok(()) => Allowed,
        Err(Rejection::Malformed(_)) => Malformed,
        Err(Rejection::Forbidden(_)) => Forbidden,
    }
}

fn check(versions: &[RoomVersion], cases: Vec<Case>) {
    for version in versions {
        for case in &cases {
            assert_eq!(
                judge(*version, case),
                case.4,
                "version {version}: {}",
                case.0
            );
        }
    }
}

fn every_version() -> Vec<RoomVersion> {
    RoomVersion::supported().collect()
}

fn since(first: RoomVersion) -> Vec<RoomVersion> {
    RoomVersion::supported()
        .filter(|version| *version >= first)
        .collect()
}

fn before(later: RoomVersion) -> Vec<RoomVersion> {
    RoomVersion::supported()
        .filter(|version| *version < later)
        .collect()
}

#[rustfmt::skip]
#[test]
fn an_invite_by_address_is_redeemed_with_the_word_of_the_identity_server() {
    let invited = |by| (by, "m.room.third_party_invite", Some("t"), third_party_invite());
    let word = |change: fn(&mut Value)| {
        let mut content = third_party_signed(user_id!("@n:n"), "t");
        content["membership"] = json!("invite");
        change(&mut content["third_party_invite"]);
        ("@m:m", "m.room.member", Some("@n:n"), content)
    };
    let good = || word(|_| ());
    let taken_back = vec![invited("@m:m"), ("@m:m", "m.room.third_party_invite", Some("t"), json!({}))];
    let keys_listed = |key: Value| {
        let content = json!({ "display_name": "n", "public_keys": [{ "public_key": "AAAA" }, { "public_key": key }] });
        vec![("@m:m", "m.room.third_party_invite", Some("t"), content)]
    };
    let key = third_party_invite()["public_key"].clone();
    check(&every_version(), vec![
        ("any of the keys will do", "invite", keys_listed(key), good(), Allowed),
        ("a key that is none will not", "invite", keys_listed(json!("")), good(), Forbidden),
        ("after it was taken back", "invite", taken_back, good(), Forbidden),
        ("for another invite than the word is about", "invite", vec![invited("@m:m")],
            word(|invite| invite["signed"]["token"] = json!("u")), Forbidden),
        ("with a word that nobody signed", "invite", vec![invited("@m:m")],
            word(|invite| invite["signed"]["signatures"] = json!({})), Forbidden),
        ("without a word", "invite", vec![invited("@m:m")],
            word(|invite| drop(invite["signed"].take())), Malformed),
    ]);
}

#[rustfmt::skip]
#[test]
fn joins_follow_the_join_rule_and_the_membership_before() {
    let join = || membership("@n:n", "@n:n", "join");
    let is = |what| vec![membership("@c:c", "@n:n", what)];
    check(&every_version(), vec![
        ("a user may come back to a public room", "public", is("leave"), join(), Allowed),
        ("a member may join again", "invite", is("join"), join(), Allowed),
        ("a user who left may not", "invite", is("leave"), join(), Forbidden),
        ("knocking is not being let in", "knock", is("knock"), join(), Forbidden),
        ("an unknown join rule lets nobody in", "x.y", is("invite"), join(), Forbidden),
        ("membership must be there", "public", vec![], ("@n:n", "m.room.member", Some("@n:n"), json!({})), Malformed),
        ("membership must be a state event", "public", vec![], ("@n:n", "m.room.member", None, json!({"membership": "join"})), Malformed),
        ("the target must be a user", "public", vec![], ("@n:n", "m.room.member", Some("n"), json!({"membership": "join"})), Forbidden),
    ]);
    check(&before(RoomVersion::V7), vec![
        ("before version 7 this rule lets nobody in", "knock", is("invite"), join(), Forbidden),
    ]);
}

#[rustfmt::skip]
#[test]
fn restricted_rooms_are_joined_through_a_member_who_may_invite() {
    for (rule, first) in [("restricted", RoomVersion::V8), ("knock_restricted", RoomVersion::V10)] {
        check(&before(first), vec![
            ("before, the rule lets nobody in", rule, vec![membership("@c:c", "@n:n", "invite")], membership("@n:n", "@n:n", "join"), Forbidden),
            ("and nobody can vouch", rule, vec![], authorised_join("@m:m"), Forbidden),
        ]);
        check(&since(first), vec![
            ("the moderator may let in", rule, vec![], authorised_join("@m:m"), Allowed),
            ("the creator may let in", rule, vec![], authorised_join("@c:c"), Allowed),
            ("a member without the power to invite may not", rule, vec![], authorised_join("@u:u"), Forbidden),
            ("somebody outside may not", rule, vec![membership("@m:m", "@m:m", "leave")], authorised_join("@m:m"), Forbidden),
            ("the authorising user must be a user", rule, vec![], authorised_join("nobody"), Malformed),
            ("a banned user is not let in", rule, vec![membership("@c:c", "@n:n", "ban")], authorised_join("@m:m"), Forbidden),
        ]);
    }
}

#[rustfmt::skip]
#[test]
fn invites_need_power_and_a_target_outside() {
    let invite = |sender| membership(sender, "@n:n", "invite");
    let is = |what| vec![membership("@c:c", "@n:n", what)];
    check(&every_version(), vec![
        ("the creator may invite", "invite", vec![], invite("@c:c"), Allowed),
        ("a user who left may be invited", "invite", is("leave"), invite("@m:m"), Allowed),
        ("who knocks may be invited", "knock", is("knock"), invite("@m:m"), Allowed),
    ]);
}

#[rustfmt::skip]
#[test]
fn leaving_kicking_banning_and_unbanning_need_more_power_than_the_target_has() {
    let kick = |sender, target| membership(sender, target, "leave");
    let ban = |sender, target| membership(sender, target, "ban");
    let is = |what| vec![membership("@c:c", "@n:n", what)];
    check(&every_version(), vec![
        ("an invited user may decline", "invite", is("invite"), kick("@n:n", "@n:n"), Allowed),
        ("a banned user may not leave", "public", is("ban"), kick("@n:n", "@n:n"), Forbidden),
        ("not one of equal power", "invite", vec![levels("@c:c", json!({"users": {"@m:m": 50, "@u:u": 50}}))], kick("@m:m", "@u:u"), Forbidden),
        ("also a stranger", "invite", vec![], ban("@m:m", "@n:n"), Allowed),
    ]);
}

#[rustfmt::skip]
#[test]
fn knocking_needs_a_room_that_lets_knock() {
    let knock = || membership("@n:n", "@n:n", "knock");
    let is = |what| vec![membership("@c:c", "@n:n", what)];
    check(&before(RoomVersion::V7), vec![
        ("before version 7 nobody can knock", "knock", vec![], knock(), Forbidden),
    ]);
    check(&before(RoomVersion::V10), vec![
        ("nor before version 10 by this rule", "knock_restricted", vec![], knock(), Forbidden),
    ]);
    check(&since(RoomVersion::V7), vec![
        ("not when joined", "knock", is("join"), knock(), Forbidden),
    ]);
}

#[rustfmt::skip]
#[test]
fn sending_needs_membership_and_the_power_for_the_type() {
    let text = || json!({"body": "b"});
    let name = |sender| (sender, "m.room.name", Some(""), json!({"name": "n"}));
    let set = |content| vec![levels("@c:c", content)];
    check(&every_version(), vec![
        ("an invited user may not", "invite", vec![membership("@c:c", "@n:n", "invite")], ("@n:n", "m.room.message", None, text()), Forbidden),
        ("unless the type takes more", "invite", set(json!({"users": {"@m:m": 50}, "events": {"m.room.name": 51}})), name("@m:m"), Forbidden),
        ("a member may if the type takes less", "invite", set(json!({"events": {"m.room.name": 0}})), name("@u:u"), Allowed),
        ("writing may take power", "invite", set(json!({"events_default": 1})), ("@u:u", "m.room.message", None, text()), Forbidden),
    ]);
    check(&since(RoomVersion::V3), vec![
        ("a redaction needs no power to redact; applying it does", "invite", vec![], ("@u:u", "m.room.redaction", None, json!({"redacts": "$x"})), Allowed),
    ]);
    check(&since(RoomVersion::V6), vec![
        ("aliases of one's own server are no longer its own business", "invite", vec![], ("@n:n", "m.room.aliases", Some("n"), json!({"aliases": []})), Forbidden),
    ]);
}

#[rustfmt::skip]
#[test]
fn power_levels_change_only_below_ones_own() {
    let set = |content: Value| levels("@m:m", content);
    let old = || vec![levels("@c:c", json!({"users": {"@m:m": 50, "@u:u": 10, "@e:e": 50}, "ban": 60, "events": {"a.b": 60, "c.d": 20}, "notifications": {"room": 60}}))];
    let content = |change: fn(&mut Value)| {
        let mut content = old()[0].3.clone();
        change(&mut content);
        content
    };
    check(&every_version(), vec![
        ("raising another to one's own level", "invite", old(), set(content(|c| c["users"]["@u:u"] = json!(50))), Allowed),
        ("raising another above it", "invite", old(), set(content(|c| c["users"]["@u:u"] = json!(51))), Forbidden),
        ("lowering oneself", "invite", old(), set(content(|c| c["users"]["@m:m"] = json!(0))), Allowed),
        ("raising oneself", "invite", old(), set(content(|c| c["users"]["@m:m"] = json!(60))), Forbidden),
        ("changing an event's level above one's own", "invite", old(), set(content(|c| c["events"]["a.b"] = json!(50))), Forbidden),
        ("changing an event's level below", "invite", old(), set(content(|c| c["events"]["c.d"] = json!(50))), Allowed),
        ("a member may not", "invite", old(), levels("@u:u", content(|_| {})), Forbidden),
    ]);
    let notification = || set(content(|c| c["notifications"]["room"] = json!(50)));
    check(&before(RoomVersion::V6), vec![
        ("before version 6 anybody who may change levels changes it", "invite", old(), notification(), Allowed),
    ]);
    let text = || set(content(|c| c["ban"] = json!("60")));
    let users_text = || set(content(|c| c["users"]["@u:u"] = json!(" +10 ")));
    check(&since(RoomVersion::V10), vec![
        ("a user's level that is text", "invite", old(), users_text(), Forbidden),
    ]);
    check(&before(RoomVersion::V10), vec![
        ("a level that is text counts as its number", "invite", old(), text(), Allowed),
        ("also a user's", "invite", old(), users_text(), Allowed),
        ("and is compared as one", "invite", old(), set(content(|c| c["users"]["@u:u"] = json!("51"))), Forbidden),
        ("other text is no level", "invite", old(), set(content(|c| c["ban"] = json!("sixty"))), Forbidden),
    ]);
}

/// R22.
#[rustfmt::skip]
#[test]
fn in_version_12_creators_stand_above_every_number() {
    let lift = || levels("@c:c", json!({"users": {"@m:m": 9_007_199_254_740_991_i64}}));
    check(&[RoomVersion::V12], vec![
        ("the creator bans the mightiest", "invite", vec![lift()], membership("@c:c", "@m:m", "ban"), Allowed),
        ("the mightiest doesn't ban the creator", "invite", vec![lift()], membership("@m:m", "@c:c", "ban"), Forbidden),
        ("power levels may not list the creator", "invite", vec![], levels("@c:c", json!({"users": {"@c:c": 100}})), Forbidden),
        ("the creator may ask for any level", "invite", vec![], levels("@c:c", json!({"ban": 9_007_199_254_740_991_i64})), Allowed),
    ]);
    check(&before(RoomVersion::V12), vec![
        ("before, the mightiest does", "invite", vec![lift()], membership("@m:m", "@c:c", "ban"), Allowed),
        ("and power levels list the creator", "invite", vec![], levels("@c:c", json!({"users": {"@c:c": 100}})), Allowed),
    ]);
}

#[test]
fn in_version_12_additional_creators_are_creators() {
    let mut room = Room::new(RoomVersion::V12, json!({"additional_creators": ["@d:d"]}));
    for user in ["@c:c", "@d:d"] {
        room.put(membership(user, user, "join"));
    }
    room.put(levels("@c:c", json!({"state_default": 1000})));
    let name = |sender| (sender, "m.room.name", Some(""), json!({}));
    assert_eq!(room.judge(&room.make(name("@d:d"))), Ok(()));
    let listed = room.make(levels("@c:c", json!({"users": {"@d:d": 1}})));
    assert!(room.judge(&listed).is_err());
    let ban = room.make(membership("@c:c", "@d:d", "ban"));
    assert!(room.judge(&ban).is_err(), "creators are equals");
}

pub(crate) fn raw(value: Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(&value).unwrap()
}

/// What check 4 says of a member's message whose list of auth events was tampered with.
pub(crate) fn with_claims(
    room: &Room,
    change: impl FnOnce(&mut Vec<Arc<Event>>),
) -> Result<(), Rejection> {
    let mut pdu = Pdu::clone(&room.make(("@u:u", "m.room.message", None, json!({}))));
    let mut claimed = room.claimed(&pdu);
    change(&mut claimed);
    pdu.auth_events = claimed.iter().map(|event| event.id().to_owned()).collect();
    check_claimed(room.version, &pdu, &claimed, Some(&room.create))
}

/// R16, L6.
#[test]
fn every_claimed_auth_event_is_examined() {
    for version in RoomVersion::supported() {
        let mut room = Room::with_members(version, "invite");
        let again = room.put(membership("@u:u", "@u:u", "join"));
        let rejected = stored(again.pdu.clone(), 93, Verdict::Rejected);
        let result = with_claims(&room, |claimed| claimed.insert(0, rejected.clone()));
        assert!(
            matches!(result, Err(Rejection::Malformed(_))),
            "rejected beside accepted"
        );
        let soft_failed = stored(again.pdu.clone(), 93, Verdict::SoftFailed);
        let result = with_claims(&room, |claimed| {
            claimed.retain(|event| event.id() != again.id());
            claimed.push(soft_failed.clone());
        });
        assert_eq!(result, Ok(()), "soft-failed events count");
    }
}

/// R26.
#[test]
fn the_same_question_gets_the_same_answer_and_changes_nothing() {
    for version in RoomVersion::supported() {
        let room = Room::with_members(version, "invite");
        for sketch in [
            ("@u:u", "m.room.message", None, json!({"body": "b"})),
            ("@u:u", "m.room.name", Some(""), json!({})),
            membership("@m:m", "@n:n", "invite"),
            membership("@x:x", "@x:x", "join"),
            levels("@u:u", json!({"ban": 0})),
        ] {
            let pdu = room.make(sketch);
            let claimed = room.claimed(&pdu);
            let question = || format!("{pdu:?} {claimed:?} {:?} {:?}", room.state, room.create);
            let asked = question();
            let answers = || {
                let mut turned = claimed.clone();
                turned.reverse();
                let by = |list: &[_]| check_claimed(version, &pdu, list, Some(&room.create));
                (
                    auth_keys(version, &pdu),
                    by(&claimed),
                    by(&turned),
                    room.judge_by_state(&pdu),
                )
            };
            let first = answers();
            assert_eq!(first.1, first.2, "the order of a list is no argument");
            assert_eq!(answers(), first);
            assert_eq!(question(), asked);
        }
    }
}

#[test]
fn before_version_12_the_create_event_must_be_claimed_and_later_it_is_implied() {
    for version in RoomVersion::supported() {
        let room = Room::with_members(version, "invite");
        let pdu = room.make(("@u:u", "m.room.message", None, json!({})));
        let implied = implied_create_event(version, &pdu);
        let keys = auth_keys(version, &pdu).unwrap();
        let listed = keys.iter().any(|key| key.event_type == "m.room.create");
        assert_eq!(listed, version != RoomVersion::V12);
        if version == RoomVersion::V12 {
            assert_eq!(implied.as_deref(), Some(room.create.id()));
            assert_eq!(implied_create_event(version, &room.create.pdu), None);
            let claimed = room.claimed(&pdu);
            assert!(check_claimed(version, &pdu, &claimed, None).is_err());
        } else {
            assert_eq!(implied, None);
        }
    }
}

/// R20 and R21: what the author claims and what the state says are judged one after the other.
#[test]
fn claims_that_permit_do_not_help_against_a_state_that_forbids() {
    for version in RoomVersion::supported() {
        let mut room = Room::with_members(version, "invite");
        let before = room.make(("@u:u", "m.room.message", None, json!({})));
        let claimed = room.claimed(&before);
        room.put(membership("@c:c", "@u:u", "ban"));
        assert_eq!(
            check_claimed(version, &before, &claimed, Some(&room.create)),
            Ok(())
        );
        assert!(matches!(
            room.judge_by_state(&before),
            Err(Rejection::Forbidden(_))
        ));
    }
}

#[test]
fn the_auth_events_of_a_membership_are_those_the_specification_selects() {
    let room = Room::with_members(RoomVersion::V12, "restricted");
    let keys = |sketch| -> Vec<String> {
        let keys = auth_keys(RoomVersion::V12, &room.make(sketch)).unwrap();
        keys.iter()
            .map(|key| format!("{} {}", key.event_type, key.state_key))
            .collect()
    };
    assert_eq!(
        keys(authorised_join("@m:m")),
        [
            "m.room.power_levels ",
            "m.room.member @n:n",
            "m.room.join_rules ",
            "m.room.member @m:m",
        ]
    );
    assert_eq!(
        keys(membership("@m:m", "@u:u", "leave")),
        [
            "m.room.power_levels ",
            "m.room.member @m:m",
            "m.room.member @u:u"
        ]
    );
    let invite = json!({
        "membership": "invite",
        "third_party_invite": {"signed": {"token": "t", "mxid": "@n:n", "signatures": {}}},
    });
    assert_eq!(
        keys(("@m:m", "m.room.member", Some("@n:n"), invite)),
        [
            "m.room.power_levels ",
            "m.room.member @m:m",
            "m.room.member @n:n",
            "m.room.join_rules ",
            "m.room.third_party_invite t",
        ]
    );
}

/// From version 12 on a create event is called as its room is, and lacks the room's ID for that.
#[test]
fn an_event_that_is_called_as_its_room_by_chance_has_the_rooms_id() {
    let room = Room::with_members(RoomVersion::V1, "public");
    let content = json!({ "body": "" });
    let mut pdu = Pdu::clone(&room.make(("@u:u", "m.room.message", None, content)));
    pdu.event_id = "$r:c".try_into().unwrap();
    assert_eq!(room.judge(&pdu), Ok(()));
}
