//! What becomes of an event: where its parents are, what the checks say, and how it moves the room.

use std::collections::{BTreeMap, BTreeSet};

use myelin_core::{
    completeness::Completeness,
    event::{Place, Verdict},
    number::EventNr,
    receive::{
        Decision, DropReason, Incoming, KnownState, Placement, Plan, RemoteNeed, TimelinePlan,
        current_state, decide, judge_again,
    },
    room_version::RoomVersion,
    state::State,
    testing::HASH_KEY,
    validate::ValidPdu,
};
use ruma::OwnedEventId;
use serde_json::json;

use crate::{
    room::Sketch,
    timeline::{Timeline, done, member, message, topic},
};

const BAN: fn() -> Sketch = || {
    let content = json!({ "membership": "ban" });
    ("@c:c", "m.room.member", Some("@u:u"), content)
};

fn rooms() -> impl Iterator<Item = Timeline> {
    [RoomVersion::V10, RoomVersion::V11, RoomVersion::V12]
        .into_iter()
        .map(Timeline::with_members)
}

fn room() -> Timeline {
    Timeline::with_members(RoomVersion::V11)
}

/// The only extremity.
fn last(room: &Timeline) -> EventNr {
    assert_eq!(room.extremities.len(), 1);
    *room.extremities.first().unwrap()
}

fn only(nr: EventNr) -> BTreeSet<EventNr> {
    BTreeSet::from([nr])
}

fn timeline(plan: &Plan) -> &TimelinePlan {
    plan.timeline.as_ref().expect("it is in the timeline")
}

fn moves_the_room(plan: &Plan) -> bool {
    timeline(plan).moves.is_some()
}

fn pulled(after_missing: BTreeMap<OwnedEventId, KnownState>) -> Placement {
    Placement::Pulled {
        backfilled: false,
        after_missing,
    }
}

fn backfilled(after_missing: BTreeMap<OwnedEventId, KnownState>) -> Placement {
    Placement::Pulled {
        backfilled: true,
        after_missing,
    }
}

fn placed(incoming: &Incoming, placement: Placement) -> Incoming {
    Incoming {
        placement,
        ..incoming.clone()
    }
}

#[test]
fn an_accepted_event_takes_its_parents_place() {
    for mut room in rooms() {
        let parent = last(&room);
        let before = room.after(parent).state;
        let pdu = room.write_after(topic("@m:m"), parent);
        let incoming = room.incoming(pdu);
        let plan = done(room.decide(&incoming));
        assert_eq!((plan.nr, plan.verdict), (incoming.nr, Verdict::Accepted));
        let cited = plan.auth_events.iter().map(|nr| room.id(*nr));
        assert_eq!(cited.collect::<Vec<_>>(), incoming.pdu.auth_events);
        let TimelinePlan {
            before: known,
            moves,
            backfilled,
        } = timeline(&plan);
        assert_eq!((known.state.hash(), *backfilled), (before.hash(), false));
        assert_eq!(known.completeness, Completeness::FULL);
        let moves = moves.as_ref().unwrap();
        assert_eq!(moves.extremities, only(plan.nr));
        let current = &moves.current.state;
        assert_eq!(room.entry(current, "m.room.topic", ""), Some(plan.nr));
        assert_eq!(current.len(), before.len() + 1);
    }
}

#[test]
fn a_known_event_is_dropped_and_a_known_outlier_is_not() {
    let mut room = room();
    let parent = last(&room);
    let pdu = room.write_after(message("@u:u"), parent);
    let incoming = room.incoming(pdu);
    let outlier = placed(&incoming, Placement::Outlier);
    let plan = done(room.decide(&outlier));
    assert_eq!(plan.verdict, Verdict::Accepted);
    assert!(plan.timeline.is_none());
    room.store(plan);
    let known = |decision| matches!(decision, Decision::<Plan>::Drop(DropReason::Known));
    assert!(known(room.decide(&outlier)));
    let plan = done(room.decide(&incoming));
    assert!(moves_the_room(&plan));
    room.store(plan);
    assert!(known(room.decide(&outlier)));
    assert!(known(room.decide(&incoming)));
}

