//! What the tables are about, and figures as they show them.

use std::time::Duration;

/// The sizes that were given, or those to measure if nobody says.
pub(crate) fn given_or<'a>(given: &'a [usize], usual: &'a [usize]) -> &'a [usize] {
    if given.is_empty() { usual } else { given }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The middle one, or nothing if there is none.
pub(crate) fn median(durations: &[Duration]) -> Duration {
    quantile(durations, 0.5)
}

/// The duration that this part of all does not exceed.
pub(crate) fn quantile(durations: &[Duration], part: f64) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1) as f64;
    sorted
        .get((last * part).round() as usize)
        .copied()
        .unwrap_or_default()
}
