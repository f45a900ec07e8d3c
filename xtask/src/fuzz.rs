//! `cargo xtask fuzz`: builds the fuzzer so that it counts what it reaches, and runs its targets for a while.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::ci;

/// What `cargo fuzz` passes too, without a sanitizer, so that no nightly compiler is needed.
const COUNTING: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How many seconds each target runs unless the caller says otherwise.
pub(crate) const SECONDS: &str = "60";

/// Runs targets, all if none is named, each for so many seconds. What makes one fail is kept in `target/fuzz`.
pub(crate) fn run(root: &Path, seconds: &str, targets: &[&str]) -> Result<(), String> {
    let all = targets_with_seeds(root)?;
    if let Some(unknown) = targets
        .iter()
        .find(|name| !all.iter().any(|known| known == *name))
    {
        return Err(format!("{unknown} is none of {}", all.join(", ")));
    }
    let program = build(root)?;
    for name in all
        .iter()
        .filter(|name| targets.is_empty() || targets.contains(&name.as_str()))
    {
        run_target(root, &program, name, seconds)?;
    }
    Ok(())
}

/// Runs one target from its seeds and from what earlier runs found worth keeping.
fn run_target(root: &Path, program: &Path, name: &str, seconds: &str) -> Result<(), String> {
    let directory = root.join("target/fuzz");
    let corpus = directory.join("corpus").join(name);
    let log = directory.join(format!("{name}.log"));
    fs::create_dir_all(&corpus).map_err(|why| why.to_string())?;
    let told = fs::File::create(&log).map_err(|why| why.to_string())?;
    let status = Command::new(program)
        .env("MYELIN_FUZZ", name)
        .args([
            "-max_len=70000",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
        ])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{name}-", directory.display()))
        .arg(corpus)
        .arg(root.join("fuzz/seeds").join(name))
        .stderr(told)
        .status()
        .map_err(|why| format!("{}: {why}", program.display()))?;
    let told = fs::read_to_string(&log).unwrap_or_default();
    if !status.success() {
        let end = told.lines().rev().take(40).collect::<Vec<_>>();
        let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
        return Err(format!(
            "{name} fails; what makes it fail lies in {}\n{end}",
            directory.display()
        ));
    }
    let units = "stat::number_of_executed_units:";
    let tried = told
        .lines()
        .find_map(|line| line.strip_prefix(units))
        .unwrap_or("?")
        .trim();
    println!("fuzz: {name}: {tried} inputs in {seconds} s");
    Ok(())
}

/// The names of the targets: each has a directory of seeds.
fn targets_with_seeds(root: &Path) -> Result<Vec<String>, String> {
    let seeds = fs::read_dir(root.join("fuzz/seeds")).map_err(|why| why.to_string())?;
    let mut names: Vec<String> = seeds
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// Builds the fuzzer. With a target named, cargo leaves build scripts and macros as they are.
fn build(root: &Path) -> Result<std::path::PathBuf, String> {
    let host = host()?;
    let directory = root.join("target/fuzz");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args([
            "build",
            "--locked",
            "--profile",
            "fuzz",
            "--package",
            "myelin-fuzz",
        ])
        .args(["--features", "libfuzzer", "--target", &host])
        .env("CARGO_TARGET_DIR", &directory)
        .env("RUSTFLAGS", COUNTING);
    ci::run(&mut cargo)?;
    Ok(directory.join(host).join("fuzz/myelin-fuzz"))
}

/// The platform that the compiler runs on.
fn host() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output();
    let output = output.map_err(|why| format!("rustc: {why}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| "rustc does not name its host".to_owned())
}
