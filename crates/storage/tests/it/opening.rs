//! Opening and closing.

use myelin_env::Env;
use myelin_storage::{
    Database, DatabaseUrl, Priority, StorageError, params,
    testing::{Fresh, on_each_engine},
};

use crate::{insert, stored, with_numbers};

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        insert(&fresh.database, Priority::Interactive, 1)
            .await
            .unwrap();
        fresh.database.close().await;
        let database = Database::open(&fresh.url, &fresh.env).await.unwrap();
        assert_eq!(stored(&database).await, [1]);
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_closed_database_refuses_reads_and_writes() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        fresh.database.close().await;
        let write = insert(&fresh.database, Priority::Interactive, 1).await;
        assert_eq!(write, Err(StorageError::Closed));
        let read = fresh.database.read("read", |_| Box::pin(async { Ok(()) }));
        assert_eq!(read.await, Err(StorageError::Closed));
        // A second time changes nothing.
        fresh.database.close().await;
    })
    .await;
}

#[tokio::test]
async fn postgres_plans_by_index_unless_the_url_says_otherwise() {
    async fn reads_whole_tables(database: &Database) -> String {
        let shown = database.look_up("planning", |tx| {
            Box::pin(async move { tx.query("SHOW enable_seqscan", params![]).await })
        });
        let rows = shown.await.unwrap();
        rows[0].text(0).unwrap().to_owned()
    }
    on_each_engine(|fresh| async move {
        let DatabaseUrl::Postgres(url) = &fresh.url else {
            return;
        };
        assert_eq!(reads_whole_tables(&fresh.database).await, "off");
        fresh.database.close().await;
        let separator = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{separator}options=-c%20enable_seqscan%3Don");
        let database = Database::open(&url.parse().unwrap(), &fresh.env).await;
        let database = database.unwrap();
        assert_eq!(reads_whole_tables(&database).await, "on");
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_file_in_use_is_refused_until_it_is_given_up() {
    let fresh = Fresh::sqlite().await;
    let second = Database::open(&fresh.url, &fresh.env).await;
    match second {
        Err(StorageError::Refused(reason)) => {
            assert!(reason.contains("in use by another"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    fresh.database.close().await;
    Database::open(&fresh.url, &fresh.env).await.unwrap();
}

#[tokio::test]
async fn a_closed_file_has_no_log_beside_it() {
    let fresh = with_numbers(Fresh::sqlite().await).await;
    insert(&fresh.database, Priority::Interactive, 1)
        .await
        .unwrap();
    let DatabaseUrl::Sqlite { path, .. } = &fresh.url else {
        panic!("not a file");
    };
    let log = path.with_extension("db-wal");
    assert!(log.exists());
    fresh.database.close().await;
    assert!(!log.exists());
}

#[tokio::test]
async fn a_place_that_does_not_exist_is_refused() {
    let env = Env::manual(0, 0);
    for url in [
        "sqlite:/nowhere/at/all/myelin.db",
        "sqlite:",
        "mysql://there",
        "postgres://host:port/name",
    ] {
        let opened = match url.parse() {
            Ok(url) => Database::open(&url, &env).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(
            matches!(opened, Err(StorageError::Refused(_))),
            "{url}: {opened:?}"
        );
    }
}

#[test]
fn a_url_is_shown_without_its_password() {
    let url: DatabaseUrl = "postgres://name:secret@host/base".parse().unwrap();
    assert_eq!(format!("{url:?}"), "postgres://host/base");
}
