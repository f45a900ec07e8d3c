//! A network in memory: it delays, holds up, resets and parts, by chance and on demand.
//!
//! A connection is a pair of pipes. What is written into one is read at its other end when its time has
//! come. Where a link is cut, connections are reset or stall, and what was written into one that stalls
//! arrives after all when the link is mended, as with TCP.

mod pipe;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use myelin_env::{Clock, Random, SimulatedNetwork, Stream};
use tokio::sync::{Notify, mpsc, watch};

use self::pipe::{End, Pipe};
use crate::trace::Trace;

/// A connection that arrives at a server, and where it comes from.
pub type Arrival = (Box<dyn Stream>, IpAddr);

/// The network of one simulation. Clones share it.
#[derive(Clone)]
pub struct Fabric(Arc<Inner>);

struct Inner {
    clock: Clock,
    random: Random,
    trace: Trace,
    state: Mutex<State>,
    /// Moves on whenever a link is cut or mended.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<IpAddr, mpsc::UnboundedSender<Arrival>>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Which side of a partition a host is on; the rest reach everybody.
    sides: BTreeMap<IpAddr, bool>,
    /// Hosts that take connections and let nothing through.
    silent: BTreeSet<IpAddr>,
    /// How much longer everything takes to and from a host.
    slow: BTreeMap<IpAddr, Duration>,
    /// One of so many messages between servers breaks its connection; none if zero.
    breaks_one_in: u64,
    /// Who waits until a host says something.
    listened_to: BTreeMap<IpAddr, Arc<Notify>>,
}

struct Connection {
    hosts: [IpAddr; 2],
    pipes: [Arc<Pipe>; 2],
}

impl State {
    /// Whether nothing gets from one of the hosts to the other.
    fn is_cut(&self, [a, b]: [IpAddr; 2]) -> bool {
        let parted = match (self.sides.get(&a), self.sides.get(&b)) {
            (Some(a), Some(b)) => a != b,
            _ => false,
        };
        parted || self.silent.contains(&a) || self.silent.contains(&b)
    }

    fn extra(&self, hosts: [IpAddr; 2]) -> Duration {
        let of = |host| self.slow.get(&host).copied().unwrap_or_default();
        of(hosts[0]) + of(hosts[1])
    }
}

impl Fabric {
    /// A network on which everything arrives.
    #[must_use]
    pub fn new(clock: Clock, random: Random, trace: Trace) -> Self {
        Self(Arc::new(Inner {
            clock,
            random,
            trace,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        }))
    }

