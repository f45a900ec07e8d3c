//! What goes wrong, by chance: links are cut, servers crash, are slow or silent, and connections break.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use myelin_env::{Clock, Random, Tasks};

use crate::{machine::Machine, network::Fabric, trace::Trace};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The servers fall into two groups that don't reach each other.
    Partition,
    /// A server ends where it stands, and is started again later.
    Crash,
    /// The same at the moment at which it says something, so that nobody ever hears it, or right after.
    CrashWhileSpeaking,
    /// Everything to and from a server takes longer.
    Slow,
    /// A server takes connections and answers nothing.
    Silent,
    /// Connections break at some messages.
    Breaks,
    /// A server's clock is set forward or back.
    Clock,
    /// One server, or all but one, lie when they are asked for events and states.
    Lies,
}

/// Every kind.
pub const KINDS: [Fault; 8] = [
    Fault::Partition,
    Fault::Crash,
    Fault::Slow,
    Fault::Silent,
    Fault::CrashWhileSpeaking,
    Fault::Breaks,
    Fault::Clock,
    Fault::Lies,
];

/// By how much a clock is wrong at most, forward or back, each time that it is set.
pub const LONGEST_SKEW_MS: u64 = 600_000;

/// Within so long its word may have arrived, while what it writes at the time may not be written.
const RIGHT_AFTER: Duration = Duration::from_millis(12);

/// How long a server that is to end while it speaks is waited for.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

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
    /// What happens.
    pub kinds: Vec<Fault>,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Crash => "crash",
            Self::CrashWhileSpeaking => "crash while speaking",
            Self::Slow => "slow server",
            Self::Silent => "silent server",
            Self::Breaks => "breaking connections",
            Self::Clock => "clock set",
            Self::Lies => "lying servers",
        }
    }
}

impl Faults {
    /// Lets so many faults happen, some of them at the same time, and waits until all are over.
    pub async fn happen(self, times: usize, tasks: &Tasks) -> Result<(), String> {
        let mut running = Vec::new();
        let first = self.random.below(self.kinds.len() as u64) as usize;
        for number in 0..times {
            let pause = Duration::from_millis(300 + self.random.below(3_000));
            self.clock.sleep(pause).await;
            // Each kind comes up before one comes up again.
            let kind = self.kinds[(number + first) % self.kinds.len()];
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
            Fault::Crash => {
                // Another fault may have it switched off.
                if machine.is_on() {
                    begin();
                    self.crash(chosen, lasts).await?;
                }
            }
            Fault::CrashWhileSpeaking => {
                self.hear(machine).await;
                if machine.is_on() {
                    begin();
                    self.crash(chosen, lasts).await?;
                }
            }
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
            Fault::Clock => {
                begin();
                machine.set_clock(skew(&self.random));
            }
            Fault::Lies => {
                begin();
                self.lie(chosen, lasts).await;
            }
        }
        Ok(())
    }

    /// Waits until a server says something, or right after that. One that says nothing is not waited for for ever.
    async fn hear(&self, machine: &Machine) {
        let speaks = self.fabric.next_word_of(machine.address());
        let _ = self.clock.timeout(LONGEST_SILENCE, speaks).await;
        if self.random.below(2) == 0 {
            let after_us = self.random.below(RIGHT_AFTER.as_micros() as u64);
            self.clock.sleep(Duration::from_micros(after_us)).await;
        }
    }

    async fn crash(&self, chosen: usize, lasts: Duration) -> Result<(), String> {
        let machine = &self.machines[chosen];
        machine.crash().await;
        self.clock.sleep(lasts).await;
        let started = machine.start().await;
        started.map_err(|why| format!("server {chosen} after a crash: {why}"))
    }

    /// Has one server lie, or all but one.
    async fn lie(&self, chosen: usize, lasts: Duration) {
        let is_alone = self.random.below(2) == 0;
        let liars = self.machines.iter().enumerate();
        let liars: Vec<&Machine> = liars
            .filter(|(number, _)| (*number == chosen) == is_alone)
            .map(|(_, machine)| machine)
            .collect();
        liars.iter().for_each(|liar| liar.lie(true));
        self.clock.sleep(lasts).await;
        liars.iter().for_each(|liar| liar.lie(false));
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

/// By how much a clock is set, in milliseconds.
#[must_use]
pub fn skew(random: &Random) -> i64 {
    random.below(2 * LONGEST_SKEW_MS) as i64 - LONGEST_SKEW_MS as i64
}
