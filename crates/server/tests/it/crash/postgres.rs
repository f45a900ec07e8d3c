//! PostgreSQL is killed in the middle of load and started again. The server goes on by itself.

use std::env;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use myelin_storage::testing::{Loss, POSTGRES_VARIABLE};
use serde_json::json;

use super::crowd::{Crowd, acknowledged, assert_kept, send_the_rest, timeline};
use crate::ca::Ca;
use crate::client::Client;
use crate::machine::Machine;

/// The script that starts the PostgreSQL server of all other tests.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/postgres.sh");

/// A PostgreSQL server of the test's own. It is stopped and removed when this is dropped.
struct OwnPostgres {
    directory: PathBuf,
    port: u16,
    url: String,
}

impl OwnPostgres {
    /// Starts it, where tests may use PostgreSQL at all.
    fn start() -> Option<Self> {
        env::var_os(POSTGRES_VARIABLE)?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut server = Self {
            // PostgreSQL does not run as root, and so must be let into the directory.
            directory: env::temp_dir().join(format!("myelin-postgres-{}", std::process::id())),
            port: free.local_addr().unwrap().port(),
            url: String::new(),
        };
        drop(free);
        server.url = server.run("start");
        Some(server)
    }

    /// Has the script do something, and answers what it printed.
    fn run(&self, action: &str) -> String {
        let ran = Command::new(Path::new(SCRIPT))
            .arg(action)
            .env("MYELIN_POSTGRES_DIR", &self.directory)
            .env("MYELIN_POSTGRES_PORT", self.port.to_string())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{action}: {errors}");
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        self.run("stop");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_killed_under_load_and_nothing_acknowledged_is_lost() {
    let Some(postgres) = OwnPostgres::start() else {
        return;
    };
    let ca = Ca::generate();
    let machine = Machine::new("postgres.test", &ca, None, Loss::Everything).await;
    let life = machine.with_database(&postgres.url).start().await;
    let client = Client::register(life.address(), "alice").await;
    let room = client.create_room(json!({})).await;

    let crowd = Crowd::new(&client, &room);
    let killed = AtomicBool::new(false);
    let kill = async {
        crowd.until_acknowledged(300).await;
        killed.store(true, Ordering::SeqCst);
        tokio::task::block_in_place(|| postgres.run("kill"));
    };
    let (mut log, _) = tokio::join!(crowd.send(|| killed.load(Ordering::SeqCst)), kill);
    assert!((300..log.len()).contains(&acknowledged(&log)));
    let (status, answer) = client
        .call("GET", "/_matrix/client/v3/joined_rooms", None)
        .await;
    assert_eq!(
        (status, &answer["errcode"]),
        (503, &json!("M_UNKNOWN")),
        "{answer}"
    );

    tokio::task::block_in_place(|| postgres.run("again"));
    let answer = client.sync("{}", None, Duration::ZERO).await;
    assert!(answer["rooms"]["join"][&room].is_object(), "{answer}");
    send_the_rest(&client, &room, &mut log).await;
    let last = client.say(&room, "the room goes on").await;
    let timeline = timeline(&client, &room).await;
    assert_kept(&timeline, &log);
    assert_eq!(timeline.last().unwrap().0, last);
    assert_eq!(timeline.len(), log.len() + 1);
    life.stop().await;
}
