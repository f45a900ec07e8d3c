//! Benchmarks: programs which print tables.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark is outside of the program: it has tasks of its own"
)]

mod attack;
mod delivery;
mod floor;
mod load;
mod process;
mod resident;
mod resolution;
mod sends;
mod stored;
mod table;

use std::{
    env,
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

const USAGE: &str = "usage: myelin-bench resolution|sends-during-resync|resident [MEMBERS...]
       myelin-bench delivery [SERVERS...]
       myelin-bench load [SENDERS...]
       myelin-bench attack [SECONDS]
       myelin-bench floor [MESSAGES...]";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = env::args().skip(1).collect::<Vec<_>>();
    let Some((name, rest)) = arguments.split_first() else {
        return usage();
    };
    if let (process::SERVE, [file]) = (name.as_str(), rest) {
        process::serve(file.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let numbers = rest
        .iter()
        .map(|argument| argument.parse())
        .collect::<Result<Vec<_>, _>>();
    match (name.as_str(), numbers) {
        ("resolution", Ok(members)) => resolution::run(&members, &mut io::stdout().lock())?,
        ("sends-during-resync", Ok(members)) => sends::run(&members, &mut io::stdout().lock())?,
        ("resident", Ok(members)) => resident::run(&members, &mut io::stdout().lock())?,
        ("delivery", Ok(servers)) => delivery::run(&servers, &mut io::stdout().lock())?,
        ("attack", Ok(seconds)) => attack::run(&seconds, &mut io::stdout().lock())?,
        ("floor", Ok(messages)) => floor::run(&messages, &mut io::stdout().lock())?,
        ("load", Ok(senders)) => load::run(&senders, &mut io::stdout().lock())?,
        _ => return usage(),
    }
    Ok(ExitCode::SUCCESS)
}

fn usage() -> Result<ExitCode, Box<dyn Error>> {
    writeln!(io::stderr(), "{USAGE}")?;
    Ok(ExitCode::FAILURE)
}
