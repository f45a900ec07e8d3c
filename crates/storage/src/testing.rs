//! Databases for tests: fresh ones, on each engine, from one test body; and power that can be cut.

mod disk;
mod own_postgres;
#[allow(
    unsafe_code,
    reason = "SQLite's file systems are tables of C functions, and losing what was not synced takes one"
)]
mod power_cut;

use std::{
    env, process,
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use myelin_env::Env;
use tempfile::TempDir;
use tokio_postgres::NoTls;

pub use self::{disk::Loss, own_postgres::OwnPostgres, power_cut::PowerCut};
use crate::{Database, DatabaseUrl};

/// The Unix time, in milliseconds, at which the clocks of tests start.
pub const START_MS: u64 = 1_700_000_000_000;

/// Names the URL of a PostgreSQL server on which tests may create databases. `.ci/postgres.sh` starts
/// one.
pub const POSTGRES_VARIABLE: &str = "MYELIN_TEST_POSTGRES";

/// A fresh database.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The database, with its schema.
    pub database: Database,
    /// Where it is, to open it again.
    pub url: DatabaseUrl,
    /// Its surroundings, with a clock that stands still.
    pub env: Env,
    /// Where a SQLite file is. Deleted with the last clone.
    _directory: Option<Arc<TempDir>>,
}

/// Runs a test on SQLite, and on PostgreSQL if there is a server for it.
///
/// # Panics
/// If a database cannot be made, and wherever `test` does.
pub async fn on_each_engine<F: Future<Output = ()>>(test: impl Fn(Fresh) -> F) {
    let fresh = Fresh::sqlite().await;
    // A body may move single fields out of its own.
    let keeps_the_directory = fresh.clone();
    test(fresh).await;
    drop(keeps_the_directory);
    let Ok(server) = env::var(POSTGRES_VARIABLE) else {
        report_skipped();
        return;
    };
    let place = PostgresDatabase::create(&server).await;
    let fresh = Fresh::at(DatabaseUrl::Postgres(place.url.clone())).await;
    let database = fresh.database.clone();
    test(fresh).await;
    database.close().await;
    place.remove().await;
}

impl Fresh {
    /// A SQLite file in a directory of its own.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn sqlite() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let url = DatabaseUrl::Sqlite {
            path: directory.path().join("myelin.db"),
            vfs: None,
        };
        Self {
            _directory: Some(Arc::new(directory)),
            ..Self::at(url).await
        }
    }

    async fn at(url: DatabaseUrl) -> Self {
        let env = Env::manual(START_MS, 0);
        let database = Database::open(&url, &env)
            .await
            .expect("a fresh database opens");
        Self {
            database,
            url,
            env,
            _directory: None,
        }
    }
}

/// A database on a PostgreSQL server. It is removed when this is dropped.
#[derive(Debug)]
pub struct PostgresDatabase {
    /// Where it is, as a configuration says it.
    pub url: String,
    server: String,
    name: String,
    is_removed: bool,
}

impl PostgresDatabase {
    /// Makes an empty database on the server at that URL, whose path names another one.
    ///
    /// # Panics
    /// If the server can't be reached, or refuses.
    pub async fn create(server: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("myelin_test_{}_{number}", process::id());
        for statement in ["DROP DATABASE IF EXISTS", "CREATE DATABASE"] {
            run_on_server(server, &format!("{statement} {name}"))
                .await
                .expect("the PostgreSQL server for tests lets us create databases");
        }
        let (place, _) = server
            .rsplit_once('/')
            .expect("the URL ends in the name of a database");
        Self {
            url: format!("{place}/{name}"),
            server: server.to_owned(),
            name,
            is_removed: false,
        }
    }

    /// Removes it, whoever is connected. Meanwhile the test's other tasks go on: PostgreSQL waits for
    /// connections that are being made, and they for whoever makes them.
    pub async fn remove(mut self) {
        self.is_removed = true;
        let (server, statement) = self.removal();
        // A database that can't be removed harms nobody.
        run_on_server(&server, &statement).await.ok();
    }

    fn removal(&self) -> (String, String) {
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        (self.server.clone(), statement)
    }
}

impl Drop for PostgresDatabase {
    /// Where nothing can be awaited, as in a test that fails.
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        let (server, statement) = self.removal();
        let remove = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map(|runtime| runtime.block_on(run_on_server(&server, &statement)))
        };
        // A runtime can't wait for another one on its own thread.
        thread::spawn(remove).join().ok();
    }
}

async fn run_on_server(server: &str, statement: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(server, NoTls).await?;
    let run = async move {
        let run = client.batch_execute(statement).await;
        drop(client);
        run
    };
    let (run, ended) = tokio::join!(run, connection);
    run.and(ended)
}

#[expect(
    clippy::print_stderr,
    reason = "whoever reads a test's output must know"
)]
fn report_skipped() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        eprintln!("{POSTGRES_VARIABLE} is not set: the PostgreSQL half of the tests was skipped");
    });
}
