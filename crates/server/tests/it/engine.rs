//! The engine that the servers under test run on.

use std::env;

use myelin_storage::testing::{POSTGRES_VARIABLE, PostgresDatabase};

/// `postgres` has the servers of a test run on PostgreSQL; else they run on SQLite.
const VARIABLE: &str = "MYELIN_TEST_ENGINE";

/// A new database for one server, if it shall run on PostgreSQL.
pub(crate) async fn postgres() -> Option<PostgresDatabase> {
    match env::var(VARIABLE).as_deref() {
        Err(_) | Ok("sqlite") => None,
        Ok("postgres") => {
            let server = env::var(POSTGRES_VARIABLE);
            let server = server.unwrap_or_else(|_| panic!("{POSTGRES_VARIABLE} is not set"));
            Some(PostgresDatabase::create(&server).await)
        }
        Ok(other) => panic!("{VARIABLE} is {other:?}, neither sqlite nor postgres"),
    }
}
