//! The `myelin` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    myelin_server::cli::main()
}
