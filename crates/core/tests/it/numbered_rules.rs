//! The authorisation rules by the numbers that the specification of each room version gives them: what each
//! lets pass, and what it refuses (R14).

use std::{collections::BTreeSet, ops::Range};

use myelin_core::{
    auth::{Rejection, check_claimed},
    event::Verdict,
    pdu::Pdu,
    room_version::RoomVersion,
    testing::{third_party_invite, third_party_signed},
    validate::Unverified,
};
use ruma::user_id;
use serde_json::{Value, json};

use crate::{
    auth_rules::{authorised_join, levels, membership, raw, with_claims},
    room::{Room, Sketch, stored},
};

/// The room versions whose rules are numbered alike, by the first of each.
#[rustfmt::skip]
const FAMILIES: [RoomVersion; 8] =
    [RoomVersion::V1, RoomVersion::V3, RoomVersion::V6, RoomVersion::V7, RoomVersion::V8, RoomVersion::V10, RoomVersion::V11, RoomVersion::V12];

/// Where a chapter of the rules stands in each family; nothing where it does not exist.
#[rustfmt::skip]
const CHAPTERS: &[(&str, [&str; 8])] = &[
    ("create", ["1", "1", "1", "1", "1", "1", "1", "1"]),
    ("room", ["", "", "", "", "", "", "", "2"]),
    ("claims", ["2", "2", "2", "2", "2", "2", "2", "3"]),
    ("federate", ["3", "3", "3", "3", "3", "3", "3", "4"]),
    ("aliases", ["4", "4", "", "", "", "", "", ""]),
    ("member", ["5", "5", "4", "4", "4", "4", "4", "5"]),
    ("vouch", ["", "", "", "", "4.2", "4.2", "4.2", "5.2"]),
    ("join", ["5.2", "5.2", "4.2", "4.2", "4.3", "4.3", "4.3", "5.3"]),
    ("invite", ["5.3", "5.3", "4.3", "4.3", "4.4", "4.4", "4.4", "5.4"]),
    ("leave", ["5.4", "5.4", "4.4", "4.4", "4.5", "4.5", "4.5", "5.5"]),
    ("ban", ["5.5", "5.5", "4.5", "4.5", "4.6", "4.6", "4.6", "5.6"]),
    ("knock", ["", "", "", "4.6", "4.7", "4.7", "4.7", "5.7"]),
    ("unknown", ["5.6", "5.6", "4.6", "4.7", "4.8", "4.8", "4.8", "5.8"]),
    ("joined", ["6", "6", "5", "5", "5", "5", "5", "6"]),
    ("address", ["7", "7", "6", "6", "6", "6", "6", "7"]),
    ("level", ["8", "8", "7", "7", "7", "7", "7", "8"]),
    ("key", ["9", "9", "8", "8", "8", "8", "8", "9"]),
    ("powers", ["10", "10", "9", "9", "9", "9", "9", "10"]),
    ("redaction", ["11", "", "", "", "", "", "", ""]),
    ("rest", ["12", "11", "10", "10", "10", "10", "10", "11"]),
];

type Judgement = Result<(), Rejection>;
type Trial = Box<dyn Fn(RoomVersion) -> Judgement>;

/// A rule: its places, what passes it, and what it refuses. A rule that only allows refuses nothing, and one
/// that only refuses lets nothing pass.
struct Rule {
    /// For which families from the first on it stands where: the chapter's name, and what comes after its number.
    places: Vec<(Range<usize>, &'static str)>,
    passes: Option<Trial>,
    fails: Option<Trial>,
}

impl Rule {
    /// Whether the event and its auth events break it, whatever the state is.
    fn needs_no_state(&self) -> bool {
        let (_, place) = self.places[0];
        let chapter = place.split('.').next();
        chapter.is_some_and(|chapter| ["create", "room", "claims"].contains(&chapter))
    }

