//! Time that a test moves.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Wake, Waker},
    time::Duration,
};

use myelin_env::{Clock, Elapsed};

use crate::poll_once;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_manual_clock_moves_only_when_it_is_advanced() {
    let clock = Clock::manual(1_000);
    let start = clock.instant();
    assert_eq!(clock.now_ms(), 1_000);
    clock.advance(Duration::from_millis(250));
    assert_eq!(clock.now_ms(), 1_250);
    assert_eq!(start.elapsed(&clock), Duration::from_millis(250));
    assert_eq!(clock.instant().since(start), Duration::from_millis(250));
    assert_eq!(start.since(clock.instant()), Duration::ZERO);
}

#[test]
fn the_wall_time_of_a_manual_clock_can_be_set_without_waking_anybody() {
    let clock = Clock::manual(10_000);
    let start = clock.instant();
    let mut sleep = pin!(clock.sleep(SECOND));
    for (set_by_ms, now_ms) in [(5_000, 15_000), (-7_000, 8_000)] {
        clock.set_by_ms(set_by_ms);
        assert_eq!(clock.now_ms(), now_ms);
        assert_eq!(start.elapsed(&clock), Duration::ZERO);
        assert!(poll_once(sleep.as_mut()).is_none());
    }
    clock.advance(SECOND);
    assert_eq!(clock.now_ms(), 9_000);
    assert!(poll_once(sleep.as_mut()).is_some());
}

#[test]
fn clocks_of_several_machines_go_together_and_are_set_apart() {
    let here = Clock::manual(10_000);
    let there = here.of_another_machine();
    let mut sleep = pin!(there.sleep(SECOND));
    there.set_by_ms(5_000);
    here.set_by_ms(-3_000);
    assert_eq!((here.now_ms(), there.now_ms()), (7_000, 15_000));
    assert_eq!(here.instant(), there.instant());
    here.advance(SECOND);
    assert_eq!((here.now_ms(), there.now_ms()), (8_000, 16_000));
    assert!(poll_once(sleep.as_mut()).is_some());
}

/// Writes its name down when it is woken, and what time it was.
struct Sleeper {
    name: &'static str,
    clock: Clock,
    woken: Arc<Mutex<Vec<(&'static str, u64)>>>,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        let now = self.clock.now_ms();
        self.woken.lock().unwrap().push((self.name, now));
    }
}

#[test]
fn sleepers_are_woken_in_the_order_of_their_deadlines_at_their_deadlines() {
    let clock = Clock::manual(0);
    let woken = Arc::new(Mutex::new(Vec::new()));
    let waker = |name| {
        Waker::from(Arc::new(Sleeper {
            name,
            clock: clock.clone(),
            woken: Arc::clone(&woken),
        }))
    };
    let mut sleeps = Vec::new();
    for (name, seconds) in [("third", 3), ("first", 1), ("never", 9), ("second", 2)] {
        let mut sleep = Box::pin(clock.sleep(SECOND * seconds));
        let waker = waker(name);
        assert!(
            sleep
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        sleeps.push(sleep);
    }
    assert_eq!(clock.sleepers(), 4);
    clock.advance(SECOND * 5);
    assert_eq!(
        *woken.lock().unwrap(),
        [("first", 1_000), ("second", 2_000), ("third", 3_000)]
    );
    assert_eq!(clock.now_ms(), 5_000);
    assert_eq!(clock.sleepers(), 1);
    drop(sleeps);
    assert_eq!(clock.sleepers(), 0, "a sleeper that gave up is forgotten");
}

#[test]
fn a_sleep_counts_from_when_it_was_made() {
    let clock = Clock::manual(0);
    let sleep = clock.sleep(SECOND);
    clock.advance(SECOND);
    assert_eq!(poll_once(sleep), Some(()));
}

#[test]
fn a_timeout_gives_the_result_or_gives_up() {
    let clock = Clock::manual(0);
    let at_once = clock.timeout(SECOND, async { 7 });
    assert_eq!(poll_once(at_once), Some(Ok(7)));
    let mut never = pin!(clock.timeout(SECOND, std::future::pending::<()>()));
    assert_eq!(poll_once(never.as_mut()), None);
    clock.advance(SECOND);
    assert_eq!(poll_once(never.as_mut()), Some(Err(Elapsed)));
}

#[tokio::test]
async fn the_real_clock_goes_by_itself() {
    let clock = Clock::real();
    let start = clock.instant();
    let timed_out = clock.timeout(Duration::from_millis(5), std::future::pending::<()>());
    assert_eq!(timed_out.await, Err(Elapsed));
    assert!(start.elapsed(&clock) >= Duration::from_millis(5));
    clock.sleep(Duration::ZERO).await;
    assert!(clock.now_ms() > 1_700_000_000_000);
}

#[test]
fn a_clock_moves_on_to_the_next_deadline_and_no_further() {
    let clock = Clock::manual(0);
    assert!(!clock.advance_to_next(), "nobody waits");
    let mut later = Box::pin(clock.sleep(Duration::from_millis(20)));
    let mut sooner = Box::pin(clock.sleep(Duration::from_millis(10)));
    assert!(clock.advance_to_next());
    assert_eq!(clock.now_ms(), 10);
    assert_eq!(poll_once(&mut sooner), Some(()));
    assert_eq!(poll_once(&mut later), None);
    assert!(clock.advance_to_next());
    assert_eq!(clock.now_ms(), 20);
    assert_eq!(poll_once(&mut later), Some(()));
    assert!(!clock.advance_to_next());
}
