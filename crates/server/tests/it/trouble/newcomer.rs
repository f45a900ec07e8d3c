//! A server that was never in the resident's room, and a user of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use myelin_core::pdu::Pdu;
use myelin_env::{Clock, Env};
use myelin_storage::testing::Loss;
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};

use super::rest::until_at_rest;
use crate::ca::Ca;
use crate::client::{Client, encode};
use crate::machine::{Life, Machine};
use crate::resident::Resident;

/// After this time every request has been given up.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(601);

/// A server with one user, and the resident it has to do with.
pub(super) struct Newcomer {
    pub(super) resident: Arc<Resident>,
    pub(super) client: Client,
    machine: Machine,
    life: Life,
    clock: Clock,
}

/// Surroundings in which time stands still.
fn still(now_ms: u64) -> (Env, Clock) {
    let env = Env::manual(now_ms, 1);
    let clock = env.clock.clone();
    (env, clock)
}

impl Newcomer {
    /// Starts a server of that name.
    pub(super) async fn start(resident: &Arc<Resident>, ca: &Ca, name: &str) -> Self {
        let machine = Machine::new(name, ca, Some(resident.names(5)), Loss::Everything).await;
        let (env, clock) = still(Clock::real().now_ms());
        let life = machine.start_in(env).await.unwrap();
        let client = Client::register(life.address(), "newcomer").await;
        Self {
            resident: resident.clone(),
            client,
            machine,
            life,
            clock,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.machine.name()
    }

    /// Where the server listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.life.address()
    }

    /// Stops the server without a warning, and starts it on what it had written. Meanwhile the
    /// statements must count nothing.
    pub(super) async fn crash(self, none: &'static [&'static str]) -> Self {
        self.machine.power.cut();
        self.life.end().await;
        self.machine.power.restore();
        self.machine.assert_at_rest(none).await;
        self.machine.power.restore();
        let (env, clock) = still(self.clock.now_ms());
        let life = self.machine.start_in(env).await.unwrap();
        let client = self.client.at(life.address());
        Self {
            life,
            clock,
            client,
            ..self
        }
    }

    /// Ends the server.
    pub(super) async fn stop(self) {
        self.life.stop().await;
    }

    /// Ends the server; then the statements must count nothing.
    pub(super) async fn stop_and_expect(self, none: &'static [&'static str]) {
        self.life.stop().await;
        self.machine.assert_at_rest(none).await;
    }

    /// Registers another user of the server.
    pub(super) async fn register(&self, user: &str) -> Client {
        Client::register(self.life.address(), user).await
    }

    /// Lets a user join by way of those servers; answers status and body.
    pub(super) async fn try_join(&self, client: &Client, via: &[OwnedServerName]) -> (u16, Value) {
        let room = encode(self.resident.room_id().as_str());
        let via = via
            .iter()
            .map(|server| format!("via={}", encode(server.as_str())));
        let via: Vec<_> = via.collect();
        let path = format!("/_matrix/client/v3/join/{room}?{}", via.join("&"));
        client.call("POST", &path, Some(json!({}))).await
    }

    /// Joins the room.
    pub(super) async fn join(&self) {
        self.join_through(&self.resident.name()).await;
    }

    /// Joins by way of one server.
    pub(super) async fn join_through(&self, server: &ServerName) {
        let (status, answer) = self.try_join(&self.client, &[server.to_owned()]).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Who is in the room, when the server knows it.
    pub(super) async fn members(&self) -> BTreeSet<String> {
        let room = self.resident.room_id().as_str();
        let members = self.client.joined_members(room).await;
        members.as_object().unwrap().keys().cloned().collect()
    }

    /// Who is in the room as the resident sees it.
    pub(super) fn everybody(&self) -> BTreeSet<String> {
        self.resident
            .room_of(self.name(), |room| room.joined_users())
    }

    /// Waits until clients are shown an event.
    pub(super) async fn until_shown(&self, event: &Pdu) {
        let room = self.resident.room_id().as_str();
        let mut watch = self.client.watch();
        watch.until_event(room, event.event_id.as_str()).await;
    }

    /// Whether clients can see an event.
    pub(super) async fn has(&self, event: &Pdu) -> bool {
        let room = encode(event.room_id.as_str());
        let event = encode(event.event_id.as_str());
        let path = format!("/_matrix/client/v3/rooms/{room}/event/{event}");
        self.client.call("GET", &path, None).await.0 == 200
    }

    /// Moves the clock.
    pub(super) fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Sets the server's clock forward or back.
    pub(super) fn set_clock_by_ms(&self, change_ms: i64) {
        self.clock.set_by_ms(change_ms);
    }

    /// Moves the clock from deadline to deadline until something happens. Answers how far it had to go. Whatever
    /// begins at a deadline has begun before the next one; a step over several of them might take a connection
    /// its time while it is made.
    pub(super) async fn wait<T>(&self, event: impl Future<Output = T>) -> (T, Duration) {
        let begun = self.clock.instant();
        let mut event = std::pin::pin!(event);
        for _ in 0..1_000 {
            tokio::select! {
                biased;
                happened = &mut event => return (happened, begun.elapsed(&self.clock)),
                () = until_at_rest() => drop(self.clock.advance_to_next()),
            }
        }
        panic!("it does not happen within {:?}", begun.elapsed(&self.clock));
    }

    /// Moves the clock by steps of minutes until something happens that is hours away: that would be thousands of
    /// deadlines.
    pub(super) async fn wait_for_hours<T>(
        &self,
        step: Duration,
        event: impl Future<Output = T>,
    ) -> T {
        let mut event = std::pin::pin!(event);
        for _ in 0..100 {
            tokio::select! {
                biased;
                happened = &mut event => return happened,
                () = until_at_rest() => self.pass(step),
            }
        }
        panic!("it does not happen within {:?}", step * 100);
    }

    /// The same as [`Newcomer::wait`] with what comes after a known pause: at rest most of it passes at once.
    pub(super) async fn wait_out<T>(
        &self,
        pause: Duration,
        event: impl Future<Output = T>,
    ) -> (T, Duration) {
        let begun = self.clock.instant();
        let mut event = std::pin::pin!(event);
        tokio::select! {
            biased;
            happened = &mut event => return (happened, begun.elapsed(&self.clock)),
            () = until_at_rest() => self.pass(pause),
        }
        let (happened, _) = self.wait(event).await;
        (happened, begun.elapsed(&self.clock))
    }
}
