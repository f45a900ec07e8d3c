//! Power cuts during a partial join of a room with 1,000 members, and its resync.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use myelin_env::Random;
use serde_json::{Value, json};

use crate::ca::Ca;
use crate::client::{Client, LAZY, encode};
use crate::machine::{Life, Machine, loss};
use crate::resident::Resident;

/// How many members the room has.
const MEMBERS: usize = 1_000;

/// How many power cuts each test makes.
const MOMENTS: u64 = 25;

/// How many messages the new member writes while the members are loaded.
const MESSAGES: usize = 5;

/// How many messages others write meanwhile.
const REMOTE_MESSAGES: usize = 10;

/// How long and how often one waits for news of a room that comes to rest.
const NEWS_TIMEOUT: Duration = Duration::from_secs(10);
const MOST_NEWS: usize = 100;

/// What is left to be done, or was done wrong. Nothing, in the end.
const WORK_LEFT: &[&str] = &[
    "SELECT COUNT(*) FROM join_records",
    "SELECT COUNT(*) FROM partial_rooms",
    "SELECT COUNT(*) FROM staged_pdus",
    "SELECT COUNT(*) FROM delivery_cursors",
    // No event from before the join came as news.
    "SELECT COUNT(*) FROM events WHERE position > 0 AND depth <= 1000",
];

/// What the user's client and the resident were told before the power went.
#[derive(Default)]
struct Told {
    joined: Option<String>,
    sent: Vec<String>,
    /// What others wrote and the server took.
    taken: Vec<String>,
    members: Option<BTreeSet<String>>,
}

/// How many operations of the disk it took until the join was answered, and until all was done.
#[derive(Clone, Copy, Debug)]
struct Course {
    join: u64,
    all: u64,
}

/// A user of a machine's server who wants to join the resident's room.
struct Newcomer<'a> {
    machine: &'a Machine,
    resident: &'a Resident,
    client: Client,
    told: Mutex<Told>,
}

impl Newcomer<'_> {
    fn join_path(&self) -> String {
        format!("/_matrix/client/v3/join/{}", encode(&self.resident.alias()))
    }

    /// Joins, writes, and waits for the whole room; ends when the power is gone. Answers how many
    /// operations the join took.
    async fn take_part(&self) -> u64 {
        let path = self.join_path();
        let answer = self.request("POST", &path, Some(json!({}))).await;
        let join = self.machine.power.operations();
        let Some(answer) = answer else { return join };
        let room = answer["room_id"].as_str().unwrap().to_owned();
        self.told.lock().unwrap().joined = Some(room.clone());
        for number in 0..MESSAGES {
            let path = format!(
                "/_matrix/client/v3/rooms/{}/send/m.room.message/{number}",
                encode(&room)
            );
            let message = json!({ "msgtype": "m.text", "body": format!("message {number}") });
            let Some(answer) = self.request("PUT", &path, Some(message)).await else {
                return join;
            };
            let event = answer["event_id"].as_str().unwrap().to_owned();
            self.told.lock().unwrap().sent.push(event);
        }
        self.told.lock().unwrap().members = self.members().await;
        join
    }

    /// Lets others write into the room once it was joined, until the power is gone.
    async fn listen(&self, address: SocketAddr) {
        let server = self.machine.name();
        tokio::select! {
            () = self.resident.until_joined(server) => {}
            () = self.machine.power.lost() => return,
        }
        for number in 0..REMOTE_MESSAGES {
            let text = format!("remote {number}");
            match self.resident.say(server, address, &text).await {
                Some(event) => self.told.lock().unwrap().taken.push(event),
                None => {
                    assert!(!self.machine.power.is_on(), "{text} was not taken");
                    return;
                }
            }
        }
    }

    /// The answer to a request; nothing if the power is gone. Otherwise all have to succeed.
    async fn request(&self, method: &str, path: &str, body: Option<Value>) -> Option<Value> {
        match self.client.try_call(method, path, body).await {
            Some((200, answer)) => Some(answer),
            other => {
                assert!(!self.machine.power.is_on(), "{method} {path}: {other:?}");
                None
            }
        }
    }

    /// Waits until all members are known; nothing if the power is gone.
    async fn members(&self) -> Option<BTreeSet<String>> {
        let room = encode(self.resident.room_id().as_str());
        let path = format!("/_matrix/client/v3/rooms/{room}/joined_members");
        let answer = self.request("GET", &path, None).await?;
        Some(
            answer["joined"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect(),
        )
    }
}

/// Lets a user join, and cuts the power after so many operations, or when all is done.
async fn join_until_the_power_goes(
    machine: &Machine,
    resident: &Resident,
    operations: Option<u64>,
) -> (Client, Told, Course) {
    let life = machine.start().await;
    let client = Client::register(life.address(), "newcomer").await;
    let before = machine.power.operations();
    if let Some(operations) = operations {
        machine.power.cut_after(operations);
    }
    let newcomer = Newcomer {
        machine,
        resident,
        client,
        told: Mutex::default(),
    };
    let address = life.address();
    let taking_part = async {
        let (join, ()) = tokio::join!(newcomer.take_part(), newcomer.listen(address));
        let all = machine.power.operations();
        machine.power.cut();
        Course {
            join: join - before,
            all: all - before,
        }
    };
    let (course, ()) = tokio::join!(taking_part, end_with_the_power(machine, life));
    let Newcomer { client, told, .. } = newcomer;
    (client, told.into_inner().unwrap(), course)
}

