//! The command line.

mod commands;
mod serve;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Config, documented_file, reference},
    memory,
};

/// A Matrix homeserver.
#[derive(Parser)]
#[command(name = "myelin", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server. This is what happens without a command, too.
    Serve(Place),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List all endpoints.
    Routes {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make accounts. The server must not be running.
    #[command(subcommand)]
    User(UserCommand),
    /// Look at the server's signing keys, or change them.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Print what users have reported, oldest first, a JSON object a line. The server must not be running.
    Reports(Place),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Read the configuration and say what is wrong with it.
    Check(Place),
    /// Print a file with all keys, their meanings and their defaults.
    Defaults,
    /// Print docs/configuration.md, the reference of all keys.
    Reference,
}

#[derive(Subcommand)]
enum UserCommand {
    /// Make an account. Its password is read from the standard input, or made and printed.
    Create {
        /// The part of the user ID before the colon, without the @.
        name: String,
        /// The user will administer the server.
        #[arg(long)]
        admin: bool,
        /// Read the password from the first line of the standard input.
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Show the public keys.
    Show(Place),
    /// Make a new key, and keep the old ones for what was signed with them. The server must not be running.
    Rotate(Place),
}

/// Where the configuration is.
#[derive(Args, Clone, Default)]
struct Place {
    /// The configuration. By default data/myelin.toml, which a first start writes.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    memory::give_back_large_allocations();
    let cli = Cli::parse();
    let done = match cli.command.unwrap_or(Command::Serve(Place::default())) {
        Command::Serve(place) => serve::serve(&place),
        Command::Config(ConfigCommand::Check(place)) => commands::check_config(&place),
        Command::Config(ConfigCommand::Defaults) => print(&documented_file(&Config::default())),
        Command::Config(ConfigCommand::Reference) => print(&reference()),
        Command::Routes { json } => commands::list_routes(json),
        Command::User(UserCommand::Create {
            name,
            admin,
            password_stdin,
            place,
        }) => commands::create_user(&place, name, admin, password_stdin),
        Command::Keys(KeysCommand::Show(place)) => commands::show_keys(&place),
        Command::Keys(KeysCommand::Rotate(place)) => commands::rotate_keys(&place),
        Command::Reports(place) => commands::list_reports(&place),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where the message can't be written either, the exit code has to do.
            let _ = writeln!(io::stderr(), "myelin: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whatever ends a command early; it is only shown.
type Failure = Box<dyn std::error::Error>;

/// Prints a text for whoever started the command.
fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}
