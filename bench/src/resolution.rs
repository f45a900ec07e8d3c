//! What resolving two states costs that differ in 100 entries, by the size of the room.
//!
//! In memory (`plain` by the definition, `pruned` as the server does it): what a server with a warm
//! cache pays. `sqlite`: the same from a database, with nothing in memory but the numbering of the
//! room's keys: loading the two states (`states`, a part of it), what conflicts and the auth chains,
//! resolving, and encoding the result. `events`, `citing` and `rounds` say how much is read, and in how
//! many steps.

use std::{error::Error, io, time::Duration};

use myelin_core::{
    desk::{Desk, Needed},
    resolution::{ResolutionError, resolve},
    room_version::RoomVersion,
    state::{Membership, State},
    testing::{Draft, Room, resolve_plainly, user},
};
use myelin_env::Clock;
use serde_json::json;

use crate::{stored::Stored, table::given_or};

const DEFAULT_MEMBERS: [usize; 3] = [1_000, 10_000, 50_000];
const POWER_CHANGES: usize = 200;
const RUNS: usize = 5;

/// Prints a row for each room version and number of members.
pub(crate) fn run(members: &[usize], out: &mut impl io::Write) -> Result<(), Box<dyn Error>> {
    let members = given_or(members, &DEFAULT_MEMBERS);
    writeln!(
        out,
        "{:>7} {:>8} {:>9} {:>12} {:>12} {:>12} {:>12} {:>7} {:>7} {:>7}",
        "version",
        "members",
        "conflicts",
        "plain ms",
        "pruned ms",
        "sqlite ms",
        "states ms",
        "rounds",
        "events",
        "citing"
    )?;
    for version in [RoomVersion::V11, RoomVersion::V12] {
        for members in members {
            let row = measure(version, *members)?;
            writeln!(
                out,
                "{version:>7} {members:>8} {:>9} {:>12.3} {:>12.3} {:>12.3} {:>12.3} {:>7} {:>7} {:>7}",
                row.conflicts,
                milliseconds(row.plain),
                milliseconds(row.pruned),
                milliseconds(row.sqlite),
                milliseconds(row.states),
                row.rounds,
                row.events,
                row.citing,
            )?;
        }
    }
    Ok(())
}

struct Row {
    conflicts: usize,
    plain: Duration,
    pruned: Duration,
    sqlite: Duration,
    states: Duration,
    rounds: usize,
    events: usize,
    citing: usize,
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn measure(version: RoomVersion, members: usize) -> Result<Row, Box<dyn Error>> {
    let clock = Clock::real();
    let (mut room, start) = Room::crowd(version, members, POWER_CHANGES);
    let states = fork(&mut room, &start);
    let mut row = Row {
        conflicts: states[0].diff(&states[1]).len(),
        plain: Duration::MAX,
        pruned: Duration::MAX,
        sqlite: Duration::MAX,
        states: Duration::MAX,
        rounds: 0,
        events: 0,
        citing: 0,
    };

    let mut desk = Desk::default();
    let ask = |desk: &Desk| resolve(version, &room.keys, desk, &states);
    while let Err(ResolutionError::Incomplete) = ask(&desk) {
        row.rounds += 1;
        row.events += room.load_wanted_chains(&mut desk);
        for needed in desk.take_missing() {
            match needed {
                Needed::AuthChildren(_) => row.citing += 1,
                _ => row.events += 1,
            }
            room.load(&mut desk, &needed);
        }
    }
    let stored = Stored::write(&room, &start, &states)?;
    for _ in 0..RUNS {
        let start = clock.instant();
        let resolved = ask(&desk);
        row.pruned = row.pruned.min(start.elapsed(&clock));
        assert!(resolved.is_ok(), "everything is loaded: {resolved:?}");

        let start = clock.instant();
        let plain = resolve_plainly(&room, &states);
        row.plain = row.plain.min(start.elapsed(&clock));
        assert_eq!(resolved.map(|state| state.len()), Ok(plain.len()));

        let cost = stored.resolve(&room, states.len())?;
        assert_eq!(cost.entries, plain.len());
        if cost.whole < row.sqlite {
            (row.sqlite, row.states) = (cost.whole, cost.states);
        }
    }
    Ok(row)
}

/// Two branches: on each, 41 members change their profiles, 8 are kicked, and power levels and a
/// topic change.
fn fork(room: &mut Room, start: &State) -> [State; 2] {
    let creator = room.creator.clone();
    [0, 1].map(|branch| {
        let mut state = start.clone();
        for n in 0..49 {
            let member = user(1 + 2 * n + branch);
            let draft = match n {
                0..41 => {
                    let profile = json!({ "displayname": "new" });
                    Draft::membership(&member, &member, Membership::Join, profile)
                }
                _ => Draft::membership(&creator, &member, Membership::Leave, json!({})),
            };
            assert!(room.write(&mut state, &draft), "{draft:?} is allowed");
        }
        let levels = room
            .entry(&state, "m.room.power_levels", "")
            .map(|event| &event.pdu.content);
        let levels = levels.and_then(|content| serde_json::from_str(content.get()).ok());
        let mut levels: serde_json::Value = levels.unwrap_or_default();
        levels["kick"] = json!(60 + branch);
        for (event_type, content) in [("m.room.topic", json!({})), ("m.room.power_levels", levels)]
        {
            let draft = Draft::new(&creator, event_type, "", content);
            assert!(room.write(&mut state, &draft), "{draft:?} is allowed");
        }
        state
    })
}