#[test]
fn an_outlier_that_its_auth_events_forbid_is_rejected() {
    let mut room = room();
    let state = room.after(last(&room)).state;
    let pdu = room.write(topic("@u:u"), &[], &state);
    let incoming = room.incoming(pdu);
    let plan = done(room.decide(&placed(&incoming, Placement::Outlier)));
    assert_eq!(plan.verdict, Verdict::Rejected);
    assert!(plan.reason.is_some());
}

#[test]
fn what_stands_in_for_a_missing_parent_depends_on_how_the_event_came() {
    let mut room = room();
    let parent = last(&room);
    let known = room.after(parent);
    let hash = known.state.hash();
    let id = room.id(parent);
    let pdu = room.write_after(message("@u:u"), parent);
    let depth = pdu.depth;
    let live = room.incoming(pdu);
    // An outlier is no parent whose state is known.
    room.forget_timeline();
    room.min_depth = depth - 1;
    let asked_for = |decision| match decision {
        Decision::<Plan>::NeedRemote(need) => need,
        other => panic!("{}", other.name()),
    };
    let parents = RemoteNeed::Parents(vec![id.clone()]);
    assert_eq!(asked_for(room.decide(&live)), parents);
    let states = RemoteNeed::StatesAfter(vec![id.clone()]);
    let incoming = placed(&live, pulled(BTreeMap::new()));
    assert_eq!(asked_for(room.decide(&incoming)), states);
    let incoming = placed(&live, pulled(BTreeMap::from([(id, known.clone())])));
    let plan = done(room.decide(&incoming));
    assert_eq!(timeline(&plan).before.state.hash(), hash);
    let incoming = placed(&live, Placement::RemoteJoin { before: known });
    let plan = done(room.decide(&incoming));
    assert_eq!(timeline(&plan).before.state.hash(), hash);
    room.min_depth = depth;
    let decision = room.decide(&live);
    assert!(matches!(
        decision,
        Decision::Drop(DropReason::BelowMinimumDepth)
    ));
}

#[test]
fn auth_events_that_are_missing_are_asked_for() {
    for mut room in rooms() {
        let create = room.id(EventNr(1));
        let state = room.after(EventNr(1)).state;
        let pdu = room.write(member("@c:c", "join"), &[], &state);
        let mut other = Timeline::empty(room.version);
        let incoming = placed(&other.incoming(pdu), Placement::Outlier);
        match other.decide(&incoming) {
            Decision::NeedRemote(need) => {
                assert_eq!(
                    need,
                    RemoteNeed::AuthEvents(vec![create]),
                    "{}",
                    room.version
                );
            }
            decision => panic!("{}: {}", room.version, decision.name()),
        }
    }
}

#[test]
fn a_room_has_one_create_event() {
    let mut room = room();
    let create = room.event(EventNr(1)).pdu.clone();
    let content = json!({ "room_version": "11", "m.federate": true });
    let empty = State::empty(HASH_KEY);
    let second = room.write(("@c:c", "m.room.create", Some(""), content), &[], &empty);
    for placement in [Placement::Live, Placement::Outlier] {
        let incoming = placed(&room.incoming(second.clone()), placement);
        let decision = room.decide(&incoming);
        assert!(matches!(decision, Decision::Drop(DropReason::SecondCreate)));
    }
    // The room's own, as after a join that brought the state.
    room.change(EventNr(1), |event| event.place = Place::Outlier);
    let pdu = ValidPdu::from_own_storage((*create).clone());
    let mut incoming = placed(&room.incoming(pdu), backfilled(BTreeMap::new()));
    incoming.nr = EventNr(1);
    assert_eq!(done(room.decide(&incoming)).verdict, Verdict::Accepted);
}

