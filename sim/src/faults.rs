//! What goes wrong, by chance: links are cut, servers crash, are slow or silent, and connections break.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use myelin_env::{Clock, Random, Tasks};

use crate::{machine::Machine, network::Fabric, trace::Trace};

/// What can go wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The servers fall into two groups that don't reach each other.
    Partition,
    /// A server ends where it stands, and is started again later.
    Crash,
    /// Everything to and from a server takes longer.
    Slow,
    /// A server takes connections and answers nothing.
    Silent,
    /// Connections break at some messages.
    Breaks,
}

/// Every kind.
pub const KINDS: [Fault; 5] = [
    Fault::Partition,
    Fault::Crash,
    Fault::Slow,
    Fault::Silent,
    Fault::Breaks,
];

/// The faults of one simulation.
#[derive(Clone)]
pub struct Faults {
    /// What they happen to.
    pub machines: Arc<[Machine]>,
    /// What is between these.
    pub fabric: Fabric,
    /// The time.
    pub clock: Clock,
    /// What decides.
    pub random: Random,
    /// Where they are counted.
    pub trace: Trace,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Crash => "crash",
            Self::Slow => "slow server",
            Self::Silent => "silent server",
            Self::Breaks => "breaking connections",
        }
    }
}

impl Faults {
    /// Lets so many faults happen, some of them at the same time, and waits until all are over.
    pub async fn happen(self, times: usize, tasks: &Tasks) -> Result<(), String> {
        let mut running = Vec::new();
        for number in 0..times {
            let pause = Duration::from_millis(300 + self.random.below(3_000));
            self.clock.sleep(pause).await;
            // Each kind comes up before one comes up again.
            let kind = KINDS[(number + self.machines.len()) % KINDS.len()];
            let faults = self.clone();
            running.push(tasks.spawn("fault", async move { faults.happen_once(kind).await }));
        }
        for fault in running {
            fault.await.map_err(|ended| ended.to_string())??;
        }
        Ok(())
    }

    async fn happen_once(&self, kind: Fault) -> Result<(), String> {
        let chosen = self.random.below(self.machines.len() as u64) as usize;
        let machine = &self.machines[chosen];
        let lasts = Duration::from_millis(200 + self.random.below(12_000));
        let begin = || {
            self.trace.count(&format!("fault: {}", kind.name()));
            self.trace.note(&format!("{kind:?} {chosen} {lasts:?}"));
        };
        match kind {
            Fault::Partition => {
                begin();
                self.fabric.part(self.sides());
                self.clock.sleep(lasts).await;
                self.fabric.part(BTreeMap::new());
            }
            Fault::Crash if machine.is_on() => {
                begin();
                machine.crash().await;
                self.clock.sleep(lasts).await;
                let started = machine.start().await;
                started.map_err(|why| format!("server {chosen} does not start again: {why}"))?;
            }
            // Another fault has it switched off.
            Fault::Crash => {}
            Fault::Slow => {
                begin();
                let by = Duration::from_millis(50 + self.random.below(1_500));
                self.fabric.slow_down(machine.address(), by);
                self.clock.sleep(lasts).await;
                self.fabric.slow_down(machine.address(), Duration::ZERO);
            }
            Fault::Silent => {
                begin();
                self.fabric.silence(machine.address(), true);
                self.clock.sleep(lasts).await;
                self.fabric.silence(machine.address(), false);
            }
            Fault::Breaks => {
                begin();
                self.fabric.break_one_in(10 + self.random.below(100));
                self.clock.sleep(lasts).await;
                self.fabric.break_one_in(0);
            }
        }
        Ok(())
    }

    /// Two groups, neither of them empty.
    fn sides(&self) -> BTreeMap<std::net::IpAddr, bool> {
        let mut sides: BTreeMap<_, _> = self
            .machines
            .iter()
            .map(|machine| (machine.address(), self.random.below(2) == 0))
            .collect();
        let (first, last) = (&self.machines[0], &self.machines[self.machines.len() - 1]);
        sides.insert(first.address(), false);
        sides.insert(last.address(), true);
        sides
    }
}
