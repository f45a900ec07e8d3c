//! When servers were asked for their keys, so that none is asked again too soon.

use std::time::Duration;

use ruma::{OwnedServerName, ServerName};

use crate::recent::Recent;

/// How many servers are held in memory.
const CAPACITY: usize = 20_000;
/// How long a server is not asked again; each failure doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// When each server was asked last, and what came of it.
pub(crate) struct Attempts(Recent<OwnedServerName, Attempt>);

#[derive(Clone, Copy)]
struct Attempt {
    at_ms: u64,
    wait: Duration,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        Self(Recent::new(CAPACITY))
    }

    /// Whether a server may be asked at `now_ms` by somebody who waits for `longest` at most after an
    /// attempt.
    pub(crate) fn may_ask(&mut self, server: &ServerName, now_ms: u64, longest: Duration) -> bool {
        self.0
            .get(server)
            .is_none_or(|attempt| attempt.is_over(now_ms, longest))
    }

    /// Not again at once, whatever else is wanted of it.
    pub(crate) fn succeeded(&mut self, server: OwnedServerName, at_ms: u64) {
        let wait = FIRST_WAIT;
        self.0.insert(server, Attempt { at_ms, wait });
    }

    /// Returns how long it will be left alone. Who asked before the last wait was over adds nothing to it:
    /// of several that failed together one counts.
    pub(crate) fn failed(&mut self, server: OwnedServerName, at_ms: u64) -> Duration {
        let wait = match self.0.get(&server) {
            None => FIRST_WAIT,
            Some(before) if before.is_over(at_ms, LONGEST_WAIT) => {
                (before.wait * 2).min(LONGEST_WAIT)
            }
            Some(before) => before.wait,
        };
        self.0.insert(server, Attempt { at_ms, wait });
        wait
    }
}

impl Attempt {
    fn is_over(&self, now_ms: u64, longest: Duration) -> bool {
        let wait = self.wait.min(longest).as_millis();
        u128::from(now_ms) >= u128::from(self.at_ms) + wait
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::{owned_server_name, server_name};

    use super::{Attempts, LONGEST_WAIT};

    #[test]
    fn waits_double_with_failures_that_follow_on_one_another() {
        let mut attempts = Attempts::new();
        let mut failed = |at_ms| {
            let wait = attempts.failed(owned_server_name!("a"), at_ms);
            wait.as_secs()
        };
        assert_eq!([failed(0), failed(0), failed(29_999)], [30, 30, 30]);
        assert_eq!(
            [failed(60_000), failed(60_000), failed(180_000)],
            [60, 60, 120]
        );
        let at_the_end = (1..20).map(|hours| failed(hours * 3_600_000));
        assert_eq!(at_the_end.last(), Some(3600));
        assert!(attempts.may_ask(server_name!("b"), 0, LONGEST_WAIT));
        attempts.succeeded(owned_server_name!("a"), 1000);
        let mut may = |now_ms, longest| attempts.may_ask(server_name!("a"), now_ms, longest);
        assert!(!may(30_999, LONGEST_WAIT) && may(31_000, LONGEST_WAIT));
        let ten = Duration::from_secs(10);
        assert!(!may(10_999, ten) && may(11_000, ten));
    }
}
