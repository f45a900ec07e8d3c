//! The server in a process of its own, so that its time and memory can be told from those of what
//! surrounds it.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use myelin_env::Env;
use myelin_server::{Server, config, memory};
use myelin_storage::testing::PostgresDatabase;
use myelin_testbed::{
    ca::Ca,
    client::{Client, SHARED_SECRET},
    http,
    resident::Resident,
    synapse,
};
use tempfile::TempDir;

type Failure = Box<dyn Error>;

/// What the benchmark's program is called with to be the server.
pub(crate) const SERVE: &str = "serve";

/// The name of the server.
pub(crate) const NAME: &str = "bench.test";

/// How long Synapse may take to start, in seconds.
const SYNAPSE_STARTS_WITHIN: u32 = 60;

/// `/proc` counts processor time in these, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which server runs, and on what.
#[derive(Clone, Debug)]
pub(crate) enum Engine {
    /// Myelin on SQLite.
    Sqlite,
    /// Myelin on a database of its own on the PostgreSQL server with this URL.
    Postgres(String),
    /// Synapse on SQLite.
    Synapse,
}

impl Engine {
    /// What tables call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "Myelin SQLite",
            Self::Postgres(_) => "Myelin PostgreSQL",
            Self::Synapse => "Synapse SQLite",
        }
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    postgres: Option<PostgresDatabase>,
    /// Removed at the end.
    _directory: TempDir,
}

impl Process {
    /// Starts Myelin with an empty SQLite database, able to reach the servers that the resident speaks
    /// for.
    pub(crate) fn start(ca: &Ca, notary: &Resident) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let ca_file = directory.path().join("ca.pem");
        ca.write(&ca_file);
        let federation = format!(
            r#"
[federation]
extra_ca_certificates = ["{}"]
allow_private_addresses = true
trusted_key_servers = ["{}"]
"#,
            ca_file.display(),
            notary.name(),
        );
        Self::start_myelin(directory, None, &federation)
    }

    /// Starts a server of that kind with an empty database, which reaches no other server.
    pub(crate) async fn start_on(engine: &Engine) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        match engine {
            Engine::Sqlite => Self::start_myelin(directory, None, ""),
            Engine::Postgres(server) => {
                let database = PostgresDatabase::create(server).await;
                Self::start_myelin(directory, Some(database), "")
            }
            Engine::Synapse => Self::start_synapse(directory).await,
        }
    }

    fn start_myelin(
        directory: TempDir,
        postgres: Option<PostgresDatabase>,
        federation: &str,
    ) -> Result<Self, Failure> {
        let file = directory.path().join("myelin.toml");
        let mut text = format!(
            r#"
server_name = "{NAME}"
data_dir = "{}"
[[listeners]]
address = "127.0.0.1:0"
[registration]
enabled = true
shared_secret = "{SHARED_SECRET}"
[rate_limits]
enabled = false
{federation}"#,
            directory.path().display(),
        );
        if let Some(database) = &postgres {
            write!(text, "[database]\nurl = \"{}\"\n", database.url)?;
        }
        fs::write(&file, text)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        Ok(Self {
            child,
            address: line.trim().parse()?,
            postgres,
            _directory: directory,
        })
    }

    async fn start_synapse(directory: TempDir) -> Result<Self, Failure> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let configuration = synapse::Configuration {
            name: NAME,
            directory: directory.path(),
            listen: address,
            ca: None,
            notary: None,
        };
        configuration.write();
        let log = fs::File::create(directory.path().join("log"))?;
        let child = configuration
            .command()
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let process = Self {
            child,
            address,
            postgres: None,
            _directory: directory,
        };
        for _ in 0..SYNAPSE_STARTS_WITHIN {
            if http::Kept::open(address).await.is_ok() {
                return Ok(process);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err("Synapse does not start".into())
    }

    /// Registers a user and logs them in.
    pub(crate) async fn register(&self, user: &str) -> Client {
        Client::register(self.address, user).await
    }

    /// The processor time that it has taken so far, with that of all of PostgreSQL if it is on it.
    pub(crate) fn processor_time(&self) -> Result<Duration, Failure> {
        time_of(&self.child.id().to_string(), self.postgres.is_some())
    }

    /// The memory that it holds, in MB.
    pub(crate) fn memory_mb(&self) -> Result<f64, Failure> {
        self.status_mb("VmRSS:")
    }

    /// The most memory that it held since [`Self::forget_peak`], in MB.
    pub(crate) fn peak_mb(&self) -> Result<f64, Failure> {
        self.status_mb("VmHWM:")
    }

    /// Begins to look for the most memory anew.
    pub(crate) fn forget_peak(&self) -> Result<(), Failure> {
        Ok(fs::write(
            format!("/proc/{}/clear_refs", self.child.id()),
            "5",
        )?)
    }

    fn status_mb(&self, name: &str) -> Result<f64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kilobytes.ok_or("no such line")?.parse::<f64>()? / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The processor time that this process has taken so far, perhaps with that of all of PostgreSQL.
pub(crate) fn own_time(with_postgres: bool) -> Result<Duration, Failure> {
    time_of("self", with_postgres)
}

fn time_of(process: &str, with_postgres: bool) -> Result<Duration, Failure> {
    let mut ticks = ticks(&format!("/proc/{process}"))?;
    if with_postgres {
        for process in fs::read_dir("/proc")? {
            let path = process?.path();
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            if name.trim() == "postgres" {
                // One that has ended meanwhile is counted with its parent.
                ticks += self::ticks(&path.to_string_lossy()).unwrap_or_default();
            }
        }
    }
    Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}

/// The processor time of a process and of its children that have ended, from its directory of `/proc`.
fn ticks(process: &str) -> Result<f64, Failure> {
    let stat = fs::read_to_string(format!("{process}/stat"))?;
    // The name before the parenthesis may hold anything. The times are fields 14 to 17.
    let fields = stat.rsplit_once(')').ok_or("no name")?.1;
    let times = fields.split_whitespace().skip(11).take(4);
    Ok(times.map(str::parse::<f64>).sum::<Result<_, _>>()?)
}

/// Is the server: prints its address, and runs until the standard input ends.
pub(crate) fn serve(file: &Path) -> Result<(), Failure> {
    memory::give_back_large_allocations();
    let config = config::load(file)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let running = runtime.block_on(Box::pin(Server::start(config, Env::real())))?;
    let mut out = io::stdout();
    writeln!(out, "{}", running.addresses()[0])?;
    out.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
