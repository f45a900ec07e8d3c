//! One simulation from beginning to end.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use myelin_core::room_version::RoomVersion;
use myelin_env::{CancellationToken, Clock, Random, Tasks};
use myelin_storage::StorageError;
use ruma::RoomId;
use tokio::runtime::{Builder, RngSeed};

use crate::{
    check::{self, Views, Violations},
    client::Client,
    faults::{Fault, Faults, KINDS, skew},
    liar::{Forgery, Liar},
    machine::{Machine, World},
    network::Fabric,
    reader::Reader,
    trace::Trace,
    view::{Server, View, Waiting},
    workload::{OUTSIDER, Room, USERS, Workload, is_resident},
};

/// When simulations begin, in Unix milliseconds.
const START_MS: u64 = 1_700_000_000_000;

/// How long everything may take to come to rest when nothing goes wrong any more.
const LONGEST_REST: Duration = Duration::from_secs(6 * 3600);

/// How long a server may not ask again for what it did not get: from one that lied, or one that could not say.
const LONGEST_GRUDGE: Duration = Duration::from_secs(3 * 3600);

/// How often is looked whether it has.
const LOOK: Duration = Duration::from_secs(2);

/// What is to be simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What everything follows from.
    pub seed: u64,
    /// How many servers there are; by chance if not given.
    pub servers: Option<usize>,
    /// How many events of users are acknowledged before it comes to its end.
    pub events: usize,
    /// How much goes wrong.
    pub faults: usize,
    /// Whether the trace is kept as text.
    pub is_readable: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How many servers there were.
    pub servers: usize,
    /// How many events there are in the rooms.
    pub events: usize,
    /// Faults by kind, and outcomes by kind.
    pub counted: BTreeMap<String, u64>,
    /// How much time passed there.
    pub simulated: Duration,
    /// The number that stands for all that happened.
    pub trace: u64,
    /// What was violated.
    pub violations: Vec<String>,
    /// All that happened, if that was asked for.
    pub text: Option<String>,
}

/// The name of a server by its number.
#[must_use]
pub fn name(server: usize) -> String {
    let octet = u8::try_from(server + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 0, 0, octet).to_string()
}

/// Simulates, on the calling thread.
///
/// # Panics
/// If there is no place for the databases.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    let clock = Clock::manual(START_MS);
    let trace = Trace::new(clock.clone(), scenario.is_readable);
    let moving = clock.clone();
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime
        .enable_time()
        .rng_seed(RngSeed::from_bytes(&scenario.seed.to_le_bytes()))
        // Nothing is left to do at this moment, so the next one comes.
        .on_thread_park(move || {
            moving.advance_to_next();
        })
        .build()
        .expect("a runtime can be made");
    let memory = PathBuf::from("/dev/shm");
    let directory = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let directory = directory.expect("a temporary directory can be made");
    let simulation = Simulation::new(scenario, &clock, &trace, directory.path().to_owned());
    let tasks = simulation.tasks.clone();
    let (report, fabric) = metrics::with_local_recorder(&trace, || {
        let fabric = simulation.world.fabric.clone();
        let begun = clock.instant();
        let running = async { tasks.spawn("simulation", simulation.run(begun)).await };
        (runtime.block_on(running), fabric)
    });
    drop(runtime);
    fabric.end();
    report.expect("the simulation does not panic")
}

/// What a simulation consists of.
struct Simulation {
    scenario: Scenario,
    world: World,
    trace: Trace,
    random: Random,
    /// Everything that isn't a server's.
    tasks: Tasks,
    machines: Arc<[Machine]>,
    /// The faults that happen.
    kinds: Vec<Fault>,
    violations: Violations,
}

