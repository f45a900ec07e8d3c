//! What one event costs in memory, in small rooms and in large ones.
//!
//! The allocator counts for the whole process: tests that run in processes of their own, as with nextest,
//! don't disturb each other. Each figure is the least of several events.

use myelin_storage::testing::on_each_engine;
use peak_alloc::PeakAlloc;
use ruma::{OwnedEventId, UserId};

use crate::{
    house::{House, alice},
    story::{Story, Words, bob, membership, message, topic},
};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What an event of any kind may cost, in bytes, besides what the database's own library keeps.
const BOUND: usize = 1 << 20;

/// How much more an event may cost in a room of ten times the members: a few levels of maps.
const GROWTH: usize = 32 << 10;

/// How many events of each kind are tried.
const TRIES: usize = 8;

/// The most memory that each kind of event takes while it is handled, in bytes.
#[derive(Debug)]
struct Costs {
    message_of_another_server: usize,
    state_of_another_server: usize,
    join_of_another_server: usize,
    message_of_ours: usize,
}

/// The most memory that is taken in addition while something is done, in bytes.
async fn cost_of<T>(work: impl Future<Output = T>) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    work.await;
    ALLOCATOR.peak_usage().saturating_sub(before)
}

/// A user of bob's server.
fn neighbour(number: usize) -> &'static UserId {
    let id = format!("@u{number}:{}", bob().server_name());
    <&UserId>::try_from(&*id.leak()).unwrap()
}

/// What bob's server says after `tip`, each after the last; the least that one of them costs.
async fn cost_of_each(
    house: &House,
    story: &mut Story,
    tip: &mut OwnedEventId,
    words: impl Fn(usize) -> Words,
) -> usize {
    let mut least = usize::MAX;
    for number in 0..TRIES {
        let id = story.write(&[&*tip], words(number));
        let pdus = vec![story.json(&id)];
        let handled = async {
            house.transact(bob(), pdus).await.unwrap();
            house.settled(&story.room_id).await;
        };
        least = least.min(cost_of(Box::pin(handled)).await);
        assert_eq!(house.tip(&story.room_id).await, id);
        *tip = id;
    }
    least
}

/// What events cost in a room of so many members.
async fn costs(house: &House, members: usize) -> Costs {
    let (mut story, start) = house.shared_room().await;
    let joins = (0..members).map(|number| membership(neighbour(number), neighbour(number), "join"));
    let mut tip = start;
    let mut joined = Vec::new();
    for join in joins {
        tip = story.write(&[&tip], join);
        // Nobody forks this room: one state is enough.
        story.keep_only_state_after(&tip);
        joined.push(tip.clone());
    }
    house.push_all(&story, bob(), &joined).await;
    let said = |number| message(bob(), &format!("{number:03}"));
    let stated = |number| topic(bob(), &format!("{number:03}"));
    let newcomer = |number| neighbour(1_000_000 + members + number);
    let came = |number| membership(newcomer(number), newcomer(number), "join");
    Costs {
        message_of_another_server: cost_of_each(house, &mut story, &mut tip, said).await,
        state_of_another_server: cost_of_each(house, &mut story, &mut tip, stated).await,
        join_of_another_server: cost_of_each(house, &mut story, &mut tip, came).await,
        message_of_ours: {
            let mut least = usize::MAX;
            for _ in 0..TRIES {
                let said = Box::pin(house.say(&story.room_id, alice(), "hello"));
                least = least.min(cost_of(said).await);
            }
            least
        },
    }
}

#[tokio::test]
async fn an_event_costs_no_more_memory_in_a_room_of_ten_times_the_members() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let small = Box::pin(costs(&house, 200)).await;
        let large = Box::pin(costs(&house, 2_000)).await;
        let kinds = [
            (
                small.message_of_another_server,
                large.message_of_another_server,
            ),
            (small.state_of_another_server, large.state_of_another_server),
            (small.join_of_another_server, large.join_of_another_server),
            (small.message_of_ours, large.message_of_ours),
        ];
        for (in_small, in_large) in kinds {
            assert!(in_large < BOUND, "{large:?}");
            assert!(in_large <= in_small + GROWTH, "{small:?} {large:?}");
        }
    })
    .await;
}
