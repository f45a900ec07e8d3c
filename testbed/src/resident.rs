//! A resident server that lives in the test: it has a generated room, and lets servers join it.
//!
//! It speaks TLS on loopback under several names, so that the room's members are on several servers.
//! To every server that joins, the room looks as if nobody else had ever joined it, so one resident
//! serves many runs of a test.

mod answers;
mod conduct;
mod floods;
mod history;
mod policy;
mod speech;
mod visits;

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use myelin_core::keys::KeyPair;
use myelin_core::room_version::RoomVersion;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, ServerSigningKeyVersion};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::conduct::{Asked, Conduct, forge};
pub use self::history::{History, user};

use self::conduct::{Diary, Rule};
use crate::ca::Ca;
use crate::client::PATIENCE;
use crate::http;

/// How many names the resident has, if nothing else is said.
pub const NAMES: usize = 6;

/// What becomes of a connection to one of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is served.
    Served,
    /// It is refused.
    Refused,
    /// It is taken, and nothing is ever said over it.
    Silent,
}

/// The resident, under all its names.
pub struct Resident {
    /// For each name the key that signs in it.
    keys: Vec<KeyPair>,
    /// The room before anybody joined.
    room: History,
    /// The room as each joining server made it.
    joined: Mutex<HashMap<String, History>>,
    /// The servers that have joined.
    joins: watch::Sender<BTreeSet<String>>,
    /// The events that came in transactions.
    received: watch::Sender<BTreeSet<OwnedEventId>>,
    /// What it does instead of what it should.
    rules: Mutex<Vec<Rule>>,
    diary: Diary,
    /// How many transactions it has sent.
    transactions: AtomicUsize,
    /// The ports of the names that are silent.
    _silent: Vec<TcpListener>,
}

impl Resident {
    /// Generates a room of so many members and begins to serve it.
    pub async fn start(ca: &Ca, version: RoomVersion, members: usize) -> Arc<Self> {
        Self::start_under(ca, version, members, &[Reach::Served; NAMES]).await
    }

    /// The same under so many names.
    pub async fn start_under(
        ca: &Ca,
        version: RoomVersion,
        members: usize,
        names: &[Reach],
    ) -> Arc<Self> {
        let (mut served, mut silent) = (Vec::new(), Vec::new());
        // Until all names are chosen, so that none is chosen twice.
        let mut refused = Vec::new();
        let mut keys = Vec::new();
        for (number, reach) in names.iter().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            keys.push(key_pair(number, &listener));
            match reach {
                Reach::Served => served.push((number, listener)),
                Reach::Refused => refused.push(listener),
                Reach::Silent => silent.push(listener),
            }
        }
        drop(refused);
        let resident = Arc::new(Self {
            room: History::generate(version, members, &keys),
            keys,
            joined: Mutex::default(),
            joins: watch::Sender::default(),
            received: watch::Sender::default(),
            rules: Mutex::default(),
            diary: Diary::default(),
            transactions: AtomicUsize::new(0),
            _silent: silent,
        });
        let tls = ca.identity(Ipv4Addr::LOCALHOST).acceptor();
        for (number, listener) in served {
            let router = answers::router(resident.clone(), number);
            tokio::spawn(http::serve(router, listener, tls.clone()));
        }
        resident
    }

    /// The name whose alias leads to the room.
    pub fn name(&self) -> OwnedServerName {
        self.names(0)
    }

    /// One of the names, counted from 0.
    pub fn names(&self, number: usize) -> OwnedServerName {
        self.keys[number].server_name().to_owned()
    }

    /// What one of the names signs with.
    pub fn key(&self, number: usize) -> &KeyPair {
        &self.keys[number]
    }

    /// An alias of the room.
    pub fn alias(&self) -> String {
        format!("#town:{}", self.name())
    }

    pub fn room_id(&self) -> &OwnedRoomId {
        self.room.room_id()
    }

    /// Who is in the room before anybody joins.
    pub fn members(&self) -> BTreeSet<String> {
        self.room.joined_users()
    }

    /// Waits until a server has sent a join.
    pub async fn until_joined(&self, server: &str) {
        let mut joins = self.joins.subscribe();
        // Its sender is `self`.
        joins.wait_for(|joins| joins.contains(server)).await.ok();
    }

    /// Whether a server has sent a join.
    pub fn has_joined(&self, server: &str) -> bool {
        self.joins.borrow().contains(server)
    }

    /// Waits until the resident was sent all of these events.
    pub async fn until_received(&self, events: &[String]) {
        let mut received = self.received.subscribe();
        let missing = |received: &BTreeSet<OwnedEventId>| -> Vec<String> {
            let known = |event: &&String| !received.iter().any(|id| id == event.as_str());
            events.iter().filter(known).cloned().collect()
        };
        let all = received.wait_for(|received| missing(received).is_empty());
        let waited = tokio::time::timeout(PATIENCE, all).await.is_ok();
        let missing = missing(&self.received.borrow());
        assert!(waited, "the resident was not sent {missing:?}");
    }

    /// Changes, or looks at, the room as a joining server knows it.
    pub fn room_of<T>(&self, server: &str, look: impl FnOnce(&mut History) -> T) -> T {
        let mut joined = self.joined.lock().unwrap();
        let room = joined
            .entry(server.to_owned())
            .or_insert_with(|| self.room.clone());
        look(room)
    }
}

/// What the name of this number, which has this port, signs with.
fn key_pair(number: usize, listener: &TcpListener) -> KeyPair {
    let name = listener.local_addr().unwrap().to_string();
    let name = OwnedServerName::try_from(name).unwrap();
    let key_version = <&ServerSigningKeyVersion>::try_from("a").unwrap();
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    KeyPair::new(name, key_version, seed)
}