impl Simulation {
    fn new(scenario: &Scenario, clock: &Clock, trace: &Trace, directory: PathBuf) -> Self {
        let seeds = Random::seeded(scenario.seed);
        let random = || Random::seeded(seeds.u64());
        let versions = [RoomVersion::V10, RoomVersion::V11, RoomVersion::V12];
        let world = World {
            clock: clock.clone(),
            fabric: Fabric::new(clock.clone(), random(), trace.clone()),
            directory,
            version: versions[seeds.below(3) as usize],
            seed: seeds.u64(),
            trace: trace.clone(),
        };
        // Three to seven, the fewer the more often: what goes wrong mostly does between two or three.
        let more = seeds.below(5).min(seeds.below(5)) as usize;
        let servers = scenario.servers.unwrap_or(3 + more);
        let mut kinds = KINDS.to_vec();
        if seeds.below(2) == 0 {
            kinds.retain(|kind| *kind != Fault::Lies);
        }
        let machines = (0..servers).map(|number| Machine::new(&world, number as u8));
        Self {
            machines: machines.collect(),
            kinds,
            scenario: scenario.clone(),
            trace: trace.clone(),
            random: random(),
            tasks: Tasks::on_one_thread(clock.clone()),
            violations: Violations::default(),
            world,
        }
    }

    async fn run(mut self, begun: myelin_env::Moment) -> Report {
        let mut events = 0;
        match Box::pin(self.live()).await {
            Ok(held) => events = held,
            Err(why) => self.violations.add("stuck", why),
        }
        let report = Report {
            seed: self.scenario.seed,
            servers: self.machines.len(),
            events,
            counted: self.trace.counted(),
            simulated: begun.elapsed(&self.world.clock),
            trace: self.trace.hash(),
            violations: self.violations.lines(),
            text: self.trace.text(),
        };
        for machine in self.machines.iter() {
            machine.crash().await;
        }
        report
    }

    /// Lets everything happen, and looks at what came of it. Answers how many events there are.
    async fn live(&mut self) -> Result<usize, String> {
        let workload = Arc::new(self.begin().await?);
        let readers = self.readers(&workload);
        let stop = CancellationToken::new();
        let reading: Vec<_> = readers
            .iter()
            .map(|reader| {
                let (reader, stop) = (Arc::clone(reader), stop.clone());
                self.tasks
                    .spawn("reader", async move { reader.read(&stop).await })
            })
            .collect();
        let faults = Faults {
            machines: Arc::clone(&self.machines),
            fabric: self.world.fabric.clone(),
            clock: self.world.clock.clone(),
            random: Random::seeded(self.random.u64()),
            trace: self.trace.clone(),
            kinds: self.kinds.clone(),
        };
        let tasks = self.tasks.clone();
        let times = self.scenario.faults;
        let faults = self
            .tasks
            .spawn("faults", async move { faults.happen(times, &tasks).await });
        let wanted = self.scenario.events;
        let acting: Vec<_> = (0..workload.clients.len())
            .map(|index| {
                let workload = Arc::clone(&workload);
                self.tasks
                    .spawn("user", async move { workload.act(index, wanted).await })
            })
            .collect();
        for user in acting {
            user.await.map_err(|ended| ended.to_string())?;
        }
        faults.await.map_err(|ended| ended.to_string())??;
        stop.cancel();
        for reader in reading {
            reader.await.map_err(|ended| ended.to_string())?;
        }
        for why in workload.failures() {
            self.violations.add("not answered", why);
        }
        self.rest("after the faults").await?;
        if self.anybody_rests().await? {
            self.world.clock.sleep(LONGEST_GRUDGE).await;
        }
        self.look_before_merging(&workload).await?;
        self.merge(&workload, &["once", "again"]).await?;
        self.scroll(&workload).await?;
        let forgeries = self.lie(&workload).await?;
        self.merge(&workload, &["last"]).await?;
        for reader in &readers {
            while !reader.once(0).await {
                reader.client().pause().await;
            }
        }
        self.judge(&workload, &readers, &forgeries).await
    }

    /// Starts all servers, with their users and rooms.
    async fn begin(&self) -> Result<Workload, String> {
        let mut clients = Vec::new();
        for (server, machine) in self.machines.iter().enumerate() {
            machine.set_clock(skew(&self.random));
            machine.start().await?;
            for number in 1..=USERS {
                let place = (&self.world.fabric, &self.world.clock);
                clients.push(Client::register((server, machine), number, place).await?);
            }
        }
        let random = Random::seeded(self.random.u64());
        let mut workload = Workload::new(clients, Arc::clone(&self.machines), &self.world, random);
        workload.make_rooms().await?;
        self.trace.note("begun");
        Ok(workload)
    }

