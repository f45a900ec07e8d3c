//! Only one process uses a database of PostgreSQL.

use std::env;

use myelin_env::Env;
use myelin_storage::{
    Database, DatabaseUrl, Priority, StorageError, params,
    testing::{POSTGRES_VARIABLE, PostgresDatabase},
};
use tokio_postgres::{Client, NoTls};

use crate::assert_refused;

/// The number of the lock: `process` in ASCII.
const LOCK: &str = "31651020126122867";

/// Which connections have the lock, or wait for it.
const HOLDERS: &str = "
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted = $1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// An empty database, if there is a server for it.
async fn place() -> Option<(PostgresDatabase, DatabaseUrl)> {
    let server = env::var(POSTGRES_VARIABLE).ok()?;
    let place = PostgresDatabase::create(&server).await;
    let url = place.url.parse().unwrap();
    Some((place, url))
}

/// A connection beside those of the database.
async fn connect(env: &Env, place: &PostgresDatabase) -> Client {
    let (client, connection) = tokio_postgres::connect(&place.url, NoTls).await.unwrap();
    let connection = async move { drop(connection.await) };
    drop(env.tasks.spawn("test connection", connection));
    client
}

/// The connection that has the lock, or one that waits for it.
async fn holder(client: &Client, granted: bool) -> Option<i32> {
    let row = client.query_opt(HOLDERS, &[&granted]).await.unwrap();
    row.map(|row| row.get(0))
}

async fn end(client: &Client, backend: i32) {
    let end = "SELECT pg_terminate_backend($1)";
    client.execute(end, &[&backend]).await.unwrap();
}

async fn write(database: &Database) -> Result<(), StorageError> {
    database
        .write("write", Priority::Interactive, |tx| {
            Box::pin(async move { tx.query("SELECT 1", params![]).await.map(drop) })
        })
        .await
}

#[tokio::test]
async fn a_second_process_is_refused_until_the_first_ends_and_told_who_that_is() {
    let Some((place, url)) = place().await else {
        return;
    };
    let env = Env::real();
    let first = Database::open(&url, &env).await.unwrap();
    let process = format!("myelin, process {}", std::process::id());
    let expected = [
        "in use by another Myelin process: backend",
        process.as_str(),
    ];
    assert_refused(Database::open(&url, &env).await, &expected);
    first.close().await;
    let second = Database::open(&url, &env).await.unwrap();
    second.close().await;
    place.remove().await;
}

#[tokio::test]
async fn a_database_that_was_let_go_is_taken_again() {
    let Some((place, url)) = place().await else {
        return;
    };
    let env = Env::real();
    let database = Database::open(&url, &env).await.unwrap();
    let other = connect(&env, &place).await;
    let first = holder(&other, true).await.unwrap();
    end(&other, first).await;
    // The news of the connection's end may come after a write or before it.
    loop {
        write(&database).await.unwrap();
        if holder(&other, true).await.is_some_and(|now| now != first) {
            break;
        }
    }
    assert_refused(Database::open(&url, &env).await, &["in use by another"]);
    database.close().await;
    place.remove().await;
}

#[tokio::test]
async fn a_database_that_another_process_took_meanwhile_is_not_used_any_more() {
    let Some((place, url)) = place().await else {
        return;
    };
    let env = Env::real();
    let database = Database::open(&url, &env).await.unwrap();
    // It stands in line, so that it is the next to have the lock.
    let thief = connect(&env, &place).await;
    let wish = format!("SELECT pg_advisory_lock({LOCK})");
    let stolen = async { thief.batch_execute(&wish).await.unwrap() };
    let ending = async {
        let other = connect(&env, &place).await;
        while holder(&other, false).await.is_none() {}
        end(&other, holder(&other, true).await.unwrap()).await;
    };
    tokio::join!(stolen, ending);
    // The first may come before the news of the connection's end.
    while write(&database).await.is_ok() {}
    assert_refused(
        write(&database).await,
        &["in use by another Myelin process"],
    );
    assert_refused(Err::<(), _>(database.lost().await), &["in use by another"]);
    // Also when the other has gone: it may have written.
    thief
        .batch_execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    assert_refused(write(&database).await, &["in use by another"]);
    database.close().await;
    place.remove().await;
}
