//! A homeserver under test: its process, its name, its key, and the proxy in front of it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use myelin_storage::testing::PostgresDatabase;
use tempfile::TempDir;

use crate::ca::{Ca, Identity};
use crate::client::Client;
use crate::proxy::Proxy;
use crate::{engine, myelin, synapse};

/// Which implementation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Synapse,
    Myelin,
}

/// What a server's configuration is made from.
pub(crate) struct Site {
    /// `127.x.y.z:PORT`, the proxy's address.
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// Where it shall listen, without TLS.
    pub(crate) listen: SocketAddr,
    /// PEM file of the test's authority.
    pub(crate) ca: PathBuf,
    /// A certificate for the address, for servers that terminate TLS themselves.
    pub(crate) identity: Identity,
    /// Myelin's database, if it isn't one of SQLite.
    pub(crate) postgres: Option<PostgresDatabase>,
    /// Which server it asks for the keys of others.
    pub(crate) notary: Option<synapse::Notary>,
}

impl Site {
    fn synapse(&self) -> synapse::Configuration<'_> {
        synapse::Configuration {
            name: &self.name,
            directory: &self.directory,
            listen: self.listen,
            ca: Some(&self.ca),
            notary: self.notary.as_ref(),
        }
    }
}

/// A running homeserver. It is killed when dropped.
pub(crate) struct Homeserver {
    pub(crate) kind: Kind,
    pub(crate) proxy: Proxy,
    site: Site,
    child: Option<Child>,
    /// Removed after the process has ended.
    _directory: TempDir,
}

impl Homeserver {
    /// Writes a configuration for a fresh server, starts it, and waits until it answers.
    pub(crate) async fn start(kind: Kind, ca: &Ca) -> Self {
        Self::start_with(kind, ca, "").await
    }

    /// The same with further sections in Myelin's configuration.
    pub(crate) async fn start_with(kind: Kind, ca: &Ca, sections: &str) -> Self {
        Self::start_trusting(kind, ca, None, sections).await
    }

    /// The same with a server that is asked for the keys of others.
    pub(crate) async fn start_trusting(
        kind: Kind,
        ca: &Ca,
        notary: Option<&Self>,
        sections: &str,
    ) -> Self {
        let notary = notary.map(|notary| {
            let (key_id, key) = notary.signing_key();
            synapse::Notary {
                name: notary.name().to_owned(),
                key_id,
                key: key.verifying_key(),
            }
        });
        let address = own_address();
        let identity = ca.identity(address);
        let listen = SocketAddr::from((address, 8008));
        let proxy = Proxy::start(address, &identity, listen).await;
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        ca.write(&ca_file);
        let site = Site {
            name: proxy.address.to_string(),
            directory: directory.path().into(),
            listen,
            ca: ca_file,
            identity,
            postgres: match kind {
                Kind::Synapse => None,
                Kind::Myelin => engine::postgres().await,
            },
            notary,
        };
        match kind {
            Kind::Synapse => site.synapse().write(),
            Kind::Myelin => myelin::write_config(&site, sections),
        }
        let mut server = Self {
            kind,
            proxy,
            site,
            child: None,
            _directory: directory,
        };
        server.run().await;
        server
    }

    /// The server name.
    pub(crate) fn name(&self) -> &str {
        &self.site.name
    }

    /// Where the process listens for plain HTTP, behind the proxy.
    pub(crate) fn address(&self) -> SocketAddr {
        self.site.listen
    }

    /// The key with which the server signs, and its ID: the test can speak as this server.
    pub(crate) fn signing_key(&self) -> (String, SigningKey) {
        match self.kind {
            Kind::Synapse => self.site.synapse().signing_key(),
            Kind::Myelin => myelin::signing_key(&self.site),
        }
    }

    /// Registers a user and logs them in.
    pub(crate) async fn register(&self, user: &str) -> Client {
        Client::register(self.site.listen, user).await
    }

    /// Ends the process as a crash would: SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends the process as an operator would, with SIGTERM, and waits for it; answers how long it
    /// took.
    pub(crate) fn terminate(&mut self) -> Duration {
        let mut child = self.child.take().unwrap();
        let asked = Instant::now();
        let kill = format!("kill {}", child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}");
        asked.elapsed()
    }

    /// What the process has written to its log and its standard output.
    pub(crate) fn log(&self) -> String {
        std::fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Runs another command of Myelin's with the server's configuration, and answers whether it succeeded
    /// and what it printed.
    pub(crate) fn command(&self, words: &[&str]) -> (bool, String) {
        let output = myelin::command(&self.site, words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// Starts the process (again) on the same data, and waits until it answers.
    pub(crate) async fn run(&mut self) {
        let mut command = match self.kind {
            Kind::Synapse => self.site.synapse().command(),
            Kind::Myelin => myelin::command(&self.site, &["serve"]),
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        command
            .current_dir(&self.site.directory)
            .stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(spawn(&mut command));
        self.wait_until_healthy().await;
    }

    /// Polls an outside process: there is nothing to be woken by.
    async fn wait_until_healthy(&mut self) {
        for _ in 0..300 {
            let request = hyper::Request::get("/health")
                .header("host", "localhost")
                .body(Default::default())
                .unwrap();
            if crate::http::send(self.site.listen, request)
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return;
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "{:?} ended: {ended:?}", self.kind);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{:?} does not answer", self.kind);
    }

    fn log_file(&self) -> PathBuf {
        self.site.directory.join("server.log")
    }
}

impl Drop for Homeserver {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the end of {:?}'s log", self.kind);
            eprintln!("{}", last_lines(&self.log(), 80));
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    command
        .spawn()
        .unwrap_or_else(|why| panic!("starting {:?}: {why}", command.get_program()))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A loopback address that no other test uses at the moment, so that fixed ports are free.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(
        127,
        1 + high % 250,
        low,
        NEXT.fetch_add(1, Ordering::Relaxed),
    )
}
