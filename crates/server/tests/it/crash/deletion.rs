//! Power cuts while a room with 300 members is deleted, complete or not, and joined anew afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use myelin_env::Random;
use serde_json::{Value, json};

use crate::ca::Ca;
use crate::client::{Client, encode};
use crate::machine::{Life, Machine, loss};
use crate::resident::Resident;

/// How many members the room has.
const MEMBERS: usize = 300;

/// How many power cuts the test makes.
const MOMENTS: u64 = 12;

/// How often one looks whether a deletion that goes on is done, and how long one waits in between.
const MOST_LOOKS: usize = 600;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Rows of rooms that are not there. None, in the end.
const REMAINS: &[&str] = &[
    "SELECT COUNT(*) FROM room_deletions WHERE status <> 'complete'",
    "SELECT COUNT(*) FROM events WHERE room NOT IN (SELECT room FROM rooms)",
    "SELECT COUNT(*) FROM snapshots WHERE room NOT IN (SELECT room FROM rooms)",
    "SELECT COUNT(*) FROM snapshot_chunks WHERE snapshot NOT IN (SELECT snapshot FROM snapshots)",
    "SELECT COUNT(*) FROM state_keys WHERE room NOT IN (SELECT room FROM rooms)",
    "SELECT COUNT(*) FROM room_states WHERE room NOT IN (SELECT room FROM rooms)",
    "SELECT COUNT(*) FROM local_memberships WHERE room NOT IN (SELECT room FROM rooms)",
    "SELECT COUNT(*) FROM partial_rooms WHERE room NOT IN (SELECT room FROM rooms)",
    "SELECT COUNT(*) FROM outbox WHERE room NOT IN (SELECT room FROM rooms)",
    "SELECT COUNT(*) FROM auth_edges WHERE event NOT IN (SELECT event FROM events)",
    "SELECT COUNT(*) FROM prev_edges WHERE event NOT IN (SELECT event FROM events)",
];

/// Who administers a machine's server and has joined the resident's room there.
struct Administrator {
    client: Client,
    room: String,
}

impl Administrator {
    async fn join(life: &Life, resident: &Resident, until_complete: bool) -> Self {
        let client = Client::register_admin(life.address(), "root").await;
        let room = client.join(&resident.alias()).await;
        client.say(&room, "not for long").await;
        let administrator = Self { client, room };
        if until_complete {
            administrator.members().await;
        }
        administrator
    }

    fn path(&self, version: &str) -> String {
        let room = encode(&self.room);
        format!("/_synapse/admin/{version}/rooms/{room}")
    }

    /// All members, when they are known.
    async fn members(&self) -> BTreeSet<String> {
        let joined = self.client.joined_members(&self.room).await;
        joined.as_object().unwrap().keys().cloned().collect()
    }

    /// Deletes the room; nothing if the power goes meanwhile.
    async fn delete(&self) -> Option<(u16, Value)> {
        let path = self.path("v1");
        self.client.try_call("DELETE", &path, Some(json!({}))).await
    }

    /// Waits until what was begun before the power went is done, and deletes the room if nothing was.
    async fn see_it_deleted(&self) {
        let path = format!("{}/delete_status", self.path("v2"));
        for _ in 0..MOST_LOOKS {
            let (status, answer) = self.client.call("GET", &path, None).await;
            if status == 404 {
                let (status, answer) = self.delete().await.unwrap();
                assert_eq!(status, 200, "{answer}");
                return;
            }
            match answer["results"][0]["status"].as_str().unwrap() {
                "active" => tokio::time::sleep(BETWEEN_LOOKS).await,
                ended => return assert_eq!(ended, "complete", "{answer}"),
            }
        }
        panic!("the deletion does not go on");
    }
}

/// Deletes the room until the power goes, after so many operations or when it is done. Answers how many there
/// were.
async fn delete_until_the_power_goes(
    machine: &Machine,
    resident: &Resident,
    (until_complete, operations): (bool, Option<u64>),
) -> (Administrator, u64) {
    let life = machine.start().await;
    let administrator = Administrator::join(&life, resident, until_complete).await;
    let before = machine.power.operations();
    if let Some(operations) = operations {
        machine.power.cut_after(operations);
    }
    let deleting = async {
        if let Some((status, answer)) = administrator.delete().await {
            assert!(status == 200 || !machine.power.is_on(), "{answer}");
        }
        let operations = machine.power.operations() - before;
        machine.power.cut();
        operations
    };
    let crash = async {
        machine.power.lost().await;
        life.end().await;
    };
    let (operations, ()) = tokio::join!(deleting, crash);
    (administrator, operations)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_survives_a_power_cut_at_any_moment_and_the_room_can_be_joined_anew() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, MEMBERS).await;
    let random = Random::seeded(26);
    let mut whole = None;
    for moment in 0..MOMENTS {
        let name = format!("deletion-{moment}.test");
        let machine = Machine::new(&name, &ca, Some(resident.name()), loss(moment)).await;
        let until_complete = moment % 2 == 0;
        let cut = (until_complete, whole.map(|whole| random.below(whole)));
        let (administrator, took) = delete_until_the_power_goes(&machine, &resident, cut).await;
        whole.get_or_insert(took);
        eprintln!(
            "moment {moment}: cut after {:?} of {whole:?}, members known: {until_complete}",
            cut.1
        );

        machine.power.restore();
        let life = machine.start().await;
        let Administrator { client, room } = administrator;
        let client = client.at(life.address());
        let administrator = Administrator { client, room };
        administrator.see_it_deleted().await;
        let client = &administrator.client;
        let (status, gone) = client.call("GET", &administrator.path("v1"), None).await;
        assert_eq!(status, 404, "{gone}");
        let rooms = client.get("/_matrix/client/v3/joined_rooms").await;
        assert_eq!(rooms["joined_rooms"], json!([]));

        client.join(&resident.alias()).await;
        let mut everybody = resident.members();
        everybody.insert(client.user_id.clone());
        assert_eq!(administrator.members().await, everybody);
        client.say(&administrator.room, "the room goes on").await;
        life.stop().await;
        machine.assert_at_rest(REMAINS).await;
    }
}
