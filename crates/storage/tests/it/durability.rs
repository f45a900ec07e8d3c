//! What a power cut leaves.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use myelin_env::{Env, Random};
use myelin_storage::{
    Database, Priority, StorageError, params,
    testing::{Loss, PowerCut, START_MS},
};
use rusqlite::{Connection, OpenFlags};

use crate::{INSERT, insert, stored};

async fn make_table(database: &Database) {
    let made: Result<u64, StorageError> = database
        .write("make a table", Priority::Interactive, |tx| {
            Box::pin(async move {
                let create =
                    "CREATE TABLE numbers (number BIGINT NOT NULL PRIMARY KEY, body BYTEA)";
                tx.execute(create, params![]).await
            })
        })
        .await;
    made.unwrap();
}

/// Stores `number` and `-number` with bodies that fill a page.
async fn insert_pair(database: &Database, number: i64) -> Result<(), StorageError> {
    database
        .write("pair", Priority::Interactive, move |tx| {
            Box::pin(async move {
                let body = vec![number as u8; 3_000];
                tx.execute(INSERT, params![number, &body]).await?;
                tx.execute(INSERT, params![-number, &body]).await?;
                Ok(())
            })
        })
        .await
}

async fn integrity(database: &Database) -> String {
    let check = database.read("integrity", |tx| {
        Box::pin(async move {
            let rows = tx.query("PRAGMA integrity_check", params![]).await?;
            Ok(rows[0].text(0)?.to_owned())
        })
    });
    check.await.unwrap()
}

/// Writes 1,000 numbers from 64 tasks until the power goes; returns those that were acknowledged.
async fn write_until_the_power_goes(database: &Database, env: &Env, first: i64) -> Vec<i64> {
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let (database, acknowledged) = (database.clone(), Arc::clone(&acknowledged));
            env.tasks.spawn("writer", async move {
                for number in (first + writer..first + 1_000).step_by(64) {
                    if insert_pair(&database, number).await.is_err() {
                        return;
                    }
                    acknowledged.lock().unwrap().push(number);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap();
    acknowledged.clone()
}

async fn cut_at_random_moments(loss: Loss, seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let power = PowerCut::new(loss);
    let url = power.url(directory.path().join("myelin.db"));
    let env = Env::manual(START_MS, 0);
    let random = Random::seeded(seed);
    let mut database = Database::open(&url, &env).await.unwrap();
    make_table(&database).await;
    let mut expected = Vec::new();
    for round in 0..25 {
        // Every fifth time long enough for a checkpoint.
        let moments = if round % 5 == 0 { 8_000 } else { 400 };
        power.cut_after(random.below(moments));
        let first = 1 + round * 1_000;
        expected.extend(write_until_the_power_goes(&database, &env, first).await);
        power.cut();
        assert!(
            insert(&database, Priority::Interactive, 0).await.is_err(),
            "nothing works without power"
        );
        drop(database);
        power.restore();
        // Recovery does not come to its end either.
        power.cut_after(random.below(20));
        Database::open(&url, &env).await.ok();
        power.cut();
        power.restore();
        database = Database::open(&url, &env).await.unwrap();
        assert_eq!(integrity(&database).await, "ok", "round {round}");
        let stored = stored(&database).await;
        for number in &expected {
            assert!(stored.binary_search(number).is_ok(), "{number} is lost");
        }
        for number in &stored {
            assert!(stored.binary_search(&-number).is_ok(), "{number} is alone");
        }
    }
    assert!(expected.len() > 100, "the power was always cut too early");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_all_unsynced_writes_are() {
    cut_at_random_moments(Loss::Everything, 1).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_some_unsynced_sectors_are() {
    cut_at_random_moments(Loss::Sectors(Random::seeded(2)), 3).await;
}

/// The test of the test: what is acknowledged without a sync is found missing.
#[tokio::test]
async fn a_commit_that_was_not_synced_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("careless.db");
    let power = PowerCut::new(Loss::Everything);
    let open = |path: &Path| {
        Connection::open_with_flags_and_vfs(path, OpenFlags::default(), power.vfs()).unwrap()
    };
    let careless = open(&path);
    careless
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE a (b);")
        .unwrap();
    careless
        .execute_batch("PRAGMA synchronous = OFF; INSERT INTO a VALUES (1);")
        .unwrap();
    power.cut();
    drop(careless);
    power.restore();
    let count: i64 = open(&path)
        .query_row("SELECT COUNT(*) FROM a", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn writers_that_wait_share_a_commit() {
    let directory = tempfile::tempdir().unwrap();
    let power = PowerCut::new(Loss::Everything);
    let env = Env::manual(START_MS, 0);
    let url = power.url(directory.path().join("myelin.db"));
    let database = Database::open(&url, &env).await.unwrap();
    make_table(&database).await;
    let before = power.syncs();
    let acknowledged = write_until_the_power_goes(&database, &env, 1).await;
    assert_eq!(acknowledged.len(), 1_000);
    let syncs = power.syncs() - before;
    assert!(syncs < 500, "{syncs} syncs for 1,000 writes of 64 writers");
    database.close().await;
}
