//! What a transaction promises, on both engines.

use std::sync::Arc;

use myelin_storage::{
    Database, Param, Priority, Row, StorageError, params,
    testing::{Fresh, on_each_engine},
};
use tokio::sync::Notify;

use crate::{INSERT, insert, stored, with_numbers};

/// Runs one query.
async fn query(
    database: &Database,
    sql: &'static str,
    params: Vec<Param<'static>>,
) -> Result<Vec<Row>, StorageError> {
    database
        .read("query", move |tx| {
            Box::pin(async move { tx.query(sql, &params).await })
        })
        .await
}

#[tokio::test]
async fn a_write_is_seen_by_later_reads() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        assert_eq!(
            insert(&fresh.database, Priority::Interactive, 7).await,
            Ok(1)
        );
        assert_eq!(insert(&fresh.database, Priority::Bulk, 8).await, Ok(1));
        assert_eq!(stored(&fresh.database).await, [7, 8]);
    })
    .await;
}

#[tokio::test]
async fn every_type_comes_back_as_it_went_in() {
    on_each_engine(|fresh| async move {
        let write: Result<(), StorageError> = fresh
            .database
            .write("all types", Priority::Interactive, |tx| {
                Box::pin(async move {
                    tx.run(
                        "CREATE TABLE kinds (a BIGINT, b TEXT, c BYTEA, d BOOLEAN)",
                        params![],
                    )
                    .await?;
                    let insert = "INSERT INTO kinds (a, b, c, d) VALUES ($1, $2, $3, $4)";
                    tx.run(insert, params![i64::MIN, "", b"", false]).await?;
                    tx.run(
                        insert,
                        params![i64::MAX, "\u{1}ß\u{10ffff}", b"\x00\xff", true],
                    )
                    .await?;
                    tx.run(
                        insert,
                        params![None::<i64>, None::<&str>, None::<&[u8]>, None::<bool>],
                    )
                    .await?;
                    Ok(())
                })
            })
            .await;
        write.unwrap();
        let rows = query(
            &fresh.database,
            "SELECT a, b, c, d FROM kinds ORDER BY COALESCE(a, 0)",
            vec![],
        )
        .await
        .unwrap();
        assert_eq!(rows[0].int(0), Ok(i64::MIN));
        assert_eq!(rows[0].text(1), Ok(""));
        assert_eq!(rows[0].blob(2), Ok(&b""[..]));
        assert_eq!(rows[0].bool(3), Ok(false));
        assert_eq!(rows[1].opt_int(0), Ok(None));
        assert_eq!(rows[1].opt_text(1), Ok(None));
        assert_eq!(rows[1].opt_blob(2), Ok(None));
        assert_eq!(rows[1].opt_bool(3), Ok(None));
        assert_eq!(rows[2].opt_int(0), Ok(Some(i64::MAX)));
        assert_eq!(rows[2].opt_text(1), Ok(Some("\u{1}ß\u{10ffff}")));
        assert_eq!(rows[2].opt_blob(2), Ok(Some(&b"\x00\xff"[..])));
        assert_eq!(rows[2].opt_bool(3), Ok(Some(true)));
        for error in [
            rows[1].int(0).unwrap_err(),
            rows[2].text(0).unwrap_err(),
            rows[2].int(1).unwrap_err(),
            rows[2].bool(2).unwrap_err(),
            rows[2].blob(3).unwrap_err(),
        ] {
            assert!(matches!(error, StorageError::Corrupt(_)), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn parameters_are_bound_by_their_numbers() {
    on_each_engine(|fresh| async move {
        let rows = query(
            &fresh.database,
            "SELECT CAST($3 AS TEXT), CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT)",
            vec![Param::Text("1"), Param::Text("2"), Param::Text("3")],
        )
        .await
        .unwrap();
        let texts: Vec<&str> = (0..4).map(|column| rows[0].text(column).unwrap()).collect();
        assert_eq!(texts, ["3", "1", "2", "3"]);
    })
    .await;
}

#[tokio::test]
async fn wrong_parameters_are_a_bug_and_are_never_bound() {
    on_each_engine(|fresh| async move {
        let select = "SELECT CAST($1 AS BIGINT), CAST($2 AS BIGINT)";
        let number = || Param::Int(1);
        for params in [vec![number()], vec![number(), number(), number()]] {
            let error = query(&fresh.database, select, params).await.unwrap_err();
            assert!(matches!(error, StorageError::Bug(_)), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_one_engine_cannot_hold_neither_takes() {
    on_each_engine(|fresh| async move {
        for param in [
            Param::from(u64::MAX),
            Param::Text("a\0b"),
            Param::TextList(vec!["a", "\0"]),
        ] {
            let select = match param {
                Param::TextList(_) => "SELECT value FROM text_list($1) AS list",
                Param::Text(_) => "SELECT CAST($1 AS TEXT)",
                _ => "SELECT CAST($1 AS BIGINT)",
            };
            let error = query(&fresh.database, select, vec![param]).await;
            let error = error.unwrap_err();
            assert!(matches!(error, StorageError::Unstorable(_)), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn lists_are_tables_of_their_values() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        for number in [1, 2, 3] {
            insert(&fresh.database, Priority::Interactive, number).await.unwrap();
        }
        let ints = query(
            &fresh.database,
            "SELECT number FROM numbers WHERE number IN int_list($1) AND number < $2 ORDER BY number",
            vec![Param::from_iter([3_i64, 9, 1]), Param::Int(9)],
        );
        let ints = ints.await.unwrap();
        assert_eq!(ints.len(), 2);
        assert_eq!((ints[0].int(0), ints[1].int(0)), (Ok(1), Ok(3)));
        let texts = query(
            &fresh.database,
            "SELECT wanted.value FROM text_list($1) AS wanted WHERE wanted.value NOT IN text_list($2)",
            vec![Param::from_iter(["a", "b"]), Param::from_iter(["b"])],
        );
        let texts = texts.await.unwrap();
        assert_eq!(texts.len(), 1);
        assert_eq!(texts[0].text(0), Ok("a"));
        let blobs = query(
            &fresh.database,
            "SELECT COUNT(*) FROM numbers JOIN blob_list($1) AS wanted ON body = wanted.value",
            vec![Param::from_iter([&b"body"[..], &b"\xff"[..]])],
        );
        assert_eq!(blobs.await.unwrap()[0].int(0), Ok(3));
        let none = query(
            &fresh.database,
            "SELECT number FROM numbers WHERE body IN blob_list($1)",
            vec![Param::BlobList(vec![])],
        );
        assert!(none.await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_error_undoes_its_own_write_and_no_other() {
    #[derive(Debug, PartialEq)]
    enum Outcome {
        Conflict,
        Storage(StorageError),
    }
    impl From<StorageError> for Outcome {
        fn from(error: StorageError) -> Self {
            Self::Storage(error)
        }
    }
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        let fails = fresh
            .database
            .write::<(), Outcome, _>("fails", Priority::Interactive, |tx| {
                Box::pin(async move {
                    tx.execute(INSERT, params![1_i64, b"body"]).await?;
                    Err(Outcome::Conflict)
                })
            });
        let (before, failed, after) = tokio::join!(
            insert(&fresh.database, Priority::Interactive, 2),
            fails,
            insert(&fresh.database, Priority::Interactive, 3),
        );
        assert_eq!(failed, Err(Outcome::Conflict));
        assert_eq!((before, after), (Ok(1), Ok(1)));
        assert_eq!(stored(&fresh.database).await, [2, 3]);
    })
    .await;
}

#[tokio::test]
async fn a_failed_statement_dooms_its_write_even_if_it_is_overlooked() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        let overlooks =
            fresh
                .database
                .write::<(), StorageError, _>("overlooks", Priority::Interactive, |tx| {
                    Box::pin(async move {
                        tx.execute(INSERT, params![1_i64, b"body"]).await?;
                        tx.execute(INSERT, params![1_i64, b"body"]).await.ok();
                        Ok(())
                    })
                });
        let (doomed, other) =
            tokio::join!(overlooks, insert(&fresh.database, Priority::Interactive, 2));
        assert!(
            matches!(doomed, Err(StorageError::Constraint(_))),
            "{doomed:?}"
        );
        assert_eq!(other, Ok(1));
        assert_eq!(stored(&fresh.database).await, [2]);
    })
    .await;
}

#[tokio::test]
async fn a_panic_undoes_its_own_write_and_leaves_the_database_usable() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        let panics = fresh
            .database
            .write::<(), StorageError, _>("panics", Priority::Interactive, |tx| {
                Box::pin(async move {
                    tx.execute(INSERT, params![1_i64, b"body"]).await?;
                    panic!("as the test wants it")
                })
            })
            .await;
        assert!(matches!(panics, Err(StorageError::Bug(_))), "{panics:?}");
        assert_eq!(
            insert(&fresh.database, Priority::Interactive, 2).await,
            Ok(1)
        );
        assert_eq!(stored(&fresh.database).await, [2]);
    })
    .await;
}

#[tokio::test]
async fn a_read_sees_one_state_throughout() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begin, wait) = (Arc::clone(&begun), Arc::clone(&go_on));
        let read = fresh.database.read("twice", move |tx| {
            Box::pin(async move {
                let count = "SELECT COUNT(*) FROM numbers";
                let before = tx.query(count, params![]).await?[0].int(0)?;
                begin.notify_one();
                wait.notified().await;
                let after = tx.query(count, params![]).await?[0].int(0)?;
                Ok((before, after))
            })
        });
        let write = async {
            begun.notified().await;
            insert(&fresh.database, Priority::Interactive, 1)
                .await
                .unwrap();
            go_on.notify_one();
        };
        let (seen, ()) = tokio::join!(read, write);
        assert_eq!(seen, Ok((0, 0)));
        assert_eq!(stored(&fresh.database).await, [1]);
    })
    .await;
}

#[tokio::test]
async fn a_read_cannot_write() {
    on_each_engine(|fresh: Fresh| async move {
        let fresh = with_numbers(fresh).await;
        let written = fresh
            .database
            .read("writes", |tx| {
                Box::pin(async move { tx.execute(INSERT, params![1_i64, b"body"]).await })
            })
            .await;
        assert!(written.is_err());
        assert_eq!(stored(&fresh.database).await, [] as [i64; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_failure_that_nobody_waited_for_undoes_the_transaction() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        assert_eq!(
            insert(&fresh.database, Priority::Interactive, 7).await,
            Ok(1)
        );
        let twice = fresh
            .database
            .write("a number twice", Priority::Interactive, |tx| {
                Box::pin(async move {
                    // PostgreSQL tells of the second one's failure after the third was sent.
                    for number in [6, 7, 8] {
                        tx.run(INSERT, params![number, b"body"]).await.ok();
                    }
                    Ok::<(), StorageError>(())
                })
            })
            .await;
        assert!(
            matches!(twice, Err(StorageError::Constraint(_))),
            "{twice:?}"
        );
        assert_eq!(stored(&fresh.database).await, [7]);
        assert_eq!(insert(&fresh.database, Priority::Bulk, 8).await, Ok(1));
    })
    .await;
}

#[tokio::test]
async fn the_first_failure_is_the_outcome_whatever_was_run_after_it() {
    const PUT_NEW: &str =
        "INSERT INTO numbers (number, body) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        insert(&fresh.database, Priority::Bulk, 7).await.unwrap();
        let failed = fresh
            .database
            .write("a number twice, and others", Priority::Bulk, |tx| {
                Box::pin(async move {
                    tx.run(INSERT, params![7, b"body"]).await.ok();
                    // PostgreSQL has not seen this statement yet.
                    for number in [8, 9] {
                        tx.run(PUT_NEW, params![number, b"body"]).await.ok();
                    }
                    Ok::<(), StorageError>(())
                })
            })
            .await;
        assert!(
            matches!(failed, Err(StorageError::Constraint(_))),
            "{failed:?}"
        );
        assert_eq!(stored(&fresh.database).await, [7]);
    })
    .await;
}

#[tokio::test]
async fn what_was_run_is_seen_by_the_next_query_of_the_transaction() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        let count = fresh
            .database
            .write("many numbers", Priority::Bulk, |tx| {
                Box::pin(async move {
                    for number in 0..1_000 {
                        tx.run(INSERT, params![number, b"body"]).await?;
                    }
                    let rows = tx.query("SELECT COUNT(*) FROM numbers", params![]).await?;
                    rows[0].int(0)
                })
            })
            .await;
        assert_eq!(count, Ok(1_000));
        assert_eq!(stored(&fresh.database).await.len(), 1_000);
    })
    .await;
}

#[tokio::test]
async fn rows_that_are_put_one_after_another_are_as_if_each_were_put_alone() {
    const PUT: &str = "INSERT INTO numbers (number, body) VALUES ($1, $2)
        ON CONFLICT (number) DO UPDATE SET body = excluded.body";
    const PUT_NEW: &str =
        "INSERT INTO numbers (number, body) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        let rows = fresh
            .database
            .write("numbers", Priority::Bulk, |tx| {
                Box::pin(async move {
                    tx.run(PUT, params![1, b"first"]).await?;
                    tx.run(PUT, params![2, Option::<&[u8]>::None]).await?;
                    tx.run(PUT, params![1, b"second"]).await?;
                    tx.run(PUT_NEW, params![1, b"third"]).await?;
                    tx.run(PUT_NEW, params![3, b"first"]).await?;
                    tx.run(PUT_NEW, params![3, b"second"]).await?;
                    tx.run(PUT, params![3, b"third"]).await?;
                    tx.run(PUT, params![4, b"first"]).await?;
                    tx.run("DELETE FROM numbers WHERE number = $1", params![4])
                        .await?;
                    tx.query(
                        "SELECT number, body FROM numbers ORDER BY number",
                        params![],
                    )
                    .await
                })
            })
            .await
            .unwrap();
        let read = |row: &Row| {
            (
                row.int(0).unwrap(),
                row.opt_blob(1).unwrap().map(<[u8]>::to_vec),
            )
        };
        let found: Vec<_> = rows.iter().map(read).collect();
        let expected = [
            (1, Some(b"second".to_vec())),
            (2, None),
            (3, Some(b"third".to_vec())),
        ];
        assert_eq!(found, expected);
    })
    .await;
}

#[tokio::test]
async fn a_closure_of_one_query_makes_no_second_one_and_writes_nothing() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        insert(&fresh.database, Priority::Bulk, 7).await.unwrap();
        let count = "SELECT COUNT(*) FROM numbers";
        for (queries, expected) in [(1, true), (2, false), (1, true)] {
            let found = fresh
                .database
                .look_up("count", move |tx| {
                    Box::pin(async move {
                        let mut counted = 0;
                        for _ in 0..queries {
                            counted = tx.query(count, params![]).await?[0].int(0)?;
                        }
                        Ok(counted)
                    })
                })
                .await;
            match expected {
                true => assert_eq!(found, Ok(1)),
                false => assert!(matches!(found, Err(StorageError::Bug(_))), "{found:?}"),
            }
        }
        let written = fresh.database.look_up("write", |tx| {
            Box::pin(async move { tx.execute(INSERT, params![8, b"body"]).await })
        });
        let written = written.await;
        assert!(matches!(written, Err(StorageError::Bug(_))), "{written:?}");
        assert_eq!(stored(&fresh.database).await, [7]);
    })
    .await;
}
