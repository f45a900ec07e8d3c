//! The one table of the work that goes on in the background.

use std::time::Duration;

use myelin_env::Env;

use crate::telemetry;

/// Work that goes on by itself. It takes no input, and may be interrupted and repeated anywhere.
pub struct Worker {
    /// What it is called in logs.
    pub name: &'static str,
    /// How long it pauses.
    pub every: Duration,
    /// One round.
    run: fn(),
}

/// All of them.
pub const WORKERS: &[Worker] = &[Worker {
    name: "metrics upkeep",
    every: Duration::from_secs(5),
    run: || {
        if let Some(recorder) = telemetry::recorder() {
            recorder.run_upkeep();
        }
    },
}];

/// Starts all workers. They end with the server.
pub(crate) fn start(env: &Env) {
    for worker in WORKERS {
        let clock = env.clock.clone();
        let stopping = env.tasks.stopping();
        // It is tracked; nobody waits for it.
        drop(env.tasks.spawn(worker.name, async move {
            while stopping
                .run_until_cancelled(clock.sleep(worker.every))
                .await
                .is_some()
            {
                (worker.run)();
            }
        }));
    }
}
