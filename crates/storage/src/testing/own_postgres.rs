//! A PostgreSQL server of a test's own, which can be killed and set up otherwise.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::Command,
};

use super::POSTGRES_VARIABLE;

/// The script that starts the PostgreSQL server of all other tests.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/postgres.sh");

/// A PostgreSQL server of the test's own. It is stopped and removed when this is dropped.
#[derive(Debug)]
pub struct OwnPostgres {
    /// Where it is, as a configuration says it.
    pub url: String,
    directory: PathBuf,
    port: u16,
}

impl OwnPostgres {
    /// Starts it, where tests may use PostgreSQL at all.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        env::var_os(POSTGRES_VARIABLE)?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = free.local_addr().expect("it is bound").port();
        let mut server = Self {
            // PostgreSQL does not run as root, and so must be let into the directory.
            directory: env::temp_dir().join(format!("myelin-postgres-{port}")),
            port,
            url: String::new(),
        };
        drop(free);
        server.url = server.run("start");
        Some(server)
    }

    /// Has the script do something (`kill`, `again`), and answers what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, action: &str) -> String {
        let ran = Command::new(SCRIPT)
            .arg(action)
            .env("MYELIN_POSTGRES_DIR", &self.directory)
            .env("MYELIN_POSTGRES_PORT", self.port.to_string())
            .output()
            .expect("the script is there");
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{action}: {errors}");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        self.run("stop");
    }
}
