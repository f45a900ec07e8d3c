//! What users do: they talk, change the state of rooms, put each other out, come and go; each in their
//! own time, so that while links are cut the same room grows apart on its servers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use myelin_core::room_version::RoomVersion;
use myelin_env::{Clock, Random};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::{
    client::{Client, encode},
    machine::{Machine, World},
    view::Server,
};

/// A room of a simulation.
#[derive(Clone, Debug)]
pub struct Room {
    /// Its ID.
    pub id: String,
    /// Whether the first user of each server is in it from the beginning to the end, so that the room is never
    /// without any of the servers.
    pub is_strict: bool,
}

impl Room {
    /// The same room, in which not everybody has everything yet.
    #[must_use]
    pub fn relaxed(&self) -> Self {
        Self {
            is_strict: false,
            ..self.clone()
        }
    }
}

/// An event that a server has answered 200 for.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Its ID.
    pub event_id: String,
    /// The number of its room.
    pub room: usize,
    /// The number of the server.
    pub server: usize,
    /// Whether the room's state was partial there when it was sent.
    pub while_partial: bool,
}

/// Everything the users of a simulation know together.
pub struct Workload {
    /// The users, each server's first one first.
    pub clients: Vec<Client>,
    /// Their rooms.
    pub rooms: Vec<Room>,
    /// The version of these.
    pub version: RoomVersion,
    /// The time.
    pub clock: Clock,
    /// What decides what they do.
    pub random: Random,
    machines: Arc<[Machine]>,
    acknowledged: Mutex<Vec<Acknowledged>>,
    failures: Mutex<Vec<String>>,
}

/// How many users each server has.
pub const USERS: u8 = 3;

/// The second server is the liar; for a lie its last user has to leave.
pub const OUTSIDER: usize = 2 * USERS as usize - 1;

/// The level of the first user of each server in strict rooms: none of them can put out another.
const RESIDENT_LEVEL: i64 = 90;

/// How long a user thinks at most, for each user there is: all of them together do as much in any simulation.
const LONGEST_PAUSE_MS: u64 = 60;

/// So many pages no room has.
const MOST_PAGES: usize = 200;

/// A user does at most so many things for each event that is wanted: most of what is refused is refused for good.
const PATIENCE: usize = 2;

