//! Several joins of one server: after an absence, after each other, and at the same time (R92).

use std::collections::BTreeSet;

use myelin_core::room_version::RoomVersion;
use serde_json::Value;

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::resident::{Conduct, Resident};

const MEMBERS: usize = 12;

async fn newcomer() -> Newcomer {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, MEMBERS).await;
    Newcomer::start(&resident, &ca, "newcomer.test").await
}

impl Newcomer {
    fn room(&self) -> &str {
        self.resident.room_id().as_str()
    }

    /// The newest event of the room as the resident knows it.
    fn newest(&self) -> String {
        let newest = |id: &ruma::EventId| id.to_string();
        let last = |room: &mut crate::resident::History| newest(&room.last().unwrap().event_id);
        self.resident.room_of(self.name(), last)
    }

    /// What a message that is sent now follows upon.
    async fn parents(&self) -> BTreeSet<String> {
        let said = self.client.say(self.room(), "parents").await;
        self.resident.until_received(&[said]).await;
        let sent = self.resident.asked(self.name(), "send");
        let pdus = sent
            .iter()
            .flat_map(|sent| sent.body["pdus"].as_array().unwrap());
        let message = |pdu: &&Value| pdu["content"]["body"] == "parents";
        let message = pdus.rev().find(message).unwrap();
        serde_json::from_value(message["prev_events"].clone()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_builds_upon_nothing_from_before() {
    let newcomer = newcomer().await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    newcomer.client.say(newcomer.room(), "I am off").await;
    newcomer.client.leave(newcomer.room()).await;
    let resident = &newcomer.resident;
    resident.room_of(newcomer.name(), |room| room.say(resident.key(1), "at last"));
    newcomer.join().await;
    let join = newcomer.newest();
    assert_eq!(newcomer.parents().await, BTreeSet::from([join]));
    newcomer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_join_keeps_what_the_first_user_has_said() {
    let newcomer = newcomer().await;
    // Else the second one would join without the resident.
    let (hold, _held) = Conduct::hold();
    newcomer.resident.misbehave(None, "state_ids", hold);
    newcomer.join().await;
    let said = newcomer.client.say(newcomer.room(), "welcome").await;
    let second = newcomer.register("second").await;
    let (status, answer) = newcomer.try_join(&second, &[]).await;
    assert_eq!(status, 200, "{answer}");
    let join = newcomer.newest();
    assert_eq!(newcomer.parents().await, BTreeSet::from([said, join]));
    newcomer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_joins_at_once_neither_makes_the_other_undone() {
    let newcomer = newcomer().await;
    let second = newcomer.register("second").await;
    let resident = &newcomer.resident;
    let (hold, release) = Conduct::hold();
    resident.misbehave(None, "make_join", hold);
    let via = [resident.name()];
    let together = async {
        resident.until_asked(newcomer.name(), "make_join", 2).await;
        release.send_replace(true);
    };
    let (first, second, ()) = tokio::join!(
        newcomer.try_join(&newcomer.client, &via),
        newcomer.try_join(&second, &via),
        together,
    );
    assert_eq!((first.0, second.0), (200, 200), "{first:?} {second:?}");
    let joins: BTreeSet<_> = resident.room_of(newcomer.name(), |room| {
        let own = room.events().iter().rev().take(2);
        own.map(|join| join.event_id.to_string()).collect()
    });
    assert_eq!(newcomer.parents().await, joins);
    assert_eq!(newcomer.members().await, newcomer.everybody());
    newcomer.stop().await;
}
