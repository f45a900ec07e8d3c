//! The schema's history: numbered, forward only, run at start.

use crate::{Param, StorageError, Tx};

/// A step of the schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// Given out upwards, without gaps. Never changed once released.
    pub(crate) number: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// All steps, in order.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "rooms",
        sql: include_str!("../migrations/0001_rooms.sql"),
    },
    Migration {
        number: 2,
        name: "accounts",
        sql: include_str!("../migrations/0002_accounts.sql"),
    },
    Migration {
        number: 3,
        name: "federation",
        sql: include_str!("../migrations/0003_federation.sql"),
    },
];

statements! {
    /// The record of what was run. It must exist before it can be read.
    CREATE_RECORD = "CREATE TABLE IF NOT EXISTS schema_migrations
        (number BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)";
    /// How far the schema is.
    SELECT_LAST = "SELECT COALESCE(MAX(number), 0) FROM schema_migrations";
    /// Part of the same transaction as the step itself.
    INSERT_RECORD = "INSERT INTO schema_migrations (number, name) VALUES ($1, $2)";
}

/// Whether steps remain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    UpToDate,
    Ran(i64),
}

/// Runs the first of `migrations` that has not been run yet. Belongs into a transaction of its own.
pub(crate) async fn run_next(
    tx: &mut Tx,
    migrations: &[Migration],
) -> Result<Progress, StorageError> {
    tx.execute(CREATE_RECORD, params![]).await?;
    let row = tx.query_opt(SELECT_LAST, params![]).await?;
    let last = row.as_ref().map_or(Ok(0), |row| row.int(0))?;
    let newest = migrations.last().map_or(0, |migration| migration.number);
    if last > newest {
        return Err(StorageError::Refused(format!(
            "the database was written by a newer Myelin (schema {last}, this one knows {newest}); \
             run that version or a later one"
        )));
    }
    let Some(next) = migrations.iter().find(|migration| migration.number > last) else {
        return Ok(Progress::UpToDate);
    };
    tx.execute_batch(next.sql).await?;
    tx.execute(
        INSERT_RECORD,
        params![Param::Int(next.number), Param::Text(next.name)],
    )
    .await?;
    Ok(Progress::Ran(next.number))
}