async fn end_with_the_power(machine: &Machine, life: Life) {
    machine.power.lost().await;
    life.end().await;
}

/// Starts the server again, and soon cuts the power again.
async fn start_in_vain(machine: &Machine, operations: u64) {
    machine.power.restore();
    machine.power.cut_after(operations);
    // The power may go before the server has started.
    if let Ok(life) = machine.try_start().await {
        // There may be less to do than that.
        let pause = tokio::time::sleep(Duration::from_secs(2));
        tokio::select! {
            () = machine.power.lost() => {}
            () = pause => machine.power.cut(),
        }
        life.end().await;
    }
    machine.power.cut();
}

/// Fails unless what the user was told is true, and everything gets done.
async fn assert_recovers(machine: &Machine, resident: &Resident, client: Client, told: Told) {
    machine.power.restore();
    let life = machine.start().await;
    let client = client.at(life.address());
    if let Some(room) = &told.joined {
        let rooms = client.get("/_matrix/client/v3/joined_rooms").await;
        assert_eq!(rooms["joined_rooms"], json!([room]), "the join is lost");
    }
    for event in &told.sent {
        client.event(resident.room_id().as_str(), event).await;
    }
    if resident.has_joined(machine.name()) {
        // Others believe that the user is in the room, so the server must see to it.
        let user = client.user_id.clone();
        let mut watch = client.watch();
        watch
            .until_member(resident.room_id().as_str(), &user, "join")
            .await;
    }
    let room = client.join(&resident.alias()).await;
    let mut everybody = resident.members();
    everybody.insert(client.user_id.clone());
    let newcomer = Newcomer {
        machine,
        resident,
        client,
        told: Mutex::default(),
    };
    let members = newcomer.members().await.unwrap();
    assert_eq!(members, everybody);
    let last = newcomer.client.say(&room, "the room goes on").await;
    let mut sent = told.sent;
    sent.push(last);
    assert_once(&newcomer.client, &room, &[&sent[..], &told.taken].concat()).await;
    resident.until_received(&sent).await;
    life.stop().await;
    machine.assert_at_rest(WORK_LEFT).await;
}

/// Waits until each of these events is in the room's history, and fails unless it is there once.
async fn assert_once(client: &Client, room: &str, events: &[String]) {
    let times = |history: &[Value], event: &String| {
        let same = history.iter().filter(|held| held["event_id"] == **event);
        same.count()
    };
    let missing = |history: &[Value]| -> Vec<String> {
        let missing = events.iter().filter(|event| times(history, event) == 0);
        missing.cloned().collect()
    };
    let mut since: Option<String> = None;
    for _ in 0..MOST_NEWS {
        let history = client
            .history(room, |history| missing(history).is_empty())
            .await;
        let missing = missing(&history);
        if missing.is_empty() {
            for event in events {
                assert_eq!(times(&history, event), 1, "{event} in the history");
            }
            return;
        }
        // What others wrote was taken, and is judged later: that would be news.
        let news = client.sync(LAZY, since.as_deref(), NEWS_TIMEOUT).await;
        assert_ne!(
            since.as_deref(),
            news["next_batch"].as_str(),
            "{missing:?} are lost"
        );
        since = news["next_batch"].as_str().map(str::to_owned);
    }
    panic!("the room does not come to rest");
}

async fn join_at_random_moments(version: RoomVersion) {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, version, MEMBERS).await;
    let random = Random::seeded(version.as_str().parse().unwrap());
    let mut course = None;
    for moment in 0..MOMENTS {
        // Its own name: to the resident, no such server ever joined.
        let name = format!("moment-{moment}.test");
        let machine = Machine::new(&name, &ca, Some(resident.name()), loss(moment)).await;
        // The join takes much less than the resync, and is as interesting.
        let operations = course.map(|Course { join, all }| match moment % 2 {
            0 => random.below(join),
            _ => random.below(all),
        });
        let (client, told, took) = join_until_the_power_goes(&machine, &resident, operations).await;
        eprintln!(
            "moment {moment}: cut after {operations:?} of {:?}, joined: {}, sent: {}, taken: {}, done: {}",
            course,
            told.joined.is_some(),
            told.sent.len(),
            told.taken.len(),
            told.members.is_some(),
        );
        let whole = *course.get_or_insert(took);
        if moment % 3 == 0 {
            start_in_vain(&machine, random.below(whole.all / 2)).await;
        }
        assert_recovers(&machine, &resident, client, told).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_survives_a_power_cut_at_any_moment_in_room_version_10() {
    join_at_random_moments(RoomVersion::V10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_survives_a_power_cut_at_any_moment_in_room_version_12() {
    join_at_random_moments(RoomVersion::V12).await;
}