impl Workload {
    /// Users who know no room yet.
    #[must_use]
    pub fn new(
        clients: Vec<Client>,
        machines: Arc<[Machine]>,
        world: &World,
        random: Random,
    ) -> Self {
        Self {
            clients,
            machines,
            rooms: Vec::new(),
            version: world.version,
            clock: world.clock.clone(),
            random,
            acknowledged: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// Makes two rooms and lets users of all servers in: a strict one, and one from which everybody may be put
    /// out.
    ///
    /// # Errors
    /// What a server said instead.
    pub async fn make_rooms(&mut self) -> Result<(), String> {
        for is_strict in [true, false] {
            let creator = usize::from(!is_strict) * usize::from(USERS);
            let creator = creator.min(self.clients.len() - 1);
            let id = self.create(creator, is_strict).await?;
            let server = server_of(&self.clients[creator].user_id).to_owned();
            let number = self.rooms.len();
            self.rooms.push(Room { id, is_strict });
            for (index, client) in self.clients.iter().enumerate() {
                // The liar's last user must have been in the room.
                let may_come_later = !is_resident(index) && index != OUTSIDER;
                let comes_later = may_come_later && self.random.below(3) == 0;
                if index == creator || comes_later {
                    continue;
                }
                let (status, answer) = self.join(client, number, &server).await?;
                if status != 200 {
                    return Err(format!("{} can't join: {status} {answer}", client.user_id));
                }
            }
        }
        Ok(())
    }

    async fn create(&self, creator: usize, is_strict: bool) -> Result<String, String> {
        let mut levels = serde_json::Map::new();
        for (index, client) in self.clients.iter().enumerate() {
            let level = match (is_resident(index), is_strict) {
                (true, true) => RESIDENT_LEVEL,
                (true, false) => 50,
                (false, _) => [0, 25, 50][index % 3],
            };
            if index != creator {
                levels.insert(client.user_id.clone(), level.into());
            }
        }
        let creator = &self.clients[creator];
        if self.version < RoomVersion::V12 {
            levels.insert(creator.user_id.clone(), 100.into());
        }
        let wish = json!({
            "preset": "public_chat",
            "room_version": self.version.as_str(),
            "power_level_content_override": { "users": levels },
        });
        let path = "/_matrix/client/v3/createRoom";
        let (status, answer) = creator.insist("POST", path, Some(&wish)).await?;
        match answer["room_id"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => Err(format!("no room: {status} {answer}")),
        }
    }

    async fn join(&self, client: &Client, room: usize, via: &str) -> Result<(u16, Value), String> {
        let path = self.join_path(room, via);
        client.insist("POST", &path, Some(&json!({}))).await
    }

    fn join_path(&self, room: usize, via: &str) -> String {
        let room = encode(&self.rooms[room].id);
        format!("/_matrix/client/v3/join/{room}?via={via}&server_name={via}")
    }

    /// Lets a user do things until so many events were acknowledged to all users together.
    pub async fn act(&self, index: usize, wanted: usize) {
        let longest_ms = LONGEST_PAUSE_MS * self.clients.len() as u64;
        for number in 0..PATIENCE * wanted {
            let pause = Duration::from_millis(self.random.below(longest_ms));
            self.clock.sleep(pause).await;
            if self.lock().len() >= wanted {
                return;
            }
            let room = usize::from(self.random.below(4) == 0);
            if let Err(why) = self.act_once(index, room, number).await {
                self.lock_failures().push(why);
            }
        }
    }

    async fn act_once(&self, index: usize, room: usize, number: usize) -> Result<bool, String> {
        let client = &self.clients[index];
        let is_bound = is_resident(index) && self.rooms[room].is_strict;
        let other = &self.clients[self.random.below(self.clients.len() as u64) as usize];
        match self.random.below(100) {
            0..8 => {
                self.set(index, room, "m.room.topic", json!({ "topic": number }))
                    .await
            }
            8..12 => {
                self.set(
                    index,
                    room,
                    "m.room.name",
                    json!({ "name": format!("{index}.{number}") }),
                )
                .await
            }
            12..17 => self.change_levels(index, room).await,
            17..20 => self.put_out(index, room, "kick").await,
            20..24 => self.put_out(index, room, "ban").await,
            24..28 => self.put_out(index, room, "unban").await,
            28..31 => self.to_other(index, room, ("invite", &other.user_id)).await,
            31..34 => {
                let rule = if self.random.below(2) == 0 {
                    "invite"
                } else {
                    "public"
                };
                self.set(
                    index,
                    room,
                    "m.room.join_rules",
                    json!({ "join_rule": rule }),
                )
                .await
            }
            34..38 => self.redact(index, room, number).await,
            // So much coming and going that some server is out of the other room most of the time.
            38..42 if !is_bound => self.leave(index, room).await,
            42..48 if !is_bound => Ok(self.rejoin(client, room).await),
            48..54 if !self.rooms[room].is_strict => self.leave(index, room).await,
            54..60 if !self.rooms[room].is_strict => Ok(self.rejoin(client, room).await),
            _ => self.say(index, room, &format!("{index}-{number}")).await,
        }
    }

    /// Sends a message, once. False if the user may not.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn say(&self, index: usize, room: usize, transaction: &str) -> Result<bool, String> {
        let path = format!("send/m.room.message/{transaction}");
        let body = json!({ "msgtype": "m.text", "body": transaction });
        self.request(index, room, ("PUT", &path), body).await
    }

    async fn set(
        &self,
        index: usize,
        room: usize,
        kind: &str,
        body: Value,
    ) -> Result<bool, String> {
        let path = format!("state/{kind}/");
        self.request(index, room, ("PUT", &path), body).await
    }

    async fn to_room(&self, index: usize, room: usize, what: &str) -> Result<bool, String> {
        self.request(index, room, ("POST", what), json!({})).await
    }

    async fn to_other(
        &self,
        index: usize,
        room: usize,
        (what, user): (&str, &str),
    ) -> Result<bool, String> {
        let body = json!({ "user_id": user });
        self.request(index, room, ("POST", what), body).await
    }

    /// Leaves a room, if the user is in it.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn leave(&self, index: usize, room: usize) -> Result<bool, String> {
        self.to_room(index, room, "leave").await
    }

    /// Kicks or bans somebody who may be put out.
    async fn put_out(&self, index: usize, room: usize, what: &str) -> Result<bool, String> {
        let other = self.random.below(self.clients.len() as u64) as usize;
        if is_resident(other) && self.rooms[room].is_strict {
            return Ok(false);
        }
        let user = &self.clients[other].user_id;
        self.to_other(index, room, (what, user)).await
    }