#[test]
fn a_rejected_event_changes_nothing_and_what_follows_it_covers_what_it_followed() {
    let mut room = room();
    let parent = last(&room);
    let pdu = room.write_after(topic("@u:u"), parent);
    let incoming = room.incoming(pdu);
    let plan = done(room.decide(&incoming));
    assert_eq!(plan.verdict, Verdict::Rejected);
    assert!(plan.reason.is_some());
    assert!(!moves_the_room(&plan));
    let rejected = room.store(plan);
    assert_eq!(room.extremities, only(parent));
    assert_eq!(
        room.after(rejected).state.hash(),
        room.after(parent).state.hash()
    );
    let next = room.add_after(message("@u:u"), rejected);
    assert_eq!(room.extremities, only(next));
}

#[test]
fn what_lies_behind_accepted_parents_is_not_looked_at() {
    let mut room = room();
    let behind = room.add(message("@m:m"));
    let parent = room.add(message("@m:m"));
    let pdu = room.write_after(message("@u:u"), parent);
    let incoming = room.incoming(pdu);
    done(room.ask(|room, desk| {
        assert!(desk.peek(behind).is_none());
        decide(room, desk, &incoming)
    }));
}

#[test]
fn what_the_current_state_forbids_fails_softly() {
    let mut room = room();
    let parent = last(&room);
    let pdu = room.write_after(message("@u:u"), parent);
    room.add(BAN());
    let live = room.incoming(pdu);
    let judge = |incoming: &Incoming, current: Option<Completeness>| {
        let mut room = room.clone();
        room.current = current.map(|completeness| KnownState {
            completeness,
            ..room.current.clone().unwrap()
        });
        let plan = done(room.decide(incoming));
        assert_eq!(plan.reason.is_some(), plan.verdict != Verdict::Accepted);
        (plan.verdict, moves_the_room(&plan))
    };
    let full = Some(Completeness::FULL);
    assert_eq!(judge(&live, full), (Verdict::SoftFailed, false));
    let asked_for = placed(&live, pulled(BTreeMap::new()));
    assert_eq!(judge(&asked_for, full), (Verdict::SoftFailed, false));
    // History is not a matter of the present, and a partial state doesn't know who is banned.
    assert_eq!(
        judge(&placed(&live, backfilled(BTreeMap::new())), full),
        (Verdict::Accepted, false)
    );
    assert_eq!(
        judge(&live, Some(Completeness::PARTIAL)),
        (Verdict::Accepted, true)
    );
    assert_eq!(judge(&live, None), (Verdict::Accepted, true));
    let built_upon = Incoming {
        is_built_upon: true,
        ..live
    };
    assert_eq!(
        judge(&built_upon, Some(Completeness::PARTIAL)),
        (Verdict::Accepted, false)
    );
}

#[test]
fn what_follows_some_extremities_is_judged_by_all() {
    let mut room = room();
    let fork = last(&room);
    let ban = room.add_after(BAN(), fork);
    let other = room.add_after(message("@m:m"), fork);
    assert_eq!(room.extremities, BTreeSet::from([ban, other]));
    let pdu = room.write_after(message("@u:u"), other);
    let incoming = room.incoming(pdu);
    let plan = done(room.decide(&incoming));
    assert_eq!(plan.verdict, Verdict::SoftFailed);
    // It is not shown, so that what it followed can be followed again; and that covers both.
    let soft_failed = room.store(plan);
    assert_eq!(room.extremities, BTreeSet::from([ban, other]));
    let next = room.add_after(message("@m:m"), soft_failed);
    assert_eq!(room.extremities, BTreeSet::from([ban, next]));
}

