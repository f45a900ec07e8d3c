//! Everything a server takes from the world that is not data: time, randomness, connections and
//! tasks.
//!
//! Nothing here knows Matrix. Each part has a real form and one a test can steer, so the code above
//! is written once and runs the same under a simulation. `clippy.toml` forbids the ambient
//! equivalents everywhere else.

mod clock;
mod network;
mod random;
mod tasks;
mod trace;

pub use clock::{Clock, Elapsed, Moment, Sleep};
pub use network::{Network, SimulatedNetwork, Stream};
pub use random::Random;
pub use tasks::{StillRunning, Task, TaskFailed, Tasks, contain};
pub use tokio_util::sync::{CancellationToken, DropGuard};
pub use trace::TracePoint;

/// The surroundings of one server. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub struct Env {
    /// What time it is, and waiting.
    pub clock: Clock,
    /// Random numbers, also for secrets.
    pub random: Random,
    /// Work that goes on after its caller has gone.
    pub tasks: Tasks,
    /// Outgoing connections.
    pub network: Network,
}

impl Env {
    /// The machine's own clock, randomness and network.
    #[must_use]
    pub fn real() -> Self {
        let clock = Clock::real();
        Self {
            tasks: Tasks::new(clock.clone()),
            clock,
            random: Random::real(),
            network: Network::real(),
        }
    }

    /// Time that stands at `start_ms` (Unix milliseconds) until a test advances it, and random
    /// numbers that follow from `seed`. The network is the real one.
    #[must_use]
    pub fn manual(start_ms: u64, seed: u64) -> Self {
        let clock = Clock::manual(start_ms);
        Self {
            tasks: Tasks::new(clock.clone()),
            clock,
            random: Random::seeded(seed),
            network: Network::real(),
        }
    }

    /// One of many servers on one thread, which share a manual `clock`: random numbers follow from `seed`, and
    /// nothing takes a thread of its own.
    #[must_use]
    pub fn simulated(clock: Clock, seed: u64, network: Network) -> Self {
        Self {
            tasks: Tasks::on_one_thread(clock.clone()),
            clock,
            random: Random::seeded(seed),
            network,
        }
    }
}
