//! Hyper's timer over the environment's clock: how long unused connections are kept.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use myelin_env::{Clock, Moment};

/// The clock in hyper's form.
#[derive(Clone)]
pub(crate) struct PoolTimer {
    clock: Clock,
    /// One moment in both forms. Hyper only looks at how far others are from it.
    origin: (Instant, Moment),
}

impl PoolTimer {
    #[expect(
        clippy::disallowed_methods,
        reason = "hyper counts in these; what passes from here on is counted by the clock"
    )]
    pub(crate) fn new(clock: Clock) -> Self {
        let origin = (Instant::now(), clock.instant());
        Self { clock, origin }
    }
}

impl Timer for PoolTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Waiting(self.clock.sleep(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> Instant {
        let (instant, moment) = self.origin;
        instant + moment.elapsed(&self.clock)
    }
}

impl fmt::Debug for PoolTimer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PoolTimer")
    }
}

/// A wait of the clock in hyper's form.
struct Waiting(myelin_env::Sleep);

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl Sleep for Waiting {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::rt::Timer as _;
    use myelin_env::Clock;

    use super::PoolTimer;

    #[test]
    fn it_goes_as_the_clock_goes() {
        let clock = Clock::manual(0);
        let timer = PoolTimer::new(clock.clone());
        let start = timer.now();
        clock.advance(Duration::from_secs(30));
        assert_eq!(timer.now() - start, Duration::from_secs(30));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_clock() {
        let clock = Clock::manual(0);
        let timer = PoolTimer::new(clock.clone());
        let deadline = timer.now() + Duration::from_secs(30);
        let wait = timer.sleep_until(deadline);
        assert_eq!(clock.sleepers(), 1);
        clock.advance(Duration::from_secs(30));
        wait.await;
    }
}
