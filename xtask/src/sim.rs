//! `cargo xtask sim`: builds the simulation, fast enough to run and fast enough to build, and runs it.

use std::path::Path;
use std::process::Command;

/// Runs the simulation with these options.
pub(crate) fn run(root: &Path, options: &[&str]) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--quiet", "--locked", "--profile", "sim"])
        .args(["--package", "myelin-sim", "--"])
        .args(options)
        .current_dir(root);
    let status = command.status().map_err(|why| format!("cargo: {why}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the simulation: {status}"))
    }
}
