//! The server in a process of its own, so that its time and memory can be told from those of what
//! surrounds it.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use myelin_env::Env;
use myelin_server::{Server, config};
use myelin_testbed::{ca::Ca, client::SHARED_SECRET, resident::Resident};
use tempfile::TempDir;

type Failure = Box<dyn Error>;

/// What the benchmark's program is called with to be the server.
pub(crate) const SERVE: &str = "serve";

/// The name of the server.
pub(crate) const NAME: &str = "bench.test";

/// `/proc` counts processor time in these, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server that runs until it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Removed at the end.
    _directory: TempDir,
}

impl Process {
    /// Starts a server with an empty SQLite database.
    pub(crate) fn start(ca: &Ca, notary: &Resident) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let (file, ca_file) = (
            directory.path().join("myelin.toml"),
            directory.path().join("ca.pem"),
        );
        ca.write(&ca_file);
        let mut text = String::new();
        write!(
            text,
            r#"
server_name = "{NAME}"
data_dir = "{}"
[[listeners]]
address = "127.0.0.1:0"
[federation]
extra_ca_certificates = ["{}"]
allow_private_addresses = true
trusted_key_servers = ["{}"]
[registration]
enabled = true
shared_secret = "{SHARED_SECRET}"
[rate_limits]
enabled = false
"#,
            directory.path().display(),
            ca_file.display(),
            notary.name(),
        )?;
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
            _directory: directory,
        })
    }

    /// The processor time that it has taken so far.
    pub(crate) fn processor_time(&self) -> Result<Duration, Failure> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name before the parenthesis may hold anything. User and system time are fields 14 and 15.
        let fields = stat.rsplit_once(')').ok_or("no name")?.1;
        let ticks: f64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<f64>)
            .sum::<Result<_, _>>()?;
        Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
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

/// Is the server: prints its address, and runs until the standard input ends.
pub(crate) fn serve(file: &Path) -> Result<(), Failure> {
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
