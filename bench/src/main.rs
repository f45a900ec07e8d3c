//! Benchmarks: programs which print tables.

mod resolution;

use std::{env, io, process::ExitCode};

const USAGE: &str = "usage: myelin-bench resolution [MEMBERS...]";

fn main() -> io::Result<ExitCode> {
    let arguments = env::args().skip(1).collect::<Vec<_>>();
    let Some((name, rest)) = arguments.split_first() else {
        return usage();
    };
    let numbers = rest
        .iter()
        .map(|argument| argument.parse())
        .collect::<Result<Vec<_>, _>>();
    match (name.as_str(), numbers) {
        ("resolution", Ok(members)) => resolution::run(&members, &mut io::stdout().lock())?,
        _ => return usage(),
    }
    Ok(ExitCode::SUCCESS)
}

fn usage() -> io::Result<ExitCode> {
    use io::Write as _;
    writeln!(io::stderr(), "{USAGE}")?;
    Ok(ExitCode::FAILURE)
}
