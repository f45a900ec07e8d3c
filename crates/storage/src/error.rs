//! What can go wrong, by what the caller can do about it.

use myelin_env::TaskFailed;

/// Why the database did not do what was asked. A write that failed left nothing behind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// Busy, interrupted, or not to be reached at the moment: try again later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The disk is full. Reads still work; writes will once there is room.
    #[error("the database's disk is full")]
    Full,
    /// What is stored is not what was written there: somebody has to look at it.
    #[error("the database is corrupt: {0}")]
    Corrupt(String),
    /// The statement would break a constraint of the schema. Statements that expect this say
    /// `ON CONFLICT` instead, so elsewhere it is a bug.
    #[error("a constraint of the schema forbids it: {0}")]
    Constraint(String),
    /// The database was closed: the server is stopping.
    #[error("the database is closed")]
    Closed,
    /// The database cannot be used as it is; the text tells the operator why.
    #[error("{0}")]
    Refused(String),
    /// A value that no column can hold: a text with U+0000, which PostgreSQL refuses, or a number beyond
    /// 63 bits. Both engines refuse it alike. Who sent it has to send something else.
    #[error("{0} cannot be stored")]
    Unstorable(&'static str),
    /// What this was about was deleted meanwhile.
    #[error("it was deleted")]
    Gone,
    /// A mistake in the program, for instance in a statement.
    #[error("bug in a use of the database: {0}")]
    Bug(String),
}

impl From<TaskFailed> for StorageError {
    fn from(failed: TaskFailed) -> Self {
        match failed {
            TaskFailed::Panicked(_) => Self::Bug(failed.to_string()),
            TaskFailed::Stopped(_) => Self::Closed,
        }
    }
}

impl StorageError {
    /// Whether the same call may succeed later without anybody's help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full)
    }

    /// Whether the same call will fail again: what it reads or writes is at fault, or the program.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Corrupt(_)
                | Self::Constraint(_)
                | Self::Unstorable(_)
                | Self::Gone
                | Self::Bug(_)
        )
    }
}
