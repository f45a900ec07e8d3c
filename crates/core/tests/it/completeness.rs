//! What may be answered from a state that lacks memberships.

use myelin_core::{
    completeness::{Completeness, Question, StateRef},
    number::SnapshotNr,
};

#[test]
fn a_partial_state_answers_what_the_missing_memberships_cannot_change() {
    for (question, from_partial) in [
        (Question::OtherThanMembers, true),
        (Question::LocalMember, true),
        (Question::ApproximateServers, true),
        (Question::RemoteMember, false),
        (Question::AllMembers, false),
        (Question::ForeignServer, false),
        (Question::SoftFailure, false),
        (Question::FullAuth, false),
    ] {
        for (completeness, permits) in [
            (Completeness::FULL, true),
            (Completeness::PARTIAL, from_partial),
        ] {
            assert_eq!(completeness.permits(question), permits, "{question:?}");
            let state = StateRef::new(SnapshotNr(3), completeness);
            let answering = permits.then_some(SnapshotNr(3));
            assert_eq!(state.answering(question), answering, "{question:?}");
            assert_eq!(
                (state.snapshot(), state.completeness()),
                (SnapshotNr(3), completeness)
            );
        }
    }
}

#[test]
fn what_comes_of_a_partial_state_is_partial() {
    const FULL: Completeness = Completeness::FULL;
    const PARTIAL: Completeness = Completeness::PARTIAL;
    for (parts, derived) in [
        (&[][..], FULL),
        (&[FULL, FULL], FULL),
        (&[PARTIAL], PARTIAL),
        (&[FULL, PARTIAL, FULL], PARTIAL),
    ] {
        assert_eq!(Completeness::derived(parts.iter().copied()), derived);
    }
    assert_eq!([FULL, PARTIAL].map(Completeness::to_stored), [false, true]);
    assert_eq!(
        [false, true].map(Completeness::from_stored),
        [FULL, PARTIAL]
    );
}
