//! `cargo xtask sim`: builds the simulation, fast enough to run and fast enough to build, and runs it.

use std::fs;
use std::path::{Path, PathBuf};
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
    ci::run(simulation(root, &root.join("target")).args(options))
}

/// Within so many seeds each mistake has to be found, unless the options say otherwise.
const SEEDS: &str = "0..200";

/// Runs the simulation of servers with each planted mistake until a seed fails, with these options. The seed
/// must pass without the mistake: a simulation that fails anyway finds nothing.
pub(crate) fn planted(root: &Path, options: &[&str]) -> Result<(), String> {
    let tree = plant(root)?;
    // Cargo tells packages apart by their place in a workspace: in one directory, the servers without mistakes
    // would be taken for built.
    let target = tree.with_file_name("target");
    let mut wrong = Vec::new();
    for mistake in PLANTED {
        let mut simulation = simulation(&tree, &target);
        simulation
            .args(["--seeds", SEEDS])
            .args(options)
            .args(["--until", "failure"])
            .env(WHICH, mistake);
        let (_, printed) = outcome(&mut simulation)?;
        let Some((seed, violation)) = printed.lines().find_map(failure) else {
            println!("{mistake}: not found");
            wrong.push(format!("{mistake} is not found"));
            continue;
        };
        println!("{mistake}: seed {seed}: {violation}");
        let mut control = self::simulation(&tree, &target);
        let seed_alone = format!("{seed}..{}", seed + 1);
        control.args(options).args(["--seeds", &seed_alone]);
        if !outcome(&mut control)?.0 {
            wrong.push(format!("seed {seed} fails without {mistake}"));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

/// Whether a command succeeds, and what it prints.
fn outcome(command: &mut Command) -> Result<(bool, String), String> {
    let output = command.stdout(Stdio::piped()).output();
    let output = output.map_err(|why| format!("cargo: {why}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.success(), printed))
}

/// The seed that failed, and what was violated, if the line says so.
fn failure(line: &str) -> Option<(u64, &str)> {
    let (seed, violation) = line.strip_prefix("seed ")?.split_once(" FAILED: ")?;
    Some((seed.parse().ok()?, violation))
}

/// Plants the mistakes in a copy of what was committed last, so that nothing of them is in the product.
fn plant(root: &Path) -> Result<PathBuf, String> {
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
    // Cargo reads the directories above, too. With the same flags twice it would build everything anew.
    fs::remove_dir_all(tree.join(".cargo")).map_err(|why| why.to_string())?;
    ci::run(Command::new("patch").current_dir(&tree).args([
        "-p1",
        "--quiet",
        "-i",
        "sim/planted.patch",
    ]))?;
    Ok(tree)
}

/// The simulation of the servers in a tree, built in a directory.
fn simulation(tree: &Path, target: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--quiet", "--locked", "--profile", "sim"])
        .args(["--package", "myelin-sim", "--"])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(tree);
    command
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{PLANTED, failure};
    use crate::workspace_root;

    #[test]
    fn a_line_says_which_seed_failed() {
        let line = "seed 12 FAILED: lost: $e of room 0 (--replay 12)";
        assert_eq!(
            failure(line),
            Some((12, "lost: $e of room 0 (--replay 12)"))
        );
        assert_eq!(failure("seed 12: 3 servers, 500 events"), None);
    }

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