#[test]
fn behind_a_gap_the_current_state_and_that_before_the_event_count_together() {
    for (sender, what_we_know, verdict) in [
        ("@u:u", BAN(), Verdict::SoftFailed),
        ("@n:n", message("@m:m"), Verdict::Accepted),
    ] {
        let mut room = room();
        let fork = last(&room);
        let mut theirs = room.clone();
        let join = theirs.add(member("@n:n", "join"));
        let gap = theirs.add(message("@m:m"));
        let pdu = theirs.write_after(message(sender), gap);
        room.add(what_we_know);
        // Of their branch we have what the state needs.
        let join = room.hold(theirs.event(join).pdu.clone());
        let after_gap = room.with_entry(room.after(fork), join);
        let states = BTreeMap::from([(theirs.id(gap), after_gap)]);
        let incoming = placed(&room.incoming(pdu), pulled(states));
        assert_eq!(done(room.decide(&incoming)).verdict, verdict, "{sender}");
    }
}

/// As it may be when the current state is not what the extremities give.
#[test]
fn behind_a_gap_the_current_state_counts_even_for_what_follows_all_extremities() {
    let mut room = room();
    let last = last(&room);
    let mut theirs = room.clone();
    let gap = theirs.add(message("@m:m"));
    let ban = room.write_after(BAN(), last);
    let ban = room.hold(ban.into_pdu());
    let known = room.after(last);
    room.current = Some(room.with_entry(known.clone(), ban));
    let parents = [room.id(last), theirs.id(gap)];
    let pdu = room.write(message("@u:u"), &parents, &known.state);
    let states = BTreeMap::from([(theirs.id(gap), known)]);
    let incoming = placed(&room.incoming(pdu), pulled(states));
    assert_eq!(done(room.decide(&incoming)).verdict, Verdict::SoftFailed);
}

#[test]
fn an_event_after_a_fork_has_the_state_of_both_branches() {
    for mut room in rooms() {
        let fork = last(&room);
        let topic = room.add_after(topic("@m:m"), fork);
        let join = room.add_after(member("@n:n", "join"), fork);
        let joined = |room: &Timeline, state: &State| {
            assert_eq!(room.entry(state, "m.room.topic", ""), Some(topic));
            assert_eq!(room.entry(state, "m.room.member", "@n:n"), Some(join));
        };
        let current = room.current.clone().unwrap();
        joined(&room, &current.state);
        let asked = done(room.ask(current_state));
        assert_eq!(asked.state.hash(), current.state.hash());
        let merge = room.add(message("@n:n"));
        assert_eq!(room.extremities, only(merge));
        joined(&room, &room.after(merge).state);
    }
}

#[test]
fn in_a_partial_state_a_claimed_membership_that_is_unknown_counts() {
    for (completeness, verdict) in [
        (Completeness::PARTIAL, Verdict::Accepted),
        (Completeness::FULL, Verdict::Rejected),
    ] {
        let mut room = room();
        let fork = last(&room);
        let mut theirs = room.clone();
        let join = theirs.add(member("@n:n", "join"));
        let pdu = theirs.write_after(message("@n:n"), join);
        room.hold(theirs.event(join).pdu.clone());
        let after_missing = KnownState {
            completeness,
            ..room.after(fork)
        };
        let states = BTreeMap::from([(theirs.id(join), after_missing)]);
        let incoming = placed(&room.incoming(pdu), backfilled(states));
        let plan = done(room.decide(&incoming));
        assert_eq!(
            (plan.verdict, timeline(&plan).before.completeness),
            (verdict, completeness)
        );
    }
}

#[test]
fn our_join_through_another_server_takes_the_state_that_it_gave_where_we_know_none() {
    let mut room = room();
    let fork = last(&room);
    let pdu = room.write_after(topic("@m:m"), fork);
    let topic = room.hold(pdu.into_pdu());
    let given = room.with_entry(room.after(fork), topic);
    let join = |room: &mut Timeline, parents: &[OwnedEventId]| {
        let pdu = room.write(member("@n:n", "join"), parents, &given.state);
        let placement = Placement::RemoteJoin {
            before: given.clone(),
        };
        let incoming = placed(&room.incoming(pdu), placement);
        let plan = done(room.decide(&incoming));
        assert_eq!(plan.verdict, Verdict::Accepted);
        let before = &timeline(&plan).before.state;
        room.entry(before, "m.room.topic", "").is_some()
    };
    let (known, missing) = (room.id(fork), room.id(topic));
    assert!(!join(&mut room, std::slice::from_ref(&known)));
    assert!(join(&mut room, &[known.clone(), missing]));
    room.forget_timeline();
    assert!(join(&mut room, &[known]));
}

