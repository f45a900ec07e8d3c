//! A PostgreSQL server of a test's own, which can be killed and set up otherwise.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{self, Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use super::POSTGRES_VARIABLE;

/// A PostgreSQL server of the test's own. It is stopped and removed when this is dropped.
#[derive(Debug)]
pub struct OwnPostgres {
    /// Where it is, as a configuration says it; empty until it has started.
    pub url: String,
    /// Where its files are.
    pub directory: PathBuf,
    port: u16,
}

impl OwnPostgres {
    /// The script that starts the PostgreSQL server of all other tests.
    pub const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/postgres.sh");

    /// Starts it, where tests may use PostgreSQL at all.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        env::var_os(POSTGRES_VARIABLE)?;
        let mut server = Self::new();
        server.url = server.script("start");
        Some(server)
    }

    /// A place for a server that is yet to be started.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let name = format!("myelin-postgres-{}-{number}", process::id());
        Self {
            url: String::new(),
            // PostgreSQL does not run as root, and so must be let into the directory.
            directory: env::temp_dir().join(name),
            port: free.local_addr().expect("it is bound").port(),
        }
    }

    /// Ends it as a crash would.
    ///
    /// # Panics
    /// If the script fails.
    pub fn kill(&self) {
        self.script("kill");
    }

    /// Starts it on what a crash has left.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&self) {
        self.script("again");
    }

    /// Runs a command to which the script's server is this one.
    ///
    /// # Panics
    /// If there is no such command.
    pub fn surrounded(&self, command: &mut Command) -> Output {
        command
            .env("MYELIN_POSTGRES_DIR", &self.directory)
            .env("MYELIN_POSTGRES_PORT", self.port.to_string())
            .output()
            .expect("the command is there")
    }

    /// Has the script do something, and answers what it printed.
    fn script(&self, action: &str) -> String {
        let ran = self.surrounded(Command::new(Self::SCRIPT).arg(action));
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{action}: {errors}");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        self.script("stop");
    }
}
