//! `cargo xtask sim`: simulates seed after seed, and prints what came of each.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command-line tool for developers: its output is its purpose, and it measures real time"
)]

use std::{
    collections::BTreeMap,
    ops::Range,
    process::ExitCode,
    time::{Duration, Instant},
};

use myelin_sim::{Report, Scenario, run};

const USAGE: &str = "\
Usage: cargo xtask sim [--seeds A..B] [--servers N] [--events N] [--faults N]
       cargo xtask sim --until failure [the same]   stops at the first seed that fails
       cargo xtask sim --replay SEED [the same]     prints all that happened
";

/// What was asked for.
struct Wanted {
    seeds: Range<u64>,
    /// Whether the first seed that fails is the last.
    until_failure: bool,
    scenario: Scenario,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(wanted) = wanted(&arguments) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    if wanted.scenario.is_readable {
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
    let started = Instant::now();
    let mut totals = Totals::default();
    for seed in wanted.seeds {
        let scenario = Scenario {
            seed,
            ..wanted.scenario.clone()
        };
        let began = Instant::now();
        let report = run(&scenario);
        print(&report, began.elapsed());
        totals.add(&report);
        if wanted.until_failure && !totals.failed.is_empty() {
            break;
        }
    }
    totals.print(started.elapsed());
    if totals.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn wanted(arguments: &[String]) -> Option<Wanted> {
    let mut wanted = Wanted {
        seeds: 0..10,
        until_failure: false,
        scenario: Scenario {
            seed: 0,
            servers: None,
            events: 450,
            faults: 8,
            is_readable: false,
        },
    };
    let mut arguments = arguments.iter();
    while let Some(option) = arguments.next() {
        let value = arguments.next()?;
        match option.as_str() {
            "--seeds" => {
                let (from, to) = value.split_once("..")?;
                wanted.seeds = from.parse().ok()?..to.parse().ok()?;
            }
            "--servers" => wanted.scenario.servers = Some(value.parse().ok()?),
            "--events" => wanted.scenario.events = value.parse().ok()?,
            "--faults" => wanted.scenario.faults = value.parse().ok()?,
            "--until" => wanted.until_failure = value == "failure",
            "--replay" => {
                let seed: u64 = value.parse().ok()?;
                wanted.seeds = seed..seed + 1;
                wanted.scenario.is_readable = true;
            }
            _ => return None,
        }
    }
    Some(wanted)
}

fn print(report: &Report, took: Duration) {
    if let Some(text) = &report.text {
        print!("{text}");
    }
    let counted: Vec<String> = report
        .counted
        .iter()
        .map(|(what, times)| format!("{what} {times}"))
        .collect();
    println!(
        "seed {}: {} servers, {} events, {:.0} s simulated in {:.2} s, trace {:016x}; {}",
        report.seed,
        report.servers,
        report.events,
        report.simulated.as_secs_f64(),
        took.as_secs_f64(),
        report.trace,
        counted.join(", ")
    );
    for violation in &report.violations {
        println!("seed {} FAILED: {violation} (--replay {0})", report.seed);
    }
}

/// All seeds together.
#[derive(Default)]
struct Totals {
    seeds: u32,
    events: usize,
    simulated: Duration,
    counted: BTreeMap<String, u64>,
    failed: Vec<u64>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.events += report.events;
        self.simulated += report.simulated;
        for (what, times) in &report.counted {
            *self.counted.entry(what.clone()).or_default() += times;
        }
        if !report.violations.is_empty() {
            self.failed.push(report.seed);
        }
    }

    fn print(&self, took: Duration) {
        println!("{} seeds, {} events", self.seeds, self.events);
        for (what, times) in &self.counted {
            println!("  {what}: {times}");
        }
        println!(
            "{:.2} seeds/s, {:.0} simulated seconds a second",
            f64::from(self.seeds) / took.as_secs_f64(),
            self.simulated.as_secs_f64() / took.as_secs_f64()
        );
        println!("{} failed: {:?}", self.failed.len(), self.failed);
    }
}