/// An event of a user who is in the room by a partial state, and in fact is banned.
#[test]
fn with_more_known_an_event_is_judged_again() {
    let mut room = room();
    let parent = last(&room);
    let mut theirs = room.clone();
    let ban = theirs.add(BAN());
    let ban = room.hold(theirs.event(ban).pdu.clone());
    let missing = theirs.add(message("@m:m"));
    let state = room.after(parent).state;
    let pdu = room.write(message("@u:u"), &[theirs.id(missing)], &state);
    let harmless = room.after(parent);
    let banned = room.with_entry(harmless.clone(), ban);
    let partial = KnownState {
        completeness: Completeness::PARTIAL,
        ..harmless.clone()
    };
    let states = |state: KnownState| BTreeMap::from([(theirs.id(missing), state)]);
    let incoming = placed(&room.incoming(pdu), pulled(states(partial)));
    let plan = done(room.decide(&incoming));
    assert_eq!(plan.verdict, Verdict::Accepted);
    let nr = room.store(plan);
    for (then, after_missing, now) in [
        (Verdict::Accepted, &harmless, Verdict::Accepted),
        (Verdict::SoftFailed, &harmless, Verdict::SoftFailed),
        (Verdict::Rejected, &harmless, Verdict::Accepted),
        (Verdict::Accepted, &banned, Verdict::Rejected),
        (Verdict::SoftFailed, &banned, Verdict::Rejected),
    ] {
        room.change(nr, |event| event.verdict = then);
        let event = room.event(nr).clone();
        let states = states(after_missing.clone());
        let again = done(room.ask(|room, desk| judge_again(room, desk, &event, &states)));
        assert_eq!(
            (again.verdict, again.reason.is_some()),
            (now, now == Verdict::Rejected)
        );
        assert_eq!(again.before.state.hash(), after_missing.state.hash());
        assert_eq!(again.before.completeness, Completeness::FULL);
    }
    let event = room.event(nr).clone();
    let without = room.ask(|room, desk| judge_again(room, desk, &event, &BTreeMap::new()));
    let Decision::NeedRemote(RemoteNeed::StatesAfter(wanted)) = without else {
        panic!("the state is not asked for");
    };
    assert_eq!(wanted, [theirs.id(missing)]);
}

#[test]
fn figures_tell_the_outcomes_apart() {
    let drop = Decision::<Plan>::Drop;
    let need = Decision::<Plan>::NeedRemote;
    for (decision, name) in [
        (
            Decision::NeedLocal(BTreeSet::new()),
            "needs more of the room",
        ),
        (Decision::NeedKeys(vec![]), "needs more of the room"),
        (need(RemoteNeed::Parents(vec![])), "needs parents"),
        (need(RemoteNeed::StatesAfter(vec![])), "needs states"),
        (need(RemoteNeed::AuthEvents(vec![])), "needs auth events"),
        (drop(DropReason::Known), "dropped as known"),
        (drop(DropReason::BelowMinimumDepth), "dropped as too old"),
        (
            drop(DropReason::SecondCreate),
            "dropped as a second create event",
        ),
        (drop(DropReason::Unresolvable), "dropped as unresolvable"),
    ] {
        assert_eq!(decision.name(), name);
    }
    let verdicts = [Verdict::Accepted, Verdict::SoftFailed, Verdict::Rejected];
    assert_eq!(
        verdicts.map(Verdict::name),
        ["accepted", "soft_failed", "rejected"]
    );
}
