//! `cargo xtask sim`: builds the simulation, fast enough to run and fast enough to build, and runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::ci;

/// The mistakes that a simulation has to find, by the names they have in `sim/planted.patch`.
const PLANTED: &[&str] = &[
    "skip-check-4",
    "skip-check-5",
    "skip-check-6",
    "lose-staging",
    "drop-parked",
    "stale-state",
    "foreign-room",
    "forget-un-rejection",
    "double-apply",
    "send-before-commit",
];

/// Says to a server with all mistakes which one it is to make.
const WHICH: &str = "MYELIN_PLANTED";

/// Runs the simulation with these options.
pub(crate) fn run(root: &Path, options: &[&str]) -> Result<(), String> {
    ci::run(simulation(root, root).args(options))
}

/// Runs the simulation of servers with each planted mistake until a seed fails, with these options. The
/// mistakes are planted in a copy of what was committed last, so that nothing of them is in the product.
pub(crate) fn planted(root: &Path, options: &[&str]) -> Result<(), String> {
    let tree = root.join("target/planted/tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(|why| why.to_string())?;
    }
    fs::create_dir_all(&tree).map_err(|why| why.to_string())?;
    let archive = tree.with_file_name("tree.tar");
    let mut git = Command::new("git");
    ci::run(
        git.current_dir(root)
            .args(["archive", "--output"])
            .arg(&archive)
            .arg("HEAD"),
    )?;
    ci::run(
        Command::new("tar")
            .arg("-xmf")
            .arg(&archive)
            .arg("-C")
            .arg(&tree),
    )?;
    ci::run(Command::new("patch").current_dir(&tree).args([
        "-p1",
        "--quiet",
        "-i",
        "sim/planted.patch",
    ]))?;
    let mut missed = Vec::new();
    for mistake in PLANTED {
        let mut simulation = simulation(root, &tree);
        let found = simulation
            .args(options)
            .args(["--until", "failure"])
            .env(WHICH, mistake)
            .stdout(Stdio::piped());
        let output = found.output().map_err(|why| format!("cargo: {why}"))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let violation = printed.lines().find(|line| line.contains(" FAILED: "));
        println!("{mistake}: {}", violation.unwrap_or("not found"));
        if violation.is_none() {
            missed.push(*mistake);
        }
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(format!("not found: {}", missed.join(", ")))
    }
}

/// The simulation of the servers in a tree.
fn simulation(root: &Path, tree: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--quiet", "--locked", "--profile", "sim"])
        .args(["--package", "myelin-sim", "--"])
        .env("CARGO_TARGET_DIR", root.join("target"))
        .current_dir(tree);
    command
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::PLANTED;
    use crate::workspace_root;

    #[test]
    fn each_mistake_can_be_planted() {
        let root = workspace_root();
        let patch = std::fs::read_to_string(root.join("sim/planted.patch")).unwrap();
        for mistake in PLANTED {
            assert!(
                patch.contains(&format!("planted(\"{mistake}\")")),
                "{mistake}"
            );
        }
        let applied = Command::new("patch")
            .current_dir(&root)
            .args(["-p1", "--dry-run", "--force", "-i", "sim/planted.patch"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&applied.stdout).into_owned();
        assert!(applied.status.success(), "{said}");
    }
}
