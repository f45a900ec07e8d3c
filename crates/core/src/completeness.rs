//! Whether a state is complete, and what may be answered from one that isn't.
//!
//! After a partial join (MSC3902) a room's state lacks memberships of remote users until the
//! resync ends. Completeness belongs to the *reference* from an event (or from the room) to a
//! snapshot: a partial and a full state can be equal as sets. Only this module looks at the flag;
//! everybody else asks it a question.

use crate::number::SnapshotNr;

/// A reference to a stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateRef {
    snapshot: SnapshotNr,
    completeness: Completeness,
}

/// Whether the state behind a reference has all memberships.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completeness(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Full,
    Partial,
}

impl Completeness {
    /// Every entry is there.
    pub const FULL: Self = Self(Kind::Full);
    /// Memberships of remote users may be missing.
    pub const PARTIAL: Self = Self(Kind::Partial);

    /// The completeness of a state that was derived from several: full only if all were
    /// (R103).
    pub fn derived(parts: impl IntoIterator<Item = Self>) -> Self {
        if parts.into_iter().any(|part| part.0 == Kind::Partial) {
            Self::PARTIAL
        } else {
            Self::FULL
        }
    }

    /// How it is stored: true for partial.
    pub fn to_stored(self) -> bool {
        self.0 == Kind::Partial
    }

    /// The reverse of [`Completeness::to_stored`].
    pub fn from_stored(partial: bool) -> Self {
        if partial { Self::PARTIAL } else { Self::FULL }
    }

    /// May `question` be answered from such a state?
    pub fn permits(self, question: Question) -> bool {
        match self.0 {
            Kind::Full => true,
            Kind::Partial => match question {
                Question::OtherThanMembers
                | Question::LocalMember
                | Question::ApproximateServers => true,
                Question::RemoteMember
                | Question::AllMembers
                | Question::ForeignServer
                | Question::SoftFailure
                | Question::FullAuth => false,
            },
        }
    }
}

/// What somebody wants to know from a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Entries other than memberships.
    OtherThanMembers,
    /// The membership of one of our users.
    LocalMember,
    /// Some servers that are in the room; a few wrong or missing do no harm.
    ApproximateServers,
    /// The membership of a given remote user.
    RemoteMember,
    /// All memberships.
    AllMembers,
    /// What another server asks: its answer may not rest on partial knowledge (MSC3895).
    ForeignServer,
    /// Check 6, against the current state.
    SoftFailure,
    /// Check 5 in its full form, without the claimed auth events' help.
    FullAuth,
}

impl StateRef {
    /// Refers to a snapshot.
    pub fn new(snapshot: SnapshotNr, completeness: Completeness) -> Self {
        Self {
            snapshot,
            completeness,
        }
    }

    /// The snapshot, whatever its completeness. For storing and for deriving further states; who
    /// answers somebody asks [`StateRef::answering`].
    pub fn snapshot(self) -> SnapshotNr {
        self.snapshot
    }

    /// Its completeness.
    pub fn completeness(self) -> Completeness {
        self.completeness
    }

    /// The snapshot, if it may be used to answer `question`.
    pub fn answering(self, question: Question) -> Option<SnapshotNr> {
        self.completeness.permits(question).then_some(self.snapshot)
    }
}