    /// Takes connections at an address from now on.
    #[must_use]
    pub fn listen(&self, host: IpAddr) -> mpsc::UnboundedReceiver<Arrival> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().listeners.insert(host, sender);
        receiver
    }

    /// The network as seen from a host.
    #[must_use]
    pub fn from(&self, host: IpAddr) -> Arc<From> {
        Arc::new(From {
            host,
            fabric: self.clone(),
        })
    }

    /// Ends all connections of a host, and takes no more for it.
    pub fn disconnect(&self, host: IpAddr) {
        let mut state = self.lock();
        state.listeners.remove(&host);
        let broken: Vec<u64> = state
            .connections
            .iter()
            .filter(|(_, connection)| connection.hosts.contains(&host))
            .map(|(number, _)| *number)
            .collect();
        let broken: Vec<Connection> = broken
            .iter()
            .filter_map(|number| state.connections.remove(number))
            .collect();
        drop(state);
        for pipe in broken.iter().flat_map(|connection| &connection.pipes) {
            pipe.reset();
        }
    }

    /// Ends everything, at the end of a simulation.
    pub fn end(&self) {
        let ended = std::mem::take(&mut *self.lock());
        for pipe in ended
            .connections
            .values()
            .flat_map(|connection| &connection.pipes)
        {
            pipe.reset();
        }
    }

    /// Parts the hosts of one side from all others that have a side.
    pub fn part(&self, sides: BTreeMap<IpAddr, bool>) {
        self.lock().sides = sides;
        self.apply();
    }

    /// Makes a host silent, or ends its silence.
    pub fn silence(&self, host: IpAddr, silent: bool) {
        let mut state = self.lock();
        if silent {
            state.silent.insert(host);
        } else {
            state.silent.remove(&host);
        }
        drop(state);
        self.apply();
    }

    /// Makes a host slower by so much, or as fast as others.
    pub fn slow_down(&self, host: IpAddr, by: Duration) {
        self.lock().slow.insert(host, by);
    }

    /// Breaks the connection of one message of so many between servers; none if zero.
    pub fn break_one_in(&self, messages: u64) {
        self.lock().breaks_one_in = messages;
    }

    /// Carries what was cut over to the connections that exist.
    fn apply(&self) {
        let mut state = self.lock();
        let mut broken = Vec::new();
        let connections: Vec<(u64, bool)> = state
            .connections
            .iter()
            .map(|(number, connection)| (*number, state.is_cut(connection.hosts)))
            .collect();
        for (number, is_cut) in connections {
            let connection = &state.connections[&number];
            let is_new = is_cut && !connection.pipes[0].is_stalled();
            if is_new && self.0.random.below(2) == 0 {
                broken.extend(state.connections.remove(&number));
                continue;
            }
            for pipe in &connection.pipes {
                pipe.stall(is_cut);
            }
        }
        drop(state);
        for pipe in broken.iter().flat_map(|connection| &connection.pipes) {
            pipe.reset();
        }
        self.0.changes.send_modify(|change| *change += 1);
    }

    /// How long a message between two hosts is under way.
    fn latency(&self, hosts: [IpAddr; 2]) -> Duration {
        let extra = self.lock().extra(hosts);
        // Mostly near, sometimes at the other end of the world.
        let longest_us = if self.0.random.below(8) == 0 {
            150_000
        } else {
            10_000
        };
        extra + Duration::from_micros(500 + self.0.random.below(longest_us))
    }

    /// Waits until a host says something. It is still under way then.
    pub async fn next_word_of(&self, host: IpAddr) {
        let word = Arc::clone(self.lock().listened_to.entry(host).or_default());
        word.notified().await;
    }

    /// A host says something.
    fn speak(&self, host: IpAddr) {
        let listened_to = self.lock().listened_to.remove(&host);
        if let Some(word) = listened_to {
            word.notify_waiters();
        }
    }

    /// Whether the message that is about to be sent breaks its connection.
    fn breaks(&self) -> bool {
        let one_in = self.lock().breaks_one_in;
        one_in > 0 && self.0.random.below(one_in) == 0
    }

    async fn connect(self, hosts: [IpAddr; 2]) -> io::Result<Box<dyn Stream>> {
        let mut changes = self.0.changes.subscribe();
        self.0.clock.sleep(self.latency(hosts)).await;
        while self.lock().is_cut(hosts) {
            // The sender lives as long as the fabric.
            changes.changed().await.ok();
        }
        self.0.clock.sleep(self.latency(hosts)).await;
        let mut state = self.lock();
        let number = state.next_connection;
        state.next_connection += 1;
        let [from, to] = hosts;
        let there = Arc::new(Pipe::new(&self, number, [from, to]));
        let back = Arc::new(Pipe::new(&self, number, [to, from]));
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = state.listeners.get(&to).ok_or_else(refused)?;
        let far = End::new(Arc::clone(&there), Arc::clone(&back));
        listener
            .send((Box::new(far), from))
            .map_err(|_| refused())?;
        let near = End::new(Arc::clone(&back), Arc::clone(&there));
        let connection = Connection {
            hosts,
            pipes: [there, back],
        };
        state.connections.insert(number, connection);
        Ok(Box::new(near))
    }

    /// Forgets a connection that both sides have given up.
    fn forget(&self, number: u64) {
        self.lock().connections.remove(&number);
    }

    /// Breaks a connection.
    fn reset(&self, number: u64) {
        let connection = self.lock().connections.remove(&number);
        for pipe in connection.iter().flat_map(|connection| &connection.pipes) {
            pipe.reset();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network as one host sees it.
pub struct From {
    host: IpAddr,
    fabric: Fabric,
}

impl SimulatedNetwork for From {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let fabric = self.fabric.clone();
        Box::pin(fabric.connect([self.host, address.ip()]))
    }
}