    fn number(&self, family: usize) -> Option<String> {
        let (_, place) = self
            .places
            .iter()
            .find(|(families, _)| families.contains(&family))?;
        let (chapter, rest) = place
            .split_once('.')
            .map_or((*place, None), |(chapter, rest)| (chapter, Some(rest)));
        let (_, numbers) = CHAPTERS
            .iter()
            .find(|(name, _)| *name == chapter)
            .expect(chapter);
        let number = numbers[family];
        assert!(
            !number.is_empty(),
            "{place} does not exist in family {family}"
        );
        Some(rest.map_or_else(|| number.to_owned(), |rest| format!("{number}.{rest}")))
    }
}

/// An event in a room with this join rule, after these.
fn room(join_rule: &'static str, before: Vec<Sketch>, event: Sketch) -> Option<Trial> {
    Some(Box::new(move |version| {
        let mut room = Room::with_members(version, join_rule);
        for sketch in &before {
            room.put(sketch.clone());
        }
        room.judge(&room.make(event.clone()))
    }))
}

/// A room's create event, altered.
fn create(alter: fn(RoomVersion, &mut Pdu)) -> Option<Trial> {
    Some(Box::new(move |version| {
        let mut pdu = Pdu::clone(&Room::new(version, json!({})).create.pdu);
        alter(version, &mut pdu);
        check_claimed(version, &pdu, &[], None)
    }))
}

fn set_content(pdu: &mut Pdu, change: impl FnOnce(&mut Value)) {
    let mut content = serde_json::from_str(pdu.content.get()).unwrap();
    change(&mut content);
    pdu.content = raw(content);
}

fn trial(judge: fn(RoomVersion) -> Judgement) -> Option<Trial> {
    Some(Box::new(judge))
}

/// A rule with one place in every family.
fn everywhere(place: &'static str, passes: Option<Trial>, fails: Option<Trial>) -> Rule {
    Rule {
        places: vec![(0..8, place)],
        passes,
        fails,
    }
}

/// A rule that stands elsewhere, or nowhere, in some families.
fn moved(
    places: &[(Range<usize>, &'static str)],
    passes: Option<Trial>,
    fails: Option<Trial>,
) -> Rule {
    Rule {
        places: places.to_vec(),
        passes,
        fails,
    }
}

#[rustfmt::skip]
fn creation() -> Vec<Rule> {
    let fine = || create(|_, _| ());
    vec![
        everywhere("create.1", fine(), create(|_, pdu| pdu.prev_events.push(pdu.event_id.clone()))),
        everywhere("create.2", fine(), create(|_, pdu| pdu.room_id = "!r:elsewhere".try_into().unwrap())),
        everywhere("create.3", fine(), create(|_, pdu| set_content(pdu, |content| content["room_version"] = json!("x")))),
        everywhere("create.3", fine(), create(|version, pdu| set_content(pdu, |content| content["room_version"] = json!(other(version).as_str())))),
        moved(&[(0..6, "create.4")], fine(), create(|_, pdu| set_content(pdu, |content| drop(content.as_object_mut().unwrap().remove("creator"))))),
        moved(
            &[(7..8, "create.4")],
            create(|_, pdu| set_content(pdu, |content| content["additional_creators"] = json!(["@d:d"]))),
            create(|_, pdu| set_content(pdu, |content| content["additional_creators"] = json!(["d"]))),
        ),
        moved(&[(0..6, "create.5"), (6..7, "create.4"), (7..8, "create.5")], fine(), None),
    ]
}

/// A version that is supported as well, and of which the rules for create events are others.
fn other(version: RoomVersion) -> RoomVersion {
    if version < RoomVersion::V11 {
        RoomVersion::V11
    } else {
        RoomVersion::V10
    }
}

#[rustfmt::skip]
fn claims() -> Vec<Rule> {
    let honest = || trial(|version| with_claims(&Room::with_members(version, "invite"), |_| {}));
    vec![
        moved(
            &[(7..8, "room")],
            honest(),
            trial(|version| {
                let room = Room::with_members(version, "invite");
                let pdu = room.make(("@u:u", "m.room.message", None, json!({})));
                let rejected = stored(room.create.pdu.clone(), 1, Verdict::Rejected);
                check_claimed(version, &pdu, &room.claimed(&pdu), Some(&rejected))
            }),
        ),
        everywhere(
            "claims.1",
            honest(),
            trial(|version| {
                let mut room = Room::with_members(version, "invite");
                room.put(membership("@u:u", "@u:u", "join"));
                let earlier = stored(room.make(membership("@u:u", "@u:u", "join")), 92, Verdict::Accepted);
                with_claims(&room, |claimed| claimed.push(earlier))
            }),
        ),
        everywhere(
            "claims.2",
            honest(),
            trial(|version| {
                let room = Room::with_members(version, "invite");
                let rules = room.make(("@c:c", "m.room.join_rules", Some(""), json!({"join_rule": "x"})));
                with_claims(&room, |claimed| claimed.push(stored(rules, 91, Verdict::Accepted)))
            }),
        ),
        everywhere(
            "claims.3",
            honest(),
            trial(|version| {
                let room = Room::with_members(version, "invite");
                with_claims(&room, |claimed| claimed[0] = stored(claimed[0].pdu.clone(), claimed[0].nr.0, Verdict::Rejected))
            }),
        ),
        moved(
            &[(0..7, "claims.4")],
            honest(),
            trial(|version| {
                let room = Room::with_members(version, "invite");
                with_claims(&room, |claimed| claimed.retain(|event| event.id() != room.create.id()))
            }),
        ),
        everywhere(
            "claims.5",
            honest(),
            trial(|version| {
                let room = Room::with_members(version, "invite");
                with_claims(&room, |claimed| {
                    let mut pdu = Pdu::clone(&claimed[0].pdu);
                    pdu.room_id = "!other:c".try_into().unwrap();
                    claimed[0] = stored(pdu.into(), claimed[0].nr.0, Verdict::Accepted);
                })
            }),
        ),
        everywhere("federate", joining("@a:d", true), joining("@a:d", false)),
        everywhere("federate", joining("@a:c", false), None),
    ]
}

/// A user joins a public room that federates, or does not. Its creator's server is "c".
fn joining(user: &'static str, federates: bool) -> Option<Trial> {
    Some(Box::new(move |version| {
        let mut room = Room::new(version, json!({"m.federate": federates}));
        room.put(membership("@c:c", "@c:c", "join"));
        room.put((
            "@c:c",
            "m.room.join_rules",
            Some(""),
            json!({"join_rule": "public"}),
        ));
        room.judge(&room.make(membership(user, user, "join")))
    }))
}

#[rustfmt::skip]
fn aliases_and_redactions() -> Vec<Rule> {
    let aliases = |key| ("@n:n", "m.room.aliases", key, json!({"aliases": []}));
    let of_old = 0..2;
    let redacts = |sender: &'static str, target: &'static str| -> Option<Trial> {
        Some(Box::new(move |version| {
            let room = Room::with_members(version, "invite");
            let mut pdu = Pdu::clone(&room.make((sender, "m.room.redaction", None, json!({}))));
            pdu.redacts = Some(target.try_into().unwrap());
            room.judge(&pdu)
        }))
    };
    vec![
        moved(&[(of_old.clone(), "aliases.1")], room("invite", vec![], aliases(Some("n"))), room("invite", vec![], aliases(None))),
        moved(&[(of_old.clone(), "aliases.2")], room("invite", vec![], aliases(Some("n"))), room("invite", vec![], aliases(Some("m")))),
        moved(&[(of_old, "aliases.3")], room("invite", vec![], aliases(Some("n"))), None),
        // All events of these rooms have IDs of the server "c".
        moved(&[(0..1, "redaction.1")], redacts("@m:m", "$e:elsewhere"), redacts("@u:u", "$e:elsewhere")),
        moved(&[(0..1, "redaction.2")], redacts("@u:u", "$e:c"), redacts("@u:u", "$e:elsewhere")),
        moved(&[(0..1, "redaction.3")], None, redacts("@u:u", "$e:elsewhere")),
    ]
}

#[rustfmt::skip]
fn joins() -> Vec<Rule> {
    let join = || membership("@n:n", "@n:n", "join");
    let is = |what| vec![membership("@c:c", "@n:n", what)];
    let open = || room("public", vec![], join());
    let first = |user: &'static str| -> Option<Trial> {
        Some(Box::new(move |version| {
            let room = Room::new(version, json!({}));
            room.judge(&room.make(membership(user, user, "join")))
        }))
    };
    vec![
        everywhere("member.1", open(), room("public", vec![], ("@n:n", "m.room.member", Some("@n:n"), json!({})))),
        everywhere("member.1", open(), room("public", vec![], ("@n:n", "m.room.member", None, json!({"membership": "join"})))),
        moved(&[(4..8, "vouch.1")], trial(|version| signed_by(version, &["n", "m"])), trial(|version| signed_by(version, &["n"]))),
        everywhere("join.1", first("@c:c"), first("@n:n")),
        everywhere("join.2", open(), room("public", vec![], membership("@u:u", "@n:n", "join"))),
        everywhere("join.3", open(), room("public", is("ban"), join())),
        everywhere("join.4", room("invite", is("invite"), join()), room("invite", vec![], join())),
        moved(&[(3..8, "join.4")], room("knock", is("invite"), join()), room("knock", is("knock"), join())),
        moved(&[(4..8, "join.5.1")], room("restricted", is("invite"), join()), room("restricted", vec![], join())),
        moved(&[(5..8, "join.5.1")], room("knock_restricted", is("invite"), join()), room("knock_restricted", vec![], join())),
        moved(&[(4..8, "join.5.2")], room("restricted", vec![], authorised_join("@m:m")), room("restricted", vec![], authorised_join("@u:u"))),
        moved(&[(4..8, "join.5.3")], room("restricted", vec![], authorised_join("@m:m")), None),
        moved(&[(0..4, "join.5"), (4..8, "join.6")], open(), room("invite", vec![], join())),
        moved(&[(0..4, "join.6"), (4..8, "join.7")], None, room("private", is("invite"), join())),
    ]
}

/// What a receiver says of the signatures of a join that `@m:m` vouches for, when these servers signed it.
fn signed_by(version: RoomVersion, servers: &[&str]) -> Judgement {
    let room = Room::with_members(version, "restricted");
    let join = room.make(authorised_join("@m:m"));
    let mut event: Value = serde_json::from_str(&join.json).unwrap();
    event["signatures"] = servers
        .iter()
        .map(|server| ((*server).to_owned(), json!({"ed25519:1": "AAAA"})))
        .collect();
    match Unverified::parse(version, &event.to_string(), None) {
        Ok(_) => Ok(()),
        Err(reason) => Err(Rejection::Malformed(reason.to_string())),
    }
}

#[rustfmt::skip]
fn invites() -> Vec<Rule> {
    let invited = |by| vec![(by, "m.room.third_party_invite", Some("t"), third_party_invite())];
    let listed = || {
        let content = json!({"display_name": "n", "public_keys": [third_party_invite()]});
        vec![("@m:m", "m.room.third_party_invite", Some("t"), content)]
    };
    let word = |change: fn(&mut Value)| {
        let mut content = third_party_signed(user_id!("@n:n"), "t");
        content["membership"] = json!("invite");
        change(&mut content["third_party_invite"]);
        ("@m:m", "m.room.member", Some("@n:n"), content)
    };
    let redeemed = || room("invite", invited("@m:m"), word(|_| ()));
    let but = |change| room("invite", invited("@m:m"), word(change));
    let forged = |invite: &mut Value| invite["signed"]["more"] = json!(true);
    let banned = [invited("@m:m"), vec![membership("@c:c", "@n:n", "ban")]].concat();
    let invite = |sender, target| membership(sender, target, "invite");
    let ordinary = || room("invite", vec![], invite("@m:m", "@n:n"));
    vec![
        everywhere("invite.1.1", redeemed(), room("invite", banned, word(|_| ()))),
        everywhere("invite.1.2", redeemed(), but(|invite| drop(invite["signed"].take()))),
        everywhere("invite.1.3", redeemed(), but(|invite| drop(invite["signed"].as_object_mut().unwrap().remove("mxid")))),
        everywhere("invite.1.3", redeemed(), but(|invite| drop(invite["signed"].as_object_mut().unwrap().remove("token")))),
        everywhere("invite.1.4", redeemed(), but(|invite| invite["signed"]["mxid"] = json!("@o:o"))),
        everywhere("invite.1.5", redeemed(), room("invite", vec![], word(|_| ()))),
        everywhere("invite.1.6", redeemed(), room("invite", invited("@u:u"), word(|_| ()))),
        everywhere("invite.1.7.1", redeemed(), but(forged)),
        everywhere("invite.1.7.2", room("invite", listed(), word(|_| ())), room("invite", listed(), word(forged))),
        everywhere("invite.1.8", None, but(forged)),
        everywhere("invite.2", ordinary(), room("invite", vec![], invite("@x:x", "@n:n"))),
        everywhere("invite.3", ordinary(), room("invite", vec![], invite("@m:m", "@u:u"))),
        everywhere("invite.3", ordinary(), room("invite", vec![membership("@c:c", "@n:n", "ban")], invite("@m:m", "@n:n"))),
        everywhere("invite.4", ordinary(), room("invite", vec![], invite("@u:u", "@n:n"))),
        everywhere("invite.5", None, room("invite", vec![], invite("@u:u", "@n:n"))),
    ]
}

#[rustfmt::skip]
fn leaves_bans_and_knocks() -> Vec<Rule> {
    let kick = |sender, target| membership(sender, target, "leave");
    let ban = |sender, target| membership(sender, target, "ban");
    let knock = || membership("@n:n", "@n:n", "knock");
    let is = |what| vec![membership("@c:c", "@n:n", what)];
    let gone = || vec![kick("@m:m", "@m:m")];
    let kicks = || room("invite", vec![], kick("@m:m", "@u:u"));
    let bans = || room("invite", vec![], ban("@m:m", "@u:u"));
    let knocks = || room("knock", vec![], knock());
    let may_not_ban = || vec![levels("@c:c", json!({"kick": 0, "users": {"@m:m": 49}})), membership("@c:c", "@n:n", "ban")];
    vec![
        everywhere("leave.1", room("invite", vec![], kick("@u:u", "@u:u")), room("public", vec![], kick("@n:n", "@n:n"))),
        moved(&[(3..8, "leave.1")], room("knock", is("knock"), kick("@n:n", "@n:n")), room("knock", is("ban"), kick("@n:n", "@n:n"))),
        everywhere("leave.2", kicks(), room("invite", gone(), kick("@m:m", "@u:u"))),
        everywhere("leave.3", room("invite", is("ban"), kick("@m:m", "@n:n")), room("invite", may_not_ban(), kick("@m:m", "@n:n"))),
        everywhere("leave.4", kicks(), room("invite", vec![], kick("@m:m", "@c:c"))),
        everywhere("leave.5", None, room("invite", vec![], kick("@u:u", "@n:n"))),
        everywhere("ban.1", bans(), room("invite", gone(), ban("@m:m", "@u:u"))),
        everywhere("ban.2", bans(), room("invite", vec![], ban("@m:m", "@c:c"))),
        everywhere("ban.3", None, room("invite", vec![], ban("@u:u", "@n:n"))),
        moved(&[(3..8, "knock.1")], knocks(), room("invite", vec![], knock())),
        moved(&[(5..8, "knock.1")], room("knock_restricted", vec![], knock()), room("restricted", vec![], knock())),
        moved(&[(3..8, "knock.2")], knocks(), room("knock", vec![], membership("@u:u", "@n:n", "knock"))),
        moved(&[(3..8, "knock.3")], room("knock", is("leave"), knock()), room("knock", is("ban"), knock())),
        moved(&[(3..8, "knock.4")], None, room("knock", is("invite"), knock())),
        everywhere("unknown", None, room("public", vec![], membership("@n:n", "@n:n", "hover"))),
    ]
}

#[rustfmt::skip]
fn what_needs_a_level() -> Vec<Rule> {
    let text = |sender| room("invite", vec![], (sender, "m.room.message", None, json!({"body": "b"})));
    let by_address = |sender| room("invite", vec![], (sender, "m.room.third_party_invite", Some("t"), third_party_invite()));
    let name = |sender| room("invite", vec![], (sender, "m.room.name", Some(""), json!({"name": "n"})));
    let of = |key| room("invite", vec![levels("@c:c", json!({"state_default": 0}))], ("@u:u", "x.y", Some(key), json!({})));
    vec![
        everywhere("joined", text("@u:u"), text("@x:x")),
        everywhere("address.1", by_address("@m:m"), by_address("@u:u")),
        everywhere("level", name("@m:m"), name("@u:u")),
        everywhere("key", of("@u:u"), of("@m:m")),
        everywhere("rest", text("@u:u"), None),
    ]
}

#[rustfmt::skip]
fn power_levels() -> Vec<Rule> {
    let old = || json!({"users": {"@m:m": 50, "@u:u": 10, "@e:e": 50}, "ban": 60, "events": {"a.b": 60, "c.d": 20}, "notifications": {"x": 60}});
    let set = |change: fn(&mut Value)| {
        let mut new = old();
        change(&mut new);
        room("invite", vec![levels("@c:c", old())], levels("@m:m", new))
    };
    let same = || set(|_| ());
    let first = |content: fn(&mut Value)| -> Option<Trial> {
        Some(Box::new(move |version| {
            let mut room = Room::new(version, json!({}));
            room.put(membership("@c:c", "@c:c", "join"));
            let mut levels = levels("@c:c", json!({"users": {}}));
            content(&mut levels.3);
            room.judge(&room.make(levels))
        }))
    };
    let by_first = |place| (0..5, place);
    let by_later = |place| (5..7, place);
    let by_last = |place| (7..8, place);
    vec![
        moved(&[(5..8, "powers.1")], same(), set(|levels| levels["redact"] = json!("50"))),
        moved(&[(5..8, "powers.2")], same(), set(|levels| levels["events"]["c.d"] = json!("20"))),
        moved(&[(5..8, "powers.2")], same(), set(|levels| levels["notifications"] = json!([]))),
        moved(&[by_first("powers.1"), (5..8, "powers.3")], same(), set(|levels| levels["users"]["u"] = json!(1))),
        moved(&[by_first("powers.1"), (5..8, "powers.3")], same(), set(|levels| levels["users"]["@u:u"] = json!([]))),
        moved(&[by_last("powers.4")], first(|_| ()), first(|levels| levels["users"]["@c:c"] = json!(100))),
        moved(
            &[by_first("powers.2"), by_later("powers.4"), by_last("powers.5")],
            first(|levels| levels["ban"] = json!(200)),
            set(|levels| levels["ban"] = json!(200)),
        ),
        moved(&[by_first("powers.3.1"), by_later("powers.5.1"), by_last("powers.6.1")], same(), set(|levels| levels["ban"] = json!(50))),
        moved(
            &[by_first("powers.3.2"), by_later("powers.5.2"), by_last("powers.6.2")],
            set(|levels| levels["kick"] = json!(49)),
            set(|levels| levels["kick"] = json!(51)),
        ),
        moved(
            &[by_first("powers.4.1"), by_later("powers.6.1"), by_last("powers.7.1")],
            set(|levels| drop(levels["events"].as_object_mut().unwrap().remove("c.d"))),
            set(|levels| drop(levels["events"].as_object_mut().unwrap().remove("a.b"))),
        ),
        moved(&[(2..5, "powers.4.1"), by_later("powers.6.1"), by_last("powers.7.1")], same(), set(|levels| levels["notifications"] = json!({}))),
        moved(
            &[by_first("powers.5.1"), by_later("powers.7.1"), by_last("powers.8.1")],
            set(|levels| levels["events"]["n.n"] = json!(50)),
            set(|levels| levels["events"]["n.n"] = json!(51)),
        ),
        moved(
            &[(2..5, "powers.5.1"), by_later("powers.7.1"), by_last("powers.8.1")],
            set(|levels| levels["notifications"]["y"] = json!(50)),
            set(|levels| levels["notifications"]["y"] = json!(51)),
        ),
        moved(
            &[by_first("powers.6.1"), by_later("powers.8.1"), by_last("powers.9.1")],
            set(|levels| levels["users"]["@u:u"] = json!(0)),
            set(|levels| levels["users"]["@e:e"] = json!(0)),
        ),
        moved(
            &[by_first("powers.7.1"), by_later("powers.9.1"), by_last("powers.10.1")],
            set(|levels| levels["users"]["@n:n"] = json!(50)),
            set(|levels| levels["users"]["@n:n"] = json!(51)),
        ),
        moved(&[by_first("powers.8"), by_later("powers.10"), by_last("powers.11")], same(), None),
    ]
}

fn rules() -> Vec<Rule> {
    let mut rules = creation();
    rules.extend(claims());
    rules.extend(aliases_and_redactions());
    rules.extend(joins());
    rules.extend(invites());
    rules.extend(leaves_bans_and_knocks());
    rules.extend(what_needs_a_level());
    rules.extend(power_levels());
    rules
}

/// R14.
#[test]
fn each_numbered_rule_of_each_version_lets_pass_and_refuses_what_it_should() {
    let rules = rules();
    for version in RoomVersion::supported() {
        let family = FAMILIES
            .iter()
            .rposition(|first| *first <= version)
            .unwrap();
        for rule in &rules {
            let Some(number) = rule.number(family) else {
                continue;
            };
            if let Some(passes) = &rule.passes {
                assert_eq!(
                    passes(version),
                    Ok(()),
                    "rule {number} of version {version}"
                );
            }
            if let Some(fails) = &rule.fails {
                let refusal = fails(version).expect_err(&number);
                assert!(
                    matches!(refusal, Rejection::Malformed(_)) || !rule.needs_no_state(),
                    "rule {number} of version {version}: {refusal:?}"
                );
            }
        }
    }
}

/// A rule that the table forgets would leave a gap in its numbers.
#[test]
fn the_numbers_have_no_gaps() {
    let rules = rules();
    for family in 0..FAMILIES.len() {
        let leaves: BTreeSet<Vec<u32>> = rules
            .iter()
            .filter_map(|rule| rule.number(family))
            .map(|number| {
                number
                    .split('.')
                    .map(|part| part.parse().unwrap())
                    .collect()
            })
            .collect();
        let exists = |number: &[u32]| leaves.iter().any(|leaf| leaf.starts_with(number));
        for leaf in &leaves {
            for depth in 1..=leaf.len() {
                let mut before = leaf[..depth].to_vec();
                before[depth - 1] -= 1;
                // The specification of version 12 leaves out 3.4.
                let left_out = family == 7 && before == [3, 4];
                let first = before[depth - 1] == 0;
                assert!(
                    first || left_out || exists(&before),
                    "family {family}: {before:?} before {leaf:?}"
                );
            }
        }
    }
}
