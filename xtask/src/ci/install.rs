//! What the tests need beyond cargo, installed only when it is missing.
//!
//! System packages come from the distribution (Debian and its descendants; `.ci/postgres.sh` does
//! the same for PostgreSQL), Synapse and matrix-nio from PyPI into a virtual environment, Node and
//! matrix-js-sdk from npm, nextest from crates.io. All but the first go to a cache directory of the user's,
//! so that a clean checkout does not fetch them again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::run;

/// The Python packages, in the versions that the tests were written against.
const PYTHON_PACKAGES: &[&str] = &["matrix-synapse==1.163.2", "matrix-nio==0.25.2"];

/// The client library for Node, and a Node that is new enough for it.
const JS_SDK: &str = "matrix-js-sdk@43.0.0";
const NODE: &str = "22.23.3";

/// The test runner, if there is none yet.
const NEXTEST: &str = "cargo-nextest@0.9.151";

/// Installs the distribution's packages that are missing. Needs root (or sudo) only then.
pub(super) fn system_packages() -> Result<(), String> {
    let missing: Vec<&str> = [
        ("build-essential", on_path("c++")),
        ("curl", on_path("curl")),
        ("npm", on_path("npm")),
        (
            "python3-venv",
            succeeds("python3", &["-c", "import venv, ensurepip"]),
        ),
    ]
    .into_iter()
    .filter_map(|(package, found)| (!found).then_some(package))
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = if succeeds("test", &["-w", "/var/lib/dpkg"]) {
            Command::new("apt-get")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.args([
                "--non-interactive",
                "--preserve-env=DEBIAN_FRONTEND",
                "apt-get",
            ]);
            sudo
        };
        let done = run(command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"));
        done.map_err(|why| format!("{why}; please install {}", missing.join(" ")))
    };
    apt(&["update", "--quiet"])?;
    let install = ["install", "--quiet", "--yes", "--no-install-recommends"];
    apt(&[&install, missing.as_slice()].concat())
}

/// Makes the virtual environment with Synapse and matrix-nio; answers its directory.
pub(super) fn python_packages() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("MYELIN_TEST_SYNAPSE") {
        return Ok(given.into());
    }
    let directory = cache()?.join("venv");
    let python = directory.join("bin/python");
    let wanted = PYTHON_PACKAGES.join(" ");
    let mark = directory.join("installed.txt");
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(directory);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&directory))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ];
    run(Command::new(python).args(pip).args(PYTHON_PACKAGES))?;
    std::fs::write(&mark, wanted).map_err(|why| format!("{}: {why}", mark.display()))?;
    Ok(directory)
}

/// Installs Node and matrix-js-sdk; answers the directory that holds `node_modules`, with Node as `node`.
pub(super) fn node_packages() -> Result<PathBuf, String> {
    let directory = cache()?.join("node");
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "x64",
    };
    let node = format!("node-linux-{architecture}");
    let wanted = [format!("{node}@{NODE}"), JS_SDK.to_owned()];
    let mark = directory.join("installed.txt");
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted.join(" ")) {
        return Ok(directory);
    }
    let failed = |why: std::io::Error| format!("{}: {why}", directory.display());
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let arguments = [
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
    ];
    run(Command::new("npm")
        .args(arguments)
        .arg("--prefix")
        .arg(&directory)
        .args(&wanted)
        .current_dir(&directory))?;
    let program = directory.join("node_modules").join(node).join("bin/node");
    std::fs::copy(program, directory.join("node")).map_err(failed)?;
    std::fs::write(&mark, wanted.join(" ")).map_err(failed)?;
    Ok(directory)
}

/// Installs nextest if cargo does not know it; answers the environment in which it does.
pub(super) fn nextest() -> Result<Vec<(String, String)>, String> {
    if has_nextest() {
        return Ok(Vec::new());
    }
    let root = cache()?.join("cargo");
    if !root.join("bin/cargo-nextest").exists() {
        // Unoptimised: it takes a third of the time to build and only waits for the tests.
        let arguments = ["install", NEXTEST, "--locked", "--debug", "--root"];
        // Away from the workspace, whose `.cargo/config.toml` sets flags for its own crates.
        run(Command::new(env!("CARGO"))
            .args(arguments)
            .arg(&root)
            .current_dir("/"))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(vec![(
        "PATH".to_owned(),
        format!("{}:{path}", root.join("bin").display()),
    )])
}

/// Whether `cargo nextest` works as things are.
pub(super) fn has_nextest() -> bool {
    succeeds(env!("CARGO"), &["nextest", "--version"])
}

fn cache() -> Result<PathBuf, String> {
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    let directory = Path::new(&home).join(".cache/myelin-tests");
    std::fs::create_dir_all(&directory).map_err(|why| format!("{}: {why}", directory.display()))?;
    Ok(directory)
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let status = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
