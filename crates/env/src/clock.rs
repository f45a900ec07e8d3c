//! Time: the wall clock, a monotonic clock for measuring, and waiting.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A source of time. Clones share it.
#[derive(Clone)]
pub struct Clock {
    source: Arc<Source>,
    /// How far the wall clock was set from the source's, in milliseconds. Never changes with a real source.
    set_by_ms: Arc<AtomicI64>,
}

enum Source {
    /// `origin` is what [`Moment`]s count from.
    Real {
        origin: Instant,
    },
    Manual(Mutex<Manual>),
}

struct Manual {
    /// On the monotonic scale, which began with the Unix epoch.
    now: Duration,
    /// Who waits, by deadline and then by who came first.
    sleepers: BTreeMap<(Duration, u64), Option<Waker>>,
    /// Numbers the sleepers.
    next_sleeper: u64,
}

/// A point on a clock's monotonic scale. It means nothing on another clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// How long ago this was on `clock`; zero if it lies ahead.
    #[must_use]
    pub fn elapsed(self, clock: &Clock) -> Duration {
        clock.instant().0.saturating_sub(self.0)
    }

    /// How much later this is than `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// The time given to [`Clock::timeout`] ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time allowed ran out")]
pub struct Elapsed;

impl Clock {
    /// The machine's clock.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the ambient clock enters"
    )]
    pub fn real() -> Self {
        Self::of(Source::Real {
            origin: Instant::now(),
        })
    }

    /// A clock that stands at `start_ms` (Unix milliseconds) and moves only by [`Clock::advance`].
    #[must_use]
    pub fn manual(start_ms: u64) -> Self {
        Self::of(Source::Manual(Mutex::new(Manual {
            now: Duration::from_millis(start_ms),
            sleepers: BTreeMap::new(),
            next_sleeper: 0,
        })))
    }

    fn of(source: Source) -> Self {
        Self {
            source: Arc::new(source),
            set_by_ms: Arc::default(),
        }
    }

    /// A clock that goes with this one, as that of another machine does: [`Clock::set_by_ms`] sets the wall time of
    /// one of them only.
    #[must_use]
    pub fn of_another_machine(&self) -> Self {
        let set_by_ms = self.set_by_ms.load(Ordering::Relaxed);
        Self {
            source: Arc::clone(&self.source),
            set_by_ms: Arc::new(AtomicI64::new(set_by_ms)),
        }
    }

    /// Milliseconds since the Unix epoch. May jump with the machine's clock: for timestamps, not
    /// for measuring.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the ambient clock enters"
    )]
    pub fn now_ms(&self) -> u64 {
        let since_epoch = match &*self.source {
            Source::Real { .. } => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
                since_epoch.unwrap_or_default()
            }
            Source::Manual(manual) => lock(manual).now,
        };
        let since_epoch_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        since_epoch_ms.saturating_add_signed(self.set_by_ms.load(Ordering::Relaxed))
    }

    /// The present on the monotonic scale, for measuring.
    #[must_use]
    pub fn instant(&self) -> Moment {
        Moment(match &*self.source {
            Source::Real { origin } => origin.elapsed(),
            Source::Manual(manual) => lock(manual).now,
        })
    }

    /// Resolves when `duration` has passed.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where ambient waiting enters"
    )]
    pub fn sleep(&self, duration: Duration) -> Sleep {
        match &*self.source {
            Source::Real { .. } => Sleep(SleepKind::Real(Box::pin(tokio::time::sleep(duration)))),
            Source::Manual(manual) => {
                let mut state = lock(manual);
                let deadline = state.now.saturating_add(duration);
                let key = (deadline, state.next_sleeper);
                state.next_sleeper += 1;
                state.sleepers.insert(key, None);
                drop(state);
                Sleep(SleepKind::Manual {
                    clock: self.clone(),
                    key,
                })
            }
        }
    }

    /// Runs `future` for at most `limit`. It is dropped when the time is up.
    ///
    /// # Errors
    /// [`Elapsed`] if it had not finished by then.
    pub async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep(limit));
        std::future::poll_fn(|context| {
            // The work first: an answer that is there at the deadline counts.
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(context).map(|()| Err(Elapsed))
        })
        .await
    }

    /// Moves a manual clock forward, waking whoever's deadline passes, in the order of deadlines;
    /// each finds the clock at its own deadline or later. Does nothing to a real clock.
    pub fn advance(&self, by: Duration) {
        let Source::Manual(manual) = &*self.source else {
            return;
        };
        let target = lock(manual).now.saturating_add(by);
        loop {
            let mut state = lock(manual);
            let due = state.sleepers.first_key_value().map(|(key, _)| *key);
            let Some(key) = due.filter(|(deadline, _)| *deadline <= target) else {
                state.now = target;
                return;
            };
            let waker = state.sleepers.remove(&key).flatten();
            state.now = state.now.max(key.0);
            // A waker may run foreign code; it must not find the clock locked.
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Moves a manual clock on to the next deadline somebody waits for, and wakes whoever waits for it. False
    /// if nobody waits, and for a real clock. A simulation does this when nothing else is left to do.
    pub fn advance_to_next(&self) -> bool {
        let Source::Manual(manual) = &*self.source else {
            return false;
        };
        let (next, now) = {
            let state = lock(manual);
            (
                state.sleepers.first_key_value().map(|(key, _)| key.0),
                state.now,
            )
        };
        let Some(deadline) = next else {
            return false;
        };
        self.advance(deadline.saturating_sub(now));
        true
    }

    /// Sets a manual clock's wall time forward or back, as an operator does, or a machine that asks others
    /// for the time. Nobody who waits is woken by that. Does nothing to a real clock.
    pub fn set_by_ms(&self, change_ms: i64) {
        if let Source::Manual(_) = &*self.source {
            self.set_by_ms.fetch_add(change_ms, Ordering::Relaxed);
        }
    }

    /// How many wait on a manual clock, so that a test can tell when everybody has settled.
    /// Always 0 for a real clock.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        match &*self.source {
            Source::Real { .. } => 0,
            Source::Manual(manual) => lock(manual).sleepers.len(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match &*self.source {
            Source::Real { .. } => "Clock::Real",
            Source::Manual(_) => "Clock::Manual",
        })
    }
}

/// What [`Clock::sleep`] returns. The time counts from that call, not from the first poll.
#[must_use = "nothing waits unless this is awaited"]
pub struct Sleep(SleepKind);

enum SleepKind {
    Real(Pin<Box<tokio::time::Sleep>>),
    Manual { clock: Clock, key: (Duration, u64) },
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            SleepKind::Real(sleep) => sleep.as_mut().poll(context),
            SleepKind::Manual { clock, key } => {
                let Source::Manual(manual) = &*clock.source else {
                    return Poll::Ready(());
                };
                let mut state = lock(manual);
                if key.0 <= state.now {
                    state.sleepers.remove(key);
                    return Poll::Ready(());
                }
                state.sleepers.insert(*key, Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let SleepKind::Manual { clock, key } = &self.0
            && let Source::Manual(manual) = &*clock.source
        {
            lock(manual).sleepers.remove(key);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sleep").finish_non_exhaustive()
    }
}

/// The state is whole at every point a panic could strike, so a poisoned lock means nothing.
fn lock(manual: &Mutex<Manual>) -> MutexGuard<'_, Manual> {
    manual.lock().unwrap_or_else(PoisonError::into_inner)
}
