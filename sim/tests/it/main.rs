//! The simulation itself: it is the same each time, and what the servers do in it holds.

use myelin_sim::{Report, Scenario, run};

/// A small one: the whole size is for `cargo xtask sim`.
fn small(seed: u64) -> Scenario {
    Scenario {
        seed,
        servers: Some(3),
        events: 60,
        faults: 5,
        is_readable: false,
    }
}

fn assert_holds(report: &Report) {
    assert!(
        report.violations.is_empty(),
        "seed {}: {:#?}",
        report.seed,
        report.violations
    );
    assert!(report.counted["decided: accepted"] > 0 && report.events > 60);
}

#[test]
fn the_same_seed_makes_the_same_trace_byte_for_byte_and_another_one_another() {
    let (first, again, other) = (run(&small(1)), run(&small(1)), run(&small(2)));
    assert_eq!(first.trace, again.trace);
    assert_eq!(first.simulated, again.simulated);
    assert_eq!(first.counted, again.counted);
    assert_ne!(first.trace, other.trace);
    assert_holds(&first);
    assert_holds(&other);
}

#[test]
fn what_servers_decide_and_show_holds_through_partitions_crashes_and_silence() {
    let report = run(&Scenario {
        servers: Some(4),
        ..small(3)
    });
    assert_holds(&report);
    let faults = report.counted.keys();
    let kinds = faults.filter(|what| what.starts_with("fault: ")).count();
    assert!(kinds >= 5, "{:?}", report.counted);
}
