//! `cargo xtask ci`: what has to pass before a change goes in.
//!
//! `fast` needs nothing but cargo. `full` is the README's test command and what the project's
//! own machine runs: it installs what the tests need, runs all of them, and compares the result
//! with the list of requirements.

mod install;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{fuzz, requirements, tidy};

/// Tests which need a real Synapse or Python live below a module of this name.
const NEEDS_MORE: &str = "interop::";

/// How long each parser of what comes from outside is fed with new bytes.
const FUZZ_SECONDS: &str = "10";

/// Format, lints, structure, and the tests that need nothing but cargo.
pub(crate) fn fast(root: &Path) -> Result<(), String> {
    let mut steps = Steps::new(root);
    let outcome = steps.check_tree().and_then(|()| steps.test_fast());
    steps.print();
    outcome
}

/// Installs what is missing, then runs everything.
pub(crate) fn full(root: &Path) -> Result<(), String> {
    let mut steps = Steps::new(root);
    let outcome = steps.full();
    steps.stop_postgres();
    steps.print();
    outcome
}

/// Steps of a run: the commands' environment, and how long each took.
struct Steps {
    root: PathBuf,
    environment: Vec<(String, String)>,
    postgres: bool,
    times: Vec<(String, Duration, bool)>,
}

impl Steps {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            environment: Vec::new(),
            postgres: false,
            times: Vec::new(),
        }
    }

    fn full(&mut self) -> Result<(), String> {
        self.step("install: system packages", |_| install::system_packages())?;
        self.step("install: Synapse and matrix-nio", |steps| {
            let directory = install::python_packages()?;
            steps.environment.push((
                "MYELIN_TEST_SYNAPSE".to_owned(),
                directory.display().to_string(),
            ));
            Ok(())
        })?;
        self.step("install: Node and matrix-js-sdk", |steps| {
            let directory = install::node_packages()?;
            steps.environment.push((
                "MYELIN_TEST_NODE".to_owned(),
                directory.display().to_string(),
            ));
            Ok(())
        })?;
        self.step("install: cargo-nextest", |steps| {
            steps.environment.extend(install::nextest()?);
            Ok(())
        })?;
        self.check_tree()?;
        self.cargo(
            "build for the tests",
            &["nextest", "run", "--workspace", "--locked", "--no-run"],
        )?;
        self.step("start PostgreSQL", Self::start_postgres)?;
        self.find_specification();
        self.test("tests", "ci", &["--workspace"])?;
        self.environment
            .push(("MYELIN_TEST_ENGINE".to_owned(), "postgres".to_owned()));
        // Of the whole workspace: its features are those that were built.
        let whole_servers = "package(myelin-server) & (test(/^interop::/) | test(/^trouble::/))";
        self.test(
            "tests of whole servers on PostgreSQL",
            "postgres",
            &["--workspace", "-E", whole_servers],
        )?;
        self.step("fuzz", |steps| fuzz::run(&steps.root, FUZZ_SECONDS, &[]))?;
        self.step("requirements", |steps| {
            requirements::run(&steps.root, &steps.root.join(requirements::DEFAULT_REPORT))
        })
    }

    fn test(&mut self, name: &str, profile: &str, which: &[&str]) -> Result<(), String> {
        let run = ["nextest", "run", "--locked", "--profile", profile];
        self.cargo(name, &[&run, which].concat())
    }

    /// The specification's files may lie beside the project. Then answers are checked against them.
    fn find_specification(&mut self) {
        if let Ok(directory) = self.root.join("../shared/spec/data").canonicalize() {
            let directory = directory.display().to_string();
            self.environment
                .push(("MATRIX_SPEC_DIR".to_owned(), directory));
        }
    }

    fn check_tree(&mut self) -> Result<(), String> {
        self.cargo("format", &["fmt", "--all", "--check"])?;
        self.step("tidy", |steps| tidy::run(&steps.root))?;
        self.cargo(
            "lints",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ],
        )
    }

    /// With nextest if it is there, since its output is better; else with cargo alone.
    fn test_fast(&mut self) -> Result<(), String> {
        if install::has_nextest() {
            let filter = format!("not test(/(^|::){NEEDS_MORE}/)");
            return self.cargo(
                "tests",
                &["nextest", "run", "--workspace", "--locked", "-E", &filter],
            );
        }
        self.cargo(
            "tests",
            &[
                "test",
                "--workspace",
                "--locked",
                "--",
                "--skip",
                NEEDS_MORE,
            ],
        )
    }

    fn cargo(&mut self, name: &str, arguments: &[&str]) -> Result<(), String> {
        self.step(name, |steps| {
            let mut command = Command::new(env!("CARGO"));
            command
                .args(arguments)
                .current_dir(&steps.root)
                .envs(steps.environment.iter().cloned());
            run(&mut command)
        })
    }

    /// Runs one step and keeps its time; a failed one is named.
    fn step(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        println!("=== {name}");
        let started = Instant::now();
        let outcome = body(self);
        self.times
            .push((name.to_owned(), started.elapsed(), outcome.is_ok()));
        outcome.map_err(|why| format!("{name}: {why}"))
    }

    /// Starts a private cluster; the script prints the URL for the tests.
    fn start_postgres(&mut self) -> Result<(), String> {
        self.postgres = true;
        let output = Command::new("sh")
            .args([".ci/postgres.sh", "start"])
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|why| why.to_string())?;
        let url = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            return Err(format!(".ci/postgres.sh: {}", output.status));
        }
        self.environment
            .push(("MYELIN_TEST_POSTGRES".to_owned(), url));
        Ok(())
    }

    fn stop_postgres(&self) {
        if self.postgres {
            let stopped = run(Command::new("bash")
                .args([".ci/postgres.sh", "stop"])
                .current_dir(&self.root));
            if let Err(why) = stopped {
                eprintln!("PostgreSQL was not stopped: {why}");
            }
        }
    }

    fn print(&self) {
        let total: Duration = self.times.iter().map(|(_, time, _)| *time).sum();
        println!("=== times");
        for (name, time, passed) in &self.times {
            println!(
                "{:>8.1} s  {name}{}",
                time.as_secs_f64(),
                if *passed { "" } else { ": FAILED" }
            );
        }
        println!("{:>8.1} s  all", total.as_secs_f64());
    }
}

/// Runs a command without input; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|why| format!("{program}: {why}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {status}"))
    }
}
