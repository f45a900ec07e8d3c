//! Opening and closing.

use myelin_env::Env;
use myelin_storage::{
    Database, DatabaseUrl, Priority, StorageError,
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
