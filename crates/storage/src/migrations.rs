//! The schema's history: numbered, forward only, run at start.

use crate::{Param, StorageError, Tx, relations};

/// A step of the schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// Given out upwards, without gaps. Never changed once released.
    pub(crate) number: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// The step after which the events that are held are gone through.
const RELATIONS: &str = "relations";

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
    Migration {
        number: 4,
        name: "timelines",
        sql: include_str!("../migrations/0004_timelines.sql"),
    },
    Migration {
        number: 5,
        name: "set aside",
        sql: include_str!("../migrations/0005_set_aside.sql"),
    },
    Migration {
        number: 6,
        name: "directory",
        sql: include_str!("../migrations/0006_directory.sql"),
    },
    Migration {
        number: 7,
        name: "out of band",
        sql: include_str!("../migrations/0007_out_of_band.sql"),
    },
    Migration {
        number: 8,
        name: "to-device",
        sql: include_str!("../migrations/0008_to_device.sql"),
    },
    Migration {
        number: 9,
        name: "outbox times",
        sql: include_str!("../migrations/0009_outbox_times.sql"),
    },
    Migration {
        number: 10,
        name: "receipts",
        sql: include_str!("../migrations/0010_receipts.sql"),
    },
    Migration {
        number: 11,
        name: "event times",
        sql: include_str!("../migrations/0011_event_times.sql"),
    },
    Migration {
        number: 12,
        name: "profile changes",
        sql: include_str!("../migrations/0012_profile_changes.sql"),
    },
    Migration {
        number: 13,
        name: "closing accounts",
        sql: include_str!("../migrations/0013_closing_accounts.sql"),
    },
    Migration {
        number: 14,
        name: "presence",
        sql: include_str!("../migrations/0014_presence.sql"),
    },
    Migration {
        number: 15,
        name: "account data",
        sql: include_str!("../migrations/0015_account_data.sql"),
    },
    Migration {
        number: 16,
        name: "renewed sessions",
        sql: include_str!("../migrations/0016_renewed_sessions.sql"),
    },
    Migration {
        number: 17,
        name: "profile fields",
        sql: include_str!("../migrations/0017_profile_fields.sql"),
    },
    Migration {
        number: 18,
        name: RELATIONS,
        sql: include_str!("../migrations/0018_relations.sql"),
    },
    Migration {
        number: 19,
        name: "administration",
        sql: include_str!("../migrations/0019_administration.sql"),
    },
    Migration {
        number: 20,
        name: "blocked rooms",
        sql: include_str!("../migrations/0020_blocked_rooms.sql"),
    },
    Migration {
        number: 21,
        name: "notifications",
        sql: include_str!("../migrations/0021_notifications.sql"),
    },
    Migration {
        number: 22,
        name: "rate limit overrides",
        sql: include_str!("../migrations/0022_rate_limit_overrides.sql"),
    },
    Migration {
        number: 23,
        name: "last seen addresses",
        sql: include_str!("../migrations/0023_last_seen_addresses.sql"),
    },
    Migration {
        number: 24,
        name: "search",
        sql: include_str!("../migrations/0024_search.sql"),
    },
    Migration {
        number: 25,
        name: "user directory",
        sql: include_str!("../migrations/0025_user_directory.sql"),
    },
    Migration {
        number: 26,
        name: "room deletions",
        sql: include_str!("../migrations/0026_room_deletions.sql"),
    },
    Migration {
        number: 27,
        name: "history purges",
        sql: include_str!("../migrations/0027_history_purges.sql"),
    },
    Migration {
        number: 28,
        name: "key documents",
        sql: include_str!("../migrations/0028_key_documents.sql"),
    },
    Migration {
        number: 29,
        name: "guests",
        sql: include_str!("../migrations/0029_guests.sql"),
    },
    Migration {
        number: 30,
        name: "guest departures",
        sql: include_str!("../migrations/0030_guest_departures.sql"),
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
    tx.lock_schema().await?;
    tx.run(CREATE_RECORD, params![]).await?;
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
    // What a step has to compute from what is stored already.
    if next.name == RELATIONS {
        relations::fill(tx).await?;
    }
    tx.run(
        INSERT_RECORD,
        params![Param::Int(next.number), Param::Text(next.name)],
    )
    .await?;
    Ok(Progress::Ran(next.number))
}

#[cfg(test)]
mod tests {
    use super::{MIGRATIONS, Migration};
    use crate::{
        Database, StorageError,
        testing::{Fresh, on_each_engine},
    };

    const fn step(number: i64, sql: &'static str) -> Migration {
        Migration {
            number,
            name: "step",
            sql,
        }
    }

    /// The program's own steps and another one: a newer program.
    fn with_further(sql: &'static str) -> &'static [Migration] {
        let mut migrations = MIGRATIONS.to_vec();
        let number = MIGRATIONS.len() as i64 + 1;
        migrations.push(step(number, sql));
        migrations.leak()
    }

    async fn reopen(
        fresh: &Fresh,
        migrations: &'static [Migration],
    ) -> Result<Database, StorageError> {
        fresh.database.close().await;
        Database::open_with(&fresh.url, &fresh.env, migrations).await
    }

    async fn count(database: &Database, table: &str) -> Result<i64, StorageError> {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        database
            .read("count", move |tx| {
                Box::pin(async move { tx.query(&sql, params![]).await?[0].int(0) })
            })
            .await
    }

    #[test]
    fn numbers_have_no_gaps() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.number, index as i64 + 1, "{}", migration.name);
        }
    }

    #[tokio::test]
    async fn opening_again_runs_nothing_twice() {
        on_each_engine(|fresh| async move {
            let database = reopen(&fresh, MIGRATIONS).await.unwrap();
            let recorded = count(&database, "schema_migrations").await;
            assert_eq!(recorded, Ok(MIGRATIONS.len() as i64));
            database.close().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_newer_program_brings_the_schema_forward_and_an_older_one_refuses_it_then() {
        on_each_engine(|fresh| async move {
            let newer =
                with_further("CREATE TABLE further (a BIGINT); CREATE TABLE more (a BIGINT);");
            let database = reopen(&fresh, newer).await.unwrap();
            assert_eq!(count(&database, "more").await, Ok(0));
            database.close().await;
            match Database::open(&fresh.url, &fresh.env).await {
                Err(StorageError::Refused(reason)) => {
                    assert!(reason.contains("newer Myelin"), "{reason}");
                }
                other => panic!("{other:?}"),
            }
            // The refusal changed nothing.
            let database = Database::open_with(&fresh.url, &fresh.env, newer)
                .await
                .unwrap();
            database.close().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_step_that_fails_leaves_nothing_behind() {
        on_each_engine(|fresh| async move {
            let broken =
                with_further("CREATE TABLE further (a BIGINT); CREATE TABLE rooms (a BIGINT);");
            assert!(reopen(&fresh, broken).await.is_err());
            let database = Database::open(&fresh.url, &fresh.env).await.unwrap();
            assert!(count(&database, "further").await.is_err());
            database.close().await;
        })
        .await;
    }
}