    /// A client of each server reads, and on the first server one of a user who comes and goes.
    fn readers(&self, workload: &Workload) -> Vec<Arc<Reader>> {
        let clients = workload.clients.iter().enumerate();
        clients
            .filter(|(index, _)| is_resident(*index) || *index == 1)
            .map(|(index, client)| {
                let bound_to = is_resident(index).then(|| workload.rooms[0].id.clone());
                Arc::new(Reader::new(client.clone(), bound_to))
            })
            .collect()
    }

    /// Each server in turn sends an event on top of all it knows, until all know the same.
    async fn merge(&self, workload: &Workload, rounds: &[&str]) -> Result<(), String> {
        for round in rounds {
            for server in 0..self.machines.len() {
                for room in 0..workload.rooms.len() {
                    let first = server * usize::from(USERS);
                    for index in first..first + usize::from(USERS) {
                        let transaction = format!("merge-{round}-{index}");
                        if workload.say(index, room, &transaction).await? {
                            break;
                        }
                    }
                }
                self.rest("while states are merged").await?;
            }
        }
        Ok(())
    }

    /// Whether any server will not ask for something for hours. One that lied may have led others to that, and one
    /// that did not know the state of a room yet.
    async fn anybody_rests(&self) -> Result<bool, String> {
        let mut rests = self.kinds.contains(&Fault::Lies);
        for machine in self.machines.iter() {
            let server = machine.with_server(Server::of).ok_or("a server is off")?;
            rests |= server.rests().await.map_err(|why| why.to_string())?;
        }
        Ok(rests)
    }

    /// A client of each server scrolls up to the beginning of the first room. Who was lied to about what happened, or
    /// missed more than is asked for, has gaps, which this fills.
    async fn scroll(&self, workload: &Workload) -> Result<(), String> {
        for index in (0..workload.clients.len()).filter(|index| is_resident(*index)) {
            workload.scroll(index, 0).await?;
        }
        self.rest("after everything was read").await
    }

    /// What waits at a server that can come to an end.
    async fn waiting(&self, number: usize, server: &Server) -> Result<Waiting, StorageError> {
        let mut waiting = server.waiting().await?;
        for partial in std::mem::take(&mut waiting.partial) {
            if !self.is_forsaken(number, server, &partial.0).await? {
                waiting.partial.push(partial);
            }
        }
        Ok(waiting)
    }

