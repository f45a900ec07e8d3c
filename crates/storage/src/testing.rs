//! Databases for tests: fresh ones, on each engine, from one test body.

use std::{io, path::PathBuf, sync::Arc};

use myelin_env::Env;
use tempfile::TempDir;

use crate::{Database, DatabaseUrl};

/// The Unix time, in milliseconds, at which the clocks of tests start.
pub const START_MS: u64 = 1_700_000_000_000;

/// A fresh database, deleted with the last clone of this.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The database, with its schema.
    pub database: Database,
    /// Where it is, to open it again.
    pub url: DatabaseUrl,
    /// Its surroundings, with a clock that stands still.
    pub env: Env,
    _directory: Arc<TempDir>,
}

impl Fresh {
    /// A SQLite file in a directory of its own.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn sqlite() -> Self {
        let directory = temporary_directory().expect("a temporary directory can be made");
        let path: PathBuf = directory.path().join("myelin.db");
        let url = DatabaseUrl::Sqlite { path, vfs: None };
        let env = Env::manual(START_MS, 0);
        let database = Database::open(&url, &env)
            .await
            .expect("a fresh database opens");
        Self {
            database,
            url,
            env,
            _directory: Arc::new(directory),
        }
    }
}

/// In memory where that is possible: tests that do not cut the power need no disk.
fn temporary_directory() -> io::Result<TempDir> {
    tempfile::tempdir()
}