    /// Comes back, through any server. That may be in no room any more, and so may be all others, so nobody insists.
    async fn rejoin(&self, client: &Client, room: usize) -> bool {
        let through = self.random.below(self.clients.len() as u64) as usize;
        let through = server_of(&self.clients[through].user_id);
        let path = self.join_path(room, through);
        let answer = client.ask("POST", &path, Some(&json!({}))).await;
        answer.is_some_and(|(status, _)| status == 200)
    }

    /// Reads a room up to its beginning, page by page.
    ///
    /// # Errors
    /// If there is no answer, or no end.
    pub async fn scroll(&self, index: usize, room: usize) -> Result<(), String> {
        let mut page = self.path(room, "messages?dir=b&limit=100");
        for _ in 0..MOST_PAGES {
            let (status, answer) = self.clients[index].insist("GET", &page, None).await?;
            if status != 200 {
                return Err(format!("{page}: {status} {answer}"));
            }
            match answer["end"].as_str() {
                Some(end) => {
                    let from = format!("messages?dir=b&limit=100&from={}", encode(end));
                    page = self.path(room, &from);
                }
                None => return Ok(()),
            }
        }
        Err(format!("room {room} has no beginning at {page}"))
    }

    async fn redact(&self, index: usize, room: usize, number: usize) -> Result<bool, String> {
        let target = {
            let sent = self.lock();
            let of_room: Vec<&Acknowledged> =
                sent.iter().filter(|sent| sent.room == room).collect();
            let chosen = self.random.below(of_room.len() as u64) as usize;
            of_room.get(chosen).map(|sent| encode(&sent.event_id))
        };
        let Some(target) = target else {
            return Ok(false);
        };
        let path = format!("redact/{target}/r{index}-{number}");
        self.request(index, room, ("PUT", &path), json!({})).await
    }

    /// Gives somebody another level, or something.
    async fn change_levels(&self, index: usize, room: usize) -> Result<bool, String> {
        let path = self.path(room, "state/m.room.power_levels/");
        let client = &self.clients[index];
        let (status, mut levels) = client.insist("GET", &path, None).await?;
        if status != 200 {
            return Ok(false);
        }
        let level = [0, 25, 50, 75][self.random.below(4) as usize];
        let other = self.random.below(self.clients.len() as u64) as usize;
        match self.random.below(3) {
            0 => levels["events"]["m.room.topic"] = level.into(),
            1 => levels["kick"] = level.into(),
            _ if is_resident(other) && self.rooms[room].is_strict => return Ok(false),
            _ => levels["users"][&self.clients[other].user_id] = level.into(),
        }
        self.set(index, room, "m.room.power_levels", levels).await
    }

    async fn request(
        &self,
        index: usize,
        room: usize,
        (method, path): (&str, &str),
        body: Value,
    ) -> Result<bool, String> {
        let client = &self.clients[index];
        let path = self.path(room, path);
        let while_partial = self.is_partial(client.server, room).await?;
        let (status, answer) = client.insist(method, &path, Some(&body)).await?;
        if let (200, Some(event_id)) = (status, answer["event_id"].as_str()) {
            self.lock().push(Acknowledged {
                event_id: event_id.to_owned(),
                room,
                server: client.server,
                while_partial,
            });
        }
        Ok(status == 200)
    }

    /// Whether a server knows a part of a room's state only; or can't be asked.
    async fn is_partial(&self, server: usize, room: usize) -> Result<bool, String> {
        let Some(server) = self.machines[server].with_server(Server::of) else {
            return Ok(true);
        };
        let room_id: &RoomId = self.rooms[room]
            .id
            .as_str()
            .try_into()
            .map_err(|_| "a room without an ID")?;
        server
            .is_partial(room_id)
            .await
            .map_err(|why| why.to_string())
    }

    fn path(&self, room: usize, rest: &str) -> String {
        format!(
            "/_matrix/client/v3/rooms/{}/{rest}",
            encode(&self.rooms[room].id)
        )
    }

    /// What was acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.lock().clone()
    }

    /// Requests that nobody answered, though they were repeated for long enough.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.lock_failures().clone()
    }

    /// How many events of each room were acknowledged.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for sent in self.lock().iter() {
            *counts.entry(sent.room).or_default() += 1;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Acknowledged>> {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_failures(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a user is the first of their server.
#[must_use]
pub fn is_resident(index: usize) -> bool {
    index.is_multiple_of(usize::from(USERS))
}

fn server_of(user_id: &str) -> &str {
    user_id.split_once(':').map_or("", |(_, server)| server)
}