    /// Whether nobody can tell a server the rest of a room's state. One that was put out while the room was partial,
    /// and never heard of it, is told nothing by those who know it; and by others, who were put out themselves and
    /// count it still, nothing either.
    async fn is_forsaken(
        &self,
        number: usize,
        server: &Server,
        room_id: &RoomId,
    ) -> Result<bool, StorageError> {
        let Some(partial) = server.partial_room(room_id).await? else {
            return Ok(false);
        };
        for (other, machine) in self.machines.iter().enumerate() {
            if other != number
                && partial.askable.contains(&name(other))
                && let Some(other) = machine.with_server(Server::of)
                && other.servers(room_id).await?.contains(&name(number))
                && other.placed(room_id, &partial.wanted).await? == partial.wanted
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until nothing waits anywhere.
    async fn rest(&self, when: &str) -> Result<(), String> {
        let begun = self.world.clock.instant();
        let mut quiet = 0;
        loop {
            self.world.clock.sleep(LOOK).await;
            let mut busy = Vec::new();
            for (number, machine) in self.machines.iter().enumerate() {
                let server = machine.with_server(Server::of).ok_or("a server is off")?;
                let waiting = self.waiting(number, &server).await;
                let waiting = waiting.map_err(|why| why.to_string())?;
                if !waiting.is_nothing() {
                    busy.push(format!("server {number}: {waiting:?}"));
                }
            }
            quiet = if busy.is_empty() { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ok(());
            }
            if begun.elapsed(&self.world.clock) > LONGEST_REST {
                return Err(format!("no rest {when}: {}", busy.join("; ")));
            }
        }
    }

    /// What was acknowledged has to be everywhere by itself: events on top of it would bring it along.
    async fn look_before_merging(&mut self, workload: &Workload) -> Result<(), String> {
        let mut all = Vec::new();
        for (number, room) in workload.rooms.iter().enumerate() {
            let views = self.views(&room.id).await?;
            check::sent_once(number, &views, &mut self.violations);
            all.push(views);
        }
        self.check_acknowledged(workload, &all);
        Ok(())
    }

    /// Who was lied to about what an event hangs on may have refused it, and not everybody brings it along.
    fn check_acknowledged(&mut self, workload: &Workload, all: &[Views]) {
        let sent = workload.acknowledged();
        let rooms: Vec<Room> = match self.kinds.contains(&Fault::Lies) {
            true => workload.rooms.iter().map(Room::relaxed).collect(),
            false => workload.rooms.clone(),
        };
        check::acknowledged(&sent, &rooms, all, &mut self.violations);
    }

    /// The second server lies to all others, in the room in which all of them are.
    async fn lie(&self, workload: &Workload) -> Result<Vec<Forgery>, String> {
        let (insider, outsider) = (usize::from(USERS), OUTSIDER);
        workload.leave(outsider, 0).await?;
        self.rest("before the lies").await?;
        let room = self.views(&workload.rooms[0].id).await?;
        let other = self.views(&workload.rooms[1].id).await?;
        let (Some(view), Some(other)) = (room.get(&1), other.get(&1)) else {
            return Err("the liar is in no room".to_owned());
        };
        let server = self.machines[1]
            .with_server(Server::of)
            .ok_or("a server is off")?;
        let room_id = workload.rooms[0].id.as_str().try_into();
        let liar = Liar {
            server: &server,
            room_id: room_id.map_err(|_| "a room without an ID")?,
            version: workload.version,
            view,
            other,
            insider: &workload.clients[insider].user_id,
            outsider: &workload.clients[outsider].user_id,
            now_ms: self.world.clock.now_ms(),
        };
        let forgeries = liar.forgeries();
        let others = (0..self.machines.len()).filter(|number| *number != 1);
        liar.send(&forgeries, &others.map(name).collect::<Vec<_>>())
            .await?;
        self.rest("after the lies").await?;
        Ok(forgeries)
    }

    async fn judge(
        &mut self,
        workload: &Workload,
        readers: &[Arc<Reader>],
        forgeries: &[Forgery],
    ) -> Result<usize, String> {
        let mut all = Vec::new();
        let mut events = 0;
        for (number, room) in workload.rooms.iter().enumerate() {
            let views = self.views(&room.id).await?;
            check::room(number, room, &views, &mut self.violations);
            check::sent_once(number, &views, &mut self.violations);
            if number == 0 {
                check::forgeries(forgeries, &views, &mut self.violations);
            }
            events += views
                .values()
                .map(|view| view.events.len())
                .max()
                .unwrap_or(0);
            all.push(views);
        }
        self.check_acknowledged(workload, &all);
        for reader in readers {
            check::shown(reader, &workload.rooms, &all, &mut self.violations);
        }
        Ok(events)
    }

    async fn views(&self, room: &str) -> Result<Views, String> {
        let room: &RoomId = room.try_into().map_err(|_| "a room without an ID")?;
        let mut views = Views::new();
        for (number, machine) in self.machines.iter().enumerate() {
            let server = machine.with_server(Server::of).ok_or("a server is off")?;
            let read = async {
                let mut view = View::read(&server, room).await?;
                if let Some(view) = &mut view {
                    view.is_forsaken = self.is_forsaken(number, &server, room).await?;
                }
                Ok(view)
            };
            let view = read.await.map_err(|why: StorageError| why.to_string())?;
            views.extend(view.map(|view| (number, view)));
        }
        Ok(views)
    }
}
