//! How long failing servers are left alone.

use std::time::Duration;

use myelin_storage::testing::{Fresh, START_MS};

use super::{Destinations, Failure, Urgency, Waits};
use crate::{FederationError, testing::name};

const MINUTE: Duration = Duration::from_secs(60);
const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;

fn destinations(fresh: &Fresh) -> Destinations {
    let waits = Waits::default();
    Destinations::new(fresh.env.clone(), fresh.database.clone(), waits)
}

/// How long the server is left alone from now on, in milliseconds.
async fn pause(destinations: &Destinations, fresh: &Fresh) -> u64 {
    match destinations
        .check(name("a.test"), Urgency::Background)
        .await
    {
        Ok(()) => 0,
        Err(FederationError::Backoff { until_ms }) => until_ms - fresh.env.clock.now_ms(),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn waits_begin_at_10_minutes_and_double_up_to_7_days() {
    let fresh = Fresh::sqlite().await;
    let destinations = destinations(&fresh);
    assert_eq!(pause(&destinations, &fresh).await, 0);
    let mut expected = 600_000;
    for _ in 0..15 {
        destinations
            .failed(name("a.test"), Failure::OutOfOrder)
            .await
            .unwrap();
        let pause = pause(&destinations, &fresh).await;
        assert!(
            pause <= expected && pause * 10 > expected * 9,
            "{pause} {expected}"
        );
        fresh.env.clock.advance(Duration::from_millis(pause));
        expected = (expected * 2).min(WEEK_MS);
    }
    assert_eq!(expected, WEEK_MS);
    let failing = destinations.failing(name("a.test")).await.unwrap().unwrap();
    assert_eq!(failing.since_ms, START_MS);
    assert_eq!(pause(&destinations, &fresh).await, 0);
}

#[tokio::test]
async fn failures_at_about_the_same_time_count_once() {
    let fresh = Fresh::sqlite().await;
    let destinations = destinations(&fresh);
    for _ in 0..10 {
        destinations
            .failed(name("a.test"), Failure::OutOfOrder)
            .await
            .unwrap();
        fresh.env.clock.advance(Duration::from_secs(1));
    }
    assert!(pause(&destinations, &fresh).await < 600_000);
}

#[tokio::test]
async fn people_need_not_wait() {
    let fresh = Fresh::sqlite().await;
    let destinations = destinations(&fresh);
    destinations
        .failed(name("a.test"), Failure::OutOfOrder)
        .await
        .unwrap();
    let checked = destinations
        .check(name("a.test"), Urgency::Interactive)
        .await;
    assert!(checked.is_ok());
}

#[tokio::test]
async fn a_success_clears_failures_and_wakes_those_who_wait() {
    let fresh = Fresh::sqlite().await;
    let destinations = destinations(&fresh);
    destinations.until_due(name("a.test")).await.unwrap();
    destinations
        .failed(name("a.test"), Failure::OutOfOrder)
        .await
        .unwrap();
    let mut waiting = Box::pin(destinations.until_due(name("a.test")));
    let mut waiting_too = Box::pin(destinations.until_due(name("a.test")));
    for _ in 0..20 {
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(futures_util::poll!(&mut waiting_too).is_pending());
        tokio::task::yield_now().await;
    }
    destinations.succeeded(name("b.test")).await.unwrap();
    assert!(futures_util::poll!(&mut waiting).is_pending());
    destinations.succeeded(name("a.test")).await.unwrap();
    waiting.await.unwrap();
    waiting_too.await.unwrap();
    assert!(destinations.lock_waiting().is_empty());
    destinations.succeeded(name("a.test")).await.unwrap();
    assert_eq!(pause(&destinations, &fresh).await, 0);
    destinations
        .failed(name("a.test"), Failure::OutOfOrder)
        .await
        .unwrap();
    assert!(pause(&destinations, &fresh).await <= 600_000);
}

#[tokio::test]
async fn a_server_that_says_when_to_come_back_is_left_alone_until_then() {
    let fresh = Fresh::sqlite().await;
    let destinations = destinations(&fresh);
    let asked = Failure::ComeBackIn(2 * MINUTE);
    destinations.failed(name("a.test"), asked).await.unwrap();
    assert_eq!(pause(&destinations, &fresh).await, 120_000);
    fresh.env.clock.advance(3 * MINUTE);
    destinations
        .failed(name("a.test"), Failure::OutOfOrder)
        .await
        .unwrap();
    let first = pause(&destinations, &fresh).await;
    assert!((540_000..=600_000).contains(&first), "{first}");
    let ages = Failure::ComeBackIn(Duration::from_secs(365 * 24 * 3600));
    destinations.failed(name("a.test"), ages).await.unwrap();
    assert_eq!(pause(&destinations, &fresh).await, WEEK_MS);
}

#[tokio::test]
async fn a_busy_server_is_tried_again_soon_and_then_ever_less_often() {
    let fresh = Fresh::sqlite().await;
    let destinations = destinations(&fresh);
    let mut pauses = Vec::new();
    for _ in 0..11 {
        let busy = destinations.failed(name("a.test"), Failure::Busy).await;
        busy.unwrap();
        let pause_ms = pause(&destinations, &fresh).await;
        pauses.push(pause_ms / 1_000);
        fresh.env.clock.advance(Duration::from_millis(pause_ms));
    }
    assert_eq!(pauses, [2, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600]);
}

#[tokio::test]
async fn failures_outlive_a_restart() {
    let fresh = Fresh::sqlite().await;
    destinations(&fresh)
        .failed(name("a.test"), Failure::OutOfOrder)
        .await
        .unwrap();
    let before = destinations(&fresh).failing(name("a.test")).await.unwrap();
    assert!(before.is_some());
    let restarted = destinations(&fresh);
    assert!(pause(&restarted, &fresh).await > 0);
    restarted.succeeded(name("a.test")).await.unwrap();
    let cleared = destinations(&fresh).failing(name("a.test")).await.unwrap();
    assert_eq!(cleared, None);
}

#[tokio::test]
async fn failing_servers_are_due_in_the_order_of_their_waits() {
    let fresh = Fresh::sqlite().await;
    let destinations = destinations(&fresh);
    for (server, seconds) in [("a.test", 30), ("b.test", 10), ("c.test", 60)] {
        let asked = Failure::ComeBackIn(Duration::from_secs(seconds));
        destinations.failed(name(server), asked).await.unwrap();
    }
    destinations
        .failed(name("d.test"), Failure::OutOfOrder)
        .await
        .unwrap();
    destinations.succeeded(name("d.test")).await.unwrap();
    let due = async |at_ms: u64, limit: u32| {
        let reading = fresh.database.look_up("due", move |tx| {
            Box::pin(async move { myelin_storage::destinations::due(tx, at_ms, limit).await })
        });
        reading.await.unwrap()
    };
    assert_eq!(due(START_MS + 9_999, 10).await, Vec::<String>::new());
    assert_eq!(due(START_MS + 30_000, 10).await, ["b.test", "a.test"]);
    assert_eq!(due(START_MS + 60_000, 2).await, ["b.test", "a.test"]);
}
