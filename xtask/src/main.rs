//! The project's own commands: `cargo xtask tidy`, `cargo xtask ci`, `cargo xtask requirements`,
//! `cargo xtask sim`, `cargo xtask fuzz`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command-line tool for developers: its output is its purpose, and it measures real time"
)]

mod ci;
mod fuzz;
mod requirements;
mod sim;
mod source;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  tidy                 check the structure of the tree against ARCHITECTURE.md
  ci fast              format, lints, tidy and every test that needs nothing but cargo
  ci full              install what the tests need, then everything, then the requirements
  requirements [FILE]  compare docs/requirements.md with the JUnit report of `ci full`
  sim [OPTIONS]        simulate many servers, seed after seed: --seeds A..B, --servers N, --events N,
                       --faults N; --replay SEED prints all that happens
  sim --planted [..]   simulate servers with each of the mistakes in sim/planted.patch until one is found
  fuzz [--seconds N] [TARGET..]
                       read ever new bytes with the parsers of what comes from outside, N seconds each
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = workspace_root();
    let outcome = match words.as_slice() {
        ["tidy"] => tidy::run(&root),
        ["ci", "fast"] => ci::fast(&root),
        ["ci", "full"] => ci::full(&root),
        ["requirements"] => requirements::run(&root, &root.join(requirements::DEFAULT_REPORT)),
        ["requirements", report] => requirements::run(&root, Path::new(report)),
        ["sim", "--planted", options @ ..] => sim::planted(&root, options),
        ["sim", options @ ..] => sim::run(&root, options),
        ["fuzz", "--seconds", seconds, targets @ ..] => fuzz::run(&root, seconds, targets),
        ["fuzz", targets @ ..] => fuzz::run(&root, fuzz::SECONDS, targets),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The directory of the workspace's manifest.
fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
